/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * Exchanges that belong to an application's trace: a request that carries a sampled trace context, and its response. One a
 * connection at a time, kept beside the flow's slot and only where there is one. What a client says begins a request where it
 * looks like one (http/request.h); what a server says is its response from the first final status line on (http/response.h).
 *
 * The host looks at the flow before a packet is added to it (exchange_before), asks afterwards whether it is of interest
 * (exchange_is_touched) and lets exchange_from_client or exchange_from_server see the packet and the flow. What else it gives is
 * said in exchange_steps.h.
 *
 * What ends without a packet, the reader ends: see services/capture/flows/exchange_table.py.
 */
#ifndef WIRESPAN_TRACED_EXCHANGE_H
#define WIRESPAN_TRACED_EXCHANGE_H

#include "exchange_steps.h"
#include "request_headers.h"
#include "switch.h"

#include "../http/request.h"
#include "../http/response.h"
#include "../http/trace_context.h"

/* A connection is given up for another protocol's when its client has said so often in a row what is no request. */
#define EXCHANGE_MOST_ODD 4

/*
 * Leave behind what of a segment came before. Returns whether the rest is what follows in its stream; where nothing came before
 * that was seen, it is taken to be.
 */
FLOW_INLINE int exchange_is_next(struct text *text, const struct packet *packet, const struct exchange_moment *before)
{
    __u32 seen = before->next_sequence - packet->sequence;

    if (!before->next_sequence || !seen)
        return 1;
    if (seen >= packet->payload_bytes)
        return 0;
    text->begin += seen;
    return 1;
}

/* The client has said what is no request and belongs to none. */
FLOW_INLINE void exchange_odd(exchange_host host, struct flow *flow)
{
    if ((flow->requests & FLOW_REQUESTS_ODD_MASK) == (EXCHANGE_MOST_ODD - 1) * FLOW_REQUESTS_ODD)
        exchange_give_up(host, flow, CONNECTION_OTHER);
    else
        flow->requests += FLOW_REQUESTS_ODD;
}

/*
 * The headers of a request of no trace end with its segment: note whether it is whole, as exchange_has_no_body has it. Without a
 * branch, as http2_is_plausible is.
 */
FLOW_INLINE void exchange_note_whole(struct flow *flow, const struct text *text)
{
    __u32 word = 0;
    __u64 is_head;
    __u64 is_whole;

    if (text_load(text, text->begin, &word, sizeof(word)))
        return;
    /* "GET ", "HEAD", "DELE", "OPTI", little-endian */
    is_head = 1 ^ http2_is_set(word ^ 0x44414548u);
    is_whole = is_head | (1 ^ http2_is_set(word ^ 0x20544547u)) | (1 ^ http2_is_set(word ^ 0x454c4544u)) |
               (1 ^ http2_is_set(word ^ 0x4954504fu));
    flow->requests = (__u8)(is_whole * FLOW_REQUESTS_WHOLE | is_head << FLOW_REQUESTS_PART_SHIFT);
}

/* What a client's packet may begin: what is known of it when the end of its first line is looked for. */
struct exchange_request {
    __u64 first_ns;
    __u32 at; /* where in the frame; 0: there is none */
    __u8 part; /* how many bytes of it came before */
    __u8 may_begin; /* the client had not asked, or not for more than that */
    __u8 is_next;   /* the packet follows the one before in its stream */
    __u8 has_path;
    __u8 has_begun; /* what lies at `at` are more of its headers */
};

/*
 * The client says something new: a request, the rest of one, or what is neither. A request that comes before the final response to
 * the one before has begun is pipelined (RFC 9112 9.3.2). Returns whether a request begins.
 */
FLOW_INLINE int exchange_ask(exchange_host host, const struct text *text, struct flow *flow, const struct packet *packet,
        int from, const struct exchange_request *request, enum request_beginning begins, struct exchange *open)
{
    int answered = open && open->awaits == EXCHANGE_AWAITS_NOTHING;
    __u32 part = FLOW_REQUESTS_TO_COME;

    if (open && !answered && begins == REQUEST_LINE) {
        if (open->stream_ended && exchange_has_no_body((enum http_method)open->method) &&
                open->awaits == EXCHANGE_AWAITS_STATUS && !open->status_bytes) {
            exchange_pipelined(host, text->source, flow, text->begin, PIPELINE_TRACED);
            return 0;
        }
        exchange_drop(host, flow, open);
        exchange_give_up(host, flow, CONNECTION_PIPELINED);
        return 0;
    }
    if (open &&
            !(answered && (begins == REQUEST_LINE || (request->may_begin && (begins != REQUEST_NONE || !request->is_next))))) {
        open->stream_ended = 0;
        exchange_add(open, flow, packet, from, 1);
        return 0;
    }
    if (exchange_is_whole(flow)) {
        part = flow->requests >> FLOW_REQUESTS_PART_SHIFT;
        flow->requests = FLOW_REQUESTS_UNKNOWN;
        if (begins == REQUEST_LINE)
            exchange_pipelined(host, text->source, flow, text->begin, part ? PIPELINE_HEAD : PIPELINE_ONE);
        return 0;
    }
    if (begins == REQUEST_PART || begins == REQUEST_TO_COME) {
        if (begins == REQUEST_PART)
            part = text->end - text->begin;
        flow->requests |= (__u8)(part << FLOW_REQUESTS_PART_SHIFT);
        return 0;
    }
    if (open)
        exchange_end(host, flow, open, EXCHANGE_END_NEXT_REQUEST, request->first_ns);
    if (begins == REQUEST_LINE)
        return 1;
    if (begins == REQUEST_CUT)
        count_request(host, TRACE_CUT);
    else if (!request->is_next)
        count_request(host, REQUEST_OVERTAKEN);
    else if (begins == REQUEST_TLS)
        exchange_give_up(host, flow, CONNECTION_TLS);
    else if (begins == REQUEST_HTTP2)
        exchange_frames(host, text->source, flow, from,
                flow->responses && !exchange_is_first(flow, packet, from) ? HTTP2_CHANGES : HTTP2_PREFACES,
                packet->sequence + packet->payload_bytes - (text->end - text->begin));
    else if (begins == REQUEST_FRAME)
        exchange_frames(host, text->source, flow, from, HTTP2_JOINS, 0);
    else
        exchange_odd(host, flow);
    return 0;
}

/*
 * A request begins with the text: look for its trace context. Returns where in the frame its headers go on, with something that is
 * to be looked at; 0: nowhere.
 */
FLOW_INLINE __u32 exchange_begins(exchange_host host, const struct text *text, struct flow *flow, const struct packet *packet,
        const struct exchange_request *request)
{
    struct trace_context context = {.flags = 0};
    struct exchange *open;
    enum trace_found found = trace_context_find(text, TRACE_IN_LINE, &context);

    flow->requests = FLOW_REQUESTS_UNKNOWN;
    if (context.body && request_follows(text, context.body)) {
        if (request->part)
            exchange_give_up(host, flow, CONNECTION_PIPELINED);
        else if (exchange_pipelined(host, text->source, flow, text->begin, PIPELINE_NONE))
            return 0; /* it is looked at once more */
        count_request(host, found == TRACE_SAMPLED ? REQUEST_UNPAIRED : found);
        return 0;
    }
    if (found == TRACE_CUT && !context.body)
        found = TRACE_GOES_ON;
    if (found == TRACE_SAMPLED || found == TRACE_GOES_ON) {
        open = exchange_place(host);
        if (!open) {
            count_request(host, REQUEST_NO_ROOM);
            return 0;
        }
        open->method = (__u8)(request->part ? HTTP_METHOD_UNKNOWN : request_method(text));
        open->stream_ended = context.body == text->end;
        open->status_ns = request->first_ns;
        if (found == TRACE_GOES_ON)
            open->awaits = EXCHANGE_AWAITS_HEADERS;
        exchange_begin(open, flow, packet, &context, request->part + text->end - text->begin,
                found == TRACE_SAMPLED ? request->first_ns : 0);
        flow->requests = FLOW_REQUESTS_TRACED;
        if (found == TRACE_GOES_ON)
            return text->begin; /* what they are looked through by looks there once more */
    } else if (context.body == text->end && !request->part) {
        exchange_note_whole(flow, text);
    }
    count_request(host, found);
    return 0;
}

/*
 * Go on with what the server says before its final response has begun. Returns where in the frame there is more to look at; 0: no
 * more.
 */
FLOW_INLINE __u32 exchange_look(
        exchange_host host, struct text *text, struct flow *flow, const struct packet *packet, int from, struct exchange *open)
{
    enum response_found found;

    if (open->awaits == EXCHANGE_AWAITS_STATUS && !open->status_bytes)
        open->status_ns = packet->time_ns;
    found = response_look(open, text);
    if (open->status == STATUS_SWITCHING)
        exchange_is_switching(open, packet);
    if (found == RESPONSE_GOES_ON)
        return text->begin;
    if (found == RESPONSE_IS_NONE) {
        exchange_drop(host, flow, open);
    } else if (found == RESPONSE_SWITCHES) {
        exchange_switch(host, text, flow, packet, from, open, switch_is_settings(text));
    } else if (found == RESPONSE_BEGINS) {
        open->awaits = EXCHANGE_AWAITS_NOTHING;
        open->response_last_ns = packet->time_ns;
        open->response_first_ns = open->status_ns; /* last: whoever reads along sees a whole one */
        if (open->method == HTTP_METHOD_CONNECT && open->status / 100 == 2) {
            exchange_end(host, flow, open, EXCHANGE_END_SWITCHED, packet->time_ns);
            exchange_give_up(host, flow, CONNECTION_TUNNEL);
        }
    }
    return 0;
}

/* The server's payload. Returns as exchange_look. */
FLOW_INLINE __u32 exchange_hear(exchange_host host, struct text *text, struct flow *flow, const struct packet *packet, int from,
        const struct exchange_moment *before, struct exchange *open, int fresh)
{
    if (open->awaits == EXCHANGE_AWAITS_HEADERS) {
        if (fresh)
            exchange_leave(host, flow, open, TRACE_CUT);
        return 0;
    }
    if (open->awaits != EXCHANGE_AWAITS_SWITCH)
        exchange_measure(open, flow);
    if (open->awaits == EXCHANGE_AWAITS_NOTHING) {
        if (exchange_is_moved(flow, packet, from, fresh) && packet->time_ns > open->response_last_ns)
            open->response_last_ns = packet->time_ns;
        return 0;
    }
    if (!fresh)
        return 0;
    if (exchange_is_next(text, packet, before))
        return exchange_look(host, text, flow, packet, from, open);
    if (open->status == STATUS_SWITCHING) {
        exchange_switch(host, text, flow, packet, from, open, 0);
        return 0;
    }
    /* What was lost before it is hardly a response of its own. */
    open->awaits = EXCHANGE_AWAITS_NOTHING;
    open->status = 0;
    open->response_last_ns = packet->time_ns;
    open->response_first_ns = packet->time_ns;
    return 0;
}

/*
 * A TCP packet of the client's that was just added to its flow, is of interest, and opens no connection. Its payload lies at
 * `offset` of the frame. Returns what exchange_from_line is to go on with, or exchange_from_headers where the request `has_begun`.
 */
FLOW_INLINE struct exchange_request exchange_from_client(exchange_host host, frame_source source, __u32 offset,
        struct flow *flow, const struct packet *packet, int from, const struct exchange_moment *before)
{
    const struct flow_side *own = &flow->sides[from & 1];
    struct text text = {.source = source, .begin = offset, .end = offset + packet->payload_bytes};
    struct exchange *open = exchange_of_flow(host, flow);
    struct exchange_request request = {.first_ns = packet->time_ns};
    enum request_beginning begins = REQUEST_NONE;
    __u32 part = before->request_ns ? flow->requests >> FLOW_REQUESTS_PART_SHIFT : 0;
    int first = exchange_is_first(flow, packet, from);
    int fresh = own->next_sequence != before->next_sequence;
    int whole = exchange_is_whole(flow);
    int has_path = 0;

    if (whole && !before->request_ns) {
        flow->requests = FLOW_REQUESTS_UNKNOWN; /* it is answered */
        whole = 0;
    }
    if (whole)
        part = 0;
    if (open && packet->tcp_flags & (TCP_FIN | TCP_RST))
        exchange_closes(open, flow, packet, from, before);
    if (!packet->payload_bytes || packet->tcp_flags & TCP_RST)
        return request;
    if (open && open->awaits == EXCHANGE_AWAITS_HEADERS && fresh) {
        exchange_add(open, flow, packet, from, 1);
        request.has_begun = (__u8)exchange_is_next(&text, packet, before);
        if (request.has_begun)
            request.at = text.begin;
        else
            exchange_leave(host, flow, open, TRACE_CUT);
        return request;
    }
    if (!fresh || (!open && before->request_ns && !part && !whole)) {
        if (open)
            exchange_add(open, flow, packet, from, fresh);
        return request;
    }
    /* What was to be a request's beginning and was answered was none. */
    if (!open && !before->request_ns && flow->requests >> FLOW_REQUESTS_PART_SHIFT) {
        exchange_odd(host, flow);
        if (flow->requests == FLOW_REQUESTS_OPAQUE)
            return request;
    }
    if (!whole)
        flow->requests &= FLOW_REQUESTS_STATE | FLOW_REQUESTS_ODD_MASK;
    request.may_begin = !before->request_ns || part;
    if (part && part != FLOW_REQUESTS_TO_COME) {
        request.first_ns = before->request_ns;
        request.part = (__u8)part;
    }
    request.is_next = (__u8)exchange_is_next(&text, packet, before);
    if (request.is_next)
        begins = request_looks(&text, first, request.part != 0, &has_path);
    if (begins == REQUEST_NONE && !(own->known & FLOW_KNOWN_ISN) && request_is_frame(&text))
        begins = REQUEST_FRAME;
    request.has_path = (__u8)has_path;
    if (open && open->status == STATUS_SWITCHING)
        exchange_switch(
                host, &text, flow, packet, from, open, begins == REQUEST_HTTP2 && open->awaits == EXCHANGE_AWAITS_SWITCH);
    else if (begins == REQUEST_LINE)
        request.at = text.begin;
    else
        exchange_ask(host, &text, flow, packet, from, &request, begins, open);
    return request;
}

/*
 * Go on with a client's packet that may begin a request: the end of its line tells. Returns where there are more of its headers to be
 * looked at by exchange_from_headers; 0: there are none.
 */
FLOW_INLINE __u32 exchange_from_line(exchange_host host, frame_source source, __u32 offset, struct flow *flow,
        const struct packet *packet, int from, const struct exchange_request *request)
{
    const struct text text = {.source = source, .begin = request->at, .end = offset + packet->payload_bytes};
    enum request_beginning begins = request_line(&text, request->part != 0, request->has_path);

    if (exchange_ask(host, &text, flow, packet, from, request, begins, exchange_of_flow(host, flow)))
        return exchange_begins(host, &text, flow, packet, request);
    return 0;
}

/*
 * Likewise of the server's. `at` is 0, or where to go on in the same packet: there is more to look at where this returned. 0: no
 * more.
 */
FLOW_INLINE __u32 exchange_from_server(exchange_host host, frame_source source, __u32 offset, struct flow *flow,
        const struct packet *packet, int from, const struct exchange_moment *before, __u32 at)
{
    struct text text = {.source = source, .begin = at ? at : offset, .end = offset + packet->payload_bytes};
    struct exchange *open = exchange_of_flow(host, flow);
    int fresh = flow->sides[from & 1].next_sequence != before->next_sequence;

    if (!open)
        return 0;
    if (at)
        return exchange_look(host, &text, flow, packet, from, open);
    if (packet->tcp_flags & (TCP_FIN | TCP_RST))
        exchange_closes(open, flow, packet, from, before);
    if (!packet->payload_bytes || packet->tcp_flags & TCP_RST)
        return 0;
    return exchange_hear(host, &text, flow, packet, from, before, open, fresh);
}

#endif
