// SPDX-License-Identifier: GPL-2.0-only
//
// On which CPU a guest runs, and with it on whose page lists its pages come and go.
#define _GNU_SOURCE
#include "probe.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static pid_t pid_max = 4 << 20;  // PID_MAX_LIMIT of a 64-bit kernel, where the file cannot be read

void place_open(void)
{
	char text[32];
	int fd = open_read("/proc/sys/kernel/pid_max");
	ssize_t len = fd < 0 ? fd : read_whole(fd, text, sizeof(text) - 1);

	if (fd >= 0)
		close(fd);
	if (len > 0) {
		text[len] = '\0';
		pid_max = strtol(text, NULL, 10);
	}
}

static void only(cpu_set_t *set, unsigned int cpu)
{
	CPU_ZERO(set);
	CPU_SET(cpu, set);
}

int run_on(unsigned int cpu, cpu_set_t *before)
{
	cpu_set_t one;

	if (sched_getaffinity(0, sizeof(*before), before))
		return -errno;
	only(&one, cpu);
	return sched_setaffinity(0, sizeof(one), &one) ? -errno : 0;
}

// Every thread of the process, from here on, and the probe itself while it works on the process's guest_memfd.
//
// Threads are found by asking for every number whether it is one of this process's: looking into /proc/PID/task would
// allocate inodes and directory entries in the middle of what is being observed.
void verb_place(void)
{
	struct watch *w = need_watch();
	unsigned int threads = 0;
	cpu_set_t one, before;
	uint64_t cpu;
	int err;

	if (!w || !need_u64("cpu", &cpu))
		return;
	if (cpu >= CPU_SETSIZE) {
		frame_error(&port, "EINVAL", "there is no CPU %lu", cpu);
		return;
	}
	err = run_on(cpu, &before);  // a CPU that does not exist or is offline is refused before anything is placed
	if (!err && sched_setaffinity(0, sizeof(before), &before))
		err = -errno;
	if (err) {
		reply_errno(-err, "running on CPU %lu", cpu);
		return;
	}
	only(&one, cpu);
	for (pid_t tid = 1; tid <= pid_max; tid++) {
		if (syscall(SYS_tgkill, w->pid, tid, 0))
			continue;
		if (sched_setaffinity(tid, sizeof(one), &one)) {
			if (errno == ESRCH)  // it ended in between
				continue;
			reply_errno(errno, "placing thread %d of process %d on CPU %lu", tid, w->pid, cpu);
			return;
		}
		threads++;
	}
	if (!threads) {
		reply_errno(ESRCH, "process %d", w->pid);
		return;
	}
	w->cpu = cpu + 1;
	frame_reply(&port, "ok threads=%u", threads);
}
