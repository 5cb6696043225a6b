/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* Sizes BCC's ring buffers, which our programs have none of. */
#define PAGE_SIZE 4096UL
