/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * What becomes of a request that was answered by 101 Switching Protocols. Where it went over to HTTP/2 (RFC 7540 3.2) the server's next
 * words are SETTINGS, the client's the connection preface, whichever comes first; the request is stream 1 then, and its response that
 * stream's. Everything else is another protocol, and the 101 its response.
 */
#ifndef WIRESPAN_SWITCH_H
#define WIRESPAN_SWITCH_H

#include "exchange_steps.h"

#include "../http/text.h"
#include "../http2/frame.h"

/* How long both may be silent after it: what pauses for longer its reader takes to be over. */
#define SWITCH_MOST_NS 1000000000ull

/* Whether the server's first frame begins with the text (RFC 9113 3.4): no acknowledgment, since nothing was said yet. */
FLOW_INLINE int switch_is_settings(const struct text *text)
{
    __u8 head[HTTP2_HEAD_ROOM] = {0};

    return !text_load(text, text->begin, head, HTTP2_HEAD_BYTES) && head[3] == HTTP2_SETTINGS && !head[4] &&
           http2_is_plausible(head);
}

/* A 101 has begun: of HTTP/1 there is no other response. */
FLOW_INLINE void exchange_is_switching(struct exchange *open, const struct packet *packet)
{
    if (open->response_first_ns)
        return;
    open->response_last_ns = packet->time_ns;
    open->response_first_ns = open->status_ns;
}

/* The first words behind it, of either end: `text` begins with them. */
FLOW_INLINE void exchange_switch(exchange_host host, const struct text *text, struct flow *flow, const struct packet *packet,
        int from, struct exchange *open, int is_http2)
{
    if (is_http2 && packet->time_ns - open->response_last_ns < SWITCH_MOST_NS) {
        exchange_frames(host, text->source, flow, from, HTTP2_SWITCHES,
                packet->sequence + packet->payload_bytes - (text->end - text->begin));
        return;
    }
    exchange_end(host, flow, open, EXCHANGE_END_SWITCHED, open->response_last_ns);
    exchange_give_up(host, flow, CONNECTION_SWITCHED);
}

#endif
