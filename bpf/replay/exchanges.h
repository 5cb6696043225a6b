/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* Traced exchanges in replay: begun and gone on with by packets, and ended with their slots. */
#ifndef WIRESPAN_EXCHANGES_H
#define WIRESPAN_EXCHANGES_H

#include "open_exchanges.h"

#include "../engine/traced_exchange.h"

/* A reader is asked to take what has ended before there is more than this. */
#ifndef ENDED_EXCHANGES
#define ENDED_EXCHANGES 65536u
#endif

/* Add a packet, whose payload lies in its frame, to the exchange of its flow. The packet is in the flow already. */
static void exchanges_take(struct exchanges *exchanges, __u32 slot, frame_source frame, struct flow *flow,
        const struct packet *packet, int from, struct exchange_moment before)
{
    exchange_host host = {exchanges, slot};
    struct exchange_request request;
    __u32 offset;
    __u32 at = 0;
    __u8 words = 0;

    if (!exchanges->of_slot || flow->transport != TRANSPORT_TCP || !exchange_is_touched(flow, packet, &before))
        return;
    if (parse_load(frame, packet->transport_offset + 12, &words, 1))
        return;
    offset = packet->transport_offset + (words >> 4) * 4u;
    if (flow_from_client(flow, from)) {
        request = exchange_from_client(host, frame, offset, flow, packet, from, &before);
        if (request.at)
            exchange_from_line(host, frame, offset, flow, packet, from, &request);
        return;
    }
    do
        at = exchange_from_server(host, frame, offset, flow, packet, from, &before, at);
    while (at);
}

/* End the exchange of a slot, if it has one. */
static void exchanges_end(struct exchanges *exchanges, __u32 slot, struct flow *flow, enum exchange_end end, __u64 ended_ns)
{
    struct exchange *exchange;

    if (!exchanges->of_slot || !exchange_is_open(flow))
        return;
    exchange = &exchanges->of_slot[slot].exchange;
    exchange->end = (__u8)end;
    exchange->ended_ns = ended_ns;
    flow->requests &= (__u8)~FLOW_REQUESTS_STATE;
    exchange_ended((exchange_host){exchanges, slot}, exchange);
}

/* The flow of an open exchange is about to be forgotten: it ended with it, if not before. */
static void exchanges_forget(struct exchanges *exchanges, __u32 slot, struct flow *flow)
{
    enum exchange_end end = EXCHANGE_END_IDLE_TIMEOUT;
    __u64 ended_ns;

    if (!exchanges->of_slot || !exchange_is_open(flow))
        return;
    ended_ns = exchanges->of_slot[slot].exchange.ended_ns;
    if (flow->outcome == FLOW_OUTCOME_RESET)
        end = EXCHANGE_END_RESET;
    else if (flow_ended(flow) || ended_ns)
        end = EXCHANGE_END_CLOSED;
    exchanges_end(exchanges, slot, flow, end, ended_ns ? ended_ns : flow->last_ns);
}

#endif
