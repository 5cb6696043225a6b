/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * Turns: what a connection's client says, and then its server, whatever the protocol. One a connection at a time; it ends when the
 * client says something new after the server has. Nothing is read of the payload, so an exchange in TLS is one like any other,
 * once its handshake is over (tls.h).
 *
 * traced_exchange.h tells requests by what they say; here who speaks is all that is known. What does not wait for the response
 * before (pipelining, HTTP/2) makes turns that hold several requests. Where the reader says that a connection is `shared` like
 * that, its turns are slices of its time, and short: so what it did between two moments can be said.
 *
 * Of UDP a turn is one datagram and its answer's first: where both ends take turns (connectionless.h), or by the question's number
 * (questions.h). Others have none.
 */
#ifndef WIRESPAN_TURN_H
#define WIRESPAN_TURN_H

#include "../flow.h"

/* A slice of a shared connection ends with the first packet after this: no closer do a span's clock and the packets' agree. */
#define TURN_SLICE_NS 2000000ULL

/* No window is so wide that more than this is lost at once. */
#define TURN_WIDEST_GAP (1u << 24)

/* One a flow; services/capture/meeting/turns.py mirrors it. Bytes are payload, each counted once. */
struct turn {
    __u64 flow_id;
    __u64 owner; /* the host's */
    __u64 request_first_ns; /* 0: none is open */
    __u64 request_last_ns;
    __u64 response_first_ns; /* 0: the server has not answered */
    __u64 response_last_ns;
    __u32 number; /* of the exchange within its flow, as traced_exchange.h counts */
    __u32 request_bytes;
    __u32 response_bytes;
    __u32 shared; /* the reader's: turn_mark of the flow whose turns are slices; 0: of none */
    __u32 srtt_us; /* the host's, when it was over: the kernel's smoothed round-trip time */
    /* Of both ends, the client first; until the turn is over, where the flow's counters stood before it. */
    __u16 retransmits[2];
    __u16 resent[2]; /* where that of retransmissions stands by now */
    __u8 zero_windows[2];
    __u8 flags;
    __u8 pad;
};

_Static_assert(sizeof(struct turn) == 80, "struct turn has no hole; services/capture/meeting/turns.py mirrors it");

/* Bits of turn.flags. */
enum turn_flags {
    TURN_TLS = 1,
    /* The first of a TLS 1.3 connection: what the server says first may be its tickets (RFC 8446 4.6.1). */
    TURN_TICKETS = 2,
    TURN_DATAGRAM = 4,
};

/* What the reader writes for a flow. It may come late, when the slot is another's: then it is another mark. */
FLOW_INLINE __u32 turn_mark(const struct flow *flow)
{
    return (__u32)(flow->id >> 32) + 1;
}

FLOW_INLINE int turn_is_slice(const struct turn *turn, const struct flow *flow)
{
    return turn->shared == turn_mark(flow);
}

FLOW_INLINE int turn_end(const struct flow *flow, int of_server)
{
    return (flow->role == FLOW_ROLE_CLIENT ? FLOW_TX : FLOW_RX) ^ of_server;
}

FLOW_INLINE const struct flow_side *turn_side(const struct flow *flow, int of_server)
{
    return &flow->sides[turn_end(flow, of_server) & 1];
}

FLOW_INLINE __u8 turn_windows(const struct flow *flow, int of_server)
{
    return (__u8)flow->rare[turn_end(flow, of_server) & 1].zero_windows;
}

/* It is over: how often its segments were sent again, and its ends closed their windows. */
FLOW_INLINE void turn_measure(struct turn *turn, const struct flow *flow)
{
    turn->retransmits[0] = (__u16)(turn->resent[0] - turn->retransmits[0]);
    turn->retransmits[1] = (__u16)(turn->resent[1] - turn->retransmits[1]);
    turn->zero_windows[0] = (__u8)(turn_windows(flow, 0) - turn->zero_windows[0]);
    turn->zero_windows[1] = (__u8)(turn_windows(flow, 1) - turn->zero_windows[1]);
}

/*
 * How many bytes of its direction a packet with payload brought that nobody had sent before: what was lost in front of it is taken
 * for sent by now, and not counted when it comes. Where it is not known how far the direction had come, its payload.
 */
FLOW_INLINE __u32 turn_fresh(const struct flow *flow, const struct packet *packet, int from, __u32 next_before)
{
    __u32 bytes = flow->sides[from & 1].next_sequence - next_before;

    if (bytes && packet->tcp_flags & TCP_FIN)
        bytes -= 1;
    return bytes > TURN_WIDEST_GAP ? packet->payload_bytes : bytes;
}

/* Whether a packet that would be part of a turn ends the one that is open: then hand that on. */
FLOW_INLINE int turn_ends(const struct turn *turn, const struct flow *flow, const struct packet *packet, int from, __u32 fresh)
{
    if (turn->flow_id != flow->id || !turn->request_first_ns)
        return 0;
    if (turn_is_slice(turn, flow))
        return packet->time_ns > turn->request_first_ns + TURN_SLICE_NS;
    return fresh && turn->response_first_ns && flow_from_client(flow, from);
}

/* One begins. What reads along sees none, or a whole one. */
FLOW_INLINE void turn_begin(struct turn *turn, const struct flow *flow, const struct packet *packet)
{
    if (turn->response_first_ns)
        turn->flags &= (__u8)~TURN_TICKETS;
    turn->request_first_ns = 0;
    turn->response_first_ns = 0;
    turn->number = turn_is_slice(turn, flow) ? turn->number + 1 : flow->responses;
    turn->request_bytes = 0;
    turn->response_bytes = 0;
    turn->retransmits[0] = turn->resent[0];
    turn->retransmits[1] = turn->resent[1];
    turn->zero_windows[0] = turn_windows(flow, 0);
    turn->zero_windows[1] = turn_windows(flow, 1);
    turn->request_last_ns = packet->time_ns;
    turn->request_first_ns = packet->time_ns;
}

/*
 * Add a TCP packet with payload, which was added to its flow before, to the flow's turn; the role is known, and a turn that it
 * `ends` was handed on. `fresh` as turn_fresh has it. A slice that the server begins has a request of no bytes.
 */
FLOW_INLINE void turn_take(
        struct turn *turn, const struct flow *flow, const struct packet *packet, int from, __u32 fresh, int ends)
{
    int of_client = flow_from_client(flow, from);

    if (turn->flow_id != flow->id) {
        turn->flow_id = flow->id;
        turn->request_first_ns = 0;
        turn->response_first_ns = 0;
        turn->shared = 0;
        turn->flags = 0;
        turn->resent[0] = (__u16)turn_side(flow, 0)->retransmits;
        turn->resent[1] = (__u16)turn_side(flow, 1)->retransmits;
    }
    if (ends || (!turn->request_first_ns && ((of_client && fresh) || turn_is_slice(turn, flow))))
        turn_begin(turn, flow, packet);
    turn->resent[0] = (__u16)turn_side(flow, 0)->retransmits;
    turn->resent[1] = (__u16)turn_side(flow, 1)->retransmits;
    if (!turn->request_first_ns)
        return;
    if (of_client) {
        turn->request_bytes += fresh;
        if (!turn->response_first_ns || turn_is_slice(turn, flow))
            turn->request_last_ns = packet->time_ns;
        return;
    }
    if (!fresh && !turn->response_first_ns && !turn_is_slice(turn, flow))
        return;
    turn->response_bytes += fresh;
    turn->response_last_ns = packet->time_ns;
    if (!turn->response_first_ns)
        turn->response_first_ns = packet->time_ns;
}

/* A question that was first asked at `asked_ns`, in a datagram of so many bytes, and again so often, has its answer. */
FLOW_INLINE void turn_of_question(struct turn *turn, const struct flow *flow, const struct packet *answer, __u64 asked_ns,
        __u32 asked_bytes, __u32 repeats)
{
    turn->flow_id = flow->id;
    turn->request_first_ns = asked_ns;
    turn->request_last_ns = asked_ns;
    turn->response_first_ns = answer->time_ns;
    turn->response_last_ns = answer->time_ns;
    turn->number = flow->responses - 1; /* the answer is counted by now */
    turn->request_bytes = asked_bytes;
    turn->response_bytes = answer->payload_bytes;
    turn->retransmits[0] = repeats > 0xffff ? 0xffff : (__u16)repeats;
    turn->retransmits[1] = 0;
    turn->zero_windows[0] = 0;
    turn->zero_windows[1] = 0;
    turn->shared = 0;
    turn->flags = TURN_DATAGRAM;
}

/*
 * A datagram of a flow whose ends take turns, which was added to it before. Returns 1 where it answers: the turn is to be handed on
 * and forgotten.
 */
FLOW_INLINE int turn_take_datagram(struct turn *turn, const struct flow *flow, const struct packet *packet, int from)
{
    if (flow_from_client(flow, from)) {
        turn->flags = TURN_DATAGRAM; /* the slot's last flow may have been in TLS */
        turn->flow_id = flow->id;
        turn->response_first_ns = 0;
        turn->request_first_ns = packet->time_ns;
        turn->request_bytes = packet->payload_bytes;
        return 0;
    }
    if (turn->flow_id != flow->id || !turn->request_first_ns)
        return 0;
    turn_of_question(turn, flow, packet, turn->request_first_ns, turn->request_bytes, 0);
    return 1;
}

#endif
