/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * Preloaded into the process that compiles (compile.py): writes down what it asks of bpf(2) instead of asking the kernel. So what
 * was compiled is known whole, as the kernel would be given it, and compiling takes no privilege.
 *
 * Written to the descriptor in BPF_RECORD, for each map, program and BTF: struct record, the attribute, and what that points at.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <linux/bpf.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Descriptors that nobody has. */
#define FIRST_DESCRIPTOR 1000000

#define ATTRIBUTE_BYTES 128

struct record {
    __u32 command;
    __u32 descriptor;
    __u32 bytes[4]; /* of the attribute; of instructions or BTF; of func_info; of line_info */
};

static void put(int to, const void *from, size_t bytes)
{
    const char *at = from;
    ssize_t written;

    while (bytes) {
        written = write(to, at, bytes);
        if (written <= 0)
            _exit(1);
        at += written;
        bytes -= (size_t)written;
    }
}

static void keep(unsigned command, const union bpf_attr *given, size_t size, unsigned descriptor)
{
    const char *named = getenv("BPF_RECORD");
    union {
        union bpf_attr said;
        char bytes[ATTRIBUTE_BYTES];
    } attribute;
    struct record record = {.command = command, .descriptor = descriptor, .bytes = {ATTRIBUTE_BYTES}};
    const void *parts[3] = {NULL, NULL, NULL};
    int to;
    int part;

    if (!named)
        return;
    to = atoi(named);
    memset(&attribute, 0, sizeof(attribute));
    memcpy(&attribute, given, size < ATTRIBUTE_BYTES ? size : ATTRIBUTE_BYTES);
    if (command == BPF_PROG_LOAD) {
        parts[0] = (const void *)(unsigned long)attribute.said.insns;
        record.bytes[1] = attribute.said.insn_cnt * (__u32)sizeof(struct bpf_insn);
        parts[1] = (const void *)(unsigned long)attribute.said.func_info;
        record.bytes[2] = attribute.said.func_info_cnt * attribute.said.func_info_rec_size;
        parts[2] = (const void *)(unsigned long)attribute.said.line_info;
        record.bytes[3] = attribute.said.line_info_cnt * attribute.said.line_info_rec_size;
    } else if (command == BPF_BTF_LOAD) {
        parts[0] = (const void *)(unsigned long)attribute.said.btf;
        record.bytes[1] = attribute.said.btf_size;
    }
    put(to, &record, sizeof(record));
    put(to, attribute.bytes, ATTRIBUTE_BYTES);
    for (part = 0; part < 3; part++)
        put(to, parts[part], record.bytes[part + 1]);
}

long syscall(long number, ...)
{
    static long (*next)(long, ...);
    static unsigned descriptor = FIRST_DESCRIPTOR;
    long given[6];
    va_list arguments;
    int at;

    va_start(arguments, number);
    for (at = 0; at < 6; at++)
        given[at] = va_arg(arguments, long);
    va_end(arguments);
    if (!next)
        next = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    if (number != SYS_bpf)
        return next(number, given[0], given[1], given[2], given[3], given[4], given[5]);
    descriptor++;
    if (given[0] == BPF_MAP_CREATE || given[0] == BPF_PROG_LOAD || given[0] == BPF_BTF_LOAD)
        keep((unsigned)given[0], (const union bpf_attr *)given[1], (size_t)given[2], descriptor);
    return descriptor;
}
