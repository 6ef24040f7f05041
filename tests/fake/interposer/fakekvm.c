// SPDX-License-Identifier: GPL-2.0-only
/*
 * A KVM of paper: preloaded behind an interposer, its ioctl() is what the
 * interposer calls KVM.  Every request that reaches it becomes one line
 * "kvm: NAME key=value ..." on standard output, and is answered as KVM would.
 * Requests on descriptors that it did not make go to the real kernel.
 *
 * Request numbers are written out, so that a wrong structure in an interposer
 * is an unexpected request here.  ioctl(-1, FAKEKVM_COMMAND, "text") is the
 * test speaking to it; see command().
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FAKEKVM_COMMAND 0x46616b65UL /* drive.c has it too */

#define FK_SET_REGION 0x4020ae46UL
#define FK_SET_REGION2 0x40a0ae49UL
#define FK_SET_ATTRIBUTES 0x4020aed2UL
#define FK_CREATE_GUEST_MEMFD 0xc040aed4UL
#define FK_SET_ATTRIBUTES2 0xc080aed2UL
#define FK_RUN_SIZE 0x3000
#define FK_RUN_UNION 32 /* offset of the exit's own data in struct kvm_run */
#define FK_EXIT_HYPERCALL 3
#define FK_EXIT_MEMORY_FAULT 39
#define FK_UNSET 0x5a5a5a5a5a5a5a5aULL
#define FK_PRIVATE (1UL << 3)
#define MAX_FDS 64
#define MAX_EXITS 16

enum kind { NONE, KVM, VM, VCPU, GUEST_MEMFD };

struct exit {
	uint32_t reason;
	int error;
	uint64_t data[4]; /* hypercall: nr, args[0..2]; memory fault: flags, gpa, size */
};

static enum kind kind_of[MAX_FDS];
static struct kvm_run *run_of[MAX_FDS];
static unsigned long vm_types, vm_type;
static struct exit exits[MAX_EXITS];
static unsigned int exits_given, exits_taken;
static int guest_memfd = -1, failing_errno, in_place;
static uint64_t guest_memfd_size;
static struct kvm_cpuid_entry2 supports;
static char failing[32];
static struct kvm_run *awaiting_answer;

#define say(...) dprintf(STDOUT_FILENO, "kvm: " __VA_ARGS__)

static long refuse(int error)
{
	errno = error;
	return -1;
}

/* Whether the test wants this request, its next one of this name, to fail. */
static int must_fail(const char *name)
{
	if (strcmp(name, failing))
		return 0;
	failing[0] = '\0';
	errno = failing_errno;
	return 1;
}

static long new_fd(const char *name, enum kind kind, off_t size)
{
	int fd = memfd_create(name, MFD_CLOEXEC);

	if (fd < 0 || fd >= MAX_FDS || ftruncate(fd, size))
		abort();
	kind_of[fd] = kind;
	return fd;
}

/* The parts of the guest_memfd that hold pages. */
static void show_private(void)
{
	off_t from = 0, to;

	dprintf(STDOUT_FILENO, "private:");
	while ((from = lseek(guest_memfd, from, SEEK_DATA)) >= 0) {
		to = lseek(guest_memfd, from, SEEK_HOLE);
		dprintf(STDOUT_FILENO, " %#lx-%#lx", from, to);
		from = to;
	}
	dprintf(STDOUT_FILENO, "\n");
}

/* Written, not allocated: SEEK_DATA of a memfd does not see a page that was only allocated. */
static long fill_private(void)
{
	for (uint64_t at = 0; at < guest_memfd_size; at += sizeof(at))
		if (pwrite(guest_memfd, &at, sizeof(at), (off_t)at) != sizeof(at))
			return -1;
	return 0;
}

/*
 * open               returns a descriptor of /dev/kvm
 * types MASK         the VM types of the kernel
 * fail NAME ERRNO    the next request of that name fails
 * exit REASON ERRNO DATA...   what the next KVM_RUN of the queue comes back with
 * in_place           guest_memfd converts in place, as the kernels do that have it
 * supports LEAF EAX EBX ECX EDX    what KVM_GET_SUPPORTED_CPUID says, and nothing else
 * private            prints the extents of the guest_memfd
 * private_fill       writes to all of it
 */
static long command(char *text)
{
	struct exit *exit = &exits[exits_given % MAX_EXITS];
	uint64_t *d = exit->data;

	if (!strcmp(text, "open"))
		return new_fd("kvm", KVM, 0);
	if (sscanf(text, "types %li", &vm_types) == 1 || sscanf(text, "fail %31s %i", failing, &failing_errno) == 2)
		return 0;
	if (sscanf(text, "exit %u %i %li %li %li %li", &exit->reason, &exit->error, &d[0], &d[1], &d[2], &d[3]) >= 2)
		return exits_given++ - exits_taken >= MAX_EXITS ? refuse(ENOSPC) : 0;
	if (sscanf(text, "supports %i %i %i %i %i", &supports.function, &supports.eax, &supports.ebx, &supports.ecx,
		   &supports.edx) == 5)
		return 0;
	if (!strcmp(text, "private_fill"))
		return fill_private();
	if (!strcmp(text, "in_place"))
		return !(in_place = 1);
	if (strcmp(text, "private"))
		return refuse(EINVAL);
	show_private();
	return 0;
}

static long on_kvm(unsigned long request, unsigned long arg)
{
	switch (request) {
	case KVM_GET_API_VERSION:
		return KVM_API_VERSION;
	case KVM_CHECK_EXTENSION:
		return arg == 235 ? (long)vm_types : 3; /* 235 is KVM_CAP_VM_TYPES; 3 has the bit of type 1 */
	case KVM_GET_SUPPORTED_CPUID:
		((struct kvm_cpuid2 *)arg)->nent = 1;
		((struct kvm_cpuid2 *)arg)->entries[0] = supports;
		return 0;
	case KVM_GET_VCPU_MMAP_SIZE:
		return FK_RUN_SIZE;
	case KVM_CREATE_VM:
		say("create_vm type=%lu\n", arg);
		if (must_fail("create_vm"))
			return -1;
		if (arg > 31 || !((vm_types | 1) & 1UL << arg))
			return refuse(EINVAL);
		vm_type = arg;
		return new_fd("vm", VM, 0);
	}
	say("unexpected request=%#lx\n", request);
	return refuse(ENOTTY);
}

static long set_region(const char *name, const uint64_t *words)
{
	/* slot and flags; address, size, address of user space; offset in and descriptor of the guest_memfd */
	uint32_t slot = (uint32_t)words[0], flags = (uint32_t)(words[0] >> 32);
	int gmem = name[6] == '2' && flags & 4;

	say("%s slot=%u flags=%u gpa=%#lx size=%#lx hva=%#lx", name, slot, flags, words[1], words[2], words[3]);
	if (gmem)
		dprintf(STDOUT_FILENO, " guest_memfd=%s offset=%#lx",
			(int)words[5] == guest_memfd ? "ours" : "foreign", words[4]);
	dprintf(STDOUT_FILENO, "\n");
	if (must_fail(name))
		return -1;
	if (flags & ~7U || (flags & 4 && (!gmem || flags != 4 || vm_type != 1)))
		return refuse(EINVAL);
	if (gmem && (int)words[5] != guest_memfd)
		return refuse(EBADF);
	if (gmem && (words[4] % 4096 || words[4] + words[2] > guest_memfd_size))
		return refuse(EINVAL);
	return 0;
}

static long create_guest_memfd(const uint64_t *words)
{
	say("create_guest_memfd size=%#lx flags=%#lx\n", words[0], words[1]);
	if (must_fail("create_guest_memfd"))
		return -1;
	if (vm_type != 1 || !words[0] || words[0] % 4096 || words[1] & ~(in_place ? 3UL : 0UL))
		return refuse(EINVAL);
	guest_memfd_size = words[0];
	guest_memfd = (int)new_fd("guest_memfd", GUEST_MEMFD, (off_t)words[0]);
	return guest_memfd;
}

static long set_attributes(const uint64_t *words)
{
	say("set_attributes address=%#lx size=%#lx attributes=%lu flags=%lu\n", words[0], words[1], words[2], words[3]);
	if (must_fail("set_attributes"))
		return -1;
	if ((words[0] | words[1]) % 4096 || !words[1] || words[2] & ~FK_PRIVATE || words[3])
		return refuse(EINVAL);
	return 0;
}

static long on_guest_memfd(unsigned long request, uint64_t *words)
{
	int refused;

	if (!in_place || request != FK_SET_ATTRIBUTES2)
		return refuse(ENOTTY);
	say("set_attributes2 offset=%#lx size=%#lx attributes=%lu flags=%lu\n", words[0], words[1], words[2], words[3]);
	refused = must_fail("set_attributes2");
	if (refused)
		words[4] = words[0] + 4096; /* error_offset */
	if (refused)
		return -1;
	if ((words[0] | words[1]) % 4096 || !words[1] || words[2] & ~FK_PRIVATE || words[3] ||
	    words[0] + words[1] > guest_memfd_size)
		return refuse(EINVAL);
	return 0;
}

static long create_vcpu(void)
{
	long fd = new_fd("vcpu", VCPU, FK_RUN_SIZE);

	run_of[fd] = mmap(NULL, FK_RUN_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, (int)fd, 0);
	if (run_of[fd] == MAP_FAILED)
		abort();
	return fd;
}

static long on_vm(unsigned long request, unsigned long arg)
{
	const struct kvm_enable_cap *cap = (const void *)arg;

	switch (request) {
	case KVM_ENABLE_CAP:
		say("enable_cap cap=%u flags=%u arg=%#llx\n", cap->cap, cap->flags, cap->args[0]);
		return must_fail("enable_cap") ? -1 : 0;
	case KVM_CREATE_VCPU:
		return create_vcpu();
	case FK_SET_REGION:
		return set_region("region", (const void *)arg);
	case FK_SET_REGION2:
		return set_region("region2", (const void *)arg);
	case FK_SET_ATTRIBUTES:
		return set_attributes((const void *)arg);
	case FK_CREATE_GUEST_MEMFD:
		return create_guest_memfd((const void *)arg);
	}
	say("unexpected request=%#lx\n", request);
	return refuse(ENOTTY);
}

static long run_vcpu(struct kvm_run *run)
{
	const struct exit *exit = &exits[exits_taken % MAX_EXITS];

	if (awaiting_answer == run) {
		say("hypercall returns %lld\n", (long long)run->hypercall.ret);
		awaiting_answer = NULL;
	}
	if (exits_taken == exits_given)
		return refuse(EINTR);
	exits_taken++;
	run->exit_reason = exit->reason;
	if (exit->reason == FK_EXIT_HYPERCALL && !exit->error) {
		run->hypercall.nr = exit->data[0];
		memcpy(run->hypercall.args, &exit->data[1], 3 * sizeof(uint64_t));
		run->hypercall.ret = FK_UNSET;
		awaiting_answer = run;
	} else if (exit->reason == FK_EXIT_MEMORY_FAULT) {
		memcpy((char *)run + FK_RUN_UNION, exit->data, 3 * sizeof(uint64_t));
	}
	return exit->error ? refuse(exit->error) : 0;
}

static long on_vcpu(int fd, unsigned long request, unsigned long arg)
{
	const struct kvm_cpuid2 *cpuid = (const void *)arg;

	switch (request) {
	case KVM_RUN:
		return run_vcpu(run_of[fd]);
	case KVM_SET_CPUID2:
		for (uint32_t i = 0; i < cpuid->nent; i++) {
			const struct kvm_cpuid_entry2 *e = &cpuid->entries[i];

			say("cpuid %#x.%u %#x %#x %#x %#x\n", e->function, e->index, e->eax, e->ebx, e->ecx, e->edx);
		}
		return must_fail("cpuid") ? -1 : 0;
	}
	say("unexpected request=%#lx\n", request);
	return refuse(ENOTTY);
}

int ioctl(int fd, unsigned long request, ...)
{
	unsigned long arg;
	va_list ap;

	va_start(ap, request);
	arg = va_arg(ap, unsigned long);
	va_end(ap);
	if (request == FAKEKVM_COMMAND)
		return (int)command((char *)arg);
	switch (fd >= 0 && fd < MAX_FDS ? kind_of[fd] : NONE) {
	case KVM:
		return (int)on_kvm(request, arg);
	case VM:
		return (int)on_vm(request, arg);
	case VCPU:
		return (int)on_vcpu(fd, request, arg);
	case GUEST_MEMFD:
		return (int)on_guest_memfd(request, (void *)arg);
	default:
		return (int)syscall(SYS_ioctl, fd, request, arg);
	}
}
