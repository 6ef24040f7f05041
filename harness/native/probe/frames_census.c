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
#include <stdio.h>
#include <string.h>
#include <unistd.h>

// Neighbouring frames that are folios of one order.  This is what goes over the wire, little endian.
struct run {
	uint64_t pfn;
	uint32_t pages;
	uint32_t order;
};

#define FLAGS_AT_ONCE 4096u  // 16 MiB of memory for each read
#define RUNS_MAX (REPLY_BLOB_MAX / sizeof(struct run))

static int flags_fd = -1, flags_err = ENOENT, iomem_fd = -1;
static uint64_t flags[FLAGS_AT_ONCE];

// Where there is memory: elsewhere /proc/kpageflags is long, and says nothing.
#define RANGES_MAX 128u

static struct range {
	uint64_t first, end;  // pages
} ram[RANGES_MAX];
static size_t ranges;
static char iomem[1 << 16];

static void add_range(const char *line, const char *name)
{
	static const char ram_name[] = "System RAM";
	unsigned long long first, last;

	if (strncmp(name, ram_name, sizeof(ram_name) - 1) || sscanf(line, "%llx-%llx", &first, &last) != 2 || !last)
		return;
	ram[ranges++] = (struct range){ .first = first / 4096, .end = last / 4096 + 1 };
}

// Read anew for each census, as memory may be plugged; all pages are one range where nothing is told.
static void find_memory(void)
{
	ssize_t len = iomem_fd < 0 ? -EBADF : read_whole(iomem_fd, iomem, sizeof(iomem) - 1);
	char *line = iomem, *end, *name;

	ranges = 0;
	iomem[len < 0 ? 0 : len] = '\0';
	for (; (end = strchr(line, '\n')) && ranges < RANGES_MAX; line = end + 1) {
		*end = '\0';
		name = strstr(line, " : ");
		if (name)
			add_range(line, name + 3);
	}
	if (!ranges || ranges == RANGES_MAX) {
		ram[0] = (struct range){ .end = UINT64_MAX / sizeof(*flags) };
		ranges = 1;
	}
}

void frames_open(void)
{
	iomem_fd = open_read("/proc/iomem");
	find_memory();  // its buffers are allocated with the first read
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
	if (!s->pages && (page & (GMEM_MASK | KPF_COMPOUND_TAIL)) != GMEM_FLAGS) {  // nearly all pages
		s->pfn++;
		return true;
	}
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

// Returns how many pages were read, 0 at the end, -1 with errno set.
static ssize_t read_flags(uint64_t pfn, uint64_t end)
{
	size_t pages = end - pfn < FLAGS_AT_ONCE ? end - pfn : FLAGS_AT_ONCE;
	ssize_t got = pread(flags_fd, flags, pages * sizeof(*flags), pfn * sizeof(*flags));

	return got < 0 ? got : got / (ssize_t)sizeof(*flags);
}

// "frames from=PFN": `next` is where to go on, 0 when all memory was looked at.
void verb_frames(void)
{
	struct scan s = { .runs = (struct run *)scratch };
	bool room = true;
	ssize_t got = 0;

	if (!need_u64("from", &s.pfn))
		return;
	if (flags_err) {
		reply_errno(flags_err, "/proc/kpageflags");
		return;
	}
	find_memory();
	for (struct range *r = ram; room && got >= 0 && r < ram + ranges; r++) {
		if (s.pfn < r->first) {
			room = end_folio(&s);
			if (!room)
				break;
			s.pfn = r->first;
		}
		while (room && s.pfn < r->end && (got = read_flags(s.pfn, r->end)) > 0)
			for (ssize_t i = 0; room && i < got; i++)
				room = look_at(&s, flags[i]);
	}
	if (room && got < 0) {
		reply_errno(errno, "reading /proc/kpageflags at page %lu", s.pfn);
		return;
	}
	room = room && end_folio(&s);
	frame_reply_blob(&port, scratch, s.count * sizeof(struct run), "ok runs=%zu next=%lu", s.count,
			 room ? 0 : s.pfn - s.pages);
}
