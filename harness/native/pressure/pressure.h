// SPDX-License-Identifier: GPL-2.0-only
#ifndef GMEM_PRESSURE_H
#define GMEM_PRESSURE_H

#include <stdint.h>

#define PAGE 4096ul

// What a kind of pressure came to, in pages.
struct held {
	uint64_t holds;       // kept until the process ends
	uint64_t given_back;  // taken, and given back at once
};

// Each takes `pages` pages, or says why not on standard error and ends the process with status 1.
void take_anon(uint64_t pages, struct held *held);      // anonymous memory
void take_fragment(uint64_t pages, struct held *held);  // anonymous memory, every second frame of it given back
void take_cache(uint64_t pages, struct held *held);     // clean page cache of a file
void take_pinned(uint64_t pages, struct held *held);    // pages of pipes, every second one given back
void take_blocks(uint64_t blocks, struct held *held);   // whole huge pages; holds counts 512 for each

void die(const char *what) __attribute__((noreturn));  // with errno

#endif
