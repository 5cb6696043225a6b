/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * A request's headers that go on behind what was looked at first: they are looked through for a trace context, window by window, and
 * a line that segments cut is put together.
 */
#ifndef WIRESPAN_REQUEST_HEADERS_H
#define WIRESPAN_REQUEST_HEADERS_H

#include "exchange_steps.h"

#include "../http/request.h"
#include "../http/trace_context.h"

/*
 * Of a request's headers, what is looked at for a context: so many times TRACE_WINDOW bytes, one for each segment at the least. Of
 * segments of 1,460 bytes each takes three.
 */
#define EXCHANGE_MOST_WINDOWS 28
#define EXCHANGE_PLACE_SHIFT  5 /* behind the windows in exchange.status_bytes */

/* With where in a frame headers go on: in a line that is to be put together, which exchange_from_cut does. */
#define EXCHANGE_AT_CUT 0x80000000u

/* One more window of headers had no context; behind it is `place`. Returns -1 where no more are looked at. */
FLOW_INLINE int exchange_looked(exchange_host host, struct flow *flow, struct exchange *open, enum trace_place place)
{
    __u8 windows = (open->status_bytes & ((1 << EXCHANGE_PLACE_SHIFT) - 1)) + 1;

    if (windows >= EXCHANGE_MOST_WINDOWS) {
        exchange_leave(host, flow, open, TRACE_CUT);
        return -1;
    }
    open->status_bytes = (__u8)(windows | place << EXCHANGE_PLACE_SHIFT);
    return 0;
}

/*
 * A window of headers had no context, and they go on; it may be that the text ends in it (`is_cut`). Returns where in the frame there
 * is more to be looked at, with EXCHANGE_AT_CUT; 0: it has to come in another segment, if it is looked at at all.
 */
FLOW_INLINE __u32 exchange_await_headers(exchange_host host, const struct text *text, struct flow *flow, struct exchange *open,
        enum trace_place before, int is_cut)
{
    int is_within = text->end - text->begin > TRACE_WINDOW && !is_cut;
    enum trace_place place = is_cut ? TRACE_IN_HEADER : TRACE_IN_LINE;

    if (!is_within && !is_cut)
        place = trace_ends(text, before);
    if (exchange_looked(host, flow, open, place))
        return 0;
    if (place == TRACE_IN_HEADER)
        return text->begin | EXCHANGE_AT_CUT;
    return is_within ? text->begin + TRACE_WINDOW : 0;
}

/*
 * flow.requests where a request whose exchange is open is of no trace: whether it is whole, as exchange_note_whole has it, and likewise
 * without a branch.
 */
FLOW_INLINE __u8 exchange_leaves_whole(const struct exchange *open)
{
    __u32 has_no_body = 1u << HTTP_METHOD_GET | 1u << HTTP_METHOD_HEAD | 1u << HTTP_METHOD_DELETE | 1u << HTTP_METHOD_OPTIONS;
    __u32 method = open->method & 15;
    __u32 is_whole = open->stream_ended & has_no_body >> method & 1;

    return (__u8)(is_whole * FLOW_REQUESTS_WHOLE | (is_whole & 1u << HTTP_METHOD_HEAD >> method) << FLOW_REQUESTS_PART_SHIFT);
}

/* What was found of the context of a request whose exchange is open. */
FLOW_INLINE void exchange_find(exchange_host host, struct flow *flow, struct exchange *open, enum trace_found found,
        const struct trace_context *context)
{
    __u8 whole = exchange_leaves_whole(open);

    if (found != TRACE_SAMPLED) {
        exchange_leave(host, flow, open, found);
        flow->requests = whole;
        return;
    }
    __builtin_memcpy(open->trace_id, context->trace_id, 16);
    __builtin_memcpy(open->parent_span_id, context->parent_span_id, 8);
    open->trace_flags = context->flags;
    open->status_bytes = 0;
    open->awaits = EXCHANGE_AWAITS_STATUS;
    open->request_first_ns = open->status_ns; /* last: whoever reads along sees a whole one */
    count_request(host, found);
}

/*
 * A line that may be the header goes on behind its segment, or from the one before: put it together. Returns where headers go on with
 * something that is to be looked at; 0: nowhere.
 */
FLOW_INLINE __u32 exchange_from_cut(
        exchange_host host, frame_source source, __u32 offset, struct flow *flow, const struct packet *packet, __u32 at)
{
    struct text text = {.source = source, .begin = at, .end = offset + packet->payload_bytes};
    struct exchange *open = exchange_of_flow(host, flow);
    struct text_line *line = exchange_line(host);
    struct trace_context context = {.flags = 0};
    enum trace_found found = TRACE_OTHER;
    int is_beginning;

    if (!open || open->awaits != EXCHANGE_AWAITS_HEADERS)
        return 0;
    is_beginning = open->status_bytes >> EXCHANGE_PLACE_SHIFT == TRACE_IN_HEADER;
    if (!line) {
        found = TRACE_CUT;
    } else if (!is_beginning) {
        found = text_add(line, &text) ? TRACE_CUT : trace_line_find(line, &context);
    } else if (!text_last_line(&text, line)) {
        line->count = 0;
        if (text.begin == text.end || !text_add(line, &text))
            found = trace_line_find(line, &context);
    }
    if (found == TRACE_GOES_ON) {
        exchange_looked(host, flow, open, TRACE_IN_CUT);
        return 0;
    }
    if (found == TRACE_OTHER)
        return exchange_looked(host, flow, open, TRACE_IN_LINE) || is_beginning ? 0 : at;
    exchange_find(host, flow, open, found, &context);
    return 0;
}

/* More of a request's headers, of which no context has come. Returns as exchange_await_headers. */
FLOW_INLINE __u32 exchange_from_headers(
        exchange_host host, frame_source source, __u32 offset, struct flow *flow, const struct packet *packet, __u32 at)
{
    const struct text text = {.source = source, .begin = at, .end = offset + packet->payload_bytes};
    struct exchange *open = exchange_of_flow(host, flow);
    struct trace_context context = {.flags = 0};
    enum http_method method;
    enum trace_place place;
    enum trace_found found;
    int is_cut;

    if (!open || open->awaits != EXCHANGE_AWAITS_HEADERS)
        return 0;
    place = (enum trace_place)(open->status_bytes >> EXCHANGE_PLACE_SHIFT);
    if (place == TRACE_IN_CUT)
        return at | EXCHANGE_AT_CUT;
    found = trace_context_find(&text, place, &context);
    is_cut = found == TRACE_CUT && !context.body;
    if (found == TRACE_GOES_ON || is_cut)
        return exchange_await_headers(host, &text, flow, open, place, is_cut);
    method = (enum http_method)open->method;
    open->stream_ended = (__u8)(1 ^ http2_is_set(context.body ^ text.end));
    if (!context.body || !request_follows(&text, context.body)) {
        exchange_find(host, flow, open, found, &context);
    } else if (EXCHANGE_FOLLOWS_MESSAGES && exchange_has_no_body(method)) {
        exchange_find(host, flow, open, found, &context);
        exchange_pipelined(host, source, flow, context.body,
                found == TRACE_SAMPLED       ? PIPELINE_TRACED
                : method == HTTP_METHOD_HEAD ? PIPELINE_HEAD
                                             : PIPELINE_ONE);
    } else {
        exchange_leave(host, flow, open, found == TRACE_SAMPLED ? REQUEST_UNPAIRED : found);
        exchange_give_up(host, flow, CONNECTION_PIPELINED);
    }
    return 0;
}

#endif
