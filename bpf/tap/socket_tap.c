/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * The socket tap: every packet of every socket, once, at the root of cgroup v2, under any network plugin.
 *
 * Two programs of type cgroup_skb, ingress and egress, feed one flow engine. A flow is oriented from the socket that sent or
 * received the packet: a connection between two pods of a node is two flows, as it is across nodes.
 *
 * Where a packet's flow is found:
 *   - socket storage on connected sockets: a reference to the slot, no lookup of addresses and hardly a parse;
 *   - the hash `flows_by_key` for everything else (handshakes, unconnected UDP, ICMP, raw).
 *
 * A slot's life. The reader puts references (slot, generation) on `free_slots`, a stack, so that few slots are ever used. A
 * program takes one, fills the slot, publishes the reference in the hash and makes the slot live. A reference holds while the
 * slot's flow has it for an id and is not retired. To end a flow the reader deletes its key, retires the slot and waits until all
 * programs that ran meanwhile are done; then it reads the slot for the last time, zeroes it and puts it back with the next
 * generation. A program retires a slot itself when its addresses and ports are used for another connection; the key then already
 * means the other's slot. References in socket storage go stale and nobody minds.
 *
 * When no slot is free the packet is added to `unattributed` by transport, so that totals always add up.
 *
 * Compiled once for everybody: what differs is told when it is loaded (constants.h), as are the sizes of maps.
 */

#include "accepted.h"
#include "flows/begin.h"
#include "clock.h"
#include "connected.h"
#include "counters.h"
#include "exchanges/exchanges.h"
#include "pieces/handshakes.h"
#include "host.h"
#include "flows/keys.h"
#include "own.h"
#include "pieces/questions.h"
#include "rules.h"
#include "exchanges/messages.h"
#include "exchanges/streams.h"
#include "timed.h"
#include "flows/translation.h"

#include "../engine/parse.h"
#include "../engine/update.h"

FLOW_INLINE int tap_any(struct __sk_buff *skb, struct bpf_sock *sk, int connected, int from)
{
    struct packet packet = {};
    struct flow_key key;
    struct endpoint seen = {.port = 0};
    int begins = 0;
    slot_reference reference = 0;
    slot_reference *published;
    struct slot *slot = NULL;
    struct exchange_moment before = {};
    enum packet_disposition disposition;
    int timed = 1;

    disposition = parse_ip(skb, 0, skb->len, &packet);
    if (disposition != PACKET_FLOW) {
        packet.ip_bytes = skb->len;
        count_packet(disposition == PACKET_FRAGMENT ? unattributed(&packet) : TAP_MALFORMED, &packet);
        return 1;
    }
    note_transport(skb, packet.transport_offset);
    count_segments(skb, &packet);
    if (TAP_HAS(TAP_EXCLUDE_LOOPBACK)) {
        if (is_loopback(packet.source_address) || is_loopback(packet.destination_address)) {
            count_packet(TAP_LOOPBACK, &packet);
            return 1;
        }
    }
    if (from == FLOW_TX) {
        __builtin_memcpy(seen.address, packet.destination_address, 16);
        seen.port = packet.destination_port;
        if (connected)
            undo_translation(sk, &packet, 1);
    }
    flow_key_of(&key, &packet, from);
    published = flows_by_key.lookup(&key);
    if (published) {
        reference = *published;
        slot = slot_at(reference);
    }
    if (!slot && sk && !connected)
        slot = find_by_socket(skb, sk, &packet, &key, from, &reference);
    if (slot) {
        if (packet.transport == TRANSPORT_TCP) {
            timed = is_timed_tcp(&slot->flow, &packet, from) || is_timed_exchange(&slot->flow, &packet, from);
            before = moment_before(&slot->flow, from);
            if (tcp_renews(&slot->flow, &packet, from)) {
                slot->flow.state = FLOW_RETIRED;
                slot = NULL;
            }
        } else {
            timed = is_timed_datagram(&slot->flow);
        }
    }
    packet.time_ns = slot ? packet_time(skb, &slot->flow, timed, 0) : set_ticks();
    if (!slot) {
        if (packet.transport == TRANSPORT_TCP && packet.tcp_flags & TCP_RST) {
            count_packet(TAP_STRAY_RESET, &packet);
            return 1;
        }
        if (TAP_HAS(TAP_EXCLUDE_LOOPBACK)) {
            if (is_loopback(key.local_address) || is_loopback(key.remote_address)) {
                count_packet(TAP_LOOPBACK, &packet);
                return 1;
            }
        }
        if (TAP_HAS(TAP_OWN)) {
            if (packet.transport == TRANSPORT_TCP && is_of_own(&key, &packet, from)) {
                count_packet(TAP_EXCLUDED, &packet);
                return 1;
            }
        }
        if (is_left_out(&key)) {
            count_packet(TAP_FILTERED, &packet);
            return 1;
        }
        slot = begin_flow(skb, &key, &packet, from, &reference);
        if (!slot) {
            count_packet(unattributed(&packet), &packet);
            return 1;
        }
        note_dns(slot);
        begins = 1;
    }
    if (from == FLOW_TX)
        note_backend(slot, &key, &seen);
    if (begins && sk && !connected)
        publish_by_socket(skb, sk, &key, slot, &reference);
    flow_add(&slot->flow, &packet, from);
    if (connected) {
        if (packet.transport == TRANSPORT_TCP)
            read_socket(slot, sk);
        remember_slot(sk, reference);
    } else if (is_unaccepted(sk, &slot->flow, &packet, from)) {
        leave_flow(reference);
        connected = 1;
    }
    if (connected && packet.transport == TRANSPORT_TCP) {
        hand_on_dns(skb, slot, &packet, packet.transport_offset, from);
        look_for_handshake(skb, &slot->flow, &packet, from, before);
        if (from == FLOW_RX)
            follow_turn(slot, &packet, from, before.next_sequence);
        look_into(skb, &slot->flow, &packet, from, before);
    }
    if (packet.transport != TRANSPORT_TCP)
        ask(skb, slot, &packet, from);
    return 1;
}

/* A connection that was joined by what it receives, or whose SYN-ACK nobody saw: where what it sends goes is still to be seen. */
FLOW_INLINE int is_first_sent(const struct flow *flow, int from)
{
    return from == FLOW_TX && flow->transport == TRANSPORT_TCP && !flow->sides[FLOW_TX].packets;
}

FLOW_INLINE int tap(struct __sk_buff *skb, int from)
{
    struct bpf_sock *sk = skb->sk;
    slot_reference *stored;
    struct slot *slot;
    int connected = 0;

    if (sk)
        sk = bpf_sk_fullsock(sk);
    if (sk && is_connected(sk)) {
        stored = slot_of_socket.sk_storage_get(sk, 0, 0);
        if (TAP_HAS(TAP_OWN)) {
            if (stored && *stored == OWN_SOCKET)
                return tap_own(skb, from);
        }
        slot = stored ? slot_at(*stored) : NULL;
        if (slot && !is_first_sent(&slot->flow, from) && tap_connected(skb, sk, slot, from))
            return 1;
        connected = sk->protocol == TRANSPORT_TCP || sk->protocol == TRANSPORT_UDP;
    }
    return tap_any(skb, sk, connected, from);
}

int tap_ingress(struct __sk_buff *skb)
{
    return tap(skb, FLOW_RX);
}

int tap_egress(struct __sk_buff *skb)
{
    return tap(skb, FLOW_TX);
}

int tap_ingress_question(struct __sk_buff *skb)
{
    return tap_question(skb, FLOW_RX);
}

int tap_egress_question(struct __sk_buff *skb)
{
    return tap_question(skb, FLOW_TX);
}

int tap_ingress_handshake(struct __sk_buff *skb)
{
    return tap_handshake(skb, FLOW_RX);
}

int tap_egress_handshake(struct __sk_buff *skb)
{
    return tap_handshake(skb, FLOW_TX);
}

int tap_ingress_request(struct __sk_buff *skb)
{
    return tap_exchange(skb, FLOW_RX, CALL_REQUEST);
}

int tap_ingress_line(struct __sk_buff *skb)
{
    return tap_exchange(skb, FLOW_RX, CALL_LINE);
}

int tap_ingress_headers(struct __sk_buff *skb)
{
    return tap_exchange(skb, FLOW_RX, CALL_HEADERS);
}

int tap_ingress_cut(struct __sk_buff *skb)
{
    return tap_exchange(skb, FLOW_RX, CALL_CUT);
}

int tap_ingress_response(struct __sk_buff *skb)
{
    return tap_exchange(skb, FLOW_RX, CALL_RESPONSE);
}

int tap_egress_request(struct __sk_buff *skb)
{
    return tap_exchange(skb, FLOW_TX, CALL_REQUEST);
}

int tap_egress_line(struct __sk_buff *skb)
{
    return tap_exchange(skb, FLOW_TX, CALL_LINE);
}

int tap_egress_headers(struct __sk_buff *skb)
{
    return tap_exchange(skb, FLOW_TX, CALL_HEADERS);
}

int tap_egress_cut(struct __sk_buff *skb)
{
    return tap_exchange(skb, FLOW_TX, CALL_CUT);
}

int tap_egress_response(struct __sk_buff *skb)
{
    return tap_exchange(skb, FLOW_TX, CALL_RESPONSE);
}

int tap_ingress_frames(struct __sk_buff *skb)
{
    return tap_frames(skb, FLOW_RX, CALL_FRAMES);
}

int tap_ingress_messages(struct __sk_buff *skb)
{
    return tap_messages(skb, FLOW_RX);
}

int tap_egress_messages(struct __sk_buff *skb)
{
    return tap_messages(skb, FLOW_TX);
}

int tap_ingress_unaccepted(struct __sk_buff *skb)
{
    return tap_frames(skb, FLOW_RX, CALL_UNACCEPTED_FRAMES);
}

int tap_egress_frames(struct __sk_buff *skb)
{
    return tap_frames(skb, FLOW_TX, CALL_FRAMES);
}

/* An application makes a socket: always allowed. */
int tap_create(struct bpf_sock *sk)
{
    note_creator(sk);
    if (TAP_HAS(TAP_OWN))
        mark_own(sk);
    return 1;
}

/* The application closes a socket. Where this does not load, a closed connection ends a minute later. */
int tap_release(struct bpf_sock *sk)
{
    slot_reference *stored = slot_of_socket.sk_storage_get(sk, 0, 0);
    struct slot *slot = stored ? slot_at(*stored) : NULL;

    if (slot) {
        slot->flow.abandoned = 1;
        if (TAP_HAS(TAP_CLOSERS))
            note_closer(sk, *stored);
    }
    return 1;
}

/* The application says where a datagram goes: before any translation. Always allowed. */
int tap_sendmsg4(struct bpf_sock_addr *context)
{
    struct destination to = {.port = bpf_ntohs((__u16)context->user_port), .sending = 1};

    set_ipv4(to.address, context->user_ip4);
    note_destination(context->sk, &to);
    return 1;
}

int tap_sendmsg6(struct bpf_sock_addr *context)
{
    struct destination to = {.port = bpf_ntohs((__u16)context->user_port), .sending = 1};

    set_words(to.address, context->user_ip6[0], context->user_ip6[1], context->user_ip6[2], context->user_ip6[3]);
    note_destination(context->sk, &to);
    return 1;
}

/* The baseline of the benchmarks. */
int tap_nothing(struct __sk_buff *skb)
{
    return 1;
}
