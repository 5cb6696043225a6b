/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * A flow: its state, which is all that a host keeps of its packets, and what can be asked of it.
 *
 * Times are nanoseconds on the host's clock, 0 means "not seen". Addresses are IPv6 or IPv4-mapped, network order; every other
 * field is in host order. "tx" is local to remote, "rx" remote to local.
 *
 * Who writes what: the engine writes every member of a slot but `taken` (the reader's), `id`, `state`, `abandoned` and
 * `dns` (the host's). No member has two writers, so a reader that maps the slots needs no lock.
 */
#ifndef WIRESPAN_FLOW_H
#define WIRESPAN_FLOW_H

#include "packet.h"

/* A host whose CPUs share slots defines it as an atomic addition; the result is never used. */
#ifndef FLOW_ADD
#define FLOW_ADD(member, value) ((member) += (value))
#endif

/* The next four are proto/columns.py's Role, RoleSource, Outcome and End. */
enum flow_role {
    FLOW_ROLE_UNKNOWN,
    FLOW_ROLE_CLIENT,
    FLOW_ROLE_SERVER,
};

/* How the role is known. The first two are not kept: a SYN leaves its number, and else somebody was asked who listens. */
enum flow_role_source {
    FLOW_ROLE_OF_HANDSHAKE = 1,
    FLOW_ROLE_OF_LISTENER,
    FLOW_ROLE_OF_CONTENT,
    FLOW_ROLE_OF_PORTS, /* a guess */
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

/* How a flow's requests are told apart, and what came of looking for the trace context of a connection's: traced_exchange.h. */
enum flow_requests {
    FLOW_REQUESTS_UNKNOWN,
    FLOW_REQUESTS_OPAQUE,   /* none is looked at any more: known to be no HTTP/1, or datagrams that do not take turns */
    FLOW_REQUESTS_TRACED,   /* an exchange of an application's trace is open */
    FLOW_REQUESTS_NUMBERED, /* each has a number, and its answer the same: questions.h */
    FLOW_REQUESTS_NEW,      /* of datagrams, whose first one is to be looked at */
    FLOW_REQUESTS_STREAMS = 7, /* of HTTP/2: http2/follow.h */
    /* A request waits that came whole, and belongs to no trace: what the client says before it is answered is another. */
    FLOW_REQUESTS_WHOLE = 11,
    FLOW_REQUESTS_PIPELINED = 15, /* of HTTP/1, by their messages' lengths: http/pipeline.h */
};

/*
 * flow.requests: one of these, how often in a row the client said what was no request, and how many bytes of a request have come
 * that was too short to be told; of an opaque connection, and of one that is followed, nothing but that; of a whole request,
 * whether it is a HEAD.
 */
#define FLOW_REQUESTS_STATE        0x03
#define FLOW_REQUESTS_ODD          0x04 /* one more */
#define FLOW_REQUESTS_ODD_MASK     0x0c
#define FLOW_REQUESTS_PART_SHIFT   4
#define FLOW_REQUESTS_LONGEST_PART 14
#define FLOW_REQUESTS_TO_COME      15 /* no byte of it, but what may stand in front of it */
#define FLOW_REQUESTS_FOLLOWED     7  /* these bits are set of one that is followed, and of no other connection */
#define FLOW_REQUESTS_WHOLE_MASK   15

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
    FLOW_KNOWN_ROLE = 0x70, /* of FLOW_TX: enum flow_role_source, where it is one of those that are kept */
    FLOW_OF_INTEREST = 0x80, /* its next payload is: tls.h, quic.h */
};

#define FLOW_KNOWN_ROLE_SHIFT 4

#define FLOW_RESPONSE_TIME_BUCKETS 20
#define FLOW_RESPONSE_TIME_UNIT_NS 16000

/* One direction of a flow: what its packets, and those that answer them, touch, in one cache line. */
struct flow_side {
    __u64 bytes;
    __u64 packets;
    __u64 payload_bytes;
    __u32 initial_sequence;
    __u32 next_sequence;    /* behind the highest byte sent */
    __u32 acknowledged;     /* highest acknowledgment the other end gave */
    __u32 retransmits;      /* segments */
    __u32 retransmit_bytes; /* of them, payload that had been seen before */
    __u32 out_of_order;     /* segments */
    __u32 duplicate_acks;
    __u32 ecn_ce;
    __u16 window; /* as it stands in the last header */
    __u8 tcp_flags;
    __u8 known;
    __u8 traffic_class; /* of the first packet */
    __u8 hop_limit;     /* of the first packet */
    __u8 fins;
    __u8 duplicate_run; /* duplicate ACKs in a row */
};

/* The same of what few packets touch. What is marked "deep" is written by flow_deep.h, and so 0 in the socket tap. */
struct flow_side_rare {
    __u64 rtt_sum_ns; /* deep: round trips from this side's data to the other end's acknowledgment */
    __u32 rtt_samples; /* deep */
    __u32 rtt_min_ns;  /* deep */
    __u32 rtt_max_ns;  /* deep */
    __u32 spurious_retransmits; /* of retransmits, segments that the other end had */
    __u16 zero_windows;
    __u16 window_full; /* deep */
    __u16 keep_alives;
    __u8 resets;
    __u8 zero_window_probes;
};

/*
 * One slot. Its first 64 bytes are all that the reader's periodic look at every flow touches, and with both sides all that most
 * packets do: three cache lines. What a response adds is in one more.
 * `interval` follows `taken` at the first packet after the reader took a record: what is marked "interval" below begins again.
 */
struct flow {
    __u64 last_ns;
    __u64 first_ns;
    __u64 interval_first_ns; /* interval: first packet */
    __u64 request_ns; /* last byte of the request that waits for its response; 0: none waits */
    __u64 id;         /* of one flow only, whatever slots it has had; 0: the slot has none */
    __u32 interval;
    __u32 taken; /* records taken by the reader */
    __u32 responses;
    __u32 gap_at; /* when what was received first had a gap, which is still open; 0: it has none */
    __u8 state;
    __u8 transport;
    __u8 role;
    __u8 outcome;
    __u8 closed_by;
    __u8 requests; /* enum flow_requests, and of a connection more: traced_exchange.h */
    __u8 abandoned; /* live: the application has closed the socket */
    __u8 dns;       /* live: a connection to or from a DNS port */

    struct flow_side sides[2];

    __u8 local_address[16];
    __u8 remote_address[16];
    __u64 syn_ns;
    __u64 syn_ack_ns;
    __u64 handshake_ack_ns;
    __u16 local_port;
    __u16 remote_port;
    __u16 syn_repeats;
    __u16 syn_ack_repeats;

    struct flow_side_rare rare[2]; /* of the sides */

    __u64 response_time_sum_ns;
    __u64 response_time_max_ns; /* interval */
    __u32 response_time_histogram[FLOW_RESPONSE_TIME_BUCKETS];
    __u32 questions;        /* numbered requests, each once however often it was sent */
    __u32 question_repeats; /* sent again while they waited */
    __u64 request_transfer_sum_ns;  /* deep */
    __u64 response_transfer_sum_ns; /* deep */
    __u32 request_transfer_max_us;  /* deep */
    __u32 response_transfer_max_us; /* deep */
    __u16 icmp_errors;              /* deep: ICMP errors that quote a packet of this flow */
    __u8 icmp_error_type;           /* deep: of the last one */
    __u8 icmp_error_code;
    __u8 icmp_type; /* of the first message */
    __u8 icmp_code;
    __u8 pad[2];
};

_Static_assert(sizeof(struct flow_side) == 64, "a side is one cache line");
_Static_assert(sizeof(struct flow_side_rare) == 32, "struct flow_side_rare has no hole");
_Static_assert(__builtin_offsetof(struct flow, sides) == 64, "the reader's part is one cache line");
_Static_assert(__builtin_offsetof(struct flow, response_time_sum_ns) % 64 == 0, "what a response adds is one cache line");
_Static_assert(sizeof(struct flow) == 456, "struct flow has no hole; services/capture/flows/layout.py mirrors it");

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

FLOW_INLINE enum flow_role_source flow_role_source(const struct flow *flow)
{
    return (enum flow_role_source)((flow->sides[FLOW_TX].known & FLOW_KNOWN_ROLE) >> FLOW_KNOWN_ROLE_SHIFT);
}

/* Whether nobody said who is the client, and what may say so is worth a look. */
FLOW_INLINE int flow_role_is_open(const struct flow *flow)
{
    return flow->role == FLOW_ROLE_UNKNOWN || flow_role_source(flow) == FLOW_ROLE_OF_PORTS;
}

/* `from` is the client's direction, whatever was guessed. `source`: 0 for those that are not kept. */
FLOW_INLINE void flow_tell_client(struct flow *flow, int from, __u8 source)
{
    struct flow_side *tx = &flow->sides[FLOW_TX];

    flow->role = from == FLOW_TX ? FLOW_ROLE_CLIENT : FLOW_ROLE_SERVER;
    tx->known = (__u8)((tx->known & ~FLOW_KNOWN_ROLE) | source << FLOW_KNOWN_ROLE_SHIFT);
}

/* Whether the connection is over: a half-open one that somebody reset is. */
FLOW_INLINE int flow_ended(const struct flow *flow)
{
    return flow->outcome >= FLOW_OUTCOME_REFUSED || (flow->outcome == FLOW_OUTCOME_HALF_OPEN && flow->closed_by);
}

#endif
