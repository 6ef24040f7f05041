// SPDX-License-Identifier: GPL-2.0-only
//
// The words of a request line.
#include "frame.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

bool frame_verb(const char *line, const char *verb)
{
	size_t n = strlen(verb);

	return !strncmp(line, verb, n) && (line[n] == ' ' || line[n] == '\0');
}

enum frame_value frame_text(const char *line, const char *key, char *out, size_t cap)
{
	size_t key_len = strlen(key);

	for (const char *word = strchr(line, ' '); word; word = strchr(word, ' ')) {
		size_t n;

		word += strspn(word, " ");
		if (strncmp(word, key, key_len) || word[key_len] != '=')
			continue;
		word += key_len + 1;
		n = strcspn(word, " ");
		if (n >= cap)
			return FRAME_MALFORMED;
		memcpy(out, word, n);
		out[n] = '\0';
		return FRAME_PRESENT;
	}
	return FRAME_ABSENT;
}

enum frame_value frame_u64(const char *line, const char *key, uint64_t *out)
{
	char text[24], *end;
	enum frame_value got = frame_text(line, key, text, sizeof(text));
	bool hex;

	if (got != FRAME_PRESENT)
		return got;
	hex = text[0] == '0' && text[1] == 'x';
	if (text[0] < '0' || text[0] > '9')  // strtoull would take signs and blanks
		return FRAME_MALFORMED;
	errno = 0;
	*out = strtoull(text, &end, hex ? 16 : 10);
	return *end || errno ? FRAME_MALFORMED : FRAME_PRESENT;
}
