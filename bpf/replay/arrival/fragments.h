/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * Fragments of IP datagrams, put together as far as it takes to know whose they are and which of them are there twice or not at
 * all. For replay; a socket is given whole datagrams.
 *
 * Only a datagram's first fragment says which flow it is of. Those that come before it are held until it comes, or until a
 * receiver would have given up waiting.
 */
#ifndef WIRESPAN_FRAGMENTS_H
#define WIRESPAN_FRAGMENTS_H

#include "../host.h"

#include "../../engine/packet.h"

#define FRAGMENT_TTL_NS 30000000000ull /* how long a receiver waits for a datagram's rest: Linux's ipfrag_time */
#define FRAGMENT_UNIT   8u             /* bytes; what offsets count in (RFC 791 3.1, 8200 4.5) */
#define DATAGRAM_UNITS  8192u
#define DATAGRAM_SEEN   (DATAGRAM_UNITS / 64)

/* What tells datagrams apart. */
struct datagram_key {
    __u8 source_address[16];
    __u8 destination_address[16];
    __u64 path; /* the tunnel that it came through; 0: none */
    __u32 id;
    __u32 protocol; /* IPv4's; 0 for IPv6 */
};

/* Fragments, or what is known of them. */
struct fragment_sum {
    __u64 first_ns;
    __u64 ip_bytes;
    __u64 payload_bytes; /* behind the IP header */
    __u64 wire_bytes;
    __u64 outer_bytes; /* IP length of the outermost packets */
    __u32 packets;
    __u32 overlapping;
};

struct datagram {
    struct datagram_key key;
    __u64 time_ns; /* of the first fragment that was seen; 0: there is none here */
    struct fragment_sum held;
    __u64 flow_id; /* its flow's, once the first fragment has told, */
    __u32 slot;    /* and where that is */
    __u32 units; /* of the whole; 0: the last fragment was not seen */
    __u32 units_seen;
    __u8 told;
    __u8 complete;
    __u8 from;
    __u8 within; /* it is a tunnel's: what it carries is the flow's packet */
    __u64 seen[DATAGRAM_SEEN]; /* a bit for each unit */
};

/* One fragment's place in its datagram. */
struct fragment {
    struct datagram_key key;
    __u32 offset; /* units */
    __u32 bytes;
    __u8 more;
    __u8 within;
};

/* Whether the datagram in this place is the fragment's, at this time. After the last one, a first fragment begins another. */
FLOW_INLINE int datagram_is(const struct datagram *datagram, const struct fragment *fragment, __u64 time_ns)
{
    if (!datagram->time_ns || __builtin_memcmp(&datagram->key, &fragment->key, sizeof(datagram->key)))
        return 0;
    if (time_ns > datagram->time_ns && time_ns - datagram->time_ns > FRAGMENT_TTL_NS)
        return 0;
    return !datagram->complete || fragment->offset;
}

FLOW_INLINE void datagram_begin(struct datagram *datagram, const struct fragment *fragment, __u64 time_ns)
{
    __builtin_memset(datagram, 0, sizeof(*datagram));
    datagram->key = fragment->key;
    datagram->time_ns = time_ns;
}

/* Note what a fragment holds. Returns whether some of it was there before, or contradicts where the datagram ends. */
FLOW_INLINE int datagram_mark(struct datagram *datagram, const struct fragment *fragment)
{
    __u32 count = (fragment->more ? fragment->bytes : fragment->bytes + FRAGMENT_UNIT - 1) / FRAGMENT_UNIT;
    __u32 end = fragment->offset + count < DATAGRAM_UNITS ? fragment->offset + count : DATAGRAM_UNITS;
    int overlaps = 0;
    __u32 unit;
    __u64 bit;

    for (unit = fragment->offset; unit < end; unit++) {
        bit = 1ull << (unit % 64);
        if (datagram->seen[unit / 64] & bit)
            overlaps = 1;
        else
            datagram->units_seen++;
        datagram->seen[unit / 64] |= bit;
    }
    if (!fragment->more) {
        overlaps |= datagram->units && datagram->units != end;
        datagram->units = end;
    }
    if (datagram->units && datagram->units_seen >= datagram->units)
        datagram->complete = 1;
    return overlaps;
}

FLOW_INLINE void fragment_hold(struct fragment_sum *held, const struct fragment_sum *more)
{
    if (!held->packets || more->first_ns < held->first_ns)
        held->first_ns = more->first_ns;
    held->ip_bytes += more->ip_bytes;
    held->payload_bytes += more->payload_bytes;
    held->wire_bytes += more->wire_bytes;
    held->outer_bytes += more->outer_bytes;
    held->packets += more->packets;
    held->overlapping += more->overlapping;
}

#endif
