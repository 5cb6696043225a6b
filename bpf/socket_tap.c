/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * The socket tap: every packet of every socket, once, at the root of cgroup v2, under any network plugin.
 *
 * Two programs of type cgroup_skb, ingress and egress, feed one flow engine. A flow is oriented from the socket that sent or
 * received the packet: a connection between two pods of a node is two flows, as it is across nodes.
 *
 * Where a packet's flow is found:
 *   - socket storage on connected sockets: a reference to the slot, no lookup of addresses and hardly a parse;
 *   - the hash `flows_by_key` for everything else (handshakes, unconnected UDP, ICMP, raw).
 *
 * A slot's life. The reader puts references (slot, generation) on `free_slots`, a stack, so that few slots are ever used. A
 * program takes one, fills the slot, publishes the reference in the hash and makes the slot live. A reference holds while the
 * slot has its generation and is not retired. To end a flow the reader deletes its key, retires the slot, raises the generation
 * and waits until all programs that ran meanwhile are done; then it reads the slot for the last time, zeroes it and puts it
 * back. A program retires a slot itself when its addresses and ports are used for another connection; the key then already
 * means the other's slot. References in socket storage go stale and nobody minds.
 *
 * When no slot is free the packet is added to `unattributed` by transport, so that totals always add up.
 *
 * Compile-time settings, all by -D: SLOTS; EXCLUDE_LOOPBACK; KEEP_TRANSPORT(number); ALLOW_NETWORKS, DENY_NETWORKS, ALLOW_PORTS,
 * DENY_PORTS (the rules are in maps); TRACE_CONTEXT; NO_COARSE_CLOCK for kernels before 5.11, else TICK_NS, the length of the
 * kernel's tick.
 */
#include <linux/types.h>

#define FLOW_ADD(member, value) __sync_fetch_and_add(&(member), (value))

typedef struct __sk_buff *frame_source;

static inline __attribute__((always_inline)) int parse_load(frame_source skb, __u32 offset, void *target, __u32 size)
{
    return (int)bpf_skb_load_bytes(skb, offset, target, size);
}

#include "parse.h"

#ifndef SLOTS
#define SLOTS 131072
#endif
#ifndef KEEP_TRANSPORT
#define KEEP_TRANSPORT(number) 1
#endif

#define TCP_STATE_LISTEN 10
/* A socket's figures are read once in every 2^27 ns (134 ms): often enough for a record, too rarely to be seen. */
#define SOCKET_INTERVAL_BITS 27
/* How far the kernel's own departure time of a segment may be from what is known of now to be taken for the packet's time. */
#define DEPARTURE_NEAR_NS 20000000ULL
/*
 * A TCP client that has pushed this often and not been answered streams: when each of its requests was over does not matter. A
 * response to so long a request waits from the last tick, 4 ms too long at most.
 */
#define PUSHES_PER_RESPONSE 256
/* A UDP client that sends this many datagrams per answer streams: the time of each does not matter. */
#define DATAGRAMS_PER_RESPONSE 16

/* What the kernel knows of a TCP socket (include/uapi/linux/bpf.h, struct bpf_tcp_sock) and whose it is. */
struct socket_facts {
    __u64 cgroup_id;
    __u64 read_ns; /* when the rest was read; 0: never, or no TCP */
    __u32 srtt_us; /* smoothed round-trip time, not shifted */
    __u32 min_rtt_us;
    __u32 retransmits; /* segments, over the socket's life */
    __u32 lost;        /* segments the kernel holds for lost now */
    __u32 congestion_window;
    __u32 closed; /* the application has closed the socket */
    __u32 pushes; /* of the client since the server's `answers`-th response, as they were received */
    __u32 answers;
    __u8 pad[16];
};

struct slot {
    struct flow flow;
    struct socket_facts socket;
};

_Static_assert(sizeof(struct slot) == 512, "whole cache lines; services/capture/live/slot_layout.py mirrors it");

struct flow_key {
    __u8 local_address[16];
    __u8 remote_address[16];
    __u16 local_port;
    __u16 remote_port;
    __u16 icmp_kind;
    __u8 transport;
    __u8 pad;
};

/* A slot as it was when the reference was taken: slot number below, generation above. Another generation is another flow. */
typedef __u64 slot_reference;

struct endpoint {
    __u8 address[16];
    __u32 port;
};

struct network {
    __u32 prefix_bits;
    __u8 address[16];
};

/* Packets and bytes that are in no flow. services/capture/live/slot_layout.py has the same words. */
enum tap_counter {
    TAP_UNATTRIBUTED_TCP, /* the table is full */
    TAP_UNATTRIBUTED_UDP,
    TAP_UNATTRIBUTED_OTHER,
    TAP_LOOPBACK,
    TAP_EXCLUDED,    /* capture's own connections */
    TAP_FILTERED,    /* by the operator's rules */
    TAP_STRAY_RESET, /* a RST from or to no connection: the answer to a closed port, at the side that refuses */
    TAP_MALFORMED,
    TAP_COUNTERS,
};

struct tap_count {
    __u64 packets;
    __u64 bytes;
};

/* How the reader knows how far slots were used: `asked` is counted before a slot is taken. */
struct tap_slots {
    __u64 asked;
    __u64 refused;
    __u64 returned;
};

BPF_F_TABLE("array", u32, struct slot, slots, SLOTS, BPF_F_MMAPABLE);
BPF_F_TABLE("array", u32, struct tap_slots, slot_counts, 1, BPF_F_MMAPABLE);
BPF_TABLE("hash", struct flow_key, slot_reference, flows_by_key, SLOTS + 256);
BPF_TABLE("percpu_array", u32, struct tap_count, tap_counters, TAP_COUNTERS);
BPF_TABLE("hash", struct endpoint, u8, excluded_endpoints, 64);
BPF_STACK(free_slots, slot_reference, SLOTS);
BPF_TABLE("array", u32, u64, tick_base, 1);
BPF_SK_STORAGE(slot_of_socket, slot_reference);
#ifdef ALLOW_NETWORKS
BPF_F_TABLE("lpm_trie", struct network, u8, allowed_networks, 1024, BPF_F_NO_PREALLOC);
#endif
#ifdef DENY_NETWORKS
BPF_F_TABLE("lpm_trie", struct network, u8, denied_networks, 1024, BPF_F_NO_PREALLOC);
#endif
#if defined(ALLOW_PORTS) || defined(DENY_PORTS)
/* Value: bit 0 is allowed, bit 1 is denied. */
BPF_TABLE("array", u32, u8, port_rules, 65536);
#endif

/*
 * The time of the last tick. The kernel counts ticks on the monotonic clock, and the JIT makes bpf_jiffies64 a load, where the
 * coarse clock is a call that costs half as much as the precise one. `tick_base` is the time of tick 0, 0 while it is not known.
 */
FLOW_INLINE __u64 clock_coarse_ns(void)
{
#ifdef NO_COARSE_CLOCK
    return bpf_ktime_get_ns();
#else
#ifdef TICK_NS
    __u32 zero = 0;
    __u64 *base = tick_base.lookup(&zero);

    if (base && *base)
        return *base + bpf_jiffies64() * TICK_NS;
#endif
    return bpf_ktime_get_coarse_ns();
#endif
}

/* Put the ticks right where they are not: at the beginning, and after the machine was suspended. Returns the precise time. */
FLOW_INLINE __u64 set_ticks(void)
{
    __u64 now = bpf_ktime_get_ns();
#if defined(TICK_NS) && !defined(NO_COARSE_CLOCK)
    __u32 zero = 0;
    __u64 *base = tick_base.lookup(&zero);

    if (base && now - (*base + bpf_jiffies64() * TICK_NS) >= 2 * TICK_NS)
        *base = bpf_ktime_get_coarse_ns() - bpf_jiffies64() * TICK_NS;
#endif
    return now;
}

FLOW_INLINE void count_packet(__u32 counter, const struct packet *packet)
{
    struct tap_count *count = tap_counters.lookup(&counter);

    if (count) {
        count->packets += packet->segments;
        count->bytes += packet->ip_bytes;
    }
}

FLOW_INLINE __u32 unattributed(const struct packet *packet)
{
    return packet->transport == TRANSPORT_TCP   ? TAP_UNATTRIBUTED_TCP
           : packet->transport == TRANSPORT_UDP ? TAP_UNATTRIBUTED_UDP
                                                : TAP_UNATTRIBUTED_OTHER;
}

FLOW_INLINE void flow_key_of(struct flow_key *key, const struct packet *packet, int from)
{
    int tx = from == FLOW_TX;

    __builtin_memcpy(key->local_address, tx ? packet->source_address : packet->destination_address, 16);
    __builtin_memcpy(key->remote_address, tx ? packet->destination_address : packet->source_address, 16);
    key->local_port = tx ? packet->source_port : packet->destination_port;
    key->remote_port = tx ? packet->destination_port : packet->source_port;
    key->transport = packet->transport;
    key->icmp_kind = 0;
    key->pad = 0;
    if (packet->transport == TRANSPORT_ICMP || packet->transport == TRANSPORT_ICMPV6)
        key->icmp_kind = icmp_kind(packet->transport, packet->icmp_type, packet->icmp_code);
}

FLOW_INLINE __u32 word_at(const __u8 *bytes)
{
    return *(const __u32 *)bytes;
}

/* Whether two addresses are the same; compilers do not inline memcmp for BPF. */
FLOW_INLINE int is_same(const __u8 *a, const __u8 *b)
{
    return !((word_at(a) ^ word_at(b)) | (word_at(a + 4) ^ word_at(b + 4)) | (word_at(a + 8) ^ word_at(b + 8)) |
             (word_at(a + 12) ^ word_at(b + 12)));
}

FLOW_INLINE int is_mapped_ipv4(const __u8 *address)
{
    return !(word_at(address) | word_at(address + 4)) && word_at(address + 8) == bpf_htonl(0xffff);
}

FLOW_INLINE int is_loopback(const __u8 *address)
{
    if (word_at(address) | word_at(address + 4))
        return 0;
    if (word_at(address + 8))
        return address[12] == 127 && is_mapped_ipv4(address);
    return word_at(address + 12) == bpf_htonl(1);
}

/* The slot a reference points at, or nothing if it is another flow's or nobody's by now. */
FLOW_INLINE struct slot *slot_at(slot_reference reference)
{
    __u32 number = (__u32)reference;
    struct slot *slot = slots.lookup(&number);

    if (slot && slot->flow.generation == (__u32)(reference >> 32) && slot->flow.state != FLOW_RETIRED)
        return slot;
    return NULL;
}

FLOW_INLINE void read_socket(struct socket_facts *facts, struct bpf_sock *sk, __u64 now)
{
    struct bpf_tcp_sock *tcp = bpf_tcp_sock(sk);

    if (!tcp)
        return;
    facts->read_ns = now;
    facts->srtt_us = tcp->srtt_us >> 3;
    facts->min_rtt_us = tcp->rtt_min;
    facts->retransmits = tcp->total_retrans;
    facts->lost = tcp->lost_out;
    facts->congestion_window = tcp->snd_cwnd;
}

FLOW_INLINE void count_segments(struct __sk_buff *skb, struct packet *packet)
{
    __u32 segments = skb->gso_segs;
    __u32 size;

    /* A virtual machine's card leaves the count to us. */
    if (!segments) {
        size = skb->gso_size;
        if (size && packet->payload_bytes > size && size < 0xffff)
            segments = (packet->payload_bytes + size - 1) / size;
    }
    if (segments > 1) {
        packet->segments = segments;
        packet->ip_bytes += (segments - 1) * (packet->ip_bytes - packet->payload_bytes);
    }
}

/*
 * The time of a packet. One that begins or ends something timed has the precise time: for TCP that is sent the kernel has just
 * taken it (skb->tstamp is its departure time on this clock), else it costs as much as all the rest. The others have the time of
 * the last tick, 1 to 4 ms old, but never one before what the flow has seen.
 */
FLOW_INLINE __u64 packet_time(struct __sk_buff *skb, const struct flow *flow, int timed, int departure)
{
    __u64 time_ns = 0;
    __u64 coarse;

    if (timed) {
        if (!departure)
            return bpf_ktime_get_ns();
        time_ns = skb->tstamp;
        if (time_ns - flow->last_ns < DEPARTURE_NEAR_NS)
            return time_ns;
    }
    coarse = clock_coarse_ns();
    if (timed)
        return time_ns - coarse + DEPARTURE_NEAR_NS < 2 * DEPARTURE_NEAR_NS ? time_ns : bpf_ktime_get_ns();
    return coarse > flow->last_ns ? coarse : flow->last_ns;
}

/*
 * Whether a TCP packet begins or ends something timed. A request's last segment carries PSH: a sender must set it when its
 * buffer runs empty (RFC 9293 3.9.1.2).
 */
FLOW_INLINE int is_timed_tcp(const struct flow *flow, const struct packet *packet, int from)
{
    if (packet->tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST) || flow->outcome == FLOW_OUTCOME_HALF_OPEN)
        return 1;
    if (!packet->payload_bytes)
        return 0;
    if (tcp_is_out_of_place(flow, packet, from))
        return 1;
    return flow_from_client(flow, from) ? packet->tcp_flags & TCP_PSH : flow->request_ns != 0;
}

/* Whether what is timed of a client's segment is worth its time, which costs as much as all the rest where it is received. */
FLOW_INLINE int is_stream(const struct flow *flow, struct socket_facts *socket, const struct packet *packet)
{
    if (!packet->payload_bytes || packet->tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST) ||
            flow->outcome == FLOW_OUTCOME_HALF_OPEN || !flow_from_client(flow, FLOW_RX))
        return 0;
    if (socket->answers != flow->responses) {
        socket->answers = flow->responses;
        socket->pushes = 0;
    }
    if (socket->pushes == PUSHES_PER_RESPONSE)
        return 1;
    socket->pushes += 1;
    return 0;
}

FLOW_INLINE int is_timed_datagram(const struct flow *flow, int from)
{
    if (!flow_from_client(flow, from))
        return flow->request_ns != 0;
    return flow->sides[from & 1].packets < ((__u64)flow->responses + 2) * DATAGRAMS_PER_RESPONSE;
}

/*
 * The role of a TCP connection older than capture: whoever listens on the local port accepted it; where nobody does, the
 * connection was made from here. Asked once a flow. From address and port 0 nobody is connected, so what is found can only
 * listen; for IPv4 that may be an IPv6 socket.
 */
FLOW_INLINE void find_role(struct __sk_buff *skb, struct flow *flow)
{
    struct bpf_sock_tuple tuple = {};
    struct bpf_sock *listener;
    int ipv4 = is_mapped_ipv4(flow->local_address);

    if (ipv4) {
        __builtin_memcpy(&tuple.ipv4.daddr, flow->local_address + 12, 4);
        tuple.ipv4.dport = bpf_htons(flow->local_port);
    } else {
        __builtin_memcpy(tuple.ipv6.daddr, flow->local_address, 16);
        tuple.ipv6.dport = bpf_htons(flow->local_port);
    }
    listener = bpf_sk_lookup_tcp(skb, &tuple, ipv4 ? sizeof(tuple.ipv4) : sizeof(tuple.ipv6), BPF_F_CURRENT_NETNS, 0);
    if (!listener) {
        flow->role = FLOW_ROLE_CLIENT;
        return;
    }
    if (listener->state == TCP_STATE_LISTEN)
        flow->role = FLOW_ROLE_SERVER;
    bpf_sk_release(listener);
}

/* Whether capture itself, or the operator's rules, leave this flow out. Returns the counter, or TAP_COUNTERS. */
FLOW_INLINE __u32 left_out(const struct flow_key *key)
{
    struct endpoint endpoint;

    __builtin_memcpy(endpoint.address, key->local_address, 16);
    endpoint.port = key->local_port;
    if (excluded_endpoints.lookup(&endpoint))
        return TAP_EXCLUDED;
    __builtin_memcpy(endpoint.address, key->remote_address, 16);
    endpoint.port = key->remote_port;
    if (excluded_endpoints.lookup(&endpoint))
        return TAP_EXCLUDED;
    if (!(KEEP_TRANSPORT(key->transport)))
        return TAP_FILTERED;
#if defined(ALLOW_PORTS) || defined(DENY_PORTS)
    {
        __u32 local_port = key->local_port;
        __u32 remote_port = key->remote_port;
        __u8 *local = port_rules.lookup(&local_port);
        __u8 *remote = port_rules.lookup(&remote_port);
        __u8 rules = (local ? *local : 0) | (remote ? *remote : 0);

#ifdef ALLOW_PORTS
        if (!(rules & 1))
            return TAP_FILTERED;
#endif
        if (rules & 2)
            return TAP_FILTERED;
    }
#endif
#if defined(ALLOW_NETWORKS) || defined(DENY_NETWORKS)
    {
        struct network network = {.prefix_bits = 128};

        __builtin_memcpy(network.address, key->remote_address, 16);
#ifdef ALLOW_NETWORKS
        if (!allowed_networks.lookup(&network))
            return TAP_FILTERED;
#endif
#ifdef DENY_NETWORKS
        if (denied_networks.lookup(&network))
            return TAP_FILTERED;
#endif
    }
#endif
    return TAP_COUNTERS;
}

/*
 * The slot for a packet whose flow has none, or nothing where the table is full. Two CPUs may do this for one flow at once: the
 * one that publishes first has it, the other gives its slot back and goes on with the first one's. `*reference` is the slot's.
 */
FLOW_INLINE struct slot *begin_flow(
        struct __sk_buff *skb, struct flow_key *key, const struct packet *packet, int from, slot_reference *reference)
{
    struct tap_slots *counts;
    struct slot *other;
    struct slot *slot;
    slot_reference *published;
    slot_reference taken = 0;
    __u32 zero = 0;
    __u32 number;

    counts = slot_counts.lookup(&zero);
    if (!counts)
        return NULL;
    __sync_fetch_and_add(&counts->asked, 1);
    if (free_slots.pop(&taken)) {
        __sync_fetch_and_add(&counts->refused, 1);
        return NULL;
    }
    number = (__u32)taken;
    slot = slots.lookup(&number);
    if (!slot)
        return NULL;
    slot->flow.generation = (__u32)(taken >> 32);
    slot->flow.id = taken;
    slot->flow.role = FLOW_ROLE_UNKNOWN;
    slot->socket.cgroup_id = bpf_skb_cgroup_id(skb);
    flow_open(&slot->flow, packet, from);
    if (packet->transport == TRANSPORT_TCP && !(packet->tcp_flags & TCP_SYN))
        find_role(skb, &slot->flow);
    *reference = taken;
    if (!flows_by_key.insert(key, &taken)) {
        slot->flow.state = FLOW_LIVE;
        return slot;
    }
    published = flows_by_key.lookup(key);
    if (published) {
        *reference = *published;
        other = slot_at(*published);
        if (!other && !flows_by_key.update(key, &taken)) {
            *reference = taken;
            slot->flow.state = FLOW_LIVE;
            return slot;
        }
    } else {
        other = NULL;
    }
    __sync_fetch_and_add(&counts->returned, 1);
    free_slots.push(&taken, 0);
    return other;
}

FLOW_INLINE void remember_slot(struct bpf_sock *sk, slot_reference reference)
{
    slot_reference *stored = slot_of_socket.sk_storage_get(sk, &reference, BPF_SK_STORAGE_GET_F_CREATE);

    if (stored && *stored != reference)
        *stored = reference;
}

#ifdef TRACE_CONTEXT
/*
 * Exchanges of application traces (traced_exchange.h). The programs that see every packet only ask whether one is of interest: it
 * begins a request, or its connection has an exchange open. If so they end in a tail call of tap_exchange, which reads the packet
 * once more. So what is not traced pays for a comparison or two, and the first packet of a request for the look into it.
 *
 * Open exchanges are in a hash, by the reference of their slot; the reader looks at all of them at every tick and deletes those
 * whose flow is gone. What the next request ends is copied into a ring buffer and deleted here.
 */
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

#include "traced_exchange.h"

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

FLOW_INLINE int tap_any(struct __sk_buff *skb, struct bpf_sock *sk, int connected, int from)
{
    struct packet packet = {};
    struct flow_key key;
    slot_reference reference = 0;
    slot_reference *published;
    struct slot *slot = NULL;
    struct exchange_moment before = {};
    enum packet_disposition disposition;
    __u32 reason;
    int timed = 1;

    disposition = parse_ip(skb, 0, skb->len, &packet);
    if (disposition != PACKET_FLOW) {
        packet.ip_bytes = skb->len;
        count_packet(disposition == PACKET_FRAGMENT ? unattributed(&packet) : TAP_MALFORMED, &packet);
        return 1;
    }
    count_segments(skb, &packet);
#ifdef EXCLUDE_LOOPBACK
    if (is_loopback(packet.source_address) || is_loopback(packet.destination_address)) {
        count_packet(TAP_LOOPBACK, &packet);
        return 1;
    }
#endif
    flow_key_of(&key, &packet, from);
    published = flows_by_key.lookup(&key);
    if (published) {
        reference = *published;
        slot = slot_at(reference);
    }
    if (slot) {
        if (packet.transport == TRANSPORT_TCP) {
            timed = is_timed_tcp(&slot->flow, &packet, from) || is_timed_exchange(&slot->flow, &packet, from);
            before = exchange_before(&slot->flow, from);
            if (tcp_renews(&slot->flow, &packet, from)) {
                slot->flow.state = FLOW_RETIRED;
                slot = NULL;
            }
        } else {
            timed = is_timed_datagram(&slot->flow, from);
        }
    }
    packet.time_ns = slot ? packet_time(skb, &slot->flow, timed, 0) : set_ticks();
    if (!slot) {
        if (packet.transport == TRANSPORT_TCP && packet.tcp_flags & TCP_RST) {
            count_packet(TAP_STRAY_RESET, &packet);
            return 1;
        }
        reason = left_out(&key);
        if (reason != TAP_COUNTERS) {
            count_packet(reason, &packet);
            return 1;
        }
        slot = begin_flow(skb, &key, &packet, from, &reference);
        if (!slot) {
            count_packet(unattributed(&packet), &packet);
            return 1;
        }
    }
    flow_add(&slot->flow, &packet, from);
    if (connected) {
        if (packet.transport == TRANSPORT_TCP)
            read_socket(&slot->socket, sk, packet.time_ns);
        remember_slot(sk, reference);
        if (packet.transport == TRANSPORT_TCP)
            look_into(skb, &slot->flow, packet.payload_bytes, from, before);
    }
    return 1;
}

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

/*
 * A socket that its application has closed is gone once its FIN is acknowledged: the kernel then keeps the connection without a
 * socket (FIN-WAIT-2 and TIME-WAIT), and no program sees the other end's FIN and the ACK to it. For this end it is closed.
 */
FLOW_INLINE void settle_closed(struct flow *flow)
{
    const struct flow_side *own = &flow->sides[FLOW_TX];

    if (own->tcp_flags & TCP_FIN && flow->outcome == FLOW_OUTCOME_ESTABLISHED && own->acknowledged == own->next_sequence)
        flow->outcome = FLOW_OUTCOME_CLOSED;
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
    struct exchange_moment before = exchange_before(flow, from);
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
    timed = is_timed_tcp(flow, &packet, from);
    if (timed && from == FLOW_RX)
        timed = !is_stream(flow, &slot->socket, &packet);
    timed = timed || is_timed_exchange(flow, &packet, from);
    packet.time_ns = packet_time(skb, flow, timed, from == FLOW_TX);
    count_segment(flow, &packet, from);
    flow_header(&flow->sides[from & 1], &packet);
    flow_tcp(flow, &packet, from);
    if (from == FLOW_RX && slot->socket.closed)
        settle_closed(flow);
    /* A client's socket has its first round-trip time when it completes the handshake; the last figures are those that count. */
    if ((last_ns ^ packet.time_ns) >> SOCKET_INTERVAL_BITS || opening || flow->closed_by)
        read_socket(&slot->socket, sk, packet.time_ns);
    look_into(skb, flow, packet.payload_bytes, from, before);
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
    packet.time_ns = packet_time(skb, flow, is_timed_datagram(flow, from), 0);
    flow_count(flow, &packet, from);
    flow_header(&flow->sides[from & 1], &packet);
    flow_exchange(flow, &packet, from);
    return 1;
}

/* The common packet: of a connected socket whose flow is known, without IP options. Returns 0 where it is another. */
FLOW_INLINE int tap_connected(struct __sk_buff *skb, struct bpf_sock *sk, struct slot *slot, int from)
{
    const __u8 *ip = (const __u8 *)(long)skb->data;
    const __u8 *end = (const __u8 *)(long)skb->data_end;
    const __u8 *remote;
    __u8 transport = slot->flow.transport;

    if (ip + 28 > end)
        return 0;
    if (ip[0] == 0x45) {
        if (ip[9] != transport)
            return 0;
        if (transport == TRANSPORT_TCP)
            return ip + 40 > end ? 0 : tap_segment(skb, sk, slot, ip + 20, 20, from);
        remote = ip + (from == FLOW_TX ? 16 : 12);
        if (word_at(remote) != word_at(slot->flow.remote_address + 12))
            return 0;
        if (bpf_ntohs(*(const __be16 *)(ip + (from == FLOW_TX ? 22 : 20))) != slot->flow.remote_port)
            return 0;
        return tap_datagram(skb, slot, ip, 20, from);
    }
    if (ip[0] >> 4 != 6 || ip[6] != transport || ip + 48 > end)
        return 0;
    if (transport == TRANSPORT_TCP)
        return ip + 60 > end ? 0 : tap_segment(skb, sk, slot, ip + 40, 40, from);
    remote = ip + (from == FLOW_TX ? 24 : 8);
    if (!is_same(remote, slot->flow.remote_address))
        return 0;
    if (bpf_ntohs(*(const __be16 *)(ip + (from == FLOW_TX ? 42 : 40))) != slot->flow.remote_port)
        return 0;
    return tap_datagram(skb, slot, ip, 40, from);
}

FLOW_INLINE int tap(struct __sk_buff *skb, int from)
{
    struct bpf_sock *sk = skb->sk;
    slot_reference *stored;
    struct slot *slot;
    int connected = 0;

    if (sk)
        sk = bpf_sk_fullsock(sk);
    /* A listener and an unconnected socket have no remote port. */
    if (sk && sk->dst_port) {
        stored = slot_of_socket.sk_storage_get(sk, 0, 0);
        slot = stored ? slot_at(*stored) : NULL;
        if (slot && tap_connected(skb, sk, slot, from))
            return 1;
        connected = sk->protocol == TRANSPORT_TCP || sk->protocol == TRANSPORT_UDP;
    }
    return tap_any(skb, sk, connected, from);
}

int tap_ingress(struct __sk_buff *skb)
{
    return tap(skb, FLOW_RX);
}

int tap_egress(struct __sk_buff *skb)
{
    return tap(skb, FLOW_TX);
}

#ifdef TRACE_CONTEXT
int tap_ingress_exchange(struct __sk_buff *skb)
{
    return tap_exchange(skb, FLOW_RX);
}

int tap_egress_exchange(struct __sk_buff *skb)
{
    return tap_exchange(skb, FLOW_TX);
}
#endif

/* The application closes a socket. Kernels before 5.12 cannot load it; a closed connection then ends a minute later. */
int tap_release(struct bpf_sock *sk)
{
    slot_reference *stored = slot_of_socket.sk_storage_get(sk, 0, 0);
    struct slot *slot = stored ? slot_at(*stored) : NULL;

    if (slot)
        slot->socket.closed = 1;
    return 1;
}

/* The baseline of the benchmarks. */
int tap_nothing(struct __sk_buff *skb)
{
    return 1;
}
