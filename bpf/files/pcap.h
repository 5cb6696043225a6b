/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* pcap (draft-ietf-opsawg-pcap): one interface, one clock, packets one behind the other. */
#ifndef WIRESPAN_PCAP_H
#define WIRESPAN_PCAP_H

#include "capture.h"

#define PCAP_MICROSECONDS 0xa1b2c3d4u
#define PCAP_NANOSECONDS  0xa1b23c4du
#define PCAP_KUZNETZOV    0xa1b2cd34u /* his patch for Linux: eight bytes more before each packet */
#define PCAP_LINK_TYPE    0x03ffffffu /* the bits above say how long the frame check sequence is */

static int pcap_open(struct capture_file *file, __u32 magic)
{
    const __u8 *header = stream_next(&file->stream, 24);

    if (!header) {
        capture_fault(file, "it ends in the middle of its header");
        return -1;
    }
    if (capture_u16(file, header + 4) != 2) {
        capture_fault(file, "pcap of version %u, which nobody knows", capture_u16(file, header + 4));
        return -1;
    }
    file->record_bytes = magic == PCAP_KUZNETZOV ? 24 : 16;
    file->nanoseconds = magic == PCAP_NANOSECONDS;
    file->lengths_swapped = capture_u16(file, header + 6) < 3;
    file->link_type = capture_u32(file, header + 20) & PCAP_LINK_TYPE;
    stream_take(&file->stream, 24);
    return 0;
}

/* The file ends within a packet, or cannot be read there. */
static enum capture_read pcap_cut(struct capture_file *file)
{
    if (file->stream.error)
        capture_fault(file, "packet %llu: cannot be read: %s", file->packets + 1, strerror(file->stream.error));
    else
        capture_fault(file, "packet %llu: the file ends in the middle of it", file->packets + 1);
    return CAPTURE_BROKEN;
}

static enum capture_read pcap_next(struct capture_file *file, struct captured *packet)
{
    const __u8 *record = stream_next(&file->stream, file->record_bytes);
    __u32 captured;
    __u32 wire_bytes;

    if (!record)
        return stream_has_rest(&file->stream) || file->stream.error ? pcap_cut(file) : CAPTURE_END;
    captured = capture_u32(file, record + (file->lengths_swapped ? 12 : 8));
    wire_bytes = capture_u32(file, record + (file->lengths_swapped ? 8 : 12));
    if (!capture_lengths(packet, captured, wire_bytes)) {
        capture_fault(file, "packet %llu: it claims %u bytes; nothing from there on can be read", file->packets + 1, captured);
        return CAPTURE_BROKEN;
    }
    packet->time_ns = capture_time((__int128)capture_u32(file, record) * 1000000000 +
                                   (__u64)capture_u32(file, record + 4) * (file->nanoseconds ? 1 : 1000));
    record = stream_next(&file->stream, (size_t)file->record_bytes + captured);
    if (!record)
        return pcap_cut(file);
    packet->bytes = record + file->record_bytes;
    packet->link_type = file->link_type;
    packet->interface = 0;
    file->packets++;
    stream_take(&file->stream, (size_t)file->record_bytes + captured);
    return CAPTURE_PACKET;
}

#endif
