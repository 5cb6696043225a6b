/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * The steps of an exchange's life: it begins, grows and ends beside its flow.
 *
 * Besides what parse.h asks for a host defines, before including this, `exchange_host`, whatever it needs to find the flow's
 * exchange, and the functions that take one:
 *     struct exchange *exchange_open(exchange_host host)                      the flow's open exchange, or NULL
 *     struct exchange *exchange_place(exchange_host host)                     zeroed room for one that opens, or NULL
 *     void exchange_ended(exchange_host host, struct exchange *exchange)      it is over: hand it on; it is open no more
 *     struct text_line *exchange_line(exchange_host host)                     where one of its lines is put together, or NULL
 *     void exchange_dropped(exchange_host host, struct exchange *exchange)    it is open no more, and told to nobody
 *     void exchange_frames(exchange_host host, frame_source source, struct flow *flow, int from,
 *             enum http2_beginning begins, __u32 sequence)                    HTTP/2, of this direction from this byte on; where it
 *                                                                             switches, the flow's open exchange is stream 1
 *     int exchange_pipelined(exchange_host host, frame_source source, struct flow *flow, __u32 at,
 *             enum pipeline_waits waits)                                      the client does not wait, from here in its frame on:
 *                                                                             whether that is followed; else it is given up
 *     EXCHANGE_FOLLOWS_MESSAGES                                               1 where it may be, 0 where it never is
 *     void count_request(exchange_host host, __u32 counter)
 */
#ifndef WIRESPAN_EXCHANGE_STEPS_H
#define WIRESPAN_EXCHANGE_STEPS_H

#include "exchange.h"

#include "../http2/frame.h"

/* Of requests that are pipelined, which one came before and waits. */
enum pipeline_waits {
    PIPELINE_NONE,
    PIPELINE_TRACED, /* the one whose exchange is open */
    PIPELINE_ONE,    /* one of no trace */
    PIPELINE_HEAD,   /* likewise, whose response has no body */
};

/* What tells afterwards whether a packet brought something new. */
struct exchange_moment {
    __u64 request_ns;
    __u32 next_sequence;
    __u32 outcome;
};

FLOW_INLINE struct exchange_moment exchange_before(const struct flow *flow, int from)
{
    return (struct exchange_moment){
            .request_ns = flow->request_ns,
            .next_sequence = flow->sides[from & 1].next_sequence,
            .outcome = flow->outcome,
    };
}

/* Whether a packet brings the first that its end says: nothing was answered before it, whatever the other end has said by now. */
FLOW_INLINE int exchange_is_first(const struct flow *flow, const struct packet *packet, int from)
{
    const struct flow_side *own = &flow->sides[from & 1];

    return own->known & FLOW_KNOWN_ISN && packet->sequence == own->initial_sequence + 1;
}

FLOW_INLINE int exchange_is_open(const struct flow *flow)
{
    return (flow->requests & FLOW_REQUESTS_STATE) == FLOW_REQUESTS_TRACED;
}

/* Whether all that a connection says is followed: by its frames, or by the lengths of its messages. */
FLOW_INLINE int exchange_is_followed(const struct flow *flow)
{
    return (flow->requests & FLOW_REQUESTS_FOLLOWED) == FLOW_REQUESTS_FOLLOWED;
}

/* Whether what the client says next begins a request, answered or not. */
FLOW_INLINE int exchange_is_whole(const struct flow *flow)
{
    return (flow->requests & FLOW_REQUESTS_WHOLE_MASK) == FLOW_REQUESTS_WHOLE;
}

/* Content of these requests has no meaning (RFC 9110 9.3). */
FLOW_INLINE int exchange_has_no_body(enum http_method method)
{
    return method == HTTP_METHOD_GET || method == HTTP_METHOD_HEAD || method == HTTP_METHOD_DELETE ||
           method == HTTP_METHOD_OPTIONS;
}

/*
 * Whether a TCP packet that was just added to its flow is of interest: it may begin a request, or there is an exchange that it may
 * be part of or that it ends. That of all others costs no more than this. Whether a request waits by now is not asked: a server that
 * speaks of its own accord, on another CPU, may have answered this one already.
 */
FLOW_INLINE int exchange_is_touched(
        const struct flow *flow, const struct packet *packet, int from, const struct exchange_moment *before)
{
    if (flow->requests == FLOW_REQUESTS_OPAQUE || (!packet->payload_bytes && !(packet->tcp_flags & (TCP_FIN | TCP_RST))))
        return 0;
    if (packet->tcp_flags & TCP_SYN || flow->role == FLOW_ROLE_UNKNOWN)
        return 0;
    if (exchange_is_open(flow) || exchange_is_followed(flow))
        return 1;
    return packet->payload_bytes && flow_from_client(flow, from) &&
           (!before->request_ns || flow->requests >> FLOW_REQUESTS_PART_SHIFT || exchange_is_whole(flow));
}

FLOW_INLINE const struct flow_side *exchange_side(const struct flow *flow, int of_request)
{
    return &flow->sides[(flow->role == FLOW_ROLE_CLIENT) == of_request ? FLOW_TX : FLOW_RX];
}

/* Begin with the packet that the context was found in; it is in the flow's counters already. `bytes` of the request have come. */
FLOW_INLINE void exchange_begin(struct exchange *exchange, const struct flow *flow, const struct packet *packet,
        const struct trace_context *context, __u32 bytes, __u64 first_ns)
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
    exchange->payload_before[0] = request->payload_bytes - bytes;
    exchange->payload_before[1] = response->payload_bytes;
    exchange->resent_bytes_before[0] = request->retransmit_bytes;
    exchange->resent_bytes_before[1] = response->retransmit_bytes;
    exchange->resent_before[0] = request->retransmits;
    exchange->resent_before[1] = response->retransmits;
    exchange->request_bytes = bytes;
    exchange->request_last_ns = packet->time_ns;
    exchange->request_first_ns = first_ns; /* last: whoever reads along sees a whole one */
}

/* How much of an open exchange there is by now. */
FLOW_INLINE void exchange_measure(struct exchange *exchange, const struct flow *flow)
{
    const struct flow_side *request = exchange_side(flow, 1);
    const struct flow_side *response = exchange_side(flow, 0);

    exchange->request_retransmits = request->retransmits - exchange->resent_before[0];
    exchange->response_retransmits = response->retransmits - exchange->resent_before[1];
    exchange->request_bytes = request->payload_bytes - exchange->payload_before[0] -
                              (request->retransmit_bytes - exchange->resent_bytes_before[0]);
    exchange->response_bytes = response->payload_bytes - exchange->payload_before[1] -
                               (response->retransmit_bytes - exchange->resent_bytes_before[1]);
}

/* What was sent again and not been acknowledged before moves the times too: the last byte is where it should be only then. */
FLOW_INLINE int exchange_is_moved(const struct flow *flow, const struct packet *packet, int from, int fresh)
{
    const struct flow_side *own = &flow->sides[from & 1];

    return fresh || !(own->known & FLOW_KNOWN_ACKNOWLEDGED) ||
           sequence_after(packet->sequence + packet->payload_bytes, own->acknowledged);
}

/* More of the request: a server that has answered before it was over hears the rest none the less. */
FLOW_INLINE void exchange_add(
        struct exchange *exchange, const struct flow *flow, const struct packet *packet, int from, int fresh)
{
    exchange_measure(exchange, flow);
    if ((fresh || !exchange->response_first_ns) && exchange_is_moved(flow, packet, from, fresh) &&
            packet->time_ns > exchange->request_last_ns)
        exchange->request_last_ns = packet->time_ns;
}

/* None of the connection's requests is looked at any more. */
FLOW_INLINE void exchange_give_up(exchange_host host, struct flow *flow, __u32 counter)
{
    flow->requests = FLOW_REQUESTS_OPAQUE;
    count_request(host, counter);
}

FLOW_INLINE void exchange_end(exchange_host host, struct flow *flow, struct exchange *open, __u8 end, __u64 ended_ns)
{
    flow->requests &= (__u8)~FLOW_REQUESTS_STATE;
    open->end = end;
    open->ended_ns = ended_ns;
    exchange_ended(host, open);
}

/* It is told to nobody, and counted as what. */
FLOW_INLINE void exchange_leave(exchange_host host, struct flow *flow, struct exchange *open, __u32 counter)
{
    flow->requests &= (__u8)~FLOW_REQUESTS_STATE;
    count_request(host, counter);
    exchange_dropped(host, open);
}

/* Which response is whose cannot be told. */
FLOW_INLINE void exchange_drop(exchange_host host, struct flow *flow, struct exchange *open)
{
    exchange_leave(host, flow, open, REQUEST_UNPAIRED);
}

/* Note when the connection said that nothing more comes: by a reset, by both ends' FIN, or by the server's. */
FLOW_INLINE void exchange_closes(struct exchange *open, const struct flow *flow, const struct packet *packet, int from,
        const struct exchange_moment *before)
{
    int is_over = flow->outcome >= FLOW_OUTCOME_REFUSED;

    if (flow->outcome == FLOW_OUTCOME_RESET && before->outcome < FLOW_OUTCOME_REFUSED)
        open->ended_ns = packet->time_ns;
    else if (!open->ended_ns && (is_over || (packet->tcp_flags & TCP_FIN && !flow_from_client(flow, from))))
        open->ended_ns = packet->time_ns;
}

/* The flow's open exchange, if it has one. */
FLOW_INLINE struct exchange *exchange_of_flow(exchange_host host, struct flow *flow)
{
    struct exchange *open = exchange_is_open(flow) ? exchange_open(host) : NULL;

    if (!open && exchange_is_open(flow))
        flow->requests &= (__u8)~FLOW_REQUESTS_STATE; /* the reader has ended it */
    return open;
}

#endif
