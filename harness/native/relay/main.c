// SPDX-License-Identifier: GPL-2.0-only
//
// gmem-relay: carries byte streams between a controller and the programs on a host under test, over one link.
//
// The link is stdin and stdout, frames as everywhere (harness/native/frame). Requests:
//
//   hello nonce=N                       ok nonce=N program=gmem-relay version=1 pid=P
//   start stream=N + argv               ok pid=P    a program whose stdin and stdout are the stream
//   fifo stream=N [from=P] [to=P]       ok          FIFOs, made if need be
//   kmsg stream=N                       ok          the kernel log from now on
//   write stream=N + bytes              ok
//   close stream=N                      ok
//   window quiet=MS + requests          ok done=N   window.c
//
// What arrives on a stream goes out by itself, as a frame of id 0: "data stream=N" and the bytes, at last "end stream=N";
// but never during a window. All programs that were started end with the relay, and the relay with its stdin.
#define _GNU_SOURCE
#include "relay.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PASS_ON (64u << 10)  // bytes of one stream in one frame

static unsigned char receive_buffer[FRAME_MAX + FRAME_HEADER];
struct frame_port port;

static void do_hello(void)
{
	uint64_t nonce = 0;

	frame_u64(port.line, "nonce", &nonce);
	frame_reply(&port, "ok nonce=%llu program=gmem-relay version=1 pid=%d", (unsigned long long)nonce, getpid());
}

static const struct {
	const char *verb;
	void (*run)(void);
} verbs[] = {
	{ "hello", do_hello }, { "start", verb_start }, { "fifo", verb_fifo }, { "kmsg", verb_kmsg },
	{ "write", verb_write }, { "close", verb_close }, { "window", verb_window },
};

static void serve(void)
{
	for (size_t i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++)
		if (frame_verb(port.line, verbs[i].verb)) {
			verbs[i].run();
			return;
		}
	frame_error(&port, "verb", "unknown request");
}

// Returns false when the controller is gone.
static bool pass_on(struct stream *s)
{
	while (s->len) {
		size_t len = s->len < PASS_ON ? s->len : PASS_ON;
		char line[40];
		struct iovec iov[2] = { { .iov_base = line }, { .iov_base = s->kept, .iov_len = len } };

		iov[0].iov_len = snprintf(line, sizeof(line), "data stream=%d\n", (int)(s - streams));
		if (frame_sendv(&port, 0, iov, 2))
			return false;
		s->len -= len;
		memmove(s->kept, s->kept + len, s->len);
	}
	if (s->ended && s->in >= 0) {
		char line[40];
		struct iovec iov = { .iov_base = line };

		iov.iov_len = snprintf(line, sizeof(line), "end stream=%d", (int)(s - streams));
		if (frame_sendv(&port, 0, &iov, 1))
			return false;
		close(s->in);
		s->in = -1;
	}
	return true;
}

int main(int argc, char **argv)
{
	(void)argv;
	if (argc != 1) {
		dprintf(2, "usage: gmem-relay\n");
		return 2;
	}
	frame_port_init(&port, 0, 1, false, receive_buffer, sizeof(receive_buffer));
	for (struct stream *s = streams; s < streams + STREAMS; s++)
		s->in = s->out = -1;
	// Pages that are touched first during a window would be anonymous pages allocated between two samples.
	memset(receive_buffer, 0, sizeof(receive_buffer));
	for (struct stream *s = streams; s < streams + STREAMS; s++)
		memset(s->kept, 1, sizeof(s->kept));
	mlockall(MCL_CURRENT);
	for (;;) {
		enum frame_status got;

		gather(1000, true);
		while ((got = frame_recv(&port, 1)) == FRAME_GOT)
			serve();
		if (got == FRAME_CLOSED)
			break;
		for (struct stream *s = streams; s < streams + STREAMS; s++)
			if (s->used && !pass_on(s))
				goto gone;
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
	}
gone:
	return 0;  // the programs have PR_SET_PDEATHSIG
}
