// SPDX-License-Identifier: GPL-2.0-only
//
// Does to memory what each line of its input says and prints by how much the kernel's counters moved:
// the recordings in this folder.  As root, on a host that does nothing else, with what follows as one command:
//
//   cut -d: -f1 7.3.4.txt | measure
//
// Input: "# BACKING" begins 16 fresh windows of 2 MiB of that kind; other lines are operations of
// tests/unit/test_model_backings_measured.py, pages counted from the first one, separated by "; ".
// Pins are references that vmsplice takes, one at a time.  "shrink" makes the kernel run its shrinkers.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define PAGE 4096ul
#define WINDOW (512 * PAGE)
#define REGION (16 * WINDOW)
#define THP "/sys/kernel/mm/transparent_hugepage/"
#define MOST 200

struct counter {
	char name[64];
	long value;
};

static char text[1 << 17];
static struct counter before[MOST], after[MOST];
static char *memory;
static int file = -1, pins[2];
static volatile char sink;

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static void put(const char *path, const char *value)
{
	int fd = open(path, O_WRONLY);

	if (fd < 0 || write(fd, value, strlen(value)) < 0)
		fail(path);
	close(fd);
}

static int slurp(const char *path)
{
	int fd = open(path, O_RDONLY), got, all = 0;

	if (fd < 0)
		return 0;
	while ((got = read(fd, text + all, sizeof(text) - 1 - all)) > 0)
		all += got;
	close(fd);
	text[all] = 0;
	return all;
}

static int wanted(const char *name)
{
	static const char *const names[] = {
		"pgfree", "nr_anon_pages", "nr_anon_transparent_hugepages", "nr_file_pages", "nr_shmem", "nr_mapped",
		"nr_shmem_hugepages", "nr_shmem_pmdmapped", "nr_page_table_pages", "nr_hugetlb", "nr_slab_reclaimable",
		"nr_slab_unreclaimable", NULL,
	};

	for (int i = 0; names[i]; i++)
		if (!strcmp(name, names[i]))
			return 1;
	return !strncmp(name, "thp_", 4);
}

static int add(struct counter *to, int n, const char *name, long value)
{
	snprintf(to[n].name, sizeof(to[n].name), "%s", name);
	to[n].value = value;
	return n + 1;
}

static int add_files(struct counter *to, int n, const char *path, const char *prefix, const char *const *names)
{
	for (; *names; names++) {
		char from[200], name[64];

		snprintf(from, sizeof(from), path, *names);
		snprintf(name, sizeof(name), "%s%s", prefix, *names);
		if (slurp(from))
			n = add(to, n, name, atol(text));
	}
	return n;
}

static int sample(struct counter *to)
{
	static const char *const mthp[] = {
		"anon_fault_alloc", "anon_fault_fallback", "nr_anon", "nr_anon_partially_mapped", "split",
		"split_deferred", "split_failed", "shmem_alloc", NULL,
	};
	static const char *const pool[] = { "free_hugepages", "resv_hugepages", NULL };
	long free_pages = 0, allocated = 0, value;
	char name[64];
	int n = 0;

	slurp("/proc/vmstat");
	for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
		if (sscanf(line, "%63s %ld", name, &value) != 2)
			continue;
		if (!strcmp(name, "nr_free_pages"))
			free_pages += value;
		if (!strncmp(name, "pgalloc_", 8))
			allocated += value;
		if (wanted(name))
			n = add(to, n, name, value);
	}
	slurp("/proc/zoneinfo");
	for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
		if (sscanf(line, " %63s %ld", name, &value) == 2 && !strcmp(name, "count:"))
			free_pages += value;
	n = add(to, n, "F", free_pages);
	n = add(to, n, "pgalloc", allocated);
	n = add_files(to, n, THP "hugepages-2048kB/stats/%s", "mthp/2048kB/", mthp);
	n = add_files(to, n, THP "hugepages-1024kB/stats/%s", "mthp/1024kB/", mthp);
	n = add_files(to, n, THP "hugepages-64kB/stats/%s", "mthp/64kB/", mthp);
	return add_files(to, n, "/sys/kernel/mm/hugepages/hugepages-2048kB/%s", "hugetlb/2048kB/", pool);
}

// Batches of new pages on the LRU are drained by move_pages of one page that is nowhere; page tables come free after
// a grace period of RCU; stat_refresh folds the per-CPU differences.
static void settle(void)
{
	void *page = NULL;
	int node = 0, status;

	syscall(SYS_move_pages, 0, 0ul, &page, &node, &status, 0);
	for (int i = 0; i < 4; i++) {
		usleep(60000);
		put("/proc/sys/vm/stat_refresh", "1");
	}
}

static void map(int flags, int fd)
{
	char *space = mmap(NULL, REGION + WINDOW, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	memory = (char *)(((unsigned long)space + WINDOW - 1) & ~(WINDOW - 1));
	memory = mmap(memory, REGION, PROT_READ | PROT_WRITE, flags | MAP_FIXED, fd, 0);
	if (memory == MAP_FAILED)
		fail("mmap");
}

static void begin(const char *backing)
{
	int anonymous = !strncmp(backing, "anon", 4), hugetlb = !strcmp(backing, "hugetlb");

	if (memory)
		munmap(memory, REGION);
	if (file >= 0)
		close(file);
	file = -1;
	put(THP "enabled", "madvise");
	put(THP "shmem_enabled", strcmp(backing, "shmem-thp") ? "never" : "always");
	// khugepaged would put windows together again
	put(THP "khugepaged/scan_sleep_millisecs", "4294967295");
	put("/proc/sys/vm/nr_hugepages", hugetlb ? "20" : "0");
	if (anonymous) {
		map(MAP_PRIVATE | MAP_ANONYMOUS, -1);
		madvise(memory, REGION, strcmp(backing, "anon-thp") ? MADV_NOHUGEPAGE : MADV_HUGEPAGE);
		sink = memory[REGION - 1]; // the huge zero folio exists from here on
		madvise(memory + REGION - WINDOW, WINDOW, MADV_DONTNEED);
		return;
	}
	file = memfd_create("backing", hugetlb ? MFD_HUGETLB : 0);
	if (file < 0 || ftruncate(file, REGION))
		fail("memfd");
	map(MAP_SHARED, file);
}

static void pin(char *at)
{
	struct iovec one = { .iov_base = at, .iov_len = PAGE };

	if (pipe(pins) || vmsplice(pins[1], &one, 1, 0) < 0)
		fail("vmsplice");
}

static void operate(const char *what, unsigned long start, unsigned long count)
{
	char *at = memory + start * PAGE;

	for (unsigned long i = 0; i < count && !strcmp(what, "write"); i++)
		memset(at + i * PAGE, 0x5a, PAGE);
	for (unsigned long i = 0; i < count && !strcmp(what, "read"); i++)
		sink = at[i * PAGE];
	if (!strcmp(what, "punch") || (!strcmp(what, "discard") && file >= 0))
		if (fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, start * PAGE, count * PAGE))
			fail("fallocate");
	if (!strcmp(what, "discard"))
		madvise(at, count * PAGE, MADV_DONTNEED);
	if (!strcmp(what, "pin"))
		pin(at);
	if (!strcmp(what, "unpin")) {
		close(pins[0]);
		close(pins[1]);
	}
	if (!strcmp(what, "shrink"))
		put("/proc/sys/vm/drop_caches", "2");
}

int main(void)
{
	char line[300], word[40], *next;
	unsigned long start, count;
	int n;

	settle();
	sample(before);
	sample(after);
	while (fgets(line, sizeof(line), stdin)) {
		line[strcspn(line, "\n")] = 0;
		if (line[0] == '#') {
			begin(line + 2);
			puts(line);
			continue;
		}
		printf("%s:", line);
		settle();
		n = sample(before);
		for (char *one = strtok_r(line, ";", &next); one; one = strtok_r(NULL, ";", &next))
			if (sscanf(one, " %39s %lu %lu", word, &start, &count) == 3)
				operate(word, start, count);
		settle();
		sample(after);
		for (int i = 0; i < n; i++)
			if (after[i].value != before[i].value)
				printf(" %s %+ld", after[i].name, after[i].value - before[i].value);
		putchar('\n');
		fflush(stdout);
	}
	put("/proc/sys/vm/nr_hugepages", "0");
	return 0;
}
