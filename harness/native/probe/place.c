// SPDX-License-Identifier: GPL-2.0-only
//
// On which CPU a guest runs, and with it on whose page lists its pages come and go.
#define _GNU_SOURCE
#include "probe.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

cpu_set_t everywhere;
static pid_t pid_max = 4 << 20;  // PID_MAX_LIMIT of a 64-bit kernel, where the file cannot be read

void place_open(void)
{
	char text[32];
	int fd = open_read("/proc/sys/kernel/pid_max");
	ssize_t len = fd < 0 ? fd : read_whole(fd, text, sizeof(text) - 1);

	sched_getaffinity(0, sizeof(everywhere), &everywhere);
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

static int place_threads(pid_t pid, const cpu_set_t *set, unsigned int *threads)
{
	for (pid_t tid = 1; tid <= pid_max; tid++) {
		if (syscall(SYS_tgkill, pid, tid, 0))
			continue;
		if (!sched_setaffinity(tid, sizeof(*set), set))
			(*threads)++;
		else if (errno != ESRCH)  // it ended in between
			return -errno;
	}
	return *threads ? 0 : -ESRCH;
}

// Every thread of a watched process, or of the probe itself, from here on; with a watched process also the probe while
// it works on the guest_memfd. cpu=any lifts it.
//
// Threads are found by asking for every number whether it is one of this process's: looking into /proc/PID/task would
// allocate inodes and directory entries in the middle of what is being observed.
void verb_place(void)
{
	unsigned int threads = 0;
	struct watch *w = NULL;
	uint64_t cpu = 0;
	cpu_set_t set, before;
	char word[8] = "";
	bool any;
	int pid, err;

	if (!need_pid(&pid))
		return;
	if (pid != getpid()) {
		w = need_watch();
		if (!w)
			return;
	}
	any = frame_text(port.line, "cpu", word, sizeof(word)) == FRAME_PRESENT && !strcmp(word, "any");
	if (!any && !need_u64("cpu", &cpu))
		return;
	if (cpu >= CPU_SETSIZE) {
		frame_error(&port, "EINVAL", "there is no CPU %lu", cpu);
		return;
	}
	if (any) {
		set = everywhere;
	} else {
		only(&set, cpu);
		err = run_on(cpu, &before);  // a CPU that is not there is refused before anything is placed
		if (!err && sched_setaffinity(0, sizeof(before), &before))
			err = -errno;
		if (err) {
			reply_errno(-err, "running on CPU %lu", cpu);
			return;
		}
	}
	err = place_threads(pid, &set, &threads);
	if (err) {
		reply_errno(-err, "placing process %d", pid);
		return;
	}
	if (w)
		w->cpu = any ? 0 : cpu + 1;
	frame_reply(&port, "ok threads=%u", threads);
}
