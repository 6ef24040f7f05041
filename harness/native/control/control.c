// SPDX-License-Identifier: GPL-2.0-only
//
// gmem-control: starts and watches processes, moves small files, and passes requests to the conversion module.
//
// The same program runs in the emulated host (where it starts the guests' QEMUs) and in each guest (where it talks to
// /dev/gmem). It speaks the frame protocol on a virtio-serial port (--device PATH) or on stdin and stdout.
//
//   hello nonce=N                     ok nonce=N program=gmem-control version=1 pid=P
//   spawn log=PATH + argv             ok pid=P            stdout and stderr go to PATH (appended)
//   status pid=P                      ok state=running | state=exited code=N | state=killed signal=N
//   signal pid=P sig=N                ok
//   end pid=P ms=N                    ok                  killed, and gone with all that it held
//   run ms=N + argv                   ok code=N + output  both streams, at most RUN_OUTPUT bytes; what the command
//                                                         leaves in the background is not waited for, and at the
//                                                         deadline its whole process group is killed
//   put path=P mode=OCTAL + bytes     ok bytes=N          written beside and renamed: whole or not at all
//   get path=P off=N max=N            ok bytes=N + bytes
//   cpuid leaf=N                      ok eax=N ebx=N ecx=N edx=N
//   gmem LINE                         the module's own reply to LINE
//
// argv is a blob of NUL-terminated words; words before an empty one are NAME=VALUE of the environment.
#define _GNU_SOURCE
#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../frame/frame.h"

#define MAX_WORDS 256
#define MAX_CHILDREN 64
#define RUN_OUTPUT (256u << 10)
#define GET_MAX (512u << 10)
#define RUN_MS_MAX (24u * 3600 * 1000)
#define PID_MAX (1u << 22)  // the kernel's PID_MAX_LIMIT
#define MODULE_DEVICE "/dev/gmem"

static unsigned char receive_buffer[FRAME_MAX + FRAME_HEADER];
static unsigned char data[GET_MAX];
static struct frame_port port;

static struct child {
	pid_t pid;
	bool ended;
	int status;
} children[MAX_CHILDREN];

struct command {
	char *argv[MAX_WORDS + 1];
	char *envp[MAX_WORDS + 1];
};

static long long now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000LL + ts.tv_nsec / 1000000;
}

// As pid 1 it also inherits the orphans of others: whatever ended is collected here.
static void reap(void)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		for (int i = 0; i < MAX_CHILDREN; i++)
			if (children[i].pid == pid && !children[i].ended) {
				children[i].ended = true;
				children[i].status = status;
			}
}

static struct child *child_of(pid_t pid)
{
	for (int i = 0; i < MAX_CHILDREN; i++)
		if (children[i].pid == pid)
			return &children[i];
	return NULL;
}

// Splits the blob of the current request in place; false when it is not a list of NUL-terminated words.
static bool parse_command(struct command *command)
{
	char *p = (char *)port.blob, *end = p + port.blob_len;
	int words = 0, env = 0;

	if (!port.blob_len || end[-1])
		return false;
	for (char *q = p; q < end; q += strlen(q) + 1)
		if (!*q) {
			for (char *e = p; e < q; e += strlen(e) + 1) {
				if (env == MAX_WORDS || !strchr(e, '='))
					return false;
				command->envp[env++] = e;
			}
			p = q + 1;
			break;
		}
	for (; p < end && words < MAX_WORDS; p += strlen(p) + 1)
		command->argv[words++] = p;
	command->argv[words] = command->envp[env] = NULL;
	return words > 0 && p >= end;
}

// Becomes the program; it is killed when we go away, also if that was before it could ask for it.
static void become(const struct command *command, int out, pid_t parent)
{
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC);

	prctl(PR_SET_PDEATHSIG, SIGKILL);  // on a host that is not ours nothing stays behind
	if (getppid() != parent)
		_exit(127);
	setsid();
	dup2(null, 0);
	dup2(out, 1);
	dup2(out, 2);
	for (int i = 0; command->envp[i]; i++)
		putenv(command->envp[i]);
	signal(SIGPIPE, SIG_DFL);
	execvp(command->argv[0], command->argv);
	dprintf(2, "%s: %s\n", command->argv[0], strerror(errno));
	_exit(127);
}

static void do_spawn(void)
{
	struct command command;
	struct child *slot = child_of(0);
	char log[256];
	int out;

	if (frame_text(port.line, "log", log, sizeof(log)) != FRAME_PRESENT || !parse_command(&command)) {
		frame_error(&port, "usage", "spawn needs log= and argv");
		return;
	}
	for (int i = 0; !slot && i < MAX_CHILDREN; i++)
		if (children[i].ended)
			slot = &children[i];
	out = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (!slot || out < 0) {
		frame_error(&port, "spawn", "%s", slot ? strerror(errno) : "too many children");
		if (out >= 0)
			close(out);
		return;
	}
	pid_t parent = getpid(), pid = fork();
	if (!pid)
		become(&command, out, parent);
	close(out);
	if (pid < 0) {
		frame_error(&port, "spawn", "fork: %s", strerror(errno));
		return;
	}
	for (int i = 0; i < MAX_CHILDREN; i++)
		if (children[i].pid == pid)
			children[i] = (struct child){ 0 };  // the number of a child that ended long ago
	*slot = (struct child){ .pid = pid };
	frame_reply(&port, "ok pid=%d", pid);
}

static void do_status(void)
{
	uint64_t pid;
	struct child *child;

	if (frame_u64(port.line, "pid", &pid) != FRAME_PRESENT || !pid || !(child = child_of(pid))) {
		frame_error(&port, "pid", "no child of mine");
		return;
	}
	if (!child->ended)
		frame_reply(&port, "ok state=running");
	else if (WIFEXITED(child->status))
		frame_reply(&port, "ok state=exited code=%d", WEXITSTATUS(child->status));
	else
		frame_reply(&port, "ok state=killed signal=%d", WTERMSIG(child->status));
}

static void do_end(void)
{
	long long end = now_ms();
	uint64_t pid, ms;
	struct child *child;

	if (frame_u64(port.line, "pid", &pid) != FRAME_PRESENT || frame_u64(port.line, "ms", &ms) != FRAME_PRESENT ||
	    ms > RUN_MS_MAX || !pid || !(child = child_of(pid))) {
		frame_error(&port, "usage", "end needs the pid= of a child, and ms=");
		return;
	}
	for (end += ms; !child->ended && now_ms() < end; reap()) {
		kill(pid, SIGKILL);
		poll(NULL, 0, 1);
	}
	if (child->ended)
		frame_reply(&port, "ok");
	else
		frame_error(&port, "late", "process %llu is still there", (unsigned long long)pid);
}

static void do_signal(void)
{
	uint64_t pid, sig;

	if (frame_u64(port.line, "pid", &pid) != FRAME_PRESENT || frame_u64(port.line, "sig", &sig) != FRAME_PRESENT ||
	    pid < 2 || pid > PID_MAX || sig > 64) {  // as an int, 4294967295 would be everybody
		frame_error(&port, "usage", "signal needs the pid= of a process and sig=");
		return;
	}
	if (kill(pid, sig))
		frame_error(&port, "signal", "%s", strerror(errno));
	else
		frame_reply(&port, "ok");
}

// Reads what there is into the output, dropping what exceeds RUN_OUTPUT. False at the end of the file.
static bool take_output(int fd, size_t *used)
{
	bool full = *used == RUN_OUTPUT;
	ssize_t n = read(fd, data + *used, full ? sizeof(data) - RUN_OUTPUT : RUN_OUTPUT - *used);

	if (n > 0 && !full)
		*used += n;
	return n > 0 || (n < 0 && errno == EAGAIN);
}

// Follows a running command. Returns whether it ended by itself before `end`, with its status and output.
static bool follow(pid_t pid, int out, long long end, size_t *used, int *status)
{
	struct pollfd fd = { .fd = out, .events = POLLIN };

	for (;;) {
		// The end of the process counts, not that of its output: a process in the background may hold that.
		bool ended = waitpid(pid, status, WNOHANG) == pid;
		int wait = ended ? 0 : fd.fd < 0 ? 1 : 10;

		if (poll(&fd, 1, wait) > 0 && !take_output(out, used))
			fd.fd = -1;
		if (ended)
			return true;  // a pipe gives all it holds in one read
		if (now_ms() >= end)
			break;
	}
	kill(-pid, SIGKILL);
	kill(pid, SIGKILL);  // it may not have got as far as setsid()
	waitpid(pid, status, 0);
	return false;
}

static void do_run(void)
{
	struct command command;
	uint64_t ms;
	size_t used = 0;
	int pipes[2], status = 0;
	bool ended;

	if (frame_u64(port.line, "ms", &ms) != FRAME_PRESENT || ms > RUN_MS_MAX || !parse_command(&command)) {
		frame_error(&port, "usage", "run needs ms= of at most a day and argv");
		return;
	}
	if (pipe2(pipes, O_CLOEXEC)) {
		frame_error(&port, "run", "pipe: %s", strerror(errno));
		return;
	}
	pid_t parent = getpid(), pid = fork();
	if (!pid)
		become(&command, pipes[1], parent);
	close(pipes[1]);
	if (pid < 0) {
		frame_error(&port, "run", "fork: %s", strerror(errno));
		close(pipes[0]);
		return;
	}
	ended = follow(pid, pipes[0], now_ms() + (long long)ms, &used, &status);
	close(pipes[0]);
	if (ended)
		frame_reply_blob(&port, data, used, "ok code=%d",
				 WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
	else
		frame_error(&port, "timeout", "%s did not end within %llu ms", command.argv[0], (unsigned long long)ms);
}

static void do_put(void)
{
	char path[256], beside[264], mode[8], *rest;
	unsigned long bits;
	size_t done = 0;
	int fd;

	if (frame_text(port.line, "path", path, sizeof(path)) != FRAME_PRESENT ||
	    frame_text(port.line, "mode", mode, sizeof(mode)) != FRAME_PRESENT || mode[0] < '0' || mode[0] > '7') {
		frame_error(&port, "usage", "put needs path= and mode=");
		return;
	}
	bits = strtoul(mode, &rest, 8);
	if (*rest || bits > 07777) {
		frame_error(&port, "usage", "mode= is not octal");
		return;
	}
	snprintf(beside, sizeof(beside), "%s.new", path);
	fd = open(beside, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	while (fd >= 0 && done < port.blob_len) {
		ssize_t n = write(fd, port.blob + done, port.blob_len - done);

		if (n <= 0)
			break;
		done += n;
	}
	if (fd < 0 || done < port.blob_len || fchmod(fd, bits) || rename(beside, path)) {
		int why = errno;

		if (fd >= 0)
			unlink(beside);
		frame_error(&port, "put", "%s: %s", path, strerror(why));
	} else {
		frame_reply(&port, "ok bytes=%zu", done);
	}
	if (fd >= 0)
		close(fd);
}

static void do_get(void)
{
	char path[256];
	uint64_t off, max;
	size_t done = 0;
	ssize_t n = -1;
	int fd;

	if (frame_text(port.line, "path", path, sizeof(path)) != FRAME_PRESENT ||
	    frame_u64(port.line, "off", &off) != FRAME_PRESENT || frame_u64(port.line, "max", &max) != FRAME_PRESENT) {
		frame_error(&port, "usage", "get needs path=, off= and max=");
		return;
	}
	if (max > sizeof(data))
		max = sizeof(data);
	fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);  // a FIFO must not stop us
	while (fd >= 0 && (n = done < max ? pread(fd, data + done, max - done, off + done) : 0) > 0)
		done += n;  // files of /proc come in pieces
	if (n < 0)
		frame_error(&port, "get", "%s: %s", path, strerror(errno));
	else
		frame_reply_blob(&port, data, done, "ok bytes=%zu", done);
	if (fd >= 0)
		close(fd);
}

static void do_cpuid(void)
{
	unsigned int a, b, c, d;
	uint64_t leaf;

	if (frame_u64(port.line, "leaf", &leaf) != FRAME_PRESENT) {
		frame_error(&port, "usage", "cpuid needs leaf=");
		return;
	}
	// No check against the largest leaf: QEMU asks without one too, and TCG answers more leaves than it announces.
	__cpuid_count(leaf, 0, a, b, c, d);
	frame_reply(&port, "ok eax=%u ebx=%u ecx=%u edx=%u", a, b, c, d);
}

static void do_module(void)
{
	const char *line = port.line + strlen("gmem ");
	static int fd = -1;
	size_t used = 0;
	ssize_t n;

	if (!strchr(port.line, ' ')) {
		frame_error(&port, "usage", "gmem needs a line for the module");
		return;
	}
	if (fd < 0)
		fd = open(MODULE_DEVICE, O_RDWR | O_CLOEXEC);
	if (fd < 0 || write(fd, line, strlen(line)) < 0) {
		frame_error(&port, "module", MODULE_DEVICE ": %s", strerror(errno));
		return;
	}
	while (used < sizeof(data) && (n = read(fd, data + used, sizeof(data) - used)) > 0)
		used += n;
	struct iovec iov = { .iov_base = data, .iov_len = used };
	frame_sendv(&port, port.id, &iov, 1);
}

static void do_hello(void)
{
	uint64_t nonce = 0;

	frame_u64(port.line, "nonce", &nonce);
	frame_reply(&port, "ok nonce=%llu program=gmem-control version=1 pid=%d", (unsigned long long)nonce, getpid());
}

static const struct {
	const char *verb;
	void (*run)(void);
} verbs[] = {
	{ "hello", do_hello }, { "spawn", do_spawn }, { "status", do_status }, { "signal", do_signal }, { "end", do_end },     { "run", do_run },
	{ "put", do_put },     { "get", do_get },     { "cpuid", do_cpuid },   { "gmem", do_module },
};

int main(int argc, char **argv)
{
	bool device = argc == 3 && !strcmp(argv[1], "--device");
	int in = 0, out = 1;

	if (argc != 1 && !device) {
		dprintf(2, "usage: gmem-control [--device PATH]\n");
		return 2;
	}
	signal(SIGPIPE, SIG_IGN);
	if (device) {
		in = out = frame_open_device(argv[2], 10000);
		if (in < 0) {
			dprintf(2, "gmem-control: %s: %s\n", argv[2], strerror(-in));
			return 1;
		}
		fcntl(in, F_SETFD, FD_CLOEXEC);
	}
	frame_port_init(&port, in, out, device, receive_buffer, sizeof(receive_buffer));
	for (;;) {
		enum frame_status got = frame_recv(&port, 1000);
		size_t i;

		reap();
		if (got == FRAME_CLOSED)
			return 0;
		if (got == FRAME_IDLE)
			continue;
		for (i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++)
			if (frame_verb(port.line, verbs[i].verb))
				break;
		if (i < sizeof(verbs) / sizeof(verbs[0]))
			verbs[i].run();
		else
			frame_error(&port, "verb", "unknown request");
	}
}
