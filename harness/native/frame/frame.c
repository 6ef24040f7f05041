// SPDX-License-Identifier: GPL-2.0-only
#define _GNU_SOURCE
#include "frame.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const unsigned char magic[4] = { 'G', 'M', 'F', '1' };
static uint32_t crc_table[256];

static void crc_init(void)
{
	for (uint32_t n = 0; n < 256; n++) {
		uint32_t c = n;

		for (int bit = 0; bit < 8; bit++)
			c = (c & 1) ? 0xedb88320u ^ (c >> 1) : c >> 1;
		crc_table[n] = c;
	}
}

uint32_t frame_crc32(uint32_t crc, const void *data, size_t len)
{
	const unsigned char *p = data;

	if (!crc_table[1])
		crc_init();
	crc = ~crc;
	while (len--)
		crc = crc_table[(crc ^ *p++) & 0xff] ^ (crc >> 8);
	return ~crc;
}

static uint32_t get32(const unsigned char *p)
{
	return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static void put32(unsigned char *p, uint32_t v)
{
	p[0] = v;
	p[1] = v >> 8;
	p[2] = v >> 16;
	p[3] = v >> 24;
}

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000LL + ts.tv_nsec / 1000000;
}

void frame_port_init(struct frame_port *port, int in, int out, bool device, unsigned char *buf, size_t cap)
{
	memset(port, 0, sizeof(*port));
	port->in = in;
	port->out = out;
	port->device = device;
	port->piece_len = FRAME_PIECE;
	port->buf = buf;
	port->cap = cap > FRAME_MAX + FRAME_HEADER ? FRAME_MAX + FRAME_HEADER : cap;
	crc_init();
	signal(SIGPIPE, SIG_IGN);  // a vanished peer is an error of write(), not the end of the program
}

int frame_open_device(const char *path, int timeout_ms)
{
	int64_t end = now_ms() + timeout_ms;

	for (;;) {
		// Non-blocking: a blocking write to a vport spins in the kernel until the other side has taken it.
		int fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);

		if (fd >= 0)
			return fd;
		if ((errno != ENOENT && errno != EBUSY && errno != ENXIO) || now_ms() >= end)
			return -errno;
		poll(NULL, 0, 10);
	}
}

// Reads what there is. 1: some bytes, 0: nothing within timeout_ms, -1: closed.
static int fill(struct frame_port *port, int timeout_ms)
{
	struct pollfd pfd = { .fd = port->in, .events = POLLIN };
	ssize_t got;

	if (poll(&pfd, 1, timeout_ms) <= 0)
		return 0;
	got = read(port->in, port->buf + port->end, port->cap - port->end);
	if (got > 0) {
		port->end += got;
		return 1;
	}
	if (got < 0 && errno != EAGAIN && errno != EINTR)
		return -1;
	if (got == 0 && !port->device)
		return -1;
	// poll() of a port without a peer returns at once (POLLIN | POLLHUP): wait here instead of spinning.
	if (got == 0 || (pfd.revents & POLLHUP))
		poll(NULL, 0, timeout_ms >= 0 && timeout_ms < 50 ? timeout_ms : 50);
	return 0;
}

// Moves `start` to the next magic, or to a tail that could become one.
static void seek_magic(struct frame_port *port)
{
	while (port->start < port->end) {
		size_t left = port->end - port->start;

		if (!memcmp(port->buf + port->start, magic, left < 4 ? left : 4))
			return;
		port->start++;
	}
}

static void reply_badframe(struct frame_port *port, uint32_t id, const char *why, uint32_t len)
{
	char text[128];
	struct iovec iov = { .iov_base = text };

	iov.iov_len = snprintf(text, sizeof(text), "err code=badframe text=%s (payload of %u bytes)", why, len);
	frame_sendv(port, id, &iov, 1);
	port->start += sizeof(magic);
}

// Splits the payload at the first newline. False: the line is too long.
static bool take_payload(struct frame_port *port, const unsigned char *payload, size_t len)
{
	const unsigned char *newline = memchr(payload, '\n', len);
	size_t line = newline ? (size_t)(newline - payload) : len;

	if (line >= FRAME_LINE_MAX)
		return false;
	memcpy(port->line, payload, line);
	port->line[line] = '\0';
	port->blob = newline ? newline + 1 : payload + len;
	port->blob_len = newline ? len - line - 1 : 0;
	return true;
}

// 1: a request was taken out of the buffer, 0: more bytes are needed.
static int take_frame(struct frame_port *port)
{
	for (;;) {
		const unsigned char *p;
		uint32_t id, len;

		seek_magic(port);
		if (port->end - port->start < FRAME_HEADER)
			return 0;
		p = port->buf + port->start;
		id = get32(p + 4);
		len = get32(p + 8);
		if (len > port->cap - FRAME_HEADER) {
			reply_badframe(port, id, "too large", len);
			continue;
		}
		if (port->end - port->start < FRAME_HEADER + len)
			return 0;
		if (frame_crc32(0, p + FRAME_HEADER, len) != get32(p + 12)) {
			reply_badframe(port, id, "wrong checksum", len);
			continue;
		}
		if (!take_payload(port, p + FRAME_HEADER, len)) {
			reply_badframe(port, id, "line too long", len);
			continue;
		}
		port->id = id;
		port->used = FRAME_HEADER + len;
		return 1;
	}
}

enum frame_status frame_recv(struct frame_port *port, int timeout_ms)
{
	int64_t begin = now_ms(), grown = begin;

	port->start += port->used;
	port->used = 0;
	for (;;) {
		int64_t now;
		int got, wait;

		if (take_frame(port))
			return FRAME_GOT;
		if (port->start > 0) {
			memmove(port->buf, port->buf + port->start, port->end - port->start);
			port->end -= port->start;
			port->start = 0;
		}
		now = now_ms();
		if (timeout_ms >= 0 && now - begin >= timeout_ms)
			return FRAME_IDLE;
		wait = timeout_ms < 0 ? -1 : (int)(timeout_ms - (now - begin));
		if (port->end > 0) {
			// Half a frame is here. When it stops growing its sender is gone: give up its magic, and
			// whatever a new peer has sent behind it is found.
			if (now - grown >= FRAME_TORN_MS) {
				port->start = 1;
				continue;
			}
			if (wait < 0 || wait > FRAME_TORN_MS)
				wait = FRAME_TORN_MS;
		}
		got = fill(port, wait);
		if (got < 0)
			return FRAME_CLOSED;
		if (got > 0)
			grown = now_ms();
	}
}

static int write_all(struct frame_port *port, const unsigned char *data, size_t len)
{
	int64_t moved = now_ms();

	while (len > 0) {
		struct pollfd pfd = { .fd = port->out, .events = POLLOUT };
		ssize_t put = 0;

		if (poll(&pfd, 1, 100) > 0 && (pfd.revents & POLLOUT))
			put = write(port->out, data, len);
		else if (pfd.revents & (POLLERR | POLLNVAL))
			return -EPIPE;
		if (put > 0) {
			data += put;
			len -= put;
			moved = now_ms();
			continue;
		}
		if (put < 0 && errno != EAGAIN && errno != EINTR)
			return -errno;
		if (now_ms() - moved >= FRAME_SEND_MS)
			return -ETIMEDOUT;
		if (pfd.revents)  // a port without a peer is "ready" with POLLHUP, a full one takes 0 bytes
			poll(NULL, 0, 5);
	}
	return 0;
}

int frame_sendv(struct frame_port *port, uint32_t id, const struct iovec *iov, int count)
{
	size_t total = 0, filled = FRAME_HEADER;
	uint32_t crc = 0;

	for (int i = 0; i < count; i++) {
		crc = frame_crc32(crc, iov[i].iov_base, iov[i].iov_len);
		total += iov[i].iov_len;
	}
	if (total > FRAME_MAX)
		return -EMSGSIZE;
	memcpy(port->piece, magic, sizeof(magic));
	put32(port->piece + 4, id);
	put32(port->piece + 8, total);
	put32(port->piece + 12, crc);
	for (int i = 0; i < count; i++) {
		const unsigned char *from = iov[i].iov_base;
		size_t left = iov[i].iov_len;

		while (left > 0) {
			size_t n = port->piece_len - filled < left ? port->piece_len - filled : left;
			int err;

			memcpy(port->piece + filled, from, n);
			filled += n;
			from += n;
			left -= n;
			if (filled < port->piece_len)
				continue;
			err = write_all(port, port->piece, filled);
			if (err)
				return err;
			filled = 0;
		}
	}
	return filled ? write_all(port, port->piece, filled) : 0;
}
