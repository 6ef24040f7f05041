// SPDX-License-Identifier: GPL-2.0-only
/*
 * Stands where QEMU stands: each line of standard input is one call, "NAME
 * number number ...", and its answer is one line "NAME: answer" on standard
 * output, between the lines in which fakekvm.c says what came of it.
 * An answer is a number, "ok" for a descriptor, or the name of errno.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <linux/psp-sev.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define FAKEKVM_COMMAND 0x46616b65UL /* fakekvm.c has it too */

#define REGION2 0x40a0ae49UL
#define SET_ATTRIBUTES 0x4020aed2UL
#define CREATE_GUEST_MEMFD 0xc040aed4UL
#define RUN_SIZE 0x3000
#define MAX_WORDS 16
#define MAX_VCPUS 4

#define answer(...) dprintf(STDOUT_FILENO, __VA_ARGS__)

struct call {
	const char *name, *text; /* text: what follows the name */
	unsigned int count;
	unsigned long n[MAX_WORDS];
};

static int kvm = -1, vm = -1, opened = -1, gmem = -1, vcpus[MAX_VCPUS];
static struct kvm_run *runs[MAX_VCPUS];
static unsigned int nr_vcpus;

static void result(const struct call *c, long ret, int is_fd)
{
	if (ret < 0)
		answer("%s: %s\n", c->name, strerrorname_np(errno));
	else if (is_fd)
		answer("%s: ok\n", c->name);
	else
		answer("%s: %ld\n", c->name, ret);
}

static void do_fake(const struct call *c)
{
	if (ioctl(-1, FAKEKVM_COMMAND, c->text) < 0)
		result(c, -1, 0);
}

/* kvm REQUEST ARG, vm_call REQUEST ARG: a request with a plain number, or one that looks at no argument. */
static void do_kvm(const struct call *c)
{
	result(c, ioctl(kvm, c->n[0], c->n[1]), 0);
}

static void do_vm_call(const struct call *c)
{
	result(c, ioctl(vm, c->n[0], c->n[1]), 0);
}

static void do_extension(const struct call *c)
{
	result(c, ioctl(kvm, KVM_CHECK_EXTENSION, c->n[0]), 0);
}

static void do_vm(const struct call *c)
{
	vm = ioctl(kvm, KVM_CREATE_VM, c->n[0]);
	result(c, vm, 1);
}

static void do_vcpu(const struct call *c)
{
	int fd = ioctl(vm, KVM_CREATE_VCPU, nr_vcpus);

	vcpus[nr_vcpus] = fd;
	runs[nr_vcpus++] = mmap(NULL, RUN_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	result(c, fd, 1);
}

/* run VCPU */
static void do_run(const struct call *c)
{
	int ret = ioctl(vcpus[c->n[0]], KVM_RUN, 0);

	answer("run: %s exit=%u\n", ret < 0 ? strerrorname_np(errno) : "0", runs[c->n[0]]->exit_reason);
}

/* region SLOT FLAGS GPA SIZE HVA, by the older request; region2 by the newer one, without a guest_memfd */
static void do_region(const struct call *c)
{
	struct kvm_userspace_memory_region region = {
		.slot = c->n[0], .flags = c->n[1], .guest_phys_addr = c->n[2], .memory_size = c->n[3],
		.userspace_addr = c->n[4],
	};

	result(c, ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region), 0);
}

static void do_region2(const struct call *c)
{
	uint64_t region[20] = { c->n[0] | c->n[1] << 32, c->n[2], c->n[3], c->n[4], 0, (uint32_t)-1 };

	result(c, ioctl(vm, REGION2, region), 0);
}

/* gmem SIZE: a guest_memfd; gmem_region SLOT GPA SIZE HVA OFFSET: a slot with it */
static void do_gmem(const struct call *c)
{
	uint64_t create[8] = { c->n[0] };

	gmem = ioctl(vm, CREATE_GUEST_MEMFD, create);
	result(c, gmem, 1);
}

static void do_gmem_region(const struct call *c)
{
	uint64_t region[20] = { c->n[0] | 4UL << 32, c->n[1], c->n[2], c->n[3], c->n[4], (uint32_t)gmem };

	result(c, ioctl(vm, REGION2, region), 0);
}

/* madvise HVA SIZE ADVICE; fallocate MODE OFFSET SIZE of the guest_memfd, fallocate64 the same */
static void do_madvise(const struct call *c)
{
	result(c, madvise((void *)c->n[0], c->n[1], (int)c->n[2]), 0);
}

static void do_fallocate(const struct call *c)
{
	int wide = !strcmp(c->name, "fallocate64");

	result(c, wide ? fallocate64(gmem, (int)c->n[0], (off_t)c->n[1], (off_t)c->n[2]) :
			 fallocate(gmem, (int)c->n[0], (off_t)c->n[1], (off_t)c->n[2]), 0);
}

/* attributes GPA SIZE ATTRIBUTES */
static void do_attributes(const struct call *c)
{
	uint64_t attributes[4] = { c->n[0], c->n[1], c->n[2], 0 };

	result(c, ioctl(vm, SET_ATTRIBUTES, attributes), 0);
}

/* cpuid LEAF...: each twice, with index 0 and 1, all registers set */
static void do_cpuid(const struct call *c)
{
	struct kvm_cpuid2 *cpuid = calloc(1, sizeof(*cpuid) + 2 * MAX_WORDS * sizeof(cpuid->entries[0]));

	for (; cpuid->nent < 2 * c->count; cpuid->nent++)
		cpuid->entries[cpuid->nent] = (struct kvm_cpuid_entry2){
			.function = c->n[cpuid->nent / 2], .index = cpuid->nent % 2,
			.eax = 0xa, .ebx = 0xb, .ecx = 0xc, .edx = 0xd,
		};
	result(c, ioctl(vcpus[0], KVM_SET_CPUID2, cpuid), 0);
	free(cpuid);
}

/* sev ID: a command without data; sev_null: whether the VM has such commands at all, as QEMU asks it */
static void do_sev(const struct call *c)
{
	struct kvm_sev_cmd cmd = { .id = c->n[0], .error = 0xdead };

	result(c, ioctl(vm, KVM_MEMORY_ENCRYPT_OP, &cmd), 0);
}

static void do_sev_null(const struct call *c)
{
	result(c, ioctl(vm, KVM_MEMORY_ENCRYPT_OP, NULL), 0);
}

/* tdx ID: a command without data */
static int tdx(unsigned long id, void *data)
{
	uint64_t command[3] = { id, (uintptr_t)data, 0xdead };
	int ret = ioctl(vm, KVM_MEMORY_ENCRYPT_OP, command);

	return !ret && command[2] ? -1 : ret;
}

static void do_tdx(const struct call *c)
{
	result(c, tdx(c->n[0], NULL), 0);
}

/* tdx_caps ROOM: capabilities, with room for so many leaves; tdx_region HVA GPA PAGES */
static void do_tdx_caps(const struct call *c)
{
	uint64_t *caps = calloc(257, sizeof(*caps) + sizeof(struct kvm_cpuid_entry2));
	struct kvm_cpuid2 *cpuid = (void *)&caps[256];

	cpuid->nent = c->n[0];
	result(c, tdx(0, caps), 0);
	answer("caps: attributes=%#lx xfam=%#lx leaves=%u", caps[0], caps[1], cpuid->nent);
	for (unsigned int i = 0; i < cpuid->nent && i < c->n[0]; i++)
		answer(" %#x.%u", cpuid->entries[i].function, cpuid->entries[i].index);
	answer("\n");
	free(caps);
}

static void do_tdx_region(const struct call *c)
{
	uint64_t region[3] = { c->n[0], c->n[1], c->n[2] };

	result(c, tdx(3, region), 0);
}

/* supported: KVM is asked which CPUID it supports */
static void do_supported(const struct call *c)
{
	struct kvm_cpuid2 *cpuid = calloc(1, sizeof(*cpuid) + MAX_WORDS * sizeof(cpuid->entries[0]));

	cpuid->nent = MAX_WORDS;
	result(c, ioctl(kvm, KVM_GET_SUPPORTED_CPUID, cpuid), 0);
	free(cpuid);
}

/* launch_update GFN HVA LEN */
static void do_launch_update(const struct call *c)
{
	uint64_t update[8] = { c->n[0], c->n[1], c->n[2], 3 };
	struct kvm_sev_cmd cmd = { .id = 101, .data = (uintptr_t)update, .error = 0xdead };
	int ret = ioctl(vm, KVM_MEMORY_ENCRYPT_OP, &cmd);

	result(c, ret, 0);
	if (!ret)
		answer("updated: gfn=%#lx hva=%#lx len=%#lx error=%u\n", update[0], update[1], update[2], cmd.error);
}

/* platform: the state of the firmware by the descriptor opened last; sev_issue COMMAND: one without data */
static void do_platform(const struct call *c)
{
	struct sev_user_data_status status;
	struct sev_issue_cmd cmd = { .cmd = SEV_PLATFORM_STATUS, .data = (uintptr_t)&status, .error = 0xdead };
	int ret;

	memset(&status, 0xff, sizeof(status));
	ret = ioctl(opened, SEV_ISSUE_CMD, &cmd);
	if (ret < 0)
		result(c, ret, 0);
	else
		answer("platform: api=%u.%u state=%u guests=%u error=%u\n", status.api_major, status.api_minor,
		       status.state, status.guest_count, cmd.error);
}

static void do_sev_issue(const struct call *c)
{
	struct sev_issue_cmd cmd = { .cmd = c->n[0], .error = 0xdead };

	result(c, ioctl(opened, SEV_ISSUE_CMD, &cmd), 0);
	answer("issued: error=%u\n", cmd.error);
}

/* open FLAGS MODE PATH, open64 the same; what was opened is seen by the kernel's own eyes */
static void do_open(const struct call *c)
{
	const char *path = strchr(c->text, '/');
	char link[64], real[4096] = "";
	struct stat st;

	if (c->n[0] & (O_CREAT | O_TMPFILE))
		opened = strcmp(c->name, "open") ? open64(path, c->n[0], c->n[1]) : open(path, c->n[0], c->n[1]);
	else
		opened = strcmp(c->name, "open") ? open64(path, c->n[0]) : open(path, c->n[0]);
	if (opened < 0)
		return result(c, opened, 1);
	snprintf(link, sizeof(link), "/proc/self/fd/%d", opened);
	if (readlink(link, real, sizeof(real) - 1) < 0 || fstat(opened, &st))
		abort();
	answer("%s: %s mode=%o access=%d cloexec=%d\n", c->name, strrchr(real, '/'), st.st_mode & 07777,
	       fcntl(opened, F_GETFL) & O_ACCMODE, fcntl(opened, F_GETFD));
}

/* pipe COUNT: an ordinary ioctl with an answer in memory */
static void do_pipe(const struct call *c)
{
	int ends[2], waiting = -1, ret;
	char bytes[256] = "";

	if (pipe(ends) || write(ends[1], bytes, c->n[0]) < 0)
		abort();
	ret = ioctl(ends[0], FIONREAD, &waiting);
	answer("pipe: %d waiting=%d\n", ret, waiting);
}

/* map HVA SIZE: anonymous memory there; number HVA SIZE: each word of it gets its own number from 1 */
static void do_map(const struct call *c)
{
	if (mmap((void *)c->n[0], c->n[1], PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) != (void *)c->n[0])
		abort();
}

static void do_number(const struct call *c)
{
	for (unsigned long i = 0; i < c->n[1] / 8; i++)
		((uint64_t *)c->n[0])[i] = i + 1;
}

/* numbers HVA SIZE: the runs of zero words and of consecutive ones, "OFFSET:0" or "OFFSET:FIRST" */
static void do_numbers(const struct call *c)
{
	const uint64_t *words = (const uint64_t *)c->n[0];

	answer("numbers:");
	for (unsigned long i = 0; i < c->n[1] / 8; i++)
		if (!i || words[i] != (words[i - 1] ? words[i - 1] + 1 : 0))
			answer(" %#lx:%lu", i * 8, words[i]);
	answer("\n");
}

static const struct {
	const char *name;
	void (*call)(const struct call *c);
} calls[] = {
	{ "fake", do_fake },	     { "kvm", do_kvm },	      { "vm_call", do_vm_call },
	{ "extension", do_extension }, { "vm", do_vm },	      { "vcpu", do_vcpu },
	{ "run", do_run },	     { "region", do_region }, { "region2", do_region2 },
	{ "attributes", do_attributes }, { "cpuid", do_cpuid }, { "sev", do_sev },
	{ "tdx", do_tdx },	     { "tdx_caps", do_tdx_caps }, { "tdx_region", do_tdx_region },
	{ "supported", do_supported },
	{ "sev_null", do_sev_null }, { "launch_update", do_launch_update },
	{ "platform", do_platform }, { "sev_issue", do_sev_issue },
	{ "gmem", do_gmem },	     { "gmem_region", do_gmem_region },
	{ "madvise", do_madvise },   { "fallocate", do_fallocate }, { "fallocate64", do_fallocate },
	{ "open", do_open },	     { "open64", do_open },   { "pipe", do_pipe },
	{ "map", do_map },	     { "number", do_number }, { "numbers", do_numbers },
};

static void parse(char *line, struct call *c)
{
	char *p = line + strcspn(line, " \n"), *end;

	line[strcspn(line, "\n")] = '\0';
	if (*p)
		*p++ = '\0';
	*c = (struct call){ .name = line, .text = p };
	for (; c->count < MAX_WORDS; p = end, c->count++) {
		c->n[c->count] = strtoul(p, &end, 0);
		if (end == p)
			return;
	}
}

int main(void)
{
	char line[4096];
	struct call c;
	size_t i;

	kvm = ioctl(-1, FAKEKVM_COMMAND, "open");
	while (fgets(line, sizeof(line), stdin)) {
		parse(line, &c);
		for (i = 0; i < sizeof(calls) / sizeof(calls[0]); i++)
			if (!strcmp(calls[i].name, c.name))
				break;
		if (i == sizeof(calls) / sizeof(calls[0]))
			return 3;
		calls[i].call(&c);
	}
	return 0;
}
