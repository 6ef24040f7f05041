// SPDX-License-Identifier: GPL-2.0-only
//
// The guest_memfd and the KVM statistics of QEMU processes.
#define _GNU_SOURCE
#include "probe.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NR_CACHESTAT 451  // the same on every architecture; older C libraries do not name it
#define KVM_DEBUGFS "/sys/kernel/debug/kvm"

struct watch watches[WATCHES];

struct cachestat_window {
	uint64_t off, len;
};

struct cachestat_counts {
	uint64_t cache, dirty, writeback, evicted, recently_evicted;
};

int resident_pages(const struct watch *w, uint64_t off, uint64_t len, uint64_t *pages)
{
	struct cachestat_window window = { .off = off, .len = len };
	struct cachestat_counts counts = { 0 };

	if (syscall(NR_CACHESTAT, w->gmem_fd, &window, &counts, 0))
		return -errno;
	*pages = counts.cache;
	return 0;
}

static struct watch *find(int pid)
{
	for (struct watch *w = watches; w < watches + WATCHES; w++)
		if (w->pid == pid)
			return w;
	return NULL;
}

struct watch *need_watch(void)
{
	struct watch *w;
	int pid;

	if (!need_pid(&pid))
		return NULL;
	w = find(pid);
	if (!w)
		frame_error(&port, "unwatched", "process %d is not watched", pid);
	return w;
}

static void forget(struct watch *w)
{
	if (w->gmem_fd >= 0)
		close(w->gmem_fd);
	if (w->ram_fd > 0)
		close(w->ram_fd);
	if (w->hook_fd >= 0)
		close(w->hook_fd);  // gives back every reference that it still has
	memset(w, 0, sizeof(*w));
}

struct search {
	struct watch *w;
	int pidfd;
	uint64_t ram;
	unsigned int memfds;  // guest_memfds of any size
	bool ambiguous;
	ino_t ino;
};

// The file that the RAM is, of a QEMU whose RAM is one: a regular file without a name of as many bytes.
static void try_ram(const char *name, struct search *search)
{
	struct stat st;
	int fd = syscall(SYS_pidfd_getfd, search->pidfd, atoi(name), 0);

	if (fd < 0)
		return;
	if (search->w->ram_fd || fstat(fd, &st) || !S_ISREG(st.st_mode) || st.st_nlink ||
	    (uint64_t)st.st_size != search->ram)
		close(fd);
	else
		search->w->ram_fd = fd;
}

// A guest_memfd's link is "anon_inode:[kvm-gmem]", and "[kvm-gmem]"-like where it has a filesystem of its own (7.x).
static void try_fd(const char *name, void *arg)
{
	struct search *search = arg;
	char path[64], link[128];
	struct stat st;
	ssize_t len;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/fd/%.20s", search->w->pid, name);
	len = readlink(path, link, sizeof(link) - 1);
	if (len < 0)
		return;
	link[len] = '\0';
	if (!strstr(link, "kvm-gmem") && !strstr(link, "guest_memfd")) {
		if (*link == '/' && strstr(link, " (deleted)"))
			try_ram(name, search);
		return;
	}
	search->memfds++;
	fd = syscall(SYS_pidfd_getfd, search->pidfd, atoi(name), 0);
	if (fd < 0)
		return;
	if (fstat(fd, &st) || (uint64_t)st.st_size != search->ram) {
		close(fd);
		return;
	}
	if (search->w->gmem_fd >= 0) {
		search->ambiguous |= st.st_ino != search->ino;
		close(fd);
		return;
	}
	search->ino = st.st_ino;
	search->w->gmem_fd = fd;
	search->w->target_fd = atoi(name);
	search->w->size = st.st_size;
}

// KVM names a VM's directory "<pid>-<descriptor>".
static void try_kvm_dir(const char *name, void *arg)
{
	static const char *const files[] = { "pages_4k", "pages_2m", "pages_1g" };
	struct search *search = arg;
	struct watch *w = search->w;
	char *end;

	if (strtol(name, &end, 10) != w->pid || *end != '-')
		return;
	if (w->stats) {
		search->ambiguous = true;
		return;
	}
	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
		struct source *s = &w->stat[w->stats];
		int fd = open_read(KVM_DEBUGFS "/%s/%s", name, files[i]);

		if (fd < 0)
			continue;
		close(fd);
		snprintf(s->name, sizeof(s->name), "kvm/%.40s/%s", name, files[i]);
		s->fd = -1;
		w->stats++;
	}
}

void verb_watch(void)
{
	struct search search = { 0 };
	char path[64];
	uint64_t pages = 0;
	int pid, err;

	if (!need_pid(&pid) || !need_u64("ram", &search.ram))
		return;
	if (find(pid))
		forget(find(pid));
	search.w = find(0);
	if (!search.w) {
		frame_error(&port, "full", "%u processes are watched already", WATCHES);
		return;
	}
	search.pidfd = syscall(SYS_pidfd_open, pid, 0);
	if (search.pidfd < 0) {
		reply_errno(errno, "process %d", pid);
		return;
	}
	search.w->pid = pid;
	search.w->gmem_fd = search.w->hook_fd = -1;
	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	err = each_entry(path, try_fd, &search);
	close(search.pidfd);
	if (!err)
		each_entry(KVM_DEBUGFS, try_kvm_dir, &search);
	if (err || search.ambiguous || search.w->gmem_fd < 0) {
		forget(search.w);
		if (err)
			reply_errno(-err, "%s", path);
		else if (search.ambiguous)
			frame_error(&port, "ambiguous", "process %d has several VMs, or guest_memfds of %lu bytes",
				    pid, search.ram);
		else
			frame_error(&port, "nogmem", "process %d has %u guest_memfds, none of %lu bytes",
				    pid, search.memfds, search.ram);
		return;
	}
	search.w->cachestat = resident_pages(search.w, 0, search.w->size, &pages) == 0;
	search.w->hook_fd = hook_open();
	frame_reply(&port, "ok fd=%d size=%lu cachestat=%d kvmstats=%u hook=%d", search.w->target_fd, search.w->size,
		    search.w->cachestat, search.w->stats, search.w->hook_fd >= 0);
}

void verb_unwatch(void)
{
	char all[8];
	unsigned int closed = 0;
	struct watch *one = NULL;

	if (frame_text(port.line, "pid", all, sizeof(all)) == FRAME_PRESENT && strcmp(all, "all")) {
		one = need_watch();
		if (!one)
			return;
	} else if (strcmp(port.line, "unwatch all") && strcmp(port.line, "unwatch pid=all")) {
		frame_error(&port, "usage", "say unwatch pid=P or unwatch all");
		return;
	}
	for (struct watch *w = watches; w < watches + WATCHES; w++) {
		if (w->pid && (!one || w == one)) {
			forget(w);
			closed++;
		}
	}
	frame_reply(&port, "ok closed=%u", closed);
}

void verb_cachestat(void)
{
	uint64_t off, len, pages = 0;
	struct watch *w = need_watch();
	int err;

	if (!w || !need_u64("off", &off) || !need_u64("len", &len))
		return;
	if (len == 0) {  // to the kernel 0 means "to the end of the file"
		frame_reply(&port, "ok cache=0");
		return;
	}
	err = resident_pages(w, off, len, &pages);
	if (err)
		reply_errno(-err, "cachestat");
	else
		frame_reply(&port, "ok cache=%lu", pages);
}

void verb_fallocate(void)
{
	uint64_t off, len;
	char mode[16] = "";
	struct watch *w = need_watch();
	cpu_set_t before;
	bool punch;
	int err;

	if (!w || !need_u64("off", &off) || !need_u64("len", &len))
		return;
	frame_text(port.line, "mode", mode, sizeof(mode));
	punch = !strcmp(mode, "punch");
	if (!punch && strcmp(mode, "alloc")) {
		frame_error(&port, "usage", "mode= must be alloc or punch");
		return;
	}
	err = w->cpu ? run_on(w->cpu - 1, &before) : 0;
	if (err) {
		reply_errno(-err, "running on CPU %u", w->cpu - 1);
		return;
	}
	if (fallocate(w->gmem_fd, FALLOC_FL_KEEP_SIZE | (punch ? FALLOC_FL_PUNCH_HOLE : 0), off, len))
		err = -errno;
	if (w->cpu)
		sched_setaffinity(0, sizeof(before), &before);
	if (err)
		reply_errno(-err, "fallocate %s of %lu bytes at %lu", mode, len, off);
	else
		frame_reply(&port, "ok");
}
