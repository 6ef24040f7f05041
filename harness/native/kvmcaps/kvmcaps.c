// SPDX-License-Identifier: GPL-2.0-only
/*
 * What KVM of this host answers: one line key=value each, "end=1" last, so that half an answer is seen as such.
 *
 * Every VM type is created, also those that KVM_CAP_VM_TYPES does not name, because the error tells why; a VM is closed
 * at once and no guest memory is made private, so that no ASID and no key identifier is taken.  An extension is asked
 * of the VM's own descriptor: before 6.18 the system-wide answer says nothing about a type of VM.  A default VM
 * executes one instruction, because /dev/kvm may exist and run nothing.
 *
 * Needs no root, only /dev/kvm.  Numbers are those of include/uapi/linux/kvm.h; the headers here may be older.
 */

#define _GNU_SOURCE
#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define LIMIT_SECONDS 20 /* creating a VM takes milliseconds; a host that hangs in it is ended here */

struct asked {
	const char *name;
	int number;
};

static const struct asked caps[] = {
	{ "exit_hypercall", 201 },     { "user_memory2", 231 },	  { "memory_fault_info", 232 },
	{ "memory_attributes", 233 },  { "guest_memfd", 234 },	  { "vm_types", 235 },
	{ "pre_fault_memory", 236 },   { "guest_memfd_flags", 244 },
};

static const struct asked types[] = {
	{ "default", 0 }, { "sw-protected", 1 }, { "sev", 2 }, { "sev-es", 3 }, { "snp", 4 }, { "tdx", 5 },
};

struct gmem {
	uint64_t size, flags, reserved[6];
};
#define CREATE_GMEM _IOWR(KVMIO, 0xd4, struct gmem)
#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

/* "0x.." of a result, "error:NAME" of a failure. */
static void say(const char *scope, const char *what, long result)
{
	if (result < 0)
		printf("%s.%s=error:%s\n", scope, what, strerrorname_np(errno) ?: "unknown");
	else
		printf("%s.%s=0x%lx\n", scope, what, result);
}

static void extensions(const char *scope, int fd)
{
	for (size_t i = 0; i < COUNT(caps); i++)
		say(scope, caps[i].name, ioctl(fd, KVM_CHECK_EXTENSION, caps[i].number));
}

static void cpu(void)
{
	uint32_t a, b, c, d;
	char vendor[13] = "";

	if (__get_cpuid(0, &a, &b, &c, &d)) {
		memcpy(vendor, &b, 4);
		memcpy(vendor + 4, &d, 4);
		memcpy(vendor + 8, &c, 4);
		printf("cpuid.vendor=%s\n", vendor);
	}
	if (!strcmp(vendor, "AuthenticAMD") && __get_cpuid_count(0x8000001f, 0, &a, &b, &c, &d))
		printf("cpuid.8000001f=0x%x,0x%x,0x%x,0x%x\n", a, b, c, d);
}

/* What the BIOS left for TDX; needs root and the msr driver, and is an error on a CPU without the register. */
static void msr(const char *key, long number)
{
	uint64_t value = 0;
	int fd = open("/dev/cpu/0/msr", O_RDONLY | O_CLOEXEC);

	if (fd < 0 || pread(fd, &value, sizeof(value), number) != sizeof(value))
		printf("msr.%s=error:%s\n", key, strerrorname_np(errno) ?: "unknown");
	else
		printf("msr.%s=0x%lx\n", key, value);
	if (fd >= 0)
		close(fd);
}

/* hlt at the reset vector's page, in real mode with segments based at 0. */
static const char *run(int kvm, int vm)
{
	int size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	uint8_t *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct kvm_userspace_memory_region slot = { .guest_phys_addr = 0x1000, .memory_size = 4096 };
	struct kvm_regs regs = { .rip = 0x1000, .rflags = 2 };
	struct kvm_sregs sregs;
	struct kvm_run *state;
	int vcpu;

	if (size <= 0 || page == MAP_FAILED)
		return "memory";
	page[0] = 0xf4;
	slot.userspace_addr = (uintptr_t)page;
	if (ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot))
		return "slot";
	ioctl(vm, KVM_SET_TSS_ADDR, 0xfffbd000); /* Intel CPUs without unrestricted guests want it */
	vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	if (vcpu < 0)
		return "vcpu";
	state = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	if (state == MAP_FAILED || ioctl(vcpu, KVM_GET_SREGS, &sregs))
		return "state";
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	if (ioctl(vcpu, KVM_SET_SREGS, &sregs) || ioctl(vcpu, KVM_SET_REGS, &regs))
		return "registers";
	if (ioctl(vcpu, KVM_RUN, 0))
		return "run";
	return state->exit_reason == KVM_EXIT_HLT ? "yes" : "exit";
}

static void machine(int kvm, const struct asked *type)
{
	char scope[32];
	struct gmem gmem = { .size = 4096 };
	int vm = ioctl(kvm, KVM_CREATE_VM, type->number), fd;

	snprintf(scope, sizeof(scope), "vm.%s", type->name);
	say(scope, "create", vm < 0 ? -1 : 0);
	if (vm < 0)
		return;
	extensions(scope, vm);
	fd = ioctl(vm, CREATE_GMEM, &gmem);
	say(scope, "gmem", fd < 0 ? -1 : 0);
	if (fd >= 0)
		close(fd);
	if (type->number == 0) {
		printf("vm.default.runs=trying\n");
		fflush(stdout);
		printf("vm.default.runs=%s\n", run(kvm, vm));
	}
	close(vm);
}

int main(void)
{
	int kvm;

	alarm(LIMIT_SECONDS);
	printf("kvmcaps=1\n");
	cpu();
	msr("1401", 0x1401); /* IA32_SEAMRR_PHYS_MASK */
	msr("87", 0x87);     /* IA32_MKTME_KEYID_PARTITIONING */
	kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	say("kvm", "open", kvm < 0 ? -1 : 0);
	if (kvm >= 0) {
		say("kvm", "api", ioctl(kvm, KVM_GET_API_VERSION, 0));
		extensions("sys", kvm);
		for (size_t i = 0; i < COUNT(types); i++)
			machine(kvm, &types[i]);
	}
	printf("end=1\n");
	return fflush(stdout) ? 1 : 0;
}
