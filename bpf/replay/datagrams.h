/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * Replay's fragments: those of a datagram are counted into the flow that its first one names, before it came or after. And the
 * ledger of packets, because a fragment that waits is in no place of it yet.
 */
#ifndef WIRESPAN_DATAGRAMS_H
#define WIRESPAN_DATAGRAMS_H

#include "slot_table.h"

#ifndef DATAGRAMS
#define DATAGRAMS 4096u /* that are put together at the same time, in sets of DATAGRAM_WAYS */
#endif
#define DATAGRAM_WAYS 8u

/* Count packets once it is known what they are: `flow_bytes` of them are their flow's. */
static void settle(struct replay *replay, enum packet_disposition disposition, const struct fragment_sum *sum, __u64 flow_bytes)
{
    struct replay_counters *counters = &replay->counters;

    counters->packets += sum->packets;
    counters->bytes += sum->wire_bytes;
    counters->disposition_packets[disposition] += sum->packets;
    if (disposition == PACKET_FLOW) {
        counters->disposition_bytes[disposition] += flow_bytes;
        counters->tunnel_bytes += sum->outer_bytes - flow_bytes;
        counters->link_bytes += sum->wire_bytes - sum->outer_bytes;
    } else {
        counters->disposition_bytes[disposition] += sum->wire_bytes;
    }
}

/* Give up on a datagram whose first fragment has not come. */
static void forget_datagram(struct replay *replay, struct datagram *datagram)
{
    if (datagram->held.packets) {
        settle(replay, PACKET_FRAGMENT, &datagram->held, 0);
        replay->held_fragments -= datagram->held.packets;
    }
    datagram->time_ns = 0;
    datagram->held.packets = 0;
}

static void forget_datagrams(struct replay *replay)
{
    __u32 index;

    for (index = 0; index < DATAGRAMS && replay->held_fragments; index++)
        forget_datagram(replay, &replay->datagrams[index]);
}

/* Where a new datagram goes in its set: into a free place, else to where one is over, else to where the oldest is. */
static struct datagram *place_for_datagram(struct datagram *set)
{
    struct datagram *place = set;
    __u32 index;

    for (index = 0; index < DATAGRAM_WAYS; index++) {
        if (!set[index].time_ns)
            return &set[index];
        if (set[index].complete > place->complete ||
                (set[index].complete == place->complete && set[index].time_ns < place->time_ns))
            place = &set[index];
    }
    return place;
}

static struct datagram *datagram_of(struct replay *replay, const struct fragment *fragment, __u64 time_ns)
{
    __u64 source = hash_endpoint(SAME_SEEDS, fragment->key.source_address, (__u16)fragment->key.protocol);
    __u64 destination = hash_endpoint(SAME_SEEDS, fragment->key.destination_address, 0);
    __u64 hash = mix(source ^ fragment->key.id, destination ^ fragment->key.path ^ SAME_SEEDS[3]);
    struct datagram *set = &replay->datagrams[hash % (DATAGRAMS / DATAGRAM_WAYS) * DATAGRAM_WAYS];
    struct datagram *datagram;
    __u32 index;

    for (index = 0; index < DATAGRAM_WAYS; index++)
        if (datagram_is(&set[index], fragment, time_ns))
            return &set[index];
    datagram = place_for_datagram(set);
    forget_datagram(replay, datagram);
    datagram_begin(datagram, fragment, time_ns);
    return datagram;
}

/* Count fragments into their datagram's flow; returns how many of their bytes are the flow's. */
static __u64 count_fragments(
        struct replay *replay, const struct datagram *datagram, const struct fragment_sum *sum, const struct packet *last)
{
    struct flow_outer *outer = &replay->outers[datagram->slot];
    struct outer_side *side = &outer->sides[datagram->from];
    struct packet packet = *last;

    /* Behind a tunnel's first fragment there is nothing but the rest of the packet inside, whose payload the first has counted. */
    packet.ip_bytes = (__u32)(datagram->within ? sum->payload_bytes : sum->ip_bytes);
    packet.payload_bytes = datagram->within ? 0 : (__u32)sum->payload_bytes;
    packet.segments = sum->packets;
    packet.time_ns = sum->first_ns;
    flow_count(&replay->slots[datagram->slot], &packet, datagram->from);
    outer_count(outer, datagram->from, sum->outer_bytes);
    side->fragments += sum->packets;
    side->overlapping_fragments += sum->overlapping;
    return packet.ip_bytes;
}

static int is_told(const struct replay *replay, const struct datagram *datagram)
{
    const struct flow *flow = &replay->slots[datagram->slot];

    return datagram->told && flow->state == FLOW_LIVE && flow->id == datagram->flow_id;
}

/* Note a fragment in its datagram; returns whether it overlaps. */
static __u32 mark_fragment(struct replay *replay, struct datagram *datagram, const struct fragment *fragment)
{
    int was_complete = datagram->complete;
    int overlaps = datagram_mark(datagram, fragment);

    if (datagram->complete && !was_complete && is_told(replay, datagram))
        replay->outers[datagram->slot].sides[datagram->from].incomplete_datagrams--;
    return (__u32)overlaps;
}

/* The first fragment of a datagram has come, and been counted into `slot`: it says whose the others are. */
static void take_first_fragment(
        struct replay *replay, const struct fragment *fragment, const struct packet *packet, __u32 slot, int from)
{
    struct datagram *datagram = datagram_of(replay, fragment, packet->time_ns);
    struct outer_side *side = &replay->outers[slot].sides[from & 1];
    __u64 flow_bytes;

    side->overlapping_fragments += mark_fragment(replay, datagram, fragment);
    if (is_told(replay, datagram))
        return;
    datagram->told = 1;
    datagram->slot = slot;
    datagram->flow_id = replay->slots[slot].id;
    datagram->from = (__u8)from;
    datagram->within = fragment->within;
    side->incomplete_datagrams += !datagram->complete;
    if (!datagram->held.packets)
        return;
    flow_bytes = count_fragments(replay, datagram, &datagram->held, packet);
    settle(replay, PACKET_FLOW, &datagram->held, flow_bytes);
    replay->held_fragments -= datagram->held.packets;
    datagram->held.packets = 0;
}

static void take_first_fragments(struct replay *replay, const struct arrival *arrival, __u32 count, __u32 slot, int from)
{
    __u32 index;

    for (index = 0; index < count; index++)
        take_first_fragment(replay, &arrival->fragments[index], &arrival->packet, slot, from);
}

/* A later fragment: count it into its datagram's flow, or hold it until that is known. */
static void take_later_fragment(struct replay *replay, const struct arrival *arrival)
{
    const struct packet *packet = &arrival->packet;
    __u32 last = arrival->fragment_count - 1;
    struct datagram *datagram = datagram_of(replay, &arrival->fragments[last], packet->time_ns);
    struct fragment_sum sum = {.first_ns = packet->time_ns, .packets = 1};
    __u64 flow_bytes;

    sum.ip_bytes = packet->ip_bytes;
    sum.payload_bytes = packet->payload_bytes < packet->ip_bytes ? packet->payload_bytes : packet->ip_bytes;
    sum.wire_bytes = arrival->wire_bytes;
    sum.outer_bytes = arrival->outer_bytes;
    sum.overlapping = mark_fragment(replay, datagram, &arrival->fragments[last]);
    if (!datagram->told) {
        fragment_hold(&datagram->held, &sum);
        replay->held_fragments++;
    } else if (is_told(replay, datagram)) {
        flow_bytes = count_fragments(replay, datagram, &sum, packet);
        settle(replay, PACKET_FLOW, &sum, flow_bytes);
        take_first_fragments(replay, arrival, last, datagram->slot, datagram->from);
    } else {
        settle(replay, PACKET_FRAGMENT, &sum, 0);
    }
}

#endif
