/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * Frames of HTTP/2 (RFC 9113 4.1), as far as where they end has to be known: what one direction of a connection keeps between its
 * segments. A frame's payload is passed over by its length, but for header blocks (follow.h).
 *
 * Where a direction's place is not known, the next segment's beginning is taken for a frame's, on trial: it is where programs begin to
 * write. So many frames in a row that look like their kind prove it; by what else is there three never are.
 */
#ifndef WIRESPAN_HTTP2_FRAME_H
#define WIRESPAN_HTTP2_FRAME_H

#include "../packet.h"

#define HTTP2_PREFACE_BYTES 24u /* "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" */
#define HTTP2_HEAD_BYTES    9u
#define HTTP2_HEAD_ROOM     16u /* for it and the fields behind it; a power of two */
#define HTTP2_PROOF_FRAMES  3u
#define HTTP2_TRIAL_BYTES   16384u /* of a frame on trial: the largest that may be sent unasked */

enum http2_type {
    HTTP2_DATA = 0,
    HTTP2_HEADERS = 1,
    HTTP2_PRIORITY = 2,
    HTTP2_RST_STREAM = 3,
    HTTP2_SETTINGS = 4,
    HTTP2_PUSH_PROMISE = 5,
    HTTP2_PING = 6,
    HTTP2_GOAWAY = 7,
    HTTP2_WINDOW_UPDATE = 8,
    HTTP2_CONTINUATION = 9,
};

enum http2_flag {
    HTTP2_END_STREAM = 0x01,
    HTTP2_END_HEADERS = 0x04,
    HTTP2_PADDED = 0x08,
    HTTP2_HAS_PRIORITY = 0x20,
};

/* What is known of a step is in memory, and read from there again. */
#define http2_settle() __asm__ volatile("" : : : "memory")

enum http2_side_state {
    HTTP2_IS_PLACED = 1, /* `next` is known */
    HTTP2_OPENS_SIDE = 2, /* no frame was seen of it, and the next is its first: SETTINGS (RFC 9113 3.4) */
    HTTP2_ON_TRIAL = 4, /* that frames begin where they are taken to is not proved */
};

/* One direction. */
struct http2_side {
    __u64 begun_ns;  /* first byte of the frame; of a header block in several frames, of the first */
    __u32 next;      /* sequence number of the first byte that was not passed yet */
    __u32 left;      /* of the frame behind what is in `head`, padding and all */
    __u32 stream;
    __u32 block_bytes; /* of the header block so far */
    __u32 untold;    /* bytes of the frame that came since it was told of */
    __u32 number;    /* how often something was told */
    __u8 head[2 * HTTP2_HEAD_ROOM]; /* and room for as many behind any of them */
    __u8 have;       /* bytes in it */
    __u8 want;
    __u8 type;
    __u8 flags;
    __u8 padding;
    __u8 block;       /* the type of the frame that began a header block, until that is over */
    __u8 state;       /* bits of http2_side_state */
    /* What a step has taken so far: here, and not in a variable, so that BPF's verifier forgets how it came to it. */
    __u8 parts; /* enum http2_part */
    __u16 held; /* bytes of a header block */
    __u8 proved; /* frames of a trial */
    __u8 pad;
    __u32 taken; /* bytes */
};

FLOW_INLINE int http2_is_block(const struct http2_side *side)
{
    return side->type == HTTP2_HEADERS || side->type == HTTP2_PUSH_PROMISE || side->type == HTTP2_CONTINUATION;
}

/* Whether it is one that opens, carries or ends a stream. */
FLOW_INLINE int http2_is_told(const struct http2_side *side)
{
    return http2_is_block(side) || side->type == HTTP2_DATA || side->type == HTTP2_RST_STREAM;
}

/* Whether the next bytes to come are a frame's payload, and none that is read. */
FLOW_INLINE int http2_is_passing(const struct http2_side *side)
{
    return side->have == side->want && (!http2_is_block(side) || side->left <= side->padding);
}

/* A frame comes next. */
FLOW_INLINE void http2_expect_head(struct http2_side *side)
{
    side->have = 0;
    side->want = HTTP2_HEAD_BYTES;
    side->left = 0;
    side->padding = 0;
}

/* Nothing is known of where its frames are. */
FLOW_INLINE void http2_lose_place(struct http2_side *side)
{
    http2_expect_head(side);
    side->block = 0;
    side->proved = 0;
    side->state = HTTP2_ON_TRIAL;
}

/* Bits of flags that a frame of a type may have, of those that open, carry or end a stream (RFC 9113 6). */
FLOW_INLINE __u32 http2_flags_of(__u8 type)
{
    if (type == HTTP2_HEADERS)
        return HTTP2_END_STREAM | HTTP2_END_HEADERS | HTTP2_PADDED | HTTP2_HAS_PRIORITY;
    if (type == HTTP2_CONTINUATION)
        return HTTP2_END_HEADERS;
    return type == HTTP2_DATA ? HTTP2_END_STREAM | HTTP2_PADDED : 0;
}

/*
 * Whether a frame's head looks like one that programs send, to nothing undefined and nothing rare: what http2_take_head lets pass
 * besides is possible, and proves nothing.
 */
FLOW_INLINE int http2_is_plausible(const __u8 *head)
{
    __u32 length = (__u32)head[0] << 16 | (__u32)head[1] << 8 | head[2];
    __u32 stream = (__u32)head[5] << 24 | (__u32)head[6] << 16 | (__u32)head[7] << 8 | head[8];
    __u8 type = head[3];
    __u8 flags = head[4];

    if (length > HTTP2_TRIAL_BYTES || stream >> 31)
        return 0;
    if (type == HTTP2_WINDOW_UPDATE)
        return length == 4 && !flags;
    if (type == HTTP2_SETTINGS)
        return !stream && (flags ? flags == HTTP2_END_STREAM && !length : !(length % 6)); /* its ACK has the same bit */
    if (type == HTTP2_PING)
        return !stream && length == 8 && flags <= HTTP2_END_STREAM;
    if (type == HTTP2_GOAWAY)
        return !stream && length >= 8 && !flags;
    /* Of streams that clients open. One without a byte that ends nothing would be what a row of zeroes looks like. */
    if (!(stream & 1) || flags & ~http2_flags_of(type) ||
            (!length && type != HTTP2_CONTINUATION && !(flags & HTTP2_END_STREAM)))
        return 0;
    if (type == HTTP2_RST_STREAM)
        return length == 4;
    return type == HTTP2_PRIORITY ? length == 5 : type == HTTP2_DATA || type == HTTP2_HEADERS || type == HTTP2_CONTINUATION;
}

/*
 * The nine bytes of a frame's head have come: take them. Returns -1 for one that nobody sends who speaks HTTP/2. Where fields stand in
 * front of a header block, more is wanted.
 */
FLOW_INLINE int http2_take_head(struct http2_side *side)
{
    __u32 length = (__u32)side->head[0] << 16 | (__u32)side->head[1] << 8 | side->head[2];
    __u32 stream =
            ((__u32)side->head[5] << 24 | (__u32)side->head[6] << 16 | (__u32)side->head[7] << 8 | side->head[8]) & 0x7fffffff;
    __u32 fields = 0;

    side->type = side->head[3];
    side->flags = side->head[4];
    if (side->state & HTTP2_OPENS_SIDE && side->type != HTTP2_SETTINGS)
        return -1;
    if (side->state & HTTP2_ON_TRIAL) {
        if (!http2_is_plausible(side->head))
            return -1;
        if (++side->proved == HTTP2_PROOF_FRAMES)
            side->state &= (__u8)~HTTP2_ON_TRIAL;
    }
    side->state &= (__u8)~HTTP2_OPENS_SIDE;
    if ((side->block != 0) != (side->type == HTTP2_CONTINUATION) || (side->block && stream != side->stream))
        return -1;
    side->stream = stream;
    side->left = length;
    switch (side->type) {
    case HTTP2_SETTINGS:
        return stream || length % 6 ? -1 : 0;
    case HTTP2_PING:
        return stream || length != 8 ? -1 : 0;
    case HTTP2_WINDOW_UPDATE:
        return length != 4 ? -1 : 0;
    case HTTP2_PRIORITY:
        return !stream || length != 5 ? -1 : 0;
    case HTTP2_RST_STREAM:
        return !stream || length != 4 ? -1 : 0;
    case HTTP2_DATA:
        return stream ? 0 : -1;
    case HTTP2_HEADERS:
    case HTTP2_PUSH_PROMISE:
        fields = side->flags & HTTP2_PADDED ? 1 : 0;
        if (side->type == HTTP2_PUSH_PROMISE)
            fields += 4;
        else if (side->flags & HTTP2_HAS_PRIORITY)
            fields += 5;
        if (!stream || fields > length)
            return -1;
        side->want = (__u8)(HTTP2_HEAD_BYTES + fields);
        side->left = length - fields;
        return 0;
    default:
        return 0;
    }
}

/* So have the fields behind the head. Returns as http2_take_head. */
FLOW_INLINE int http2_take_fields(struct http2_side *side)
{
    if (side->type != HTTP2_HEADERS && side->type != HTTP2_PUSH_PROMISE)
        return 0;
    if (side->flags & HTTP2_PADDED)
        side->padding = side->head[HTTP2_HEAD_BYTES];
    side->block = side->type;
    side->block_bytes = 0;
    return side->padding > side->left ? -1 : 0;
}

#endif
