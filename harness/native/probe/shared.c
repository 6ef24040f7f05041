// SPDX-License-Identifier: GPL-2.0-only
//
// The shared side of a guest: moves its pages to a node, says on which node they are and what a process that reads
// them sees, and holds references on them.
//
// References are taken with splice() out of the file of the guest's RAM into a pipe (mm/filemap.c:
// splice_folio_into_pipe): one reference of folio_get() on the folio of each page, kept by the pipe until it is drained,
// with no mapping of ours and no copy. They are the kind that a network or disk transfer takes and that nobody who
// moves or splits folios expects; the kernel does not count them as pins (FOLL_PIN).
#define _GNU_SOURCE
#include "probe.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define PAGE 4096ul
#define MOVE_MAX 512u  // pages of one request: a chunk
#define HOLDS 4u

static const void *addresses[MOVE_MAX];
static int nodes[MOVE_MAX], states[MOVE_MAX];

struct hold {
	int out, in;  // ends of the pipe
	unsigned int pages;
};
static struct hold holds[HOLDS];
static int nowhere = -1;  // /dev/null: what is drained goes there

// A pipe has room for as many pages as a chunk has; made at start, because making it allocates.
int shared_open(void)
{
	int ends[2];

	nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
	if (nowhere < 0)
		return -errno;
	for (struct hold *h = holds; h < holds + HOLDS; h++) {
		if (pipe2(ends, O_CLOEXEC | O_NONBLOCK))
			return -errno;
		// Whoever may not have it (no CAP_SYS_RESOURCE) has a smaller one, and a hold that is too large fails.
		fcntl(ends[1], F_SETPIPE_SZ, (int)(MOVE_MAX * PAGE));
		h->out = ends[0];
		h->in = ends[1];
	}
	return 0;
}

static bool need_pages(int *pid, uint64_t *pages)
{
	uint64_t addr;

	if (!need_pid(pid) || !need_u64("addr", &addr) || !need_u64("pages", pages))
		return false;
	if (!*pages || *pages > MOVE_MAX || addr % PAGE) {
		frame_error(&port, "usage", "addr= must be a page and pages= 1 to %u", MOVE_MAX);
		return false;
	}
	for (uint64_t i = 0; i < *pages; i++)
		addresses[i] = (const void *)(addr + i * PAGE);
	return true;
}

// One call; the kernel ends it at the first folio that it cannot move. MPOL_MF_MOVE: what nobody else maps.
void verb_movepages(void)
{
	uint64_t pages, node;
	int pid;
	long left;

	if (!need_pages(&pid, &pages) || !need_u64("node", &node))
		return;
	if (node > INT_MAX) {
		frame_error(&port, "usage", "node= is not the number of a node");
		return;
	}
	for (uint64_t i = 0; i < pages; i++)
		nodes[i] = node;
	left = syscall(SYS_move_pages, pid, pages, addresses, nodes, states, 2);
	if (left < 0)
		reply_errno(errno, "move_pages of %lu pages to node %lu", pages, node);
	else
		frame_reply(&port, "ok left=%ld", left);
}

// A byte per page: its node, or 0xff for one that is not mapped.
void verb_nodes(void)
{
	uint64_t pages;
	int pid;

	if (!need_pages(&pid, &pages))
		return;
	if (syscall(SYS_move_pages, pid, pages, addresses, NULL, states, 0) < 0) {
		reply_errno(errno, "move_pages, asking where %lu pages are", pages);
		return;
	}
	for (uint64_t i = 0; i < pages; i++)
		scratch[i] = states[i] >= 0 && states[i] < 0xff ? states[i] : 0xff;
	frame_reply_blob(&port, scratch, pages, "ok pages=%lu", pages);
}

// The first word of each page and a byte that says whether it could be read: 0, or 1 for EFAULT.  A page at a time and
// a word of each: longer vectors would make the kernel allocate (mm/process_vm_access.c).  A page that is not mapped is
// faulted in, so that whoever asks does it for mapped pages, or for pages that must refuse.
void verb_peek(void)
{
	uint64_t pages;
	int pid;

	if (!need_pages(&pid, &pages))
		return;
	for (uint64_t i = 0; i < pages; i++) {
		uint64_t word = 0;
		struct iovec here = { &word, sizeof(word) }, there = { (void *)addresses[i], sizeof(word) };
		ssize_t got;

		got = process_vm_readv(pid, &here, 1, &there, 1, 0);
		if (got < 0 && errno != EFAULT) {
			reply_errno(errno, "process_vm_readv of page %lu", i);
			return;
		}
		memcpy(scratch + i * sizeof(word), &word, sizeof(word));
		scratch[pages * sizeof(word) + i] = got != sizeof(word);
	}
	frame_reply_blob(&port, scratch, pages * (sizeof(uint64_t) + 1), "ok pages=%lu", pages);
}

static struct hold *need_hold(void)
{
	uint64_t number;

	if (!need_u64("hold", &number))
		return NULL;
	if (number < HOLDS)
		return &holds[number];
	frame_error(&port, "usage", "hold= is 0 to %u", HOLDS - 1);
	return NULL;
}

void verb_hold(void)
{
	struct watch *w = need_watch();
	struct hold *h;
	uint64_t off, pages;
	loff_t at;

	if (!w)
		return;
	h = need_hold();
	if (!h || !need_u64("off", &off) || !need_u64("pages", &pages))
		return;
	if (w->ram_fd <= 0) {
		frame_error(&port, "noram", "the RAM of process %d is no file", w->pid);
		return;
	}
	if (!pages || h->pages + pages > MOVE_MAX || off % PAGE) {
		frame_error(&port, "usage", "off= must be a page and pages= 1 to %u", MOVE_MAX - h->pages);
		return;
	}
	at = off;
	while ((uint64_t)at < off + pages * PAGE) {
		// at and not NULL: the position of the descriptor is shared with the watched process
		ssize_t taken = splice(w->ram_fd, &at, h->in, NULL, off + pages * PAGE - at, SPLICE_F_NONBLOCK);

		if (taken > 0)
			continue;
		reply_errno(taken ? errno : ENODATA, "splice of the page at %lu", (uint64_t)at);
		return;
	}
	h->pages += pages;
	frame_reply(&port, "ok pages=%u", h->pages);
}

void verb_release(void)
{
	struct hold *h = need_hold();
	unsigned int pages;

	if (!h)
		return;
	pages = h->pages;
	while (h->pages) {
		ssize_t gone = splice(h->out, NULL, nowhere, NULL, h->pages * PAGE, SPLICE_F_NONBLOCK);

		if (gone <= 0 || gone % PAGE) {
			reply_errno(gone < 0 ? errno : ENODATA, "splice of %u held pages to /dev/null", h->pages);
			return;
		}
		h->pages -= gone / PAGE;
	}
	frame_reply(&port, "ok pages=%u", pages);
}
