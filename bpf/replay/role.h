/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* The role of a TCP connection that a capture file holds without its handshake: by its ports, and by what is said. */
#ifndef WIRESPAN_ROLE_H
#define WIRESPAN_ROLE_H

#include "host.h"

#include "../engine/content_role.h"

/*
 * Whose direction a packet has by its ports: FLOW_TX the client's, FLOW_RX the server's, -1 where they do not say. The client is the
 * end with an ephemeral port where only one has one: Linux takes them from 32768 on, and nobody takes them below 1024.
 */
static inline int direction_by_ports(const struct packet *packet)
{
    __u16 source = packet->source_port;
    __u16 destination = packet->destination_port;

    if ((source < 1024) != (destination < 1024))
        return source < 1024 ? FLOW_RX : FLOW_TX;
    if ((source < 32768) != (destination < 32768))
        return source < 32768 ? FLOW_RX : FLOW_TX;
    return -1;
}

/*
 * What can be told before the packet is added to its flow. The ports' word is a guess, which content, or a SYN-ACK that comes late,
 * corrects. A SYN needs none, and a RST alone is no connection.
 */
static inline void tell_role(frame_source frame, struct flow *flow, const struct packet *packet, int from)
{
    int way;
    __u8 words;

    if (packet->transport != TRANSPORT_TCP || packet->tcp_flags & (TCP_SYN | TCP_RST) || !flow_role_is_open(flow))
        return;
    way = flow->role == FLOW_ROLE_UNKNOWN ? direction_by_ports(packet) : -1;
    if (way >= 0)
        flow_tell_client(flow, way == FLOW_TX ? from : !from, FLOW_ROLE_OF_PORTS);
    if (packet->payload_bytes && !parse_load(frame, packet->transport_offset + 12, &words, 1))
        content_tell(frame, packet->transport_offset + (words >> 4) * 4u, flow, packet, from);
}

#endif
