// SPDX-License-Identifier: GPL-2.0-only
/*
 * Lets a VMM that knows only discarding conversions run on a KVM that converts
 * in place: its RAM becomes the guest_memfd itself, and a conversion is asked
 * for on the guest_memfd's descriptor.
 *
 * Loaded with LD_PRELOAD behind snp-standin.so or swprot.so, whose ioctl()s
 * arrive here.  The VMM sees the KVM that it knows, KVM the VMM that it wants:
 *
 *   KVM_CREATE_VM                a software-protected VM is asked whether KVM
 *                                converts in place; one that does not is
 *                                refused, whatever its version
 *   KVM_CHECK_EXTENSION          KVM_CAP_MEMORY_ATTRIBUTES has the private
 *                                attribute
 *   KVM_CREATE_GUEST_MEMFD       can be mapped, and starts shared
 *   KVM_SET_USER_MEMORY_REGION2  the guest_memfd is mapped over the VMM's own
 *                                memory of that slot, with what was in it, and
 *                                populated
 *   KVM_SET_MEMORY_ATTRIBUTES    KVM_SET_MEMORY_ATTRIBUTES2 on the descriptor
 *   madvise(), fallocate()       the discard that a VMM makes right after a
 *                                conversion, by the same thread and inside its
 *                                range, does not happen; any other does
 *
 *   KVM_CREATE_VCPU, KVM_RUN     the guest gets KVM's error for a conversion
 *                                that it asked for and that KVM refuses
 *
 * A VMM of today has no answer to a conversion that fails but to stop the
 * guest.  So it is told that the guest's hypercall was done, its discards do
 * not happen, and the hypercall returns the error.  Any other conversion that
 * KVM refuses is refused, with KVM's error.  The offset of the page that is in
 * the way goes to standard error.
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
#define IP_VM_TYPE_SW_PROTECTED 1UL
#define IP_CAP_MEMORY_ATTRIBUTES 233
#define IP_ATTRIBUTE_PRIVATE (1ULL << 3)
#define IP_MEM_GUEST_MEMFD (1U << 2)
#define IP_GUEST_MEMFD_MMAP (1ULL << 0)
#define IP_GUEST_MEMFD_INIT_SHARED (1ULL << 1)
#define IP_POPULATE_WRITE 23 /* MADV_POPULATE_WRITE */

struct ip_attributes {
	uint64_t address, size, attributes, flags;
};
#define IP_SET_MEMORY_ATTRIBUTES _IOW(KVMIO, 0xd2, struct ip_attributes)

struct ip_attributes2 {
	uint64_t offset, size, attributes, flags, error_offset, reserved[11];
};
#define IP_SET_MEMORY_ATTRIBUTES2 _IOWR(KVMIO, 0xd2, struct ip_attributes2)

struct ip_create_guest_memfd {
	uint64_t size, flags, reserved[6];
};
#define IP_CREATE_GUEST_MEMFD _IOWR(KVMIO, 0xd4, struct ip_create_guest_memfd)

struct ip_region2 {
	uint32_t slot, flags;
	uint64_t guest_phys_addr, memory_size, userspace_addr;
	uint64_t guest_memfd_offset;
	uint32_t guest_memfd, pad1;
	uint64_t pad2[14];
};
#define IP_SET_USER_MEMORY_REGION2 _IOW(KVMIO, 0x49, struct ip_region2)

#define PAGE 4096UL
#define MAX_FDS 4096
#define MAX_FILES 16
#define MAX_SLOTS 64

struct file {
	int fd;
	uint64_t size;
	char *base; /* where it is mapped; NULL until a slot says where */
};

struct slot {
	uint64_t gpa, size, offset;
	const struct file *file;
	uint32_t number;
};

static int (*real_ioctl)(int, unsigned long, ...);
static int (*real_madvise)(void *, size_t, int);
static int (*real_fallocate)(int, int, off_t, off_t);
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct file files[MAX_FILES];
static struct slot slots[MAX_SLOTS];
static struct kvm_run *run_of[MAX_FDS];
static unsigned int nr_files;
static int in_place, run_size;

/* The vCPU that this thread runs, and the error that its hypercall is to return. */
static __thread struct kvm_run *running;
static __thread int refused;

/* What this thread converted last, by parts of files; its discards are not carried out. */
static __thread struct {
	const struct file *file;
	uint64_t offset, size;
} converted[MAX_SLOTS];
static __thread unsigned int nr_converted;

#define complain(format, ...) \
	/* One line on stderr: it ends in the QEMU log that is kept as evidence. */ \
	fprintf(stderr, "inplace: " format "\n", ##__VA_ARGS__)

static int refuse(int error)
{
	errno = error;
	return -1;
}

/* Whether KVM takes KVM_SET_MEMORY_ATTRIBUTES2 on a guest_memfd: an empty range is EINVAL, an unknown request not. */
static int converts_in_place(int vm)
{
	struct ip_create_guest_memfd create = { PAGE, IP_GUEST_MEMFD_MMAP | IP_GUEST_MEMFD_INIT_SHARED, { 0 } };
	struct ip_attributes2 nothing = { 0 };
	int fd = real_ioctl(vm, IP_CREATE_GUEST_MEMFD, &create), known;

	if (fd < 0)
		return 0;
	known = real_ioctl(fd, IP_SET_MEMORY_ATTRIBUTES2, &nothing) < 0 && errno == EINVAL;
	close(fd);
	return known;
}

static int create_vm(int fd, unsigned long type)
{
	int vm = real_ioctl(fd, KVM_CREATE_VM, type);

	if (vm < 0 || type != IP_VM_TYPE_SW_PROTECTED)
		return vm;
	if (!converts_in_place(vm)) {
		complain("KVM does not convert a guest_memfd in place");
		close(vm);
		return refuse(EOPNOTSUPP);
	}
	in_place = 1;
	run_size = real_ioctl(fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	return vm;
}

static int create_vcpu(int vm, void *arg)
{
	int vcpu = real_ioctl(vm, KVM_CREATE_VCPU, arg);

	if (vcpu >= 0 && vcpu < MAX_FDS) {
		void *run = mmap(NULL, run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);

		run_of[vcpu] = run == MAP_FAILED ? NULL : run;
	}
	return vcpu;
}

static int run_vcpu(int fd, void *arg)
{
	running = fd >= 0 && fd < MAX_FDS ? run_of[fd] : NULL;
	if (running && refused)
		running->hypercall.ret = -(int64_t)refused;
	refused = 0;
	return real_ioctl(fd, KVM_RUN, arg);
}

static int asked_by_guest(void)
{
	return running && running->exit_reason == KVM_EXIT_HYPERCALL;
}

static int create_guest_memfd(int vm, struct ip_create_guest_memfd *create)
{
	int fd;

	create->flags |= IP_GUEST_MEMFD_MMAP | IP_GUEST_MEMFD_INIT_SHARED;
	fd = real_ioctl(vm, IP_CREATE_GUEST_MEMFD, create);
	if (fd < 0)
		return fd;
	pthread_mutex_lock(&lock);
	if (nr_files < MAX_FILES)
		files[nr_files++] = (struct file){ .fd = fd, .size = create->size };
	else
		complain("more guest_memfds than it can hold");
	pthread_mutex_unlock(&lock);
	return fd;
}

static struct file *file_of(int fd)
{
	for (unsigned int i = 0; i < nr_files; i++)
		if (files[i].fd == fd)
			return &files[i];
	return NULL;
}

/* Copies the pages of [from, from + size) that are there; the others are zero on both sides. */
static int copy_present(char *to, char *from, uint64_t size)
{
	unsigned char present[512];

	for (uint64_t at = 0; at < size; at += sizeof(present) * PAGE) {
		uint64_t part = size - at < sizeof(present) * PAGE ? size - at : sizeof(present) * PAGE;

		if (mincore(from + at, part, present))
			return -1;
		for (uint64_t page = 0; page < part / PAGE; page++)
			if (present[page] & 1)
				memcpy(to + at + page * PAGE, from + at + page * PAGE, PAGE);
	}
	return 0;
}

/* The guest_memfd takes the place of the memory at base, whose contents it gets. */
static int map_over(struct file *file, char *base)
{
	char *window;
	int err;

	if (file->base)
		return file->base == base ? 0 : refuse(EINVAL);
	window = mmap(NULL, file->size, PROT_READ | PROT_WRITE, MAP_SHARED, file->fd, 0);
	if (window == MAP_FAILED)
		return -1;
	err = copy_present(window, base, file->size) ||
	      mmap(base, file->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file->fd, 0) == MAP_FAILED ||
	      real_madvise(base, file->size, IP_POPULATE_WRITE);
	munmap(window, file->size);
	if (!err)
		file->base = base;
	return err ? -1 : 0;
}

static void remember_slot(const struct ip_region2 *region, const struct file *file)
{
	int i, place = -1;

	for (i = 0; i < MAX_SLOTS && place < 0; i++)
		if (slots[i].size && slots[i].number == region->slot)
			place = i;
	for (i = 0; i < MAX_SLOTS && place < 0; i++)
		if (!slots[i].size)
			place = i;
	if (place < 0)
		complain("more memory slots than it can hold");
	else
		slots[place] = (struct slot){ region->guest_phys_addr, file ? region->memory_size : 0,
					      region->guest_memfd_offset, file, region->slot };
}

static int set_region2(int vm, struct ip_region2 *region)
{
	struct file *file = NULL;
	int ret;

	pthread_mutex_lock(&lock);
	if (region->memory_size && (region->flags & IP_MEM_GUEST_MEMFD))
		file = file_of((int)region->guest_memfd);
	if (file && map_over(file, (char *)(uintptr_t)(region->userspace_addr - region->guest_memfd_offset))) {
		ret = errno;
		complain("the guest_memfd cannot be the memory of slot %u (%s)", region->slot, strerror(ret));
		pthread_mutex_unlock(&lock);
		return refuse(ret);
	}
	ret = real_ioctl(vm, IP_SET_USER_MEMORY_REGION2, region);
	if (!ret)
		remember_slot(region, file);
	pthread_mutex_unlock(&lock);
	return ret;
}

/*
 * Converts the part of [gpa, gpa + size) that lies in the slot; returns its size, -1 for an error, with errno. After a
 * refusal that the guest will be told of, nothing more is converted, and the discards of the rest do not happen either.
 */
static int64_t convert_part(const struct slot *slot, const struct ip_attributes *wanted)
{
	uint64_t end = wanted->address + wanted->size, slot_end = slot->gpa + slot->size;
	uint64_t from = wanted->address > slot->gpa ? wanted->address : slot->gpa, to = end < slot_end ? end : slot_end;
	struct ip_attributes2 part = { .attributes = wanted->attributes, .flags = wanted->flags };
	int error;

	if (!slot->size || from >= to)
		return 0;
	part.offset = slot->offset + (from - slot->gpa);
	part.size = to - from;
	if (!refused && real_ioctl(slot->file->fd, IP_SET_MEMORY_ATTRIBUTES2, &part) < 0) {
		error = errno;
		complain("KVM does not convert %#lx+%#lx of the guest_memfd to %s: %s, error_offset %#lx", part.offset,
			 part.size, part.attributes & IP_ATTRIBUTE_PRIVATE ? "private" : "shared", strerror(error),
			 part.error_offset);
		if (!asked_by_guest())
			return refuse(error);
		refused = error;
	}
	converted[nr_converted].file = slot->file;
	converted[nr_converted].offset = part.offset;
	converted[nr_converted++].size = part.size;
	return to - from;
}

static int convert(const struct ip_attributes *wanted)
{
	uint64_t done = 0;
	int64_t part = 0;

	nr_converted = 0;
	pthread_mutex_lock(&lock);
	for (int i = 0; i < MAX_SLOTS && part >= 0; i++) {
		part = convert_part(&slots[i], wanted);
		done += part > 0 ? part : 0;
	}
	pthread_mutex_unlock(&lock);
	if (part < 0)
		return -1;
	if (done != wanted->size) {
		complain("%#lx+%#lx is not all guest_memfd", wanted->address, wanted->size);
		return refuse(EINVAL);
	}
	return 0;
}

/* Whether [offset, offset + size) of the file lies in what this thread has just converted. */
static int just_converted(const struct file *file, uint64_t offset, uint64_t size)
{
	for (unsigned int i = 0; i < nr_converted; i++)
		if (converted[i].file == file && offset >= converted[i].offset && size <= converted[i].size &&
		    offset - converted[i].offset <= converted[i].size - size)
			return 1;
	return 0;
}

int madvise(void *address, size_t size, int advice)
{
	if (advice == MADV_DONTNEED || advice == MADV_REMOVE)
		for (unsigned int i = 0; i < nr_converted; i++) {
			const struct file *file = converted[i].file;

			if ((char *)address >= file->base &&
			    just_converted(file, (uint64_t)((char *)address - file->base), size))
				return 0;
		}
	return real_madvise(address, size, advice);
}

int fallocate(int fd, int mode, off_t offset, off_t size)
{
	const struct file *file;

	pthread_mutex_lock(&lock);
	file = file_of(fd);
	pthread_mutex_unlock(&lock);
	if (file && (mode & FALLOC_FL_PUNCH_HOLE) && offset >= 0 && size > 0 &&
	    just_converted(file, (uint64_t)offset, (uint64_t)size))
		return 0;
	return real_fallocate(fd, mode, offset, size);
}

int fallocate64(int fd, int mode, off64_t offset, off64_t size)
{
	return fallocate(fd, mode, offset, size);
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
		return create_vm(fd, (unsigned long)arg);
	case KVM_CHECK_EXTENSION:
		if (in_place && (unsigned long)arg == IP_CAP_MEMORY_ATTRIBUTES)
			return IP_ATTRIBUTE_PRIVATE;
		break;
	case KVM_CREATE_VCPU:
		if (in_place)
			return create_vcpu(fd, arg);
		break;
	case KVM_RUN:
		if (in_place)
			return run_vcpu(fd, arg);
		break;
	case IP_CREATE_GUEST_MEMFD:
		if (in_place)
			return create_guest_memfd(fd, arg);
		break;
	case IP_SET_USER_MEMORY_REGION2:
		if (in_place)
			return set_region2(fd, arg);
		break;
	case IP_SET_MEMORY_ATTRIBUTES:
		if (in_place)
			return convert(arg);
		break;
	}
	return real_ioctl(fd, request, arg);
}

__attribute__((constructor)) static void start(void)
{
	real_ioctl = (int (*)(int, unsigned long, ...))dlsym(RTLD_NEXT, "ioctl");
	real_madvise = (int (*)(void *, size_t, int))dlsym(RTLD_NEXT, "madvise");
	real_fallocate = (int (*)(int, int, off_t, off_t))dlsym(RTLD_NEXT, "fallocate");
	if (!real_ioctl || !real_madvise || !real_fallocate) {
		complain("no ioctl(), madvise() or fallocate() to forward to");
		abort();
	}
}
