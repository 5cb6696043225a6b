/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* TLS handshakes in replay: one beside each slot, which is its flow's as long as that has its id. */
#ifndef WIRESPAN_REPLAY_HANDSHAKES_H
#define WIRESPAN_REPLAY_HANDSHAKES_H

#include "exchanges/turns.h"
#include "pieces.h"

/* Whose handshake engine/tls.h speaks of. */
struct handshake_of {
    struct handshake *beside;
    __u64 flow_id;
};

typedef struct handshake_of handshake_host;

#include "../engine/tls.h"

static inline struct handshake *handshake_open(handshake_host host)
{
    return host.beside->flow_id == host.flow_id ? host.beside : NULL;
}

static inline struct handshake *handshake_begin(handshake_host host)
{
    *host.beside = (struct handshake){.flow_id = host.flow_id};
    return host.beside;
}

static inline void handshake_end(handshake_host host)
{
    host.beside->flow_id = 0;
}

/*
 * Look at a packet that was added to its flow, and hand on what it holds of a handshake. Returns the flags of the turns that
 * follow where it ends one (turn.h), else 0.
 */
static inline __u8 handshakes_take(struct handshake *beside, struct pieces *pieces, const struct frame *frame,
        struct flow *flow, const struct packet *packet, int from)
{
    handshake_host host = {beside, flow->id};
    struct handshake_told told = {.since_ns = 0};
    struct piece piece = {.flow_id = flow->id, .time_ns = packet->time_ns, .kind = PIECE_TLS, .from = (__u8)from};
    __u32 offset;
    __u8 words = 0;

    if (!handshake_is_touched(flow, packet, from) || parse_load(frame, packet->transport_offset + 12, &words, 1))
        return 0;
    offset = packet->transport_offset + (words >> 4) * 4u;
    handshake_take(host, frame, offset, flow, packet, from, &told);
    if (told.hello_bytes) {
        piece.place = (__u16)told.hello_place;
        hand_on_part(pieces, frame, told.hello, told.hello_held, told.hello_bytes, piece);
    }
    if (told.end_held) {
        piece.place = 0;
        piece.since_ns = told.since_ns;
        hand_on_part(pieces, frame, told.end, told.end_held, told.end_held, piece);
    }
    if (!told.since_ns)
        return 0;
    return told.disguised ? TURN_TLS | TURN_TICKETS : TURN_TLS;
}

#endif
