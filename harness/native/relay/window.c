// SPDX-License-Identifier: GPL-2.0-only
//
// A window: requests that are carried out one behind the other while nothing passes the link to the controller.
//
// A packet that arrives makes the network driver refill its buffers, and a reply that leaves takes socket memory: that
// is what may not happen between two samples of a host's counters.
#define _GNU_SOURCE
#include "relay.h"

#include <string.h>

// What a request in the blob of "window" begins with, little endian: the frame follows.
struct entry {
	uint32_t stream;
	uint32_t id;  // of the frame, and of its reply
	uint32_t deadline_ms;
	uint32_t len;
	uint32_t always;  // also behind a request that was refused
};

static uint32_t get32(const unsigned char *p)
{
	return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

// Looks for the whole reply `id` behind `from`; returns its payload and sets *len, NULL while it is not there.
static const unsigned char *find_reply(const struct stream *s, size_t from, uint32_t id, size_t *len)
{
	const unsigned char *p = s->kept + from, *end = s->kept + s->len;

	while ((p = memmem(p, end - p, "GMF1", 4)) && end - p >= (ptrdiff_t)FRAME_HEADER) {
		*len = get32(p + 8);
		if (get32(p + 4) == id)
			return (size_t)(end - p) >= FRAME_HEADER + *len ? p + FRAME_HEADER : NULL;
		p += 4;
	}
	return NULL;
}

// A request that was refused: what was planned behind it was planned for another outcome.
static bool refused(const unsigned char *payload, size_t len)
{
	const unsigned char *newline = memchr(payload, '\n', len);
	size_t line = newline ? (size_t)(newline - payload) : len;

	return (line >= 3 && !memcmp(payload, "err", 3)) || memmem(payload, line, " refused=", 9);
}

static const char *carry_out(const struct entry *e, const unsigned char *frame, bool *stop)
{
	struct stream *s = &streams[e->stream];
	int64_t end = relay_now_ms() + e->deadline_ms;
	const unsigned char *payload;
	size_t from = s->len, len;

	if (put(s, frame, e->len, e->deadline_ms))
		return "a request was not taken";
	while (!(payload = find_reply(s, from, e->id, &len))) {
		if (s->ended)
			return "a program ended without a reply";
		if (s->len == STREAM_KEPT)
			return "more arrived than can be kept";
		if (relay_now_ms() > end)
			return "a request was not answered in time";
		gather(1, false);
	}
	*stop = refused(payload, len);
	return NULL;
}

// "window quiet=MS" and entries: the first `done` of them were carried out, one that is refused is the last of these, and
// behind it those that always are. What they replied follows as data of their streams.
void verb_window(void)
{
	const unsigned char *p = port.blob, *end = p + port.blob_len;
	const char *trouble = NULL;
	unsigned int done = 0, number = 0;
	bool stopped = false;
	uint64_t quiet;

	if (frame_u64(port.line, "quiet", &quiet) != FRAME_PRESENT || quiet > 10000) {
		frame_error(&port, "usage", "window needs quiet=, at most 10000");
		return;
	}
	for (int64_t begin = relay_now_ms(), left = quiet; left > 0; left = begin + (int64_t)quiet - relay_now_ms())
		gather(left, false);
	for (; p < end && !trouble; number++) {
		struct entry e = { 0 };
		bool stop = false;

		if ((size_t)(end - p) >= sizeof(e))
			e = (struct entry){ get32(p), get32(p + 4), get32(p + 8), get32(p + 12), get32(p + 16) };
		if ((size_t)(end - p) < sizeof(e) || (size_t)(end - p) - sizeof(e) < e.len || e.stream >= STREAMS ||
		    !streams[e.stream].used || streams[e.stream].out < 0) {
			frame_error(&port, "usage", "request %u of the window makes no sense", number);
			return;
		}
		if (!stopped || e.always)
			trouble = carry_out(&e, p + sizeof(e), &stop);
		done += !stopped;
		stopped = stopped || stop;
		p += sizeof(e) + e.len;
	}
	if (trouble)
		frame_error(&port, "window", "request %u: %s", number - 1, trouble);
	else
		frame_reply(&port, "ok done=%u", done);
}
