/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* The role of a TCP connection that a capture file holds without its handshake: by its ports, and by what is said. */
#ifndef WIRESPAN_ROLE_H
#define WIRESPAN_ROLE_H

#include "host.h"

#include "../engine/exchanges/content_role.h"
#include "../engine/http2/frame.h"
#include "../engine/port_role.h"

/*
 * Who says a frame of HTTP/2 that a segment begins with: first in a header block are pseudo-headers, others of a request than of a
 * response (RFC 9113 8.3), and they are in the static table (RFC 7541, appendix A). Returns as content_speaker.
 */
static inline int frame_speaker(frame_source frame, __u32 offset)
{
    __u8 head[HTTP2_HEAD_ROOM];
    __u8 field;

    if (parse_load(frame, offset, head, sizeof(head)) || !http2_is_plausible(head) || head[3] != HTTP2_HEADERS)
        return -1;
    if (head[4] & HTTP2_PADDED)
        return -1;
    field = head[HTTP2_HEAD_BYTES + (head[4] & HTTP2_HAS_PRIORITY ? 5 : 0)];
    if ((field >= 0x82 && field <= 0x87) || field == 0x41 || field == 0x44 || field == 0x01 || field == 0x04)
        return FLOW_TX; /* indexed; `:authority` and `:path` with a value */
    return (field >= 0x88 && field <= 0x8e) || field == 0x48 ? FLOW_RX : -1;
}

/*
 * What can be told before the packet is added to its flow. The ports' word is a guess, which content, or a SYN-ACK that comes late,
 * corrects. A SYN needs none, and a RST alone is no connection.
 */
static inline void tell_role(frame_source frame, struct flow *flow, const struct packet *packet, int from)
{
    __u32 offset;
    int way;
    __u8 words;

    if (packet->transport != TRANSPORT_TCP || packet->tcp_flags & (TCP_SYN | TCP_RST) || !flow_role_is_open(flow))
        return;
    way = flow->role == FLOW_ROLE_UNKNOWN ? direction_by_ports(packet->source_port, packet->destination_port) : -1;
    if (way >= 0)
        flow_tell_client(flow, way == FLOW_TX ? from : !from, FLOW_ROLE_OF_PORTS);
    if (!packet->payload_bytes || parse_load(frame, packet->transport_offset + 12, &words, 1))
        return;
    offset = packet->transport_offset + (words >> 4) * 4u;
    content_tell(frame, offset, flow, packet, from);
    way = flow_role_is_open(flow) ? frame_speaker(frame, offset) : -1;
    if (way >= 0)
        flow_tell_client(flow, way == FLOW_TX ? from : !from, FLOW_ROLE_OF_CONTENT);
}

#endif
