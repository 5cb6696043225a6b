/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * The W3C trace context of a request (https://www.w3.org/TR/trace-context/).
 *
 * Read are HTTP/1 requests in clear text, and of them the first TRACE_CONTEXT_BYTES of the segment that begins the request. All
 * that is kept are the trace id, the caller's span id and the flags. HTTP/2 compresses its headers (HPACK) and TLS hides them.
 *
 * As parse.h: nothing is trusted, no loop is unbounded, and the host has defined frame_source and parse_load before. It is made
 * for BPF's verifier: text is read in words into the stack, so that every index into memory is a constant, and no memory is
 * shared between CPUs. Words are taken for little-endian, as both hosts' processors are.
 */
#ifndef WIRESPAN_TRACE_CONTEXT_H
#define WIRESPAN_TRACE_CONTEXT_H

#include "parse.h"

/* Of a request, looked at: whole chunks. The verifier follows every word of them. */
#define TRACE_CONTEXT_BYTES 1024u
#define TRACE_CHUNK_WORDS   8u
#define TRACE_CHUNK_BYTES   (TRACE_CHUNK_WORDS * 8u)
#define TRACE_NAME_BYTES    12u /* "traceparent:" */
#define TRACE_VALUE_BYTES   55u /* version, trace id, parent id and flags with their dashes */
#define TRACE_MAX_BLANKS    8u  /* between name and value */

#define BYTES_OF_1  0x0101010101010101ull
#define ASCII_HIGH  (0x80 * BYTES_OF_1)
#define DIGITS_OF_0 ('0' * BYTES_OF_1)

/* Loops stay loops: unrolled they are larger than a program may be. */
#ifdef __clang__
#define TRACE_LOOP _Pragma("clang loop unroll(disable)")
#else
#define TRACE_LOOP
#endif

/* What became of looking for it. services/capture/flows/exchange_layout.py counts by the same words. */
enum trace_found {
    TRACE_SAMPLED,
    TRACE_UNSAMPLED,
    TRACE_ABSENT,    /* the headers end without one */
    TRACE_CUT,       /* the headers go on behind what is looked at */
    TRACE_MALFORMED, /* there is one that says nothing */
    TRACE_NO_HTTP,   /* no request of HTTP/1 after all */
    TRACE_FINDINGS,
};

struct trace_context {
    __u8 trace_id[16];
    __u8 parent_span_id[8];
    __u8 flags;
    __u8 pad[7];
};

/* Where a request's text lies in its packet. */
struct trace_text {
    frame_source source;
    __u32 begin;
    __u32 end;
};

FLOW_INLINE int trace_load(const struct trace_text *text, __u32 offset, void *target, __u32 size)
{
    if (offset > text->end || text->end - offset < size)
        return -1;
    return parse_load(text->source, offset, target, size);
}

/* 0x80 in every byte of `word` that equals `byte`, and nothing else. */
FLOW_INLINE __u64 bytes_equal(__u64 word, __u8 byte)
{
    __u64 rest = word ^ byte * BYTES_OF_1;

    return ~(((rest & ~ASCII_HIGH) + ~ASCII_HIGH) | rest | ~ASCII_HIGH);
}

/* The number of the first byte that bytes_equal marked; there is one. */
FLOW_INLINE __u32 first_byte(__u64 marks)
{
    __u64 below = ((marks & (0 - marks)) - 1) & BYTES_OF_1;

    return (__u32)((below * BYTES_OF_1) >> 56) - 1;
}

/* 0x80 in every byte of `word`, all of ASCII, that is at least `least`. */
FLOW_INLINE __u64 bytes_from(__u64 word, __u8 least)
{
    return ((word | ASCII_HIGH) - least * BYTES_OF_1) & ASCII_HIGH;
}

/* 0x80 in every byte of `word` from `least` to `most`, of any word. */
FLOW_INLINE __u64 bytes_within(__u64 word, __u8 least, __u8 most)
{
    __u64 ascii = word & ~ASCII_HIGH;

    return bytes_from(ascii, least) & ~bytes_from(ascii, most + 1) & ~word;
}

/* Eight hexadecimal digits as four bytes. Digits are in lower case, as the standard has it; `*wrong` gets bits for others. */
FLOW_INLINE __u32 hex_bytes(__u64 digits, __u64 *wrong)
{
    __u64 letters = bytes_within(digits, 'a', 'f') & ASCII_HIGH;
    __u64 values = (digits & 0x0f * BYTES_OF_1) + (letters >> 7) * 9;

    *wrong |= ASCII_HIGH ^ ((bytes_within(digits, '0', '9') & ASCII_HIGH) | letters);
    values = (values << 4 | values >> 8) & 0x00ff00ff00ff00ffull;
    values = (values | values >> 8) & 0x0000ffff0000ffffull;
    return (__u32)(values | values >> 16);
}

/* Whether the payload begins like a request of HTTP/1: with a method, three to seven capital letters, and a space. */
FLOW_INLINE int request_begins(frame_source source, __u32 offset, __u32 payload_bytes)
{
    __u64 text = 0;
    __u64 others;

    if (payload_bytes < sizeof(text) || parse_load(source, offset, &text, sizeof(text)))
        return 0;
    others = ASCII_HIGH & ~bytes_within(text, 'A', 'Z');
    others &= 0 - others;
    return others > 1ull << 23 && bytes_equal(text, ' ') & others;
}

/* The value behind the header's name, at `offset`. */
FLOW_INLINE enum trace_found trace_value(const struct trace_text *text, __u32 offset, struct trace_context *context)
{
    __u64 digits[4] = {0};
    __u32 *trace_id = (__u32 *)context->trace_id;
    __u32 *parent = (__u32 *)context->parent_span_id;
    __u64 wrong = 0;
    __u8 after = 0;
    __u32 version;
    __u32 dashes;
    __u32 at;

    TRACE_LOOP
    for (at = 0; at < TRACE_MAX_BLANKS; at++) {
        if (trace_load(text, offset, &after, 1))
            return TRACE_CUT;
        if (after != ' ' && after != '\t')
            break;
        offset++;
    }
    /* What follows tells that the value is whole. */
    if (trace_load(text, offset + TRACE_VALUE_BYTES, &after, 1))
        return TRACE_CUT;
    /* Version, first dash, and digits of the trace id that are read again below. */
    if (trace_load(text, offset, digits, 8))
        return TRACE_CUT;
    dashes = (digits[0] >> 16 & 0xff) == '-';
    version = hex_bytes((digits[0] & 0xffff) | DIGITS_OF_0 << 16, &wrong) & 0xff;
    if (trace_load(text, offset + 3, digits, 32))
        return TRACE_CUT;
    trace_id[0] = hex_bytes(digits[0], &wrong);
    trace_id[1] = hex_bytes(digits[1], &wrong);
    trace_id[2] = hex_bytes(digits[2], &wrong);
    trace_id[3] = hex_bytes(digits[3], &wrong);
    /* Dash, parent, dash, flags. */
    if (trace_load(text, offset + 36, digits, 16))
        return TRACE_CUT;
    parent[0] = hex_bytes(digits[0], &wrong);
    parent[1] = hex_bytes(digits[1], &wrong);
    if (trace_load(text, offset + 47, digits, 8))
        return TRACE_CUT;
    dashes += (digits[0] >> 40 & 0xff) == '-';
    context->flags = (__u8)hex_bytes(digits[0] >> 48 | DIGITS_OF_0 << 16, &wrong);
    if (trace_load(text, offset + 35, digits, 1))
        return TRACE_CUT;
    dashes += (digits[0] & 0xff) == '-';
    if (wrong || dashes != 3 || version == 0xff || !(trace_id[0] | trace_id[1] | trace_id[2] | trace_id[3]) ||
            !(parent[0] | parent[1]))
        return TRACE_MALFORMED;
    /* Later versions may say more behind what version 0 says. */
    if (after != '\r' && after != '\n' && after != ' ' && after != '\t' && !(after == '-' && version))
        return TRACE_MALFORMED;
    return context->flags & 1 ? TRACE_SAMPLED : TRACE_UNSAMPLED;
}

/* Load a chunk of the text, from byte `*at` on; where fewer are left, the last that there are. What is loaded has a size that is
 * known beforehand, so that the verifier need not follow how much there is. */
FLOW_INLINE int trace_chunk(const struct trace_text *text, __u32 limit, __u32 *at, __u64 *words)
{
    if (*at > limit - TRACE_CHUNK_BYTES)
        *at = limit - TRACE_CHUNK_BYTES;
    words[TRACE_CHUNK_WORDS] = 0;
    return trace_load(text, text->begin + *at, words, TRACE_CHUNK_BYTES + 8) &&
           trace_load(text, text->begin + *at, words, TRACE_CHUNK_BYTES);
}

/* Whether the first line is a request line of HTTP/1; -1 where it does not end within `limit`. */
FLOW_INLINE int is_request_line(const struct trace_text *text, __u32 limit)
{
    __u64 words[TRACE_CHUNK_WORDS + 1] = {0};
    __u64 newlines = 0;
    __u64 version = 0;
    __u32 newline = 0;
    __u32 at = 0;
    __u32 word;

    TRACE_LOOP
    for (word = 0; word < TRACE_CONTEXT_BYTES / 8; word++) {
        if (!(word % TRACE_CHUNK_WORDS)) {
            at = word * 8;
            if (at >= limit || trace_chunk(text, limit, &at, words))
                return -1;
        }
        newlines = bytes_equal(words[word % TRACE_CHUNK_WORDS], '\n');
        if (newlines) {
            newline = at + word % TRACE_CHUNK_WORDS * 8 + first_byte(newlines);
            break;
        }
    }
    if (!newline)
        return -1;
    if (newline < 10 || trace_load(text, text->begin + newline - 9, &version, 8))
        return 0;
    /* "HTTP/1." and a digit, little-endian */
    return (version & 0x00ffffffffffffffull) == 0x002e312f50545448ull;
}

/* Whether the header at `offset` is called "traceparent:", in whatever case; -1 where the text ends before it can be told. */
FLOW_INLINE int is_traceparent(const struct trace_text *text, __u32 offset)
{
    __u64 head = 0;
    __u32 tail = 0;

    if (trace_load(text, offset, &head, 8) || trace_load(text, offset + 8, &tail, 4))
        return -1;
    /* "tracepar" and "ent" with the bits of capitals put out, then the colon as it is */
    return (head | 0x20 * BYTES_OF_1) == 0x7261706563617274ull && (tail | 0x00202020u) == 0x3a746e65u;
}

/* A request of less than a chunk has no room for it; where it is whole it has none. */
FLOW_INLINE enum trace_found trace_short(const struct trace_text *text)
{
    __u32 last = 0;

    if (text->end - text->begin < 4 || trace_load(text, text->end - 4, &last, 4))
        return TRACE_CUT;
    return last == 0x0a0d0a0du ? TRACE_ABSENT : TRACE_CUT;
}

/*
 * Look for the trace context of the request whose text begins at `offset`. Lines are found a word at a time: a newline before
 * a "t" may begin the header, one before another ends all headers.
 */
FLOW_INLINE enum trace_found trace_context_find(
        frame_source source, __u32 offset, __u32 payload_bytes, struct trace_context *context)
{
    struct trace_text text = {.source = source, .begin = offset, .end = offset + payload_bytes};
    __u64 words[TRACE_CHUNK_WORDS + 1] = {0};
    __u32 limit = payload_bytes < TRACE_CONTEXT_BYTES ? payload_bytes : TRACE_CONTEXT_BYTES;
    __u32 header = 0;
    __u64 following;
    __u64 newlines;
    __u64 starts;
    __u64 ends;
    __u32 at = 0;
    __u32 word;
    __u32 line;
    int named;

    if (payload_bytes < TRACE_CHUNK_BYTES)
        return trace_short(&text);
    named = is_request_line(&text, limit);
    if (named <= 0)
        return named ? TRACE_CUT : TRACE_NO_HTTP;
    TRACE_LOOP
    for (word = 0; word < TRACE_CONTEXT_BYTES / 8; word++) {
        if (!(word % TRACE_CHUNK_WORDS)) {
            at = word * 8;
            if (at >= limit || trace_chunk(&text, limit, &at, words))
                break;
        }
        newlines = bytes_equal(words[word % TRACE_CHUNK_WORDS], '\n');
        following = words[word % TRACE_CHUNK_WORDS] >> 8 | words[word % TRACE_CHUNK_WORDS + 1] << 56;
        ends = newlines & (bytes_equal(following, '\r') | bytes_equal(following, '\n'));
        /* Only those before the end: what comes behind it is the body. */
        starts = newlines & bytes_equal(following | 0x20 * BYTES_OF_1, 't') & ((ends & (0 - ends)) - 1);
        if (starts) {
            line = offset + at + word % TRACE_CHUNK_WORDS * 8 + first_byte(starts) + 1;
            named = is_traceparent(&text, line);
            if (named < 0)
                break;
            if (named) {
                header = line;
                break;
            }
        }
        if (ends)
            return TRACE_ABSENT;
    }
    return header ? trace_value(&text, header + TRACE_NAME_BYTES, context) : TRACE_CUT;
}

#endif
