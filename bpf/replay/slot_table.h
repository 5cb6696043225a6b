/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * Replay's table: which slot a packet's flow has, and slots given out and taken back. Chains of slots by the hash of their key.
 *
 * Slots are in blocks, and the lowest block with room gives the next one: so that after a burst the flows that live are close
 * together again, and the reader looks at their blocks only.
 */
#ifndef WIRESPAN_SLOT_TABLE_H
#define WIRESPAN_SLOT_TABLE_H

#include "arrival/arrival.h"
#include "exchanges/exchanges.h"
#include "flow_deep.h"

#include "../files/capture_file.h"

#define NO_SLOT 0xffffffffu
#ifndef SEEN_PACKETS
#define SEEN_PACKETS 65536u
#endif
#define BLOCK_SLOTS 1024u /* services/capture/replay/source.py has the same */

/*
 * Everything seen adds up: packets = sum of dispositions; bytes = link_bytes + tunnel_bytes + the same sum. A fragment is counted
 * once it is known whose it is. Mirrored in services/capture/replay/source.py.
 */
struct replay_counters {
    __u64 packets;    /* read from files */
    __u64 bytes;      /* their length on the wire */
    __u64 link_bytes; /* of packets in flows: what was on the wire around the outermost IP packet */
    __u64 tunnel_bytes; /* of packets in flows: what was between the outermost IP header and the innermost */
    __u64 disposition_packets[PACKET_DISPOSITIONS];
    __u64 disposition_bytes[PACKET_DISPOSITIONS]; /* PACKET_FLOW: IP length; the others: on the wire */
    __u64 flows;                                  /* begun */
    __u64 used_slots;
    __u64 high_slot;       /* no slot from here on was ever used */
    __u64 clock_ns;        /* latest packet of this file */
    __u64 next_ns;         /* the packet that comes next; 0: none was read ahead */
    __u64 file_bytes_read; /* of this file */
};

/* A slot's place in its bucket's chain; `hash` spares looking at slots of other flows, and says whether it is in a tunnel. */
struct link {
    __u32 next;
    __u32 hash;
};

struct slot_block {
    __u32 free_slot; /* head of the chain of released slots */
    __u32 fresh;     /* how many were ever used */
};

/* A packet that was counted, for as long as copies of it may come: copies.h. */
struct seen_packet {
    __u64 fingerprint;
    __u64 time_ns; /* when it was seen last; 0: there is none here */
    __u32 whose;   /* its flow's slot and direction */
    __u32 points[3]; /* where it was seen, and in the lowest 8 bits how often */
};

struct replay {
    struct replay_counters counters; /* first: the caller reads it through the handle */
    struct flow *slots;
    struct link *links;
    struct flow_trace *traces; /* of the slots */
    struct exchanges exchanges;
    struct flow_outer *outers; /* of the slots, the caller's */
    __u32 *files; /* of the slots, the caller's: which file the record's first packet is in */
    __u32 file_number;
    __u8 *outer_used;          /* whether a slot's is not zero: memory that was never touched stays so */
    __u32 *buckets;
    struct datagram *datagrams;
    struct seen_packet *seen;
    __u64 held_fragments;
    __u32 capacity;
    __u32 bucket_mask;
    __u32 block_count;
    __u32 open_block; /* none below it has room */
    struct slot_block *blocks;
    __u32 *block_used; /* slots of each block that are not free; the caller's */
    __u64 seeds[4];
    struct capture_file file;
    struct captured next;
    int reading; /* a file is open */
    int ahead;   /* `next` is the packet that comes next */
    struct questions *questions; /* that wait for their answers */
    struct pieces *pieces;       /* of payload, for the reader */
    struct handshake *handshakes; /* of the slots */
    struct turns *turns;          /* NULL: nobody asks for them */
    __u8 dns_ports[8192];        /* a bit each */
    __u64 rest_ns;               /* how long a flow of datagrams may rest */
    __u64 begin_ns;              /* since when packets were captured without a pause of which it is known */
    __u64 seen_ns;               /* the latest packet */
    int file_begins;
};

#define HASH_TUNNELLED 0x80000000u

/* The same for both directions. Seeded, so that no capture can be made whose flows all fall into one chain. */
static inline __u32 hash_packet(const struct replay *replay, const struct packet *packet, const struct outer_path *through)
{
    __u64 source = hash_endpoint(replay->seeds, packet->source_address, packet->source_port);
    __u64 destination = hash_endpoint(replay->seeds, packet->destination_address, packet->destination_port);
    __u64 kind = packet->transport | (__u64)through->kind << 32;
    __u32 hash;

    if (packet->transport == TRANSPORT_ICMP || packet->transport == TRANSPORT_ICMPV6)
        kind |= (__u64)icmp_kind(packet->transport, packet->icmp_type, packet->icmp_code) << 8;
    hash = (__u32)(mix((source + destination) ^ kind, replay->seeds[3]) >> 16);
    return through->kind ? hash | HASH_TUNNELLED : hash & ~HASH_TUNNELLED;
}

/* Returns FLOW_TX or FLOW_RX where the packet belongs to the flow, else -1. */
static inline int match(const struct flow *flow, const struct packet *packet)
{
    if (flow->transport != packet->transport)
        return -1;
    if (packet->transport == TRANSPORT_ICMP || packet->transport == TRANSPORT_ICMPV6)
        if (icmp_kind(packet->transport, packet->icmp_type, packet->icmp_code) !=
                icmp_kind(flow->transport, flow->icmp_type, flow->icmp_code))
            return -1;
    if (flow->local_port == packet->source_port && flow->remote_port == packet->destination_port &&
            !memcmp(flow->local_address, packet->source_address, 16) &&
            !memcmp(flow->remote_address, packet->destination_address, 16))
        return FLOW_TX;
    if (flow->local_port == packet->destination_port && flow->remote_port == packet->source_port &&
            !memcmp(flow->local_address, packet->destination_address, 16) &&
            !memcmp(flow->remote_address, packet->source_address, 16))
        return FLOW_RX;
    return -1;
}

static inline __u32 find_slot(
        const struct replay *replay, const struct packet *packet, const struct outer_path *through, __u32 hash, int *from)
{
    __u32 slot = replay->buckets[hash & replay->bucket_mask];
    __u32 possible = NO_SLOT;
    enum outer_match same;
    int way;

    for (; slot != NO_SLOT; slot = replay->links[slot].next) {
        if (replay->links[slot].hash != hash)
            continue;
        way = match(&replay->slots[slot], packet);
        if (way < 0)
            continue;
        same = through->kind ? outer_match(&replay->outers[slot], through, way) : OUTER_SAME;
        if (same == OUTER_OTHER || (same == OUTER_POSSIBLE && possible != NO_SLOT))
            continue;
        *from = way;
        if (same == OUTER_SAME)
            return slot;
        possible = slot;
    }
    return possible;
}

static void unlink_slot(struct replay *replay, __u32 slot)
{
    __u32 *place = &replay->buckets[replay->links[slot].hash & replay->bucket_mask];

    while (*place != slot)
        place = &replay->links[*place].next;
    *place = replay->links[slot].next;
}

static void retire_slot(struct replay *replay, __u32 slot)
{
    if (replay->slots[slot].state != FLOW_LIVE)
        return;
    unlink_slot(replay, slot);
    replay->slots[slot].state = FLOW_RETIRED;
}

static void release_slot(struct replay *replay, __u32 slot)
{
    struct flow *flow = &replay->slots[slot];
    struct slot_block *block;

    if (flow->state == FLOW_FREE)
        return;
    retire_slot(replay, slot);
    exchanges_forget(&replay->exchanges, slot, flow);
    memset(flow, 0, sizeof(*flow));
    memset(&replay->traces[slot], 0, sizeof(*replay->traces));
    if (replay->outer_used[slot])
        memset(&replay->outers[slot], 0, sizeof(*replay->outers));
    replay->outer_used[slot] = 0;
    block = &replay->blocks[slot / BLOCK_SLOTS];
    replay->links[slot].next = block->free_slot;
    block->free_slot = slot;
    if (slot / BLOCK_SLOTS < replay->open_block)
        replay->open_block = slot / BLOCK_SLOTS;
    replay->block_used[slot / BLOCK_SLOTS]--;
    replay->counters.used_slots--;
}

/* The lowest block with room gives a slot; NO_SLOT where none has any. */
static __u32 free_slot(struct replay *replay)
{
    __u32 slots = replay->capacity < BLOCK_SLOTS ? replay->capacity : BLOCK_SLOTS;
    struct slot_block *block;
    __u32 slot;

    for (; replay->open_block < replay->block_count; replay->open_block++) {
        block = &replay->blocks[replay->open_block];
        slot = block->free_slot;
        if (slot != NO_SLOT) {
            block->free_slot = replay->links[slot].next;
            return slot;
        }
        if (block->fresh < slots)
            return replay->open_block * BLOCK_SLOTS + block->fresh++;
    }
    return NO_SLOT;
}

static void link_slot(struct replay *replay, __u32 slot, __u32 hash)
{
    __u32 *bucket = &replay->buckets[hash & replay->bucket_mask];

    replay->links[slot].hash = hash;
    replay->links[slot].next = *bucket;
    *bucket = slot;
}

static __u32 take_slot(struct replay *replay, __u32 hash)
{
    __u32 slot = free_slot(replay);

    if (slot == NO_SLOT)
        return NO_SLOT;
    if (slot >= replay->counters.high_slot)
        replay->counters.high_slot = slot + 1;
    replay->block_used[slot / BLOCK_SLOTS]++;
    link_slot(replay, slot, hash);
    replay->counters.used_slots++;
    return slot;
}

#endif
