/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* Traced exchanges in replay: begun and gone on with by packets, and ended with their slots. */
#ifndef WIRESPAN_EXCHANGES_H
#define WIRESPAN_EXCHANGES_H

#include "messages.h"
#include "streams.h"

static inline void exchange_frames(
        exchange_host host, frame_source source, struct flow *flow, int from, enum http2_beginning begins, __u32 sequence)
{
    const struct exchange asked = *exchange_open(host);
    const struct http2_told told = {.flow_id = flow->id, .what = HTTP2_UPGRADES, .held = sizeof(asked)};
    struct http2_connection *connection;

    (void)source;
    if (begins == HTTP2_SWITCHES)
        exchange_dropped(host, exchange_open(host));
    connection = http2_follow(host, flow);
    if (!connection)
        return;
    http2_begin(connection, flow, from, begins, sequence);
    http2_tell_opening(host, connection, flow);
    if (begins == HTTP2_SWITCHES)
        calls_take(host.exchanges->calls, &told, (const __u8 *)&asked);
}

static inline int exchange_pipelined(
        exchange_host host, frame_source source, struct flow *flow, __u32 at, enum pipeline_waits waits)
{
    (void)source;
    host.exchanges->pipelined_at = at;
    host.exchanges->pipelined_waits = waits;
    flow->requests = FLOW_REQUESTS_PIPELINED;
    return 1;
}

#define EXCHANGE_FOLLOWS_MESSAGES 1
#include "../../engine/exchanges/traced_exchange.h"

/* A reader is asked to take what has ended before there is more than this. */
#ifndef ENDED_EXCHANGES
#define ENDED_EXCHANGES 65536u
#endif

/* Add a packet of HTTP/2, likewise. */
static void exchanges_take_frames(exchange_host host, frame_source frame, __u32 offset, struct flow *flow,
        const struct packet *packet, int from, struct exchange_moment before)
{
    struct http2_connection *connection = host.exchanges->http2_of_slot[host.slot];
    const struct http2_look look = {host, frame, flow, packet, from};

    if (packet->tcp_flags & (TCP_FIN | TCP_RST))
        http2_close(&look, &before);
    http2_meet(connection, flow, packet, from, &before);
    /* A FIN says how much came before it. */
    if ((packet->payload_bytes || packet->tcp_flags & TCP_FIN) && !(packet->tcp_flags & (TCP_SYN | TCP_RST)))
        http2_take(&look, connection, flow, offset);
}

/* Add a packet, whose payload lies in its frame, to the exchanges of its flow. The packet is in the flow already. */
static void exchanges_take(struct exchanges *exchanges, __u32 slot, frame_source frame, struct flow *flow,
        const struct packet *packet, int from, struct exchange_moment before)
{
    exchange_host host = {exchanges, slot};
    int is_followed = exchange_is_followed(flow);
    struct exchange_request request;
    __u32 offset;
    __u32 at = 0;
    __u8 words = 0;

    if (!exchanges->of_slot || flow->transport != TRANSPORT_TCP ||
            !(is_followed || exchange_is_touched(flow, packet, from, &before)))
        return;
    if (parse_load(frame, packet->transport_offset + 12, &words, 1))
        return;
    offset = packet->transport_offset + (words >> 4) * 4u;
    if (!is_followed && flow_from_client(flow, from)) {
        request = exchange_from_client(host, frame, offset, flow, packet, from, &before);
        at = request.at;
        if (at && !request.has_begun)
            at = exchange_from_line(host, frame, offset, flow, packet, from, &request);
        while (at)
            at = at & EXCHANGE_AT_CUT ? exchange_from_cut(host, frame, offset, flow, packet, at & ~EXCHANGE_AT_CUT)
                                      : exchange_from_headers(host, frame, offset, flow, packet, at);
    } else if (!is_followed) {
        do
            at = exchange_from_server(host, frame, offset, flow, packet, from, &before, at);
        while (at);
    }
    /* The preface's own segment has frames too, that of a request that does not wait the request. */
    if (flow->requests == FLOW_REQUESTS_PIPELINED)
        exchanges_take_messages(host, frame, offset, flow, packet, from, before);
    else if (exchange_is_followed(flow))
        exchanges_take_frames(host, frame, offset, flow, packet, from, before);
}

/* End an open exchange. */
static void exchanges_end(
        struct exchanges *exchanges, struct flow *flow, struct exchange *exchange, enum exchange_end end, __u64 ended_ns)
{
    exchange_host host = {exchanges, exchange->slot};

    exchange->end = (__u8)end;
    exchange->ended_ns = ended_ns;
    if (!exchange->request_first_ns) {
        exchange_leave(host, flow, exchange, TRACE_CUT);
        return;
    }
    flow->requests &= (__u8)~FLOW_REQUESTS_STATE;
    exchange_ended(host, exchange);
}

/* End the open exchange that this is a copy of, if it still is, as its `end` and `ended_ns` say. */
static void exchanges_end_copied(struct exchanges *exchanges, struct flow *flow, const struct exchange *copy)
{
    exchange_host host = {exchanges, copy->slot};

    if (!exchanges->of_slot || flow->id != copy->flow_id || !exchange_is_open(flow))
        return;
    exchanges_end(exchanges, flow, exchange_open(host), copy->end, copy->ended_ns);
    if (copy->end == EXCHANGE_END_SWITCHED)
        exchange_give_up(host, flow, CONNECTION_SWITCHED);
}

/* The flow of an open exchange is about to be forgotten: it ended with it, if not before. */
static void exchanges_forget_one(struct exchanges *exchanges, struct flow *flow, struct exchange *exchange)
{
    enum exchange_end end = EXCHANGE_END_IDLE_TIMEOUT;
    __u64 ended_ns = exchange->ended_ns;

    if (flow->outcome == FLOW_OUTCOME_RESET)
        end = EXCHANGE_END_RESET;
    else if (flow_ended(flow) || ended_ns)
        end = EXCHANGE_END_CLOSED;
    exchanges_end(exchanges, flow, exchange, end, ended_ns ? ended_ns : flow->last_ns);
}

/* A flow is about to be forgotten, and so all that it has open. */
static void exchanges_forget(struct exchanges *exchanges, __u32 slot, struct flow *flow)
{
    if (!exchanges->of_slot)
        return;
    if (exchange_is_open(flow))
        exchanges_forget_one(exchanges, flow, &exchanges->of_slot[slot].exchange);
    http1_forget(exchanges, slot);
    http2_forget(exchanges, slot);
}

#endif
