// SPDX-License-Identifier: GPL-2.0-only
//
// Kernel files without stdio and without allocation.
#define _GNU_SOURCE
#include "probe.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

ssize_t read_whole(int fd, void *buf, size_t cap)
{
	size_t len = 0;

	for (;;) {
		ssize_t got = pread(fd, (char *)buf + len, cap - len, len);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		if (got == 0)
			return len;
		len += got;
		if (len == cap)  // there may be more, and nothing may be cut off silently
			return -EFBIG;
	}
}

int open_read(const char *format, ...)
{
	char path[PATH_MAX];
	va_list args;
	int fd;

	va_start(args, format);
	vsnprintf(path, sizeof(path), format, args);
	va_end(args);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

struct dirent64_record {
	uint64_t ino;
	int64_t off;
	unsigned short reclen;
	unsigned char type;
	char name[];
};

int each_entry(const char *path, entry_fn fn, void *arg)
{
	char buf[4096] __attribute__((aligned(8)));
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	long got;

	if (fd < 0)
		return -errno;
	while ((got = syscall(SYS_getdents64, fd, buf, sizeof(buf))) > 0) {
		for (long at = 0; at < got;) {
			const struct dirent64_record *d = (const void *)(buf + at);

			if (strcmp(d->name, ".") && strcmp(d->name, ".."))
				fn(d->name, arg);
			at += d->reclen;
		}
	}
	got = got < 0 ? -errno : 0;
	close(fd);
	return got;
}

int reply_errno(int err, const char *format, ...)
{
	const char *name = strerrorname_np(err), *text = strerrordesc_np(err);
	char what[512];
	va_list args;

	va_start(args, format);
	vsnprintf(what, sizeof(what), format, args);
	va_end(args);
	return frame_error(&port, name ? name : "errno", "%s: %s", what, text ? text : "unknown error");
}

bool need_u64(const char *key, uint64_t *out)
{
	if (frame_u64(port.line, key, out) == FRAME_PRESENT)
		return true;
	frame_error(&port, "usage", "%s= must be given as an unsigned number", key);
	return false;
}

bool need_pid(int *out)
{
	uint64_t pid;

	if (!need_u64("pid", &pid))
		return false;
	if (pid == 0 || pid > INT_MAX) {
		frame_error(&port, "usage", "pid= is not the number of a process");
		return false;
	}
	*out = pid;
	return true;
}

static bool need_kernel_path(char path[PATH_MAX])
{
	if (frame_text(port.line, "path", path, PATH_MAX) == FRAME_PRESENT &&
	    (!strncmp(path, "/proc/", 6) || !strncmp(path, "/sys/", 5)) && !strstr(path, ".."))
		return true;
	frame_error(&port, "usage", "path= must name a file under /proc/ or /sys/");
	return false;
}

void verb_read(void)
{
	char path[PATH_MAX];
	uint64_t max;
	ssize_t len;
	int fd;

	if (!need_kernel_path(path) || !need_u64("max", &max))
		return;
	if (max >= REPLY_BLOB_MAX)
		max = REPLY_BLOB_MAX - 1;
	fd = open_read("%s", path);
	if (fd < 0) {
		reply_errno(-fd, "%s", path);
		return;
	}
	len = read_whole(fd, scratch, max + 1);
	close(fd);
	if (len == -EFBIG)
		frame_error(&port, "truncated", "%s is longer than %lu bytes", path, max);
	else if (len < 0)
		reply_errno(-len, "reading %s", path);
	else
		frame_reply_blob(&port, scratch, len, "ok size=%zd", len);
}

// Reads a one-line file and writes it %-encoded, so that it fits into a word of the reply; "-" for a write-only file.
static int read_value(const char *path, char *out, size_t cap)
{
	char text[256];
	size_t used = 0;
	ssize_t len;
	int fd = open_read("%s", path);

	if (fd == -EACCES || fd == -EPERM) {
		snprintf(out, cap, "-");
		return 0;
	}
	if (fd < 0)
		return fd;
	len = read_whole(fd, text, sizeof(text));
	close(fd);
	if (len == -EACCES || len == -EPERM || len == -EIO || len == -EINVAL) {
		snprintf(out, cap, "-");
		return 0;
	}
	if (len < 0)
		return len;
	while (len > 0 && text[len - 1] == '\n')
		len--;
	for (ssize_t i = 0; i < len; i++) {
		unsigned char c = text[i];

		if (used + 4 > cap)
			return -EFBIG;
		used += snprintf(out + used, cap - used, c > ' ' && c < 0x7f && c != '%' ? "%c" : "%%%02x", c);
	}
	out[used] = '\0';
	return 0;
}

void verb_write(void)
{
	char path[PATH_MAX], value[256], was[800], now[800];
	ssize_t put;
	int fd, err;

	if (!need_kernel_path(path))
		return;
	if (frame_text(port.line, "value", value, sizeof(value)) != FRAME_PRESENT) {
		frame_error(&port, "usage", "value= must be given, with at most %zu bytes", sizeof(value) - 1);
		return;
	}
	err = read_value(path, was, sizeof(was));
	if (err) {
		reply_errno(-err, "reading %s", path);
		return;
	}
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0) {
		reply_errno(errno, "%s", path);
		return;
	}
	put = write(fd, value, strlen(value));
	err = put < 0 ? errno : 0;
	close(fd);
	if (err) {
		reply_errno(err, "writing %s to %s", value, path);
		return;
	}
	err = read_value(path, now, sizeof(now));
	if (err)
		reply_errno(-err, "reading %s back", path);
	else
		frame_reply(&port, "ok was=%s now=%s", was, now);
}

// The first look at a file of procfs makes an entry and an inode for it, which stay.  Where the slabs of these are full,
// that takes pages, and it must not be a step's first write that does (traced on 7.3: proc_sys_lookup() ->
// proc_alloc_inode(), two slabs of order 1 while /proc/sys/vm/compact_memory was opened).
void files_look(void)
{
	access("/proc/sys/vm/compact_memory", F_OK);
	access("/proc/sys/vm/drop_caches", F_OK);
}
