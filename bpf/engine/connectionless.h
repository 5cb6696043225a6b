/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * Transports whose packets do not say who began, UDP above all: who asks is told where it can be known, and how long an answer
 * took while both ends take turns. Questions that have numbers are matched by these: questions.h.
 */
#ifndef WIRESPAN_CONNECTIONLESS_H
#define WIRESPAN_CONNECTIONLESS_H

#include "flow.h"
#include "response_time.h"

/* What a host knows of a flow that begins. */
enum flow_opening {
    FLOW_OPENS_FIRST = 1, /* its first packet is the first there was: the host has looked on for longer than a flow may rest */
    FLOW_OPENS_NUMBERED = 2, /* a port of DNS */
    FLOW_OPENS_CONNECTED = 4, /* its socket has one peer */
    FLOW_OPENS_UNCONNECTED = 8,
};

/*
 * Ports below are had by asking for them by number, so their end serves. From 512 on systems give reserved ports to clients too
 * (rresvport, NFS), and from 32768 on Linux gives them to whoever asks for any.
 */
#define SERVICE_PORTS_END 512
#define EPHEMERAL_PORTS   32768

FLOW_INLINE int is_service_port(__u16 port)
{
    return port && port < SERVICE_PORTS_END;
}

/* Multicast and broadcast: who answers does so from an address of its own, in another flow. */
FLOW_INLINE int is_group(const __u8 *address)
{
    const __u32 *words = (const __u32 *)address;

    if (address[0] == 0xff)
        return 1;
    return !(words[0] | words[1]) && address[10] == 0xff && address[11] == 0xff && address[12] >= 224;
}

/*
 * The role in a new flow. A service's port tells. Else the first to speak is the client, where it is known that nobody spoke
 * before; but an answer to an ephemeral port from one that is none may have its question elsewhere. Else the socket tells: one
 * that takes from anyone, at a port that was asked for, serves who has another; one that is connected is the client of such.
 */
FLOW_INLINE void connectionless_open(struct flow *flow, int from, int opening)
{
    __u16 source = from == FLOW_TX ? flow->local_port : flow->remote_port;
    __u16 destination = from == FLOW_TX ? flow->remote_port : flow->local_port;
    int local_chosen = flow->local_port < EPHEMERAL_PORTS;
    int remote_chosen = flow->remote_port < EPHEMERAL_PORTS;

    if (is_group(from == FLOW_TX ? flow->remote_address : flow->local_address))
        return;
    if (is_service_port(source) != is_service_port(destination))
        flow_set_client(flow, is_service_port(destination) ? from : !from);
    else if (opening & FLOW_OPENS_FIRST && (source >= EPHEMERAL_PORTS || destination < EPHEMERAL_PORTS))
        flow_set_client(flow, from);
    else if (opening & FLOW_OPENS_UNCONNECTED && local_chosen && !remote_chosen)
        flow->role = FLOW_ROLE_SERVER;
    else if (opening & FLOW_OPENS_CONNECTED && remote_chosen && !local_chosen)
        flow->role = FLOW_ROLE_CLIENT;
}

/*
 * A datagram of a protocol that is not known. Where client and server take turns, each of the server's answers the client's
 * before. Two in a row may be a repeat, a second question or a stream: from then on nobody knows what answers what.
 */
FLOW_INLINE void flow_take_turns(struct flow *flow, const struct packet *packet, int from)
{
    int asks = flow_from_client(flow, from);
    __u64 asked_ns = flow->request_ns;

    if (flow->requests != FLOW_REQUESTS_UNKNOWN)
        return;
    if (asks == (asked_ns != 0)) {
        flow->requests = FLOW_REQUESTS_OPAQUE;
        flow->request_ns = 0;
        return;
    }
    flow->request_ns = asks ? packet->time_ns : 0;
    if (!asks)
        flow_answered(flow, asked_ns, packet->time_ns);
}

#endif
