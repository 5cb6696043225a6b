/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * Streams of HTTP/2 as exchanges (RFC 9113 8.1): the request runs from the first byte of its HEADERS to the frame with END_STREAM, the
 * response from its first HEADERS likewise. Many are open at once; each has its stream's id for a number.
 *
 * Headers are compressed with what the connection has said before (HPACK), so every header block is handed on to the process that
 * reads them (engine/piece.h, PIECE_HTTP2) and knows then which exchange is part of a trace; here none has a context. What may
 * come in several frames is handed on to HTTP2_BLOCK_BYTES.
 *
 * Besides what exchange_steps.h asks for a host defines, before including this:
 *     struct http2_connection *http2_open(exchange_host host)                    the flow's, or NULL
 *     struct http2_connection *http2_place(exchange_host host)                   zeroed room for one, or NULL
 *     struct exchange *stream_open(exchange_host host, __u32 stream)             the stream's open exchange, or NULL
 *     struct exchange *stream_place(exchange_host host, __u32 stream)            zeroed room for one that opens, or NULL
 *     void stream_ended(exchange_host host, struct exchange *exchange)           it is over: hand it on; it is open no more
 *     void http2_dropped(exchange_host host, const struct flow *flow)            forget it all, and say so (PIECE_BLOCK_OVER)
 *     int http2_hand_on(exchange_host host, frame_source source, __u32 offset, __u32 bytes, struct piece piece)    -1: it is lost
 */
#ifndef WIRESPAN_HTTP2_STREAMS_H
#define WIRESPAN_HTTP2_STREAMS_H

#include "../exchange_steps.h"
#include "../parse.h"
#include "../piece.h"

#include "frame.h"

#define HTTP2_BLOCK_BYTES 16384u /* the largest frame that may be sent unasked */

/* What of a stream is over: exchange.stream_ended. And whether it is the connection's first: the one that waited for it. */
#define STREAM_REQUEST_ENDED  1
#define STREAM_RESPONSE_ENDED 2
#define STREAM_ENDED          (STREAM_REQUEST_ENDED | STREAM_RESPONSE_ENDED)
#define STREAM_IS_FIRST       4

struct http2_connection {
    struct http2_side sides[2];
    __u32 last_stream; /* the client's latest */
    __u32 pad;
};

/* Whose packet is looked at. */
struct http2_look {
    exchange_host host;
    frame_source source;
    const struct flow *flow;
    const struct packet *packet;
    struct http2_connection *connection;
    int from;
};

/*
 * The client has sent the connection preface from this sequence number on: from here on frames are followed. A server may speak
 * first, but has no more to say by then than whole frames in one segment (RFC 9113 3.4).
 */
FLOW_INLINE int http2_begin(exchange_host host, const struct flow *flow, int from, __u32 sequence)
{
    const struct flow_side *server = &flow->sides[(from & 1) ^ 1];
    struct http2_connection *connection = http2_place(host);

    if (!connection)
        return -1;
    http2_expect_head(&connection->sides[0]);
    http2_expect_head(&connection->sides[1]);
    connection->sides[from & 1].next = sequence + HTTP2_PREFACE_BYTES;
    connection->sides[from & 1].state = HTTP2_IS_PLACED | HTTP2_OPENS;
    connection->sides[(from & 1) ^ 1].next = server->next_sequence;
    if (server->known & FLOW_KNOWN_NEXT)
        connection->sides[(from & 1) ^ 1].state = HTTP2_IS_PLACED;
    if (server->known & FLOW_KNOWN_ISN && server->next_sequence == server->initial_sequence + 1)
        connection->sides[(from & 1) ^ 1].state |= HTTP2_OPENS;
    return 0;
}

/* What the connection sent again while the stream was open is counted to it: a segment that is lost holds all of them up. */
FLOW_INLINE void stream_measure(struct exchange *exchange, const struct flow *flow)
{
    exchange->request_retransmits = exchange_side(flow, 1)->retransmits - exchange->resent_before[0];
    exchange->response_retransmits = exchange_side(flow, 0)->retransmits - exchange->resent_before[1];
}

/* The client has opened a stream. */
FLOW_INLINE struct exchange *stream_begin(const struct http2_look *look, const struct http2_side *side)
{
    struct trace_context nobody_knows = {.flags = 0};
    int is_first = !look->connection->last_stream;
    struct exchange *exchange;

    look->connection->last_stream = side->stream;
    exchange = stream_place(look->host, side->stream);
    if (!exchange) {
        count_request(look->host, REQUEST_NO_ROOM);
        return NULL;
    }
    exchange_begin(exchange, look->flow, look->packet, &nobody_knows, 0, side->begun_ns);
    if (exchange->request_last_ns < side->begun_ns) /* a clock that went back */
        exchange->request_last_ns = side->begun_ns;
    exchange->number = side->stream;
    exchange->is_stream = 1;
    exchange->stream_ended = is_first ? STREAM_IS_FIRST : 0;
    return exchange;
}

/* So many bytes of a frame are part of a stream's request or response. */
FLOW_INLINE void stream_add(const struct http2_look *look, struct exchange *exchange, __u32 bytes)
{
    __u64 now_ns = look->packet->time_ns;

    stream_measure(exchange, look->flow);
    if (flow_from_client(look->flow, look->from)) {
        exchange->request_bytes += bytes;
        if (now_ns > exchange->request_last_ns)
            exchange->request_last_ns = now_ns;
        return;
    }
    exchange->response_bytes += bytes;
    if (now_ns > exchange->response_last_ns)
        exchange->response_last_ns = now_ns;
}

FLOW_INLINE void stream_end(const struct http2_look *look, struct exchange *exchange, enum exchange_end end)
{
    exchange->end = (__u8)end;
    exchange->ended_ns = look->packet->time_ns;
    stream_ended(look->host, exchange);
}

/* The head of a frame and its fields have come. */
FLOW_INLINE void http2_frame_begins(const struct http2_look *look, const struct http2_side *side)
{
    struct exchange *exchange;

    if (side->type != HTTP2_HEADERS && side->type != HTTP2_DATA && side->type != HTTP2_CONTINUATION)
        return;
    exchange = stream_open(look->host, side->stream);
    if (flow_from_client(look->flow, look->from)) {
        if (!exchange && side->type == HTTP2_HEADERS && side->stream & 1 && side->stream > look->connection->last_stream)
            exchange = stream_begin(look, side);
    } else if (exchange && !exchange->response_first_ns) {
        exchange->response_last_ns = side->begun_ns;
        exchange->response_first_ns = side->begun_ns;
    }
    if (exchange)
        stream_add(look, exchange, side->have);
}

/* A frame has come whole. */
FLOW_INLINE void http2_frame_ends(const struct http2_look *look, struct http2_side *side)
{
    int ends_stream = side->type == HTTP2_DATA && side->flags & HTTP2_END_STREAM;
    struct exchange *exchange;

    if (http2_is_block(side) && side->flags & HTTP2_END_HEADERS) {
        ends_stream = side->ends_stream && side->block == HTTP2_HEADERS;
        side->block = 0;
    }
    http2_expect_head(side);
    if (!ends_stream && side->type != HTTP2_RST_STREAM)
        return;
    exchange = stream_open(look->host, side->stream);
    if (!exchange)
        return;
    if (ends_stream)
        exchange->stream_ended |= flow_from_client(look->flow, look->from) ? STREAM_REQUEST_ENDED : STREAM_RESPONSE_ENDED;
    if ((exchange->stream_ended & STREAM_ENDED) == STREAM_ENDED)
        stream_end(look, exchange, EXCHANGE_END_STREAM);
    else if (!ends_stream) /* a server that has answered asks for no more of the request so (RFC 9113 8.1) */
        stream_end(look, exchange,
                exchange->stream_ended & STREAM_RESPONSE_ENDED ? EXCHANGE_END_STREAM : EXCHANGE_END_STREAM_RESET);
}

/* Hand on the next `bytes` of a header block, which lie at `offset`; the first piece of it is handed on even if there are none. */
FLOW_INLINE int http2_block(const struct http2_look *look, struct http2_side *side, __u32 offset, __u32 bytes)
{
    struct piece piece = {.flow_id = look->flow->id,
            .time_ns = side->begun_ns,
            .stream = side->stream,
            .kind = PIECE_HTTP2,
            .from = (__u8)look->from};

    if (!side->block_bytes && side->type != HTTP2_CONTINUATION)
        piece.block |= PIECE_BLOCK_BEGINS;
    if (side->flags & HTTP2_END_HEADERS && side->left - bytes == side->padding)
        piece.block |= PIECE_BLOCK_ENDS;
    if (side->block == HTTP2_PUSH_PROMISE)
        piece.block |= PIECE_BLOCK_PROMISED;
    if (side->ends_stream)
        piece.block |= PIECE_BLOCK_ENDS_STREAM;
    if (flow_from_client(look->flow, look->from))
        piece.block |= PIECE_BLOCK_ASKS;
    if (!(side->state & HTTP2_HAS_BLOCKS))
        piece.block |= PIECE_BLOCK_FIRST;
    side->state |= HTTP2_HAS_BLOCKS;
    side->block_bytes += bytes;
    if (side->block_bytes > HTTP2_BLOCK_BYTES) {
        piece.block |= PIECE_BLOCK_CUT;
        bytes = 0;
    }
    return http2_hand_on(look->host, look->source, offset, bytes, piece);
}

/*
 * Take the next of what one direction says, which lies at `offset` of the frame: a byte of a frame's head, a piece of a header
 * block, or what is passed over. Returns how many of the `there` bytes; -1 where nothing more can be made of them.
 */
FLOW_INLINE int http2_step(const struct http2_look *look, struct http2_side *side, __u32 offset, __u32 there)
{
    __u32 bytes = side->left < there ? side->left : there;
    struct exchange *exchange;

    if (side->have < side->want) {
        if (!side->have && !side->block)
            side->begun_ns = look->packet->time_ns;
        if (parse_load(look->source, offset, &side->head[side->have & 15], 1))
            return -1;
        bytes = 1;
        if (++side->have == HTTP2_HEAD_BYTES && http2_take_head(side))
            return -1;
        if (side->have < side->want) {
            side->next++;
            return 1;
        }
        if (http2_take_fields(side))
            return -1;
        http2_frame_begins(look, side);
        if (http2_is_block(side) && side->left == side->padding && http2_block(look, side, offset, 0))
            return -1;
    } else {
        if (!http2_is_passing(side)) {
            if (bytes > side->left - side->padding)
                bytes = side->left - side->padding;
            if (bytes > PIECE_BYTES)
                bytes = PIECE_BYTES;
            if (http2_block(look, side, offset, bytes))
                return -1;
        }
        exchange = side->type == HTTP2_DATA || http2_is_block(side) ? stream_open(look->host, side->stream) : NULL;
        if (exchange)
            stream_add(look, exchange, bytes);
        side->left -= bytes;
    }
    side->next += bytes;
    if (!side->left)
        http2_frame_ends(look, side);
    return (int)bytes;
}

/* Go to where a direction goes on in a segment: what is between was not captured, or came before. -1: frames may begin in there. */
FLOW_INLINE int http2_skip(const struct http2_look *look, struct http2_side *side)
{
    __u32 missing = look->packet->sequence - side->next;
    struct exchange *exchange;

    if (!(side->state & HTTP2_IS_PLACED)) {
        side->next = look->packet->sequence;
        side->state |= HTTP2_IS_PLACED;
        return 0;
    }
    if (!sequence_after(look->packet->sequence, side->next))
        return 0;
    if (!http2_is_passing(side) || missing > side->left)
        return -1;
    exchange = side->type == HTTP2_DATA ? stream_open(look->host, side->stream) : NULL;
    if (exchange)
        stream_add(look, exchange, missing);
    side->left -= missing;
    side->next += missing;
    if (!side->left)
        http2_frame_ends(look, side);
    return 0;
}

/* Frames are followed no more: not all that was said is known. */
FLOW_INLINE void http2_lose(const struct http2_look *look, struct flow *flow)
{
    http2_dropped(look->host, flow);
    exchange_give_up(look->host, flow, CONNECTION_HTTP2);
}

/* A packet of the connection with payload, which lies at `offset` of its frame, and which was just added to its flow. */
FLOW_INLINE void http2_take(const struct http2_look *look, struct flow *flow, __u32 offset)
{
    struct http2_side *side = &look->connection->sides[look->from & 1];
    __u32 end = offset + look->packet->payload_bytes;
    int taken = http2_skip(look, side);

    /* Behind what came before. */
    offset += side->next - look->packet->sequence;
    while (taken >= 0 && offset < end) {
        taken = http2_step(look, side, offset, end - offset);
        offset += (__u32)taken;
    }
    if (taken < 0)
        http2_lose(look, flow);
}

#endif
