/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * HTTP/2 live (engine/http2/follow.h). Where frames of a connection are is kept with its socket, whose end is its end; what is told of
 * them goes through a ring buffer to capture's process, which keeps the streams (bpf/calls). A packet within a frame that is passed
 * over pays for a comparison there; those of other connections for one in exchange_is_touched.
 *
 * A program takes a few frames and calls itself for more: so the verifier walks few, and all that a packet may hold are bounded.
 */
#ifndef WIRESPAN_TAP_STREAMS_H
#define WIRESPAN_TAP_STREAMS_H

#include "exchanges.h"

#include "../../engine/http2/told.h"

static inline __attribute__((always_inline)) int http2_tell(
        exchange_host host, frame_source skb, struct http2_told *told, __u32 offset);

#include "../../engine/http2/follow.h"

#ifndef FRAME_PAGES
#define FRAME_PAGES 2048 /* 8 MiB: what is told of 20,000 calls of gRPC between two looks */
#endif
#define FRAMES_AT_ONCE 9 /* by a program, which calls itself 31 times for a packet: 280 */

struct followed {
    struct http2_connection connection;
    __u32 is_told; /* that it was opened */
    __u32 pad;
};

/* Where what is told is put together with what is held, for each direction: what is received interrupts what is sent. */
struct told_room {
    struct http2_told told;
    __u8 held[HTTP2_HELD_BYTES];
};

BPF_SK_STORAGE(http2_of_socket, struct followed);
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

/* Returns -1 where it could not be told: the next packet tells it. */
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
    http2_describe(opening, connection, flow);
    return http2_frames.ringbuf_output(room, sizeof(room->told) + sizeof(*opening), RINGBUF_NO_WAKEUP) ? -1 : 0;
}

/* The request that went over to HTTP/2 is kept with its streams from now on. */
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
    if (http2_frames.ringbuf_output(room, sizeof(room->told) + sizeof(*asked), RINGBUF_NO_WAKEUP))
        count_request(host, FRAMES_LOST);
    exchange_dropped(host, asked);
}

/* The connection is one of HTTP/2, as note_frames left it in the socket buffer: go on with its frames. */
FLOW_INLINE void begin_streams(struct __sk_buff *skb, struct bpf_sock *sk, exchange_host host, struct flow *flow, int from)
{
    struct followed *followed = http2_of_socket.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE);

    if (followed) {
        followed->is_told = 0;
        if (skb->cb[CB_BEGINS] == FRAMES_UPGRADED)
            http2_upgrade(&followed->connection, flow, from, skb->cb[CB_AT]);
        else if (skb->cb[CB_BEGINS] == FRAMES_PREFACE)
            http2_begin(&followed->connection, flow, from, skb->cb[CB_AT]);
        else
            http2_join(&followed->connection);
        skb->cb[CB_AT] = 0;
        call_exchange(skb, from, CALL_FRAMES);
    }
    exchange_give_up(host, flow, CONNECTION_HTTP2);
}

/* The packet that was left off at, likewise: of a connection whose frames are followed. */
FLOW_INLINE int tap_frames(struct __sk_buff *skb, int from)
{
    const __u8 *ip = (const __u8 *)(long)skb->data;
    const __u8 *end = (const __u8 *)(long)skb->data_end;
    struct exchange_moment before = {.outcome = skb->cb[CB_OUTCOME]};
    struct bpf_sock *sk = skb->sk;
    struct packet packet = {};
    struct exchange_of host;
    struct followed *followed;
    struct http2_side *side;
    slot_reference *stored;
    struct slot *slot;
    const __u8 *tcp;
    __u32 offset;
    __u32 behind;
    int taken = 0;
    int turn;

    if (sk)
        sk = bpf_sk_fullsock(sk);
    stored = sk ? slot_of_socket.sk_storage_get(sk, 0, 0) : NULL;
    slot = stored ? slot_at(*stored) : NULL;
    if (!slot || ip + 40 > end)
        return 1;
    offset = ip[0] == 0x45 ? 20 : 40;
    tcp = ip + offset;
    if (tcp + 20 > end || (offset == 20 ? ip[9] : ip[6]) != TRANSPORT_TCP || (offset == 40 && ip[0] >> 4 != 6))
        return 1;
    host.reference = *stored;
    host.cgroup_id = slot->socket.cgroup_id;
    host.sk = sk;
    followed = http2_of_socket.sk_storage_get(sk, 0, 0);
    if (!followed) {
        exchange_give_up(host, &slot->flow, CONNECTION_HTTP2);
        return 1;
    }
    side = &followed->connection.sides[from & 1];
    packet.tcp_flags = tcp[13];
    packet.sequence = bpf_ntohl(*(const __be32 *)(tcp + 4));
    offset += (tcp[12] >> 4) * 4u;
    packet.payload_bytes = skb->len - offset;
    packet.time_ns = slot->flow.last_ns;
    behind = offset + packet.payload_bytes;

    const struct http2_look look = {host, skb, &slot->flow, &packet, from};

    if (!followed->is_told) {
        followed->is_told = !tell_opening(host, &followed->connection, &slot->flow, from);
        if (followed->is_told)
            tell_upgrade(host, &slot->flow, from);
    }
    if (!skb->cb[CB_AT]) {
        if (packet.tcp_flags & (TCP_FIN | TCP_RST))
            http2_close(&look, &before);
        /* A FIN says how much came before it. */
        if (!(packet.payload_bytes || packet.tcp_flags & TCP_FIN) || packet.tcp_flags & TCP_RST)
            return 1;
        taken = http2_skip(&look, side);
    }
    /* Behind what came before. */
    offset += side->next - packet.sequence;
    TEXT_LOOP
    for (turn = 0; turn < FRAMES_AT_ONCE && taken >= 0 && offset < behind; turn++) {
        taken = http2_step(&look, side, offset, behind - offset);
        offset += (__u32)taken;
    }
    if (taken >= 0 && offset < behind) {
        skb->cb[CB_AT] = 1;
        call_exchange(skb, from, CALL_FRAMES);
        taken = HTTP2_JUMPS; /* it was called too often */
    }
    if (taken < 0)
        http2_stumble(&look, &followed->connection, &slot->flow, taken);
    return 1;
}

#endif
