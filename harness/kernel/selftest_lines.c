// SPDX-License-Identifier: GPL-2.0-only
//
// Linked into every selftest: what it prints goes out by lines, as on a terminal.
//
// Standard output is a pipe there, which libc fills by 4 KiB, so that of a test that hangs or is killed nothing would be
// left to say how far it came. The programs are static: stdbuf(1), which preloads a library, does nothing for them.
#include <stdio.h>

__attribute__((constructor)) static void by_lines(void)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
}
