// SPDX-License-Identifier: GPL-2.0-only
/*
 * Puts a kernel into memory and starts it, where a host has no kexec-tools.
 *
 *   gmem-kexec load IMAGE INITRD|- WORDS     kexec_file_load(2); WORDS is the whole command line
 *   gmem-kexec exec                          sync and reboot(LINUX_REBOOT_CMD_KEXEC); does not return
 *
 * Status 0, or 1 with one sentence on standard error.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/kexec.h>
#include <stdio.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <unistd.h>

#define REBOOT_KEXEC 0x45584543 /* LINUX_REBOOT_CMD_KEXEC of include/uapi/linux/reboot.h */

/* Why the kernel refuses; kernel/kexec_file.c and arch/x86/kernel/kexec-bzimage64.c. */
static const char *reason(int error)
{
	switch (error) {
	case ENOSYS:
		return "the running kernel has no CONFIG_KEXEC_FILE";
	case EPERM:
		return "not allowed: not root, kernel.kexec_load_disabled is 1, or the kernel is locked down";
	case ENOEXEC:
		return "not a bzImage that can be moved: build it with CONFIG_RELOCATABLE";
	case EBADMSG:
	case EKEYREJECTED:
	case ENOKEY:
	case ENODATA:
		return "the kernel wants images that are signed";
	case EADDRNOTAVAIL:
	case ENOMEM:
		return "not enough memory in one piece";
	default:
		return strerror(error);
	}
}

static int fail(const char *what, const char *why)
{
	fprintf(stderr, "%s: %s\n", what, why);
	return 1;
}

static int load(const char *image, const char *initrd, const char *words)
{
	unsigned long flags = 0;
	int kernel, files = -1;

	kernel = open(image, O_RDONLY | O_CLOEXEC);
	if (kernel < 0)
		return fail(image, strerror(errno));
	if (!strcmp(initrd, "-")) {
		flags |= KEXEC_FILE_NO_INITRAMFS;
	} else {
		files = open(initrd, O_RDONLY | O_CLOEXEC);
		if (files < 0)
			return fail(initrd, strerror(errno));
	}
	if (syscall(SYS_kexec_file_load, kernel, files, strlen(words) + 1, words, flags))
		return fail("kexec_file_load", reason(errno));
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 5 && !strcmp(argv[1], "load"))
		return load(argv[2], argv[3], argv[4]);
	if (argc == 2 && !strcmp(argv[1], "exec")) {
		sync();
		reboot(REBOOT_KEXEC);
		return fail("reboot", errno == EINVAL ? "no kernel is loaded" : strerror(errno));
	}
	return fail("usage", "gmem-kexec load IMAGE INITRD|- WORDS, or gmem-kexec exec");
}
