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

#include "slots.h"
#include "socket.h"

#ifdef TRACE_CONTEXT
#include "../engine/exchange.h"

#ifndef OPEN_EXCHANGES
#define OPEN_EXCHANGES 65536
#endif
#ifndef ENDED_PAGES
#define ENDED_PAGES 1024 /* 4 MiB: 20,000 exchanges between two looks */
#endif
#define RINGBUF_NO_WAKEUP 1 /* BPF_RB_NO_WAKEUP: nobody waits */
/* What is left in the socket buffer for the program that is called: words of __sk_buff.cb, which the kernel gives to programs. */
#define CB_NEXT_SEQUENCE 0
#define CB_REQUEST_WAITS 1

/* Whose exchange traced_exchange.h speaks of. */
struct exchange_of {
    slot_reference reference;
    __u64 cgroup_id;
};

typedef struct exchange_of exchange_host;

/* Behind the counters of requests: exchanges that the ring buffer had no room for. */
#define EXCHANGES_LOST REQUEST_COUNTERS

BPF_F_TABLE("hash", slot_reference, struct exchange, open_exchanges, OPEN_EXCHANGES, BPF_F_NO_PREALLOC);
BPF_RINGBUF_OUTPUT(ended_exchanges, ENDED_PAGES);
BPF_TABLE("array", u32, struct exchange, no_exchange, 1);
BPF_TABLE("percpu_array", u32, u64, request_counters, REQUEST_COUNTERS + 1);
/* One for each direction: the kernel binds one to where its programs are attached. */
BPF_PROG_ARRAY(ingress_calls, 1);
BPF_PROG_ARRAY(egress_calls, 1);

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

#include "../engine/traced_exchange.h"

/*
 * The end of a program that has just added a TCP packet to its flow: where the packet is of interest, the program below goes on
 * with it, and what it takes to tell afterwards is left for it.
 */
FLOW_INLINE void look_into(
        struct __sk_buff *skb, const struct flow *flow, __u32 payload_bytes, int from, struct exchange_moment before)
{
    if (!payload_bytes || flow->requests == FLOW_REQUESTS_OPAQUE)
        return;
    if (flow->requests != FLOW_REQUESTS_TRACED && (before.request_ns || !flow->request_ns))
        return;
    skb->cb[CB_NEXT_SEQUENCE] = before.next_sequence;
    skb->cb[CB_REQUEST_WAITS] = before.request_ns != 0;
    if (from == FLOW_TX)
        egress_calls.call(skb, 0);
    else
        ingress_calls.call(skb, 0);
}

/* Whether the time of a payload packet is part of an exchange, or may come to be. */
FLOW_INLINE int is_timed_exchange(const struct flow *flow, const struct packet *packet, int from)
{
    if (!packet->payload_bytes || flow->requests == FLOW_REQUESTS_OPAQUE)
        return 0;
    return flow->requests == FLOW_REQUESTS_TRACED || (!flow->request_ns && flow_from_client(flow, from));
}

/*
 * The packet that was left off at, read once more: of a connected socket, whose storage has its flow by now, and without IP
 * options. Its time is the flow's, whose last packet it is.
 */
FLOW_INLINE int tap_exchange(struct __sk_buff *skb, int from)
{
    const __u8 *ip = (const __u8 *)(long)skb->data;
    const __u8 *end = (const __u8 *)(long)skb->data_end;
    struct exchange_moment before = {.request_ns = skb->cb[CB_REQUEST_WAITS], .next_sequence = skb->cb[CB_NEXT_SEQUENCE]};
    struct bpf_sock *sk = skb->sk;
    struct exchange_of host;
    struct packet packet;
    slot_reference *stored;
    struct slot *slot;
    const __u8 *tcp;
    __u32 offset;

    if (sk)
        sk = bpf_sk_fullsock(sk);
    stored = sk ? slot_of_socket.sk_storage_get(sk, 0, 0) : NULL;
    slot = stored ? slot_at(*stored) : NULL;
    if (!slot || ip + 40 > end)
        return 1;
    offset = ip[0] == 0x45 ? 20 : 40;
    tcp = ip + offset;
    if (tcp + 20 > end || (offset == 20 ? ip[9] : ip[6]) != TRANSPORT_TCP || (offset == 40 && ip[0] >> 4 != 6))
        return 1;
    host.reference = *stored;
    host.cgroup_id = slot->socket.cgroup_id;
    packet.tcp_flags = tcp[13];
    packet.sequence = bpf_ntohl(*(const __be32 *)(tcp + 4));
    offset += (tcp[12] >> 4) * 4u;
    packet.payload_bytes = skb->len - offset;
    packet.time_ns = slot->flow.last_ns;
    exchange_after(host, skb, offset, &slot->flow, &packet, from, before);
    return 1;
}
#else
struct exchange_moment {};
#define exchange_before(flow, from) ((struct exchange_moment){})
#define look_into(skb, flow, payload_bytes, from, before)
#define is_timed_exchange(flow, packet, from) 0
#endif

#endif
