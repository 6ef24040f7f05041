// SPDX-License-Identifier: GPL-2.0-only
//
// gmem-probe: reads the memory counters of a host without moving them.
//
// All memory is static, touched at start and locked; every file is opened at start and read again with pread() at 0,
// except KVM's statistics (slots.c). Between two samples the probe therefore faults nothing in and allocates nothing of
// its own.
#ifndef GMEM_PROBE_H
#define GMEM_PROBE_H

#include "frame.h"

#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define PROBE_VERSION 1
#define SLOTS 16u
#define SLOT_SIZE (512u << 10)  // zoneinfo grows by some 150 bytes per CPU and zone: room for 512 CPUs and 4 zones
#define SCRATCH_SIZE FRAME_MAX
#define REPLY_BLOB_MAX (FRAME_MAX - FRAME_LINE_MAX)
#define NAME_SIZE 96

// A kernel file that is kept open. A file that the kernel does not have has no source.
struct source {
	char name[NAME_SIZE];  // the section's name in a sample
	int fd;
};

extern struct frame_port port;
extern unsigned char scratch[SCRATCH_SIZE];  // each verb may use it until it has replied

// files.c
ssize_t read_whole(int fd, void *buf, size_t cap);  // pread from 0 to the end; -EFBIG when cap bytes do not hold it
int open_read(const char *format, ...) __attribute__((format(printf, 1, 2)));
typedef void (*entry_fn)(const char *name, void *arg);
int each_entry(const char *path, entry_fn fn, void *arg);  // names in a directory but "." and ".."; 0 or -errno
int reply_errno(int err, const char *format, ...) __attribute__((format(printf, 2, 3)));
bool need_u64(const char *key, uint64_t *out);  // false: the key is missing or malformed, and err was answered
bool need_pid(int *out);
void files_look(void);  // at what steps will open
void verb_read(void);
void verb_write(void);

// sources.c
extern const struct source *const first_sources, *const late_sources;  // read before and after the watched guests
extern unsigned int first_count, late_count;
int sources_open(void);

// slots.c
void verb_sample(void);
void verb_fetch(void);
void slots_prefault(void);

// watch.c
struct watch {
	int pid;          // 0: free
	int gmem_fd;      // our duplicate: keeps the guest_memfd alive until `unwatch`
	int target_fd;    // its number in the watched process
	int ram_fd;       // our duplicate of the file that its RAM is, or 0
	uint64_t size;    // bytes
	bool cachestat;   // the kernel has the call
	int hook_fd;      // an open hold device of its own, which refers to pages of gmem_fd; -1: the kernel has none
	unsigned int cpu; // on which it was placed, plus 1; 0: anywhere
	unsigned int stats;
	struct source stat[3];  // KVM's debugfs files, not kept open: see slots.c
};
#define WATCHES 16u
extern struct watch watches[WATCHES];
struct watch *need_watch(void);  // the one that pid= names; NULL: none, and err was answered
int resident_pages(const struct watch *w, uint64_t off, uint64_t len, uint64_t *pages);  // 0 or -errno
void verb_watch(void);
void verb_unwatch(void);
void verb_cachestat(void);
void verb_fallocate(void);

// refer.c
int hook_open(void);  // a descriptor of the hold device; -1: the kernel has none
void verb_refer(void);

// place.c
extern cpu_set_t everywhere;  // where the probe may run unless it is placed
void place_open(void);
int run_on(unsigned int cpu, cpu_set_t *before);  // this thread; `before` gets where it might run; 0 or -errno
void verb_place(void);

// shared.c
int shared_open(void);
void verb_movepages(void);
void verb_nodes(void);
void verb_peek(void);
void verb_hold(void);
void verb_release(void);

// settle.c
int settle_open(void);
void verb_settle(void);
void verb_pcpcap(void);

// census.c
void verb_anon(void);
void verb_maps(void);
void verb_census(void);

// frames_census.c
void frames_open(void);
void verb_frames(void);

#endif
