/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* Which packets are worth their precise time. */
#ifndef WIRESPAN_TIMED_H
#define WIRESPAN_TIMED_H

#include "flows/slots.h"

#include "../engine/tcp_sequence.h"

/*
 * A TCP client that has pushed this often and not been answered streams: when each of its requests was over does not matter. A
 * response to so long a request waits from the last tick, 4 ms too long at most.
 */
#define PUSHES_PER_RESPONSE 256

/*
 * Whether a TCP packet begins or ends something timed. A request's last segment carries PSH: a sender must set it when its
 * buffer runs empty (RFC 9293 3.9.1.2).
 */
FLOW_INLINE int is_timed_tcp(const struct flow *flow, const struct packet *packet, int from)
{
    if (packet->tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST) || flow->outcome == FLOW_OUTCOME_HALF_OPEN)
        return 1;
    if (!packet->payload_bytes)
        return 0;
    if (tcp_is_out_of_place(flow, packet, from))
        return 1;
    return flow_from_client(flow, from) ? packet->tcp_flags & TCP_PSH : flow->request_ns != 0;
}

/* Whether what is timed of a client's segment is worth its time, which costs as much as all the rest where it is received. */
FLOW_INLINE int is_stream(const struct flow *flow, struct socket_facts *socket, const struct packet *packet)
{
    if (!packet->payload_bytes || packet->tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST) ||
            flow->outcome == FLOW_OUTCOME_HALF_OPEN || !flow_from_client(flow, FLOW_RX))
        return 0;
    if (socket->answers != flow->responses) {
        socket->answers = flow->responses;
        socket->pushes = 0;
    }
    if (socket->pushes == PUSHES_PER_RESPONSE)
        return 1;
    socket->pushes += 1;
    return 0;
}

/* A flow of datagrams that do not take turns is not timed. */
FLOW_INLINE int is_timed_datagram(const struct flow *flow)
{
    return flow->requests != FLOW_REQUESTS_OPAQUE;
}

#endif
