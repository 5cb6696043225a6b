/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* Replay's connections of HTTP/2 (engine/http2/follow.h): what is told of them goes to who keeps their streams, at once. */
#ifndef WIRESPAN_REPLAY_STREAMS_H
#define WIRESPAN_REPLAY_STREAMS_H

#include "open_exchanges.h"

#include "../../calls/calls.h"

static inline int http2_tell(exchange_host host, frame_source source, struct http2_told *told, __u32 offset);

/* Nothing waits. */
#define HTTP2_UNTOLD_BYTES 0
#define HTTP2_UNTOLD_NS    0

#include "../../engine/http2/follow.h"

static inline int http2_tell(exchange_host host, frame_source source, struct http2_told *told, __u32 offset)
{
    __u32 there = source->captured > offset ? source->captured - offset : 0;

    if (told->held > there) {
        told->held = (__u16)there;
        told->parts |= HTTP2_CUT;
    }
    told->slot = host.slot;
    calls_take(host.exchanges->calls, told, there ? source->bytes + offset : source->bytes);
    return 0;
}

/* Follow a flow's frames from now on. Gives it up where memory is missing. */
static inline struct http2_connection *http2_follow(exchange_host host, struct flow *flow)
{
    struct http2_connection *connection = calloc(1, sizeof(*connection));

    if (!connection) {
        exchange_give_up(host, flow, CONNECTION_HTTP2);
        return NULL;
    }
    free(host.exchanges->http2_of_slot[host.slot]);
    host.exchanges->http2_of_slot[host.slot] = connection;
    flow->requests = FLOW_REQUESTS_STREAMS;
    return connection;
}

static inline void http2_tell_opening(exchange_host host, const struct http2_connection *connection, const struct flow *flow)
{
    struct http2_opening opening = {.owner = 0};
    const struct http2_told told = {.flow_id = flow->id, .what = HTTP2_OPENS, .held = sizeof(opening)};

    http2_describe(&opening, connection, flow);
    calls_take(host.exchanges->calls, &told, (const __u8 *)&opening);
}

/* Frames of this slot's connection are followed no more. */
static inline void http2_forget(struct exchanges *exchanges, __u32 slot)
{
    free(exchanges->http2_of_slot[slot]);
    exchanges->http2_of_slot[slot] = NULL;
}

/* A packet of the connection with payload, which lies at `offset` of its frame, and which was just added to its flow. */
static inline void http2_take(
        const struct http2_look *look, struct http2_connection *connection, struct flow *flow, __u32 offset)
{
    struct http2_side *side = &connection->sides[look->from & 1];
    __u32 end = offset + look->packet->payload_bytes;
    int taken = http2_skip(look, side);

    /* Behind what came before. */
    offset += side->next - look->packet->sequence;
    if (taken >= 0 && offset < end)
        offset += http2_pass(look, side, offset, end - offset, 1);
    while (taken >= 0 && offset < end) {
        taken = http2_step(look, side, offset, end - offset);
        offset += (__u32)taken;
    }
    if (taken < 0 && !http2_stumble(look, connection, flow, taken))
        http2_forget(look->host.exchanges, look->host.slot);
}

static void exchanges_free(struct exchanges *exchanges, __u32 capacity)
{
    __u32 slot;

    for (slot = 0; exchanges->http2_of_slot && slot < capacity; slot++)
        free(exchanges->http2_of_slot[slot]);
    for (slot = 0; exchanges->http1_of_slot && slot < capacity; slot++)
        free(exchanges->http1_of_slot[slot]);
    calls_close(exchanges->calls);
    free(exchanges->http1_of_slot);
    free(exchanges->http2_of_slot);
    free(exchanges->of_slot);
    free(exchanges->line_of_slot);
    free(exchanges->open);
    free(exchanges->ended);
}

/* Returns -1 where memory is missing. */
static int exchanges_keep(struct exchanges *exchanges, __u32 capacity)
{
    exchanges->calls = calls_new();
    exchanges->of_slot = calloc(capacity, sizeof(*exchanges->of_slot));
    exchanges->line_of_slot = calloc(capacity, sizeof(*exchanges->line_of_slot));
    exchanges->open = calloc(capacity, sizeof(*exchanges->open));
    exchanges->http2_of_slot = calloc(capacity, sizeof(*exchanges->http2_of_slot));
    exchanges->http1_of_slot = calloc(capacity, sizeof(*exchanges->http1_of_slot));
    return exchanges->calls && exchanges->of_slot && exchanges->line_of_slot && exchanges->open && exchanges->http2_of_slot &&
                           exchanges->http1_of_slot
                   ? 0
                   : -1;
}

#endif
