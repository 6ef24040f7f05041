// SPDX-License-Identifier: GPL-2.0-only
//
// Which files a sample consists of, and in which order they are read.
#define _GNU_SOURCE
#include "probe.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define FIRST_MAX 4
#define LATE_MAX 640  // mTHP: some 10 sizes of 20 files each; hugetlb: 2 to 4 sizes of 4

static struct source first[FIRST_MAX], late[LATE_MAX];
const struct source *const first_sources = first, *const late_sources = late;
unsigned int first_count, late_count;

// The first read makes the kernel allocate the file's buffer: do it now, not between two samples.
static int add(struct source *table, unsigned int *count, unsigned int max, const char *name, const char *path)
{
	struct source *s = &table[*count];
	int fd = open_read("%s", path);

	if (fd == -ENOENT || fd == -EACCES || fd == -ENOTDIR)
		return 0;
	if (fd < 0)
		return fd;
	if (*count == max || strlen(name) >= sizeof(s->name)) {
		close(fd);
		return -E2BIG;
	}
	if (read_whole(fd, scratch, sizeof(scratch)) < 0) {  // write-only, or not readable in this state
		close(fd);
		return 0;
	}
	strcpy(s->name, name);
	s->fd = fd;
	(*count)++;
	return 0;
}

struct scan {
	const char *dir;     // where we are
	const char *prefix;  // of the section names
	int err;
};

static void add_late(struct scan *scan, const char *name, const char *path)
{
	int err = add(late, &late_count, LATE_MAX, name, path);

	if (err && !scan->err)
		scan->err = err;
}

static void add_entry(const char *entry, void *arg)
{
	struct scan *scan = arg;
	char path[512], name[512];

	snprintf(path, sizeof(path), "%s/%s", scan->dir, entry);
	snprintf(name, sizeof(name), "%s/%s", scan->prefix, entry);
	add_late(scan, name, path);
}

static void add_thp_size(const char *entry, void *arg)
{
	char dir[384], prefix[384];
	struct scan *scan = arg, sub = { .dir = dir, .prefix = prefix };

	if (strncmp(entry, "hugepages-", 10))
		return;
	snprintf(dir, sizeof(dir), "%s/%s/stats", scan->dir, entry);
	snprintf(prefix, sizeof(prefix), "%s/%s/stats", scan->prefix, entry);
	each_entry(dir, add_entry, &sub);
	if (sub.err && !scan->err)
		scan->err = sub.err;
}

static void add_hugetlb_size(const char *entry, void *arg)
{
	static const char *const files[] = { "nr", "free", "resv", "surplus" };
	struct scan *scan = arg;
	char path[512], name[512];

	if (strncmp(entry, "hugepages-", 10))
		return;
	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
		snprintf(path, sizeof(path), "%s/%s/%s_hugepages", scan->dir, entry, files[i]);
		snprintf(name, sizeof(name), "%s/%s/%s_hugepages", scan->prefix, entry + 10, files[i]);
		add_late(scan, name, path);
	}
}

int sources_open(void)
{
	static const char *const volatile_files[] = { "vmstat", "zoneinfo", "buddyinfo" };
	static const char *const settings[] = { "enabled", "defrag", "shmem_enabled" };
	struct scan thp = { .dir = "/sys/kernel/mm/transparent_hugepage", .prefix = "thp" };
	struct scan hugetlb = { .dir = "/sys/kernel/mm/hugepages", .prefix = "hugetlb" };
	char path[128];
	int err;

	// What moves by itself comes first, back to back: the free page count is taken from two of these files.
	for (size_t i = 0; i < sizeof(volatile_files) / sizeof(volatile_files[0]); i++) {
		snprintf(path, sizeof(path), "/proc/%s", volatile_files[i]);
		err = add(first, &first_count, FIRST_MAX, volatile_files[i], path);
		if (err)
			return err;
	}
	for (size_t i = 0; i < sizeof(settings) / sizeof(settings[0]); i++)
		add_entry(settings[i], &thp);
	each_entry(thp.dir, add_thp_size, &thp);
	each_entry(hugetlb.dir, add_hugetlb_size, &hugetlb);
	if (thp.err || hugetlb.err)
		return thp.err ? thp.err : hugetlb.err;
	err = add(late, &late_count, LATE_MAX, "meminfo", "/proc/meminfo");
	// Last: it walks the free lists under zone->lock and takes milliseconds on a large machine.
	return err ? err : add(late, &late_count, LATE_MAX, "pagetypeinfo", "/proc/pagetypeinfo");
}
