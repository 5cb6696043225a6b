/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * The flow engine: a parsed packet and a flow's state in, the flow's new state out.
 *
 * One source, two hosts: the socket tap compiles it for BPF, replay for userspace. So it is plain C: no libc, no BPF helper, no
 * loop, no signed division, every function inlined. A host includes <linux/types.h> (the kernel's own, or bpf/include's).
 */
#ifndef WIRESPAN_UPDATE_H
#define WIRESPAN_UPDATE_H

#include "connectionless.h"
#include "flow.h"
#include "icmp.h"
#include "response_time.h"
#include "tcp_connection.h"
#include "tcp_sequence.h"

FLOW_INLINE void flow_tcp(struct flow *flow, const struct packet *packet, int from)
{
    __u8 flags = packet->tcp_flags;

    if (flags & TCP_RST) {
        count_few(&flow->rare[from & 1].resets);
        tcp_rst(flow, packet, from);
    } else {
        if (flags & TCP_SYN)
            tcp_syn(flow, packet, from);
        else if (flow->outcome == FLOW_OUTCOME_HALF_OPEN)
            tcp_completes(flow, packet, from);
        else if (flow->outcome == FLOW_OUTCOME_RESET)
            tcp_goes_on(flow, packet, from);
        if (flags & TCP_FIN && !(flags & TCP_SYN)) {
            count_few(&flow->sides[from & 1].fins);
            tcp_fin(flow, from);
        }
        if (flags & TCP_ACK)
            tcp_acknowledge(flow, packet, from);
        if (tcp_sequence(flow, packet, from))
            flow_exchange(flow, packet, from);
    }
    flow->sides[from & 1].tcp_flags |= flags;
}

/* A packet's place in time; what is marked "interval" begins again where the reader has taken a record. */
FLOW_INLINE void flow_moment(struct flow *flow, const struct packet *packet)
{
    __u32 taken = flow->taken;

    if (flow->interval != taken) {
        flow->interval = taken;
        flow->interval_first_ns = packet->time_ns;
        flow->response_time_max_ns = 0;
    } else if (packet->time_ns < flow->interval_first_ns) {
        flow->interval_first_ns = packet->time_ns;
    }
    /* Capture files hold packets out of time order. */
    if (packet->time_ns > flow->last_ns)
        flow->last_ns = packet->time_ns;
    if (packet->time_ns < flow->first_ns)
        flow->first_ns = packet->time_ns;
}

/* What an IP header says: DSCP, hop limit, and whether a router held the packet's path for congested (RFC 3168). */
FLOW_INLINE void flow_header(struct flow_side *own, const struct packet *packet)
{
    if ((packet->traffic_class & 3) == 3)
        FLOW_ADD(own->ecn_ce, packet->segments);
    if (!(own->known & FLOW_KNOWN_HEADER)) {
        own->traffic_class = packet->traffic_class;
        own->hop_limit = packet->hop_limit;
        own->known |= FLOW_KNOWN_HEADER;
    }
}

/* What every packet adds, of any transport; all that a fragment without a transport header adds. */
FLOW_INLINE void flow_count(struct flow *flow, const struct packet *packet, int from)
{
    struct flow_side *own = &flow->sides[from & 1];

    FLOW_ADD(own->bytes, packet->ip_bytes);
    FLOW_ADD(own->packets, packet->segments);
    FLOW_ADD(own->payload_bytes, packet->payload_bytes);
    flow_moment(flow, packet);
}

FLOW_INLINE void flow_add(struct flow *flow, const struct packet *packet, int from)
{
    flow_count(flow, packet, from);
    flow_header(&flow->sides[from & 1], packet);
    switch (flow->transport) {
    case TRANSPORT_TCP:
        flow_tcp(flow, packet, from);
        break;
    case TRANSPORT_UDP:
    case TRANSPORT_UDPLITE:
        flow_take_turns(flow, packet, from);
        break;
    default: /* ICMP's queries have numbers; of the others it is not known what is a request */
        break;
    }
}

/* Add a packet that local sent (`from` FLOW_TX) or received (FLOW_RX). */
FLOW_INLINE enum flow_verdict flow_update(struct flow *flow, const struct packet *packet, int from)
{
    if (flow->transport == TRANSPORT_TCP && tcp_renews(flow, packet, from))
        return FLOW_RENEW;
    flow_add(flow, packet, from);
    return FLOW_COUNTED;
}

/*
 * Make a zeroed slot the flow of `packet`, without adding it. The host sets id and state. TCP tells who began by its
 * SYN; of the others the host has the packet looked at (questions.h), after it was added.
 */
FLOW_INLINE void flow_open(struct flow *flow, const struct packet *packet, int from)
{
    int tx = from == FLOW_TX;

    __builtin_memcpy(flow->local_address, tx ? packet->source_address : packet->destination_address, 16);
    __builtin_memcpy(flow->remote_address, tx ? packet->destination_address : packet->source_address, 16);
    flow->local_port = tx ? packet->source_port : packet->destination_port;
    flow->remote_port = tx ? packet->destination_port : packet->source_port;
    flow->transport = packet->transport;
    flow->icmp_type = packet->icmp_type;
    flow->icmp_code = packet->icmp_code;
    flow->last_ns = packet->time_ns;
    flow->first_ns = packet->time_ns;
    flow->interval_first_ns = packet->time_ns;
    if (packet->transport != TRANSPORT_TCP) {
        flow->requests = FLOW_REQUESTS_NEW;
    } else {
        flow->sides[FLOW_TX].known |= FLOW_OF_INTEREST;
        flow->sides[FLOW_RX].known |= FLOW_OF_INTEREST;
    }
}

/* As flow_open, and add the packet. */
FLOW_INLINE void flow_begin(struct flow *flow, const struct packet *packet, int from)
{
    flow_open(flow, packet, from);
    flow_add(flow, packet, from);
}

#endif
