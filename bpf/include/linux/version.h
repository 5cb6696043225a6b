/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* The oldest kernel the programs are written for. Nothing is decided by it: programs of these types carry no version. */
#define KERNEL_VERSION(major, minor, patch) (((major) << 16) + ((minor) << 8) + (patch))
#define LINUX_VERSION_CODE KERNEL_VERSION(5, 10, 0)
