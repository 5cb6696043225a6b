/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * What the readers of both formats share: a file that is being read, a packet of it, and what cannot be read said in words, with
 * the packet's number. Numbers are in the byte order of the machine that wrote the file.
 */
#ifndef WIRESPAN_CAPTURE_H
#define WIRESPAN_CAPTURE_H

#include "byte_stream.h"

#include <stdarg.h>
#include <stdio.h>

#define CAPTURE_LAST_SECOND 9223372036ll /* of what signed nanoseconds can hold */
#define CAPTURE_MOST_BYTES  (16u * 1024 * 1024) /* of one packet, or block */
#define CAPTURE_FAULT_BYTES 256u

struct capture_interface {
    __u32 link_type;
    __u32 most_bytes; /* of a packet that are captured; 0: all */
    __s64 offset_ns;
    __u8 resolution; /* if_tsresol */
    __u8 pad[7];
};

struct captured {
    __u64 time_ns;
    const __u8 *bytes; /* valid until the next one is asked for */
    __u32 captured;
    __u32 wire_bytes;
    __u32 link_type;
    __u32 interface;
};

struct capture_file {
    struct byte_stream stream;
    __u64 packets;     /* read so far, those included that could not be */
    __u64 unreadable;  /* of them, those that were skipped */
    __u64 last_ns;     /* of the packet before */
    __u32 record_bytes; /* that stand before each packet; 0: it is a pcapng file */
    __u32 link_type;
    __u8 swapped;
    __u8 nanoseconds;
    __u8 lengths_swapped; /* of versions before 2.3 */
    __u8 pad[5];
    struct capture_interface *interfaces;
    __u32 interface_count;
    __u32 interface_room;
    char fault[CAPTURE_FAULT_BYTES]; /* the first; empty: there is none */
};

enum capture_read {
    CAPTURE_BROKEN = -1, /* nothing more can be read: see `fault` */
    CAPTURE_END,
    CAPTURE_PACKET,
    CAPTURE_UNREADABLE, /* this packet is skipped */
};

static inline __u32 capture_u32(const struct capture_file *file, const __u8 *bytes)
{
    __u32 value;

    memcpy(&value, bytes, sizeof(value));
    return file->swapped ? __builtin_bswap32(value) : value;
}

static inline __u16 capture_u16(const struct capture_file *file, const __u8 *bytes)
{
    __u16 value;

    memcpy(&value, bytes, sizeof(value));
    return file->swapped ? __builtin_bswap16(value) : value;
}

/* Note a fault, if it is the first. */
__attribute__((format(printf, 2, 3))) static void capture_fault(struct capture_file *file, const char *format, ...)
{
    va_list arguments;

    if (file->fault[0])
        return;
    va_start(arguments, format);
    vsnprintf(file->fault, sizeof(file->fault), format, arguments);
    va_end(arguments);
}

/* A time that every reader can hold, and that is not 0, which says "not seen". */
static inline __u64 capture_time(__int128 time_ns)
{
    const __int128 last = (__int128)CAPTURE_LAST_SECOND * 1000000000 - 1;

    return time_ns < 1 ? 1 : time_ns > last ? (__u64)last : (__u64)time_ns;
}

/* A packet's lengths as they are claimed. Returns 0 where no file can hold it. */
static inline int capture_lengths(struct captured *packet, __u32 captured, __u32 wire_bytes)
{
    packet->captured = captured;
    /* Some writers state the captured length only. */
    packet->wire_bytes = wire_bytes < captured ? captured : wire_bytes;
    return captured <= CAPTURE_MOST_BYTES;
}

#endif
