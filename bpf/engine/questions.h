/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * Questions that have numbers, and their answers: DNS over UDP (RFC 1035 4.1) and ICMP's queries (RFC 792, 4443 4). Several may
 * be under way in one flow. A question that is sent again waits since it was first sent.
 *
 * Of DNS the header and the question are read; of the question a hash is kept, by which one number is not taken for another's.
 *
 * As parse.h: nothing is trusted, no loop is unbounded, and the host has defined frame_source and parse_load before. Besides, it
 * defines before including this `question_host`, whatever it needs to find the flow's questions; and, anywhere, the three
 * functions that take one.
 */
#ifndef WIRESPAN_QUESTIONS_H
#define WIRESPAN_QUESTIONS_H

#include "connectionless.h"
#include "parse.h"

#define DNS_HEADER_BYTES   12u
#define DNS_QUESTION_BYTES 256u /* the longest name, and what its last word has beyond it */
#define UDP_HEADER_BYTES   8u
#define TCP_HEADER_BYTES   20u /* without options */

/* Loops stay loops: unrolled they are larger than a program may be. */
#ifdef __clang__
#define QUESTION_LOOP _Pragma("clang loop unroll(disable)")
#else
#define QUESTION_LOOP
#endif

/* One that waits for its answer. */
struct question {
    __u64 asked_ns; /* when it was first sent */
    __u64 about;    /* a hash of what is asked; 0: the message does not say */
    __u32 bytes;    /* of the message that asked first */
    __u32 repeats;  /* how often it was sent again */
};

/* What a packet says of a question. */
struct question_message {
    __u64 about;
    __u64 asked_ns; /* when the question was first asked that this answers, or asks again; 0: neither */
    __u32 asked_bytes; /* of an answer: its question's, likewise */
    __u32 repeats;
    __u16 number;
    __u8 answers;
    __u8 counted; /* as a question, for the first time or again, or as the answer to one: what a host may want to read on */
};

/* The flow's question of this number that waits, or NULL. */
static inline struct question *question_open(question_host host, __u16 number);
/* Have it wait, in place of another of this number. Returns 0 where there is no room for it. */
static inline int question_keep(question_host host, __u16 number, const struct question *question);
/* It has its answer. */
static inline void question_forget(question_host host, __u16 number);

FLOW_INLINE __u64 question_mix(__u64 about, __u32 word)
{
    about = (about ^ word) * 0x9e3779b97f4a7c15ull;
    return about ^ about >> 32;
}

/*
 * A hash of name, type and class of the question at `offset`, with the name's letters in whatever case: some ask in a mix of
 * cases, and not all answer in the same. Of what a capture holds only the beginning of, the beginning. Never 0. The name ends
 * with the first byte that is 0: a word that holds it is whole, because four bytes of type and class follow.
 */
FLOW_INLINE __u64 dns_about(frame_source source, __u32 offset)
{
    __u64 about = 0;
    __u32 word = 0;
    __u32 zeros;
    __u32 at;

    QUESTION_LOOP
    for (at = 0; at < DNS_QUESTION_BYTES; at += 4) {
        if (parse_load(source, offset + at, &word, 4))
            return about | 1;
        /* The lowest of these bits is that of the first byte, in memory, that is 0: words are taken for little-endian. */
        zeros = (word - 0x01010101u) & ~word & 0x80808080u;
        if (zeros) {
            zeros &= 0 - zeros;
            about = question_mix(about, (word & (zeros - 1)) | (0x20202020u & (zeros - 1)));
            at += zeros == 0x80u ? 1 : zeros == 0x8000u ? 2 : zeros == 0x800000u ? 3 : 4;
            if (!parse_load(source, offset + at, &word, 4))
                about = question_mix(about, word);
            return about | 1;
        }
        about = question_mix(about, word | 0x20202020u);
    }
    return about | 1;
}

/* A DNS message at `offset`. Returns 0 where it is none. */
FLOW_INLINE int dns_message(frame_source source, __u32 offset, __u32 payload_bytes, struct question_message *message)
{
    __u8 header[DNS_HEADER_BYTES];

    if (payload_bytes < DNS_HEADER_BYTES || parse_load(source, offset, header, sizeof(header)))
        return 0;
    message->number = load_be16(header);
    message->answers = header[2] >> 7;
    message->about = load_be16(header + 4) ? dns_about(source, offset + DNS_HEADER_BYTES) : 0;
    return 1;
}

/* An ICMP query at `offset`, or its answer: the sequence number is the question's. */
FLOW_INLINE int icmp_message(frame_source source, __u32 offset, __u8 transport, struct question_message *message)
{
    __u8 header[8];

    if (parse_load(source, offset, header, sizeof(header)))
        return 0;
    message->number = load_be16(header + 6);
    message->answers = icmp_part(transport, header[0]) == ICMP_REPLY;
    message->about = 0;
    return 1;
}

/* What a new flow's requests are, and who makes them, as far as it is known without its packets' content. */
FLOW_INLINE void requests_open(struct flow *flow, int from, int opening)
{
    enum icmp_part part = ICMP_MESSAGE;

    flow->requests = FLOW_REQUESTS_OPAQUE;
    switch (flow->transport) {
    case TRANSPORT_UDP:
    case TRANSPORT_UDPLITE:
        if (opening & FLOW_OPENS_NUMBERED && !is_group(from == FLOW_TX ? flow->remote_address : flow->local_address)) {
            flow->requests = FLOW_REQUESTS_NUMBERED;
            break;
        }
        connectionless_open(flow, from, opening);
        if (flow->role != FLOW_ROLE_UNKNOWN)
            flow->requests = FLOW_REQUESTS_UNKNOWN;
        break;
    case TRANSPORT_SCTP:
    case TRANSPORT_DCCP:
        connectionless_open(flow, from, opening);
        break;
    case TRANSPORT_ICMP:
    case TRANSPORT_ICMPV6:
        part = icmp_part(flow->transport, flow->icmp_type);
        if (part != ICMP_MESSAGE) {
            flow_set_client(flow, part == ICMP_REQUEST ? from : !from);
            flow->requests = FLOW_REQUESTS_NUMBERED;
        }
        break;
    default:
        break;
    }
}

/*
 * A packet of a flow of numbered questions, which was added to its flow before; its transport header is at `offset`. What the
 * server asks, where both ends do, is not told. Returns 0 where the packet is no message.
 */
FLOW_INLINE int question_take(question_host host, frame_source source, __u32 offset, struct flow *flow,
        const struct packet *packet, int from, struct question_message *message)
{
    struct question question = {.asked_ns = packet->time_ns, .bytes = packet->payload_bytes};
    struct question *open;
    int told;

    if (flow->transport == TRANSPORT_ICMP || flow->transport == TRANSPORT_ICMPV6)
        told = icmp_message(source, offset, flow->transport, message);
    else
        told = dns_message(source, offset + UDP_HEADER_BYTES, packet->payload_bytes, message);
    if (!told)
        return 0;
    flow_set_client(flow, message->answers ? !from : from);
    if (flow_from_client(flow, from) == message->answers)
        return 1;
    open = question_open(host, message->number);
    if (open && open->about && message->about && open->about != message->about)
        open = NULL;
    if (!message->answers) {
        question.about = message->about;
        if (open) {
            FLOW_ADD(flow->question_repeats, 1);
            open->repeats += 1;
            message->asked_ns = open->asked_ns;
            message->counted = 1;
        } else if (question_keep(host, message->number, &question)) {
            FLOW_ADD(flow->questions, 1);
            message->counted = 1;
            flow->request_ns = packet->time_ns;
        }
        return 1;
    }
    if (!open)
        return 1;
    question.asked_ns = open->asked_ns;
    message->asked_bytes = open->bytes;
    message->repeats = open->repeats;
    question_forget(host, message->number);
    message->asked_ns = question.asked_ns;
    message->counted = 1;
    flow_answered(flow, question.asked_ns, packet->time_ns);
    if (flow->responses == flow->questions)
        flow->request_ns = 0;
    return 1;
}

/* Whether a packet that was added to its flow is to be looked at. */
FLOW_INLINE int is_looked_at(const struct flow *flow)
{
    return flow->transport != TRANSPORT_TCP && flow->requests >= FLOW_REQUESTS_NUMBERED;
}

/*
 * Look at it: the first of a flow, for which the host says what it knows (bits of enum flow_opening), or a message, of which
 * `message`, zeroed before, then says more.
 */
FLOW_INLINE void look_at(question_host host, frame_source source, __u32 offset, struct flow *flow, const struct packet *packet,
        int from, int opening, struct question_message *message)
{
    int first = flow->requests == FLOW_REQUESTS_NEW;

    if (first)
        requests_open(flow, from, opening);
    if (flow->requests == FLOW_REQUESTS_NUMBERED && !question_take(host, source, offset, flow, packet, from, message) && first)
        requests_open(flow, from, opening & ~FLOW_OPENS_NUMBERED);
    if (first)
        flow_take_turns(flow, packet, from);
}

#endif
