/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * Messages of HTTP/1 as far as where they end has to be known (RFC 9112 6): what one direction of a connection keeps between its
 * segments. Lines are put together, as far as they are looked at: heads, sizes of chunks, trailers. Bodies are passed over by their
 * length. What cannot be told for sure is none: whoever is lenient there may mean something else.
 */
#ifndef WIRESPAN_HTTP_MESSAGE_H
#define WIRESPAN_HTTP_MESSAGE_H

#include "../exchanges/exchange.h"
#include "../http2/told.h"

#include "request.h"
#include "response.h"
#include "trace_context.h"

#define HTTP1_MOST_WAITING  256u /* requests that are not answered */
#define HTTP1_MOST_DIGITS   15u  /* of a length */
#define HTTP1_NUMBER_BYTES  18u  /* that are looked at for it */
#define HTTP1_LEAST_BYTES   13u  /* of a first line: "HTTP/1.1 200", "G / HTTP/1.1", and what ends it */
#define HTTP1_LENGTH_BYTES  15u  /* "content-length:" */
#define HTTP1_CODING_BYTES  18u  /* "transfer-encoding:" */
#define HTTP1_CHUNKED_BYTES 8u   /* "chunked", and what stands before it */

_Static_assert(HTTP1_CONTEXT_BYTES == TEXT_LINE_BYTES, "a line with a context is told as it is kept");

/* What comes next. */
enum http1_place {
    HTTP1_START, /* a message's first line */
    HTTP1_FIELDS, /* the lines behind it */
    HTTP1_BODY,
    HTTP1_CHUNK_SIZE,
    HTTP1_CHUNK,
    HTTP1_CHUNK_END,
    HTTP1_TRAILERS,
    HTTP1_UNTIL_END, /* a body that ends with its connection */
};

/* Bits of http1_side.says: what a message's head says. */
enum http1_says {
    HTTP1_HAS_LENGTH = 1,
    HTTP1_IS_CHUNKED = 2,
    HTTP1_LAST_COUNTS = 4, /* the last line is not to go on in a folded one */
};

/* One direction. */
struct http1_side {
    struct text_line line; /* that is under way */
    struct http1_head head; /* so far */
    __u64 begun_ns; /* the message's first byte */
    __u64 last_ns;  /* the last that was passed over */
    __u64 left;     /* of a body or a chunk */
    __u64 length;   /* that was read last */
    __u64 content_length;
    __u32 next;   /* sequence number of the first byte that was not passed yet */
    __u32 untold; /* bytes that came since something was told */
    __u32 told;   /* how often something was */
    __u32 count;  /* messages that are over; of responses the final ones. Of requests, whose heads are */
    __u8 place;   /* enum http1_place */
    __u8 says;    /* bits of enum http1_says */
    __u8 is_placed; /* `next` is known */
    /* What a step has taken so far: in memory, so that BPF's verifier forgets how it came to it. */
    __u8 is_line; /* a line is whole */
    __u8 parts;   /* enum http2_part */
    __u8 is_client;
    /* Of a number that is to be read: the base, 0 where there is none, where it stands, its digits, whether there are blanks in it. */
    __u8 base;
    __u8 number_at;
    __u8 digits;
    __u8 blanks;
    __u8 pad[6];
    __u32 taken; /* bytes */
};

struct http1_connection {
    struct http1_side sides[2];
    __u64 heads[HTTP1_MOST_WAITING /
                64]; /* a bit for each request that waits: whether it is a HEAD, whose response has no body */
};

/* Whether the next bytes to come are a body's. */
FLOW_INLINE int http1_is_passing(const struct http1_side *side)
{
    return side->place == HTTP1_BODY || side->place == HTTP1_CHUNK || side->place == HTTP1_UNTIL_END;
}

/* Note whether a request is a HEAD: one that has the next number. */
FLOW_INLINE void http1_note_request(struct http1_connection *connection, struct http1_side *side, int is_head)
{
    __u64 *heads = &connection->heads[side->count / 64 % (HTTP1_MOST_WAITING / 64)];
    __u64 bit = 1ull << (side->count & 63);

    *heads = is_head ? *heads | bit : *heads & ~bit;
    side->count++;
}

FLOW_INLINE int http1_is_head(const struct http1_connection *connection, __u32 number)
{
    return connection->heads[number / 64 % (HTTP1_MOST_WAITING / 64)] >> (number & 63) & 1;
}

FLOW_INLINE int http1_is_empty(const struct text_line *line)
{
    return line->count == 1 || (line->count == 2 && line->bytes[0] == '\r');
}

/* Where the text of a line ends; 0: it is longer than what is kept of it. */
FLOW_INLINE __u32 http1_line_end(const struct text_line *line)
{
    __u32 end = line->count - 1;

    if (line->bytes[end & (TEXT_LINE_BYTES - 1)] != '\n')
        return 0;
    return line->bytes[(end - 1) & (TEXT_LINE_BYTES - 1)] == '\r' ? end - 1 : end;
}

/* Whether a byte is less than that, and whether it is that: without a branch. */
#define http1_is_below(byte, bound) ((((__u64)(byte) & 255) - (bound)) >> 63)
#define http1_is_byte(byte, other)  (1 ^ http2_is_set((__u64)(byte) ^ (other)))

/*
 * A number that stands behind `side->number_at` bytes of the line, to the base that is asked for, and nothing behind it but blanks, of a
 * chunk's size also what is called an extension. Without a branch: BPF's verifier would walk what follows for each number of digits, and
 * a loop with one is none up to Linux 6.1, where the compiler lays it out to fall through to its beginning.
 */
FLOW_INLINE int http1_number(struct http1_side *side)
{
    __u64 base = side->base;
    __u64 is_long = base >> 4;
    __u64 at = side->number_at;
    __u64 length = 0;
    __u64 digits = 0;
    __u64 blanks = 0;
    __u64 is_odd = 0;
    __u64 goes_on = 1;
    __u64 is_decimal;
    __u64 is_letter;
    __u64 is_digit;
    __u64 is_blank;
    __u64 byte;
    __u32 turn;

    TEXT_LOOP
    for (turn = 0; turn < HTTP1_NUMBER_BYTES; turn++) {
        byte = side->line.bytes[at & (TEXT_LINE_BYTES - 1)];
        is_decimal = http1_is_below(byte - '0', 10);
        is_letter = http1_is_below((byte | 0x20) - 'a', 6) & is_long;
        is_digit = (is_decimal | is_letter) & goes_on;
        is_blank = (http1_is_byte(byte, ' ') | http1_is_byte(byte, '\t')) & goes_on;
        goes_on = is_digit | is_blank;
        is_odd |= is_digit & blanks;
        digits += is_digit;
        blanks |= is_blank & http2_is_set(digits);
        byte = is_decimal * (byte - '0') + is_letter * ((byte | 0x20) - 'a' + 10);
        length = length * (1 + is_digit * (base - 1)) + is_digit * byte;
        at += goes_on;
    }
    side->length = length;
    side->digits = (__u8)digits;
    side->blanks = (__u8)is_odd;
    side->number_at = (__u8)at;
    http2_settle();
    at = side->number_at;
    byte = side->line.bytes[at & (TEXT_LINE_BYTES - 1)];
    if (!side->digits || side->digits > HTTP1_MOST_DIGITS || side->blanks)
        return -1;
    return byte == '\n' || (byte == '\r' && side->line.bytes[(at + 1) & (TEXT_LINE_BYTES - 1)] == '\n') ||
                           (byte == ';' && side->base == 16)
                   ? 0
                   : -1;
}

/* The number of the line has come: a message's length, or a chunk's. */
FLOW_INLINE int http1_measure(struct http1_side *side)
{
    if (http1_number(side))
        return -1;
    if (side->place == HTTP1_CHUNK_SIZE) {
        side->left = side->length;
        side->place = side->length ? HTTP1_CHUNK : HTTP1_TRAILERS;
        return 0;
    }
    if (side->says & HTTP1_HAS_LENGTH && side->length != side->content_length)
        return -1;
    side->content_length = side->length;
    side->says |= HTTP1_HAS_LENGTH;
    return 0;
}

/* Whether the line, whose name is 15 bytes long and more, is Content-Length. */
FLOW_INLINE int http1_is_length(const struct text_line *line)
{
    __u64 words[2];

    __builtin_memcpy(words, line->bytes, sizeof(words));
    /* "content-" and "length:" with the bits of capitals put out, little-endian */
    return line->count > HTTP1_LENGTH_BYTES && (words[0] | 0x0020202020202020ull) == 0x2d746e65746e6f63ull &&
           ((words[1] & 0x00ffffffffffffffull) | 0x0000202020202020ull) == 0x003a6874676e656cull;
}

/* Likewise, Transfer-Encoding. */
FLOW_INLINE int http1_is_coding(const struct text_line *line)
{
    __u64 words[2];
    __u16 tail;

    __builtin_memcpy(words, line->bytes, sizeof(words));
    __builtin_memcpy(&tail, line->bytes + 16, sizeof(tail));
    /* "transfer", "-encodin" and "g:" */
    return line->count > HTTP1_CODING_BYTES && (words[0] | 0x2020202020202020ull) == 0x726566736e617274ull &&
           (words[1] | 0x2020202020202000ull) == 0x6e69646f636e652dull && (tail | 0x0020) == 0x3a67;
}

/* Whether the last coding of the line is "chunked": all others leave the length open. */
FLOW_INLINE int http1_is_chunked(const struct text_line *line)
{
    __u32 end = http1_line_end(line);
    __u64 word;
    __u8 before;

    if (!end)
        return 0;
    __builtin_memcpy(&word, line->bytes + ((end - HTTP1_CHUNKED_BYTES) & (TEXT_LINE_BYTES - 1)), sizeof(word));
    before = (__u8)word;
    return (before == ' ' || before == '\t' || before == ',' || before == ':') &&
           (word >> 8 | 0x20202020202020ull) == 0x64656b6e756863ull;
}

/* A header has come. Returns -1 where the message's length cannot be told. */
FLOW_INLINE int http1_field(struct http1_side *side)
{
    const struct text_line *line = &side->line;
    int is_length = http1_is_length(line);

    if (line->bytes[0] == ' ' || line->bytes[0] == '\t') {
        if (side->says & HTTP1_LAST_COUNTS)
            return -1;
        return 0;
    }
    side->says &= (__u8)~HTTP1_LAST_COUNTS;
    if (is_length) {
        side->says |= HTTP1_LAST_COUNTS;
        side->base = 10;
        side->number_at = HTTP1_LENGTH_BYTES;
    } else if (http1_is_coding(line)) {
        side->says |= HTTP1_LAST_COUNTS | HTTP1_IS_CHUNKED;
        return http1_is_chunked(line) ? 0 : -1;
    } else if (side->is_client && line_is_traceparent(line) > 0) {
        side->says |= HTTP1_LAST_COUNTS;
        if (side->head.contexts < 2)
            side->head.contexts++;
        side->head.context_bytes = (__u8)line->count;
        __builtin_memcpy(side->head.context, line->bytes, HTTP1_CONTEXT_BYTES);
    }
    return 0;
}

/* "HTTP/1." and a digit, little-endian */
FLOW_INLINE int http1_is_version(__u64 word)
{
    return (word & 0x00ffffffffffffffull) == 0x002e312f50545448ull && word >> 56 >= '0' && word >> 56 <= '9';
}

/* The first line of a message. Returns -1 where it is none, and where what follows is another protocol's. */
FLOW_INLINE int http1_first_line(struct http1_side *side)
{
    const struct text_line *line = &side->line;
    const struct text text = {.end = line->count, .line = line};
    __u32 end = http1_line_end(line);
    __u64 version;
    __u32 code;

    __builtin_memset(&side->head, 0, sizeof(side->head));
    side->says = 0;
    side->content_length = 0;
    side->place = HTTP1_FIELDS;
    if (line->count < HTTP1_LEAST_BYTES || line->bytes[0] <= ' ')
        return -1;
    if (side->is_client) {
        side->head.method = (__u8)request_method(&text);
        http2_settle();
        __builtin_memcpy(&version, line->bytes + ((end - 8) & (TEXT_LINE_BYTES - 1)), sizeof(version));
        if (end && (!http1_is_version(version) || line->bytes[(end - 9) & (TEXT_LINE_BYTES - 1)] != ' '))
            return -1;
        return side->head.method == HTTP_METHOD_CONNECT ? -1 : 0;
    }
    __builtin_memcpy(&version, line->bytes, sizeof(version));
    __builtin_memcpy(&code, line->bytes + 8, sizeof(code));
    code ^= 0x30303020u;
    side->head.status = (__u16)((code >> 8 & 15) * 100 + (code >> 16 & 15) * 10 + (code >> 24));
    return !http1_is_version(version) || code & 0xf0f0f0ff || side->head.status < 100 || side->head.status == STATUS_SWITCHING
                   ? -1
                   : 0;
}

/* A message is over. */
FLOW_INLINE void http1_ends(struct http1_side *side)
{
    side->place = HTTP1_START;
    side->parts |= HTTP2_ENDS;
    if (!side->is_client)
        side->count++;
}

/* The head of a message is over: what follows is its body, if it has one. */
FLOW_INLINE int http1_body(struct http1_connection *connection, struct http1_side *side, const struct http1_side *other)
{
    int has_none = 0;

    if (side->is_client) {
        if (side->count - other->count >= HTTP1_MOST_WAITING)
            return -1;
        http1_note_request(connection, side, side->head.method == HTTP_METHOD_HEAD);
    } else {
        if (other->count == side->count)
            return -1; /* nobody asked */
        if (side->head.status < 200) {
            side->place = HTTP1_START;
            return 0;
        }
        has_none = side->head.status == 204 || side->head.status == 304 || http1_is_head(connection, side->count);
    }
    side->parts |= HTTP2_BEGINS;
    if (!has_none && side->says & HTTP1_IS_CHUNKED) {
        side->place = HTTP1_CHUNK_SIZE;
    } else if (!has_none && side->says & HTTP1_HAS_LENGTH && side->content_length) {
        side->place = HTTP1_BODY;
        side->left = side->content_length;
    } else if (!has_none && !side->is_client && !(side->says & HTTP1_HAS_LENGTH)) {
        side->place = HTTP1_UNTIL_END;
    } else {
        http1_ends(side);
    }
    return 0;
}

/* A line has come whole. Returns -1 where where its message ends cannot be told. */
FLOW_INLINE int http1_line(struct http1_connection *connection, struct http1_side *side, const struct http1_side *other)
{
    int is_empty = http1_is_empty(&side->line);

    switch (side->place) {
    case HTTP1_START:
        /* Some clients end a body with an empty line (RFC 9112 2.2). */
        if (!is_empty || !side->is_client)
            return http1_first_line(side);
        side->untold = 0;
        return 0;
    case HTTP1_FIELDS:
        return is_empty ? http1_body(connection, side, other) : http1_field(side);
    case HTTP1_CHUNK_SIZE:
        side->base = 16;
        side->number_at = 0;
        return 0;
    case HTTP1_CHUNK_END:
        side->place = HTTP1_CHUNK_SIZE;
        return is_empty ? 0 : -1;
    case HTTP1_TRAILERS:
        if (is_empty)
            http1_ends(side);
        return 0;
    default:
        return -1;
    }
}

#endif
