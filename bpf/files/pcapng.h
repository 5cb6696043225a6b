/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * pcapng (draft-ietf-opsawg-pcapng): sections in either byte order, interfaces of any link type and clock, packets in blocks of
 * all three kinds. Blocks of other kinds are skipped.
 */
#ifndef WIRESPAN_PCAPNG_H
#define WIRESPAN_PCAPNG_H

#include "capture.h"

#define PCAPNG_SECTION         0x0a0d0d0au
#define PCAPNG_BYTE_ORDER      0x1a2b3c4du
#define PCAPNG_MOST_INTERFACES 65536u

enum pcapng_block {
    PCAPNG_INTERFACE = 1,
    PCAPNG_PACKET_OLD = 2,
    PCAPNG_PACKET_SIMPLE = 3,
    PCAPNG_PACKET_ENHANCED = 6,
};

enum pcapng_option {
    PCAPNG_TIME_RESOLUTION = 9,
    PCAPNG_TIME_OFFSET = 14,
};

/* A time stamp in an interface's own units since its own zero (if_tsresol, if_tsoffset). */
static __u64 pcapng_time(const struct capture_interface *interface, __u64 ticks)
{
    __int128 time_ns = ticks;
    int power = interface->resolution & 0x7f;

    if (interface->resolution & 0x80) {
        time_ns = time_ns * 1000000000 >> power;
    } else {
        for (; power > 9 && time_ns; power--)
            time_ns /= 10;
        for (; power < 9; power++)
            time_ns *= 10;
    }
    return capture_time(time_ns + interface->offset_ns);
}

/* Read the options of an interface; `bytes` up to `end`. One that is cut is none. */
static void pcapng_options(
        const struct capture_file *file, struct capture_interface *interface, const __u8 *bytes, const __u8 *end)
{
    __u16 code;
    __u32 size;
    __u64 seconds;

    while (end - bytes >= 4) {
        code = capture_u16(file, bytes);
        size = capture_u16(file, bytes + 2);
        bytes += 4;
        if (!code || size > (size_t)(end - bytes))
            return;
        if (code == PCAPNG_TIME_RESOLUTION && size == 1)
            interface->resolution = bytes[0];
        if (code == PCAPNG_TIME_OFFSET && size == 8) {
            memcpy(&seconds, bytes, sizeof(seconds));
            if (file->swapped)
                seconds = __builtin_bswap64(seconds);
            interface->offset_ns = (__s64)seconds > CAPTURE_LAST_SECOND    ? CAPTURE_LAST_SECOND * 1000000000
                                   : (__s64)seconds < -CAPTURE_LAST_SECOND ? -CAPTURE_LAST_SECOND * 1000000000
                                                                           : (__s64)seconds * 1000000000;
        }
        size = (size + 3) & ~3u;
        bytes += size < (size_t)(end - bytes) ? size : (size_t)(end - bytes);
    }
}

static int pcapng_interface(struct capture_file *file, const __u8 *body, __u32 size)
{
    struct capture_interface *interface;
    __u32 room = file->interface_room ? 2 * file->interface_room : 4;

    if (size < 8 || file->interface_count == PCAPNG_MOST_INTERFACES) {
        capture_fault(file, "behind packet %llu: an interface that cannot be read", file->packets);
        return -1;
    }
    if (file->interface_count == file->interface_room) {
        interface = realloc(file->interfaces, room * sizeof(*interface));
        if (!interface) {
            capture_fault(file, "no memory for its interfaces");
            return -1;
        }
        file->interfaces = interface;
        file->interface_room = room;
    }
    interface = &file->interfaces[file->interface_count++];
    memset(interface, 0, sizeof(*interface));
    interface->link_type = capture_u16(file, body);
    interface->most_bytes = capture_u32(file, body + 4);
    interface->resolution = 6;
    pcapng_options(file, interface, body + 8, body + size);
    return 0;
}

static void pcapng_cut(struct capture_file *file)
{
    if (file->stream.error)
        capture_fault(file, "behind packet %llu: cannot be read: %s", file->packets, strerror(file->stream.error));
    else
        capture_fault(file, "behind packet %llu: the file ends in the middle of a block", file->packets);
}

/* The block that comes next, whole, and its length; NULL at the end of the file, and with a fault. */
static const __u8 *pcapng_block(struct capture_file *file, __u32 *size)
{
    const __u8 *block = stream_next(&file->stream, 12);
    __u32 type;
    __u32 order;

    if (!block) {
        if (stream_has_rest(&file->stream) || file->stream.error)
            pcapng_cut(file);
        return NULL;
    }
    memcpy(&type, block, sizeof(type));
    if (type == PCAPNG_SECTION) {
        memcpy(&order, block + 8, sizeof(order));
        file->swapped = order == __builtin_bswap32(PCAPNG_BYTE_ORDER);
        if (!file->swapped && order != PCAPNG_BYTE_ORDER) {
            capture_fault(file, "behind packet %llu: a section of no byte order", file->packets);
            return NULL;
        }
    }
    *size = capture_u32(file, block + 4);
    if (*size < 12 || *size % 4 || *size > CAPTURE_MOST_BYTES) {
        capture_fault(file, "behind packet %llu: a block that claims %u bytes; nothing from there on can be read",
                file->packets, *size);
        return NULL;
    }
    block = stream_next(&file->stream, *size);
    if (!block)
        pcapng_cut(file);
    return block;
}

static int pcapng_section(struct capture_file *file, const __u8 *body, __u32 size)
{
    if (size < 16 || capture_u16(file, body + 4) != 1) {
        capture_fault(file, "behind packet %llu: a section of a version that nobody knows", file->packets);
        return -1;
    }
    file->interface_count = 0;
    return 0;
}

static enum capture_read pcapng_unreadable(struct capture_file *file, const char *why)
{
    capture_fault(file, "packet %llu: %s", file->packets, why);
    file->unreadable++;
    return CAPTURE_UNREADABLE;
}

/* A packet's block, `size` bytes without its frame. */
static enum capture_read pcapng_packet(
        struct capture_file *file, __u32 type, const __u8 *body, __u32 size, struct captured *packet)
{
    __u32 head = type == PCAPNG_PACKET_SIMPLE ? 4 : 20;
    const struct capture_interface *interface;
    __u32 captured;

    file->packets++;
    if (size < head)
        return pcapng_unreadable(file, "its block is too short");
    packet->interface = type == PCAPNG_PACKET_ENHANCED ? capture_u32(file, body)
                        : type == PCAPNG_PACKET_OLD    ? capture_u16(file, body)
                                                       : 0;
    if (packet->interface >= file->interface_count)
        return pcapng_unreadable(file, "of an interface that the file does not describe");
    interface = &file->interfaces[packet->interface];
    if (type == PCAPNG_PACKET_SIMPLE) {
        /* It has no time of its own, and says no captured length: it fills its block, to whole words. */
        packet->wire_bytes = capture_u32(file, body);
        captured = size - head < packet->wire_bytes ? size - head : packet->wire_bytes;
        if (interface->most_bytes && captured > interface->most_bytes)
            captured = interface->most_bytes;
        packet->time_ns = file->last_ns ? file->last_ns : 1;
        capture_lengths(packet, captured, packet->wire_bytes);
    } else {
        packet->time_ns = pcapng_time(interface, (__u64)capture_u32(file, body + 4) << 32 | capture_u32(file, body + 8));
        capture_lengths(packet, capture_u32(file, body + 12), capture_u32(file, body + 16));
    }
    if (packet->captured > size - head)
        return pcapng_unreadable(file, "it claims more bytes than its block has");
    packet->bytes = body + head;
    packet->link_type = interface->link_type;
    file->last_ns = packet->time_ns;
    return CAPTURE_PACKET;
}

static enum capture_read pcapng_next(struct capture_file *file, struct captured *packet)
{
    const __u8 *block;
    __u32 type;
    __u32 size;

    while ((block = pcapng_block(file, &size))) {
        type = capture_u32(file, block);
        stream_take(&file->stream, size);
        if (type == PCAPNG_PACKET_ENHANCED || type == PCAPNG_PACKET_SIMPLE || type == PCAPNG_PACKET_OLD)
            return pcapng_packet(file, type, block + 8, size - 12, packet);
        if (type == PCAPNG_SECTION && pcapng_section(file, block + 8, size - 12))
            return CAPTURE_BROKEN;
        if (type == PCAPNG_INTERFACE && pcapng_interface(file, block + 8, size - 12))
            return CAPTURE_BROKEN;
    }
    return stream_has_rest(&file->stream) || file->stream.error ? CAPTURE_BROKEN : CAPTURE_END;
}

/* Take the first section's head. Returns -1, and a fault, where there is none. */
static int pcapng_open(struct capture_file *file)
{
    __u32 size;
    const __u8 *block = pcapng_block(file, &size);

    if (!block || pcapng_section(file, block + 8, size - 12)) {
        memcpy(file->fault, "its section header cannot be read", sizeof("its section header cannot be read"));
        return -1;
    }
    stream_take(&file->stream, size);
    return 0;
}

#endif
