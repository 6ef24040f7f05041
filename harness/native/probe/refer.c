// SPDX-License-Identifier: GPL-2.0-only
//
// References on pages of a guest_memfd that nobody expects, by the hook host-configs/patches/*/hold.patch.
#define _GNU_SOURCE
#include "probe.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>

#define HOLD_DEVICE "/dev/gmem-hold"

// The hook's own, in its words.
struct gmem_hold {
	uint64_t offset, size;
	int32_t fd;
	uint32_t reserved;
};
#define GMEM_HOLD _IOW(0xb6, 0x01, struct gmem_hold)
#define GMEM_DROP _IOW(0xb6, 0x02, struct gmem_hold)

int hook_open(void)
{
	return open(HOLD_DEVICE, O_RDWR | O_CLOEXEC);
}

// mode=take: a reference on every present page of the range; mode=drop: those taken in it are given back, also on pages
// that left the file meanwhile. The answer says how many pages of the guest_memfd are held then.
void verb_refer(void)
{
	struct gmem_hold want = { 0 };
	struct watch *w = need_watch();
	char mode[16] = "";
	bool take;
	int held;

	if (!w || !need_u64("off", &want.offset) || !need_u64("len", &want.size))
		return;
	frame_text(port.line, "mode", mode, sizeof(mode));
	take = !strcmp(mode, "take");
	if (!take && strcmp(mode, "drop")) {
		frame_error(&port, "usage", "mode= must be take or drop");
		return;
	}
	if (w->hook_fd < 0) {
		frame_error(&port, "nohook", "the kernel has no " HOLD_DEVICE);
		return;
	}
	want.fd = take ? w->gmem_fd : -1;
	held = ioctl(w->hook_fd, take ? GMEM_HOLD : GMEM_DROP, &want);
	if (held < 0)
		reply_errno(errno, "refer %s of %lu bytes at %lu", mode, want.size, want.offset);
	else
		frame_reply(&port, "ok held=%d", held);
}
