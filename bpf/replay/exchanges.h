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

/* Add a packet's payload, which lies in its frame, to the exchange of its flow. The packet is in the flow already. */
static void exchanges_take(struct exchanges *exchanges, __u32 slot, frame_source frame, struct flow *flow,
        const struct packet *packet, int from, struct exchange_moment before)
{
    __u8 words = 0;

    if (!exchanges->of_slot || flow->transport != TRANSPORT_TCP || !packet->payload_bytes ||
            flow->requests == FLOW_REQUESTS_OPAQUE)
        return;
    if (parse_load(frame, packet->transport_offset + 12, &words, 1))
        return;
    exchange_after(
            (exchange_host){exchanges, slot}, frame, packet->transport_offset + (words >> 4) * 4u, flow, packet, from, before);
}

/* End the exchange of a slot, if it has one. */
static void exchanges_end(struct exchanges *exchanges, __u32 slot, struct flow *flow, enum exchange_end end, __u64 ended_ns)
{
    struct exchange *exchange;

    if (!exchanges->of_slot || flow->requests != FLOW_REQUESTS_TRACED)
        return;
    exchange = &exchanges->of_slot[slot].exchange;
    exchange->end = (__u8)end;
    exchange->ended_ns = ended_ns;
    flow->requests = FLOW_REQUESTS_UNKNOWN;
    exchange_ended((exchange_host){exchanges, slot}, exchange);
}

/* The flow of an open exchange is about to be forgotten. When one ended that nobody ended, the reader says. */
static void exchanges_forget(struct exchanges *exchanges, __u32 slot, struct flow *flow)
{
    enum exchange_end end = flow->outcome == FLOW_OUTCOME_RESET ? EXCHANGE_END_RESET
                            : flow_ended(flow)                  ? EXCHANGE_END_CLOSED
                                                                : EXCHANGE_END_IDLE_TIMEOUT;

    exchanges_end(exchanges, slot, flow, end, end == EXCHANGE_END_IDLE_TIMEOUT ? 0 : flow->last_ns);
}

#endif
