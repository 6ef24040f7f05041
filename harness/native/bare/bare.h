// SPDX-License-Identifier: GPL-2.0-only
#ifndef GMEM_BARE_H
#define GMEM_BARE_H

#include <stddef.h>
#include <stdint.h>

#define PAGE 4096ul
#define CHUNK_PAGES 512ul
#define ANSWER_MAX 1900  // longest answer of the holder; with its header it fits a reply line

struct setup {
	const char *kvm;      // device
	const char *cgroup;   // directory of a memory cgroup to live in; NULL: none
	unsigned long tag;    // number of the guest, part of every pattern
	unsigned long chunks; // size of the guest_memfd, in chunks of 2 MiB
};

// Makes this process a member of the cgroup. Returns 0 or a negative errno.
int join_cgroup(const char *cgroup);

// The holder: owns the guest_memfd, answers on `sock` one request a message, and ends when that closes.
void hold(const struct setup *setup, int sock) __attribute__((noreturn));

#endif
