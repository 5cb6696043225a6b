/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * Pieces of payload for capture's process (engine/piece.h): through a ring buffer, which is read at every tick and whose pieces are
 * as long as they are. What it has no room for is counted by kind.
 */
#ifndef WIRESPAN_TAP_PIECES_H
#define WIRESPAN_TAP_PIECES_H

#include "../slots.h"

#include "../../engine/piece.h"

/* PIECES: a bit for each kind that is asked for. */
#ifdef PIECES
_Static_assert(PIECE_TLS == 2, "PIECES & 4 asks for those of TLS");
_Static_assert(PIECE_QUIC == 3, "PIECES & 8 asks for those of QUIC");
#if PIECES & 12
#define PIECE_MOST          TLS_HELLO_BYTES
#define PIECE_PAGES_DEFAULT 1024 /* 4 MiB: besides, some 1,500 handshakes with large key shares */
#else
#define PIECE_MOST          PIECE_BYTES
#define PIECE_PAGES_DEFAULT 256 /* 1 MiB: some 5,000 messages of DNS between two looks */
#endif
#ifndef PIECE_PAGES
#define PIECE_PAGES PIECE_PAGES_DEFAULT
#endif
#define RINGBUF_NO_WAKEUP 1 /* BPF_RB_NO_WAKEUP: nobody waits */

struct piece_room {
    struct piece piece;
    __u8 bytes[PIECE_MOST];
};

BPF_RINGBUF_OUTPUT(pieces, PIECE_PAGES);
/* Where a piece is put together, for each direction: what is received interrupts what is sent. */
BPF_TABLE("percpu_array", u32, struct piece_room, piece_rooms, 2);
BPF_TABLE("percpu_array", u32, u64, pieces_lost, PIECE_KINDS);

/* Hand on `held` bytes at `offset`, `most` (a power of two) at the most; `piece` says what they are of. */
FLOW_INLINE void hand_on_part(
        struct __sk_buff *skb, const struct slot *slot, __u32 offset, __u64 held, __u32 most, const struct piece *piece)
{
    __u32 place = piece->from & 1;
    struct piece_room *room = piece_rooms.lookup(&place);
    __u32 kind = piece->kind;
    __u64 *lost;

    if (!room || !held)
        return;
    if (held > most)
        held = most;
    /* Old verifiers do not follow what the compiler makes of this comparison; this they do: it is 1 to `most`. */
    asm volatile("" : "+r"(held));
    held = ((held - 1) & (most - 1)) + 1;
    room->piece.flow_id = slot->flow.id;
    room->piece.time_ns = piece->time_ns;
    room->piece.since_ns = piece->since_ns;
    room->piece.owner = slot->socket.cgroup_id;
    room->piece.payload_bytes = piece->payload_bytes;
    room->piece.held = (__u16)held;
    room->piece.kind = piece->kind;
    room->piece.from = (__u8)place;
    room->piece.place = piece->place;
    if (!bpf_skb_load_bytes(skb, offset, room->bytes, held) &&
            !pieces.ringbuf_output(room, sizeof(room->piece) + held, RINGBUF_NO_WAKEUP))
        return;
    lost = pieces_lost.lookup(&kind);
    if (lost)
        *lost += 1;
}

/* Hand on the payload at `offset`, for one of its kinds. */
FLOW_INLINE void hand_on(struct __sk_buff *skb, const struct slot *slot, __u32 offset, const struct packet *packet,
        __u64 since_ns, __u32 kind, int from)
{
    const struct piece piece = {
            .time_ns = packet->time_ns,
            .since_ns = since_ns,
            .payload_bytes = piece_payload_bytes(packet->payload_bytes),
            .kind = (__u8)kind,
            .from = (__u8)from,
    };

    if (PIECES >> kind & 1)
        hand_on_part(skb, slot, offset, packet->payload_bytes, PIECE_BYTES, &piece);
}
#else
#define hand_on(skb, slot, offset, packet, since_ns, kind, from)
#endif

#endif
