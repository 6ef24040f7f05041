// SPDX-License-Identifier: GPL-2.0-only
//
// The frame protocol between the harness and the small programs on a machine.
//
// A frame is: magic "GMF1" | u32 request id | u32 payload length | u32 crc32 (zlib's) of the payload | payload,
// all little endian. A request's payload is one line "verb key=value ...", optionally "\n" and a binary blob; a reply
// is "ok key=value ..." or "err code=WORD text=the rest of the line", optionally "\n" and a blob, under the same id.
//
// Nothing here allocates: the caller gives the receive buffer, so that a reader of memory counters does not move them.
#ifndef GMEM_FRAME_H
#define GMEM_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#define FRAME_HEADER 16u
#define FRAME_MAX (1u << 20)   // largest payload, in bytes
#define FRAME_LINE_MAX 4096u   // longest request line, with its terminating NUL
#define FRAME_REPLY_MAX 2016u  // longest reply line: with its header it leaves in one write of FRAME_PIECE bytes
#define FRAME_PIECE 2048u      // one write; virtio-serial copies each write into a kmalloc'd buffer, keep that small
#define FRAME_TORN_MS 2000     // a frame that stops growing for this long was torn by a peer that went away
#define FRAME_SEND_MS 10000    // a reply nobody takes for this long is dropped

enum frame_status {
	FRAME_GOT,     // a request is in port->id, line, blob
	FRAME_CLOSED,  // end of file on a pipe or a broken descriptor: the program should exit
	FRAME_IDLE,    // timeout_ms passed
};

struct frame_port {
	int in, out;
	bool device;         // a virtio-serial port: read() == 0 means "nobody there now", not end of file
	unsigned char *buf;  // receive buffer, given by the caller
	size_t cap;          // its size; the largest payload taken is cap - FRAME_HEADER, at most FRAME_MAX
	size_t start, end;   // unread bytes
	size_t used;         // length of the frame handed out last, dropped by the next frame_recv()
	// The request, valid until the next frame_recv():
	uint32_t id;
	char line[FRAME_LINE_MAX];  // NUL-terminated, without the newline
	const unsigned char *blob;
	size_t blob_len;
	unsigned char piece[FRAME_PIECE];
	size_t piece_len;  // bytes of one write, FRAME_PIECE at most; frame_port_init() sets it to that
};

// Reads and writes `in` and `out` (they may be one descriptor). `cap` must exceed FRAME_HEADER.
void frame_port_init(struct frame_port *port, int in, int out, bool device, unsigned char *buf, size_t cap);

// Opens a virtio-serial device for reading and writing, waiting up to timeout_ms until it exists.
// Returns the descriptor or a negative errno.
int frame_open_device(const char *path, int timeout_ms);

// Waits for the next good request; timeout_ms < 0 waits for ever. Skips garbage; answers a bad checksum or a payload
// that is too large with "err code=badframe" and looks for the next magic right behind the bad one.
enum frame_status frame_recv(struct frame_port *port, int timeout_ms);

// Sends a reply to the request `id` whose payload is the concatenation of `iov`. Returns 0, or a negative errno when
// the peer is gone or took nothing for FRAME_SEND_MS (the peer resynchronizes on the next magic).
int frame_sendv(struct frame_port *port, uint32_t id, const struct iovec *iov, int count);

// Replies to the current request with a printf-style line of at most FRAME_REPLY_MAX bytes, without a blob.
int frame_reply(struct frame_port *port, const char *format, ...) __attribute__((format(printf, 2, 3)));

// Replies to the current request with a line and a blob.
int frame_reply_blob(struct frame_port *port, const void *blob, size_t blob_len, const char *format, ...)
	__attribute__((format(printf, 4, 5)));

// "err code=CODE text=..." for the current request.
int frame_error(struct frame_port *port, const char *code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

// --- the request line ---

enum frame_value { FRAME_ABSENT, FRAME_PRESENT, FRAME_MALFORMED };

// Is the first word of `line` this verb?
bool frame_verb(const char *line, const char *verb);

// Finds "key=value" among the words of `line` and copies the value. FRAME_MALFORMED: it does not fit in `cap` bytes.
enum frame_value frame_text(const char *line, const char *key, char *out, size_t cap);

// The same for an unsigned number, decimal or 0x hexadecimal. FRAME_MALFORMED: not a number, or more than 64 bits.
enum frame_value frame_u64(const char *line, const char *key, uint64_t *out);

uint32_t frame_crc32(uint32_t crc, const void *data, size_t len);  // start with crc = 0; may be continued

#endif
