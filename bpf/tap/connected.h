/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* The common packet: of a connected socket, whose storage has its flow. Hardly a parse, no look-up of addresses. */
#ifndef WIRESPAN_CONNECTED_H
#define WIRESPAN_CONNECTED_H

#include "clock.h"
#include "exchanges/exchanges.h"
#include "pieces/handshakes.h"
#include "pieces/questions.h"
#include "segments.h"
#include "socket.h"
#include "timed.h"
#include "exchanges/turns.h"

#include "../engine/update.h"

/* A socket's figures are read once in every 2^27 ns (134 ms): often enough for a record, too rarely to be seen. */
#define SOCKET_INTERVAL_BITS 27

/*
 * What a TCP socket sends is serialised by its lock, so its counters need no atomic addition; what it receives is seen before
 * the lock is taken, and two CPUs may be at it.
 */
FLOW_INLINE void count_segment(struct flow *flow, const struct packet *packet, int from)
{
    struct flow_side *own = &flow->sides[FLOW_TX];

    if (from == FLOW_TX) {
        own->bytes += packet->ip_bytes;
        own->packets += packet->segments;
        own->payload_bytes += packet->payload_bytes;
    } else {
        own = &flow->sides[FLOW_RX];
        FLOW_ADD(own->bytes, packet->ip_bytes);
        FLOW_ADD(own->packets, packet->segments);
        if (packet->payload_bytes)
            FLOW_ADD(own->payload_bytes, packet->payload_bytes);
    }
    flow_moment(flow, packet);
}

/* Traffic class and hop limit of an IP header whose length, `offset`, tells its version. */
FLOW_INLINE void read_header(struct packet *packet, const __u8 *ip, __u32 offset)
{
    packet->traffic_class = offset == 20 ? ip[1] : (__u8)(ip[0] << 4 | ip[1] >> 4);
    packet->hop_limit = offset == 20 ? ip[8] : ip[7];
}

/* Add a TCP packet to the flow of its socket. Returns 0 where it opens a connection. */
FLOW_INLINE int tap_segment(
        struct __sk_buff *skb, struct bpf_sock *sk, struct slot *slot, const __u8 *tcp, __u32 offset, int from)
{
    struct flow *flow = &slot->flow;
    struct packet packet;
    __u64 last_ns = flow->last_ns;
    int opening = flow->outcome == FLOW_OUTCOME_HALF_OPEN;
    struct exchange_moment before = moment_before(flow, from);
    int timed;

    packet.tcp_flags = tcp[13];
    if (packet.tcp_flags & TCP_SYN)
        return 0;
    packet.transport = TRANSPORT_TCP;
    packet.late = LATE_UNJUDGED;
    packet.segments = 1;
    packet.ip_bytes = skb->len;
    packet.payload_bytes = packet.ip_bytes - offset - (tcp[12] >> 4) * 4u;
    packet.sequence = bpf_ntohl(*(const __be32 *)(tcp + 4));
    packet.acknowledgment = bpf_ntohl(*(const __be32 *)(tcp + 8));
    packet.window = bpf_ntohs(*(const __be16 *)(tcp + 14));
    read_header(&packet, tcp - offset, offset);
    count_segments(skb, &packet);
    listen_for_role(skb, offset + (tcp[12] >> 4) * 4u, flow, &packet, from);
    timed = is_timed_tcp(flow, &packet, from);
    if (timed && from == FLOW_RX)
        timed = !is_stream(flow, &slot->socket, &packet);
    timed = timed || is_timed_exchange(flow, &packet, from) || is_timed_turn(flow, &packet);
    packet.time_ns = packet_time(skb, flow, timed, from == FLOW_TX);
    count_segment(flow, &packet, from);
    flow_header(&flow->sides[from & 1], &packet);
    flow_tcp(flow, &packet, from);
    if (from == FLOW_RX && flow->abandoned)
        settle_closed(flow);
    /* A client's socket has its first round-trip time when it completes the handshake; the last figures are those that count. */
    if ((last_ns ^ packet.time_ns) >> SOCKET_INTERVAL_BITS || opening || flow->closed_by)
        read_socket(slot, sk);
    hand_on_dns(skb, slot, &packet, offset, from);
    look_for_handshake(skb, flow, &packet, from, before);
    follow_turn(slot, &packet, from, before.next_sequence);
    look_into(skb, flow, &packet, from, before);
    return 1;
}

/* Add a datagram to the flow of its socket. Returns 0 where it goes elsewhere: a connected socket may send to anyone. */
FLOW_INLINE int tap_datagram(struct __sk_buff *skb, struct slot *slot, const __u8 *ip, __u32 offset, int from)
{
    struct flow *flow = &slot->flow;
    struct packet packet;

    packet.transport = TRANSPORT_UDP;
    packet.segments = 1;
    packet.ip_bytes = skb->len;
    packet.payload_bytes = packet.ip_bytes - offset - 8;
    read_header(&packet, ip, offset);
    count_segments(skb, &packet);
    packet.time_ns = packet_time(skb, flow, is_timed_datagram(flow), 0);
    flow_count(flow, &packet, from);
    flow_header(&flow->sides[from & 1], &packet);
    flow_take_turns(flow, &packet, from);
    note_transport(skb, offset);
    ask(skb, slot, &packet, from);
    return 1;
}

/* The common packet: of a connected socket whose flow is known, without IP options. Returns 0 where it is another. */
FLOW_INLINE int tap_connected(struct __sk_buff *skb, struct bpf_sock *sk, struct slot *slot, int from)
{
    const __u8 *ip = (const __u8 *)(long)skb->data;
    const __u8 *end = (const __u8 *)(long)skb->data_end;
    const __u8 *remote;
    __u8 transport = slot->flow.transport;
    __u16 port;

    if (ip + 28 > end)
        return 0;
    if (ip[0] == 0x45) {
        if (ip[9] != transport)
            return 0;
        if (transport == TRANSPORT_TCP)
            return ip + 40 > end ? 0 : tap_segment(skb, sk, slot, ip + 20, 20, from);
        remote = ip + (from == FLOW_TX ? 16 : 12);
        port = bpf_ntohs(*(const __be16 *)(ip + (from == FLOW_TX ? 22 : 20)));
        if ((word_at(remote) != word_at(slot->flow.remote_address + 12) || port != slot->flow.remote_port) &&
                (word_at(remote) != word_at(slot->socket.backend_address + 12) || port != slot->socket.backend_port))
            return 0;
        return tap_datagram(skb, slot, ip, 20, from);
    }
    if (ip[0] >> 4 != 6 || ip[6] != transport || ip + 48 > end)
        return 0;
    if (transport == TRANSPORT_TCP)
        return ip + 60 > end ? 0 : tap_segment(skb, sk, slot, ip + 40, 40, from);
    remote = ip + (from == FLOW_TX ? 24 : 8);
    port = bpf_ntohs(*(const __be16 *)(ip + (from == FLOW_TX ? 42 : 40)));
    if ((!is_same(remote, slot->flow.remote_address) || port != slot->flow.remote_port) &&
            (!is_same(remote, slot->socket.backend_address) || port != slot->socket.backend_port))
        return 0;
    return tap_datagram(skb, slot, ip, 40, from);
}

#endif
