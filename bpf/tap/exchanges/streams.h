/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * HTTP/2 live (engine/http2/follow.h). Where frames of a connection are is kept with its socket, whose end is its end; what is told of
 * them goes through a ring buffer to capture's process, which keeps the streams (bpf/calls). A packet within a frame that is passed
 * over pays for a comparison (is_passed_over), and those of other connections for one in exchange_is_touched.
 *
 * A program takes a few frames and calls itself for more: so the verifier walks few, and all that a packet may hold are bounded.
 */
#ifndef WIRESPAN_TAP_STREAMS_H
#define WIRESPAN_TAP_STREAMS_H

#include "exchanges.h"

#include "../../engine/http2/told.h"

static inline __attribute__((always_inline)) int http2_tell(
        exchange_host host, frame_source skb, struct http2_told *told, __u32 offset);

/* A row of packets; of a stream that is reset, or pauses for seconds, in the midst of its DATA, what is not known. */
#define HTTP2_UNTOLD_BYTES 262144u
#define HTTP2_UNTOLD_NS    4000000u

#include "../../engine/http2/follow.h"

#ifndef FRAME_PAGES
#define FRAME_PAGES 2048 /* 8 MiB: what is told of 20,000 ends of calls of gRPC, until it is read */
#endif
#ifndef UNACCEPTED
#define UNACCEPTED 1024
#endif
#define FRAMES_AT_ONCE 12 /* by a program, which calls itself 30 times and more for a packet: 360 */

/* What was done with a packet, in CB_AT. */
enum frames_done {
    FRAMES_CLOSED = 1, /* it was told that nothing more comes */
    FRAMES_GO_ON, /* some of its frames were taken */
};

struct followed {
    struct http2_connection connection;
    slot_reference told; /* of which flow it was told that it opens */
};

/* Where what is told is put together with what is held, for each direction: what is received interrupts what is sent. */
struct told_room {
    struct http2_told told;
    __u8 held[HTTP2_HELD_BYTES];
};

BPF_SK_STORAGE(http2_of_socket, struct followed);
/*
 * The same of connections whose first frames came before their sockets (accepted.h), by the reference of their slot, until the socket's
 * first packet takes it over. Nobody deletes from it: the oldest make room.
 */
BPF_TABLE("lru_hash", slot_reference, struct followed, http2_unaccepted, UNACCEPTED);
BPF_TABLE("array", u32, struct followed, no_followed, 1);
BPF_RINGBUF_OUTPUT(http2_frames, FRAME_PAGES);
BPF_TABLE("percpu_array", u32, struct told_room, told_rooms, 2);

static inline __attribute__((always_inline)) int http2_tell(
        exchange_host host, frame_source skb, struct http2_told *told, __u32 offset)
{
    __u32 place = told->from & 1;
    __u64 held = told->held;
    struct told_room *room;
    int failed;

    told->slot = (__u32)host.reference;
    if (!held) {
        failed = http2_frames.ringbuf_output(told, sizeof(*told), RINGBUF_NO_WAKEUP);
    } else {
        room = told_rooms.lookup(&place);
        if (!room)
            return -1;
        room->told = *told;
        /* Old verifiers do not follow what the compiler makes of a comparison; this they do: it is 1 to all there is room for. */
        asm volatile("" : "+r"(held));
        held = ((held - 1) & (HTTP2_HELD_BYTES - 1)) + 1;
        failed = bpf_skb_load_bytes(skb, offset, room->held, held) ||
                 http2_frames.ringbuf_output(room, sizeof(room->told) + held, RINGBUF_NO_WAKEUP);
    }
    if (failed)
        count_request(host, FRAMES_LOST);
    return failed ? -1 : 0;
}

/*
 * `connection`: NULL where it is none of HTTP/2 (messages.h). Returns -1 where there is no room for it: of HTTP/2, the next packet tells
 * it, and what this one says is missed.
 */
FLOW_INLINE int tell_opening(exchange_host host, const struct http2_connection *connection, const struct flow *flow, int from)
{
    __u32 place = from & 1;
    struct told_room *room = told_rooms.lookup(&place);
    struct http2_told told = {.flow_id = flow->id, .what = HTTP2_OPENS, .held = sizeof(struct http2_opening)};
    struct http2_opening *opening;

    if (!room)
        return -1;
    room->told = told;
    opening = (struct http2_opening *)room->held;
    opening->owner = host.cgroup_id;
    opening->missed[FLOW_TX] = 0;
    opening->missed[FLOW_RX] = 0;
    if (connection)
        http2_describe(opening, connection, flow);
    else
        opening_describe(opening, flow);
    return http2_frames.ringbuf_output(room, sizeof(room->told) + sizeof(*opening), RINGBUF_NO_WAKEUP) ? -1 : 0;
}

/*
 * The request that went over to HTTP/2 is kept with its streams from now on. Of two packets that are here at once, one of each
 * direction, the one that takes it out tells.
 */
FLOW_INLINE void tell_upgrade(exchange_host host, const struct flow *flow, int from)
{
    __u32 place = from & 1;
    struct told_room *room = told_rooms.lookup(&place);
    struct exchange *asked = exchange_open(host);
    struct http2_told told = {.flow_id = flow->id, .what = HTTP2_UPGRADES, .held = sizeof(struct exchange)};

    if (!room || !asked || asked->status != STATUS_SWITCHING)
        return;
    room->told = told;
    __builtin_memcpy(room->held, asked, sizeof(*asked));
    if (open_exchanges.delete(&host.reference))
        return;
    if (http2_frames.ringbuf_output(room, sizeof(room->told) + sizeof(*asked), RINGBUF_NO_WAKEUP))
        count_request(host, FRAMES_LOST);
}

/* Where frames are kept of the packet's connection, which was just found to be one of HTTP/2; NULL: nowhere. */
FLOW_INLINE struct followed *followed_begins(exchange_host host, int from)
{
    __u32 zero = 0;
    struct followed *followed;

    if (from == FLOW_RX && !is_connected(host.sk)) {
        followed = no_followed.lookup(&zero);
        if (followed)
            http2_unaccepted.update(&host.reference, followed);
        return http2_unaccepted.lookup(&host.reference);
    }
    followed = http2_of_socket.sk_storage_get(host.sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
    if (!followed) /* not to be had, or made at this moment */
        followed = http2_of_socket.sk_storage_get(host.sk, 0, 0);
    return followed;
}

/* A socket's first packet: what was followed before there was a socket is its own. Returns whether there is anything. */
FLOW_INLINE int take_over_followed(exchange_host host)
{
    struct followed *followed = http2_unaccepted.lookup(&host.reference);

    if (followed)
        http2_of_socket.sk_storage_get(host.sk, followed, BPF_SK_STORAGE_GET_F_CREATE);
    return followed != NULL;
}

/* Up to where this direction's packets need not be looked at: http2_passes_until. */
FLOW_INLINE void note_passing(exchange_host host, int from, __u32 until)
{
    __u32 number = (__u32)host.reference;
    struct passing *passing = passing_frames.lookup(&number);

    if (passing)
        passing->until[from & 1] = until;
}

/*
 * Go on with a packet's frames where the connection is one of HTTP/2: by this packet, as note_frames left it, or by one of the other
 * direction that is handled at this moment. That it is one is noted last: whoever finds it finds the rest.
 */
FLOW_INLINE void look_for_frames(struct __sk_buff *skb, exchange_host host, struct flow *flow, int from)
{
    __u32 begins = skb->cb[CB_BEGINS];
    struct followed *followed;

    if (flow->requests != FLOW_REQUESTS_STREAMS) {
        if (!begins)
            return;
        note_passing(host, FLOW_TX, 0);
        note_passing(host, FLOW_RX, 0);
        followed = followed_begins(host, from);
        if (followed) {
            http2_begin(&followed->connection, flow, from, begins, skb->cb[CB_AT]);
            flow->requests = FLOW_REQUESTS_STREAMS;
        }
    }
    skb->cb[CB_FRAMES_OF] = (__u32)host.reference;
    skb->cb[CB_AT] = 0;
    call_exchange(skb, from, CALL_FRAMES);
    exchange_give_up(host, flow, CONNECTION_HTTP2); /* no such program: the kernel refused it */
}

/*
 * The packet that was left off at, likewise: of a connection whose frames are followed. Where they are kept `which` program tells, so that
 * the verifier walks neither for both.
 */
FLOW_INLINE int tap_frames(struct __sk_buff *skb, int from, enum exchange_call which)
{
    const __u8 *ip = (const __u8 *)(long)skb->data;
    const __u8 *end = (const __u8 *)(long)skb->data_end;
    struct exchange_moment before = {.next_sequence = skb->cb[CB_NEXT_SEQUENCE], .outcome = skb->cb[CB_OUTCOME]};
    struct bpf_sock *sk = skb->sk;
    struct packet packet = {};
    struct exchange_of host;
    struct followed *followed;
    struct http2_side *side;
    struct slot *slot;
    const __u8 *tcp;
    __u32 offset;
    __u32 behind;
    __u32 passed = 0;
    int taken = 0;
    int turn = 0;

    if (ip + 40 > end)
        return 1;
    if (ip[0] == 0x45 ? ip[9] != TRANSPORT_TCP : ip[0] >> 4 != 6 || ip[6] != TRANSPORT_TCP)
        return 1;
    offset = ip_header_bytes(ip);
    tcp = ip + offset;
    if (tcp + 20 > end)
        return 1;
    packet.tcp_flags = tcp[13];
    packet.sequence = bpf_ntohl(*(const __be32 *)(tcp + 4));
    offset += (tcp[12] >> 4) * 4u;
    packet.payload_bytes = skb->len - offset;
    if (from == FLOW_TX && !skb->cb[CB_AT] && is_passed_over(skb->cb[CB_FRAMES_OF], &packet, from))
        return 1;
    if (sk)
        sk = bpf_sk_fullsock(sk);
    if (from == FLOW_RX && which == CALL_FRAMES && sk && !is_connected(sk)) {
        call_exchange(skb, from, CALL_UNACCEPTED_FRAMES);
        return 1;
    }
    slot = sk ? slot_of_call(sk, from, &host.reference) : NULL;
    if (!slot)
        return 1;
    host.cgroup_id = slot->socket.cgroup_id;
    host.sk = sk;
    if (which == CALL_FRAMES)
        followed = http2_of_socket.sk_storage_get(sk, 0, 0);
    else
        followed = http2_unaccepted.lookup(&host.reference);
    if (!followed) {
        if (which == CALL_FRAMES && take_over_followed(host))
            call_exchange(skb, from, which);
        exchange_give_up(host, &slot->flow, CONNECTION_HTTP2);
        return 1;
    }
    side = &followed->connection.sides[from & 1];
    packet.time_ns = slot->flow.last_ns;
    behind = offset + packet.payload_bytes;

    const struct http2_look look = {host, skb, &slot->flow, &packet, from};

    /* What is done once is done by a call of its own, so that the verifier does not walk all that follows behind it too. */
    if (http2_meet(&followed->connection, &slot->flow, &packet, from, &before)) {
        call_exchange(skb, from, which);
        return 1;
    }
    /* Told by either direction at once it opens once. */
    if (followed->told != host.reference) {
        if (tell_opening(host, &followed->connection, &slot->flow, from))
            return 1;
        followed->told = host.reference;
        tell_upgrade(host, &slot->flow, from);
        call_exchange(skb, from, which);
        return 1;
    }
    if (packet.tcp_flags & (TCP_FIN | TCP_RST) && !skb->cb[CB_AT]) {
        http2_close(&look, &before);
        skb->cb[CB_AT] = FRAMES_CLOSED;
        call_exchange(skb, from, which);
        return 1;
    }
    if (skb->cb[CB_AT] != FRAMES_GO_ON) {
        /* A FIN says how much came before it. */
        if (!(packet.payload_bytes || packet.tcp_flags & TCP_FIN) || packet.tcp_flags & TCP_RST)
            return 1;
        taken = http2_skip(&look, side);
    }
    /* Behind what came before. */
    offset += side->next - packet.sequence;
    if (taken >= 0 && offset < behind)
        passed = http2_pass(&look, side, offset, behind - offset, skb->cb[CB_AT] == FRAMES_GO_ON);
    if (passed) {
        skb->cb[CB_AT] = FRAMES_GO_ON;
        if (passed < behind - offset)
            call_exchange(skb, from, which);
        else
            note_passing(host, from, http2_passes_until(side));
        return 1;
    }
    TEXT_LOOP
    while (taken >= 0 && offset < behind && turn++ < FRAMES_AT_ONCE) {
        http2_settle();
        taken = http2_step(&look, side, offset, behind - offset);
        offset += (__u32)taken;
        /* Up to Linux 6.1 a loop is one only if it goes back by a jump; the compiler may lay it out to fall through to its beginning. */
        asm volatile("goto +0" : "+r"(offset), "+r"(taken), "+r"(turn) : : "memory");
    }
    if (taken >= 0 && offset < behind) {
        skb->cb[CB_AT] = FRAMES_GO_ON;
        call_exchange(skb, from, which);
        taken = HTTP2_JUMPS; /* it was called too often */
    }
    if (taken < 0)
        http2_stumble(&look, &followed->connection, &slot->flow, taken);
    note_passing(host, from, http2_passes_until(side));
    return 1;
}

#endif
