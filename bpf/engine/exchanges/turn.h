/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * Turns: what a connection's client says, and then its server, whatever the protocol. One a connection at a time; it ends when the
 * client says something new after the server has. Nothing is read of the payload, so an exchange in TLS is one like any other,
 * once its handshake is over (tls.h).
 *
 * traced_exchange.h tells requests by what they say; here who speaks is all that is known. What does not wait for the response
 * before (pipelining, HTTP/2) makes turns that hold several requests.
 *
 * Of UDP a turn is one datagram and its answer's first: where both ends take turns (connectionless.h), or by the question's number
 * (questions.h). Others have none.
 */
#ifndef WIRESPAN_TURN_H
#define WIRESPAN_TURN_H

#include "../flow.h"

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
    __u32 resent_before[2]; /* where the flow's counters stood, request first */
    __u16 retransmits[2];
    __u8 flags;
    __u8 pad[7];
};

_Static_assert(sizeof(struct turn) == 80, "struct turn has no hole; services/capture/meeting/turns.py mirrors it");

/* Bits of turn.flags. */
enum turn_flags {
    TURN_TLS = 1,
    /* The first of a TLS 1.3 connection: what the server says first may be its tickets (RFC 8446 4.6.1). */
    TURN_TICKETS = 2,
    TURN_DATAGRAM = 4,
};

FLOW_INLINE __u16 turn_resent(const struct flow_side *side, __u32 before)
{
    __u32 resent = side->retransmits - before;

    return resent > 0xffff ? 0xffff : (__u16)resent;
}

/* How often its segments were sent again by now. */
FLOW_INLINE void turn_measure(struct turn *turn, const struct flow *flow)
{
    int client = flow->role == FLOW_ROLE_CLIENT ? FLOW_TX : FLOW_RX;

    turn->retransmits[0] = turn_resent(&flow->sides[client], turn->resent_before[0]);
    turn->retransmits[1] = turn_resent(&flow->sides[!client], turn->resent_before[1]);
}

/* Whether a packet that would be part of a turn ends the one that is open: then hand that on. */
FLOW_INLINE int turn_ends(const struct turn *turn, const struct flow *flow, int from, int fresh)
{
    return fresh && turn->flow_id == flow->id && turn->response_first_ns && flow_from_client(flow, from);
}

/*
 * Add a TCP packet with payload, which was added to its flow before, to the flow's turn; the role is known, and a turn that it
 * ends was handed on. `fresh`: it brought something new.
 */
FLOW_INLINE void turn_take(struct turn *turn, const struct flow *flow, const struct packet *packet, int from, int fresh)
{
    int of_client = flow_from_client(flow, from);

    if (turn->flow_id != flow->id) {
        turn->flow_id = flow->id;
        turn->request_first_ns = 0;
        turn->response_first_ns = 0;
        turn->flags = 0;
    }
    if (of_client && fresh && (!turn->request_first_ns || turn->response_first_ns)) {
        if (turn->response_first_ns)
            turn->flags &= (__u8)~TURN_TICKETS;
        turn->request_first_ns = 0; /* whoever reads along sees none, or a whole one */
        turn->response_first_ns = 0;
        turn->number = flow->responses;
        turn->request_bytes = 0;
        turn->response_bytes = 0;
        turn->resent_before[0] = flow->sides[from & 1].retransmits;
        turn->resent_before[1] = flow->sides[!from].retransmits;
        turn->request_last_ns = packet->time_ns;
        turn->request_first_ns = packet->time_ns;
    }
    if (!turn->request_first_ns)
        return;
    if (of_client) {
        if (fresh)
            turn->request_bytes += packet->payload_bytes;
        if (!turn->response_first_ns)
            turn->request_last_ns = packet->time_ns;
        return;
    }
    if (fresh)
        turn->response_bytes += packet->payload_bytes;
    else if (!turn->response_first_ns)
        return;
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
    turn->flags = TURN_DATAGRAM;
}

/*
 * A datagram of a flow whose ends take turns, which was added to it before. Returns 1 where it answers: the turn is to be handed on
 * and forgotten.
 */
FLOW_INLINE int turn_take_datagram(struct turn *turn, const struct flow *flow, const struct packet *packet, int from)
{
    if (flow_from_client(flow, from)) {
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
