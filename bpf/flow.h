/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * The flow engine: a parsed packet and a flow's state in, the flow's new state out.
 *
 * One source, two hosts: the socket tap compiles it for BPF, replay for userspace. So it is plain C: no libc, no BPF helper, no
 * loop, no signed division, every function inlined. A host includes <linux/types.h> (the kernel's own, or bpf/include's).
 *
 * Times are nanoseconds on the host's clock, 0 means "not seen". Addresses are IPv6 or IPv4-mapped, network order; every other
 * field is in host order. "tx" is local to remote, "rx" remote to local.
 *
 * Who writes what: the engine writes every member of a slot but `taken` (the reader's), `id`, `generation` and `state` (the
 * host's). No member has two writers, so a reader that maps the slots needs no lock.
 */
#ifndef WIRESPAN_FLOW_H
#define WIRESPAN_FLOW_H

#include <linux/types.h>

#define FLOW_INLINE static inline __attribute__((always_inline, unused))

/* A host whose CPUs share slots defines it as an atomic addition; the result is never used. */
#ifndef FLOW_ADD
#define FLOW_ADD(member, value) ((member) += (value))
#endif

/* IANA protocol numbers. */
enum transport {
    TRANSPORT_ICMP = 1,
    TRANSPORT_TCP = 6,
    TRANSPORT_UDP = 17,
    TRANSPORT_DCCP = 33,
    TRANSPORT_ICMPV6 = 58,
    TRANSPORT_SCTP = 132,
    TRANSPORT_UDPLITE = 136,
};

/* RFC 9293 3.1. */
enum tcp_flag {
    TCP_FIN = 0x01,
    TCP_SYN = 0x02,
    TCP_RST = 0x04,
    TCP_PSH = 0x08,
    TCP_ACK = 0x10,
};

/* The next three are proto/columns.py's Role, Outcome and End. */
enum flow_role {
    FLOW_ROLE_UNKNOWN,
    FLOW_ROLE_CLIENT,
    FLOW_ROLE_SERVER,
};

enum flow_outcome {
    FLOW_OUTCOME_UNKNOWN,
    FLOW_OUTCOME_HALF_OPEN,
    FLOW_OUTCOME_ESTABLISHED,
    FLOW_OUTCOME_REFUSED,
    FLOW_OUTCOME_TIMEOUT, /* never set here: silence is seen by the reader */
    FLOW_OUTCOME_RESET,
    FLOW_OUTCOME_CLOSED,
};

enum flow_end {
    FLOW_END_NONE,
    FLOW_END_LOCAL,
    FLOW_END_REMOTE,
};

enum flow_state {
    FLOW_FREE,
    FLOW_LIVE,
    FLOW_RETIRED, /* no packet reaches it any more; waits for its last record to be taken */
};

enum flow_verdict {
    FLOW_COUNTED,
    FLOW_RENEW, /* nothing was counted: the packet opens a new connection; retire the slot, begin another with the packet */
};

/* Whether a connection's requests are looked at for their trace context, and what came of it: traced_exchange.h. */
enum flow_requests {
    FLOW_REQUESTS_UNKNOWN,
    FLOW_REQUESTS_OPAQUE, /* its first payload was no HTTP/1: none is looked at any more */
    FLOW_REQUESTS_TRACED, /* an exchange of an application's trace is open */
};

/* Index of flow.sides. */
enum flow_direction {
    FLOW_TX,
    FLOW_RX,
};

/* Bits of flow_side.known. */
enum flow_known {
    FLOW_KNOWN_ISN = 1,
    FLOW_KNOWN_NEXT = 2,
    FLOW_KNOWN_ACKNOWLEDGED = 4,
    FLOW_KNOWN_HEADER = 8,
};

/* What a host that keeps precise times makes of payload below the highest byte sent; packet.late. */
enum packet_late {
    LATE_UNJUDGED,
    LATE_REORDERED, /* overtaken on its way */
    LATE_REPEATED,  /* sent again */
};

/* Wireshark's tcp.analysis: how far behind the highest byte an overtaken segment may be where no round trip is known. */
#define FLOW_REORDERING_NS 3000000u
/* The unit of gap_at: 2^10 ns. */
#define FLOW_GAP_BITS 10

#define FLOW_RESPONSE_TIME_BUCKETS 20
#define FLOW_RESPONSE_TIME_UNIT_NS 16000

/* What parse.h makes of a packet. */
struct packet {
    __u8 source_address[16];
    __u8 destination_address[16];
    __u64 time_ns;
    __u32 ip_bytes;      /* IP header and all behind it */
    __u32 payload_bytes; /* behind the transport header */
    __u32 segments;      /* more than 1 where segmentation is offloaded */
    __u32 sequence;
    __u32 acknowledgment;
    __u32 fragment_id;
    __u32 transport_offset; /* of the transport header in the frame */
    __u16 source_port; /* ICMP queries: the identifier, in both */
    __u16 destination_port;
    __u16 window;
    __u8 transport;
    __u8 tcp_flags;
    __u8 icmp_type;
    __u8 icmp_code;
    __u8 traffic_class; /* DSCP and ECN */
    __u8 hop_limit;
    __u8 more_fragments;
    __u8 fragment_protocol; /* IPv4: part of what identifies a datagram (RFC 791); IPv6: 0, it is not (RFC 8200 4.5) */
    __u8 late;
    __u8 window_scale; /* of a SYN, plus 1; 0: it has none, or the host does not read options */
    __u8 pad[4];
#ifdef PARSE_PLACES
    __u32 ip_offset;            /* of the IP header in the frame */
    __u32 fragmentable_offset;  /* of what was cut into fragments */
    __u32 fragment_offset;      /* where in its datagram this fragment lies, in units of 8 bytes */
    __u32 pad2;
#endif
};

/* One direction of a flow. What is marked "deep" is written by flow_deep.h, and so 0 in the socket tap. */
struct flow_side {
    __u64 bytes;
    __u64 packets;
    __u64 payload_bytes;
    __u64 rtt_sum_ns; /* deep: round trips from this side's data to the other end's acknowledgment */
    __u32 initial_sequence;
    __u32 next_sequence;        /* behind the highest byte sent */
    __u32 acknowledged;         /* highest acknowledgment the other end gave */
    __u32 retransmits;          /* segments */
    __u32 retransmit_bytes;     /* of them, payload that had been sent before */
    __u32 spurious_retransmits; /* of them, segments that had been acknowledged */
    __u32 out_of_order;         /* segments */
    __u32 duplicate_acks;
    __u32 ecn_ce;
    __u32 rtt_samples; /* deep */
    __u32 rtt_min_ns;  /* deep */
    __u32 rtt_max_ns;  /* deep */
    __u16 zero_windows;
    __u16 window_full; /* deep */
    __u16 keep_alives;
    __u16 window; /* as it stands in the last header */
    __u8 tcp_flags;
    __u8 known;
    __u8 traffic_class; /* of the first packet */
    __u8 hop_limit;     /* of the first packet */
    __u8 fins;
    __u8 resets;
    __u8 duplicate_run; /* duplicate ACKs in a row */
    __u8 zero_window_probes;
};

/*
 * One slot. Its first 64 bytes are all that the reader's periodic look at every flow touches.
 * `interval` follows `taken` at the first packet after the reader took a record: what is marked "interval" below begins again.
 */
struct flow {
    __u64 last_ns;
    __u64 first_ns;
    __u64 id;
    __u64 interval_first_ns; /* interval: first packet */
    __u32 generation;        /* changes whenever the slot is given to another flow */
    __u32 interval;
    __u32 taken; /* records taken by the reader */
    __u32 responses;
    __u16 local_port;
    __u16 remote_port;
    __u16 syn_repeats;
    __u16 syn_ack_repeats;
    __u8 state;
    __u8 transport;
    __u8 role;
    __u8 outcome;
    __u8 closed_by;
    __u8 icmp_type; /* of the first message */
    __u8 icmp_code;
    __u8 requests; /* enum flow_requests: traced_exchange.h */

    __u8 local_address[16];
    __u8 remote_address[16];
    __u64 syn_ns;
    __u64 syn_ack_ns;
    __u64 handshake_ack_ns;
    __u64 request_ns; /* last byte of the request that waits for its response; 0: none waits */
    __u64 response_time_sum_ns;
    __u64 response_time_max_ns; /* interval */
    __u64 request_transfer_sum_ns;  /* deep */
    __u64 response_transfer_sum_ns; /* deep */
    __u32 request_transfer_max_us;  /* deep */
    __u32 response_transfer_max_us; /* deep */
    __u16 icmp_errors;              /* deep: ICMP errors that quote a packet of this flow */
    __u8 icmp_error_type;           /* deep: of the last one */
    __u8 icmp_error_code;
    __u32 gap_at; /* when what was received first had a gap, which is still open; 0: it has none */
    struct flow_side sides[2];
    __u32 response_time_histogram[FLOW_RESPONSE_TIME_BUCKETS];
};

#ifdef PARSE_PLACES
_Static_assert(sizeof(struct packet) == 104, "struct packet has no hole");
#else
_Static_assert(sizeof(struct packet) == 88, "struct packet has no hole");
#endif
_Static_assert(sizeof(struct flow_side) == 96, "struct flow_side has no hole");
_Static_assert(__builtin_offsetof(struct flow, local_address) == 64, "the reader's part is one cache line");
_Static_assert(sizeof(struct flow) == 448, "struct flow has no hole; services/capture/flows/layout.py mirrors it");

/* Sequence numbers wrap: a lies after b when it is less than half the circle ahead (RFC 9293 3.4). */
FLOW_INLINE int sequence_after(__u32 a, __u32 b)
{
    return (__s32)(a - b) > 0;
}

FLOW_INLINE void count_saturating(__u16 *counter)
{
    if (*counter != 0xffff)
        *counter += 1;
}

FLOW_INLINE void count_few(__u8 *counter)
{
    if (*counter != 0xff)
        *counter += 1;
}

enum icmp_part {
    ICMP_MESSAGE, /* an error or a notice: nobody answers it */
    ICMP_REQUEST,
    ICMP_REPLY,
};

/* Echo, timestamp, information and address mask, RFC 792, 950 and 4443: queries, which carry an identifier. */
FLOW_INLINE enum icmp_part icmp_part(__u8 transport, __u8 type)
{
    if (transport == TRANSPORT_ICMPV6)
        return type == 128 ? ICMP_REQUEST : type == 129 ? ICMP_REPLY : ICMP_MESSAGE;
    if (type == 8 || type == 13 || type == 15 || type == 17)
        return ICMP_REQUEST;
    if (type == 0 || type == 14 || type == 16 || type == 18)
        return ICMP_REPLY;
    return ICMP_MESSAGE;
}

/* Destination unreachable, packet too big, time exceeded, parameter problem: they quote the packet they are about. */
FLOW_INLINE int icmp_is_error(__u8 transport, __u8 type)
{
    return transport == TRANSPORT_ICMPV6 ? type >= 1 && type <= 4 : type == 3 || type == 11 || type == 12;
}

/* What of type and code is part of the flow key: the same for a query and its reply. */
FLOW_INLINE __u16 icmp_kind(__u8 transport, __u8 type, __u8 code)
{
    switch (icmp_part(transport, type)) {
    case ICMP_REQUEST:
        return (__u16)(type << 8);
    case ICMP_REPLY:
        return (__u16)((transport == TRANSPORT_ICMPV6 ? 128 : type == 0 ? 8 : type - 1) << 8);
    default:
        return (__u16)(type << 8 | code);
    }
}

FLOW_INLINE enum flow_end flow_end_of(int from)
{
    return from == FLOW_TX ? FLOW_END_LOCAL : FLOW_END_REMOTE;
}

/* Whether `from` is the client's direction; the role is known. */
FLOW_INLINE int flow_from_client(const struct flow *flow, int from)
{
    return (flow->role == FLOW_ROLE_CLIENT) == (from == FLOW_TX);
}

FLOW_INLINE void flow_set_client(struct flow *flow, int from)
{
    if (flow->role == FLOW_ROLE_UNKNOWN)
        flow->role = from == FLOW_TX ? FLOW_ROLE_CLIENT : FLOW_ROLE_SERVER;
}

/* Whether the connection is over: a half-open one that somebody reset is. */
FLOW_INLINE int flow_ended(const struct flow *flow)
{
    return flow->outcome >= FLOW_OUTCOME_REFUSED || (flow->outcome == FLOW_OUTCOME_HALF_OPEN && flow->closed_by);
}

/* Bucket of a waiting time: floor(log2(time / 16 us)), kept within the ends. */
FLOW_INLINE __u32 response_time_bucket(__u64 time_ns)
{
    __u64 units = time_ns / FLOW_RESPONSE_TIME_UNIT_NS;
    __u32 rest = units >> (FLOW_RESPONSE_TIME_BUCKETS - 1) ? 1u << (FLOW_RESPONSE_TIME_BUCKETS - 1) : (__u32)units;
    __u32 bucket = 0;

    if (rest >> 16) {
        bucket += 16;
        rest >>= 16;
    }
    if (rest >> 8) {
        bucket += 8;
        rest >>= 8;
    }
    if (rest >> 4) {
        bucket += 4;
        rest >>= 4;
    }
    if (rest >> 2) {
        bucket += 2;
        rest >>= 2;
    }
    return bucket + (rest >> 1);
}

/*
 * Exchanges: a request is what the client sends after the server's last payload; the response time runs from its last byte to
 * the server's first. Only payload not seen before counts, so that a repeat neither asks nor answers. What belongs to an
 * application's trace is told one by one: traced_exchange.h.
 */
FLOW_INLINE void flow_exchange(struct flow *flow, const struct packet *packet, int from)
{
    __u64 waited;
    __u32 bucket;

    if (flow->role == FLOW_ROLE_UNKNOWN)
        return;
    if (flow_from_client(flow, from)) {
        flow->request_ns = packet->time_ns;
        return;
    }
    if (!flow->request_ns)
        return;
    waited = packet->time_ns > flow->request_ns ? packet->time_ns - flow->request_ns : 0;
    flow->request_ns = 0;
    flow->responses += 1;
    flow->response_time_sum_ns += waited;
    if (waited > flow->response_time_max_ns)
        flow->response_time_max_ns = waited;
    bucket = response_time_bucket(waited);
    if (bucket < FLOW_RESPONSE_TIME_BUCKETS)
        flow->response_time_histogram[bucket] += 1;
}

/*
 * Whether a packet opens another connection on the flow's addresses and ports. An end's initial sequence number is what tells
 * connections apart: a SYN with another one is another connection, whatever state the old one is in (RFC 9293 3.10.7.4 has a
 * live peer answer it by a challenge; then the first SYN and all that follows make the new flow).
 */
FLOW_INLINE int tcp_renews(const struct flow *flow, const struct packet *packet, int from)
{
    const struct flow_side *own = &flow->sides[from & 1];
    const struct flow_side *peer = &flow->sides[!from];

    if (!(packet->tcp_flags & TCP_SYN) || packet->tcp_flags & TCP_RST)
        return 0;
    if (own->known & FLOW_KNOWN_ISN) {
        if (packet->sequence == own->initial_sequence)
            return 0;
        return !(packet->tcp_flags & TCP_ACK) || flow_ended(flow);
    }
    if (packet->tcp_flags & TCP_ACK) {
        if (!(peer->known & FLOW_KNOWN_ISN))
            return flow_ended(flow);
        return !sequence_after(packet->acknowledgment, peer->initial_sequence) ||
               sequence_after(packet->acknowledgment, peer->next_sequence);
    }
    /* Simultaneous open, or a SYN that was overtaken by its SYN-ACK. */
    return !(flow->outcome == FLOW_OUTCOME_HALF_OPEN && !flow->closed_by);
}

FLOW_INLINE void tcp_syn(struct flow *flow, const struct packet *packet, int from)
{
    struct flow_side *own = &flow->sides[from & 1];
    int first = !(own->known & FLOW_KNOWN_ISN);

    if (first) {
        own->initial_sequence = packet->sequence;
        own->known |= FLOW_KNOWN_ISN;
    }
    if (packet->tcp_flags & TCP_ACK) {
        flow_set_client(flow, !from);
        if (!flow_from_client(flow, from)) {
            if (flow->syn_ack_ns)
                count_saturating(&flow->syn_ack_repeats);
            else
                flow->syn_ack_ns = packet->time_ns;
        }
    } else {
        flow_set_client(flow, from);
        if (!flow->syn_ns)
            flow->syn_ns = packet->time_ns;
        else if (!first)
            count_saturating(&flow->syn_repeats);
    }
    /* Some stacks ask again after a refusal, and may be let in. */
    if (flow->outcome == FLOW_OUTCOME_UNKNOWN || flow->outcome == FLOW_OUTCOME_REFUSED ||
            flow->outcome == FLOW_OUTCOME_HALF_OPEN) {
        flow->outcome = FLOW_OUTCOME_HALF_OPEN;
        flow->closed_by = FLOW_END_NONE;
    }
}

/*
 * A segment without SYN and RST on a half-open connection: whoever sends one that continues this handshake holds the connection
 * for established. Only the client's ACK to a SYN-ACK that was seen dates it. A challenge ACK continues nothing.
 */
FLOW_INLINE void tcp_completes(struct flow *flow, const struct packet *packet, int from)
{
    const struct flow_side *own = &flow->sides[from & 1];
    const struct flow_side *peer = &flow->sides[!from];

    if (!(packet->tcp_flags & TCP_ACK) || flow->closed_by)
        return;
    if (peer->known & FLOW_KNOWN_ISN && !sequence_after(packet->acknowledgment, peer->initial_sequence))
        return;
    if (own->known & FLOW_KNOWN_ISN && !sequence_after(packet->sequence, own->initial_sequence))
        return;
    if (flow_from_client(flow, from) && flow->syn_ack_ns)
        flow->handshake_ack_ns = packet->time_ns;
    flow->outcome = FLOW_OUTCOME_ESTABLISHED;
}

FLOW_INLINE void tcp_fin(struct flow *flow, int from)
{
    if (!flow->closed_by)
        flow->closed_by = (__u8)flow_end_of(from);
    if (flow->sides[!from].tcp_flags & TCP_FIN && flow->outcome < FLOW_OUTCOME_REFUSED)
        flow->outcome = FLOW_OUTCOME_CLOSED;
}

FLOW_INLINE void tcp_rst(struct flow *flow, int from)
{
    if (flow_ended(flow))
        return;
    flow->closed_by = (__u8)flow_end_of(from);
    if (flow->outcome != FLOW_OUTCOME_HALF_OPEN)
        flow->outcome = FLOW_OUTCOME_RESET;
    else if (!flow_from_client(flow, from) && !flow->syn_ack_ns)
        flow->outcome = FLOW_OUTCOME_REFUSED;
}

/*
 * A probe that carries nothing new: a segment of at most one byte just below the highest byte sent, where all of that was
 * acknowledged (RFC 9293 3.8.4). Into a closed window it asks for room (Linux), else whether anybody is there.
 */
FLOW_INLINE int tcp_is_probe(const struct flow_side *own, const struct packet *packet)
{
    return packet->payload_bytes <= 1 && own->known & FLOW_KNOWN_NEXT && packet->sequence + 1 == own->next_sequence &&
           own->known & FLOW_KNOWN_ACKNOWLEDGED && own->acknowledged == own->next_sequence &&
           !(packet->tcp_flags & (TCP_SYN | TCP_FIN));
}

/*
 * Whether late payload that was received was overtaken on its way: nothing that was lost can have been sent again within a round
 * trip of the gap that it left, and nothing is held up for long. Without a gap, it was there before. Where the round trip is not
 * known, what two duplicate ACKs asked for was sent again (RFC 5681 3.2).
 */
FLOW_INLINE int tcp_was_overtaken(const struct flow *flow, const struct packet *packet, __u32 begin)
{
    const struct flow_side *own = &flow->sides[FLOW_RX];
    __u32 elapsed = (__u32)(packet->time_ns >> FLOW_GAP_BITS) - flow->gap_at;

    if (!flow->gap_at)
        return 0;
    if (flow->syn_ns && flow->handshake_ack_ns > flow->syn_ns && !flow->syn_repeats && !flow->syn_ack_repeats)
        return elapsed <= (__u32)((flow->handshake_ack_ns - flow->syn_ns) >> (FLOW_GAP_BITS + 1));
    if (flow->sides[FLOW_TX].duplicate_run >= 2 && own->acknowledged == begin)
        return 0;
    return elapsed <= FLOW_REORDERING_NS >> FLOW_GAP_BITS;
}

/* Whether a segment received is not the next one: its time tells reordering from repetition. */
FLOW_INLINE int tcp_is_out_of_place(const struct flow *flow, const struct packet *packet, int from)
{
    return from == FLOW_RX && packet->payload_bytes && packet->sequence != flow->sides[FLOW_RX].next_sequence;
}

/*
 * Payload that begins below the highest byte sent was sent before, or was overtaken. A sender's own socket overtakes nothing. At
 * the receiver's, what is acknowledged was there before, and time tells the rest. A host with precise times has judged by those.
 */
FLOW_INLINE void tcp_late(struct flow *flow, const struct packet *packet, int from, __u32 begin, __u32 end)
{
    struct flow_side *own = &flow->sides[from & 1];
    __u32 overlap = own->next_sequence - begin;
    int acknowledged = own->known & FLOW_KNOWN_ACKNOWLEDGED && !sequence_after(end, own->acknowledged);
    int reordered = packet->late == LATE_REORDERED;

    if (packet->late == LATE_UNJUDGED)
        reordered = from == FLOW_RX && !acknowledged && tcp_was_overtaken(flow, packet, begin);
    if (reordered) {
        FLOW_ADD(own->out_of_order, packet->segments);
        return;
    }
    FLOW_ADD(own->retransmits, packet->segments);
    FLOW_ADD(own->retransmit_bytes, overlap < packet->payload_bytes ? overlap : packet->payload_bytes);
    if (acknowledged)
        FLOW_ADD(own->spurious_retransmits, packet->segments);
}

/*
 * Follow the sender's sequence numbers. Returns whether the segment carries payload not sent before. A byte sent into a closed
 * window is a probe, and as good as not sent (RFC 9293 3.8.6.1).
 */
FLOW_INLINE int tcp_sequence(struct flow *flow, const struct packet *packet, int from)
{
    struct flow_side *own = &flow->sides[from & 1];
    const struct flow_side *peer = &flow->sides[!from];
    __u32 begin = packet->sequence + !!(packet->tcp_flags & TCP_SYN);
    __u32 end = begin + packet->payload_bytes;
    __u32 next = end + !!(packet->tcp_flags & TCP_FIN);
    int fresh = packet->payload_bytes != 0;

    if (own->known & FLOW_KNOWN_NEXT) {
        if (sequence_after(own->next_sequence, begin)) {
            fresh = fresh && sequence_after(end, own->next_sequence);
            if (tcp_is_probe(own, packet) && !peer->window)
                count_few(&own->zero_window_probes);
            else if (tcp_is_probe(own, packet))
                own->keep_alives += 1;
            else if (packet->payload_bytes)
                tcp_late(flow, packet, from, begin, end);
        } else if (packet->payload_bytes == 1 && begin == own->next_sequence && !peer->window &&
                   own->known & FLOW_KNOWN_ACKNOWLEDGED) {
            count_few(&own->zero_window_probes);
            return 0;
        }
    }
    if (!(own->known & FLOW_KNOWN_NEXT) || sequence_after(next, own->next_sequence)) {
        if (from == FLOW_RX && fresh && own->known & FLOW_KNOWN_NEXT && sequence_after(begin, own->next_sequence) &&
                !flow->gap_at)
            flow->gap_at = (__u32)(packet->time_ns >> FLOW_GAP_BITS) | 1;
        own->next_sequence = next;
        own->known |= FLOW_KNOWN_NEXT;
    }
    return fresh;
}

/*
 * Follow the receiver's acknowledgments and window. A duplicate ACK is RFC 5681's: it repeats the highest acknowledgment and the
 * window, carries nothing, and more than it acknowledges was sent.
 */
FLOW_INLINE void tcp_acknowledge(struct flow *flow, const struct packet *packet, int from)
{
    struct flow_side *own = &flow->sides[from & 1];
    struct flow_side *peer = &flow->sides[!from];

    if (!(peer->known & FLOW_KNOWN_ACKNOWLEDGED) || sequence_after(packet->acknowledgment, peer->acknowledged)) {
        peer->acknowledged = packet->acknowledgment;
        peer->known |= FLOW_KNOWN_ACKNOWLEDGED;
        own->duplicate_run = 0;
    } else if (!packet->payload_bytes && packet->acknowledgment == peer->acknowledged && packet->window == own->window &&
               packet->window && packet->sequence == own->next_sequence && peer->next_sequence != peer->acknowledged &&
               !(packet->tcp_flags & (TCP_SYN | TCP_FIN))) {
        FLOW_ADD(own->duplicate_acks, 1);
        count_few(&own->duplicate_run);
    }
    if (from == FLOW_TX && flow->gap_at && packet->acknowledgment == peer->next_sequence)
        flow->gap_at = 0;
    if (!packet->window && !(packet->tcp_flags & (TCP_SYN | TCP_FIN)))
        own->zero_windows += 1;
    own->window = packet->window;
}

FLOW_INLINE void flow_tcp(struct flow *flow, const struct packet *packet, int from)
{
    __u8 flags = packet->tcp_flags;

    if (flags & TCP_RST) {
        /* Its sequence number and payload are no part of the stream. */
        count_few(&flow->sides[from & 1].resets);
        tcp_rst(flow, from);
    } else {
        if (flags & TCP_SYN)
            tcp_syn(flow, packet, from);
        else if (flow->outcome == FLOW_OUTCOME_HALF_OPEN)
            tcp_completes(flow, packet, from);
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
    case TRANSPORT_ICMP:
    case TRANSPORT_ICMPV6:
        flow_exchange(flow, packet, from);
        break;
    default: /* what is a request there is not known */
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

/* Make a zeroed slot the flow of `packet`, without adding it. The host sets id, generation and state. */
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
    switch (packet->transport) {
    case TRANSPORT_UDP:
    case TRANSPORT_UDPLITE:
    case TRANSPORT_SCTP:
    case TRANSPORT_DCCP:
        flow_set_client(flow, from);
        break;
    case TRANSPORT_ICMP:
    case TRANSPORT_ICMPV6:
        if (icmp_part(packet->transport, packet->icmp_type) == ICMP_REQUEST)
            flow_set_client(flow, from);
        else if (icmp_part(packet->transport, packet->icmp_type) == ICMP_REPLY)
            flow_set_client(flow, !from);
        break;
    default: /* TCP tells by its SYN; the others do not tell */
        break;
    }
}

/* As flow_open, and add the packet. */
FLOW_INLINE void flow_begin(struct flow *flow, const struct packet *packet, int from)
{
    flow_open(flow, packet, from);
    flow_add(flow, packet, from);
}

#endif
