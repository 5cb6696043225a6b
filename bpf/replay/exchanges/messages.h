/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* Replay's connections of HTTP/1 whose requests are pipelined (engine/http/pipeline.h): what is told of them goes to bpf/calls, at once. */
#ifndef WIRESPAN_REPLAY_MESSAGES_H
#define WIRESPAN_REPLAY_MESSAGES_H

#include "streams.h"

static inline int http1_tell(exchange_host host, struct http2_told *told, const struct http1_head *head)
{
    told->slot = host.slot;
    told->held = told->parts & HTTP2_BEGINS ? sizeof(*head) : 0;
    calls_take(host.exchanges->calls, told, (const __u8 *)head);
    return 0;
}

#include "../../engine/http/pipeline.h"

/* Messages of this slot's connection are followed no more. */
static inline void http1_forget(struct exchanges *exchanges, __u32 slot)
{
    free(exchanges->http1_of_slot[slot]);
    exchanges->http1_of_slot[slot] = NULL;
}

/* Follow a flow's messages from a packet on, as what is noted says. Gives it up where memory is missing. */
static void messages_begin(const struct http2_look *look, struct flow *flow, __u32 offset)
{
    struct exchanges *exchanges = look->host.exchanges;
    __u32 slot = look->host.slot;
    __u32 waits = exchanges->pipelined_waits;
    const struct exchange *open = waits == PIPELINE_TRACED ? exchange_open(look->host) : NULL;
    const struct http2_told told = {.flow_id = flow->id, .what = HTTP2_OPENS, .held = sizeof(struct http2_opening)};
    struct http1_connection *connection = calloc(1, sizeof(*connection));
    struct http2_opening opening = {.owner = 0};

    http1_forget(exchanges, slot);
    exchanges->http1_of_slot[slot] = connection;
    if (connection) {
        http1_begin(connection, flow, look->from, look->packet->sequence + exchanges->pipelined_at - offset,
                waits != PIPELINE_NONE, waits == PIPELINE_HEAD || (open && open->method == HTTP_METHOD_HEAD));
        opening_describe(&opening, flow);
        calls_take(exchanges->calls, &told, (const __u8 *)&opening);
        if (open)
            http1_take_over(look, connection, open, look->from);
    } else {
        exchange_give_up(look->host, flow, CONNECTION_PIPELINED);
    }
    if (open)
        exchange_dropped(look->host, exchange_open(look->host));
    exchanges->pipelined_at = 0;
}

/* A packet of a connection whose requests are pipelined, which was just added to its flow, and whose payload lies at `offset` of its frame. */
static void exchanges_take_messages(exchange_host host, frame_source frame, __u32 offset, struct flow *flow,
        const struct packet *packet, int from, struct exchange_moment before)
{
    const struct http2_look look = {host, frame, flow, packet, from};
    __u32 end = offset + packet->payload_bytes;
    struct http1_connection *connection;
    struct http1_side *side;
    int taken = 0;

    if (host.exchanges->pipelined_at)
        messages_begin(&look, flow, offset);
    connection = host.exchanges->http1_of_slot[host.slot];
    if (!connection)
        return;
    side = &connection->sides[from & 1];
    if (packet->payload_bytes && !(packet->tcp_flags & (TCP_SYN | TCP_RST))) {
        taken = http1_skip(&look, side);
        /* Behind what came before. */
        offset += side->next - packet->sequence;
        while (taken >= 0 && offset < end) {
            taken = http1_step(&look, connection, offset, end - offset);
            offset += (__u32)taken;
        }
    }
    if (packet->tcp_flags & (TCP_FIN | TCP_RST))
        http1_close(&look, side, &before);
    if (taken < 0) {
        http1_stumble(&look, flow);
        http1_forget(host.exchanges, host.slot);
    }
}

#endif
