// SPDX-License-Identifier: GPL-2.0-only
//
// Pages that compaction cannot move, with holes between them: guest_memfd in order-0 folios.
#define _GNU_SOURCE
#include "pressure.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <unistd.h>

#ifndef KVM_X86_SW_PROTECTED_VM
#define KVM_X86_SW_PROTECTED_VM 1
#endif
#ifndef KVM_CREATE_GUEST_MEMFD
#define KVM_CREATE_GUEST_MEMFD _IOWR(KVMIO, 0xd4, struct kvm_create_guest_memfd)
struct kvm_create_guest_memfd {
	__u64 size;
	__u64 flags;
	__u64 reserved[6];
};
#endif

#define FILE_PAGES 511  // no window of 2 MiB lies in such a file: a kernel with huge folios uses order-0 ones too

static int new_file(int vm)
{
	struct kvm_create_guest_memfd create = { .size = FILE_PAGES * PAGE };
	int fd = ioctl(vm, KVM_CREATE_GUEST_MEMFD, &create);

	if (fd < 0)
		die("KVM_CREATE_GUEST_MEMFD");
	return fd;
}

void take_pinned(uint64_t pages, struct held *held)
{
	uint64_t files = (pages + FILE_PAGES - 1) / FILE_PAGES;
	struct rlimit limit = { files + 64, files + 64 };
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	int vm = kvm < 0 ? -1 : ioctl(kvm, KVM_CREATE_VM, KVM_X86_SW_PROTECTED_VM);
	int first = -1;

	if (vm < 0)
		die("making a software-protected VM");
	if (setrlimit(RLIMIT_NOFILE, &limit))
		die("allowing enough open files");
	for (uint64_t i = 0; i < files; i++) {
		uint64_t count = i + 1 < files ? FILE_PAGES : pages - i * FILE_PAGES;
		int fd = new_file(vm);

		if (!i)
			first = fd;
		else if (fd != first + (int)i)
			die("numbering guest_memfds");
		if (fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, count * PAGE))
			die("allocating guest_memfd pages");
	}
	// All of them first: what is given back early would be what the next allocation gets.
	for (uint64_t page = 1; page < pages; page += 2) {
		int fd = first + page / FILE_PAGES;

		if (fallocate(fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, page % FILE_PAGES * PAGE, PAGE))
			die("punching a hole");
		held->given_back++;
	}
	held->holds = pages - held->given_back;
}
