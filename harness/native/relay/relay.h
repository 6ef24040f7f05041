// SPDX-License-Identifier: GPL-2.0-only
//
// Streams of the relay: byte streams to programs and FIFOs on this machine.
#ifndef GMEM_RELAY_H
#define GMEM_RELAY_H

#include "frame.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define STREAMS 40u
#define STREAM_KEPT (256u << 10)  // bytes of a stream that are kept until they can be passed on

struct stream {
	bool used;
	int in, out;  // what is read, and what is written; -1: nothing
	bool ended;   // `in` has come to its end
	size_t len;
	unsigned char kept[STREAM_KEPT];
};

extern struct frame_port port;
extern struct stream streams[STREAMS];

struct stream *named_stream(bool fresh);  // stream= of the request; NULL: an error was replied
void verb_start(void);
void verb_fifo(void);
void verb_kmsg(void);
void verb_write(void);
void verb_close(void);
void verb_window(void);

// Reads what there is of all streams into what is kept, waiting at most timeout_ms. With `link` it also returns when the
// controller has said something.
void gather(int timeout_ms, bool link);

// Writes all of it, while reading; 0 or a negative errno.
int put(struct stream *s, const unsigned char *data, size_t len, int timeout_ms);

int64_t relay_now_ms(void);

#endif
