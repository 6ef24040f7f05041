// SPDX-License-Identifier: GPL-2.0-only
//
// Clean page cache: a file system in user space with one file, which is read.
//
// The emulated host has no disk, and pages of tmpfs are neither clean nor to be reclaimed without swap.  Those of FUSE
// are page cache like that of any file system.  The mount is attached nowhere: it goes with this process.
#define _GNU_SOURCE
#include "pressure.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef SYS_cachestat
#define SYS_cachestat 451
#endif

#define READ_MAX (1u << 20)
#define REQUEST_MAX (READ_MAX + 65536)
#define FOR_EVER (1u << 30)

static char request[REQUEST_MAX], zeroes[READ_MAX];

static void answer(int fuse, const struct fuse_in_header *in, int error, const void *data, size_t size)
{
	struct fuse_out_header out = { .len = sizeof(out) + size, .error = error, .unique = in->unique };
	struct iovec iov[] = { { &out, sizeof(out) }, { (void *)data, size } };

	if (writev(fuse, iov, 2) < 0 && errno != ENOENT)  // ENOENT: whoever asked is gone
		_exit(1);
}

static void answer_attributes(int fuse, const struct fuse_in_header *in, uint64_t size)
{
	struct fuse_attr_out out = {
		.attr_valid = FOR_EVER,
		.attr = { .ino = 1, .size = size, .blocks = size / 512, .mode = S_IFREG | 0444, .nlink = 1, .blksize = PAGE },
	};

	answer(fuse, in, 0, &out, sizeof(out));
}

static void answer_init(int fuse, const struct fuse_in_header *in)
{
	struct fuse_init_out out = {
		.major = FUSE_KERNEL_VERSION,
		.minor = FUSE_KERNEL_MINOR_VERSION,
		.max_readahead = READ_MAX,
		.flags = FUSE_MAX_PAGES | FUSE_ASYNC_READ,
		.max_write = PAGE,
		.max_pages = READ_MAX / PAGE,
		.time_gran = 1,
	};

	answer(fuse, in, 0, &out, sizeof(out));
}

static void answer_read(int fuse, const struct fuse_in_header *in, uint64_t size)
{
	const struct fuse_read_in *read = (const void *)(in + 1);
	uint64_t left = read->offset < size ? size - read->offset : 0;

	answer(fuse, in, 0, zeroes, read->size < left ? read->size : left);
}

// The file system: a root that is a regular file of `size` zeroes.
static void serve(int fuse, uint64_t size)
{
	for (;;) {
		const struct fuse_in_header *in = (const void *)request;
		// No request when the file is closed: whoever ends this process may have ended the server first.
		struct fuse_open_out opened = { .open_flags = FOPEN_KEEP_CACHE | FOPEN_NOFLUSH };
		ssize_t got = read(fuse, request, sizeof(request));

		if (got < 0 && (errno == EINTR || errno == ENOENT))
			continue;
		if (got < (ssize_t)sizeof(*in))
			_exit(0);
		switch (in->opcode) {
		case FUSE_INIT:
			answer_init(fuse, in);
			break;
		case FUSE_GETATTR:
			answer_attributes(fuse, in, size);
			break;
		case FUSE_OPEN:
			answer(fuse, in, 0, &opened, sizeof(opened));
			break;
		case FUSE_READ:
			answer_read(fuse, in, size);
			break;
		case FUSE_RELEASE:
			answer(fuse, in, 0, NULL, 0);
			break;
		case FUSE_FORGET:
		case FUSE_BATCH_FORGET:
		case FUSE_INTERRUPT:
			break;
		default:
			answer(fuse, in, -ENOSYS, NULL, 0);
		}
	}
}

// The file system, attached nowhere: a descriptor of its root.
static int mounted(int fuse)
{
	int context = fsopen("fuse", FSOPEN_CLOEXEC), mount;
	char number[16];

	if (context < 0)
		die("a FUSE file system, for page cache (CONFIG_FUSE_FS is needed)");
	snprintf(number, sizeof(number), "%d", fuse);
	if (fsconfig(context, FSCONFIG_SET_STRING, "fd", number, 0) ||
	    fsconfig(context, FSCONFIG_SET_STRING, "rootmode", "100444", 0) ||
	    fsconfig(context, FSCONFIG_SET_STRING, "user_id", "0", 0) ||
	    fsconfig(context, FSCONFIG_SET_STRING, "group_id", "0", 0) ||
	    fsconfig(context, FSCONFIG_CMD_CREATE, NULL, NULL, 0))
		die("making a FUSE file system");
	mount = fsmount(context, FSMOUNT_CLOEXEC, 0);
	if (mount < 0)
		die("mounting a FUSE file system");
	close(context);
	return mount;
}

void take_cache(uint64_t pages, struct held *held)
{
	static char page_of_it[READ_MAX];
	struct {
		uint64_t off, len;
	} whole = { 0, 0 };
	struct {
		uint64_t cache, dirty, writeback, evicted, recently;
	} seen = { 0 };
	int fuse = open("/dev/fuse", O_RDWR | O_CLOEXEC), mount, file;
	pid_t parent = getpid(), server;
	char path[32];

	if (fuse < 0)
		die("/dev/fuse, for page cache (CONFIG_FUSE_FS is needed)");
	mount = mounted(fuse);  // first: who reads requests of what is not mounted yet is refused
	server = fork();
	if (server < 0)
		die("fork");
	if (!server) {
		close(mount);
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() == parent)
			serve(fuse, pages * PAGE);
		_exit(0);
	}
	close(fuse);  // the server's is the last: with it the connection ends
	snprintf(path, sizeof(path), "/proc/self/fd/%d", mount);
	file = open(path, O_RDONLY | O_CLOEXEC);
	if (file < 0)
		die("opening the file whose page cache is wanted");
	close(mount);
	for (uint64_t done = 0; done < pages * PAGE;) {
		ssize_t got = pread(file, page_of_it, sizeof(page_of_it), done);

		if (got <= 0)
			die("reading the file whose page cache is wanted");
		done += got;
	}
	if (syscall(SYS_cachestat, file, &whole, &seen, 0))
		die("cachestat");
	held->holds = seen.cache;
}
