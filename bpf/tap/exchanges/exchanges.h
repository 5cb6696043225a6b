/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * Exchanges of application traces (traced_exchange.h). The programs that see every packet only ask whether one is of interest: it
 * begins a request, or its connection has an exchange open. If so they end in a tail call of tap_exchange, which reads the packet
 * once more. So what is not traced pays for a comparison or two, and the first packet of a request for the look into it.
 *
 * Open exchanges are in a hash, by the reference of their slot; the reader looks at all of them at every tick and deletes those
 * whose flow is gone. What the next request ends is copied into a ring buffer and deleted here.
 */
#ifndef WIRESPAN_EXCHANGES_H
#define WIRESPAN_EXCHANGES_H

#include "../accepted.h"
#include "../constants.h"
#include "../flows/slots.h"
#include "../socket.h"

#include "../../engine/exchanges/exchange.h"

#ifndef OPEN_EXCHANGES
#define OPEN_EXCHANGES 65536
#endif
#ifndef ENDED_PAGES
#define ENDED_PAGES 1024 /* 4 MiB: 20,000 exchanges between two looks */
#endif
#define RINGBUF_NO_WAKEUP 1 /* BPF_RB_NO_WAKEUP: nobody waits */
/* What is left in the socket buffer for the program that is called: words of __sk_buff.cb, which the kernel gives to programs. */
#define CB_NEXT_SEQUENCE 0
#define CB_REQUEST       0 /* for the programs that look at a line and at headers: what is known of the request */
#define CB_REQUEST_LOW   1
#define CB_REQUEST_HIGH  2
#define CB_BEGINS        2 /* of a packet by which HTTP/2 begins: enum http2_beginning; 0: of another */
#define CB_FRAMES_OF     1 /* for the program that follows frames: whose they are */
#define CB_OUTCOME       3
#define CB_AT            4

/* Whose exchange traced_exchange.h speaks of. */
struct exchange_of {
    slot_reference reference;
    __u64 cgroup_id;
    struct bpf_sock *sk;
};

typedef struct exchange_of exchange_host;

/* Behind the counters of requests: exchanges that the ring buffer had no room for, and what was to be told of frames. */
#define EXCHANGES_LOST           REQUEST_COUNTERS
#define FRAMES_LOST              (REQUEST_COUNTERS + 1)
#define TAP_COUNTERS_OF_REQUESTS (REQUEST_COUNTERS + 2)

BPF_F_TABLE("hash", slot_reference, struct exchange, open_exchanges, OPEN_EXCHANGES, BPF_F_NO_PREALLOC);
BPF_SK_STORAGE(line_of_socket, struct text_line);
BPF_RINGBUF_OUTPUT(ended_exchanges, ENDED_PAGES);
/* Of a slot's connection of HTTP/2, each direction: http2_passes_until. For most packets of an upload nothing else is asked. */
struct passing {
    __u32 until[2];
};

BPF_TABLE("array", u32, struct passing, passing_frames, SLOTS);
BPF_TABLE("array", u32, struct exchange, no_exchange, 1);
BPF_TABLE("percpu_array", u32, u64, request_counters, TAP_COUNTERS_OF_REQUESTS);
/*
 * The programs that are called, one for each kind of look: what one leaves to the next comes to it as if from nowhere, so that the
 * verifier walks each but once. An array for each direction: the kernel binds one to where its programs are attached.
 */
enum exchange_call {
    CALL_REQUEST, /* what the client says */
    CALL_LINE, /* and it may begin a request */
    CALL_HEADERS, /* and there are more of its headers */
    CALL_CUT, /* and a line of them that its segment cuts in two */
    CALL_RESPONSE, /* what the server says */
    CALL_FRAMES, /* of HTTP/2, by either: streams.h */
    CALL_MESSAGES, /* likewise of HTTP/1, where requests do not wait: messages.h */
    CALL_UNACCEPTED_FRAMES, /* by the client, before its connection has a socket */
    EXCHANGE_CALLS,
};
BPF_PROG_ARRAY(ingress_calls, EXCHANGE_CALLS);
BPF_PROG_ARRAY(egress_calls, EXCHANGE_CALLS);

static inline __attribute__((always_inline)) struct exchange *exchange_open(exchange_host host)
{
    return open_exchanges.lookup(&host.reference);
}

static inline __attribute__((always_inline)) struct exchange *exchange_place(exchange_host host)
{
    __u32 zero = 0;
    struct exchange *place = no_exchange.lookup(&zero);

    if (!place || open_exchanges.update(&host.reference, place))
        return NULL;
    place = open_exchanges.lookup(&host.reference);
    if (place) {
        place->owner = host.cgroup_id;
        place->slot = (__u32)host.reference;
    }
    return place;
}

static inline __attribute__((always_inline)) void count_request(exchange_host host, __u32 counter)
{
    __u64 *count = request_counters.lookup(&counter);

    if (count)
        *count += 1;
}

static inline __attribute__((always_inline)) void exchange_ended(exchange_host host, struct exchange *exchange)
{
    if (ended_exchanges.ringbuf_output(exchange, sizeof(*exchange), RINGBUF_NO_WAKEUP))
        count_request(host, EXCHANGES_LOST);
    open_exchanges.delete(&host.reference);
}

/* A socket that once had one keeps it. A listener has none: what it is shown of a connection is one segment, as a rule. */
static inline __attribute__((always_inline)) struct text_line *exchange_line(exchange_host host)
{
    if (!is_connected(host.sk))
        return NULL;
    return line_of_socket.sk_storage_get(host.sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
}

static inline __attribute__((always_inline)) void exchange_dropped(exchange_host host, struct exchange *exchange)
{
    open_exchanges.delete(&host.reference);
}

#define EXCHANGE_FOLLOWS_MESSAGES                                1
#define exchange_frames(host, skb, flow, from, begins, sequence) note_frames(skb, begins, sequence)

#include "../../engine/exchanges/content_role.h"
#include "../../engine/exchanges/exchange_steps.h"

/* The connection is one of HTTP/2: for look_for_frames. */
FLOW_INLINE void note_frames(struct __sk_buff *skb, enum http2_beginning begins, __u32 sequence)
{
    skb->cb[CB_BEGINS] = begins;
    skb->cb[CB_AT] = sequence;
}

/* What waits where, in CB_AT, for the program that follows messages: enum pipeline_waits above where in the frame the next request is. */
#define PIPELINE_WAITS_SHIFT 24

/* Nothing of a request that waits can be followed. */
FLOW_INLINE void give_up_pipelined(exchange_host host, struct flow *flow, enum pipeline_waits waits)
{
    struct exchange *open = waits == PIPELINE_TRACED ? exchange_open(host) : NULL;

    if (open)
        exchange_drop(host, flow, open);
    exchange_give_up(host, flow, CONNECTION_PIPELINED);
}

/* Requests do not wait: for look_for_messages. A listener has no storage that is the connection's (accepted.h). */
FLOW_INLINE int exchange_pipelined(
        exchange_host host, struct __sk_buff *skb, struct flow *flow, __u32 at, enum pipeline_waits waits)
{
    if (is_connected(host.sk)) {
        skb->cb[CB_AT] = at | (__u32)waits << PIPELINE_WAITS_SHIFT;
        return 1;
    }
    give_up_pipelined(host, flow, waits);
    return 0;
}

#include "../../engine/exchanges/traced_exchange.h"

/* Go on with a packet in another program. Does not return, but where the call fails. */
FLOW_INLINE void call_exchange(struct __sk_buff *skb, int from, enum exchange_call which)
{
    if (from == FLOW_TX)
        egress_calls.call(skb, which);
    else
        ingress_calls.call(skb, which);
}

/* Likewise with a request's headers, as what looked at them before returned `at`. */
FLOW_INLINE void call_headers(struct __sk_buff *skb, int from, __u32 at)
{
    if (!at)
        return;
    skb->cb[CB_AT] = at & ~EXCHANGE_AT_CUT;
    call_exchange(skb, from, at & EXCHANGE_AT_CUT ? CALL_CUT : CALL_HEADERS);
}

FLOW_INLINE void leave_time(struct __sk_buff *skb, __u64 time_ns)
{
    skb->cb[CB_REQUEST_LOW] = (__u32)time_ns;
    skb->cb[CB_REQUEST_HIGH] = (__u32)(time_ns >> 32);
}

/* What is known before a packet is added to its flow, and may be asked for after. */
FLOW_INLINE struct exchange_moment moment_before(const struct flow *flow, int from)
{
    struct exchange_moment before = {};

    if (TAP_HAS(TAP_TRACE_CONTEXT))
        before = exchange_before(flow, from);
    return before;
}

/* Whether a payload packet of a slot's connection of HTTP/2 lies within a frame that is passed over, so that it is not looked at. */
FLOW_INLINE int is_passed_over(__u32 number, const struct packet *packet, int from)
{
    struct passing *passing = passing_frames.lookup(&number);
    __u64 until;
    __u64 left;

    if (!passing)
        return 0;
    until = passing->until[from & 1];
    left = (__u32)until - packet->sequence - packet->payload_bytes;
    return !((left - 1) >> 31 | (until - 1) >> 63 | (packet->tcp_flags & (TCP_FIN | TCP_RST)));
}

/*
 * The end of a program that has just added a TCP packet to its flow: where the packet is of interest, the program below goes on
 * with it, and what it takes to tell afterwards is left for it.
 */
FLOW_INLINE void look_into(
        struct __sk_buff *skb, const struct flow *flow, const struct packet *packet, int from, struct exchange_moment before)
{
    if (!TAP_HAS(TAP_TRACE_CONTEXT))
        return;
    if (!exchange_is_touched(flow, packet, from, &before))
        return;
    skb->cb[CB_NEXT_SEQUENCE] = before.next_sequence;
    leave_time(skb, before.request_ns);
    skb->cb[CB_OUTCOME] = before.outcome;
    skb->cb[CB_AT] = 0;
    if (flow->requests == FLOW_REQUESTS_PIPELINED) {
        call_exchange(skb, from, CALL_MESSAGES);
        return;
    }
    if (flow->requests != FLOW_REQUESTS_STREAMS) {
        call_exchange(skb, from, flow_from_client(flow, from) ? CALL_REQUEST : CALL_RESPONSE);
        return;
    }
    /* Of what is sent the frames' program asks first, for the one here is as long as the verifier is to walk. */
    if (from == FLOW_RX && is_passed_over((__u32)flow->id, packet, from))
        return;
    skb->cb[CB_FRAMES_OF] = (__u32)flow->id;
    call_exchange(skb, from, CALL_FRAMES);
}

/* Who asks, by what is said, where nobody else told: before the packet, whose payload lies at `offset`, is added to its flow. */
FLOW_INLINE void listen_for_role(struct __sk_buff *skb, __u32 offset, struct flow *flow, const struct packet *packet, int from)
{
    if (!TAP_HAS(TAP_TRACE_CONTEXT))
        return;
    if (packet->payload_bytes && flow_role_is_open(flow))
        content_tell(skb, offset, flow, packet, from);
}

/* Whether the time of a payload packet is part of an exchange, or may come to be. */
FLOW_INLINE int is_timed_exchange(const struct flow *flow, const struct packet *packet, int from)
{
    if (!TAP_HAS(TAP_TRACE_CONTEXT))
        return 0;
    if (!packet->payload_bytes || flow->requests == FLOW_REQUESTS_OPAQUE)
        return 0;
    /* What is sent has its precise time for nothing. */
    if (flow->requests == FLOW_REQUESTS_STREAMS)
        return from == FLOW_TX || !is_passed_over((__u32)flow->id, packet, from);
    return exchange_is_open(flow) || exchange_is_followed(flow) ||
           ((!flow->request_ns || flow->requests >> FLOW_REQUESTS_PART_SHIFT || exchange_is_whole(flow)) &&
                   flow_from_client(flow, from));
}

FLOW_INLINE void look_for_frames(struct __sk_buff *skb, exchange_host host, struct flow *flow, int from);

/*
 * Go on with a packet's messages where requests do not wait, as exchange_pipelined left it, or else with more headers, as what looked at
 * them before returned `at`.
 */
FLOW_INLINE void look_for_messages(struct __sk_buff *skb, exchange_host host, struct flow *flow, int from, __u32 at)
{
    __u32 begins = skb->cb[CB_AT];

    if (!begins) {
        call_headers(skb, from, at);
        return;
    }
    call_exchange(skb, from, CALL_MESSAGES);
    give_up_pipelined(host, flow, begins >> PIPELINE_WAITS_SHIFT); /* no such program: the kernel refused it */
}

/* Of an IP header without options. Without a branch: the verifier walks what follows once, and not for either version. */
FLOW_INLINE __u32 ip_header_bytes(const __u8 *ip)
{
    return 20 + 20 * (__u32)http2_is_set(ip[0] ^ 0x45);
}

/*
 * The packet that was left off at, read once more: of a connected socket, whose storage has its flow by now, or of a listener
 * (accepted.h), and without IP options. Its time is the flow's, whose last packet it is.
 */
FLOW_INLINE int tap_exchange(struct __sk_buff *skb, int from, enum exchange_call which)
{
    const __u8 *ip = (const __u8 *)(long)skb->data;
    const __u8 *end = (const __u8 *)(long)skb->data_end;
    __u64 left_ns = (__u64)skb->cb[CB_REQUEST_HIGH] << 32 | skb->cb[CB_REQUEST_LOW];
    struct exchange_moment before = {
            .request_ns = left_ns,
            .next_sequence = skb->cb[CB_NEXT_SEQUENCE],
            .outcome = skb->cb[CB_OUTCOME],
    };
    struct exchange_request request = {.first_ns = left_ns, .at = skb->cb[CB_AT]};
    struct bpf_sock *sk = skb->sk;
    struct exchange_of host;
    struct packet packet;
    struct slot *slot;
    const __u8 *tcp;
    __u32 offset;
    __u32 at;

    if (sk)
        sk = bpf_sk_fullsock(sk);
    slot = sk ? slot_of_call(sk, from, &host.reference) : NULL;
    if (!slot || ip + 40 > end)
        return 1;
    if (ip[0] == 0x45 ? ip[9] != TRANSPORT_TCP : ip[0] >> 4 != 6 || ip[6] != TRANSPORT_TCP)
        return 1;
    offset = ip_header_bytes(ip);
    tcp = ip + offset;
    if (tcp + 20 > end)
        return 1;
    host.cgroup_id = slot->socket.cgroup_id;
    host.sk = sk;
    packet.tcp_flags = tcp[13];
    packet.sequence = bpf_ntohl(*(const __be32 *)(tcp + 4));
    offset += (tcp[12] >> 4) * 4u;
    packet.payload_bytes = skb->len - offset;
    packet.time_ns = slot->flow.last_ns;
    if (which == CALL_LINE) {
        request.part = (__u8)skb->cb[CB_REQUEST];
        request.may_begin = skb->cb[CB_REQUEST] >> 8 & 1;
        request.has_path = skb->cb[CB_REQUEST] >> 9 & 1;
        request.is_next = 1;
        skb->cb[CB_AT] = 0;
        at = exchange_from_line(host, skb, offset, &slot->flow, &packet, from, &request);
        look_for_messages(skb, host, &slot->flow, from, at);
    } else if (which == CALL_HEADERS) {
        skb->cb[CB_AT] = 0;
        at = exchange_from_headers(host, skb, offset, &slot->flow, &packet, request.at);
        look_for_messages(skb, host, &slot->flow, from, at);
    } else if (which == CALL_CUT) {
        at = exchange_from_cut(host, skb, offset, &slot->flow, &packet, request.at);
        call_headers(skb, from, at);
    } else if (which == CALL_REQUEST) {
        skb->cb[CB_BEGINS] = 0;
        request = exchange_from_client(host, skb, offset, &slot->flow, &packet, from, &before);
        look_for_frames(skb, host, &slot->flow, from);
        if (request.at) {
            skb->cb[CB_REQUEST] = request.part | (__u32)request.may_begin << 8 | (__u32)request.has_path << 9;
            leave_time(skb, request.first_ns);
            skb->cb[CB_AT] = request.at;
            call_exchange(skb, from, request.has_begun ? CALL_HEADERS : CALL_LINE);
        }
    } else {
        skb->cb[CB_BEGINS] = 0;
        at = exchange_from_server(host, skb, offset, &slot->flow, &packet, from, &before, request.at);
        look_for_frames(skb, host, &slot->flow, from);
        if (at) {
            skb->cb[CB_AT] = at;
            call_exchange(skb, from, CALL_RESPONSE);
        }
    }
    return 1;
}

#endif
