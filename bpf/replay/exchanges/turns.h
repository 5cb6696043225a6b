/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * Every exchange of every connection in replay, and of UDP, where somebody asks for them: one open beside each slot, ended ones
 * until taken.
 */
#ifndef WIRESPAN_REPLAY_TURNS_H
#define WIRESPAN_REPLAY_TURNS_H

#include "questions.h"

#include "../../engine/exchanges/turn.h"

#include <stdlib.h>

/* A reader is asked to take what has ended before there is more than this. */
#ifndef ENDED_TURNS
#define ENDED_TURNS 65536u
#endif

/* services/capture/replay/library.py has the same. */
struct turns {
    __u64 ended_count;
    struct turn *of_slot;
    struct turn ended[ENDED_TURNS];
};

static inline struct turns *turns_new(__u32 capacity)
{
    struct turns *turns = calloc(1, sizeof(*turns));

    if (!turns)
        return NULL;
    turns->of_slot = calloc(capacity, sizeof(*turns->of_slot));
    if (turns->of_slot)
        return turns;
    free(turns);
    return NULL;
}

static inline void turns_free(struct turns *turns)
{
    if (turns)
        free(turns->of_slot);
    free(turns);
}

static inline int turns_are_full(const struct turns *turns)
{
    return turns && turns->ended_count == ENDED_TURNS;
}

/* A handshake is over, and no turn was open: those that follow are TLS's. */
static inline void turns_begin(struct turns *turns, __u32 slot, const struct flow *flow, __u8 flags)
{
    if (turns)
        turns->of_slot[slot] = (struct turn){
                .flow_id = flow->id,
                .resent = {(__u16)turn_side(flow, 0)->retransmits, (__u16)turn_side(flow, 1)->retransmits},
                .flags = flags,
        };
}

/* Follow the turns of a connection by a packet that was just added to it. One packet ends one turn at the most. */
static inline void turns_take(
        struct turns *turns, __u32 slot, const struct flow *flow, const struct packet *packet, int from, __u32 next_before)
{
    __u32 fresh = turn_fresh(flow, packet, from, next_before);
    struct turn *turn;
    int ends;

    if (!turns || flow->transport != TRANSPORT_TCP || !packet->payload_bytes || packet->tcp_flags & (TCP_SYN | TCP_RST) ||
            flow->role == FLOW_ROLE_UNKNOWN || flow->sides[from & 1].known & FLOW_OF_INTEREST)
        return;
    turn = &turns->of_slot[slot];
    ends = turn_ends(turn, flow, packet, from, fresh);
    if (ends && turns->ended_count < ENDED_TURNS) {
        turn_measure(turn, flow);
        turns->ended[turns->ended_count++] = *turn;
    }
    turn_take(turn, flow, packet, from, fresh, ends);
}

/* Follow the turns of a flow of UDP whose ends take turns, likewise. QUIC's handshake is none. */
static inline void turns_take_datagram(
        struct turns *turns, __u32 slot, const struct flow *flow, const struct packet *packet, int from)
{
    struct turn *turn;

    if (!turns || flow->transport == TRANSPORT_TCP || flow->requests != FLOW_REQUESTS_UNKNOWN ||
            flow->sides[from & 1].known & FLOW_OF_INTEREST)
        return;
    turn = &turns->of_slot[slot];
    if (!turn_take_datagram(turn, flow, packet, from))
        return;
    if (turns->ended_count < ENDED_TURNS)
        turns->ended[turns->ended_count++] = *turn;
    turn->request_first_ns = 0;
}

/* A question with a number, of UDP, has its answer. */
static inline void turns_answer(
        struct turns *turns, const struct flow *flow, const struct packet *packet, const struct question_message *message)
{
    struct turn turn = {.flow_id = 0};

    if (!turns || turns->ended_count == ENDED_TURNS)
        return;
    turn_of_question(&turn, flow, packet, message->asked_ns, message->asked_bytes, message->repeats);
    turns->ended[turns->ended_count++] = turn;
}

#endif
