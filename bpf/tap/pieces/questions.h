/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * What is looked at of datagrams (engine/questions.h): the first of a flow, and those that ask or answer by number. The programs
 * that see every packet end in a tail call of tap_question for these; so all others pay for a comparison.
 *
 * Those that wait are in a hash, by the reference of their slot, of which the kernel drops the longest unused when it is full:
 * nobody need take back what was never answered, or whose flow is gone.
 */
#ifndef WIRESPAN_TAP_QUESTIONS_H
#define WIRESPAN_TAP_QUESTIONS_H

#include "pieces.h"
#include "../exchanges/turns.h"
#include "../flows/slots.h"

#include "../../engine/parse.h"

#ifndef OPEN_QUESTIONS
#define OPEN_QUESTIONS 16384
#endif
/* What is left in the socket buffer for the program that is called: words of __sk_buff.cb, which the kernel gives to programs. */
#define CB_SLOT      0 /* and the generation */
#define CB_TRANSPORT 2 /* offset of the transport header */
#define CB_TIME      3 /* and its upper half */

struct question_key {
    slot_reference reference;
    __u64 number;
};

typedef slot_reference question_host;

#include "../../engine/questions.h"
#include "../../engine/quic.h"

BPF_TABLE("lru_hash", struct question_key, struct question, open_questions, OPEN_QUESTIONS);
/* A bit for each port that is read as DNS. */
BPF_TABLE("array", u32, u64, dns_ports, 1024);
/* One for each direction: the kernel binds one to where its programs are attached. */
BPF_PROG_ARRAY(ingress_questions, 1);
BPF_PROG_ARRAY(egress_questions, 1);

FLOW_INLINE int is_dns_port(__u16 port)
{
    __u32 place = port >> 6;
    __u64 *ports = dns_ports.lookup(&place);

    return ports && *ports >> (port & 63) & 1;
}

static inline __attribute__((always_inline)) struct question *question_open(question_host host, __u16 number)
{
    struct question_key key = {.reference = host, .number = number};

    return open_questions.lookup(&key);
}

static inline __attribute__((always_inline)) int question_keep(
        question_host host, __u16 number, const struct question *question)
{
    struct question_key key = {.reference = host, .number = number};
    struct question kept = *question;

    return !open_questions.update(&key, &kept);
}

static inline __attribute__((always_inline)) void question_forget(question_host host, __u16 number)
{
    struct question_key key = {.reference = host, .number = number};

    open_questions.delete(&key);
}

/* Where a datagram's transport header is. Noted as soon as it is known: what a program remembers, the verifier follows. */
FLOW_INLINE void note_transport(struct __sk_buff *skb, __u32 offset)
{
    skb->cb[CB_TRANSPORT] = offset;
}

/* Datagrams that were sent as one (UDP_SEGMENT) take no turns. */
FLOW_INLINE void refuse_bursts(struct __sk_buff *skb, struct flow *flow)
{
    if (skb->gso_segs > 1 && flow->requests == FLOW_REQUESTS_UNKNOWN)
        flow->requests = FLOW_REQUESTS_OPAQUE;
}

/* Go on with a packet in tap_question. Does not return, but where the call fails. */
FLOW_INLINE void call_question(struct __sk_buff *skb, const struct flow *flow, __u64 time_ns, int from)
{
    skb->cb[CB_SLOT] = (__u32)flow->id;
    skb->cb[CB_SLOT + 1] = (__u32)(flow->id >> 32);
    skb->cb[CB_TIME] = (__u32)time_ns;
    skb->cb[CB_TIME + 1] = (__u32)(time_ns >> 32);
    if (from == FLOW_TX)
        egress_questions.call(skb, 0);
    else
        ingress_questions.call(skb, 0);
}

/* A new connection may be one of DNS. */
FLOW_INLINE void note_dns(struct slot *slot)
{
    if (!TAP_HAS(TAP_PIECES_DNS))
        return;
    slot->flow.dns = is_dns_port(slot->flow.local_port) || is_dns_port(slot->flow.remote_port);
}

/* A segment of DNS, which was added to its flow, is handed on; its transport header is at `offset`. */
FLOW_INLINE void hand_on_dns(
        struct __sk_buff *skb, const struct slot *slot, const struct packet *packet, __u32 offset, int from)
{
    if (!TAP_HAS(TAP_PIECES_DNS))
        return;
    if (!slot->flow.dns || !packet->payload_bytes)
        return;
    note_transport(skb, offset);
    call_question(skb, &slot->flow, packet->time_ns, from);
}

/* A datagram of QUIC that may hold a hello is handed on. */
FLOW_INLINE void hand_on_quic(
        struct __sk_buff *skb, struct slot *slot, __u32 offset, const struct packet *packet, int from, int is_first)
{
    struct piece piece = {.time_ns = packet->time_ns, .kind = PIECE_QUIC, .from = (__u8)from};

    if (!TAP_HAS(TAP_PIECES_QUIC))
        return;
    piece.payload_bytes = piece_payload_bytes(packet->payload_bytes);
    if (quic_take(skb, offset, &slot->flow, from, is_first))
        hand_on_part(skb, slot, offset, packet->payload_bytes, QUIC_DATAGRAM_BYTES, &piece);
}

/* The end of a program that has just added a datagram to its flow. */
FLOW_INLINE void ask(struct __sk_buff *skb, struct slot *slot, const struct packet *packet, int from)
{
    struct flow *flow = &slot->flow;

    refuse_bursts(skb, flow);
    follow_datagram(slot, packet, from);
    if (!is_looked_at(flow) && !quic_is_touched(flow, from))
        return;
    call_question(skb, flow, packet->time_ns, from);
}

/* What is known of the flow of a socket's datagram, if it begins with that. */
FLOW_INLINE int opening_of(struct __sk_buff *skb, const struct flow *flow)
{
    struct bpf_sock *sk = skb->sk;
    int opening = flow->first_ns >= TAP_VALUE(TAP_FIRST_NS) ? FLOW_OPENS_FIRST : 0;

    if (flow->transport != TRANSPORT_UDP)
        return opening;
    if (is_dns_port(flow->local_port) || is_dns_port(flow->remote_port))
        return opening | FLOW_OPENS_NUMBERED;
    if (sk)
        sk = bpf_sk_fullsock(sk);
    if (sk)
        opening |= sk->dst_port ? FLOW_OPENS_CONNECTED : FLOW_OPENS_UNCONNECTED;
    return opening;
}

/* The packet that was left off at: a datagram, or a segment of DNS. A slot's id is the reference to it. */
FLOW_INLINE int tap_question(struct __sk_buff *skb, int from)
{
    slot_reference reference = skb->cb[CB_SLOT] | (__u64)skb->cb[CB_SLOT + 1] << 32;
    __u32 offset = skb->cb[CB_TRANSPORT];
    struct slot *slot = slot_at(reference);
    struct packet packet = {.time_ns = skb->cb[CB_TIME] | (__u64)skb->cb[CB_TIME + 1] << 32};
    struct question_message message = {};
    __u8 tcp[TCP_HEADER_BYTES];
    __u32 kind = PIECE_DNS;
    int is_first;
    int opening;

    if (!slot)
        return 1;
    if (slot->flow.transport == TRANSPORT_TCP) {
        if (bpf_skb_load_bytes(skb, offset, tcp, sizeof(tcp)))
            return 1;
        kind = PIECE_DNS_TCP;
        message.asked_ns = load_be32(tcp + 4);
        offset += (tcp[12] >> 4) * 4u;
        packet.payload_bytes = skb->len - offset;
    } else {
        offset += UDP_HEADER_BYTES;
        packet.payload_bytes = skb->len - offset;
        opening = opening_of(skb, &slot->flow);
        is_first = slot->flow.requests == FLOW_REQUESTS_NEW;
        look_at(reference, skb, offset - UDP_HEADER_BYTES, &slot->flow, &packet, from, opening, &message);
        refuse_bursts(skb, &slot->flow);
        if (slot->flow.transport == TRANSPORT_UDP && !(opening & FLOW_OPENS_NUMBERED))
            hand_on_quic(skb, slot, offset, &packet, from, is_first);
        if (is_first)
            follow_datagram(slot, &packet, from);
        if (!message.counted || !(opening & FLOW_OPENS_NUMBERED))
            return 1;
        if (message.answers)
            answer_turn(slot, &packet, message.asked_ns, message.asked_bytes, message.repeats);
    }
    hand_on(skb, slot, offset, &packet, message.asked_ns, kind, from);
    return 1;
}

#endif
