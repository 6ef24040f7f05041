// SPDX-License-Identifier: GPL-2.0-only
//
// Replies to the current request.
#include "frame.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static int reply(struct frame_port *port, const char *head, const void *blob, size_t blob_len,
		 const char *format, va_list args)
{
	char line[FRAME_REPLY_MAX + 1];
	size_t start = strlen(head);
	struct iovec iov[3] = {
		{ .iov_base = line },
		{ .iov_base = (void *)"\n", .iov_len = 1 },
		{ .iov_base = (void *)blob, .iov_len = blob_len },
	};

	memcpy(line, head, start);
	if ((size_t)vsnprintf(line + start, sizeof(line) - start, format, args) >= sizeof(line) - start && !start)
		return frame_error(port, "toolong", "the reply line is longer than %u bytes", FRAME_REPLY_MAX);
	for (char *c = line; *c; c++)
		if (*c == '\n')
			*c = ' ';
	iov[0].iov_len = strlen(line);
	return frame_sendv(port, port->id, iov, blob ? 3 : 1);
}

int frame_reply(struct frame_port *port, const char *format, ...)
{
	va_list args;
	int ret;

	va_start(args, format);
	ret = reply(port, "", NULL, 0, format, args);
	va_end(args);
	return ret;
}

int frame_reply_blob(struct frame_port *port, const void *blob, size_t blob_len, const char *format, ...)
{
	va_list args;
	int ret;

	va_start(args, format);
	ret = reply(port, "", blob, blob_len, format, args);
	va_end(args);
	return ret;
}

int frame_error(struct frame_port *port, const char *code, const char *format, ...)
{
	char head[64];
	va_list args;
	int ret;

	snprintf(head, sizeof(head), "err code=%.40s text=", code);
	va_start(args, format);
	ret = reply(port, head, NULL, 0, format, args);
	va_end(args);
	return ret;
}
