/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * Connections of HTTP/2 and what is kept of each: its streams that are open and belong to a trace, and what HPACK knows. By the id of
 * their flow; of too many, or where their tables are too large together, the one that was quiet for longest is forgotten.
 */
#ifndef WIRESPAN_CONNECTIONS_H
#define WIRESPAN_CONNECTIONS_H

#include "hpack.h"

#include "../engine/http2/told.h"

#ifndef MOST_CONNECTIONS
#define MOST_CONNECTIONS 16384u
#endif
#ifndef MOST_HELD_BYTES
#define MOST_HELD_BYTES (64u << 20) /* by the tables and blocks of all */
#endif
#ifndef MOST_STREAMS
#define MOST_STREAMS 1024u /* that are open in one connection */
#endif
#ifndef MOST_CALLS
#define MOST_CALLS 131072u /* that are open, or are over and were not taken */
#endif
#define CONNECTION_BUCKETS 16384u /* a power of two */

/* One whose request's header block is under way, or says that it is sampled. */
struct call {
    struct exchange exchange;
    __u8 is_known; /* its request's header block was read */
    __u8 is_unclear; /* what of the response has come cannot be told */
    __u8 is_upgraded; /* it was answered by 101, and went over to HTTP/2 */
    __u8 pad[5];
};

/* One direction. */
struct call_side {
    struct hpack_table table;
    __u8 *block; /* that is under way, of HTTP2_BLOCK_BYTES; NULL: none came in parts */
    __u64 begun_ns; /* of it */
    __u32 block_bytes;
    __u32 number; /* that is told next */
    __u8 is_missed; /* what it said last is not known: what is open may have gone on in it */
    __u8 is_whole; /* the block, so far */
    __u8 is_promised;
    __u8 ends_stream;
};

struct connection {
    __u64 flow_id;
    struct connection *chained; /* in its bucket */
    struct connection *quieter;
    struct connection *livelier;
    struct http2_opening opening;
    struct call_side sides[2];
    struct call *open; /* in no order */
    __u32 *numbers;    /* of their streams: what is searched through */
    __u32 count;
    __u32 room;
    __u32 last_stream; /* the client's latest */
    __u8 is_closed;
    __u8 pad[3];
};

/* services/capture/calls/library.py has all but the last members. */
struct calls {
    struct exchange *ended; /* the first that was not taken */
    __u64 ended_count;
    __u64 open_count;
    __u64 requests[REQUEST_COUNTERS];
    __u64 unreadable; /* header blocks that could not be read, behind each of which no table of its direction is known */
    __u64 forgotten;  /* connections, because there were too many */
    __u64 missing;    /* how often something that was told was lost on its way */
    __u64 found;      /* directions whose frames are followed again, or from the midst of their connection on */
    __u64 lost;       /* exchanges that were over and found no room */
    struct exchange *ended_kept; /* with those that were taken in front of it */
    __u64 ended_room;
    __u64 handed_over; /* that were counted among requests before they came here */
    __u64 held_bytes;
    __u64 connection_count;
    struct connection *quietest;
    struct connection *liveliest;
    struct connection *buckets[CONNECTION_BUCKETS];
};

static struct connection **connection_bucket(struct calls *calls, __u64 flow_id)
{
    return &calls->buckets[(flow_id * 0x9e3779b97f4a7c15ull >> 40) & (CONNECTION_BUCKETS - 1)];
}

static void connection_unlink(struct calls *calls, struct connection *connection)
{
    if (connection->quieter)
        connection->quieter->livelier = connection->livelier;
    else
        calls->quietest = connection->livelier;
    if (connection->livelier)
        connection->livelier->quieter = connection->quieter;
    else
        calls->liveliest = connection->quieter;
}

/* It was the last to speak. */
static void connection_link(struct calls *calls, struct connection *connection)
{
    connection->quieter = calls->liveliest;
    connection->livelier = NULL;
    if (calls->liveliest)
        calls->liveliest->livelier = connection;
    else
        calls->quietest = connection;
    calls->liveliest = connection;
}

/* What is known of the connection, which speaks; NULL: nothing. */
static struct connection *connection_of(struct calls *calls, __u64 flow_id)
{
    struct connection *connection = *connection_bucket(calls, flow_id);

    while (connection && connection->flow_id != flow_id)
        connection = connection->chained;
    if (connection && connection != calls->liveliest) {
        connection_unlink(calls, connection);
        connection_link(calls, connection);
    }
    return connection;
}

static void side_let_go(struct calls *calls, struct call_side *side)
{
    calls->held_bytes -= hpack_held(&side->table) + (side->block ? HTTP2_BLOCK_BYTES : 0);
    hpack_free(&side->table);
    free(side->block);
    side->block = NULL;
}

/* Forget a connection. What it has open is told to nobody. */
static void connection_forget(struct calls *calls, struct connection *connection)
{
    struct connection **link = connection_bucket(calls, connection->flow_id);

    while (*link != connection)
        link = &(*link)->chained;
    *link = connection->chained;
    connection_unlink(calls, connection);
    side_let_go(calls, &connection->sides[0]);
    side_let_go(calls, &connection->sides[1]);
    calls->open_count -= connection->count;
    calls->connection_count--;
    free(connection->open);
    free(connection->numbers);
    free(connection);
}

/* What of a connection's open calls is known to be sampled will not be told. */
static void connection_count_unpaired(struct calls *calls, const struct connection *connection)
{
    __u32 place;

    for (place = 0; place < connection->count; place++)
        calls->requests[REQUEST_UNPAIRED] += connection->open[place].is_known;
}

/* Make room: for connections to come, and in memory. The one that speaks is the last to go. */
static void connections_bound(struct calls *calls, __u64 to_come)
{
    while (calls->quietest && (to_come || calls->quietest != calls->liveliest) &&
            (calls->connection_count + to_come > MOST_CONNECTIONS || calls->held_bytes > MOST_HELD_BYTES)) {
        calls->forgotten++;
        connection_count_unpaired(calls, calls->quietest);
        connection_forget(calls, calls->quietest);
    }
}

/* NULL where memory is missing. */
static struct connection *connection_open(struct calls *calls, __u64 flow_id, const struct http2_opening *opening)
{
    struct connection **bucket = connection_bucket(calls, flow_id);
    struct connection *connection;
    int from;

    connections_bound(calls, 1);
    connection = calloc(1, sizeof(*connection));
    if (!connection)
        return NULL;
    connection->flow_id = flow_id;
    connection->opening = *opening;
    connection->chained = *bucket;
    *bucket = connection;
    connection_link(calls, connection);
    calls->connection_count++;
    for (from = 0; from < 2; from++) {
        hpack_begin(&connection->sides[from].table);
        connection->sides[from].is_missed = opening->missed[from] != 0;
        connection->sides[from].table.is_part = opening->missed[from] != 0;
    }
    return connection;
}

/* The call of a stream; NULL: there is none. */
static struct call *call_open(const struct connection *connection, __u32 stream)
{
    __u32 place;

    for (place = 0; place < connection->count; place++)
        if (connection->numbers[place] == stream)
            return &connection->open[place];
    return NULL;
}

/* Room for one; NULL: there is none. */
static struct call *call_place(struct calls *calls, struct connection *connection, __u32 stream)
{
    __u32 room = connection->room ? 2 * connection->room : 4;
    struct call *open = connection->open;
    __u32 *numbers = connection->numbers;

    if (connection->count == MOST_STREAMS || calls->open_count + calls->ended_count >= MOST_CALLS)
        return NULL;
    if (connection->count == connection->room) {
        open = realloc(open, room * sizeof(*open));
        if (open)
            connection->open = open;
        numbers = realloc(numbers, room * sizeof(*numbers));
        if (numbers)
            connection->numbers = numbers;
        if (!open || !numbers)
            return NULL;
        connection->room = room;
    }
    open += connection->count;
    memset(open, 0, sizeof(*open));
    connection->numbers[connection->count++] = stream;
    calls->open_count++;
    return open;
}

/* It is open no more. */
static void call_drop(struct calls *calls, struct connection *connection, struct call *call)
{
    __u32 last = --connection->count;

    calls->open_count--;
    connection->numbers[call - connection->open] = connection->numbers[last];
    *call = connection->open[last];
}

/* Make room for one more that is over. Returns -1 where memory is missing. */
static int calls_grow(struct calls *calls)
{
    __u64 room = calls->ended_room ? 2 * calls->ended_room : 64;
    __u64 taken = (__u64)(calls->ended - calls->ended_kept);
    struct exchange *kept = calls->ended_kept;

    if (taken + calls->ended_count < calls->ended_room)
        return 0;
    if (taken > calls->ended_count) {
        memcpy(kept, calls->ended, calls->ended_count * sizeof(*kept));
        taken = 0;
    } else {
        kept = realloc(kept, room * sizeof(*kept));
        if (!kept)
            return -1;
        calls->ended_kept = kept;
        calls->ended_room = room;
    }
    calls->ended = kept + taken;
    return 0;
}

/* Keep one that is over until it is taken, or drop it where there is not enough to tell of it. */
static void call_end(struct calls *calls, struct connection *connection, struct call *call)
{
    /* An end that went over to HTTP/2 answers, or resets the stream: where neither was seen, its frames were not followed. */
    if (call->is_unclear ||
            (call->is_upgraded && !call->exchange.response_first_ns && call->exchange.end != EXCHANGE_END_STREAM_RESET))
        calls->requests[REQUEST_UNPAIRED] += call->is_known;
    else if (calls_grow(calls))
        calls->lost++;
    else if (call->is_known)
        calls->ended[calls->ended_count++] = call->exchange;
    call_drop(calls, connection, call);
}

#endif
