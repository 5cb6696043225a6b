/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * A connection of HTTP/1 whose requests do not wait for the responses before (RFC 9112 9.3.2), followed from message to message by
 * sequence numbers (message.h): the first response is the first request's, and so on. What its segments say is told as
 * http2/told.h has it. Where a message ends has to be known for sure; where it is not, the connection is given up.
 *
 * Besides what http2/follow.h asks for a host defines, before including this:
 *     int http1_tell(exchange_host host, struct http2_told *told, const struct http1_head *head)
 *         hand it on; of what begins, with what the message's head says
 */
#ifndef WIRESPAN_HTTP_PIPELINE_H
#define WIRESPAN_HTTP_PIPELINE_H

#include "../http2/follow.h"

#include "message.h"

#define HTTP1_TOLD_BYTES 16384u /* of a body, when it is told how far it has come: the usual length of a frame of HTTP/2 */

/* Take as long a line as there is at `offset`, as far as it is kept. Returns -1 where nothing can be taken. */
FLOW_INLINE int http1_gather(const struct http2_look *look, struct http1_side *side, __u32 offset, __u32 there)
{
    const struct text text = {.source = look->source, .begin = offset, .end = offset + there};
    __u64 words[TEXT_LINE_BYTES / 8] = {0};
    __u64 start = side->line.count;
    __u64 behind = 0;
    __u64 newlines;
    __u64 is_found;
    __u32 at;
    int size;

    if (start > TEXT_LINE_BYTES)
        return -1;
    if (side->place == HTTP1_START && !start)
        side->begun_ns = look->packet->time_ns;
    size = text_load_some(&text, offset, side->line.bytes + start, TEXT_LINE_BYTES);
    if (size <= 0)
        return -1;
    side->taken = (__u32)size;
    if (text_load_some(&text, offset, words, TEXT_LINE_BYTES) <= 0)
        return -1;
    /* From the end on, so that the first newline is the last that is found, and as http1_number without a branch. */
    TEXT_LOOP
    for (at = 0; at < TEXT_LINE_BYTES / 8; at++) {
        newlines = bytes_equal(words[TEXT_LINE_BYTES / 8 - 1 - at], '\n');
        is_found = 0 - (__u64)http2_is_set(newlines >> 7);
        behind = (behind & ~is_found) | ((TEXT_LINE_BYTES - 7 - at * 8 + first_byte(newlines)) & is_found);
    }
    if (behind) {
        side->taken = (__u32)behind;
        side->is_line = 1;
    }
    http2_settle();
    start += side->taken;
    side->line.count = start > TEXT_LINE_BYTES ? TEXT_LINE_BYTES : (__u32)start;
    return 0;
}

/* Pass over a body, as far as it is there. */
FLOW_INLINE void http1_pass(struct http1_side *side, __u32 there)
{
    __u64 bytes = there;

    if (side->place == HTTP1_UNTIL_END) {
        side->taken = there;
        return;
    }
    if (bytes > side->left)
        bytes = side->left;
    side->taken = (__u32)bytes;
    side->left -= bytes;
    if (side->left)
        return;
    if (side->place == HTTP1_CHUNK)
        side->place = HTTP1_CHUNK_END;
    else
        http1_ends(side);
}

/* Tell of `parts` of the message under way. */
FLOW_INLINE void http1_tell_part(const struct http2_look *look, struct http1_side *side, __u8 parts)
{
    const struct flow *flow = look->flow;
    int of_client = flow_from_client(flow, look->from);
    struct http2_told told = {
            .flow_id = flow->id,
            .time_ns = side->last_ns,
            .begun_ns = side->begun_ns,
            .stream = side->count - (of_client || parts & HTTP2_ENDS),
            .bytes = side->untold,
            .number = side->told,
            .resent = {exchange_side(flow, 1)->retransmits, exchange_side(flow, 0)->retransmits},
            .what = HTTP1_MESSAGE,
            .parts = parts,
            .from = (__u8)look->from,
    };

    if (of_client)
        told.parts |= HTTP2_OF_CLIENT;
    side->untold = 0;
    side->told++;
    http1_tell(look->host, &told, &side->head);
}

/*
 * Take the next of what one direction says, which lies at `offset` of the packet's frame: of a line, or of a body. Returns how many of
 * the `there` bytes, or -1 where nothing can be made of them.
 */
FLOW_INLINE int http1_step(const struct http2_look *look, struct http1_connection *connection, __u32 offset, __u32 there)
{
    struct http1_side *side = &connection->sides[look->from & 1];
    const struct http1_side *other = &connection->sides[(look->from & 1) ^ 1];

    side->taken = 0;
    side->parts = 0;
    side->is_line = 0;
    side->base = 0;
    side->is_client = (__u8)flow_from_client(look->flow, look->from);
    http2_settle();
    if (http1_is_passing(side))
        http1_pass(side, there);
    else if (http1_gather(look, side, offset, there))
        return -1;
    http2_settle();
    side->next += side->taken;
    side->untold += side->taken;
    side->last_ns = look->packet->time_ns;
    if (side->is_line) {
        if (http1_line(connection, side, other))
            return -1;
        http2_settle();
        if (side->base && http1_measure(side))
            return -1;
        side->line.count = 0;
    }
    http2_settle();
    if (side->parts || (side->untold >= HTTP1_TOLD_BYTES && http1_is_passing(side)))
        http1_tell_part(look, side, side->parts);
    http2_settle();
    return (int)side->taken;
}

/* Go to where a direction goes on in a segment: what is between was not captured, or came before. Returns 0 or HTTP2_JUMPS. */
FLOW_INLINE int http1_skip(const struct http2_look *look, struct http1_side *side)
{
    __u32 missing = look->packet->sequence - side->next;

    if (!side->is_placed) {
        side->next = look->packet->sequence;
        side->is_placed = 1;
        return 0;
    }
    if (!sequence_after(look->packet->sequence, side->next))
        return 0;
    if (!http1_is_passing(side) || (side->place != HTTP1_UNTIL_END && missing > side->left))
        return HTTP2_JUMPS;
    side->parts = 0;
    side->is_client = (__u8)flow_from_client(look->flow, look->from);
    http1_pass(side, missing);
    side->next += missing;
    side->untold += missing;
    if (side->parts) {
        side->last_ns = look->packet->time_ns;
        http1_tell_part(look, side, side->parts);
    }
    return 0;
}

/* A packet that says that nothing more comes, or none of this direction: of a body that ends so, the rest is told. */
FLOW_INLINE void http1_close(const struct http2_look *look, struct http1_side *side, const struct exchange_moment *before)
{
    if (side->untold && http1_is_passing(side))
        http1_tell_part(look, side, 0);
    http2_close(look, before);
}

/* Where a message ends cannot be told: none of the connection is told any more. */
FLOW_INLINE void http1_stumble(const struct http2_look *look, struct flow *flow)
{
    struct http2_told told = {.flow_id = flow->id, .time_ns = flow->last_ns, .what = HTTP2_OVER, .from = (__u8)look->from};

    http1_tell(look->host, &told, NULL);
    exchange_give_up(look->host, flow, CONNECTION_PIPELINED);
}

/*
 * More requests than one come, from this sequence number of the client's on: from here on messages are followed. `waits`: which one
 * came before it and is not answered (enum pipeline_waits); all others were.
 */
FLOW_INLINE void http1_begin(
        struct http1_connection *connection, const struct flow *flow, int from, __u32 sequence, int waits, int is_head)
{
    struct http1_side *client = &connection->sides[from & 1];
    struct http1_side *server = &connection->sides[(from & 1) ^ 1];

    __builtin_memset(connection, 0, sizeof(*connection));
    client->next = sequence;
    client->is_placed = 1;
    client->count = flow->responses;
    server->next = flow->sides[(from & 1) ^ 1].next_sequence;
    server->is_placed = flow->sides[(from & 1) ^ 1].known & FLOW_KNOWN_NEXT;
    server->count = flow->responses;
    if (waits)
        http1_note_request(connection, client, is_head);
}

/* Tell of the request whose exchange is open, and was to be answered before those that follow came: it is among them. */
FLOW_INLINE void http1_take_over(
        const struct http2_look *look, struct http1_connection *connection, const struct exchange *open, int of_client)
{
    struct http1_side *client = &connection->sides[of_client & 1];
    struct http1_head *head = &client->head;
    struct http2_told told = {
            .flow_id = look->flow->id,
            .time_ns = open->request_last_ns,
            .begun_ns = open->request_first_ns,
            .stream = client->count - 1,
            .bytes = (__u32)open->request_bytes,
            .number = client->told++,
            .resent = {open->resent_before[0], open->resent_before[1]},
            .what = HTTP1_MESSAGE,
            .parts = HTTP2_BEGINS | HTTP2_ENDS | HTTP2_OF_CLIENT,
            .from = (__u8)of_client,
    };

    __builtin_memcpy(head->context, open->trace_id, 16);
    __builtin_memcpy(head->context + 16, open->parent_span_id, 8);
    head->context[24] = open->trace_flags;
    head->method = open->method;
    head->is_handed_over = 1;
    http1_tell(look->host, &told, head);
}

#endif
