/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* BCC looks for this file to know a header tree by; the configuration is not read from it. */
#define CONFIG_BPF_SYSCALL 1
