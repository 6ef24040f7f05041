// SPDX-License-Identifier: GPL-2.0-only
//
// How /proc/kpageflags shows a page of a guest_memfd.
#ifndef GMEM_PAGEFLAGS_H
#define GMEM_PAGEFLAGS_H

// include/uapi/linux/kernel-page-flags.h and, for MLOCKED, include/linux/kernel-page-flags.h
#define KPF(bit) (1ull << (bit))
#define KPF_LRU KPF(5)
#define KPF_BUDDY KPF(10)
#define KPF_ANON KPF(12)
#define KPF_SWAPBACKED KPF(14)
#define KPF_COMPOUND_HEAD KPF(15)
#define KPF_COMPOUND_TAIL KPF(16)
#define KPF_HUGE KPF(17)
#define KPF_UNEVICTABLE KPF(18)
#define KPF_NOPAGE KPF(20)
#define KPF_MLOCKED KPF(33)

// Unevictable file pages that nobody mlocked are guest_memfd's on a machine without ramfs and secretmem users.
// Of a folio this is its first page; tail pages belong to the head before them, and before 6.10 do not carry its flags.
#define GMEM_MASK (KPF_LRU | KPF_UNEVICTABLE | KPF_MLOCKED | KPF_SWAPBACKED | KPF_ANON | KPF_HUGE | KPF_BUDDY | KPF_NOPAGE)
#define GMEM_FLAGS (KPF_LRU | KPF_UNEVICTABLE)

#endif
