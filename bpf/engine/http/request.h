/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* Whether a client's payload begins a request of HTTP/1 (RFC 9112 3): any method, whatever stands in front of it. */
#ifndef WIRESPAN_HTTP_REQUEST_H
#define WIRESPAN_HTTP_REQUEST_H

#include "../http2/frame.h"
#include "text.h"

#define REQUEST_HEAD_BYTES 16u
/* A request line ends in "HTTP/1.1", and a newline behind it. */
#define REQUEST_VERSION_BYTES 8u
/* HAProxy's PROXY protocol: a line of at most 107 bytes, or a binary header with its length. */
#define PROXY_LINE_CHUNKS 2u
#define PROXY_FIXED_BYTES 16u

enum request_beginning {
    REQUEST_LINE,    /* it does */
    REQUEST_CUT,     /* like one, but the line goes on behind what can be looked at */
    REQUEST_PART,    /* it may: it is too short to say */
    REQUEST_TO_COME, /* there is only what may stand before a request */
    REQUEST_NONE,
    REQUEST_TLS,
    REQUEST_HTTP2, /* the connection preface */
    REQUEST_FRAME, /* a frame of HTTP/2, as it seems, in a connection whose beginning nobody saw */
};

/* Leave a PROXY header behind (https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt). -1: it is not all there. */
FLOW_INLINE int request_skip_proxy(struct text *text)
{
    __u64 head[2] = {0};
    __u32 newline;
    __u32 size;

    if (text_load(text, text->begin, head, 8))
        return 0;
    /* "PROXY TC" and "PROXY UN", little-endian */
    if (head[0] == 0x43542059584f5250ull || head[0] == 0x4e552059584f5250ull) {
        newline = text_newline(text, PROXY_LINE_CHUNKS);
        if (!newline)
            return -1;
        text->begin = newline + 1;
    } else if (head[0] == 0x510a0d000a0d0a0dull) {
        if (text_load(text, text->begin, head, PROXY_FIXED_BYTES))
            return -1;
        if ((head[1] & 0xffffffffull) != 0x0a544955ull)
            return 0;
        /* "\r\n\r\n\0\r\nQUIT\n", version and command, family, and what follows in two bytes of network order */
        size = PROXY_FIXED_BYTES + ((__u32)(head[1] >> 48 & 0xff) << 8 | (__u32)(head[1] >> 56));
        if (text->end - text->begin < size)
            return -1;
        text->begin += size;
    }
    return 0;
}

/* Leave an empty line behind: some clients end a body with one (RFC 9112 2.2). */
FLOW_INLINE void request_skip_empty_line(struct text *text)
{
    __u16 head = 0;

    if (!text_load(text, text->begin, &head, 2) && head == 0x0a0d)
        text->begin += 2;
    else if (!text_load(text, text->begin, &head, 1) && (head & 0xff) == '\n')
        text->begin += 1;
}

/* Whether it begins like a frame of HTTP/2. */
FLOW_INLINE int request_is_frame(const struct text *text)
{
    __u8 head[REQUEST_HEAD_BYTES] = {0};

    return !text_load(text, text->begin, head, HTTP2_HEAD_BYTES) && http2_is_plausible(head);
}

/* Whether the line before `newline` ends in the version of HTTP/1. */
FLOW_INLINE int request_has_version(const struct text *text, __u32 newline)
{
    __u64 version = 0;
    __u8 last = 0;

    if (newline < text->begin + REQUEST_VERSION_BYTES + 1 || text_load(text, newline - 1, &last, 1))
        return 0;
    if (last == '\r')
        newline--;
    if (text_load(text, newline - REQUEST_VERSION_BYTES, &version, sizeof(version)))
        return 0;
    /* "HTTP/1." and a digit, little-endian */
    return (version & 0x00ffffffffffffffull) == 0x002e312f50545448ull && version >> 56 >= '0' && version >> 56 <= '9';
}

/*
 * What a client's payload begins with, as far as its first bytes tell: REQUEST_LINE where the end of the line has to. `first`: these
 * are the connection's first bytes. `is_rest`: the line's beginning came before. The text's begin is moved to where the request
 * begins; `*has_path` is set where what follows the method begins like a path.
 */
FLOW_INLINE enum request_beginning request_looks(struct text *text, int first, int is_rest, int *has_path)
{
    __u64 head[2] = {0};
    __u64 others;
    __u32 at = 0;
    __u8 next = 0;
    int left;

    *has_path = is_rest;
    if (is_rest)
        return REQUEST_LINE;
    if (first && request_skip_proxy(text))
        return REQUEST_CUT;
    request_skip_empty_line(text);
    left = text_load_some(text, text->begin, head, REQUEST_HEAD_BYTES);
    if (left <= 0)
        return left ? REQUEST_NONE : REQUEST_TO_COME;
    /* "PRI * HT", little-endian: RFC 9113 3.4 */
    if (head[0] == 0x5448202a20495250ull)
        return REQUEST_HTTP2;
    /* A record of TLS: a handshake of whatever version. */
    if (first && left > 2 && (head[0] & 0xffff) == 0x0316)
        return REQUEST_TLS;
    /* Visible characters, then a space. A method is hardly longer than what is looked at; the line's end has the last word. */
    others = ASCII_HIGH & ~bytes_within(head[0], '!', '~');
    if (!others) {
        others = ASCII_HIGH & ~bytes_within(head[1], '!', '~');
        at = 8;
    }
    if (!others)
        return REQUEST_LINE;
    at += first_byte(others);
    if (at >= (__u32)left)
        return left <= FLOW_REQUESTS_LONGEST_PART ? REQUEST_PART : REQUEST_NONE;
    if (!at || text_load(text, text->begin + at, &next, 1) || next != ' ')
        return REQUEST_NONE;
    *has_path = !text_load(text, text->begin + at + 1, &next, 1) && (next == '/' || next == 'h' || next == '*');
    return REQUEST_LINE;
}

/* Whether the line that begins with the text, or the rest of it, is a request's. */
FLOW_INLINE enum request_beginning request_line(const struct text *text, int is_rest, int has_path)
{
    __u32 newline = text_newline(text, TEXT_WINDOW / TEXT_CHUNK_BYTES);

    if (newline)
        return request_has_version(text, newline) ? REQUEST_LINE : REQUEST_NONE;
    /* Of a third piece it is not known when the first one came. */
    if (!is_rest && text->end - text->begin <= FLOW_REQUESTS_LONGEST_PART)
        return REQUEST_PART;
    return has_path ? REQUEST_CUT : REQUEST_NONE;
}

/* Whether another request stands at `offset`, behind the headers: what is there may be a body. */
FLOW_INLINE int request_follows(const struct text *text, __u32 offset)
{
    __u64 head = 0;
    __u64 others;

    if (text_load(text, offset, &head, sizeof(head)))
        return 0;
    others = ASCII_HIGH & ~bytes_within(head, 'A', 'Z');
    others &= 0 - others;
    /* Three capital letters to six, a space, and the path */
    return others > 1ull << 23 && bytes_equal(head, ' ') & others && bytes_equal(head, '/') & others << 8;
}

/* The method of a request that begins with the text. */
FLOW_INLINE enum http_method request_method(const struct text *text)
{
    __u64 head = 0;

    if (text_load(text, text->begin, &head, sizeof(head)))
        return HTTP_METHOD_UNKNOWN;
    /* With the space behind them, little-endian. */
    switch (head & 0xffffffffull) {
    case 0x20544547ull:
        return HTTP_METHOD_GET;
    case 0x20545550ull:
        return HTTP_METHOD_PUT;
    }
    switch (head & 0xffffffffffull) {
    case 0x2054534f50ull:
        return HTTP_METHOD_POST;
    case 0x2044414548ull:
        return HTTP_METHOD_HEAD;
    }
    switch (head & 0xffffffffffffull) {
    case 0x204843544150ull:
        return HTTP_METHOD_PATCH;
    case 0x204543415254ull:
        return HTTP_METHOD_TRACE;
    }
    if ((head & 0xffffffffffffffull) == 0x204554454c4544ull)
        return HTTP_METHOD_DELETE;
    if (head == 0x20534e4f4954504full)
        return HTTP_METHOD_OPTIONS;
    /* What follows a successful response to it is a tunnel's (RFC 9110 9.3.6). */
    return head == 0x205443454e4e4f43ull ? HTTP_METHOD_CONNECT : HTTP_METHOD_OTHER;
}

#endif
