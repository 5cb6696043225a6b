/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* An exchange that belongs to an application's trace, as a host keeps it, and what becomes of requests that are looked at. */
#ifndef WIRESPAN_EXCHANGE_H
#define WIRESPAN_EXCHANGE_H

#include "../flow.h"

#include "../http/trace_context.h"

#define EXCHANGE_STATUS_BYTES 12u /* "HTTP/1.1 200" */

/* Why an exchange is over: proto/columns.py's ExchangeEnd. Most are the reader's. */
enum exchange_end {
    EXCHANGE_END_OPEN,
    EXCHANGE_END_NEXT_REQUEST,
    EXCHANGE_END_CLOSED,
    EXCHANGE_END_RESET,
    EXCHANGE_END_IDLE_TIMEOUT,
    EXCHANGE_END_ACTIVE_TIMEOUT,
    EXCHANGE_END_SHUTDOWN,
    EXCHANGE_END_SWITCHED,
    EXCHANGE_END_STREAM,
    EXCHANGE_END_STREAM_RESET,
    EXCHANGE_END_COMPLETE,
};

/* proto/columns.py's HttpMethod. */
enum http_method {
    HTTP_METHOD_UNKNOWN,
    HTTP_METHOD_GET,
    HTTP_METHOD_POST,
    HTTP_METHOD_PUT,
    HTTP_METHOD_DELETE,
    HTTP_METHOD_HEAD,
    HTTP_METHOD_OPTIONS,
    HTTP_METHOD_PATCH,
    HTTP_METHOD_CONNECT,
    HTTP_METHOD_TRACE,
    HTTP_METHOD_OTHER,
};

/* What a server is to say next. */
enum exchange_awaits {
    EXCHANGE_AWAITS_STATUS,     /* a status line */
    EXCHANGE_AWAITS_HEAD_END,   /* the rest of an interim response's head */
    EXCHANGE_AWAITS_EMPTY_LINE, /* the same, and a line begins */
    EXCHANGE_AWAITS_NEWLINE,    /* the same, and of an empty line its newline is left */
    EXCHANGE_AWAITS_NOTHING,    /* its final response has begun */
    EXCHANGE_AWAITS_SWITCH,     /* whatever the protocol that a 101 went over to begins with */
    EXCHANGE_AWAITS_HEADERS,    /* nothing yet: of the request's own headers not all have come, and no context so far */
};

/*
 * Of requests that were looked at; the first are enum trace_found. Then of connections, why none of their requests is looked at
 * any more. services/capture/flows/exchange_layout.py has the same words.
 */
enum request_counter {
    REQUEST_OVERTAKEN = TRACE_FINDINGS, /* its first segment came late: not looked at */
    REQUEST_NO_ROOM,                    /* sampled, but there is no place for another exchange */
    REQUEST_UNPAIRED,                   /* sampled, but which response is its own cannot be told */
    REQUEST_UNKNOWN,                    /* a context may stand in a table that is not known (HPACK) */
    CONNECTION_TLS,
    CONNECTION_HTTP2, /* whose frames cannot be followed */
    CONNECTION_SWITCHED,  /* by 101 Switching Protocols */
    CONNECTION_TUNNEL,    /* of a CONNECT */
    CONNECTION_PIPELINED, /* requests that do not wait for the response before, and whose lengths cannot be followed */
    CONNECTION_OTHER,     /* its client said something else, time and again */
    REQUEST_COUNTERS,
};

/* Mirrored in services/capture/flows/exchange_layout.py. Bytes are payload, each counted once however often it was sent. */
struct exchange {
    __u64 flow_id;
    __u64 owner; /* the host's */
    __u64 request_first_ns; /* 0: it is not known yet whether it is one of a trace */
    __u64 request_last_ns;
    __u64 response_first_ns; /* 0: none, or interim ones only */
    __u64 response_last_ns;
    __u64 ended_ns; /* while it is open: when its connection said that nothing more comes; 0: it has not */
    __u64 request_bytes;
    __u64 response_bytes;
    __u64 flow_first_ns;
    __u8 trace_id[16];
    __u8 parent_span_id[8];
    __u8 local_address[16];
    __u8 remote_address[16];
    __u32 slot;
    __u32 number; /* of the exchange within its flow, ascending */
    __u32 local_isn;
    __u32 remote_isn;
    __u32 request_retransmits;
    __u32 response_retransmits;
    /* Where the flow's counters stood, request first. */
    __u64 payload_before[2];
    __u32 resent_bytes_before[2];
    __u32 resent_before[2];
    __u16 local_port;
    __u16 remote_port;
    __u8 role;
    __u8 isn_seen;
    __u8 trace_flags;
    __u8 end;
    /* What http/response.h knows so far. */
    __u64 status_ns;       /* when the status line began that is awaited or was the last; before that, the request */
    __u8 status_line[24];  /* EXCHANGE_STATUS_BYTES at most, and room for as many behind any of them */
    __u16 status;          /* of the last status line; 0: none was seen. Of a stream the reader's */
    __u8 status_bytes; /* before that, windows of the headers that were looked at, and behind them the enum trace_place */
    __u8 awaits;
    __u8 method; /* enum http_method. Of a stream the reader's */
    __u8 is_stream; /* of HTTP/2: its number is the stream's, and its context is not known here */
    __u8 stream_ended; /* calls/calls.h; of another, 1: its request is whole, so far */
    __u8 grpc_status;  /* the reader's: plus 1 */
};

_Static_assert(
        sizeof(struct exchange) == 240, "struct exchange has no hole; services/capture/flows/exchange_layout.py mirrors it");

#endif
