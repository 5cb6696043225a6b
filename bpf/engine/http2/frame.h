/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * Frames of HTTP/2 (RFC 9113 4.1), as far as where they end has to be known: what one direction of a connection keeps between its
 * segments. A frame's payload is passed over by its length, but for header blocks (follow.h).
 *
 * Where a direction's place is not known, the next segment's beginning is taken for a frame's, on trial: it is where programs begin to
 * write. So many frames in a row that look like their kind prove it.
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
};

/* How a connection is known to be one of HTTP/2. */
enum http2_beginning {
    HTTP2_JOINS = 1, /* by frames, as it seems: nobody saw how it began */
    HTTP2_PREFACES,  /* by the connection preface */
    HTTP2_CHANGES,   /* likewise, behind answers in HTTP/1: the server's frames have begun */
    HTTP2_SWITCHES,  /* by what follows a 101 */
};

/* One direction. */
struct http2_side {
    __u64 begun_ns;  /* first byte of the frame; of a block in several, of the first; of DATA, of what is untold */
    __u32 next;      /* sequence number of the first byte that was not passed yet */
    __u32 left;      /* of the frame behind what is in `head`, padding and all */
    __u32 stream;
    __u32 block_bytes; /* of the header block so far */
    __u32 untold;    /* bytes of the frame, and of those before it, that came since something was told of */
    __u32 number;    /* how often something was told */
    __u8 head[2 * HTTP2_HEAD_ROOM]; /* and room for as many behind any of them */
    __u8 have;       /* bytes in it */
    __u8 want;       /* 0: it has not begun */
    __u8 type;
    __u8 flags;
    __u8 padding;
    __u8 block;       /* the type of the frame that began a header block, until that is over */
    __u8 state;       /* bits of http2_side_state */
    /* What a step has taken so far: here, and not in a variable, so that BPF's verifier forgets how it came to it. */
    __u8 parts; /* enum http2_part */
    __u16 held; /* bytes of a header block */
    __u8 trial; /* so many more frames are to prove that they begin where they are taken to */
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
    side->trial = HTTP2_PROOF_FRAMES;
    side->state = 0;
}

/* What frames of each type are like (RFC 9113 6), type 0 in the lowest bits of a word; PUSH_PROMISE is rare enough to be none. */
#define HTTP2_FLAGS_OF    (0x09ull | 0x2dull << 6 | 0x01ull << 24 | 0x01ull << 36 | 0x04ull << 54) /* six bits each */
#define HTTP2_LENGTHS_OF  0x408004500ull /* four bits each: the only one there is */
#define HTTP2_OF_STREAM   0x20fu /* a bit each: has a stream, the client's */
#define HTTP2_OF_NONE     0x0d0u /* has none */
#define HTTP2_SAYS_BYTES  0x003u /* has payload, or ends its stream: a row of zeroes would be frames else */
#define HTTP2_IS_PROVABLE 0x3dfu

/* 1 where a number is not 0, for what is below 2^63: without a comparison, as the next function is. */
FLOW_INLINE __u64 http2_is_set(__u64 number)
{
    number = 0 - number;
    __asm__("" : "+r"(number));
    return number >> 63;
}

/*
 * Whether a frame's head looks like one that programs send, with nothing undefined and nothing rare: what http2_take_head lets pass
 * besides is possible, and proves nothing. In one expression: BPF's verifier walks what follows once for each branch.
 */
FLOW_INLINE int http2_is_plausible(const __u8 *head)
{
    __u64 length = (__u64)head[0] << 16 | (__u64)head[1] << 8 | head[2];
    __u64 stream = (__u64)head[5] << 24 | (__u64)head[6] << 16 | (__u64)head[7] << 8 | head[8];
    __u64 type = head[3];
    __u64 flags = head[4];
    __u64 of = type & 15;
    __u64 only = HTTP2_LENGTHS_OF >> 4 * of & 15;
    __u64 wrong = type >> 4 | (~(HTTP2_IS_PROVABLE >> of) & 1);

    wrong |= flags & ~(HTTP2_FLAGS_OF >> (6 * of & 63) & 63);
    wrong |= (length + 0xffffffffull - HTTP2_TRIAL_BYTES) >> 32 | stream >> 31;
    wrong |= HTTP2_OF_STREAM >> of & ~stream & 1;
    wrong |= HTTP2_OF_NONE >> of & http2_is_set(stream);
    wrong |= http2_is_set(only) & http2_is_set(length ^ only);
    wrong |= HTTP2_SAYS_BYTES >> of & ~(http2_is_set(length) | flags) & 1;
    return !wrong;
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
    if (side->trial) {
        if (!http2_is_plausible(side->head))
            return -1;
        side->trial--;
    }
    http2_settle();
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
