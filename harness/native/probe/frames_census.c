// SPDX-License-Identifier: GPL-2.0-only
//
// Which physical frames guest_memfd pages are: page identity.
//
// Everything is prepared at start, so that a census between two steps allocates nothing that the next step could find.
#define _GNU_SOURCE
#include "pageflags.h"
#include "probe.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

// Neighbouring frames that are folios of one order.  This is what goes over the wire, little endian.
struct run {
	uint64_t pfn;
	uint32_t pages;
	uint32_t order;
};

#define FLAGS_AT_ONCE 4096u  // 16 MiB of memory for each read
#define RUNS_MAX (REPLY_BLOB_MAX / sizeof(struct run))

static int flags_fd = -1, flags_err = ENOENT;
static uint64_t flags[FLAGS_AT_ONCE];

void frames_open(void)
{
	flags_fd = open_read("/proc/kpageflags");
	flags_err = flags_fd < 0 ? -flags_fd : 0;  // needs root: the verb says so
	for (size_t i = 0; i < FLAGS_AT_ONCE; i++)
		((volatile uint64_t *)flags)[i] = 0;
}

struct scan {
	struct run *runs;
	size_t count;
	uint64_t pfn;    // the page to be looked at next
	uint64_t pages;  // so far of the folio that ends before pfn; 0 outside of one
};

// Returns false when the runs are full; the folio is then not in them, and a scan from its first frame goes on.
static bool end_folio(struct scan *s)
{
	struct run *last = s->count ? &s->runs[s->count - 1] : NULL;
	uint64_t first = s->pfn - s->pages;
	uint32_t order;

	if (!s->pages)
		return true;
	order = 63 - __builtin_clzll(s->pages);
	if (last && last->order == order && last->pfn + last->pages == first) {
		last->pages += s->pages;
	} else if (s->count == RUNS_MAX) {
		return false;
	} else {
		s->runs[s->count++] = (struct run){ .pfn = first, .pages = s->pages, .order = order };
	}
	s->pages = 0;
	return true;
}

static bool look_at(struct scan *s, uint64_t page)
{
	if (page & KPF_COMPOUND_TAIL) {
		s->pages += !!s->pages;
	} else {
		if (!end_folio(s))
			return false;
		s->pages = (page & GMEM_MASK) == GMEM_FLAGS;
	}
	s->pfn++;
	return true;
}

// "frames from=PFN": `next` is where to go on, 0 when all memory was looked at.
void verb_frames(void)
{
	struct scan s = { .runs = (struct run *)scratch };
	bool room = true;
	ssize_t got;

	if (!need_u64("from", &s.pfn))
		return;
	if (flags_err) {
		reply_errno(flags_err, "/proc/kpageflags");
		return;
	}
	while (room && (got = pread(flags_fd, flags, sizeof(flags), s.pfn * sizeof(*flags))) > 0)
		for (ssize_t i = 0; room && i < got / (ssize_t)sizeof(*flags); i++)
			room = look_at(&s, flags[i]);
	if (room && got < 0) {
		reply_errno(errno, "reading /proc/kpageflags at page %lu", s.pfn);
		return;
	}
	room = room && end_folio(&s);
	frame_reply_blob(&port, scratch, s.count * sizeof(struct run), "ok runs=%zu next=%lu", s.count,
			 room ? 0 : s.pfn - s.pages);
}
