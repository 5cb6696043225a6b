/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * One packet of a capture file, from its frame to the packet in its innermost tunnel, with every fragment that it is on the way.
 * For replay.
 *
 * A flow's bytes are the IP length of the packet in the tunnel; what is around it is counted apart. Where a tunnel's packet was
 * cut into fragments, each of them counts what it holds of the packet inside.
 */
#ifndef WIRESPAN_ARRIVAL_H
#define WIRESPAN_ARRIVAL_H

#include "fragments.h"
#include "../hash.h"
#include "../host.h"
#include "outer.h"
#include "tunnel.h"

/* More than any packet and the headers around it: where a packet's end is not in its frame. */
#define ARRIVAL_ENDLESS (PARSE_MAX_IP_BYTES + 256u)

struct arrival {
    struct frame frame; /* ends where the packet in the innermost tunnel does, or the capture of it */
    __u32 wire_bytes;
    __u32 link_bytes;  /* before the outermost packet */
    __u32 outer_bytes; /* IP length of the outermost packet */
    __u32 end; /* where in the frame the packet in the innermost tunnel ends on the wire, as far as this fragment goes */
    __u32 cut; /* whether a packet around it was cut into fragments */
    __u32 fragment_count;
    struct packet packet;
    struct outer_path through;
    struct fragment fragments[TUNNEL_DEPTH + 1]; /* outside in */
};

static void note_fragment(struct arrival *arrival)
{
    const struct packet *packet = &arrival->packet;
    struct fragment *fragment = &arrival->fragments[arrival->fragment_count++];

    memset(fragment, 0, sizeof(*fragment));
    memcpy(fragment->key.source_address, packet->source_address, 16);
    memcpy(fragment->key.destination_address, packet->destination_address, 16);
    fragment->key.path = arrival->through.path;
    fragment->key.id = packet->fragment_id;
    fragment->key.protocol = packet->fragment_protocol;
    fragment->offset = packet->fragment_offset;
    fragment->bytes = packet->ip_offset + packet->ip_bytes - packet->fragmentable_offset;
    fragment->more = packet->more_fragments;
}

static void note_tunnel(struct arrival *arrival, const struct tunnel *tunnel)
{
    const struct packet *outer = &arrival->packet;
    struct outer_path *through = &arrival->through;
    __u64 ends = hash_endpoint(SAME_SEEDS, outer->source_address, 0) + hash_endpoint(SAME_SEEDS, outer->destination_address, 0);

    through->path = mix(ends ^ through->path, mix((__u64)tunnel->kind << 32 | tunnel->id, SAME_SEEDS[3]) | 1) | 1;
    through->id = tunnel->id;
    through->kind = (__u8)tunnel->kind;
    through->depth++;
    memcpy(through->source_address, outer->source_address, 16);
    memcpy(through->destination_address, outer->destination_address, 16);
}

/*
 * Go on with what is in the tunnel. Returns 0 where the packet is none after all: a guessed one whose content contradicts itself,
 * and a first fragment that ends before the ports inside.
 */
static int enter_tunnel(struct arrival *arrival, const struct tunnel *tunnel, enum packet_disposition *disposition)
{
    const struct packet *outer = &arrival->packet;
    __u32 end = outer->transport_offset + outer->payload_bytes + (outer->transport == TRANSPORT_UDP ? 8 : 0);
    __u32 cut = arrival->cut | outer->more_fragments;
    struct packet inner = {.time_ns = outer->time_ns};
    struct frame frame = arrival->frame;
    __u32 inner_end;

    if (end > arrival->end)
        end = arrival->end;
    if (frame.captured > end)
        frame.captured = end;
    *disposition = tunnel_parse(&frame, tunnel, cut ? tunnel->offset + ARRIVAL_ENDLESS : end, &inner);
    if (*disposition == PACKET_TRUNCATED && frame.captured == end)
        *disposition = PACKET_MALFORMED;
    if (*disposition == PACKET_MALFORMED && (cut || tunnel_is_guessed(tunnel)))
        return 0;
    if (outer->more_fragments)
        arrival->fragments[arrival->fragment_count - 1].within = 1;
    note_tunnel(arrival, tunnel);
    arrival->frame = frame;
    arrival->packet = inner;
    arrival->end = end;
    arrival->cut = cut;
    if (*disposition != PACKET_FLOW && *disposition != PACKET_FRAGMENT)
        return 1;
    if (*disposition == PACKET_FRAGMENT || inner.more_fragments)
        note_fragment(arrival);
    inner_end = inner.ip_offset + inner.ip_bytes;
    if (inner_end > end)
        arrival->packet.ip_bytes -= inner_end - end;
    else
        arrival->end = inner_end;
    return 1;
}

/*
 * Per-packet information (CACE PPI): a little-endian header around a frame of another link type. Returns 0 where it is cut, or
 * there is another one in it.
 */
static int enter_ppi(struct frame *frame, __u32 *wire_bytes, __u32 *link_type)
{
    __u8 header[8];
    __u32 size;

    if (parse_load(frame, 0, header, sizeof(header)))
        return 0;
    size = header[2] | (__u32)header[3] << 8;
    *link_type = header[4] | (__u32)header[5] << 8 | (__u32)header[6] << 16 | (__u32)header[7] << 24;
    if (size < sizeof(header) || size > frame->captured || *link_type == LINK_PPI)
        return 0;
    frame->bytes += size;
    frame->captured -= size;
    *wire_bytes -= size;
    return 1;
}

/* Parse a frame: `frame`, `wire_bytes` and `packet.time_ns` are set, the rest but `fragments` is 0. */
static inline enum packet_disposition parse_arrival(struct arrival *arrival, __u32 link_type)
{
    struct packet *packet = &arrival->packet;
    __u32 wire_bytes = arrival->wire_bytes;
    enum packet_disposition disposition;
    struct tunnel tunnel;

    if (link_type == LINK_PPI && !enter_ppi(&arrival->frame, &wire_bytes, &link_type))
        return arrival->frame.captured == wire_bytes ? PACKET_MALFORMED : PACKET_TRUNCATED;
    disposition = parse_frame(&arrival->frame, (int)link_type, wire_bytes, packet);
    if (disposition == PACKET_TRUNCATED && arrival->frame.captured == wire_bytes)
        return PACKET_MALFORMED;
    arrival->link_bytes = packet->ip_offset;
    arrival->outer_bytes = packet->ip_bytes;
    arrival->end = packet->ip_offset + packet->ip_bytes;
    if (disposition == PACKET_FRAGMENT || packet->more_fragments)
        note_fragment(arrival);
    while (disposition == PACKET_FLOW && tunnel_open(&arrival->frame, packet, &tunnel)) {
        if (arrival->through.depth == TUNNEL_DEPTH)
            return PACKET_NESTED;
        if (!enter_tunnel(arrival, &tunnel, &disposition))
            return PACKET_FLOW;
    }
    return disposition;
}

#endif
