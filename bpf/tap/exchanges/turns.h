/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * Every exchange of every connection, and of UDP (engine/exchanges/turn.h), for the meeting with application spans: for who has
 * TAP_MEETING, which needs TAP_TRACE_CONTEXT and TAP_PIECES_TLS. Open turns are beside the slots, in an array that the reader maps; ended ones go
 * through a ring buffer, and what it has no room for is counted.
 */
#ifndef WIRESPAN_TAP_TURNS_H
#define WIRESPAN_TAP_TURNS_H

#include "exchanges.h"
#include "../flows/slots.h"

#include "../../engine/exchanges/turn.h"

#ifndef TURN_PAGES
#define TURN_PAGES 1024 /* 4 MiB: 47,000 turns between two looks */
#endif

BPF_F_TABLE("array", u32, struct turn, turns, SLOTS, BPF_F_MMAPABLE);
BPF_RINGBUF_OUTPUT(ended_turns, TURN_PAGES);
BPF_TABLE("percpu_array", u32, u64, turns_lost, 1);

FLOW_INLINE void hand_on_turn(struct turn *turn, const struct slot *slot)
{
    __u32 zero = 0;
    __u64 *lost;

    turn->owner = slot->socket.cgroup_id;
    turn->srtt_us = slot->socket.srtt_us;
    if (ended_turns.ringbuf_output(turn, sizeof(*turn), RINGBUF_NO_WAKEUP)) {
        lost = turns_lost.lookup(&zero);
        if (lost)
            *lost += 1;
    }
}

/* Follow the turns of a connection by a packet that was just added to it. `flags`: of the turns that follow, whatever came. */
FLOW_INLINE void follow_turn(const struct slot *slot, const struct packet *packet, int from, __u32 next_before)
{
    const struct flow *flow = &slot->flow;
    __u32 number = (__u32)flow->id;
    __u32 fresh = turn_fresh(flow, packet, from, next_before);
    struct turn *turn;
    int ends;

    if (!TAP_HAS(TAP_MEETING))
        return;
    if (!packet->payload_bytes || packet->tcp_flags & (TCP_SYN | TCP_RST) || flow->role == FLOW_ROLE_UNKNOWN ||
            flow->sides[from & 1].known & FLOW_OF_INTEREST)
        return;
    turn = turns.lookup(&number);
    if (!turn)
        return;
    ends = turn_ends(turn, flow, packet, from, fresh);
    if (ends) {
        turn_measure(turn, flow);
        hand_on_turn(turn, slot);
    }
    turn_take(turn, flow, packet, from, fresh, ends);
}

/* Follow the turns of a flow of UDP whose ends take turns, likewise. QUIC's handshake is none. */
FLOW_INLINE void follow_datagram(const struct slot *slot, const struct packet *packet, int from)
{
    const struct flow *flow = &slot->flow;
    __u32 number = (__u32)flow->id;
    struct turn *turn;

    if (!TAP_HAS(TAP_MEETING))
        return;
    if (flow->requests != FLOW_REQUESTS_UNKNOWN || flow->sides[from & 1].known & FLOW_OF_INTEREST)
        return;
    turn = turns.lookup(&number);
    if (!turn || !turn_take_datagram(turn, flow, packet, from))
        return;
    hand_on_turn(turn, slot);
    turn->request_first_ns = 0;
}

/* A question with a number, of UDP, has its answer. */
FLOW_INLINE void answer_turn(
        const struct slot *slot, const struct packet *packet, __u64 asked_ns, __u32 asked_bytes, __u32 repeats)
{
    struct turn turn = {};

    if (!TAP_HAS(TAP_MEETING))
        return;
    turn_of_question(&turn, &slot->flow, packet, asked_ns, asked_bytes, repeats);
    hand_on_turn(&turn, slot);
}

/* A handshake is over, and no turn was open: those that follow are TLS's. */
FLOW_INLINE void begin_turns(const struct slot *slot, __u8 flags)
{
    __u32 number = (__u32)slot->flow.id;
    struct turn *turn;

    if (!TAP_HAS(TAP_MEETING))
        return;
    turn = turns.lookup(&number);
    if (!turn)
        return;
    turn->flow_id = slot->flow.id;
    turn->request_first_ns = 0;
    turn->response_first_ns = 0;
    turn->resent[0] = (__u16)turn_side(&slot->flow, 0)->retransmits;
    turn->resent[1] = (__u16)turn_side(&slot->flow, 1)->retransmits;
    turn->flags = flags;
}

/* Whether the time of a payload packet is a turn's first or last. */
FLOW_INLINE int is_timed_turn(const struct flow *flow, const struct packet *packet)
{
    if (!TAP_HAS(TAP_MEETING))
        return 0;
    return packet->payload_bytes && (packet->tcp_flags & TCP_PSH || !flow->request_ns);
}

#endif
