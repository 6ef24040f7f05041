/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The memory slots that a VM was given, for interposers which write into
 * guest memory on behalf of a firmware that is not there.
 */
#ifndef GMEM_SLOTS_H
#define GMEM_SLOTS_H

#include <linux/kvm.h>
#include <stdint.h>
#include <sys/ioctl.h>

/* Of newer headers than a build machine may have; values are ABI. */
struct slots_region {
	uint32_t slot, flags;
	uint64_t guest_phys_addr, memory_size, userspace_addr;
	uint64_t guest_memfd_offset;
	uint32_t guest_memfd, pad1;
	uint64_t pad2[14];
};
#define SLOTS_SET_REGION2 _IOW(KVMIO, 0x49, struct slots_region)

struct slots_attributes {
	uint64_t address, size, attributes, flags;
};
#define SLOTS_SET_ATTRIBUTES _IOW(KVMIO, 0xd2, struct slots_attributes)

/* Take note of a region that KVM accepted; one of size 0 ends its slot. */
void slots_remember(const struct slots_region *region);

/* The address in QEMU of guest physical [gpa, gpa + size), or NULL where no one slot has it. */
void *slots_shared_address(uint64_t gpa, uint64_t size);

/*
 * Copy the end of a ROM that ends at 4 GiB to the end of the first MiB: QEMU
 * maps no copy of it there for confidential guests, and qboot expects one.
 * -1 where there is no RAM.
 */
int slots_copy_rom_low(const void *rom, uint64_t size);

#endif
