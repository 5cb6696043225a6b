/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* The role of a TCP connection that a capture file holds without its handshake: by its ports, and by what is said. */
#ifndef WIRESPAN_ROLE_H
#define WIRESPAN_ROLE_H

#include "host.h"

#include "../engine/exchanges/content_role.h"
#include "../engine/port_role.h"

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
    way = flow->role == FLOW_ROLE_UNKNOWN ? direction_by_ports(packet->source_port, packet->destination_port) : -1;
    if (way >= 0)
        flow_tell_client(flow, way == FLOW_TX ? from : !from, FLOW_ROLE_OF_PORTS);
    if (!packet->payload_bytes || parse_load(frame, packet->transport_offset + 12, &words, 1))
        return;
    content_tell(frame, packet->transport_offset + (words >> 4) * 4u, flow, packet, from);
}

#endif
