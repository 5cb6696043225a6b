/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* A packet of a capture file, from what was captured to the flow that it is counted to, or to why it is not. */
#ifndef WIRESPAN_TAKE_H
#define WIRESPAN_TAKE_H

#include <stddef.h>
#include <string.h>

#include "copies.h"
#include "datagrams.h"
#include "exchanges/questions.h"
#include "handshakes.h"
#include "icmp_error.h"
#include "pieces.h"
#include "role.h"

#include "../engine/quic.h"
#include "../engine/update.h"

/*
 * Which direction a flow's first packet has: local is the initiator. A TCP connection that was joined later does not say who
 * that was; its local is the end that is the client by its ports, else the sender. Of the others, a service's port is remote.
 */
static int first_direction(const struct packet *packet)
{
    if (packet->transport == TRANSPORT_ICMP || packet->transport == TRANSPORT_ICMPV6)
        return icmp_part(packet->transport, packet->icmp_type) == ICMP_REPLY ? FLOW_RX : FLOW_TX;
    if (packet->transport != TRANSPORT_TCP)
        return is_service_port(packet->source_port) && !is_service_port(packet->destination_port) ? FLOW_RX : FLOW_TX;
    if (packet->tcp_flags & TCP_SYN && !(packet->tcp_flags & TCP_RST))
        return packet->tcp_flags & TCP_ACK ? FLOW_RX : FLOW_TX;
    return direction_by_ports(packet->source_port, packet->destination_port) == FLOW_RX ? FLOW_RX : FLOW_TX;
}

/* Add a packet to the flow of its slot. */
static void add_packet(struct replay *replay, __u32 slot, const struct arrival *arrival, struct packet *packet, int from)
{
    struct flow *flow = &replay->slots[slot];
    struct exchange_moment before = exchange_before(flow, from);
    __u8 flags;

    if (flow->interval != flow->taken)
        replay->files[slot] = replay->file_number;
    tell_role(&arrival->frame, flow, packet, from);
    flow_deepen(flow, &replay->traces[slot], packet, from);
    flow_add(flow, packet, from);
    /* Exchanges and handshakes are told of the older flow. */
    if (replay->outers[slot].translated)
        return;
    exchanges_take(&replay->exchanges, slot, &arrival->frame, flow, packet, from, before);
    if (flow->transport != TRANSPORT_TCP)
        return;
    flags = handshakes_take(&replay->handshakes[slot], replay->pieces, &arrival->frame, flow, packet, from);
    if (flags)
        turns_begin(replay->turns, slot, flow, flags);
    if (!(flags & TURN_TICKETS))
        turns_take(replay->turns, slot, flow, packet, from, before.next_sequence);
}

/* Whether the packet is to or from a port of DNS. */
static int has_dns_port(const struct replay *replay, const struct packet *packet)
{
    const __u8 *ports = replay->dns_ports;
    __u16 source = packet->source_port;
    __u16 destination = packet->destination_port;

    return (ports[source >> 3] >> (source & 7) | ports[destination >> 3] >> (destination & 7)) & 1;
}

/* Whether it is one of DNS over UDP, by its ports. */
static int is_dns(const struct replay *replay, const struct packet *packet)
{
    return packet->transport == TRANSPORT_UDP && has_dns_port(replay, packet);
}

/* What is known of a flow that begins with this packet. */
static int opening_of(const struct replay *replay, const struct packet *packet)
{
    int first = packet->time_ns > replay->begin_ns && packet->time_ns - replay->begin_ns >= replay->rest_ns;

    return (first ? FLOW_OPENS_FIRST : 0) | (is_dns(replay, packet) ? FLOW_OPENS_NUMBERED : 0);
}

/* Whose question the packets of a flow are: the client's, as far as it is known who that is. */
static __u64 owner_of(const struct flow *flow)
{
    return owner_by_address(flow->role == FLOW_ROLE_SERVER ? flow->remote_address : flow->local_address);
}

/* A segment of DNS is handed on: messages are made of them by who reads. */
static void hand_on_segment(
        struct replay *replay, const struct arrival *arrival, const struct flow *flow, const struct packet *packet, int from)
{
    __u8 header[TCP_HEADER_BYTES];

    if (!packet->payload_bytes || !has_dns_port(replay, packet) ||
            parse_load(&arrival->frame, packet->transport_offset, header, sizeof(header)))
        return;
    hand_on(replay->pieces, &arrival->frame, packet->transport_offset + (header[12] >> 4) * 4u, packet->payload_bytes,
            (struct piece){.flow_id = flow->id,
                    .time_ns = packet->time_ns,
                    .since_ns = packet->sequence,
                    .owner = owner_of(flow),
                    .kind = PIECE_DNS_TCP,
                    .from = (__u8)from});
}

/* A datagram of QUIC that may hold a hello is handed on. */
static void hand_on_quic(
        struct replay *replay, const struct arrival *arrival, struct flow *flow, const struct packet *packet, int from)
{
    __u32 offset = packet->transport_offset + UDP_HEADER_BYTES;
    __u32 held = packet->payload_bytes < QUIC_DATAGRAM_BYTES ? packet->payload_bytes : QUIC_DATAGRAM_BYTES;

    if (quic_take(&arrival->frame, offset, flow, from, flow->requests == FLOW_REQUESTS_NEW))
        hand_on_part(replay->pieces, &arrival->frame, offset, held, packet->payload_bytes,
                (struct piece){.flow_id = flow->id, .time_ns = packet->time_ns, .kind = PIECE_QUIC, .from = (__u8)from});
}

/* Look at a datagram, or what asks and answers by number; of DNS, hand the message on. */
static void ask(struct replay *replay, __u32 slot, const struct arrival *arrival, const struct packet *packet, int from)
{
    struct flow *flow = &replay->slots[slot];
    struct turns *turns = replay->outers[slot].translated ? NULL : replay->turns; /* they are told of the older flow */
    struct question_of host = {replay->questions, flow->id};
    struct question_message message = {.number = 0};

    if (flow->transport == TRANSPORT_TCP)
        hand_on_segment(replay, arrival, flow, packet, from);
    else if (flow->transport == TRANSPORT_UDP && !is_dns(replay, packet))
        hand_on_quic(replay, arrival, flow, packet, from);
    if (is_looked_at(flow))
        look_at(host, &arrival->frame, packet->transport_offset, flow, packet, from, opening_of(replay, packet), &message);
    turns_take_datagram(turns, slot, flow, packet, from);
    if (!message.counted || !is_dns(replay, packet))
        return;
    if (message.answers)
        turns_answer(turns, flow, packet, &message);
    hand_on(replay->pieces, &arrival->frame, packet->transport_offset + UDP_HEADER_BYTES, packet->payload_bytes,
            (struct piece){.flow_id = flow->id,
                    .time_ns = packet->time_ns,
                    .since_ns = message.asked_ns,
                    .owner = owner_of(flow),
                    .kind = PIECE_DNS,
                    .from = (__u8)from});
}

/* A file that does not go on where the one before it ended is another capture. */
static void look_on(struct replay *replay, __u64 time_ns)
{
    if (replay->file_begins && (time_ns < replay->seen_ns || time_ns - replay->seen_ns > replay->rest_ns)) {
        replay->begin_ns = time_ns;
        replay->seen_ns = time_ns;
    }
    replay->file_begins = 0;
    if (time_ns > replay->seen_ns)
        replay->seen_ns = time_ns;
}

enum count_result {
    COUNT_NO_SLOT, /* nothing but a retired flow has changed, and the packet can come again */
    COUNT_FLOW,
    COUNT_COPY,
};

static enum count_result count_packet(struct replay *replay, struct arrival *arrival, __u32 interface)
{
    struct packet *packet = &arrival->packet;
    __u64 fingerprint = copy_fingerprint(arrival);
    __u32 point = copy_point(arrival, interface);
    __u32 hash = hash_packet(replay, packet, &arrival->through);
    int from = FLOW_TX;
    __u32 slot = find_slot(replay, packet, &arrival->through, hash, &from);
    struct flow *flow;

    if (slot == NO_SLOT)
        slot = copy_find_joined(replay, arrival, fingerprint, point, &from);
    if (slot != NO_SLOT && packet->transport == TRANSPORT_TCP && tcp_renews(&replay->slots[slot], packet, from)) {
        retire_slot(replay, slot);
        slot = NO_SLOT;
    } else if (slot != NO_SLOT && copy_of_flow(replay, packet, fingerprint, slot, from, point)) {
        return COUNT_COPY;
    }
    if (slot == NO_SLOT) {
        slot = take_slot(replay, hash);
        if (slot == NO_SLOT)
            return COUNT_NO_SLOT;
        from = first_direction(packet);
        flow = &replay->slots[slot];
        flow->state = FLOW_LIVE;
        replay->files[slot] = replay->file_number;
        copy_of_flow(replay, packet, fingerprint, slot, from, point);
        flow->id = ++replay->counters.flows;
        flow_open(flow, packet, from);
    }
    copy_mark_translated(replay, packet, fingerprint, slot, point);
    add_packet(replay, slot, arrival, packet, from);
    ask(replay, slot, arrival, packet, from);
    if (arrival->through.kind) {
        replay->outer_used[slot] = 1;
        outer_adopt(&replay->outers[slot], &arrival->through, from);
        outer_count(&replay->outers[slot], from, arrival->outer_bytes);
    }
    if (arrival->fragment_count) {
        replay->outer_used[slot] = 1;
        replay->outers[slot].sides[from & 1].fragments++;
        take_first_fragments(replay, arrival, arrival->fragment_count, slot, from);
    }
    return COUNT_FLOW;
}

/* Returns 0 where the packet has to wait for a slot. */
static int take_packet(struct replay *replay, const struct captured *captured)
{
    struct fragment_sum sum = {.packets = 1};
    enum packet_disposition disposition;
    enum count_result counted = COUNT_FLOW;
    struct arrival arrival;

    memset(&arrival, 0, offsetof(struct arrival, fragments));
    arrival.frame.bytes = captured->bytes;
    arrival.frame.captured = captured->captured;
    arrival.packet.time_ns = captured->time_ns;
    arrival.wire_bytes = captured->wire_bytes;
    disposition = parse_arrival(&arrival, captured->link_type);
    look_on(replay, captured->time_ns);
    if (disposition == PACKET_FLOW)
        counted = count_packet(replay, &arrival, captured->interface);
    if (counted == COUNT_NO_SLOT)
        return 0;
    if (counted == COUNT_COPY || (disposition == PACKET_FRAGMENT && copy_of_fragment(replay, &arrival, captured->interface)))
        disposition = PACKET_COPY;
    if (disposition == PACKET_FRAGMENT) {
        take_later_fragment(replay, &arrival);
    } else {
        sum.wire_bytes = arrival.wire_bytes;
        sum.outer_bytes = arrival.outer_bytes;
        settle(replay, disposition, &sum, arrival.packet.ip_bytes);
    }
    if (disposition == PACKET_FLOW &&
            (arrival.packet.transport == TRANSPORT_ICMP || arrival.packet.transport == TRANSPORT_ICMPV6))
        attach_error(replay, &arrival);
    if (captured->time_ns > replay->counters.clock_ns)
        replay->counters.clock_ns = captured->time_ns;
    return 1;
}

#endif
