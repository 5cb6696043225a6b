/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* A call, how it begins and grows: a stream of HTTP/2, or one of HTTP/1's requests that do not wait, with its response. */
#ifndef WIRESPAN_CALL_H
#define WIRESPAN_CALL_H

#include "connections.h"

/* What of a stream is over: exchange.stream_ended. And whether it is the connection's first: the one that waited for it. */
#define STREAM_REQUEST_ENDED  1
#define STREAM_RESPONSE_ENDED 2
#define STREAM_ENDED          (STREAM_REQUEST_ENDED | STREAM_RESPONSE_ENDED)
#define STREAM_IS_FIRST       4

/* The client has opened a stream. */
static void call_begin(struct calls *calls, struct connection *connection, const struct http2_told *told)
{
    const struct http2_opening *opening = &connection->opening;
    struct call *call = call_place(calls, connection, told->stream);
    int is_first = !connection->last_stream && !opening->missed[0] && !opening->missed[1];
    struct exchange *exchange;

    connection->last_stream = told->stream;
    if (!call) {
        calls->requests[REQUEST_NO_ROOM]++;
        return;
    }
    /* Whether it is answered meanwhile nobody sees. */
    call->is_unclear = connection->sides[!(told->from & 1)].is_missed;
    exchange = &call->exchange;
    exchange->flow_id = told->flow_id;
    exchange->slot = told->slot;
    exchange->owner = opening->owner;
    exchange->flow_first_ns = opening->flow_first_ns;
    memcpy(exchange->local_address, opening->local_address, sizeof(exchange->local_address));
    memcpy(exchange->remote_address, opening->remote_address, sizeof(exchange->remote_address));
    exchange->local_isn = opening->local_isn;
    exchange->remote_isn = opening->remote_isn;
    exchange->local_port = opening->local_port;
    exchange->remote_port = opening->remote_port;
    exchange->role = opening->role;
    exchange->isn_seen = opening->isn_seen;
    exchange->number = told->stream;
    exchange->is_stream = 1;
    exchange->stream_ended = is_first ? STREAM_IS_FIRST : 0;
    exchange->resent_before[0] = told->resent[0];
    exchange->resent_before[1] = told->resent[1];
    exchange->request_first_ns = told->begun_ns;
    exchange->request_last_ns = told->begun_ns; /* a clock may go back */
}

/* A frame, or more of it, is part of a stream's request or response; a segment that was lost in its time held it up. */
static void call_add(struct exchange *exchange, const struct http2_told *told)
{
    exchange->request_retransmits = told->resent[0] - exchange->resent_before[0];
    exchange->response_retransmits = told->resent[1] - exchange->resent_before[1];
    if (told->parts & HTTP2_OF_CLIENT) {
        exchange->request_bytes += told->bytes;
        if (told->time_ns > exchange->request_last_ns)
            exchange->request_last_ns = told->time_ns;
        return;
    }
    exchange->response_bytes += told->bytes;
    if (told->time_ns > exchange->response_last_ns)
        exchange->response_last_ns = told->time_ns;
}

#endif
