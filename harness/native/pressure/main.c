// SPDX-License-Identifier: GPL-2.0-only
//
// gmem-pressure: takes memory of the host and keeps it until it is ended.
//
//   gmem-pressure KIND PAGES     anon, cache, fragment, pinned; "blocks" counts huge pages of 2 MiB
//
// When it has what was asked for it says so with one line, "holds=N gave=N" in pages, and waits.  All that it holds is
// given back when it ends, however it ends; and it ends with whoever started it.
#define _GNU_SOURCE
#include "pressure.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

static const struct {
	const char *name;
	void (*take)(uint64_t amount, struct held *held);
} kinds[] = {
	{ "anon", take_anon },     { "cache", take_cache },   { "fragment", take_fragment },
	{ "pinned", take_pinned }, { "blocks", take_blocks },
};

// Whoever runs out of memory, it is this process that is to be ended, and not a guest.
static void volunteer(void)
{
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, "1000", 4) != 4)
		die("/proc/self/oom_score_adj");
	close(fd);
}

void die(const char *what)
{
	dprintf(2, "gmem-pressure: %s: %s\n", what, strerror(errno));
	exit(1);
}

int main(int argc, char **argv)
{
	struct held held = { 0 };
	uint64_t amount;
	char *rest;

	if (argc != 3 || argv[2][0] < '0' || argv[2][0] > '9')
		goto usage;
	errno = 0;
	amount = strtoull(argv[2], &rest, 10);
	if (*rest || errno || !amount || amount > UINT64_MAX / PAGE / 512)
		goto usage;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	volunteer();
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		if (strcmp(argv[1], kinds[i].name))
			continue;
		kinds[i].take(amount, &held);
		dprintf(1, "holds=%" PRIu64 " gave=%" PRIu64 "\n", held.holds, held.given_back);
		for (;;)
			pause();
	}
usage:
	dprintf(2, "usage: gmem-pressure anon|cache|fragment|pinned|blocks AMOUNT\n");
	return 2;
}
