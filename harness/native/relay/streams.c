// SPDX-License-Identifier: GPL-2.0-only
//
// Opening, reading and writing the streams.
#define _GNU_SOURCE
#include "relay.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MAX_WORDS 64

struct stream streams[STREAMS];

int64_t relay_now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000LL + ts.tv_nsec / 1000000;
}

struct stream *named_stream(bool fresh)
{
	uint64_t number;

	if (frame_u64(port.line, "stream", &number) != FRAME_PRESENT || number >= STREAMS) {
		frame_error(&port, "usage", "stream= is needed, below %u", STREAMS);
		return NULL;
	}
	if (streams[number].used == fresh) {
		frame_error(&port, "usage", "stream %u is %s", (unsigned int)number, fresh ? "open already" : "not open");
		return NULL;
	}
	return &streams[number];
}

static void open_stream(struct stream *s, int in, int out)
{
	s->used = true;
	s->ended = false;
	s->len = 0;
	s->in = in;
	s->out = out;
	if (in >= 0)
		fcntl(in, F_SETFL, O_NONBLOCK);
	if (out >= 0)
		fcntl(out, F_SETFL, O_NONBLOCK);
}

static void close_stream(struct stream *s)
{
	if (s->in >= 0)
		close(s->in);
	if (s->out >= 0 && s->out != s->in)
		close(s->out);
	s->used = false;
	s->in = s->out = -1;
}

// Becomes the program; it is killed when the relay goes away, however that happens.
static void become(char **argv, int in, int out, pid_t parent)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(127);
	setsid();
	dup2(in, 0);
	dup2(out, 1);
	signal(SIGPIPE, SIG_DFL);
	execvp(argv[0], argv);
	dprintf(2, "gmem-relay: %s: %s\n", argv[0], strerror(errno));
	_exit(127);
}

void verb_start(void)
{
	struct stream *s = named_stream(true);
	char *argv[MAX_WORDS + 1], *p = (char *)port.blob, *end = p + port.blob_len;
	int to[2], from[2], words = 0;
	pid_t parent = getpid(), pid;

	if (!s)
		return;
	if (!port.blob_len || end[-1]) {
		frame_error(&port, "usage", "start needs NUL-terminated words");
		return;
	}
	for (; p < end && words < MAX_WORDS; p += strlen(p) + 1)
		argv[words++] = p;
	argv[words] = NULL;
	if (pipe2(to, O_CLOEXEC) || pipe2(from, O_CLOEXEC)) {
		frame_error(&port, "start", "no pipe: %s", strerror(errno));
		return;
	}
	pid = fork();
	if (!pid)
		become(argv, to[0], from[1], parent);
	close(to[0]);
	close(from[1]);
	if (pid < 0) {
		close(to[1]);
		close(from[0]);
		frame_error(&port, "start", "fork: %s", strerror(errno));
		return;
	}
	open_stream(s, from[0], to[1]);
	frame_reply(&port, "ok pid=%d", pid);
}

// A FIFO that is held open for both directions: whoever uses its other end may come and go.
static int make_fifo(const char *path)
{
	int fd;

	if (mkfifo(path, 0600) && errno != EEXIST)
		return -errno;
	fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

// "fifo stream=N [from=PATH] [to=PATH]": what others write into `from` is read here, what is written here they find in `to`.
void verb_fifo(void)
{
	struct stream *s = named_stream(true);
	char path[256];
	int in = -1, out = -1;

	if (!s)
		return;
	if (frame_text(port.line, "from", path, sizeof(path)) == FRAME_PRESENT && (in = make_fifo(path)) < 0) {
		frame_error(&port, "fifo", "%s: %s", path, strerror(-in));
		return;
	}
	if (frame_text(port.line, "to", path, sizeof(path)) == FRAME_PRESENT && (out = make_fifo(path)) < 0) {
		if (in >= 0)
			close(in);
		frame_error(&port, "fifo", "%s: %s", path, strerror(-out));
		return;
	}
	open_stream(s, in, out);
	frame_reply(&port, "ok");
}

// "kmsg stream=N": the kernel log from now on, in the records of /dev/kmsg.
void verb_kmsg(void)
{
	struct stream *s = named_stream(true);
	int fd;

	if (!s)
		return;
	fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0 || lseek(fd, 0, SEEK_END) < 0) {
		frame_error(&port, "kmsg", "/dev/kmsg: %s", strerror(errno));
		if (fd >= 0)
			close(fd);
		return;
	}
	open_stream(s, fd, -1);
	frame_reply(&port, "ok");
}

static void read_stream(struct stream *s)
{
	while (s->len < STREAM_KEPT) {
		ssize_t got = read(s->in, s->kept + s->len, STREAM_KEPT - s->len);

		if (got > 0) {
			s->len += got;
			continue;
		}
		if (got < 0 && errno == EPIPE)  // the kernel log went on without us
			continue;
		// EINVAL: no room for a record of the kernel log
		s->ended = got == 0 || (errno != EAGAIN && errno != EINTR && errno != EINVAL);
		return;
	}
}

void gather(int timeout_ms, bool link)
{
	struct pollfd fds[STREAMS + 1];
	struct stream *whose[STREAMS + 1];
	int count = 0;

	for (struct stream *s = streams; s < streams + STREAMS; s++)
		if (s->used && s->in >= 0 && !s->ended && s->len < STREAM_KEPT) {
			fds[count] = (struct pollfd){ .fd = s->in, .events = POLLIN };
			whose[count++] = s;
		}
	if (link) {
		fds[count] = (struct pollfd){ .fd = port.in, .events = POLLIN };
		whose[count++] = NULL;
	}
	if (poll(fds, count, timeout_ms) <= 0)
		return;
	for (int i = 0; i < count; i++)
		if (whose[i] && fds[i].revents)
			read_stream(whose[i]);
}

int put(struct stream *s, const unsigned char *data, size_t len, int timeout_ms)
{
	int64_t end = relay_now_ms() + timeout_ms;

	while (len) {
		ssize_t done = write(s->out, data, len);

		if (done > 0) {
			data += done;
			len -= done;
		} else if (done < 0 && errno != EAGAIN && errno != EINTR) {
			return -errno;
		} else if (relay_now_ms() > end) {
			return -ETIMEDOUT;
		} else {
			gather(2, false);
		}
	}
	return 0;
}

void verb_write(void)
{
	struct stream *s = named_stream(false);
	int err;

	if (!s)
		return;
	if (s->out < 0) {
		frame_error(&port, "usage", "nothing can be written to this stream");
		return;
	}
	err = put(s, port.blob, port.blob_len, FRAME_SEND_MS);
	if (err)
		frame_error(&port, "write", "%s", strerror(-err));
	else
		frame_reply(&port, "ok");
}

void verb_close(void)
{
	struct stream *s = named_stream(false);

	if (!s)
		return;
	close_stream(s);
	frame_reply(&port, "ok");
}
