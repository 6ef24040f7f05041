// SPDX-License-Identifier: GPL-2.0-only
//
// Pages that compaction cannot move, with holes between them: what is written into pipes.
//
// They are order-0 pages of the kernel, on no list of pages that could be moved (fs/pipe.c: GFP_HIGHUSER), as those of a
// guest_memfd are; but unlike these every kernel gives each of them back, whatever it makes of holes in a guest_memfd.
#define _GNU_SOURCE
#include "pressure.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#define SLOTS 256  // pages of a pipe: the default of fs.pipe-max-size

struct pipe {
	int fd[2];
};

static struct pipe *new_pipes(uint64_t count)
{
	struct rlimit limit = { 2 * count + 64, 2 * count + 64 };
	struct pipe *pipes = calloc(count, sizeof(*pipes));

	if (!pipes)
		die("numbering pipes");
	if (setrlimit(RLIMIT_NOFILE, &limit))
		die("allowing enough open files");
	for (uint64_t i = 0; i < count; i++)
		if (pipe2(pipes[i].fd, O_CLOEXEC | O_NONBLOCK) || fcntl(pipes[i].fd[1], F_SETPIPE_SZ, SLOTS * PAGE) < 0)
			die("making a pipe of 1 MiB");
	return pipes;
}

void take_pinned(uint64_t pages, struct held *held)
{
	static const char page[PAGE];
	uint64_t pairs = (pages / 2 + SLOTS) / SLOTS;
	struct pipe *pipes = new_pipes(2 * pairs);  // all of them first: what they need themselves is not to lie between

	// One page to a pipe that stays, one to a pipe that goes: so they come to lie in turn.
	for (uint64_t i = 0; i < pages; i++)
		if (write(pipes[i / 2 / SLOTS * 2 + i % 2].fd[1], page, PAGE) != PAGE)
			die("writing a page into a pipe");
	for (uint64_t i = 1; i < 2 * pairs; i += 2) {
		close(pipes[i].fd[0]);
		close(pipes[i].fd[1]);
	}
	held->given_back = pages / 2;
	held->holds = pages - held->given_back;
}
