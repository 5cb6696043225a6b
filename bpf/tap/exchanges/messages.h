/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * Connections of HTTP/1 whose requests are pipelined, live (engine/http/pipeline.h). Where messages are is kept with the connection's
 * socket; what is told of them goes the way of frames of HTTP/2 (streams.h).
 *
 * A program takes some lines and calls itself for more, as that of frames does. Each direction writes its own side only, but where it
 * begins: the client's packet by which it does writes both, before anybody else finds them.
 */
#ifndef WIRESPAN_TAP_MESSAGES_H
#define WIRESPAN_TAP_MESSAGES_H

#include "streams.h"

static inline __attribute__((always_inline)) int http1_tell(
        exchange_host host, struct http2_told *told, const struct http1_head *head);

#include "../../engine/http/pipeline.h"

#ifndef MESSAGES_AT_ONCE
#define MESSAGES_AT_ONCE 12 /* lines, and parts of bodies, by a program, which calls itself 30 times for a packet: 360 */
#endif

/* What is to be done with a packet, in CB_AT; what is more says how messages begin (exchange_pipelined). */
enum messages_to_do {
    MESSAGES_ALL,
    MESSAGES_GO_ON, /* some of it was taken */
    MESSAGES_CLOSE, /* all was; it is the last */
    MESSAGES_DONE,
};

/* A word of skb->cb. */
#define CB_PAYLOAD 1 /* where it lies, which the verifier is not to follow for each version of IP */

BPF_SK_STORAGE(http1_of_socket, struct http1_connection);

static inline __attribute__((always_inline)) int http1_tell(
        exchange_host host, struct http2_told *told, const struct http1_head *head)
{
    __u32 place = told->from & 1;
    struct told_room *room;
    int failed;

    told->slot = (__u32)host.reference;
    if (!(told->parts & HTTP2_BEGINS)) {
        failed = http2_frames.ringbuf_output(told, sizeof(*told), RINGBUF_NO_WAKEUP);
    } else {
        room = told_rooms.lookup(&place);
        if (!room)
            return -1;
        told->held = sizeof(*head);
        room->told = *told;
        __builtin_memcpy(room->held, head, sizeof(*head));
        failed = http2_frames.ringbuf_output(room, sizeof(room->told) + sizeof(*head), RINGBUF_NO_WAKEUP);
    }
    if (failed)
        count_request(host, FRAMES_LOST);
    return failed ? -1 : 0;
}

/*
 * Follow a flow's messages from the client's packet on, as exchange_pipelined left it. What the server says at this moment may be in its
 * flow and have been looked at as an answer of the old kind: so the client's packet has to acknowledge all that is. Returns -1 where
 * nothing is followed.
 */
FLOW_INLINE int messages_begin(const struct http2_look *look, struct flow *flow, __u32 offset, __u32 left)
{
    __u32 waits = left >> PIPELINE_WAITS_SHIFT;
    __u32 at = left & ((1u << PIPELINE_WAITS_SHIFT) - 1);
    struct exchange *open = waits == PIPELINE_TRACED ? exchange_open(look->host) : NULL;
    struct http1_connection *connection = http1_of_socket.sk_storage_get(look->host.sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
    const struct http1_side *server;

    if (!connection)
        return -1;
    http1_begin(connection, flow, look->from, look->packet->sequence + at - offset, waits != PIPELINE_NONE,
            waits == PIPELINE_HEAD || (open && open->method == HTTP_METHOD_HEAD));
    server = &connection->sides[(look->from & 1) ^ 1];
    if (server->is_placed && server->next != look->packet->acknowledgment)
        return -1;
    if (tell_opening(look->host, NULL, flow, look->from))
        return -1;
    if (open)
        http1_take_over(look, connection, open, look->from);
    http2_settle();
    flow->requests = FLOW_REQUESTS_PIPELINED;
    if (open)
        open_exchanges.delete((slot_reference *)&look->host.reference);
    return 0;
}

/* The packet that was left off at, as tap_frames has it: of a connection whose messages are followed, or are to be. */
FLOW_INLINE int tap_messages(struct __sk_buff *skb, int from)
{
    const __u8 *ip = (const __u8 *)(long)skb->data;
    const __u8 *end = (const __u8 *)(long)skb->data_end;
    struct exchange_moment before = {.outcome = skb->cb[CB_OUTCOME]};
    struct bpf_sock *sk = skb->sk;
    struct packet packet = {};
    struct exchange_of host;
    struct http1_connection *connection;
    struct http1_side *side;
    struct slot *slot;
    const __u8 *tcp;
    __u32 to_do = skb->cb[CB_AT];
    __u32 offset;
    __u32 behind;
    int taken = 0;
    int turn;

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
    packet.acknowledgment = bpf_ntohl(*(const __be32 *)(tcp + 8));
    skb->cb[CB_PAYLOAD] = offset + (tcp[12] >> 4) * 4u;
    http2_settle();
    offset = skb->cb[CB_PAYLOAD];
    packet.payload_bytes = skb->len - offset;
    behind = skb->len;
    if (sk)
        sk = bpf_sk_fullsock(sk);
    if (!sk || !is_connected(sk))
        return 1;
    slot = slot_of_call(sk, from, &host.reference);
    if (!slot)
        return 1;
    host.cgroup_id = slot->socket.cgroup_id;
    host.sk = sk;
    packet.time_ns = slot->flow.last_ns;

    const struct http2_look look = {host, skb, &slot->flow, &packet, from};

    /* What is done once is done by a call of its own, so that the verifier does not walk all that follows behind it too. */
    if (to_do > MESSAGES_DONE) {
        skb->cb[CB_AT] = MESSAGES_ALL;
        if (messages_begin(&look, &slot->flow, offset, to_do))
            give_up_pipelined(host, &slot->flow, to_do >> PIPELINE_WAITS_SHIFT);
        else
            call_exchange(skb, from, CALL_MESSAGES);
        return 1;
    }
    connection = http1_of_socket.sk_storage_get(sk, 0, 0);
    if (!connection) {
        exchange_give_up(host, &slot->flow, CONNECTION_PIPELINED);
        return 1;
    }
    side = &connection->sides[from & 1];
    if (to_do == MESSAGES_CLOSE) {
        http1_close(&look, side, &before);
        return 1;
    }
    if (to_do == MESSAGES_ALL) {
        skb->cb[CB_AT] = packet.tcp_flags & TCP_RST ? MESSAGES_CLOSE : MESSAGES_GO_ON;
        /* A FIN says how much came before it. */
        if (!(packet.tcp_flags & TCP_RST) && http1_skip(&look, side))
            http1_stumble(&look, &slot->flow);
        else
            call_exchange(skb, from, CALL_MESSAGES);
        return 1;
    }
    /* Behind what came before. */
    offset += side->next - packet.sequence;
    TEXT_LOOP
    for (turn = 0; turn < MESSAGES_AT_ONCE; turn++) {
        http2_settle();
        if (taken < 0 || offset >= behind)
            break;
        taken = http1_step(&look, connection, offset, behind - offset);
        offset += (__u32)taken;
        /* As in tap_frames. */
        asm volatile("goto +0" : "+r"(offset), "+r"(taken), "+r"(turn) : : "memory");
    }
    if (taken >= 0 && offset < behind) {
        skb->cb[CB_AT] = MESSAGES_GO_ON;
        call_exchange(skb, from, CALL_MESSAGES);
        taken = -1; /* it was called too often */
    }
    if (taken < 0) {
        http1_stumble(&look, &slot->flow);
    } else if (packet.tcp_flags & TCP_FIN) {
        skb->cb[CB_AT] = MESSAGES_CLOSE;
        call_exchange(skb, from, CALL_MESSAGES);
    }
    return 1;
}

#endif
