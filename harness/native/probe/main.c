// SPDX-License-Identifier: GPL-2.0-only
#define _GNU_SOURCE
#include "probe.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

struct frame_port port;
unsigned char scratch[SCRATCH_SIZE];

static unsigned char receive[FRAME_HEADER + 64 * 1024];
static bool locked;

static void verb_hello(void)
{
	uint64_t nonce;

	if (!need_u64("nonce", &nonce))
		return;
	frame_reply(&port, "ok nonce=%lu program=gmem-probe version=%d pid=%d slots=%u locked=%d files=%u",
		    nonce, PROBE_VERSION, getpid(), SLOTS, locked, first_count + late_count);
}

// Answers in `count` writes of `size` bytes each, one right behind the other: see _warm_cpus() in prepare.py.
static void verb_answer(void)
{
	uint64_t size, count;

	if (!need_u64("size", &size) || !need_u64("count", &count))
		return;
	if (size <= FRAME_HEADER || size > FRAME_PIECE || count < 2 || count > 64) {
		frame_error(&port, "usage", "size= is %u to %u bytes, count= 2 to 64", FRAME_HEADER + 1, FRAME_PIECE);
		return;
	}
	port.piece_len = size;
	frame_reply_blob(&port, scratch, size * count - FRAME_HEADER - strlen("ok\n"), "ok");
	port.piece_len = FRAME_PIECE;
}

// The kernel keeps the address of a bound AF_UNIX socket in a kmalloc() of its length and 8 bytes (net/unix/af_unix.c,
// unix_create_addr). One of this length lies in the same cache as the buffers of a port: see _warm_cpus() in prepare.py.
#define HELD_LENGTH 72
#define HELD_MAX 256

// Holds `count` such objects at once and gives them back.
static void verb_stock(void)
{
	static int held[HELD_MAX];
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	uint64_t count, made = 0;
	int err = 0;

	if (!need_u64("count", &count))
		return;
	if (count < 1 || count > HELD_MAX) {
		frame_error(&port, "usage", "count= is 1 to %d", HELD_MAX);
		return;
	}
	while (made < count && !err) {
		snprintf(address.sun_path + 1, sizeof(address.sun_path) - 1, "gmem-probe-%d-%lu", getpid(), made);
		held[made] = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
		if (held[made] < 0)
			err = errno;
		else if (bind(held[made++], (struct sockaddr *)&address, HELD_LENGTH))
			err = errno;
	}
	for (uint64_t i = 0; i < made; i++)
		close(held[i]);
	if (err)
		reply_errno(err, "binding socket %lu of %lu", made, count);
	else
		frame_reply(&port, "ok count=%lu", made);
}

static const struct {
	const char *name;
	void (*run)(void);
} verbs[] = {
	{ "sample", verb_sample },
	{ "settle", verb_settle },
	{ "fetch", verb_fetch },
	{ "hello", verb_hello },
	{ "answer", verb_answer },
	{ "stock", verb_stock },
	{ "cachestat", verb_cachestat },
	{ "census", verb_census },
	{ "frames", verb_frames },
	{ "anon", verb_anon },
	{ "maps", verb_maps },
	{ "fallocate", verb_fallocate },
	{ "refer", verb_refer },
	{ "place", verb_place },
	{ "movepages", verb_movepages },
	{ "nodes", verb_nodes },
	{ "peek", verb_peek },
	{ "hold", verb_hold },
	{ "release", verb_release },
	{ "watch", verb_watch },
	{ "unwatch", verb_unwatch },
	{ "pcpcap", verb_pcpcap },
	{ "write", verb_write },
	{ "read", verb_read },
};

static void serve(const char *line)
{
	for (size_t i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++) {
		if (frame_verb(line, verbs[i].name)) {
			verbs[i].run();
			return;
		}
	}
	frame_error(&port, "unknown", "no such verb");
}

// Pages that are touched first during a sample would be anonymous pages allocated between two samples.
static void prefault(void)
{
	volatile unsigned char stack[128 * 1024];

	for (size_t i = 0; i < sizeof(stack); i += 4096)
		stack[i] = 1;
	for (size_t i = 0; i < sizeof(scratch); i += 4096)
		((volatile unsigned char *)scratch)[i] = 0;
	for (size_t i = 0; i < sizeof(receive); i += 4096)
		((volatile unsigned char *)receive)[i] = 0;
	slots_prefault();
	locked = mlockall(MCL_CURRENT | MCL_FUTURE) == 0;
}

int main(int argc, char **argv)
{
	bool device = argc == 3 && !strcmp(argv[1], "--device");
	int fd = -1, err;

	if (argc != 1 && !device) {
		fprintf(stderr, "usage: gmem-probe [--device PATH]\n");
		return 2;
	}
	if (device) {
		fd = frame_open_device(argv[2], 10000);
		if (fd < 0) {
			fprintf(stderr, "gmem-probe: %s: %s\n", argv[2], strerror(-fd));
			return 1;
		}
	}
	frame_port_init(&port, device ? fd : 0, device ? fd : 1, device, receive, sizeof(receive));
	prefault();
	place_open();
	files_look();
	frames_open();
	err = sources_open();
	if (!err)
		err = settle_open();
	if (!err)
		err = shared_open();
	if (err) {
		fprintf(stderr, "gmem-probe: opening the counters: %s\n", strerror(-err));
		return 1;
	}
	while (frame_recv(&port, -1) == FRAME_GOT)
		serve(port.line);
	return 0;
}
