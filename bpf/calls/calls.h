/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * Calls of HTTP/2 by their streams, from what is told of frames (engine/http2/told.h) to exchanges: a stream is one (RFC 9113 8.1). Its
 * request runs from the first byte of its HEADERS to the frame with END_STREAM, its response from the first byte of its first
 * HEADERS whose status is not 1xx likewise. Those whose request carries a sampled trace context are kept, no others.
 *
 * One source for both hosts: replay tells of frames as they come, live capture reads them out of a ring buffer. Not for two threads
 * at once.
 */
#ifndef WIRESPAN_CALLS_H
#define WIRESPAN_CALLS_H

#include "messages.h"

#include "../engine/http2/frame.h"

#define RING_BUSY      (1u << 31)
#define RING_DISCARDED (1u << 30)
#define RING_HEADER    8u

/* NULL where memory is missing. */
struct calls *calls_new(void)
{
    return calloc(1, sizeof(struct calls));
}

void calls_close(struct calls *calls)
{
    if (!calls)
        return;
    while (calls->quietest)
        connection_forget(calls, calls->quietest);
    free(calls->ended_kept);
    free(calls);
}

/* The request that went over to HTTP/2 is stream 1: it was said, and the response is to come. */
static void call_upgrade(struct calls *calls, struct connection *connection, const struct http2_told *told, const __u8 *held)
{
    struct exchange *exchange;
    struct call *call;

    if (told->held < sizeof(*exchange))
        return;
    if (connection->last_stream) { /* a packet of the other direction overtook it in the kernel */
        calls->requests[REQUEST_UNPAIRED]++;
        return;
    }
    connection->last_stream = 1;
    call = call_place(calls, connection, 1);
    if (!call) {
        calls->requests[REQUEST_NO_ROOM]++;
        return;
    }
    call->is_known = 1;
    call->is_upgraded = 1;
    exchange = &call->exchange;
    memcpy(exchange, held, sizeof(*exchange));
    exchange->stream_ended = STREAM_REQUEST_ENDED | (exchange->number ? 0 : STREAM_IS_FIRST);
    exchange->number = 1;
    exchange->is_stream = 1;
    exchange->response_first_ns = 0;
    exchange->response_last_ns = 0;
    exchange->response_bytes = 0;
    exchange->ended_ns = 0;
    exchange->status = 0;
    exchange->grpc_status = 0;
    exchange->end = EXCHANGE_END_OPEN;
}

/* The header block of a request was read. Returns whether it is one of a trace. */
static int call_is_asked(struct calls *calls, struct call *call, const struct header_fields *fields)
{
    const struct header *context = &fields->context;
    __u32 found = fields->contexts ? context->found : TRACE_ABSENT;

    if (!fields->is_request)
        return 0;
    if (fields->contexts > 1)
        found = TRACE_REPEATED;
    if (found == TRACE_ABSENT && fields->is_part)
        found = REQUEST_UNKNOWN;
    calls->requests[found]++;
    if (found != TRACE_SAMPLED)
        return 0;
    memcpy(call->exchange.trace_id, context->trace_id, sizeof(context->trace_id));
    memcpy(call->exchange.parent_span_id, context->parent_span_id, sizeof(context->parent_span_id));
    call->exchange.trace_flags = context->flags;
    call->exchange.method = fields->method;
    call->is_known = 1;
    return 1;
}

/* Take over headers of the server's: of a response, or behind one. */
static void call_is_answered(struct call *call, const struct header_fields *fields, const struct call_side *side)
{
    struct exchange *exchange = &call->exchange;

    if (fields->grpc_status)
        exchange->grpc_status = fields->grpc_status;
    if (exchange->response_first_ns)
        return;
    if (!fields->status && !side->ends_stream) {
        call->is_unclear = 1;
    } else if (fields->status / 100 != 1) {
        exchange->response_first_ns = side->begun_ns;
        exchange->status = fields->status;
        if (exchange->response_last_ns < side->begun_ns)
            exchange->response_last_ns = side->begun_ns;
    }
}

/* Of a direction's table nothing is known but what is added from now on. */
static void side_lose_table(struct calls *calls, struct call_side *side)
{
    side_let_go(calls, side);
    hpack_begin(&side->table);
    side->table.is_part = 1;
    side->is_whole = 0;
    side->block_bytes = 0;
}

/* Put together a header block that comes in parts. Returns -1 where it has become too long, or memory is missing. */
static int side_append(struct calls *calls, struct call_side *side, const __u8 *held, __u32 bytes)
{
    if (!side->block) {
        side->block = malloc(HTTP2_BLOCK_BYTES);
        if (!side->block)
            return -1;
        calls->held_bytes += HTTP2_BLOCK_BYTES;
    }
    if (bytes > HTTP2_BLOCK_BYTES - side->block_bytes)
        return -1;
    memcpy(side->block + side->block_bytes, held, bytes);
    side->block_bytes += bytes;
    return 0;
}

/* The block is over: read it. Returns -1 where it cannot be. */
static int side_read(struct calls *calls, struct call_side *side, const __u8 *block, __u32 bytes, struct header_fields *fields)
{
    __u64 held = hpack_held(&side->table);
    int failed;

    failed = hpack_read(block, bytes, &side->table, fields);
    calls->held_bytes += hpack_held(&side->table) - held;
    return failed;
}

/* Take over what is told of a header block. Returns whether it is over and `fields` says what it said. */
static int block_take(struct calls *calls, struct call_side *side, const struct http2_told *told, const __u8 *held,
        struct header_fields *fields)
{
    int begins = told->type != HTTP2_CONTINUATION && told->parts & HTTP2_BEGINS;
    int ends = told->flags & HTTP2_END_HEADERS && told->parts & HTTP2_ENDS;
    int is_read = 0;

    if (begins) {
        side->block_bytes = 0;
        side->is_whole = 1;
        side->begun_ns = told->begun_ns;
        side->is_promised = told->type == HTTP2_PUSH_PROMISE;
        side->ends_stream = told->type == HTTP2_HEADERS && told->flags & HTTP2_END_STREAM;
    }
    if (!side->is_whole)
        return 0;
    if (told->parts & HTTP2_CUT)
        side->is_whole = 0;
    else if (begins && ends)
        is_read = !side_read(calls, side, held, told->held, fields);
    else if (side_append(calls, side, held, told->held))
        side->is_whole = 0;
    else if (ends)
        is_read = !side_read(calls, side, side->block, side->block_bytes, fields);
    else
        return 0;
    if (!is_read) {
        calls->unreadable++;
        side_lose_table(calls, side);
    }
    side->is_whole = 0;
    return is_read;
}

/* A frame of a stream, or more of it. Returns whether its call is over. */
static int call_take(struct calls *calls, struct connection *connection, const struct http2_told *told, const __u8 *held)
{
    struct call_side *side = &connection->sides[told->from & 1];
    struct header_fields fields = {.contexts = 0};
    int is_client = told->parts & HTTP2_OF_CLIENT;
    int is_block = told->type != HTTP2_DATA && told->type != HTTP2_RST_STREAM;
    int ends = told->parts & HTTP2_ENDS;
    int block_ends = is_block && ends && told->flags & HTTP2_END_HEADERS;
    int ends_stream = ends && told->type == HTTP2_DATA && told->flags & HTTP2_END_STREAM;
    int is_read = 0;
    struct call *call;

    if (told->type == HTTP2_HEADERS && told->parts & HTTP2_BEGINS && is_client && told->stream & 1 &&
            told->stream > connection->last_stream)
        call_begin(calls, connection, told);
    if (is_block)
        is_read = block_take(calls, side, told, held, &fields);
    call = is_block && side->is_promised ? NULL : call_open(connection, told->stream);
    if (!call)
        return 0;
    if (told->type != HTTP2_RST_STREAM)
        call_add(&call->exchange, told);
    if (block_ends) {
        ends_stream = side->ends_stream;
        if (is_client && !call->is_known && !(is_read && call_is_asked(calls, call, &fields)))
            return 1;
        if (!is_client && is_read)
            call_is_answered(call, &fields, side);
        else if (!is_client && !call->exchange.response_first_ns)
            call->is_unclear = 1;
    }
    if (!ends)
        return 0;
    if (ends_stream)
        call->exchange.stream_ended |= is_client ? STREAM_REQUEST_ENDED : STREAM_RESPONSE_ENDED;
    if ((call->exchange.stream_ended & STREAM_ENDED) == STREAM_ENDED)
        call->exchange.end = EXCHANGE_END_STREAM;
    else if (told->type == HTTP2_RST_STREAM) /* a server that has answered asks for no more of the request so (RFC 9113 8.1) */
        call->exchange.end =
                call->exchange.stream_ended & STREAM_RESPONSE_ENDED ? EXCHANGE_END_STREAM : EXCHANGE_END_STREAM_RESET;
    else
        return 0;
    call->exchange.ended_ns = told->time_ns;
    return 1;
}

/* Something that was said is not known: what is open may have gone on in it, and so may its direction's table. */
static void connection_misses(struct calls *calls, struct connection *connection, struct call_side *side)
{
    connection_count_unpaired(calls, connection);
    while (connection->count)
        call_drop(calls, connection, connection->open);
    side_lose_table(calls, side);
}

static void frame_take(struct calls *calls, struct connection *connection, const struct http2_told *told, const __u8 *held)
{
    struct call_side *side = &connection->sides[told->from & 1];
    struct call *call;

    calls->missing += told->number != side->number;
    calls->found += side->is_missed;
    /* What began meanwhile may have gone on in it too. */
    if (told->number != side->number || side->is_missed)
        connection_misses(calls, connection, side);
    side->is_missed = 0;
    side->number = told->number + 1;
    if (!(told->what == HTTP1_MESSAGE ? message_take(calls, connection, told, held) : call_take(calls, connection, told, held)))
        return;
    call = call_open(connection, told->stream);
    if (call->exchange.end)
        call_end(calls, connection, call);
    else
        call_drop(calls, connection, call);
    if (connection->is_closed && !connection->count)
        connection_forget(calls, connection);
}

/* Note when the connection said that nothing more comes. */
static void connection_close(struct calls *calls, struct connection *connection, const struct http2_told *told)
{
    struct exchange *exchange;
    __u32 place;

    for (place = 0; place < connection->count; place++) {
        exchange = &connection->open[place].exchange;
        if (told->parts & HTTP2_RESETS || !exchange->ended_ns)
            exchange->ended_ns = told->time_ns;
    }
    if (told->parts & HTTP2_IS_CLOSED)
        connection->is_closed = 1;
    if (connection->is_closed && !connection->count)
        connection_forget(calls, connection);
}

/* Take over what is told; behind it is what it says of. */
static void calls_take(struct calls *calls, const struct http2_told *told, const __u8 *held)
{
    struct connection *connection = connection_of(calls, told->flow_id);
    struct http2_opening opening;

    if (told->what == HTTP2_OPENS) {
        if (connection || told->held < sizeof(opening))
            return;
        memcpy(&opening, held, sizeof(opening));
        connection_open(calls, told->flow_id, &opening);
        return;
    }
    if (!connection)
        return;
    if (told->what == HTTP2_FRAME || told->what == HTTP1_MESSAGE) {
        frame_take(calls, connection, told, held);
        connections_bound(calls, 0);
    } else if (told->what == HTTP2_MISSES) {
        connection_misses(calls, connection, &connection->sides[told->from & 1]);
        connection->sides[told->from & 1].is_missed = 1;
        connection->sides[told->from & 1].number = told->number + 1;
        if (connection->is_closed)
            connection_forget(calls, connection);
    } else if (told->what == HTTP2_UPGRADES) {
        call_upgrade(calls, connection, told, held);
    } else if (told->what == HTTP2_CLOSES) {
        connection_close(calls, connection, told);
    } else {
        connection_count_unpaired(calls, connection);
        connection_forget(calls, connection);
    }
}

/* Take over records of a BPF ring buffer, which lie in a row. Returns how many bytes were read: all but what is still being written. */
__u64 calls_read(struct calls *calls, const __u8 *records, __u64 bytes)
{
    struct http2_told told;
    __u64 at = 0;
    __u32 length;

    while (bytes - at >= RING_HEADER) {
        memcpy(&length, records + at, sizeof(length));
        if (length & RING_BUSY)
            break;
        if (!(length & RING_DISCARDED) && length >= sizeof(told) && length <= bytes - at - RING_HEADER) {
            memcpy(&told, records + at + RING_HEADER, sizeof(told));
            if (told.held <= length - sizeof(told))
                calls_take(calls, &told, records + at + RING_HEADER + sizeof(told));
        }
        at += ((length & ~RING_DISCARDED) + RING_HEADER + 7) & ~7ull;
    }
    return at < bytes ? at : bytes;
}

/* Copy those of traces that are open, calls.open_count of them at the most. Returns how many. */
__u64 calls_open(const struct calls *calls, struct exchange *copies)
{
    const struct connection *connection;
    __u64 count = 0;
    __u32 place;

    for (connection = calls->quietest; connection; connection = connection->livelier)
        for (place = 0; place < connection->count; place++)
            if (connection->open[place].is_known)
                copies[count++] = connection->open[place].exchange;
    return count;
}

/* End the open ones that these are copies of, as their `end` and `ended_ns` say. */
void calls_end(struct calls *calls, const struct exchange *copies, __u64 count)
{
    const struct exchange *copy;
    struct connection *connection;
    struct call *call;

    for (copy = copies; copy < copies + count; copy++) {
        connection = connection_of(calls, copy->flow_id);
        call = connection ? call_open(connection, copy->number) : NULL;
        if (!call)
            continue;
        call->exchange.end = copy->end;
        call->exchange.ended_ns = copy->ended_ns;
        call_end(calls, connection, call);
        if (connection->is_closed && !connection->count)
            connection_forget(calls, connection);
    }
}

/* The first so many of those that are over were taken. */
void calls_taken(struct calls *calls, __u64 count)
{
    calls->ended_count -= count;
    calls->ended = calls->ended_count ? calls->ended + count : calls->ended_kept;
}

#endif
