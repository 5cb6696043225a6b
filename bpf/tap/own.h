/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * Capture's own connections, by which it sends what it has seen: left out, and counted. None of them is known by an address or a
 * port, which somebody else's connection may have too.
 *
 * A socket that capture's process makes is marked in its storage as soon as it is made, so that no packet of it is seen before,
 * whenever capture connects again; those that it has before the programs are attached it marks itself.
 *
 * The other end's socket may be on this node too. It is known by a packet that came to it from a marked one: the same source and
 * sequence number, which a Service's translation leaves as they are. From there on both ends tell, until another connection
 * opens between them. What there is no room for would be told, and not lost; so is the other end where the source is masqueraded
 * outside capture's own network, or where what is attached to is a part of the tree that capture is not in.
 */
#ifndef WIRESPAN_OWN_H
#define WIRESPAN_OWN_H

#include "counters.h"
#include "flows/keys.h"
#include "segments.h"
#include "socket.h"

#define OWN_CONNECTIONS 1024

/* A packet of an own connection. */
struct sent {
    __u8 address[16];
    __u32 port;
    __u32 sequence;
};

BPF_TABLE("lru_hash", struct sent, u8, own_sent, OWN_CONNECTIONS);
/* At their other end. */
BPF_TABLE("lru_hash", struct flow_key, u8, own_connections, OWN_CONNECTIONS);

/* A packet of a marked socket. */
FLOW_INLINE int tap_own(struct __sk_buff *skb, int from)
{
    const __u8 *ip = (const __u8 *)(long)skb->data;
    const __u8 *end = (const __u8 *)(long)skb->data_end;
    struct packet packet = {.segments = 1, .ip_bytes = skb->len};
    struct sent sent = {};
    const __u8 *tcp = NULL;
    __u8 yes = 1;

    if (ip + 60 <= end && ip[0] >> 4 == 6 && ip[6] == TRANSPORT_TCP) {
        tcp = ip + 40;
        __builtin_memcpy(sent.address, ip + 8, 16);
    } else if (ip + 40 <= end && ip[0] == 0x45) {
        tcp = ip + 20;
        *(__u32 *)(sent.address + 8) = bpf_htonl(0xffff);
        *(__u32 *)(sent.address + 12) = word_at(ip + 12);
    }
    if (tcp) {
        packet.payload_bytes = packet.ip_bytes - (__u32)(tcp - ip) - (tcp[12] >> 4) * 4u;
        sent.port = bpf_ntohs(*(const __be16 *)tcp);
        sent.sequence = bpf_ntohl(*(const __be32 *)(tcp + 4));
        if (from == FLOW_TX)
            own_sent.update(&sent, &yes);
        count_segments(skb, &packet);
    }
    count_packet(TAP_EXCLUDED, &packet);
    return 1;
}

/* Whether this TCP packet, which has no flow, is at the other end of a connection of capture's. */
FLOW_INLINE int is_of_own(struct flow_key *key, const struct packet *packet, int from)
{
    __u8 *known = own_connections.lookup(key);
    struct sent sent = {.port = packet->source_port, .sequence = packet->sequence};
    __u8 yes = 1;

    if (known && (packet->tcp_flags & (TCP_SYN | TCP_ACK)) != TCP_SYN)
        return 1;
    __builtin_memcpy(sent.address, packet->source_address, 16);
    if (from == FLOW_RX && own_sent.lookup(&sent)) {
        own_connections.update(key, &yes);
        return 1;
    }
    if (known)
        own_connections.delete(key);
    return 0;
}

#endif
