/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * Exchanges that belong to an application's trace: a request that carries a sampled trace context, and its response. One a
 * connection at a time, kept beside the flow's slot and only where there is one.
 *
 * The host looks at the flow before a packet is added to it (exchange_before) and lets exchange_after see the packet and the
 * flow afterwards. Besides what trace_context.h asks for it defines, before including this, `exchange_host`: whatever it needs
 * to find the flow's exchange, and the four functions that take one:
 *     struct exchange *exchange_open(exchange_host host)                      the flow's open exchange, or NULL
 *     struct exchange *exchange_place(exchange_host host)                     zeroed room for one that opens, or NULL
 *     void exchange_ended(exchange_host host, struct exchange *exchange)      it is over: hand it on; it is open no more
 *     void count_request(exchange_host host, __u32 counter)
 *
 * What ends without a packet, the reader ends: see services/capture/flows/exchange_table.py.
 */
#ifndef WIRESPAN_TRACED_EXCHANGE_H
#define WIRESPAN_TRACED_EXCHANGE_H

#include "exchange.h"

/* A server's payload of at most so many bytes that more of the request follows was an interim response: 100 Continue. */
#define EXCHANGE_INTERIM_BYTES 64u

/* What tells afterwards whether a packet brought something new. */
struct exchange_moment {
    __u64 request_ns;
    __u32 next_sequence;
};

FLOW_INLINE struct exchange_moment exchange_before(const struct flow *flow, int from)
{
    return (struct exchange_moment){
            .request_ns = flow->request_ns,
            .next_sequence = flow->sides[from & 1].next_sequence,
    };
}

FLOW_INLINE const struct flow_side *exchange_side(const struct flow *flow, int of_request)
{
    return &flow->sides[(flow->role == FLOW_ROLE_CLIENT) == of_request ? FLOW_TX : FLOW_RX];
}

/* Begin with the packet that the context was found in; it is in the flow's counters already. */
FLOW_INLINE void exchange_begin(
        struct exchange *exchange, const struct flow *flow, const struct packet *packet, const struct trace_context *context)
{
    const struct flow_side *request = exchange_side(flow, 1);
    const struct flow_side *response = exchange_side(flow, 0);

    exchange->flow_id = flow->id;
    exchange->flow_first_ns = flow->first_ns;
    __builtin_memcpy(exchange->trace_id, context->trace_id, 16);
    __builtin_memcpy(exchange->parent_span_id, context->parent_span_id, 8);
    exchange->trace_flags = context->flags;
    __builtin_memcpy(exchange->local_address, flow->local_address, 16);
    __builtin_memcpy(exchange->remote_address, flow->remote_address, 16);
    exchange->local_port = flow->local_port;
    exchange->remote_port = flow->remote_port;
    exchange->role = flow->role;
    exchange->isn_seen = (flow->sides[FLOW_TX].known & FLOW_KNOWN_ISN) | (flow->sides[FLOW_RX].known & FLOW_KNOWN_ISN) << 1;
    exchange->local_isn = flow->sides[FLOW_TX].initial_sequence;
    exchange->remote_isn = flow->sides[FLOW_RX].initial_sequence;
    exchange->number = flow->responses;
    exchange->payload_before[0] = request->payload_bytes - packet->payload_bytes;
    exchange->payload_before[1] = response->payload_bytes;
    exchange->resent_bytes_before[0] = request->retransmit_bytes;
    exchange->resent_bytes_before[1] = response->retransmit_bytes;
    exchange->resent_before[0] = request->retransmits;
    exchange->resent_before[1] = response->retransmits;
    exchange->request_bytes = packet->payload_bytes;
    exchange->request_last_ns = packet->time_ns;
    exchange->request_first_ns = packet->time_ns; /* last: whoever reads along sees a whole one */
}

/*
 * Payload of an open exchange. What was sent again and not been acknowledged before moves the times too: the last byte is where
 * it should be only then.
 */
FLOW_INLINE void exchange_add(
        struct exchange *exchange, const struct flow *flow, const struct packet *packet, int from, int fresh)
{
    const struct flow_side *own = &flow->sides[from & 1];
    const struct flow_side *request = exchange_side(flow, 1);
    const struct flow_side *response = exchange_side(flow, 0);
    __u32 end = packet->sequence + packet->payload_bytes;

    exchange->request_retransmits = request->retransmits - exchange->resent_before[0];
    exchange->response_retransmits = response->retransmits - exchange->resent_before[1];
    exchange->request_bytes = request->payload_bytes - exchange->payload_before[0] -
                              (request->retransmit_bytes - exchange->resent_bytes_before[0]);
    exchange->response_bytes = response->payload_bytes - exchange->payload_before[1] -
                               (response->retransmit_bytes - exchange->resent_bytes_before[1]);
    if (!fresh && own->known & FLOW_KNOWN_ACKNOWLEDGED && !sequence_after(end, own->acknowledged))
        return;
    if (!flow_from_client(flow, from)) {
        if (!exchange->response_first_ns)
            exchange->response_first_ns = packet->time_ns;
        if (packet->time_ns > exchange->response_last_ns)
            exchange->response_last_ns = packet->time_ns;
    } else if (!exchange->response_first_ns && packet->time_ns > exchange->request_last_ns) {
        exchange->request_last_ns = packet->time_ns;
    }
}

/*
 * The client says something new after the server's last word: another request, as a rule. Where it does not begin like one, it may
 * be what a client had kept back until the server told it to go on.
 */
FLOW_INLINE void exchange_ask(exchange_host host, frame_source source, __u32 offset, struct flow *flow,
        const struct packet *packet, int from, struct exchange_moment before)
{
    const struct flow_side *own = &flow->sides[from & 1];
    struct exchange *open = flow->requests == FLOW_REQUESTS_TRACED ? exchange_open(host) : NULL;
    struct trace_context context = {.flags = 0};
    int first = own->known & FLOW_KNOWN_ISN && packet->sequence == own->initial_sequence + 1;
    int begins = request_begins(source, offset, packet->payload_bytes);
    enum trace_found found;

    if (open && !begins && open->response_bytes <= EXCHANGE_INTERIM_BYTES) {
        open->response_first_ns = 0;
        exchange_add(open, flow, packet, from, 1);
        return;
    }
    if (open) {
        open->end = EXCHANGE_END_NEXT_REQUEST;
        open->ended_ns = packet->time_ns;
        exchange_ended(host, open);
    }
    flow->requests = FLOW_REQUESTS_UNKNOWN;
    if (!begins) {
        if (first)
            flow->requests = FLOW_REQUESTS_OPAQUE;
        else if (packet->sequence != before.next_sequence)
            count_request(host, REQUEST_OVERTAKEN);
        return;
    }
    found = trace_context_find(source, offset, packet->payload_bytes, &context);
    if (found == TRACE_SAMPLED) {
        open = exchange_place(host);
        if (open) {
            exchange_begin(open, flow, packet, &context);
            flow->requests = FLOW_REQUESTS_TRACED;
        } else {
            count_request(host, REQUEST_NO_ROOM);
            return;
        }
    } else if (found == TRACE_NO_HTTP && first) {
        flow->requests = FLOW_REQUESTS_OPAQUE;
    }
    count_request(host, found);
}

/* A TCP packet that was just added to its flow. Its payload lies at `offset` of the frame. */
FLOW_INLINE void exchange_after(exchange_host host, frame_source source, __u32 offset, struct flow *flow,
        const struct packet *packet, int from, struct exchange_moment before)
{
    struct exchange *open;
    int fresh;

    if (!packet->payload_bytes || packet->tcp_flags & (TCP_SYN | TCP_RST) || flow->role == FLOW_ROLE_UNKNOWN ||
            flow->requests == FLOW_REQUESTS_OPAQUE)
        return;
    fresh = flow->sides[from & 1].next_sequence != before.next_sequence;
    if (fresh && !before.request_ns && flow_from_client(flow, from)) {
        exchange_ask(host, source, offset, flow, packet, from, before);
    } else if (flow->requests == FLOW_REQUESTS_TRACED) {
        open = exchange_open(host);
        if (open)
            exchange_add(open, flow, packet, from, fresh);
        else
            flow->requests = FLOW_REQUESTS_UNKNOWN; /* the reader has ended it */
    }
}

#endif
