/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * A packet that is in a capture several times because it was seen at several points of its way: at a pod's interface, its bridge
 * and the node's (`-i any`), at both sides of a router, at two ports that are mirrored. It is counted once.
 *
 * A point is an interface, a direction of it, the link's addresses, a tunnel and a hop limit. Of packets that are alike, as many are
 * counted as were seen at the point that saw most of them: so a segment that is sent again is one more, though it is the same byte
 * by byte, and its sight at the next point is not. At one point nobody could tell a copy from a repetition, but by the IPv4
 * identification, which a sender gives to each packet anew (RFC 6864 4.1); where it is 0, or a sender gives always the same, not.
 *
 * Where address translation lies between two points there are two flows. The later one is marked, by segments that are alike.
 */
#ifndef WIRESPAN_COPIES_H
#define WIRESPAN_COPIES_H

#include "slot_table.h"

#define COPY_WINDOW_NS    250000000ull /* how long a packet is on its way from point to point */
#define COPY_SEGMENTED_NS 10000000ull  /* the same, where what was one segment at one point is several at another */
#define COPY_WAYS         4u
#define COPY_POINTS       3u
#define COPY_PAYLOAD      64u /* bytes of a packet without sequence numbers that are looked at */
#define COPY_POINT_MASK   0xffffff00u
#define COPY_MOST         255u
#define COPY_OF_FRAGMENT  0xffffffffu

/* Returns a hash of a frame's bytes, as far as they were captured. */
static __u64 hash_frame(frame_source frame, __u32 from, __u32 end, __u64 hash)
{
    __u64 words[2];
    __u32 size;

    if (end > frame->captured)
        end = frame->captured;
    for (; from < end; from += size) {
        size = end - from < sizeof(words) ? end - from : (__u32)sizeof(words);
        memset(words, 0, sizeof(words));
        memcpy(words, frame->bytes + from, size);
        hash = mix(words[0] ^ hash, words[1] ^ SAME_SEEDS[0]);
    }
    return hash;
}

/*
 * What is the same in a packet at every point: not its addresses, ports and checksums (translation, offloading), not its hop limit
 * and ECN (routers), of a SYN not the options (clamping of the segment size).
 */
static __u64 copy_fingerprint(const struct arrival *arrival)
{
    const struct packet *packet = &arrival->packet;
    __u32 at = packet->transport_offset;
    __u64 hash = mix((__u64)packet->ip_bytes << 32 | packet->fragment_id, SAME_SEEDS[1] ^ packet->transport);

    switch (packet->transport) {
    case TRANSPORT_TCP:
        hash = hash_frame(&arrival->frame, at + 4, at + 16, hash);
        if (packet->tcp_flags & TCP_SYN)
            return hash;
        return hash_frame(&arrival->frame, at + 20, packet->ip_offset + packet->ip_bytes - packet->payload_bytes, hash);
    case TRANSPORT_UDP:
    case TRANSPORT_UDPLITE:
        return hash_frame(&arrival->frame, at + 8, at + 8 + COPY_PAYLOAD, hash);
    default:
        return hash_frame(&arrival->frame, at, at + COPY_PAYLOAD, hash);
    }
}

/* Where a packet was seen: 24 bits, above those of a number. */
static __u32 copy_point(const struct arrival *arrival, __u32 interface)
{
    __u64 hash = mix((__u64)interface << 32 | arrival->packet.hop_limit, arrival->through.path ^ SAME_SEEDS[2]);

    return (__u32)(hash_frame(&arrival->frame, 0, arrival->link_bytes, hash) >> 32 | 0x100) & COPY_POINT_MASK;
}

static int copy_is_near(const struct seen_packet *seen, __u64 time_ns)
{
    return seen->time_ns && (time_ns > seen->time_ns ? time_ns - seen->time_ns : seen->time_ns - time_ns) <= COPY_WINDOW_NS;
}

static struct seen_packet *copy_set(const struct replay *replay, __u64 fingerprint)
{
    return &replay->seen[fingerprint % (SEEN_PACKETS / COPY_WAYS) * COPY_WAYS];
}

static __u32 copy_count(__u32 sights)
{
    return sights & ~COPY_POINT_MASK;
}

/* One sight more of a packet at a point. Returns whether other points have seen as many. */
static int copy_sight(struct seen_packet *seen, __u32 point)
{
    __u32 *own = NULL;
    __u32 most = 0;
    __u32 index;
    int full;

    for (index = 0; index < COPY_POINTS && !own; index++)
        if (!seen->points[index] || (seen->points[index] & COPY_POINT_MASK) == point)
            own = &seen->points[index];
    /* At more points than are kept: it is not the first to see it. */
    if (!own)
        return 1;
    full = copy_count(*own) == COPY_MOST;
    for (index = 0; index < COPY_POINTS; index++) {
        if (full)
            seen->points[index] -= copy_count(seen->points[index]) / 2;
        if (copy_count(seen->points[index]) > most)
            most = copy_count(seen->points[index]);
    }
    *own = point | (copy_count(*own) + 1);
    return copy_count(*own) <= most;
}

/*
 * Count a packet of `whose` at a point. Returns whether it is a copy of one that was counted; else it is noted, in the place of the
 * one of its set that was seen least lately. `named` says that the fingerprint is of this packet alone.
 */
static int copy_seen(struct replay *replay, __u64 fingerprint, __u32 whose, __u32 point, __u64 time_ns, int named)
{
    struct seen_packet *set = copy_set(replay, fingerprint);
    struct seen_packet *place = set;
    __u32 way;

    for (way = 0; way < COPY_WAYS; way++) {
        if (set[way].fingerprint == fingerprint && set[way].whose == whose && copy_is_near(&set[way], time_ns)) {
            set[way].time_ns = time_ns;
            return copy_sight(&set[way], point) || named;
        }
        if (set[way].time_ns < place->time_ns)
            place = &set[way];
    }
    memset(place, 0, sizeof(*place));
    place->fingerprint = fingerprint;
    place->whose = whose;
    place->time_ns = time_ns;
    place->points[0] = point | 1;
    return 0;
}

/* The slot of another flow that has a packet like this one, which was seen at another point; NO_SLOT where there is none. */
static __u32 copy_elsewhere(const struct replay *replay, __u64 fingerprint, __u32 slot, __u32 point, __u64 time_ns)
{
    const struct seen_packet *set = copy_set(replay, fingerprint);
    __u32 other;
    __u32 way;

    for (way = 0; way < COPY_WAYS; way++) {
        other = set[way].whose >> 1;
        if (set[way].fingerprint == fingerprint && other != slot && other < replay->capacity &&
                copy_is_near(&set[way], time_ns) && (set[way].points[0] & COPY_POINT_MASK) != point &&
                replay->slots[other].state == FLOW_LIVE)
            return other;
    }
    return NO_SLOT;
}

/*
 * Whether a segment carries what was carried before in other segments, at the point where this direction is counted, and only just:
 * segmentation offload cuts on the way, or joins.
 */
static int copy_is_resegmented(
        const struct flow_side *own, const struct trace_side *traced, const struct packet *packet, __u32 point)
{
    return packet->transport == TRANSPORT_TCP && packet->payload_bytes && traced->copied && traced->point != point &&
           own->known & FLOW_KNOWN_NEXT && !sequence_after(packet->sequence + packet->payload_bytes, own->next_sequence) &&
           deep_elapsed(traced->highest_ns, packet->time_ns) <= COPY_SEGMENTED_NS;
}

/* Note where a packet that is counted was seen, and whether its sender gives each packet an identification of its own. */
static void copy_counted(struct trace_side *traced, const struct packet *packet, __u32 point)
{
    __u16 id = (__u16)packet->fragment_id;

    traced->point = point;
    if (!packet->fragment_protocol || !id || packet->more_fragments)
        return;
    if (traced->id_known && traced->id == id)
        traced->id_constant = 1;
    traced->id_known = 1;
    traced->id = id;
}

/* Whether the packet's identification is its own. */
static int copy_is_named(const struct trace_side *traced, const struct packet *packet)
{
    return packet->fragment_protocol && packet->fragment_id && !packet->more_fragments && !traced->id_constant;
}

/* A packet of a known flow; returns whether it is a copy. */
static int copy_of_flow(
        struct replay *replay, const struct packet *packet, __u64 fingerprint, __u32 slot, int from, __u32 point)
{
    struct trace_side *traced = &replay->traces[slot].sides[from & 1];
    int named = copy_is_named(traced, packet);

    if (!copy_seen(replay, fingerprint, slot << 1 | (__u32)(from & 1), point, packet->time_ns, named) &&
            !copy_is_resegmented(&replay->slots[slot].sides[from & 1], traced, packet, point)) {
        copy_counted(traced, packet, point);
        return 0;
    }
    traced->copied = 1;
    replay->outer_used[slot] = 1;
    replay->outers[slot].sides[from & 1].copies++;
    return 1;
}

/* A later fragment, whose flow is not known here; returns whether it is a copy. */
static int copy_of_fragment(struct replay *replay, const struct arrival *arrival, __u32 interface)
{
    const struct packet *packet = &arrival->packet;
    __u64 ends = hash_endpoint(SAME_SEEDS, packet->source_address, 0) ^
                 mix(hash_endpoint(SAME_SEEDS, packet->destination_address, 0), SAME_SEEDS[3]);
    __u64 fingerprint = mix(copy_fingerprint(arrival) ^ packet->fragment_offset, ends | 1);

    return copy_seen(replay, fingerprint, COPY_OF_FRAGMENT, copy_point(arrival, interface), packet->time_ns, 0);
}

/*
 * Whether an established flow, which has just got a segment, has an older one that got the same at another point: the addresses were
 * translated in between, or there is a tunnel. A connection's first segments, and resets, may be alike in a port scan.
 */
static void copy_mark_translated(struct replay *replay, const struct packet *packet, __u64 fingerprint, __u32 slot, __u32 point)
{
    struct flow *flow = &replay->slots[slot];
    __u32 other;

    if (packet->transport != TRANSPORT_TCP || packet->tcp_flags & (TCP_SYN | TCP_RST))
        return;
    other = copy_elsewhere(replay, fingerprint, slot, point, packet->time_ns);
    if (other == NO_SLOT)
        return;
    if (replay->slots[other].id > flow->id)
        slot = other;
    replay->outer_used[slot] = 1;
    replay->outers[slot].translated = 1;
}

/* Have a flow found by its own addresses, in a tunnel or not: it was seen both ways. */
static void copy_join(struct replay *replay, __u32 slot, __u32 hash)
{
    if (replay->outers[slot].joined)
        return;
    unlink_slot(replay, slot);
    link_slot(replay, slot, hash);
    replay->outer_used[slot] = 1;
    replay->outers[slot].joined = 1;
}

/*
 * The flow of a packet that none was found for, where its packets are seen in a tunnel and out of it: such a flow, or one that has
 * just had this packet the other way.
 */
static __u32 copy_find_joined(struct replay *replay, const struct arrival *arrival, __u64 fingerprint, __u32 point, int *from)
{
    static const struct outer_path no_tunnel;
    const struct packet *packet = &arrival->packet;
    __u32 hash = hash_packet(replay, packet, &no_tunnel);
    __u32 slot = NO_SLOT;
    int way;

    if (arrival->through.kind) {
        slot = find_slot(replay, packet, &no_tunnel, hash, from);
        if (slot != NO_SLOT && replay->outers[slot].joined)
            return slot;
    }
    slot = copy_elsewhere(replay, fingerprint, NO_SLOT, point, packet->time_ns);
    if (slot == NO_SLOT || !arrival->through.kind == !replay->outers[slot].tunnel)
        return NO_SLOT;
    way = match(&replay->slots[slot], packet);
    if (way < 0)
        return NO_SLOT;
    *from = way;
    copy_join(replay, slot, hash);
    return slot;
}

#endif
