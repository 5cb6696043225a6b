/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* The oldest kernel we support; nothing here depends on it. */
#define LINUX_VERSION_CODE      330240
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + ((c) > 255 ? 255 : (c)))
