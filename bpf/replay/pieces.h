/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* Replay's pieces of payload: in a row until the reader takes them, who is asked to before one could find no room. */
#ifndef WIRESPAN_REPLAY_PIECES_H
#define WIRESPAN_REPLAY_PIECES_H

#include "host.h"

#include "../engine/flow.h"
#include "../engine/piece.h"

#include <string.h>

/* Of one packet. */
#define LARGEST_PIECES (2 * (sizeof(struct piece) + 8) + 65536u)
#ifndef PIECES_BYTES
#define PIECES_BYTES (1u << 20)
#endif

/* Each begins at a multiple of 8. services/capture/replay/library.py has the first two members too. */
struct pieces {
    __u64 used; /* bytes */
    __u64 wanted; /* bit of each kind that is handed on */
    __u8 bytes[PIECES_BYTES];
};

static inline int pieces_are_full(const struct pieces *pieces)
{
    return pieces->used > PIECES_BYTES - LARGEST_PIECES;
}

/* An address as a number: whose pieces are whose. services/capture/names/peers.py does the same. */
static inline __u64 owner_by_address(const __u8 *address)
{
    __u64 halves[2];

    memcpy(halves, address, sizeof(halves));
    return halves[0] ^ halves[1];
}

/* Hand on what the file holds of `held` bytes at `offset`; `piece` says what they are, and are of `payload_bytes`. Returns -1 where
 * that is not wanted, or no room. */
static inline int hand_on_part(
        struct pieces *pieces, const struct frame *frame, __u32 offset, __u32 held, __u32 payload_bytes, struct piece piece)
{
    __u32 there = frame->captured > offset ? frame->captured - offset : 0;

    if (held > there)
        held = there;
    if (!(pieces->wanted >> piece.kind & 1) || PIECES_BYTES - pieces->used < sizeof(piece) + held + 7)
        return -1;
    piece.held = (__u16)held;
    piece.payload_bytes = piece_payload_bytes(payload_bytes);
    memcpy(pieces->bytes + pieces->used, &piece, sizeof(piece));
    if (held)
        memcpy(pieces->bytes + pieces->used + sizeof(piece), frame->bytes + offset, held);
    pieces->used += (sizeof(piece) + held + 7) & ~7ull;
    return 0;
}

/* Likewise of a whole message, from its beginning. */
static inline int hand_on(
        struct pieces *pieces, const struct frame *frame, __u32 offset, __u32 payload_bytes, struct piece piece)
{
    return hand_on_part(pieces, frame, offset, payload_bytes < PIECE_BYTES ? payload_bytes : PIECE_BYTES, payload_bytes, piece);
}

#endif
