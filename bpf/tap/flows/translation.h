/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * Network address translation between a socket and where its packets are seen: what it sends is seen after the translation, what it
 * receives after that was undone. So a Service's client in the host's network sends to a pod and hears from the Service, and
 * whoever answers there under a Service's address sends from that. A flow has the addresses that its socket has; what a packet
 * that was sent shows instead is looked at where a flow begins, and kept as what it is: where its packets went.
 *
 * A connected socket says its own addresses. An unconnected one has its destination from the application, which tap_sendmsg
 * notes, and its own address, where it is bound to none, from what it receives; a listener's SYN-ACK has neither. Both are found
 * again by their socket: `flows_of_sockets`.
 */
#ifndef WIRESPAN_TRANSLATION_H
#define WIRESPAN_TRANSLATION_H

#include "keys.h"
#include "../socket.h"

#ifndef SOCKETS_FLOWS
#define SOCKETS_FLOWS 16384
#endif

struct endpoint {
    __u8 address[16];
    __u32 port;
};

/* Where the application last sent a datagram to, as it said. */
struct destination {
    __u8 address[16];
    __u16 port;
    __u16 sending; /* the datagram is under way */
    __u32 pad;
};

BPF_SK_STORAGE(destination_of_socket, struct destination);
/*
 * Flows of sockets that are not connected, whose packets their addresses may not find: by the socket's cookie in the place of the
 * local address. Nobody deletes from it: references to flows that are gone are of no use, and the oldest make room.
 */
BPF_F_TABLE("lru_hash", struct flow_key, slot_reference, flows_of_sockets, SOCKETS_FLOWS, BPF_F_NO_COMMON_LRU);

FLOW_INLINE void set_ipv4(__u8 *address, __u32 ipv4)
{
    __u32 *words = (__u32 *)address;

    words[0] = 0;
    words[1] = 0;
    words[2] = bpf_htonl(0xffff);
    words[3] = ipv4;
}

FLOW_INLINE void set_words(__u8 *address, __u32 a, __u32 b, __u32 c, __u32 d)
{
    __u32 *words = (__u32 *)address;

    words[0] = a;
    words[1] = b;
    words[2] = c;
    words[3] = d;
}

FLOW_INLINE int is_datagram_socket(const struct bpf_sock *sk)
{
    return sk->type == SOCKET_DATAGRAM && sk->protocol == TRANSPORT_UDP;
}

/* Where the application has just said that the datagram goes, if it did: a connected socket may send to anyone too. */
FLOW_INLINE struct destination *destination_told(struct bpf_sock *sk)
{
    struct destination *told = is_datagram_socket(sk) ? destination_of_socket.sk_storage_get(sk, 0, 0) : NULL;

    return told && told->sending ? told : NULL;
}

/* Give a packet that a socket sent the addresses and ports that the socket has, as far as it has them. */
FLOW_INLINE void undo_translation(struct bpf_sock *sk, struct packet *packet, int connected)
{
    struct destination *told = destination_told(sk);
    int ipv4 = is_mapped_ipv4(packet->source_address);

    if (!connected && !is_datagram_socket(sk))
        return;
    packet->source_port = sk->src_port;
    if (ipv4 && sk->src_ip4)
        set_ipv4(packet->source_address, sk->src_ip4);
    else if (!ipv4 && (sk->src_ip6[0] | sk->src_ip6[1] | sk->src_ip6[2] | sk->src_ip6[3]))
        set_words(packet->source_address, sk->src_ip6[0], sk->src_ip6[1], sk->src_ip6[2], sk->src_ip6[3]);
    if (told) {
        told->sending = 0;
        packet->destination_port = told->port;
        __builtin_memcpy(packet->destination_address, told->address, 16);
    } else if (connected) {
        packet->destination_port = bpf_ntohs((__u16)sk->dst_port);
        if (ipv4)
            set_ipv4(packet->destination_address, sk->dst_ip4);
        else
            set_words(packet->destination_address, sk->dst_ip6[0], sk->dst_ip6[1], sk->dst_ip6[2], sk->dst_ip6[3]);
    }
}

FLOW_INLINE int is_same_endpoint(const __u8 *a, __u32 a_port, const __u8 *b, __u32 b_port)
{
    return a_port == b_port && is_same(a, b);
}

/* Make a flow's key its socket's in `flows_of_sockets`. Keys are changed where they lie: a program's stack is small. */
FLOW_INLINE void make_key_of_socket(struct flow_key *key, struct __sk_buff *skb)
{
    *(__u64 *)key->local_address = bpf_get_socket_cookie(skb);
    *(__u64 *)(key->local_address + 8) = 0;
    key->local_port = 0;
}

/*
 * A datagram came to a socket that has sent to there and did not know its own address: now it does. Where the socket's programs
 * translate (Cilium), it is the other end's address that is told.
 */
FLOW_INLINE void adopt_addresses(
        struct slot *slot, struct flow_key *key, const struct packet *packet, slot_reference *reference)
{
    struct flow *flow = &slot->flow;

    __builtin_memcpy(key->local_address, flow->local_address, 16);
    __builtin_memcpy(key->remote_address, flow->remote_address, 16);
    key->local_port = flow->local_port;
    key->remote_port = flow->remote_port;
    flows_by_key.delete(key);
    flow_key_of(key, packet, FLOW_RX);
    __builtin_memcpy(flow->local_address, key->local_address, 16);
    __builtin_memcpy(flow->remote_address, key->remote_address, 16);
    flow->local_port = key->local_port;
    flow->remote_port = key->remote_port;
    if (is_same_endpoint(key->remote_address, key->remote_port, slot->socket.backend_address, slot->socket.backend_port))
        slot->socket.backend_port = 0;
    flows_by_key.update(key, reference);
}

/*
 * The flow of a packet whose addresses find none, because its socket is not connected. The packet, if it was sent, and the key get
 * the addresses that the flow has, or would have.
 */
FLOW_INLINE struct slot *find_by_socket(struct __sk_buff *skb, struct bpf_sock *sk, struct packet *packet, struct flow_key *key,
        int from, slot_reference *reference)
{
    int datagram = is_datagram_socket(sk);
    slot_reference *published;
    struct slot *slot;

    if (!datagram && (sk->state != TCP_STATE_LISTEN || from == FLOW_RX))
        return NULL;
    if (from == FLOW_TX) {
        undo_translation(sk, packet, 0);
        flow_key_of(key, packet, from);
    }
    make_key_of_socket(key, skb);
    published = flows_of_sockets.lookup(key);
    slot = published ? slot_at(*published) : NULL;
    if (slot && from == FLOW_RX && slot->flow.sides[FLOW_RX].packets)
        slot = NULL;
    if (slot) {
        *reference = *published;
        if (from == FLOW_RX) {
            adopt_addresses(slot, key, packet, reference);
            return slot;
        }
        __builtin_memcpy(packet->source_address, slot->flow.local_address, 16);
        packet->source_port = slot->flow.local_port;
    }
    flow_key_of(key, packet, from);
    return slot;
}

/* A packet was sent whose flow has `key`, while it shows the destination `seen`: note where the flow's packets go. */
FLOW_INLINE void note_backend(struct slot *slot, const struct flow_key *key, const struct endpoint *seen)
{
    if (is_same_endpoint(key->remote_address, key->remote_port, seen->address, seen->port))
        return;
    __builtin_memcpy(slot->socket.backend_address, seen->address, 16);
    slot->socket.backend_port = (__u16)seen->port;
}

/*
 * A flow of a socket that is not connected has begun: the socket has to find it where its addresses do not, and where the socket's
 * programs translate, so do those that its packets show. The key is not that of the flow any more.
 */
FLOW_INLINE void publish_by_socket(
        struct __sk_buff *skb, struct bpf_sock *sk, struct flow_key *key, const struct slot *slot, slot_reference *reference)
{
    if (!is_datagram_socket(sk) && sk->state != TCP_STATE_LISTEN)
        return;
    make_key_of_socket(key, skb);
    flows_of_sockets.update(key, reference);
    if (slot->socket.backend_port) {
        __builtin_memcpy(key->remote_address, slot->socket.backend_address, 16);
        key->remote_port = slot->socket.backend_port;
        flows_of_sockets.update(key, reference);
    }
}

FLOW_INLINE void note_destination(struct bpf_sock *sk, const struct destination *to)
{
    struct destination *told;

    if (!sk)
        return;
    told = destination_of_socket.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
    if (told)
        *told = *to;
}

#endif
