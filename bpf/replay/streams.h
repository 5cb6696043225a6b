/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* Replay's keeping of connections of HTTP/2 and their streams (engine/http2/streams.h). */
#ifndef WIRESPAN_REPLAY_STREAMS_H
#define WIRESPAN_REPLAY_STREAMS_H

#include "open_exchanges.h"
#include "pieces.h"

/* That are open in one connection; beyond it none is kept. */
#ifndef MOST_STREAMS
#define MOST_STREAMS 1024u
#endif

struct http2_connection;

static inline struct http2_connection *http2_open(exchange_host host);
static inline struct http2_connection *http2_place(exchange_host host);
static inline struct exchange *stream_open(exchange_host host, __u32 stream);
static inline struct exchange *stream_place(exchange_host host, __u32 stream);
static inline void stream_ended(exchange_host host, struct exchange *exchange);
static inline void http2_dropped(exchange_host host, const struct flow *flow);
static inline int http2_hand_on(exchange_host host, frame_source source, __u32 offset, __u32 bytes, struct piece piece);

#include "../engine/http2/streams.h"

/* Those of one connection. */
struct streams {
    struct http2_connection connection;
    struct exchange *open; /* in no order */
    __u32 *numbers;        /* of them: what is searched through */
    __u32 count;
    __u32 room;
    __u32 place; /* in exchanges.streams */
    __u32 slot;
};

static inline struct http2_connection *http2_open(exchange_host host)
{
    struct streams *streams = host.exchanges->streams_of_slot[host.slot];

    return streams ? &streams->connection : NULL;
}

static inline struct http2_connection *http2_place(exchange_host host)
{
    struct exchanges *exchanges = host.exchanges;
    __u64 room = exchanges->connections_room ? 2 * exchanges->connections_room : 64;
    struct streams **all = exchanges->streams;
    struct streams *streams;

    if (exchanges->connections == exchanges->connections_room) {
        all = realloc(all, room * sizeof(*all));
        if (!all)
            return NULL;
        exchanges->streams = all;
        exchanges->connections_room = room;
    }
    streams = calloc(1, sizeof(*streams));
    if (!streams)
        return NULL;
    streams->slot = host.slot;
    streams->place = (__u32)exchanges->connections;
    all[exchanges->connections++] = streams;
    exchanges->streams_of_slot[host.slot] = streams;
    return &streams->connection;
}

static inline struct exchange *stream_open(exchange_host host, __u32 stream)
{
    const struct streams *streams = host.exchanges->streams_of_slot[host.slot];
    __u32 place;

    for (place = 0; streams && place < streams->count; place++)
        if (streams->numbers[place] == stream)
            return &streams->open[place];
    return NULL;
}

static inline struct exchange *stream_place(exchange_host host, __u32 stream)
{
    struct streams *streams = host.exchanges->streams_of_slot[host.slot];
    __u32 room = streams->room ? 2 * streams->room : 8;
    struct exchange *open = streams->open;
    __u32 *numbers = streams->numbers;

    if (streams->count == MOST_STREAMS)
        return NULL;
    if (streams->count == streams->room) {
        open = realloc(open, room * sizeof(*open));
        if (open)
            streams->open = open;
        numbers = realloc(numbers, room * sizeof(*numbers));
        if (numbers)
            streams->numbers = numbers;
        if (!open || !numbers)
            return NULL;
        streams->room = room;
    }
    open += streams->count;
    memset(open, 0, sizeof(*open));
    open->slot = host.slot;
    numbers[streams->count++] = stream;
    host.exchanges->open_streams++;
    return open;
}

static inline void stream_ended(exchange_host host, struct exchange *exchange)
{
    struct streams *streams = host.exchanges->streams_of_slot[host.slot];
    __u32 last = --streams->count;

    exchanges_keep_ended(host.exchanges, exchange);
    host.exchanges->open_streams--;
    streams->numbers[exchange - streams->open] = streams->numbers[last];
    *exchange = streams->open[last];
}

static inline void streams_free(exchange_host host)
{
    struct exchanges *exchanges = host.exchanges;
    struct streams *streams = exchanges->streams_of_slot[host.slot];
    struct streams *last = exchanges->streams[--exchanges->connections];

    exchanges->open_streams -= streams->count;
    exchanges->streams[streams->place] = last;
    last->place = streams->place;
    exchanges->streams_of_slot[host.slot] = NULL;
    free(streams->open);
    free(streams->numbers);
    free(streams);
}

static inline int http2_hand_on(exchange_host host, frame_source source, __u32 offset, __u32 bytes, struct piece piece)
{
    return hand_on(host.exchanges->pieces, source, offset, bytes, piece);
}

static inline void http2_dropped(exchange_host host, const struct flow *flow)
{
    static const struct frame nothing;

    http2_hand_on(host, &nothing, 0, 0,
            (struct piece){.flow_id = flow->id, .time_ns = flow->last_ns, .kind = PIECE_HTTP2, .block = PIECE_BLOCK_OVER});
    streams_free(host);
}

/* Copy the open streams, exchanges.open_streams of them. */
static void streams_copy(const struct exchanges *exchanges, struct exchange *copies)
{
    const struct streams *streams;
    __u64 index;

    for (index = 0; index < exchanges->connections; index++) {
        streams = exchanges->streams[index];
        if (streams->count)
            memcpy(copies, streams->open, streams->count * sizeof(*copies));
        copies += streams->count;
    }
}

static void exchanges_free(struct exchanges *exchanges)
{
    while (exchanges->connections)
        streams_free((exchange_host){exchanges, exchanges->streams[0]->slot});
    free(exchanges->streams);
    free(exchanges->streams_of_slot);
    free(exchanges->of_slot);
    free(exchanges->open);
    free(exchanges->ended);
}

/* Returns -1 where memory is missing. */
static int exchanges_keep(struct exchanges *exchanges, struct pieces *pieces, __u32 capacity)
{
    exchanges->pieces = pieces;
    exchanges->of_slot = calloc(capacity, sizeof(*exchanges->of_slot));
    exchanges->open = calloc(capacity, sizeof(*exchanges->open));
    exchanges->streams_of_slot = calloc(capacity, sizeof(*exchanges->streams_of_slot));
    return exchanges->of_slot && exchanges->open && exchanges->streams_of_slot ? 0 : -1;
}

#endif
