/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* BCC wants it for perf and ring buffers, which the programs here do not use. */
#define PAGE_SIZE 4096UL
