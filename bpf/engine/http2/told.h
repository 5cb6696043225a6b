/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * What is told of a connection of HTTP/2 to who keeps its streams (bpf/calls): where its frames begin and end, and its header blocks.
 * Frames that open, carry and end streams are told; no other, and no byte of their payload. Likewise of one of HTTP/1 whose requests
 * are pipelined: where its messages begin and end, and what of their heads is of interest.
 */
#ifndef WIRESPAN_HTTP2_TOLD_H
#define WIRESPAN_HTTP2_TOLD_H

#include <linux/types.h>

#define HTTP2_BLOCK_BYTES 16384u /* of a header block that are handed on: the largest frame that may be sent unasked */
#define HTTP2_HELD_BYTES  512u   /* at once; a power of two */

enum http2_what {
    HTTP2_OPENS,  /* the connection preface was seen; behind it is struct http2_opening */
    HTTP2_FRAME,  /* of a frame; behind it is what it holds of a header block */
    HTTP2_CLOSES, /* the connection said that nothing more comes */
    HTTP2_OVER,   /* its frames are followed no more: not all that was said is known */
    HTTP2_MISSES, /* what a direction says is not known, until more of its frames is told */
    HTTP2_UPGRADES, /* a request of HTTP/1 went over to it, and is its stream 1; behind it is its struct exchange */
    HTTP1_MESSAGE, /* of a message of HTTP/1 (http/pipeline.h); with HTTP2_BEGINS, behind it is struct http1_head */
};

/* Bits of http2_told.parts. */
enum http2_part {
    HTTP2_BEGINS = 1, /* the frame's head is part of it */
    HTTP2_ENDS = 2,   /* its last byte is */
    HTTP2_OF_CLIENT = 4,
    HTTP2_CUT = 8,    /* of the header block more came than is held */
    HTTP2_RESETS = 16, /* of what closes: by a reset, whatever was said before */
    HTTP2_IS_CLOSED = 32, /* of what closes: by both ends */
};

struct http2_told {
    __u64 flow_id;
    __u64 time_ns;
    __u64 begun_ns; /* of a header block: its first byte */
    __u32 slot;
    __u32 stream; /* of HTTP/1, the request's number */
    __u32 bytes; /* of the frame, head and all, and of those before it (http2_pass), since it was told of last */
    __u32 number; /* ascending in its direction: where one is missing something was lost */
    __u32 resent[2]; /* segments that the connection has sent again by now: the client, the server */
    __u16 held; /* bytes that follow */
    __u8 what;  /* enum http2_what */
    __u8 type;  /* enum http2_type */
    __u8 flags;
    __u8 parts; /* enum http2_part */
    __u8 from;  /* enum flow_direction */
    __u8 pad;
};

/* Of a connection, what its exchanges say of it. */
struct http2_opening {
    __u64 owner;
    __u64 flow_first_ns;
    __u8 local_address[16];
    __u8 remote_address[16];
    __u32 local_isn;
    __u32 remote_isn;
    __u16 local_port;
    __u16 remote_port;
    __u8 role;
    __u8 isn_seen;
    __u8 missed[2]; /* each direction: what it said before is not known */
};

/* Of a line with a trace context, as much as is looked at: text.h's TEXT_LINE_BYTES. */
#define HTTP1_CONTEXT_BYTES 128u

/* What the head of a message of HTTP/1 says. */
struct http1_head {
    __u8 context[HTTP1_CONTEXT_BYTES]; /* the last line with one. Of a request that is handed over, the ids */
    __u16 status;
    __u8 context_bytes;
    __u8 contexts; /* how many such lines there are: 2 for more */
    __u8 method; /* enum http_method */
    __u8 is_handed_over; /* a sampled one, which was counted among requests before it was told */
    __u8 pad[2];
};

_Static_assert(sizeof(struct http1_head) == 136, "struct http1_head has no hole");
_Static_assert(sizeof(struct http2_told) == 56, "struct http2_told has no hole");
_Static_assert(sizeof(struct http2_opening) == 64, "struct http2_opening has no hole");

#endif
