// SPDX-License-Identifier: GPL-2.0-only
//
// Bringing the kernel's per-CPU caches to rest, so that counters say what happened.
#define _GNU_SOURCE
#include "probe.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/membarrier.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

// Per-CPU page lists that did not shrink in this many refreshes will not shrink further.  The list of a CPU for a zone of
// another node gives back one batch in every third refresh, as long as it has pages (mm/vmstat.c, "expire"): the first
// of the three is the one that folds the difference which the batch before has left.
#define CALM_ROUNDS 3

static int refresh_fd = -1, fraction_fd = -1, zoneinfo_fd = -1;

int settle_open(void)
{
	zoneinfo_fd = open_read("/proc/zoneinfo");
	if (zoneinfo_fd < 0)
		return zoneinfo_fd;
	refresh_fd = open("/proc/sys/vm/stat_refresh", O_WRONLY | O_CLOEXEC);
	fraction_fd = open("/proc/sys/vm/percpu_pagelist_high_fraction", O_RDWR | O_CLOEXEC);
	return 0;  // an unprivileged probe can still sample; the verbs that need these files say so
}

// Pages on the per-CPU free lists: the sum of the pagesets' "count:" lines.
static int pcp_pages(uint64_t *sum)
{
	ssize_t len = read_whole(zoneinfo_fd, scratch, sizeof(scratch));
	const char *at = (const char *)scratch;

	if (len < 0)
		return len;
	scratch[len] = '\0';
	*sum = 0;
	while ((at = strstr(at, " count:"))) {
		at += strlen(" count:");
		*sum += strtoull(at, NULL, 10);
	}
	return 0;
}

// Freshly added folios wait in per-CPU batches and are not yet counted as (un)evictable. Moving no pages disables the
// batches for a moment, which drains them on all CPUs: mm/migrate.c do_pages_move() -> lru_cache_disable().
static int drain_lru(void)
{
	void *page = NULL;
	int node = 0, status;

	return syscall(SYS_move_pages, 0, 0ul, &page, &node, &status, 0) < 0 ? -errno : 0;
}

// Folds the per-CPU differences of all counters, and lets each CPU trim its free page lists towards their limit:
// mm/vmstat.c vmstat_refresh() -> refresh_cpu_vm_stats() -> decay_pcp_high().
static int refresh(void)
{
	return pwrite(refresh_fd, "1", 1, 0) < 0 ? -errno : 0;
}

// Pages that wait for a grace period, such as empty page tables (PT_RECLAIM), are freed by RCU callbacks on the CPU that
// queued them, in order. MEMBARRIER_CMD_GLOBAL waits for a grace period with a callback of its own, queued on the CPU it
// is called on: run on each CPU in turn, it returns after the callbacks queued there before.
static int drain_rcu(void)
{
	cpu_set_t before, one;

	if (sched_getaffinity(0, sizeof(before), &before))
		return -errno;
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (!CPU_ISSET(cpu, &everywhere))
			continue;
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		if (sched_setaffinity(0, sizeof(one), &one) || syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0))
			return -errno;
	}
	return sched_setaffinity(0, sizeof(before), &before) ? -errno : 0;
}

void verb_settle(void)
{
	uint64_t max, rcu = 1, pages = 0, least = UINT64_MAX;
	unsigned int rounds = 0, calm = 0;
	int err;

	if (!need_u64("max", &max))
		return;
	if (frame_u64(port.line, "rcu", &rcu) == FRAME_MALFORMED) {
		frame_error(&port, "usage", "rcu= is 0 or 1");
		return;
	}
	err = drain_lru();
	if (err) {
		reply_errno(-err, "move_pages, which drains the LRU batches (kernel without CONFIG_NUMA?)");
		return;
	}
	err = rcu ? drain_rcu() : 0;
	if (err) {
		reply_errno(-err, "membarrier, which waits for pages that RCU frees (kernel without CONFIG_MEMBARRIER?)");
		return;
	}
	do {
		err = refresh();
		if (err) {
			reply_errno(-err, "/proc/sys/vm/stat_refresh (needs root)");
			return;
		}
		err = pcp_pages(&pages);
		if (err) {
			reply_errno(-err, "reading zoneinfo");
			return;
		}
		calm = pages < least ? 0 : calm + 1;
		least = pages < least ? pages : least;
		rounds++;
	} while (rounds < max && calm < CALM_ROUNDS && pages > 0);
	frame_reply(&port, "ok rounds=%u pcp=%lu calm=%d", rounds, pages, calm >= CALM_ROUNDS || pages == 0);
}

static int read_fraction(uint64_t *value)
{
	char text[32];
	ssize_t len = read_whole(fraction_fd, text, sizeof(text) - 1);

	if (len < 0)
		return len;
	text[len] = '\0';
	*value = strtoull(text, NULL, 10);
	return 0;
}

void verb_pcpcap(void)
{
	uint64_t fraction, was = 0, now = 0;
	char text[32];
	int err;

	if (!need_u64("fraction", &fraction))
		return;
	err = read_fraction(&was);
	if (!err && pwrite(fraction_fd, text, snprintf(text, sizeof(text), "%lu\n", fraction), 0) < 0)
		err = -errno;
	if (!err)
		err = read_fraction(&now);
	if (err)
		reply_errno(-err, "/proc/sys/vm/percpu_pagelist_high_fraction");
	else if (now != fraction)
		frame_error(&port, "readback", "percpu_pagelist_high_fraction is %lu after writing %lu", now, fraction);
	else
		frame_reply(&port, "ok was=%lu now=%lu", was, now);
}
