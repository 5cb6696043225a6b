/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* ICMP errors, told to the flow that they are about. */
#ifndef WIRESPAN_ICMP_ERROR_H
#define WIRESPAN_ICMP_ERROR_H

#include "slot_table.h"

#include "../engine/icmp.h"

/*
 * An ICMP error quotes the packet that it is about, at least up to its ports (RFC 792, 4443 2.4): note it on that packet's flow.
 * The error itself is counted in its own.
 */
static void attach_error(struct replay *replay, const struct arrival *arrival)
{
    const struct packet *packet = &arrival->packet;
    const struct frame *frame = &arrival->frame;
    __u32 at = packet->transport_offset + 8;
    struct packet quoted = {.transport = 0};
    __u8 header[PARSE_IPV6_HEADER_BYTES];
    __u8 ports[4];
    struct flow *flow;
    __u32 slot;
    int from;

    if (!icmp_is_error(packet->transport, packet->icmp_type) || parse_load(frame, at, header, 20))
        return;
    if (packet->transport == TRANSPORT_ICMP) {
        if (header[0] >> 4 != 4 || load_be16(header + 6) & 0x1fff)
            return;
        quoted.transport = header[9];
        map_ipv4(quoted.source_address, header + 12);
        map_ipv4(quoted.destination_address, header + 16);
        at += (header[0] & 15) * 4u;
    } else {
        if (header[0] >> 4 != 6 || parse_load(frame, at, header, sizeof(header)))
            return;
        quoted.transport = header[6];
        memcpy(quoted.source_address, header + 8, 16);
        memcpy(quoted.destination_address, header + 24, 16);
        at += (__u32)sizeof(header);
    }
    if (quoted.transport != TRANSPORT_TCP && quoted.transport != TRANSPORT_UDP && quoted.transport != TRANSPORT_SCTP)
        return;
    if (parse_load(frame, at, ports, sizeof(ports)))
        return;
    quoted.source_port = load_be16(ports);
    quoted.destination_port = load_be16(ports + 2);
    slot = find_slot(replay, &quoted, &arrival->through, hash_packet(replay, &quoted, &arrival->through), &from);
    if (slot == NO_SLOT)
        return;
    flow = &replay->slots[slot];
    flow->icmp_errors += 1;
    flow->icmp_error_type = packet->icmp_type;
    flow->icmp_error_code = packet->icmp_code;
}

#endif
