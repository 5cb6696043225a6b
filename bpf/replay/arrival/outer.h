/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * What is around a flow's packets in a capture file: the tunnel that they travel in, and the fragments they were cut into. Replay
 * keeps it beside each slot, for the reader; services/capture/replay/layout.py mirrors it.
 */
#ifndef WIRESPAN_OUTER_H
#define WIRESPAN_OUTER_H

#include "../host.h"

#include "../../engine/flow.h"

/* One direction; "tx" is local to remote, as in struct flow. */
struct outer_side {
    __u64 path;          /* see struct outer_path; 0: no packet of this direction has come through a tunnel */
    __u64 tunnel_bytes;  /* IP length of the outermost packets */
    __u32 tunnel_id;     /* of the first packet */
    __u32 fragments;     /* packets */
    __u32 overlapping_fragments;
    __u32 incomplete_datagrams; /* now: whose fragments are not all there */
    __u32 copies;               /* packets that were counted already, at another point */
    __u32 pad;
};

struct flow_outer {
    struct outer_side sides[2];
    __u8 local_tunnel_address[16]; /* of the first packet: the tunnel's end on local's side */
    __u8 remote_tunnel_address[16];
    __u8 tunnel; /* enum tunnel_kind */
    __u8 tunnel_depth;
    __u8 translated; /* an older flow is the same connection, under other addresses */
    __u8 joined;     /* seen in its tunnel and out of it: replay's own */
    __u8 pad[4];
};

_Static_assert(sizeof(struct outer_side) == 40, "struct outer_side has no hole");
_Static_assert(sizeof(struct flow_outer) == 120, "struct flow_outer has no hole");

/*
 * The tunnel that a packet came through: the innermost, where it came through several. `path` is the same for both directions
 * between its ends under one id, and for no other tunnel. 0: none.
 */
struct outer_path {
    __u64 path;
    __u32 id;
    __u8 kind;
    __u8 depth;
    __u8 source_address[16];
    __u8 destination_address[16];
};

enum outer_match {
    OUTER_OTHER,
    OUTER_POSSIBLE,
    OUTER_SAME,
};

/*
 * Whether a packet may be the flow's by its tunnel. Addresses within tunnels are not unique, so a direction keeps to the tunnel
 * that its first packet came through. The other direction's may differ: VNIs name the destination's segment, or the sender
 * (OVN, Cilium), and GTP-U's TEIDs the receiver. What is the same in both is the likelier one.
 */
FLOW_INLINE enum outer_match outer_match(const struct flow_outer *outer, const struct outer_path *through, int from)
{
    const struct outer_side *own = &outer->sides[from & 1];

    if (outer->tunnel != through->kind)
        return OUTER_OTHER;
    if (own->path)
        return own->path == through->path ? OUTER_SAME : OUTER_OTHER;
    return outer->sides[!from].path == through->path ? OUTER_SAME : OUTER_POSSIBLE;
}

/* Take in a packet's tunnel, where it is the first of its direction. */
FLOW_INLINE void outer_adopt(struct flow_outer *outer, const struct outer_path *through, int from)
{
    struct outer_side *own = &outer->sides[from & 1];
    int tx = from == FLOW_TX;

    if (!through->kind)
        return;
    if (!outer->tunnel) {
        outer->tunnel = through->kind;
        outer->tunnel_depth = through->depth;
        __builtin_memcpy(outer->local_tunnel_address, tx ? through->source_address : through->destination_address, 16);
        __builtin_memcpy(outer->remote_tunnel_address, tx ? through->destination_address : through->source_address, 16);
    }
    if (!own->path) {
        own->path = through->path;
        own->tunnel_id = through->id;
    }
}

/* Count packets whose outermost IP length is `bytes`. */
FLOW_INLINE void outer_count(struct flow_outer *outer, int from, __u64 bytes)
{
    if (outer->tunnel)
        outer->sides[from & 1].tunnel_bytes += bytes;
}

#endif
