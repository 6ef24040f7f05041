// SPDX-License-Identifier: GPL-2.0-only
//
// The process that has the guest_memfd: it maps it and touches its pages as a guest would, with the guest's pattern
// (guest-images/module/gmem_conv.c).
#define _GNU_SOURCE
#include "bare.h"
#include "frame.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define KVM_CREATE_VM 0xae01ul
#define KVM_CREATE_GUEST_MEMFD 0xc040aed4ul
#define FLAG_MMAP 1ul         // 6.18: GUEST_MEMFD_FLAG_MMAP
#define FLAG_INIT_SHARED 2ul  // 6.18: GUEST_MEMFD_FLAG_INIT_SHARED
#define PATTERN_KEY 0x6d656d67c0debeadull
#define WORDS (PAGE / sizeof(uint64_t))
#define SHOWN 8

struct create_guest_memfd {
	uint64_t size, flags, reserved[6];
};

static char answer[ANSWER_MAX];
static size_t said;
static unsigned long tag, pages;
static int gmem = -1;
static volatile uint64_t *memory;

static void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void say(const char *format, ...)
{
	va_list ap;
	int n;

	va_start(ap, format);
	n = vsnprintf(answer + said, sizeof(answer) - said, format, ap);
	va_end(ap);
	if (n > 0)
		said = said + n < sizeof(answer) ? said + n : sizeof(answer) - 1;
}

static void refuse(const char *code, const char *text)
{
	said = 0;
	say("err code=%s text=%s", code, text);
}

static void refuse_errno(int err, const char *text)
{
	said = 0;
	say("err code=%s text=%s: %s", strerrorname_np(err) ? strerrorname_np(err) : "unknown", text, strerror(err));
}

int join_cgroup(const char *cgroup)
{
	char path[512];
	int fd, err = 0;

	snprintf(path, sizeof(path), "%s/cgroup.procs", cgroup);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (write(fd, "0", 1) != 1)
		err = -errno;
	close(fd);
	return err;
}

// The VM has no vCPU and no memory: it is there because a guest_memfd belongs to one.
static bool make(const struct setup *setup)
{
	struct create_guest_memfd create = { .size = setup->chunks * CHUNK_PAGES * PAGE,
					     .flags = FLAG_MMAP | FLAG_INIT_SHARED };
	int err, kvm, vm;
	void *where;

	err = setup->cgroup ? join_cgroup(setup->cgroup) : 0;
	if (err) {
		refuse_errno(-err, "joining the memory cgroup");
		return false;
	}
	// Nothing is locked, as it is in the probe: locked memory is unevictable too, and this cgroup's count of that is
	// the guest_memfd's.
	kvm = open(setup->kvm, O_RDWR | O_CLOEXEC);
	if (kvm < 0) {
		err = errno;
		said = 0;
		say("err code=lacking text=%s: %s", setup->kvm, strerror(err));
		return false;
	}
	vm = ioctl(kvm, KVM_CREATE_VM, 0);
	if (vm < 0) {
		err = errno;
		said = 0;
		say("err code=lacking text=%s makes no VM: %s", setup->kvm, strerror(err));
		return false;
	}
	gmem = ioctl(vm, KVM_CREATE_GUEST_MEMFD, &create);
	if (gmem < 0) {
		err = errno;
		said = 0;
		say("err code=lacking text=KVM makes no guest_memfd that can be mapped (6.18 and later do): %s", strerror(err));
		return false;
	}
	where = mmap(NULL, create.size, PROT_READ | PROT_WRITE, MAP_SHARED, gmem, 0);
	if (where == MAP_FAILED) {
		refuse_errno(errno, "mapping the guest_memfd");
		return false;
	}
	memory = where;
	tag = setup->tag;
	pages = setup->chunks * CHUNK_PAGES;
	return true;
}

static uint64_t pattern(uint64_t gen, uint64_t page, uint64_t word)
{
	uint64_t v = (tag & 0xf) << 60 | (gen & 0xffff) << 40 | (page & 0xffffff) << 16 | word;

	return v ^ PATTERN_KEY;
}

static bool range(const char *line, uint64_t *start, uint64_t *count)
{
	uint64_t region;

	if (frame_u64(line, "region", &region) == FRAME_PRESENT && region == 0 &&
	    frame_u64(line, "start", start) == FRAME_PRESENT && frame_u64(line, "count", count) == FRAME_PRESENT &&
	    *count && *start < pages && *count <= pages - *start)
		return true;
	refuse("range", "no such region, or the range lies outside of it");
	return false;
}

static void touch(const char *line)
{
	uint64_t start, count, stride, write, gen, touched = 0, sum = 0;

	if (!range(line, &start, &count))
		return;
	if (frame_u64(line, "stride", &stride) != FRAME_PRESENT || !stride ||
	    frame_u64(line, "write", &write) != FRAME_PRESENT || frame_u64(line, "gen", &gen) != FRAME_PRESENT) {
		refuse("usage", "touch needs stride, write and gen");
		return;
	}
	for (uint64_t n = start; n < start + count; n += stride, touched++) {
		volatile uint64_t *page = memory + n * WORDS;

		if (!write)
			sum += *page;
		for (uint64_t w = 0; write && w < WORDS; w++)
			page[w] = pattern(gen, n, w);
	}
	say("ok touched=%lu sum=%lx", touched, sum);
}

static void name_word(uint64_t got)
{
	uint64_t v = got ^ PATTERN_KEY;

	if (!got)
		say("zero");
	else if ((v & 0xffff) < WORDS)
		say("guest:%lu/region:%lu/gen:%lu/page:%lu/word:%lu", v >> 60, v >> 56 & 0xf, v >> 40 & 0xffff,
		    v >> 16 & 0xffffff, v & 0xffff);
	else
		say("0x%lx", got);
}

static void verify(const char *line)
{
	uint64_t start, count, gen = 0, wrong = 0;
	char expect[16] = "";
	bool zero;

	if (!range(line, &start, &count))
		return;
	frame_text(line, "expect", expect, sizeof(expect));
	zero = !strcmp(expect, "zero");
	if (!zero && (strcmp(expect, "pattern") || frame_u64(line, "gen", &gen) != FRAME_PRESENT)) {
		refuse("usage", "verify needs expect=zero, or expect=pattern and gen");
		return;
	}
	say("ok bad=");
	for (uint64_t n = start; n < start + count; n++) {
		for (uint64_t w = 0; w < WORDS; w++) {
			uint64_t got = memory[n * WORDS + w];

			if (got == (zero ? 0 : pattern(gen, n, w)))
				continue;
			if (wrong++ < SHOWN) {
				say("%s%lu@%lu=", wrong > 1 ? "," : "", n, w);
				name_word(got);
			}
			break;
		}
	}
	say("%s pages=%lu wrong=%lu", wrong ? "" : "-", count, wrong);
}

static void allocate(const char *line)
{
	uint64_t off, len;
	char mode[16] = "";
	bool punch;

	frame_text(line, "mode", mode, sizeof(mode));
	punch = !strcmp(mode, "punch");
	if ((!punch && strcmp(mode, "alloc")) || frame_u64(line, "off", &off) != FRAME_PRESENT ||
	    frame_u64(line, "len", &len) != FRAME_PRESENT)
		refuse("usage", "fallocate needs mode=alloc or punch, off and len");
	else if (fallocate(gmem, FALLOC_FL_KEEP_SIZE | (punch ? FALLOC_FL_PUNCH_HOLE : 0), off, len))
		refuse_errno(errno, "fallocate");
	else
		say("ok");
}

void hold(const struct setup *setup, int sock)
{
	static char line[FRAME_LINE_MAX];
	bool made = make(setup);
	ssize_t len;

	if (made)
		say("ok");
	send(sock, answer, said, MSG_NOSIGNAL);
	while (made && (len = recv(sock, line, sizeof(line) - 1, 0)) > 0) {
		line[len] = '\0';
		said = 0;
		if (frame_verb(line, "gmem touch"))
			touch(line);
		else if (frame_verb(line, "gmem verify"))
			verify(line);
		else if (frame_verb(line, "fallocate"))
			allocate(line);
		else
			refuse("unknown", "no such request");
		send(sock, answer, said, MSG_NOSIGNAL);
	}
	_exit(made ? 0 : 1);
}
