// SPDX-License-Identifier: GPL-2.0-only
//
// gmem-bare: a guest_memfd without a guest. One process, the holder, has it and lives in a memory cgroup of its own;
// this one speaks with the harness, outlives the holder, and gives the cgroup back when its input ends, whatever became
// of the harness.
#define _GNU_SOURCE
#include "bare.h"
#include "frame.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define VERSION 1
#define STIR_PER_CPU 256ul
#define FRESH_MS 6000  // the kernel flushes by itself every 2 s (mm/memcontrol.c: FLUSH_TIME)
#define POLL_MS 20

static struct frame_port port;
static unsigned char receive[FRAME_HEADER + 64 * 1024];
static char answer[ANSWER_MAX + 1], stat_text[64 * 1024];
static struct setup setup;
static pid_t holder;
static int sock = -1;
static bool cgroup_made;

// Ends the holder; returns its status as wait() gives it.
static int end_holder(void)
{
	int status = 0;

	if (sock >= 0)
		close(sock);
	sock = -1;
	if (holder > 0) {
		kill(holder, SIGKILL);
		waitpid(holder, &status, 0);
	}
	holder = 0;
	return status;
}

static void give_back(void)
{
	struct timespec pause = { .tv_nsec = POLL_MS * 1000000l };

	end_holder();
	// A process leaves its cgroup some time after it is reaped.
	for (int i = 0; cgroup_made && i < 100 && rmdir(setup.cgroup) && errno == EBUSY; i++)
		nanosleep(&pause, NULL);
}

// The holder's next message into `answer`; false when it is gone.
static bool listen_to_holder(void)
{
	ssize_t len = recv(sock, answer, ANSWER_MAX, 0);

	answer[len > 0 ? len : 0] = '\0';
	return len > 0;
}

static bool start_holder(void)
{
	pid_t self = getpid();
	int pair[2];

	if (setup.cgroup) {
		if (mkdir(setup.cgroup, 0755)) {
			snprintf(answer, sizeof(answer), "err code=cgroup text=%s: %s", setup.cgroup, strerror(errno));
			return false;
		}
		cgroup_made = true;
	}
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) || (holder = fork()) < 0) {
		snprintf(answer, sizeof(answer), "err code=start text=no process can be started: %s", strerror(errno));
		return false;
	}
	if (!holder) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != self)
			_exit(1);
		close(pair[0]);
		close(0);  // the harness must see the end of a file when we end
		close(1);
		hold(&setup, pair[1]);
	}
	close(pair[1]);
	sock = pair[0];
	if (!listen_to_holder())
		snprintf(answer, sizeof(answer), "err code=start text=the process that should hold the guest_memfd ended");
	return !strcmp(answer, "ok");
}

static void verb_hello(void)
{
	uint64_t nonce;

	if (frame_u64(port.line, "nonce", &nonce) != FRAME_PRESENT)
		frame_error(&port, "usage", "hello needs nonce=");
	else if (holder > 0 && sock >= 0)
		frame_reply(&port, "ok nonce=%lu program=gmem-bare version=%d pid=%d size=%lu", nonce, VERSION, holder,
			    setup.chunks * CHUNK_PAGES * PAGE);
	else
		frame_reply(&port, "%s", answer);
}

static void verb_relay(void)
{
	int status;

	if (sock < 0) {
		frame_error(&port, "gone", "there is no guest_memfd any more");
		return;
	}
	if (send(sock, port.line, strlen(port.line), MSG_NOSIGNAL) >= 0 && listen_to_holder()) {
		frame_reply(&port, "%s", answer);
		return;
	}
	status = end_holder();
	frame_error(&port, "gone", "the process with the guest_memfd ended by signal %d",
		    WIFSIGNALED(status) ? WTERMSIG(status) : 0);
}

static void verb_quit(void)
{
	end_holder();
	frame_reply(&port, "ok");
}

// --- the memory cgroup

// memory.stat with its NUL; the number of page faults in it, or -1.
static long read_stat(void)
{
	char path[512];
	const char *at;
	ssize_t len;
	int fd;

	snprintf(path, sizeof(path), "%s/memory.stat", setup.cgroup);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	len = read(fd, stat_text, sizeof(stat_text) - 1);
	close(fd);
	stat_text[len > 0 ? len : 0] = '\0';
	at = strstr(stat_text, "\npgfault ");
	return at ? atol(at + strlen("\npgfault ")) : -1;
}

// A process in the cgroup that touches `count` anonymous pages, one fault each, and is gone.
static bool stir(unsigned long count)
{
	int status = 1;
	pid_t pid = fork();

	if (!pid) {
		unsigned char *mem;

		if (join_cgroup(setup.cgroup))
			_exit(1);
		mem = mmap(NULL, count * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (mem == MAP_FAILED)
			_exit(1);
		madvise(mem, count * PAGE, MADV_NOHUGEPAGE);
		for (unsigned long i = 0; i < count; i++)
			((volatile unsigned char *)mem)[i * PAGE] = 1;
		_exit(0);
	}
	return pid > 0 && waitpid(pid, &status, 0) == pid && !status;
}

// The kernel sums a cgroup's counters up when 64 updates for each CPU have come together, and every 2 s otherwise
// (mm/memcontrol.c: memcg_vmstats_needs_flush): what is read may be old. So more than that many pages are faulted in
// after what is to be seen, in the same cgroup. At most 128 updates for each CPU were waiting before, so that whoever
// reads 256 faults for each CPU more than then reads a sum that was made after the first of these faults.
static void verb_memcg(void)
{
	struct timespec pause = { .tv_nsec = POLL_MS * 1000000l };
	long before, count = STIR_PER_CPU * sysconf(_SC_NPROCESSORS_CONF);

	if (!cgroup_made) {
		frame_error(&port, "nomemcg", "there is no memory cgroup");
		return;
	}
	before = read_stat();
	if (before < 0 || !stir(count)) {
		frame_error(&port, "memcg", "%s cannot be read", setup.cgroup);
		return;
	}
	for (int waited = 0; read_stat() < before + count; waited += POLL_MS) {
		if (waited > FRESH_MS) {
			frame_error(&port, "stale", "memory.stat of %s lags behind for %d ms", setup.cgroup, FRESH_MS);
			return;
		}
		nanosleep(&pause, NULL);
	}
	frame_reply_blob(&port, stat_text, strlen(stat_text), "ok");
}

static const struct {
	const char *name;
	void (*run)(void);
} verbs[] = {
	{ "hello", verb_hello }, { "gmem", verb_relay }, { "fallocate", verb_relay },
	{ "memcg", verb_memcg }, { "quit", verb_quit },
};

static void serve(void)
{
	for (size_t i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++) {
		if (frame_verb(port.line, verbs[i].name)) {
			verbs[i].run();
			return;
		}
	}
	frame_error(&port, "unknown", "no such verb");
}

int main(int argc, char **argv)
{
	if (argc != 5 || (setup.chunks = strtoul(argv[3], NULL, 10)) < 1) {
		fprintf(stderr, "usage: gmem-bare KVM TAG CHUNKS CGROUP|-\n");
		return 2;
	}
	setup.kvm = argv[1];
	setup.tag = strtoul(argv[2], NULL, 10);
	setup.cgroup = strcmp(argv[4], "-") ? argv[4] : NULL;
	signal(SIGPIPE, SIG_IGN);
	signal(SIGTERM, SIG_IGN);  // whoever wants us to end closes our input
	signal(SIGHUP, SIG_IGN);
	frame_port_init(&port, 0, 1, false, receive, sizeof(receive));
	if (!start_holder())
		end_holder();
	while (frame_recv(&port, -1) == FRAME_GOT)
		serve();
	give_back();
	return 0;
}
