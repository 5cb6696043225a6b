/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * Pieces of payload for capture's process (engine/piece.h): through a ring buffer, which is read at every tick and whose pieces are
 * as long as they are. What it has no room for is counted by kind.
 */
#ifndef WIRESPAN_TAP_PIECES_H
#define WIRESPAN_TAP_PIECES_H

#include "../constants.h"
#include "../flows/slots.h"

#include "../../engine/piece.h"

#define PIECE_MOST TLS_HELLO_BYTES
#ifndef PIECE_PAGES
#define PIECE_PAGES 1024 /* 4 MiB: besides DNS some 1,500 handshakes with large key shares; less where there is only DNS */
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

/* Hand on the payload at `offset`, of DNS. */
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

    if (TAP_HAS(TAP_PIECES_DNS))
        hand_on_part(skb, slot, offset, packet->payload_bytes, PIECE_BYTES, &piece);
}

#endif
