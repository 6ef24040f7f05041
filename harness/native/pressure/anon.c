// SPDX-License-Identifier: GPL-2.0-only
//
// Anonymous memory: kept as it is, or with every second frame given back; and whole huge pages.
#define _GNU_SOURCE
#include "pressure.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

#define ENTRIES 8192           // of pagemap, read at once
#define PRESENT (1ull << 63)   // fs/proc/task_mmu.c
#define FRAME ((1ull << 55) - 1)
#define HUGE_PAGES 512

static char *anonymous(uint64_t pages)
{
	char *at = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (at == MAP_FAILED)
		die("mmap of anonymous memory");
	madvise(at, pages * PAGE, MADV_NOHUGEPAGE);  // fails on a kernel that has no huge pages
	if (madvise(at, pages * PAGE, MADV_POPULATE_WRITE))
		die("touching anonymous memory");
	return at;
}

void take_anon(uint64_t pages, struct held *held)
{
	anonymous(pages);
	held->holds = pages;
}

// By the number of the frame, not of the page: then the buddy of each frame that is given back is one that is kept, and
// no two of them merge, in whatever order the frames came.
void take_fragment(uint64_t pages, struct held *held)
{
	static uint64_t entries[ENTRIES];
	char *at = anonymous(pages);
	int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

	if (pagemap < 0)
		die("/proc/self/pagemap");
	for (uint64_t page = 0; page < pages; page += ENTRIES) {
		uint64_t count = pages - page < ENTRIES ? pages - page : ENTRIES;
		char *first = at + page * PAGE;

		if (pread(pagemap, entries, count * 8, (uintptr_t)first / PAGE * 8) != (ssize_t)(count * 8))
			die("reading /proc/self/pagemap");
		for (uint64_t i = 0; i < count; i++) {
			if (!(entries[i] & PRESENT) || !(entries[i] & FRAME)) {
				dprintf(2, "gmem-pressure: /proc/self/pagemap shows no frame for a page that was touched\n");
				_exit(1);
			}
			if (!(entries[i] & 1))
				continue;
			if (madvise(first + i * PAGE, PAGE, MADV_DONTNEED))
				die("giving a page back");
			held->given_back++;
		}
	}
	close(pagemap);
	held->holds = pages - held->given_back;
}

// Surplus pages of the hugetlb pool: they are made when they are mapped and go back to the host with the mapping.
void take_blocks(uint64_t blocks, struct held *held)
{
	static const char knob[] = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_overcommit_hugepages";
	int fd = open(knob, O_WRONLY | O_CLOEXEC);
	size_t size = blocks * HUGE_PAGES * PAGE;

	if (fd < 0 || dprintf(fd, "%llu", 1ull << 20) < 0)
		die(knob);
	close(fd);
	if (mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0) == MAP_FAILED)
		die("mapping huge pages");
	held->holds = blocks * HUGE_PAGES;
}
