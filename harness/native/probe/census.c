// SPDX-License-Identifier: GPL-2.0-only
//
// Witnesses that count pages one by one.
#define _GNU_SOURCE
#include "pageflags.h"
#include "probe.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define ORDERS 20

#define PAGEMAP_PRESENT (1ull << 63)
#define PAGEMAP_SWAPPED (1ull << 62)

void verb_anon(void)
{
	uint64_t addr, len, present = 0, swapped = 0, at, end;
	const uint64_t *entry = (const uint64_t *)scratch;
	int pid, fd;

	if (!need_pid(&pid) || !need_u64("addr", &addr) || !need_u64("len", &len))
		return;
	if (addr % 4096 || len % 4096 || addr + len < addr) {
		frame_error(&port, "usage", "addr= and len= must be multiples of 4096");
		return;
	}
	fd = open_read("/proc/%d/pagemap", pid);
	if (fd < 0) {
		reply_errno(-fd, "the pagemap of process %d", pid);
		return;
	}
	for (at = addr / 4096 * 8, end = (addr + len) / 4096 * 8; at < end;) {
		size_t want = end - at < sizeof(scratch) ? end - at : sizeof(scratch);
		ssize_t got = pread(fd, scratch, want, at);

		if (got <= 0) {
			reply_errno(got < 0 ? errno : EFAULT, "the pagemap of process %d at 0x%lx", pid, at / 8 * 4096);
			close(fd);
			return;
		}
		for (ssize_t i = 0; i < got / 8; i++) {
			present += !!(entry[i] & PAGEMAP_PRESENT);
			swapped += !!(entry[i] & PAGEMAP_SWAPPED);
		}
		at += got;
	}
	close(fd);
	frame_reply(&port, "ok present=%lu swapped=%lu", present, swapped);
}

void verb_maps(void)
{
	ssize_t len;
	int pid, fd;

	if (!need_pid(&pid))
		return;
	fd = open_read("/proc/%d/maps", pid);
	if (fd < 0) {
		reply_errno(-fd, "the mappings of process %d", pid);
		return;
	}
	len = read_whole(fd, scratch, REPLY_BLOB_MAX);
	close(fd);
	if (len == -EFBIG)
		frame_error(&port, "truncated", "the mappings of process %d exceed %u bytes", pid, REPLY_BLOB_MAX);
	else if (len < 0)
		reply_errno(-len, "the mappings of process %d", pid);
	else
		frame_reply_blob(&port, scratch, len, "ok size=%zd", len);
}

struct census {
	uint64_t scanned, heads, tails, folio;  // folio: pages so far of the gmem folio being walked, 0 outside of one
	uint64_t orders[ORDERS];
};

static void end_folio(struct census *c)
{
	if (c->folio) {
		unsigned int order = 63 - __builtin_clzll(c->folio);

		c->orders[order < ORDERS ? order : ORDERS - 1]++;
	}
	c->folio = 0;
}

static void count(struct census *c, uint64_t flags)
{
	c->scanned++;
	if (flags & KPF_COMPOUND_TAIL) {
		if (c->folio) {
			c->folio++;
			c->tails++;
		}
		return;
	}
	end_folio(c);
	if ((flags & GMEM_MASK) != GMEM_FLAGS)
		return;
	c->folio = 1;
	c->heads += !!(flags & KPF_COMPOUND_HEAD);
}

void verb_census(void)
{
	struct census c = { 0 };
	const uint64_t *flags = (const uint64_t *)scratch;
	char orders[ORDERS * 24] = "";
	size_t used = 0;
	uint64_t pages = 0;
	ssize_t got;
	int fd = open_read("/proc/kpageflags");

	if (fd < 0) {
		reply_errno(-fd, "/proc/kpageflags");
		return;
	}
	while ((got = pread(fd, scratch, sizeof(scratch), c.scanned * 8)) > 0)
		for (ssize_t i = 0; i < got / 8; i++)
			count(&c, flags[i]);
	got = got < 0 ? -errno : 0;
	close(fd);
	end_folio(&c);
	if (got) {
		reply_errno(-got, "reading /proc/kpageflags");
		return;
	}
	for (unsigned int order = 0; order < ORDERS; order++) {
		pages += c.orders[order] << order;
		if (c.orders[order])
			used += snprintf(orders + used, sizeof(orders) - used, "%s%u:%lu", used ? "," : "", order,
					 c.orders[order]);
	}
	frame_reply(&port, "ok gmem=%lu heads=%lu tails=%lu orders=%s scanned=%lu", pages, c.heads, c.tails,
		    used ? orders : "none", c.scanned);
}
