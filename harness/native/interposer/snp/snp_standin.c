// SPDX-License-Identifier: GPL-2.0-only
/*
 * Stands in for the SEV-SNP firmware and hardware, so that a stock QEMU runs
 * its own sev-snp-guest launch and its own kvm_convert_memory() while KVM runs
 * a KVM_X86_SW_PROTECTED_VM.
 *
 * Loaded with LD_PRELOAD.  QEMU sees SNP; KVM sees a software-protected VM.
 * guest_memfd, memory attributes and discards are QEMU's and KVM's own work.
 * Nothing is encrypted, and nothing here may be reported as SNP.
 *
 * Only open*() of /dev/sev and ioctl() are intercepted:
 *
 *   /dev/sev                     a harmless descriptor; SEV_ISSUE_CMD answers
 *                                "API 1.55, initialised"
 *   KVM_CHECK_EXTENSION          KVM_CAP_VM_TYPES also has the SNP bit
 *   KVM_CREATE_VM                SNP becomes SW_PROTECTED, and hypercall exits
 *                                for KVM_HC_MAP_GPA_RANGE are switched on
 *   KVM_MEMORY_ENCRYPT_OP        the SNP launch commands succeed
 *   KVM_MEMORY_ENCRYPT_*REG*     succeed
 *   KVM_SET_MEMORY_ATTRIBUTES    dropped until LAUNCH_FINISH: memory starts
 *                                shared, so firmware, kernel loading and
 *                                virtio work as in any VM
 *   KVM_SET_CPUID2               leaf 0x8000001f is zeroed: the guest kernel
 *                                is an ordinary Linux
 *
 * QEMU maps no copy of the ROM below 1 MiB for confidential guests; qboot
 * expects one.  It is copied there when the ROM is "measured".
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <linux/psp-sev.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "slots.h"

/* Names of newer headers than a build machine may have; values are ABI. */
#define SI_VM_TYPE_SW_PROTECTED 1UL
#define SI_VM_TYPE_SNP 4UL
#define SI_CAP_VM_TYPES 235
#define SI_CAP_EXIT_HYPERCALL 201
#define SI_HC_MAP_GPA_RANGE 12
#define SI_SEV_INIT2 22
#define SI_SNP_LAUNCH_START 100
#define SI_SNP_LAUNCH_UPDATE 101
#define SI_SNP_LAUNCH_FINISH 102
#define SI_CPUID_ENCRYPTED_MEMORY 0x8000001fU
#define SI_API_MAJOR 1
#define SI_API_MINOR 55
#define SI_STATE_INIT 1

struct si_launch_update {
	uint64_t gfn_start, uaddr, len;
	uint8_t type, pad0;
	uint16_t flags;
	uint32_t pad1;
	uint64_t pad2[4];
};

static int (*real_ioctl)(int, unsigned long, ...);
static int sev_fd = -1;
static int launched;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void complain(const char *what)
{
	/* One line on stderr: it ends in the QEMU log that is kept as evidence. */
	fprintf(stderr, "snp_standin: %s\n", what);
}

static void find_real(void)
{
	if (!real_ioctl)
		real_ioctl = (int (*)(int, unsigned long, ...))dlsym(RTLD_NEXT, "ioctl");
	if (!real_ioctl) {
		complain("no ioctl() to forward to");
		abort();
	}
}

static int stand_in_for_sev(const char *path)
{
	int fd;

	if (strcmp(path, "/dev/sev"))
		return -1;
	fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	pthread_mutex_lock(&lock);
	sev_fd = fd;
	pthread_mutex_unlock(&lock);
	return fd;
}

#define OPEN_LIKE(name)                                                        \
	int name(const char *path, int flags, ...)                             \
	{                                                                      \
		static int (*next)(const char *, int, ...);                    \
		mode_t mode = 0;                                               \
		int fd;                                                        \
									       \
		if (!strcmp(path, "/dev/sev")) {                               \
			fd = stand_in_for_sev(path);                           \
			return fd;                                             \
		}                                                              \
		if (!next)                                                     \
			next = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, #name); \
		if (flags & (O_CREAT | __O_TMPFILE)) {                         \
			va_list ap;                                            \
			va_start(ap, flags);                                   \
			mode = va_arg(ap, mode_t);                             \
			va_end(ap);                                            \
		}                                                              \
		return next(path, flags, mode);                                \
	}

static int sev_command(struct sev_issue_cmd *cmd)
{
	if (cmd->cmd == SEV_PLATFORM_STATUS && cmd->data) {
		struct sev_user_data_status *status = (void *)(uintptr_t)cmd->data;

		memset(status, 0, sizeof(*status));
		status->api_major = SI_API_MAJOR;
		status->api_minor = SI_API_MINOR;
		status->state = SI_STATE_INIT;
		status->build = 1;
	}
	cmd->error = 0;
	return 0;
}

static int launch_update(struct si_launch_update *update)
{
	uint64_t end = (update->gfn_start << 12) + update->len;

	if (end == 1ULL << 32 && update->len &&
	    slots_copy_rom_low((void *)(uintptr_t)update->uaddr, update->len)) {
		complain("no RAM below 1 MiB to copy the ROM to");
		errno = EINVAL;
		return -1;
	}
	update->gfn_start += update->len >> 12;
	update->uaddr += update->len;
	update->len = 0;
	return 0;
}

static int encrypt_op(struct kvm_sev_cmd *cmd)
{
	/* Without a command it is a question: is there SEV?  sev_mem_enc_ioctl() says yes by 0. */
	if (!cmd)
		return 0;
	cmd->error = 0;
	switch (cmd->id) {
	case SI_SEV_INIT2:
	case SI_SNP_LAUNCH_START:
		return 0;
	case SI_SNP_LAUNCH_UPDATE:
		return launch_update((void *)(uintptr_t)cmd->data);
	case SI_SNP_LAUNCH_FINISH:
		launched = 1;
		return 0;
	}
	complain("SEV command that it does not know");
	errno = ENOTTY;
	return -1;
}

static int create_vm(int fd, unsigned long type)
{
	struct kvm_enable_cap cap = { .cap = SI_CAP_EXIT_HYPERCALL };
	int vm;

	if (type != SI_VM_TYPE_SNP)
		return real_ioctl(fd, KVM_CREATE_VM, type);
	vm = real_ioctl(fd, KVM_CREATE_VM, SI_VM_TYPE_SW_PROTECTED);
	if (vm < 0)
		return vm;
	cap.args[0] = 1UL << SI_HC_MAP_GPA_RANGE;
	if (real_ioctl(vm, KVM_ENABLE_CAP, &cap) < 0)
		complain("KVM does not hand KVM_HC_MAP_GPA_RANGE to user space");
	return vm;
}

static int set_cpuid2(int fd, struct kvm_cpuid2 *cpuid)
{
	uint32_t i;

	for (i = 0; i < cpuid->nent; i++) {
		struct kvm_cpuid_entry2 *e = &cpuid->entries[i];

		if (e->function == SI_CPUID_ENCRYPTED_MEMORY)
			e->eax = e->ebx = e->ecx = e->edx = 0;
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

	if (fd >= 0 && fd == sev_fd && request == SEV_ISSUE_CMD)
		return sev_command(arg);
	switch (request) {
	case KVM_CHECK_EXTENSION:
		ret = real_ioctl(fd, request, arg);
		if ((unsigned long)arg == SI_CAP_VM_TYPES && ret > 0 &&
		    (ret & (1 << SI_VM_TYPE_SW_PROTECTED)))
			ret |= 1 << SI_VM_TYPE_SNP;
		return ret;
	case KVM_CREATE_VM:
		return create_vm(fd, (unsigned long)arg);
	case KVM_MEMORY_ENCRYPT_OP:
		return encrypt_op(arg);
	case KVM_MEMORY_ENCRYPT_REG_REGION:
	case KVM_MEMORY_ENCRYPT_UNREG_REGION:
		return 0;
	case SLOTS_SET_ATTRIBUTES:
		return launched ? real_ioctl(fd, request, arg) : 0;
	case SLOTS_SET_REGION2:
		ret = real_ioctl(fd, request, arg);
		if (!ret)
			slots_remember(arg);
		return ret;
	case KVM_SET_CPUID2:
		return set_cpuid2(fd, arg);
	}
	return real_ioctl(fd, request, arg);
}

OPEN_LIKE(open)
OPEN_LIKE(open64)
