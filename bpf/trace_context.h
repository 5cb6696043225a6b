/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * The W3C trace context of a request: the only payload that is ever looked at (https://www.w3.org/TR/trace-context/).
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

/* Of a request, looked at: a full Ethernet segment, in whole chunks. */
#define TRACE_CONTEXT_BYTES 1536u
#define TRACE_CHUNK_WORDS   8u
#define TRACE_CHUNK_BYTES   (TRACE_CHUNK_WORDS * 8u)
#define TRACE_CHUNKS        (TRACE_CONTEXT_BYTES / TRACE_CHUNK_BYTES)
#define TRACE_NAME_BYTES    12u /* "traceparent:" */
#define TRACE_VALUE_BYTES   55u /* version, trace id, parent id and flags with their dashes */
#define TRACE_MAX_BLANKS    8u  /* between name and value */

/* Loops stay loops: unrolled they are larger than a program may be. */
#ifdef __clang__
#define TRACE_LOOP _Pragma("clang loop unroll(disable)")
#else
#define TRACE_LOOP
#endif

/* What became of looking for it. services/capture/exchange_layout.py counts by the same words. */
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
    __u64 rest = word ^ (byte * 0x0101010101010101ull);

    return ~(((rest & 0x7f7f7f7f7f7f7f7full) + 0x7f7f7f7f7f7f7f7full) | rest | 0x7f7f7f7f7f7f7f7full);
}

/* The number of the first byte that bytes_equal marked; there is one. */
FLOW_INLINE __u32 first_byte(__u64 marks)
{
    __u64 below = ((marks & (0 - marks)) - 1) & 0x0101010101010101ull;

    return (__u32)((below * 0x0101010101010101ull) >> 56) - 1;
}

/* A hexadecimal digit as the standard has it, in lower case; anything else has bits from 8 on. Without a branch. */
FLOW_INLINE __u32 hex_digit(__u8 character)
{
    __u32 digit = (__u32)character - '0';
    __u32 letter = (__u32)character - 'a';
    __u32 is_digit = (digit - 10) >> 31 & ~digit >> 31;
    __u32 is_letter = (letter - 6) >> 31 & ~letter >> 31;

    return is_digit * digit + is_letter * (letter + 10) + (1 - is_digit - is_letter) * 0x100;
}

/* Two digits as a byte; what is none has bits from 8 on. */
FLOW_INLINE __u32 hex_byte(const __u8 *digits)
{
    __u32 high = hex_digit(digits[0]);
    __u32 low = hex_digit(digits[1]);

    return (high & 15) << 4 | (low & 15) | ((high | low) & 0x100);
}

/* Whether the payload begins like a request of HTTP/1: with a method, three to seven capital letters, and a space. */
FLOW_INLINE int request_begins(frame_source source, __u32 offset, __u32 payload_bytes)
{
    __u8 text[8] = {0};
    __u32 letters = 0;
    int method = 1;
    int begins = 0;
    __u32 at;

    if (payload_bytes < sizeof(text) || parse_load(source, offset, text, sizeof(text)))
        return 0;
    for (at = 0; at < sizeof(text); at++) {
        if (!method)
            continue;
        if ((__u8)(text[at] - 'A') < 26) {
            letters++;
        } else {
            method = 0;
            begins = text[at] == ' ' && letters >= 3;
        }
    }
    return begins;
}

/* The value behind the header's name, at `offset`. */
FLOW_INLINE enum trace_found trace_value(const struct trace_text *text, __u32 offset, struct trace_context *context)
{
    __u8 value[TRACE_VALUE_BYTES + 1] = {0};
    __u8 after = 0;
    __u32 wrong = 0;
    __u32 byte;
    __u32 known;
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
    if (trace_load(text, offset, value, TRACE_VALUE_BYTES) || trace_load(text, offset + TRACE_VALUE_BYTES, &after, 1))
        return TRACE_CUT;
    known = 0;
    TRACE_LOOP
    for (at = 0; at < 16; at++) {
        byte = hex_byte(value + 3 + 2 * at);
        wrong |= byte;
        known |= byte;
        context->trace_id[at] = (__u8)byte;
    }
    wrong |= !(known & 0xff) << 8;
    known = 0;
    TRACE_LOOP
    for (at = 0; at < 8; at++) {
        byte = hex_byte(value + 36 + 2 * at);
        wrong |= byte;
        known |= byte;
        context->parent_span_id[at] = (__u8)byte;
    }
    wrong |= !(known & 0xff) << 8;
    byte = hex_byte(value + 53);
    wrong |= byte;
    context->flags = (__u8)byte;
    byte = hex_byte(value);
    wrong |= byte;
    wrong |= (value[2] != '-' || value[35] != '-' || value[52] != '-') << 8;
    if (wrong & 0x100 || byte == 0xff)
        return TRACE_MALFORMED;
    /* Later versions may say more behind what version 0 says. */
    if (after != '\r' && after != '\n' && after != ' ' && after != '\t' && !(after == '-' && byte))
        return TRACE_MALFORMED;
    return context->flags & 1 ? TRACE_SAMPLED : TRACE_UNSAMPLED;
}

/* Whether the line that ends with the newline at `newline` is a request line of HTTP/1. */
FLOW_INLINE int is_request_line(const struct trace_text *text, __u32 newline)
{
    __u64 version = 0;

    if (newline < text->begin + 10 || trace_load(text, newline - 9, &version, 8))
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
    return (head | 0x2020202020202020ull) == 0x7261706563617274ull && (tail | 0x00202020u) == 0x3a746e65u;
}

/*
 * Look for the trace context of the request whose text begins at `offset`. Lines are found a word at a time: a newline before
 * a "t" may begin the header, one before another ends all headers.
 */
FLOW_INLINE enum trace_found trace_context_find(
        frame_source source, __u32 offset, __u32 payload_bytes, struct trace_context *context)
{
    struct trace_text text = {.source = source, .begin = offset, .end = offset + payload_bytes};
    __u64 words[TRACE_CHUNK_WORDS + 1];
    __u32 limit = payload_bytes < TRACE_CONTEXT_BYTES ? payload_bytes : TRACE_CONTEXT_BYTES;
    int is_request = 0;
    __u64 newlines;
    __u64 following;
    __u64 ends;
    __u64 starts;
    __u32 newline;
    __u32 chunk;
    __u32 word;
    __u32 size;
    __u32 line;
    int named;

    TRACE_LOOP
    for (chunk = 0; chunk < TRACE_CHUNKS; chunk++) {
        if (chunk * TRACE_CHUNK_BYTES >= limit)
            break;
        size = limit - chunk * TRACE_CHUNK_BYTES;
        if (size > sizeof(words))
            size = sizeof(words);
        __builtin_memset(words, 0, sizeof(words));
        if (parse_load(source, offset + chunk * TRACE_CHUNK_BYTES, words, size))
            return TRACE_CUT;
        TRACE_LOOP
        for (word = 0; word < TRACE_CHUNK_WORDS; word++) {
            newlines = bytes_equal(words[word], '\n');
            if (!newlines)
                continue;
            line = offset + chunk * TRACE_CHUNK_BYTES + word * 8;
            if (!is_request && !is_request_line(&text, line + first_byte(newlines)))
                return TRACE_NO_HTTP;
            is_request = 1;
            following = words[word] >> 8 | words[word + 1] << 56;
            ends = newlines & (bytes_equal(following, '\r') | bytes_equal(following, '\n'));
            starts = newlines & bytes_equal(following | 0x2020202020202020ull, 't');
            /* No more than two such lines begin within a word. */
            TRACE_LOOP
            for (named = 0; named < 2; named++) {
                if (ends && (!starts || first_byte(ends) < first_byte(starts)))
                    return TRACE_ABSENT;
                if (!starts)
                    break;
                newline = line + first_byte(starts);
                starts &= starts - 1;
                switch (is_traceparent(&text, newline + 1)) {
                case 0:
                    break;
                case 1:
                    return trace_value(&text, newline + 1 + TRACE_NAME_BYTES, context);
                default:
                    return TRACE_CUT;
                }
            }
        }
    }
    return TRACE_CUT;
}

#endif
