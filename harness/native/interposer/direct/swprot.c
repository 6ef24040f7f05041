// SPDX-License-Identifier: GPL-2.0-only
/*
 * Makes a software-protected VM of an ordinary one: the simpler form, where
 * QEMU knows nothing of guest_memfd.
 *
 * Loaded with LD_PRELOAD into a QEMU without a confidential object:
 *
 *   KVM_CREATE_VM                type 0 becomes KVM_X86_SW_PROTECTED_VM, with
 *                                hypercall exits for KVM_HC_MAP_GPA_RANGE
 *   KVM_SET_USER_MEMORY_REGION*  a slot that lies in RAM also gets the
 *                                guest_memfd made here, at the offset of its
 *                                guest physical address
 *   KVM_RUN                      an exit for KVM_HC_MAP_GPA_RANGE, or a memory
 *                                fault, is served here: attributes first, then
 *                                the other side is discarded, as QEMU does it
 *
 * GMEM_RAM_BYTES in the environment says how large the RAM is; RAM starts at
 * guest physical address 0.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

/* Names of newer headers than a build machine may have; values are ABI. */
#define SW_VM_TYPE 1UL
#define SW_CAP_EXIT_HYPERCALL 201
#define SW_HC_MAP_GPA_RANGE 12
#define SW_HC_ENCRYPTED (1ULL << 4)
#define SW_EXIT_MEMORY_FAULT 39
#define SW_FAULT_PRIVATE (1ULL << 3)
#define SW_ATTRIBUTE_PRIVATE (1ULL << 3)
#define SW_MEM_GUEST_MEMFD (1U << 2)

struct sw_attributes {
	uint64_t address, size, attributes, flags;
};
#define SW_SET_MEMORY_ATTRIBUTES _IOW(KVMIO, 0xd2, struct sw_attributes)

struct sw_create_guest_memfd {
	uint64_t size, flags, reserved[6];
};
#define SW_CREATE_GUEST_MEMFD _IOWR(KVMIO, 0xd4, struct sw_create_guest_memfd)

struct sw_region2 {
	uint32_t slot, flags;
	uint64_t guest_phys_addr, memory_size, userspace_addr;
	uint64_t guest_memfd_offset;
	uint32_t guest_memfd, pad1;
	uint64_t pad2[14];
};
#define SW_SET_USER_MEMORY_REGION2 _IOW(KVMIO, 0x49, struct sw_region2)

struct sw_memory_fault {
	uint64_t flags, gpa, size;
};

#define MAX_FDS 4096
#define MAX_SLOTS 64

static int (*real_ioctl)(int, unsigned long, ...);
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct kvm_run *run_of[MAX_FDS];
static struct sw_region2 slots[MAX_SLOTS];
static uint64_t ram_bytes, ram_base; /* ram_base: where QEMU has guest physical address 0 */
static int run_size, vm_fd = -1, gmem_fd = -1;

static void complain(const char *what)
{
	/* One line on stderr: it ends in the QEMU log that is kept as evidence. */
	fprintf(stderr, "swprot: %s (%s)\n", what, strerror(errno));
}

static int create_vm(int fd)
{
	struct kvm_enable_cap cap = { .cap = SW_CAP_EXIT_HYPERCALL, .args = { 1UL << SW_HC_MAP_GPA_RANGE } };
	struct sw_create_guest_memfd gmem = { .size = ram_bytes };

	vm_fd = real_ioctl(fd, KVM_CREATE_VM, SW_VM_TYPE);
	if (vm_fd < 0) {
		complain("KVM makes no software-protected VM");
		return vm_fd;
	}
	if (real_ioctl(vm_fd, KVM_ENABLE_CAP, &cap) < 0)
		complain("KVM does not hand KVM_HC_MAP_GPA_RANGE to user space");
	run_size = real_ioctl(fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	gmem_fd = real_ioctl(vm_fd, SW_CREATE_GUEST_MEMFD, &gmem);
	if (gmem_fd < 0)
		complain("KVM makes no guest_memfd");
	return vm_fd;
}

static int create_vcpu(int fd, void *arg)
{
	int vcpu = real_ioctl(fd, KVM_CREATE_VCPU, arg);

	if (vcpu >= 0 && vcpu < MAX_FDS) {
		void *run = mmap(NULL, run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);

		run_of[vcpu] = run == MAP_FAILED ? NULL : run;
	}
	return vcpu;
}

static void remember_slot(const struct sw_region2 *region)
{
	int i, place = -1;

	for (i = 0; i < MAX_SLOTS && place < 0; i++)
		if (slots[i].memory_size && slots[i].slot == region->slot)
			place = i;
	for (i = 0; i < MAX_SLOTS && place < 0; i++)
		if (!slots[i].memory_size)
			place = i;
	if (place >= 0)
		slots[place] = *region;
}

/*
 * Not what else lies below the end of RAM, as the copy of the firmware below 1 MiB: its memory is another, and the
 * guest_memfd could not take the place of both.
 */
static int is_ram(const struct sw_region2 *region)
{
	if (!region->guest_phys_addr)
		ram_base = region->userspace_addr;
	return region->guest_phys_addr + region->memory_size <= ram_bytes &&
	       (!ram_base || region->userspace_addr - region->guest_phys_addr == ram_base);
}

static int set_region(int fd, unsigned long request, const void *arg)
{
	struct sw_region2 region = { 0 };
	int ret;

	if (request == KVM_SET_USER_MEMORY_REGION)
		memcpy(&region, arg, sizeof(struct kvm_userspace_memory_region));
	else
		memcpy(&region, arg, sizeof(region));
	if (region.memory_size && !(region.flags & (KVM_MEM_READONLY | KVM_MEM_LOG_DIRTY_PAGES)) && is_ram(&region)) {
		region.flags |= SW_MEM_GUEST_MEMFD;
		region.guest_memfd = gmem_fd;
		region.guest_memfd_offset = region.guest_phys_addr;
	}
	ret = real_ioctl(fd, SW_SET_USER_MEMORY_REGION2, &region);
	if (!ret) {
		pthread_mutex_lock(&lock);
		remember_slot(&region);
		pthread_mutex_unlock(&lock);
	}
	return ret;
}

static void discard_shared(uint64_t gpa, uint64_t size)
{
	int i;

	pthread_mutex_lock(&lock);
	for (i = 0; i < MAX_SLOTS; i++) {
		const struct sw_region2 *s = &slots[i];
		uint64_t from = gpa > s->guest_phys_addr ? gpa : s->guest_phys_addr;
		uint64_t to = gpa + size < s->guest_phys_addr + s->memory_size ?
			gpa + size : s->guest_phys_addr + s->memory_size;

		if ((s->flags & SW_MEM_GUEST_MEMFD) && s->memory_size && from < to &&
		    madvise((char *)(uintptr_t)s->userspace_addr + (from - s->guest_phys_addr), to - from, MADV_DONTNEED))
			complain("the shared side is not discarded");
	}
	pthread_mutex_unlock(&lock);
}

static int convert(uint64_t gpa, uint64_t size, int private)
{
	struct sw_attributes attributes = {
		.address = gpa, .size = size, .attributes = private ? SW_ATTRIBUTE_PRIVATE : 0,
	};

	if (real_ioctl(vm_fd, SW_SET_MEMORY_ATTRIBUTES, &attributes) < 0) {
		complain("KVM does not set the attributes");
		return -errno;
	}
	if (private)
		discard_shared(gpa, size);
	else if (fallocate(gmem_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, gpa, size))
		complain("the private side is not discarded");
	return 0;
}

static int run_vcpu(int fd, void *arg)
{
	struct kvm_run *run = fd >= 0 && fd < MAX_FDS ? run_of[fd] : NULL;
	int ret;

	for (;;) {
		ret = real_ioctl(fd, KVM_RUN, arg);
		if (!run)
			return ret;
		if (!ret && run->exit_reason == KVM_EXIT_HYPERCALL && run->hypercall.nr == SW_HC_MAP_GPA_RANGE) {
			run->hypercall.ret = convert(run->hypercall.args[0], run->hypercall.args[1] << 12,
						     !!(run->hypercall.args[2] & SW_HC_ENCRYPTED));
		} else if (ret < 0 && errno == EFAULT && run->exit_reason == SW_EXIT_MEMORY_FAULT) {
			const struct sw_memory_fault *fault = (const void *)run->padding;

			if (convert(fault->gpa, fault->size, !!(fault->flags & SW_FAULT_PRIVATE))) {
				errno = EFAULT;
				return ret;
			}
		} else {
			return ret;
		}
	}
}

int ioctl(int fd, unsigned long request, ...)
{
	va_list ap;
	void *arg;

	va_start(ap, request);
	arg = va_arg(ap, void *);
	va_end(ap);
	switch (request) {
	case KVM_CREATE_VM:
		return arg ? real_ioctl(fd, request, arg) : create_vm(fd);
	case KVM_CREATE_VCPU:
		return create_vcpu(fd, arg);
	case KVM_SET_USER_MEMORY_REGION:
	case SW_SET_USER_MEMORY_REGION2:
		return set_region(fd, request, arg);
	case KVM_RUN:
		return run_vcpu(fd, arg);
	}
	return real_ioctl(fd, request, arg);
}

__attribute__((constructor)) static void start(void)
{
	const char *bytes = getenv("GMEM_RAM_BYTES");

	real_ioctl = (int (*)(int, unsigned long, ...))dlsym(RTLD_NEXT, "ioctl");
	ram_bytes = bytes ? strtoull(bytes, NULL, 0) : 0;
	if (!real_ioctl || !ram_bytes || ram_bytes % 4096) {
		errno = EINVAL;
		complain("GMEM_RAM_BYTES is not the size of the RAM");
		_exit(1);
	}
}
