/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* Replay's keeping of traced exchanges: the open ones beside their slots, the ended ones in a row until they are taken. */
#ifndef WIRESPAN_OPEN_EXCHANGES_H
#define WIRESPAN_OPEN_EXCHANGES_H

#include "../host.h"

#include "../../engine/exchanges/exchange.h"

#include <stdlib.h>
#include <string.h>

struct open_exchange {
    struct exchange exchange;
    __u32 place; /* in `open` */
    __u32 pad;
};

struct calls;
struct http1_connection;
struct http2_connection;

/* Of a table whose capacity is 0 none is kept. */
struct exchanges {
    struct open_exchange *of_slot; /* touched where there is one */
    __u32 *open;                   /* slots */
    struct exchange *ended;
    __u64 open_count;
    __u64 ended_count;
    __u64 ended_room;
    __u64 lost; /* no memory was left for them */
    __u64 requests[REQUEST_COUNTERS];
    struct calls *calls; /* of HTTP/2, each an exchange: bpf/calls */
    struct http1_connection **http1_of_slot; /* whose requests are pipelined */
    struct http2_connection **http2_of_slot;
    __u32 pipelined_at; /* where in the frame under way requests are that do not wait, and enum pipeline_waits */
    __u32 pipelined_waits;
    struct text_line *line_of_slot; /* touched where one of a request's lines was cut in two */
};

/* Which flow's exchange traced_exchange.h speaks of. */
struct exchange_of {
    struct exchanges *exchanges;
    __u32 slot;
};

typedef struct exchange_of exchange_host;

static inline struct exchange *exchange_open(exchange_host host)
{
    return &host.exchanges->of_slot[host.slot].exchange;
}

static inline struct exchange *exchange_place(exchange_host host)
{
    struct exchanges *exchanges = host.exchanges;
    struct open_exchange *open = &exchanges->of_slot[host.slot];

    memset(open, 0, sizeof(*open));
    open->exchange.slot = host.slot;
    open->place = (__u32)exchanges->open_count++;
    exchanges->open[open->place] = host.slot;
    return &open->exchange;
}

static inline struct text_line *exchange_line(exchange_host host)
{
    return &host.exchanges->line_of_slot[host.slot];
}

static inline void exchange_dropped(exchange_host host, struct exchange *exchange)
{
    struct exchanges *exchanges = host.exchanges;
    __u32 place = exchanges->of_slot[host.slot].place;
    __u32 last = exchanges->open[--exchanges->open_count];

    (void)exchange;
    exchanges->open[place] = last;
    exchanges->of_slot[last].place = place;
}

static inline void exchange_ended(exchange_host host, struct exchange *exchange)
{
    struct exchanges *exchanges = host.exchanges;
    __u64 room = exchanges->ended_room ? 2 * exchanges->ended_room : 64;
    struct exchange *ended = exchanges->ended;

    exchange_dropped(host, exchange);
    if (exchanges->ended_count == exchanges->ended_room) {
        ended = realloc(ended, room * sizeof(*ended));
        if (!ended) {
            exchanges->lost++;
            return;
        }
        exchanges->ended = ended;
        exchanges->ended_room = room;
    }
    ended[exchanges->ended_count++] = *exchange;
}

static inline void count_request(exchange_host host, __u32 counter)
{
    host.exchanges->requests[counter]++;
}

#endif
