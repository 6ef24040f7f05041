// SPDX-License-Identifier: GPL-2.0-only
//
// Samples: everything is read into a slot now and fetched later, when moving memory does no harm any more.
#define _GNU_SOURCE
#include "probe.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LENGTH_DIGITS 7
#define STEADY_TRIES 5

struct slot {
	unsigned char text[SLOT_SIZE];
	size_t len;
	unsigned int sections;
	bool whole;
	bool steady;  // nothing moved while the volatile files were read
};

static struct slot slots[SLOTS];

void slots_prefault(void)
{
	for (size_t i = 0; i < sizeof(slots); i += 4096)
		((volatile unsigned char *)slots)[i] = 0;
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ull + ts.tv_nsec;
}

// "@ NAME LENGTH\n" with the length still to be filled in; returns where the text begins, or NULL when it is full.
static unsigned char *open_section(struct slot *slot, const char *name)
{
	size_t room = SLOT_SIZE - slot->len;
	int head = snprintf((char *)slot->text + slot->len, room, "@ %s %0*d\n", name, LENGTH_DIGITS, 0);

	return (size_t)head >= room ? NULL : slot->text + slot->len + head;
}

static int close_section(struct slot *slot, unsigned char *text, size_t len)
{
	char digits[24];

	if (text + len >= slot->text + SLOT_SIZE)
		return -EFBIG;
	snprintf(digits, sizeof(digits), "%0*zu", LENGTH_DIGITS, len);
	memcpy(text - 1 - LENGTH_DIGITS, digits, LENGTH_DIGITS);
	text[len] = '\n';
	slot->len = text + len + 1 - slot->text;
	slot->sections++;
	return 0;
}

static int read_source(struct slot *slot, const struct source *source)
{
	unsigned char *text = open_section(slot, source->name);
	ssize_t len;

	if (!text)
		return -EFBIG;
	len = read_whole(source->fd, text, slot->text + SLOT_SIZE - text);
	return len < 0 ? (int)len : close_section(slot, text, len);
}

// KVM's debugfs files cannot be read from the start again (they are opened non-seekable), and an open one would keep the
// VM alive: they are opened for each sample. A VM that is gone has no file, and then the sample has no section.
static int read_kvm_stat(struct slot *slot, const struct source *source)
{
	int fd = open_read("/sys/kernel/debug/%s", source->name);
	unsigned char *text;
	ssize_t len;

	if (fd < 0)
		return fd == -ENOENT ? 0 : fd;
	text = open_section(slot, source->name);
	len = text ? read(fd, text, slot->text + SLOT_SIZE - text) : -1;
	if (text && len < 0)
		len = -errno;
	close(fd);
	if (!text)
		return -EFBIG;
	return len < 0 ? (int)len : close_section(slot, text, len);
}

static int read_resident(struct slot *slot, const struct watch *w)
{
	char name[NAME_SIZE];
	unsigned char *text;
	uint64_t pages = 0;
	int err = resident_pages(w, 0, w->size, &pages);

	if (err)
		return err;
	snprintf(name, sizeof(name), "gmem/%d", w->pid);
	text = open_section(slot, name);
	if (!text || slot->text + SLOT_SIZE - text < 80)
		return -EFBIG;
	return close_section(slot, text, sprintf((char *)text, "resident=%lu size=%lu\n", pages, w->size));
}

static int read_sources(struct slot *slot, const struct source *sources, unsigned int count, const char **culprit)
{
	for (unsigned int i = 0; i < count; i++) {
		int err;

		*culprit = sources[i].name;
		err = read_source(slot, &sources[i]);
		if (err)
			return err;
	}
	return 0;
}

// The volatile files are several reads of a moving machine. vmstat, the first of them, is read again at the end: when
// it still says the same, they belong to one instant. On a machine that never rests the last try is kept as it is.
static int read_volatile(struct slot *slot, const char **culprit)
{
	for (unsigned int tries = 0; tries < STEADY_TRIES && !slot->steady; tries++) {
		const unsigned char *vmstat;
		ssize_t len;
		int err;

		slot->len = slot->sections = 0;
		err = read_sources(slot, first_sources, first_count, culprit);
		if (err || !first_count)
			return err;
		*culprit = first_sources[0].name;
		len = read_whole(first_sources[0].fd, scratch, sizeof(scratch));
		if (len < 0)
			return len;
		vmstat = (const unsigned char *)memchr(slot->text, '\n', SLOT_SIZE) + 1;
		slot->steady = !memcmp(vmstat, scratch, len) && vmstat[len] == '\n' && vmstat[len + 1] == '@';
	}
	return 0;
}

// Reads all sources; on failure *culprit names the one.
static int fill(struct slot *slot, const char **culprit)
{
	int err = read_volatile(slot, culprit);

	if (err)
		return err;
	for (const struct watch *w = watches; w < watches + WATCHES; w++) {
		*culprit = "gmem";
		if (w->pid && w->cachestat) {
			err = read_resident(slot, w);
			if (err)
				return err;
		}
		for (unsigned int i = 0; w->pid && i < w->stats; i++) {
			*culprit = w->stat[i].name;
			err = read_kvm_stat(slot, &w->stat[i]);
			if (err)
				return err;
		}
	}
	return read_sources(slot, late_sources, late_count, culprit);
}

static struct slot *need_slot(void)
{
	uint64_t n;

	if (!need_u64("slot", &n))
		return NULL;
	if (n < SLOTS)
		return &slots[n];
	frame_error(&port, "usage", "slot= must be below %u", SLOTS);
	return NULL;
}

void verb_sample(void)
{
	struct slot *slot = need_slot();
	const char *culprit = "";
	unsigned char *text;
	uint64_t begin, end;
	int err;

	if (!slot)
		return;
	slot->len = slot->sections = 0;
	slot->whole = slot->steady = false;
	begin = now_ns();
	err = fill(slot, &culprit);
	end = now_ns();
	if (!err) {
		culprit = "time";
		text = open_section(slot, culprit);
		if (!text || slot->text + SLOT_SIZE - text < 80)
			err = -EFBIG;
		else
			err = close_section(slot, text, sprintf((char *)text, "start=%lu end=%lu steady=%d\n", begin, end, slot->steady));
	}
	if (err == -EFBIG) {
		frame_error(&port, "truncated", "%s does not fit, a slot has %u bytes", culprit, SLOT_SIZE);
		return;
	}
	if (err) {
		reply_errno(-err, "reading %s", culprit);
		return;
	}
	slot->whole = true;
	frame_reply(&port, "ok slot=%zu ns=%lu ns_end=%lu steady=%d bytes=%zu", slot - slots, begin, end,
		    slot->steady, slot->len);
}

void verb_fetch(void)
{
	struct slot *slot = need_slot();
	char head[64], tail[64], end[96];
	struct iovec iov[3];
	int len;

	if (!slot)
		return;
	if (!slot->whole) {
		frame_error(&port, "empty", "this slot holds no complete sample");
		return;
	}
	// The last section seals the blob: whoever keeps it can still tell later that it is whole and unchanged.
	len = snprintf(tail, sizeof(tail), "sections=%u crc32=%08x\n", slot->sections,
		       frame_crc32(0, slot->text, slot->len));
	len = snprintf(end, sizeof(end), "@ end %d\n%s\n", len, tail);
	iov[0].iov_base = head;
	iov[0].iov_len = snprintf(head, sizeof(head), "ok slot=%zu\n", slot - slots);
	iov[1].iov_base = slot->text;
	iov[1].iov_len = slot->len;
	iov[2].iov_base = end;
	iov[2].iov_len = len;
	frame_sendv(&port, port.id, iov, 3);
}
