/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* Calls of HTTP/1 whose requests are pipelined, from what is told of their messages: they are paired by their number already. */
#ifndef WIRESPAN_MESSAGES_H
#define WIRESPAN_MESSAGES_H

#include "call.h"
#include "header.h"

/* What the head of a request of HTTP/1 says of its context. */
static enum trace_found message_context(const struct http1_head *head, struct trace_context *context)
{
    struct text_line line = {.count = head->context_bytes & (2 * TEXT_LINE_BYTES - 1)};
    enum trace_found found;

    if (!head->contexts)
        return TRACE_ABSENT;
    if (head->contexts > 1)
        return TRACE_REPEATED;
    memcpy(line.bytes, head->context, sizeof(head->context));
    found = trace_line_find(&line, context);
    return found < TRACE_FINDINGS ? found : TRACE_CUT;
}

/* A request of HTTP/1 has come, as far as its head. Returns its call, where it is one of a trace; NULL else. */
static struct call *message_asks(
        struct calls *calls, struct connection *connection, const struct http2_told *told, const struct http1_head *head)
{
    struct trace_context context = {.flags = head->context[24] | 1};
    enum trace_found found = TRACE_SAMPLED;
    struct call *call = NULL;

    if (head->is_handed_over) {
        memcpy(context.trace_id, head->context, sizeof(context.trace_id));
        memcpy(context.parent_span_id, head->context + sizeof(context.trace_id), sizeof(context.parent_span_id));
    } else {
        found = message_context(head, &context);
    }
    if (call_open(connection, told->stream))
        return NULL;
    if (found == TRACE_SAMPLED) {
        call_begin(calls, connection, told);
        call = call_open(connection, told->stream);
        if (!call)
            return NULL;
        memcpy(call->exchange.trace_id, context.trace_id, sizeof(context.trace_id));
        memcpy(call->exchange.parent_span_id, context.parent_span_id, sizeof(context.parent_span_id));
        call->exchange.trace_flags = context.flags;
        call->exchange.method = head->method;
        call->exchange.stream_ended = told->stream ? 0 : STREAM_IS_FIRST;
        call->is_known = 1;
    }
    if (head->is_handed_over)
        calls->handed_over++;
    else
        calls->requests[found]++;
    return call;
}

/* More of a message of HTTP/1. Returns whether its call is over. */
static int message_take(struct calls *calls, struct connection *connection, const struct http2_told *told, const __u8 *held)
{
    int is_client = told->parts & HTTP2_OF_CLIENT;
    struct http1_head head = {.contexts = 0};
    struct call *call;

    if (told->parts & HTTP2_BEGINS) {
        if (told->held < sizeof(head))
            return 0;
        memcpy(&head, held, sizeof(head));
        if (is_client && !message_asks(calls, connection, told, &head))
            return 0;
    }
    call = call_open(connection, told->stream);
    if (!call)
        return 0;
    if (!is_client && told->parts & HTTP2_BEGINS) {
        call->exchange.response_first_ns = told->begun_ns;
        call->exchange.status = head.status;
    }
    call_add(&call->exchange, told);
    if (!(told->parts & HTTP2_ENDS))
        return 0;
    call->exchange.stream_ended |= is_client ? STREAM_REQUEST_ENDED : STREAM_RESPONSE_ENDED;
    if ((call->exchange.stream_ended & STREAM_ENDED) != STREAM_ENDED)
        return 0;
    call->exchange.end = EXCHANGE_END_COMPLETE;
    call->exchange.ended_ns = told->time_ns;
    return 1;
}

#endif
