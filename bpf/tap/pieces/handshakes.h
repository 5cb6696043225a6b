/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * TLS handshakes (engine/tls.h). The programs that see every packet ask one bit of its flow; where it is set and the packet has
 * payload they end in a tail call of tap_handshake, and that where they would have ended else. Every connection pays for its first
 * payload each way, those of TLS for that of their handshakes.
 *
 * Those that are under way are in a hash, by the reference of their slot, of which the kernel drops the longest unused when it is
 * full.
 */
#ifndef WIRESPAN_TAP_HANDSHAKES_H
#define WIRESPAN_TAP_HANDSHAKES_H

#include "../exchanges/exchanges.h"
#include "pieces.h"
#include "../exchanges/turns.h"

#ifndef OPEN_HANDSHAKES
#define OPEN_HANDSHAKES 16384
#endif
typedef slot_reference handshake_host;

#include "../../engine/tls.h"

BPF_TABLE("lru_hash", slot_reference, struct handshake, open_handshakes, OPEN_HANDSHAKES);
BPF_TABLE("array", u32, struct handshake, no_handshake, 1);
/* One for each direction: the kernel binds one to where its programs are attached. */
BPF_PROG_ARRAY(ingress_handshakes, 1);
BPF_PROG_ARRAY(egress_handshakes, 1);

static inline __attribute__((always_inline)) struct handshake *handshake_open(handshake_host host)
{
    return open_handshakes.lookup(&host);
}

static inline __attribute__((always_inline)) struct handshake *handshake_begin(handshake_host host)
{
    __u32 zero = 0;
    struct handshake *place = no_handshake.lookup(&zero);

    if (!place || open_handshakes.update(&host, place))
        return NULL;
    return open_handshakes.lookup(&host);
}

static inline __attribute__((always_inline)) void handshake_end(handshake_host host)
{
    open_handshakes.delete(&host);
}

/*
 * The end of a program that has just added a TCP packet to its flow, but for look_into: where its payload is of interest the
 * program below goes on with both.
 */
FLOW_INLINE void look_for_handshake(
        struct __sk_buff *skb, const struct flow *flow, const struct packet *packet, int from, struct exchange_moment before)
{
    if (!TAP_HAS(TAP_PIECES_TLS))
        return;
    if (!handshake_is_touched(flow, packet, from))
        return;
    skb->cb[CB_NEXT_SEQUENCE] = before.next_sequence;
    leave_time(skb, before.request_ns);
    skb->cb[CB_OUTCOME] = before.outcome;
    if (from == FLOW_TX)
        egress_handshakes.call(skb, 0);
    else
        ingress_handshakes.call(skb, 0);
}

FLOW_INLINE struct exchange_moment moment_left(struct __sk_buff *skb)
{
    return (struct exchange_moment){
            .request_ns = (__u64)skb->cb[CB_REQUEST_HIGH] << 32 | skb->cb[CB_REQUEST_LOW],
            .next_sequence = skb->cb[CB_NEXT_SEQUENCE],
            .outcome = skb->cb[CB_OUTCOME],
    };
}

/* Hand on what a packet holds of a handshake. */
FLOW_INLINE void hand_on_handshake(
        struct __sk_buff *skb, const struct slot *slot, const struct handshake_told *told, __u64 time_ns, int from)
{
    struct piece piece = {.time_ns = time_ns, .kind = PIECE_TLS, .from = (__u8)from};

    if (told->hello_bytes) {
        piece.place = (__u16)told->hello_place;
        piece.payload_bytes = (__u16)told->hello_bytes;
        hand_on_part(skb, slot, told->hello, told->hello_held, TLS_HELLO_BYTES, &piece);
    }
    if (told->end_held) {
        piece.place = 0;
        piece.payload_bytes = (__u16)told->end_held;
        piece.since_ns = told->since_ns;
        hand_on_part(skb, slot, told->end, told->end_held, TLS_ENDS_BYTES, &piece);
    }
}

/*
 * The packet that was left off at, read once more: of a connected socket, whose storage has its flow by now, and without IP
 * options. Its time is the flow's, whose last packet it is.
 */
FLOW_INLINE int tap_handshake(struct __sk_buff *skb, int from)
{
    const __u8 *ip = (const __u8 *)(long)skb->data;
    const __u8 *end = (const __u8 *)(long)skb->data_end;
    struct exchange_moment before = moment_left(skb);
    struct handshake_told told = {};
    struct packet packet = {};
    struct bpf_sock *sk = skb->sk;
    slot_reference reference;
    struct slot *slot;
    const __u8 *tcp;
    __u32 offset;

    if (sk)
        sk = bpf_sk_fullsock(sk);
    slot = sk ? slot_of_call(sk, from, &reference) : NULL;
    if (!slot || ip + 40 > end)
        return 1;
    offset = ip[0] == 0x45 ? 20 : 40;
    tcp = ip + offset;
    if (tcp + 20 > end || (offset == 20 ? ip[9] : ip[6]) != TRANSPORT_TCP || (offset == 40 && ip[0] >> 4 != 6))
        return 1;
    packet.tcp_flags = tcp[13];
    packet.sequence = bpf_ntohl(*(const __be32 *)(tcp + 4));
    packet.acknowledgment = bpf_ntohl(*(const __be32 *)(tcp + 8));
    offset += (tcp[12] >> 4) * 4u;
    packet.payload_bytes = skb->len - offset;
    packet.time_ns = slot->flow.last_ns;
    handshake_take(reference, skb, offset, &slot->flow, &packet, from, &told);
    hand_on_handshake(skb, slot, &told, packet.time_ns, from);
    if (told.since_ns)
        begin_turns(slot, told.disguised ? TURN_TLS | TURN_TICKETS : TURN_TLS);
    if (!told.disguised)
        follow_turn(slot, &packet, from, before.next_sequence);
    look_into(skb, &slot->flow, &packet, from, before);
    return 1;
}

#endif
