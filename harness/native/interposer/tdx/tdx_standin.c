// SPDX-License-Identifier: GPL-2.0-only
/*
 * Stands in for the TDX module and the hardware, so that a stock QEMU runs its
 * own tdx-guest launch and its own kvm_convert_memory() while KVM runs a
 * KVM_X86_SW_PROTECTED_VM.  The CPU may be anyone's.
 *
 * Loaded with LD_PRELOAD.  QEMU sees TDX; KVM sees a software-protected VM.
 * guest_memfd, memory attributes and discards are QEMU's and KVM's own work.
 * Nothing is encrypted, and nothing here may be reported as TDX.
 *
 * Only ioctl() is intercepted:
 *
 *   KVM_CHECK_EXTENSION          KVM_CAP_VM_TYPES also has the TDX bit
 *   KVM_CREATE_VM                TDX becomes SW_PROTECTED
 *   KVM_MEMORY_ENCRYPT_OP        the TDX commands succeed.  CAPABILITIES says
 *                                that everything can be had; INIT_MEM_REGION
 *                                copies into the shared memory of the guest
 *   KVM_SET_MEMORY_ATTRIBUTES    dropped until FINALIZE_VM: memory starts
 *                                shared, so firmware, kernel loading and
 *                                virtio work as in any VM
 *   KVM_GET_SUPPORTED_CPUID      remembered
 *   KVM_SET_CPUID2               what QEMU sets because TDX forces it is taken
 *                                back where KVM has it not, and KVM's own
 *                                leaves are offered: the guest kernel is an
 *                                ordinary Linux
 *
 * QEMU sets no register of a TDX guest.  So the processor starts as KVM resets
 * it, at the reset vector in real mode, which is where our firmware begins; a
 * TD would start in protected mode.
 *
 * QEMU gives the firmware's shared copy up between INIT_MEM_REGION and
 * FINALIZE_VM, since on hardware it is in private memory by then.  Here it is
 * put back at FINALIZE_VM, with the copy below 1 MiB that qboot expects.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "slots.h"

/* Names of newer headers than a build machine may have; values are ABI. */
#define TI_VM_TYPE_SW_PROTECTED 1UL
#define TI_VM_TYPE_TDX 5UL
#define TI_CAP_VM_TYPES 235
enum { TI_CAPABILITIES, TI_INIT_VM, TI_INIT_VCPU, TI_INIT_MEM_REGION, TI_FINALIZE_VM, TI_GET_CPUID };

struct ti_command {
	uint32_t id, flags;
	uint64_t data, hw_error;
};

struct ti_capabilities {
	uint64_t attributes, xfam;
	uint64_t reserved[254];
	struct kvm_cpuid2 cpuid;
};

struct ti_mem_region {
	uint64_t source, gpa, pages;
};

#define PAGE_SHIFT 12
#define ROM_END (1ULL << 32)
#define LEAF_KVM_FEATURES 0x40000001U
#define MAX_ENTRIES 256

static int (*real_ioctl)(int, unsigned long, ...);
static int finalized;
static void *rom;
static uint64_t rom_size;
static struct kvm_cpuid_entry2 supported[MAX_ENTRIES];
static uint32_t supported_count;

/* Leaves with feature bits which QEMU forces on, or takes away, for a TD (target/i386/kvm/tdx.c, tdx_fixed1_bits). */
static const struct {
	uint32_t function, index;
} feature_leaves[] = {
	{ 0x1, 0 }, { 0x6, 0 }, { 0x7, 0 }, { 0x7, 1 }, { 0x7, 2 }, { 0xd, 1 }, { 0x80000001, 0 }, { 0x80000007, 0 },
};
#define FEATURE_LEAVES (sizeof(feature_leaves) / sizeof(feature_leaves[0]))

static int refuse(const char *what, int error)
{
	/* One line on stderr: it ends in the QEMU log that is kept as evidence. */
	fprintf(stderr, "tdx_standin: %s\n", what);
	errno = error;
	return -1;
}

static void find_real(void)
{
	if (!real_ioctl)
		real_ioctl = (int (*)(int, unsigned long, ...))dlsym(RTLD_NEXT, "ioctl");
	if (!real_ioctl) {
		refuse("no ioctl() to forward to", ENOSYS);
		abort();
	}
}

/* The module of a machine on which everything is supported and every bit of the leaves can be chosen. */
static int capabilities(struct ti_capabilities *caps)
{
	uint32_t i, room = caps->cpuid.nent;

	caps->cpuid.nent = FEATURE_LEAVES;
	if (room < FEATURE_LEAVES) {
		errno = E2BIG;
		return -1;
	}
	caps->attributes = caps->xfam = ~0ULL;
	for (i = 0; i < FEATURE_LEAVES; i++)
		caps->cpuid.entries[i] = (struct kvm_cpuid_entry2){
			.function = feature_leaves[i].function,
			.index = feature_leaves[i].index,
			.eax = ~0U, .ebx = ~0U, .ecx = ~0U, .edx = ~0U,
		};
	return 0;
}

static int init_mem_region(const struct ti_mem_region *region)
{
	const void *source = (const void *)(uintptr_t)region->source;
	uint64_t size = region->pages << PAGE_SHIFT;
	void *target = slots_shared_address(region->gpa, size);

	if (!target)
		return refuse("a section of the firmware is for an address without memory", EINVAL);
	if (target != source)
		memcpy(target, source, size);
	if (region->gpa + size == ROM_END) {
		free(rom);
		rom = malloc(size);
		if (!rom)
			return refuse("no memory for a copy of the firmware", ENOMEM);
		rom_size = size;
		memcpy(rom, source, size);
	}
	return 0;
}

static int finalize(void)
{
	void *target = rom ? slots_shared_address(ROM_END - rom_size, rom_size) : NULL;

	if (!target)
		return refuse("there was no firmware that ends at 4 GiB", EINVAL);
	memcpy(target, rom, rom_size);
	if (slots_copy_rom_low(rom, rom_size))
		return refuse("no RAM below 1 MiB to copy the ROM to", EINVAL);
	finalized = 1;
	return 0;
}

static int encrypt_op(struct ti_command *command)
{
	void *data;

	if (!command)
		return refuse("no command", EINVAL);
	data = (void *)(uintptr_t)command->data;
	command->hw_error = 0;
	switch (command->id) {
	case TI_CAPABILITIES:
		return capabilities(data);
	case TI_INIT_VM:
	case TI_INIT_VCPU:
		return 0;
	case TI_INIT_MEM_REGION:
		return init_mem_region(data);
	case TI_FINALIZE_VM:
		return finalize();
	case TI_GET_CPUID:
		/* What is not in the list is taken for granted. */
		((struct kvm_cpuid2 *)data)->nent = 0;
		return 0;
	}
	return refuse("TDX command that it does not know", ENOTTY);
}

static void remember_supported(const struct kvm_cpuid2 *cpuid)
{
	if (cpuid->nent > MAX_ENTRIES)
		return;
	memcpy(supported, cpuid->entries, cpuid->nent * sizeof(supported[0]));
	supported_count = cpuid->nent;
}

static const struct kvm_cpuid_entry2 *supported_leaf(uint32_t function, uint32_t index)
{
	uint32_t i;

	for (i = 0; i < supported_count; i++)
		if (supported[i].function == function && supported[i].index == index)
			return &supported[i];
	return NULL;
}

static int set_cpuid2(int fd, struct kvm_cpuid2 *cpuid)
{
	const struct kvm_cpuid_entry2 *own;
	uint32_t i, n;

	for (i = 0; i < cpuid->nent; i++) {
		struct kvm_cpuid_entry2 *e = &cpuid->entries[i];

		for (n = 0; n < FEATURE_LEAVES; n++) {
			if (e->function != feature_leaves[n].function || e->index != feature_leaves[n].index)
				continue;
			own = supported_leaf(e->function, e->index);
			e->eax &= own ? own->eax | (e->function == 1 ? ~0U : 0) : 0;
			/* Leaf 1: APIC id and sizes, in ebx; the deadline timer and what follows control registers, in ecx. */
			e->ebx &= own ? own->ebx | (e->function == 1 ? ~0U : 0) : 0;
			e->ecx &= own ? own->ecx | (e->function == 1 ? 1U << 24 | 1U << 27 : 0) : 0;
			e->edx &= own ? own->edx : 0;
		}
		own = supported_leaf(e->function, e->index);
		if (e->function == LEAF_KVM_FEATURES && own)
			e->eax = own->eax;
	}
	return real_ioctl(fd, KVM_SET_CPUID2, cpuid);
}

int ioctl(int fd, unsigned long request, ...)
{
	va_list ap;
	void *arg;
	int ret;

	va_start(ap, request);
	arg = va_arg(ap, void *);
	va_end(ap);
	find_real();

	switch (request) {
	case KVM_CHECK_EXTENSION:
		ret = real_ioctl(fd, request, arg);
		if ((unsigned long)arg == TI_CAP_VM_TYPES && ret > 0 && (ret & (1 << TI_VM_TYPE_SW_PROTECTED)))
			ret |= 1 << TI_VM_TYPE_TDX;
		return ret;
	case KVM_CREATE_VM:
		if ((unsigned long)arg == TI_VM_TYPE_TDX)
			arg = (void *)TI_VM_TYPE_SW_PROTECTED;
		return real_ioctl(fd, request, arg);
	case KVM_MEMORY_ENCRYPT_OP:
		return encrypt_op(arg);
	case SLOTS_SET_ATTRIBUTES:
		return finalized ? real_ioctl(fd, request, arg) : 0;
	case SLOTS_SET_REGION2:
		ret = real_ioctl(fd, request, arg);
		if (!ret)
			slots_remember(arg);
		return ret;
	case KVM_GET_SUPPORTED_CPUID:
		ret = real_ioctl(fd, request, arg);
		if (!ret)
			remember_supported(arg);
		return ret;
	case KVM_SET_CPUID2:
		return set_cpuid2(fd, arg);
	}
	return real_ioctl(fd, request, arg);
}
