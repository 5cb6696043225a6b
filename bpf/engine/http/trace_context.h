/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * The W3C trace context of a request (https://www.w3.org/TR/trace-context/).
 *
 * Read are HTTP/1 requests in clear text, TRACE_WINDOW bytes of their headers at a time. All that is kept are the trace id, the
 * caller's span id and the flags. HTTP/2 compresses its headers (HPACK) and TLS hides them.
 */
#ifndef WIRESPAN_TRACE_CONTEXT_H
#define WIRESPAN_TRACE_CONTEXT_H

#include "text.h"

#define TRACE_WINDOW      512u /* of headers, looked at in one go: whole chunks */
#define TRACE_NAME_BYTES  12u /* "traceparent:" */
#define TRACE_VALUE_BYTES 55u /* version, trace id, parent id and flags with their dashes */
#define TRACE_MAX_BLANKS  8u  /* between name and value, and behind it */

/* What became of looking for it. services/capture/flows/exchange_layout.py counts by the same words. */
enum trace_found {
    TRACE_SAMPLED,
    TRACE_UNSAMPLED,
    TRACE_ABSENT,    /* the headers end without one */
    TRACE_CUT,       /* the headers go on behind what is looked at, or break off; of one text, that it ends in the header */
    TRACE_MALFORMED, /* there is one that says nothing */
    TRACE_REPEATED,  /* there are several: none is valid */
    TRACE_FINDINGS,
    TRACE_GOES_ON = 64, /* no finding: the headers go on, behind the window or the text, and there is none so far */
    TRACE_OTHER, /* likewise: a line is another header */
};

/* Where in the headers a text ends, and so where the one behind it begins. */
enum trace_place {
    TRACE_IN_LINE,
    TRACE_AT_LINE, /* behind a newline */
    TRACE_IN_HEADER, /* in a line that may be the header */
    TRACE_IN_CUT,    /* likewise, and that is being put together */
};

struct trace_context {
    __u8 trace_id[16];
    __u8 parent_span_id[8];
    __u8 flags;
    __u8 pad[3];
    __u32 body; /* where the headers are over; 0: not within what is looked at */
};

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

/* How many blanks stand at `offset`; -1 where there are too many, or the text ends with them. `*after` is what stands there. */
FLOW_INLINE int trace_blanks(const struct text *text, __u32 offset, __u8 *after)
{
    int blanks;

    TEXT_LOOP
    for (blanks = 0; blanks < (int)TRACE_MAX_BLANKS; blanks++) {
        if (text_load(text, offset + (__u32)blanks, after, 1))
            return -1;
        if (*after != ' ' && *after != '\t')
            return blanks;
    }
    return -1;
}

/* Whether a header's value is over at `offset`: a newline, and none that only folds it (RFC 9112 5.2). */
FLOW_INLINE int trace_is_over(const struct text *text, __u32 offset)
{
    __u8 after = 0;
    int blanks = trace_blanks(text, offset, &after);

    if (blanks < 0)
        return 0;
    offset += (__u32)blanks;
    if (after == '\r' && text_load(text, ++offset, &after, 1))
        return 1; /* what follows is in another segment */
    if (after != '\n')
        return 0;
    return text_load(text, offset + 1, &after, 1) || (after != ' ' && after != '\t');
}

/* The value behind the header's name, at `offset`. */
FLOW_INLINE enum trace_found trace_value(const struct text *text, __u32 offset, struct trace_context *context)
{
    __u64 digits[4] = {0};
    __u32 *trace_id = (__u32 *)context->trace_id;
    __u32 *parent = (__u32 *)context->parent_span_id;
    __u64 wrong = 0;
    __u8 after = 0;
    __u32 version;
    __u32 dashes;
    int blanks = trace_blanks(text, offset, &after);

    if (blanks < 0)
        return TRACE_CUT;
    offset += (__u32)blanks;
    /* What follows tells that the value is whole. */
    if (text_load(text, offset + TRACE_VALUE_BYTES, &after, 1))
        return TRACE_CUT;
    /* Version, first dash, and digits of the trace id that are read again below. */
    if (text_load(text, offset, digits, 8))
        return TRACE_CUT;
    dashes = (digits[0] >> 16 & 0xff) == '-';
    version = hex_bytes((digits[0] & 0xffff) | DIGITS_OF_0 << 16, &wrong) & 0xff;
    if (text_load(text, offset + 3, digits, 32))
        return TRACE_CUT;
    trace_id[0] = hex_bytes(digits[0], &wrong);
    trace_id[1] = hex_bytes(digits[1], &wrong);
    trace_id[2] = hex_bytes(digits[2], &wrong);
    trace_id[3] = hex_bytes(digits[3], &wrong);
    /* Dash, parent, dash, flags. */
    if (text_load(text, offset + 36, digits, 16))
        return TRACE_CUT;
    parent[0] = hex_bytes(digits[0], &wrong);
    parent[1] = hex_bytes(digits[1], &wrong);
    if (text_load(text, offset + 47, digits, 8))
        return TRACE_CUT;
    dashes += (digits[0] >> 40 & 0xff) == '-';
    context->flags = (__u8)hex_bytes(digits[0] >> 48 | DIGITS_OF_0 << 16, &wrong);
    if (text_load(text, offset + 35, digits, 1))
        return TRACE_CUT;
    dashes += (digits[0] & 0xff) == '-';
    if (wrong || dashes != 3 || version == 0xff || !(trace_id[0] | trace_id[1] | trace_id[2] | trace_id[3]) ||
            !(parent[0] | parent[1]))
        return TRACE_MALFORMED;
    /* Later versions may say more behind what version 0 says. */
    if (!(after == '-' && version) && !trace_is_over(text, offset + TRACE_VALUE_BYTES))
        return TRACE_MALFORMED;
    return context->flags & 1 ? TRACE_SAMPLED : TRACE_UNSAMPLED;
}

/* Whether the header at `offset` is called "traceparent:", in whatever case; -1 where the text ends before it can be told. */
FLOW_INLINE int is_traceparent(const struct text *text, __u32 offset)
{
    __u64 head = 0;
    __u32 tail = 0;

    if (text_load(text, offset, &head, 8) || text_load(text, offset + 8, &tail, 4))
        return -1;
    /* "tracepar" and "ent" with the bits of capitals put out, then the colon as it is */
    return (head | 0x20 * BYTES_OF_1) == 0x7261706563617274ull && (tail | 0x00202020u) == 0x3a746e65u;
}

/* Where in the headers the text ends, which begins at a place `before`. */
FLOW_INLINE enum trace_place trace_ends(const struct text *text, enum trace_place before)
{
    __u32 behind;
    __u8 last = 0;
    __u8 byte = 0;

    TEXT_LOOP
    for (behind = 0; behind < TRACE_NAME_BYTES; behind++) {
        last = byte;
        if (text->end - text->begin <= behind)
            break;
        if (text_load(text, text->end - 1 - behind, &byte, 1))
            return TRACE_IN_LINE;
        if (byte == '\n')
            break;
    }
    if (behind == TRACE_NAME_BYTES || (byte != '\n' && before == TRACE_IN_LINE))
        return TRACE_IN_LINE;
    if (!behind)
        return TRACE_AT_LINE;
    return (last | 0x20) == 't' ? TRACE_IN_HEADER : TRACE_IN_LINE;
}

/* Whether a text that begins at a line begins with the end of all headers, or with the header (`*header`). -1: that is cut in two. */
FLOW_INLINE int trace_line(const struct text *text, enum trace_place place, __u32 *header, struct trace_context *context)
{
    __u8 first = 0;
    int named;

    if (place != TRACE_AT_LINE || text_load(text, text->begin, &first, 1))
        return 0;
    if (first == '\n' || first == '\r') {
        context->body = text->begin + (first == '\r' ? 2 : 1);
        return 1;
    }
    if ((first | 0x20) != 't')
        return 0;
    named = is_traceparent(text, text->begin);
    if (named > 0)
        *header = text->begin;
    return named < 0 ? -1 : 0;
}

/*
 * Look for the trace context of a request, which begins at `place` in the headers. Lines are found a word at a time: a newline
 * before a "t" and a "p" where they stand in the name may begin the header, one before another ends all headers. Headers that go
 * on behind what is looked at may have another one there; the first one counts then.
 */
FLOW_INLINE enum trace_found trace_context_find(const struct text *text, enum trace_place place, struct trace_context *context)
{
    __u64 words[TEXT_CHUNK_WORDS + 1];
    __u32 header = 0;
    __u64 following;
    __u64 newlines;
    __u64 sixth;
    __u64 starts;
    __u64 ends;
    __u64 word;
    __u32 at;
    __u32 line;
    int named = trace_line(text, place, &header, context);

    if (named)
        return named < 0 ? TRACE_CUT : TRACE_ABSENT;
    TEXT_LOOP
    for (at = 0; at < TRACE_WINDOW; at += 8) {
        if (!(at % TEXT_CHUNK_BYTES) && text_load_chunk(text, text->begin + at, words) <= 0)
            break;
        word = words[at / 8 % TEXT_CHUNK_WORDS];
        newlines = bytes_equal(word, '\n');
        if (!newlines)
            continue;
        following = word >> 8 | words[at / 8 % TEXT_CHUNK_WORDS + 1] << 56;
        sixth = word >> 48 | words[at / 8 % TEXT_CHUNK_WORDS + 1] << 16;
        ends = newlines & (bytes_equal(following, '\r') | bytes_equal(following, '\n'));
        /* Only those before the end: what comes behind it is the body. */
        starts = newlines & bytes_equal(following | 0x20 * BYTES_OF_1, 't') & bytes_equal(sixth | 0x20 * BYTES_OF_1, 'p') &
                 ((ends & (0 - ends)) - 1);
        if (starts) {
            line = text->begin + at + first_byte(starts) + 1;
            named = is_traceparent(text, line);
            if (named < 0)
                break;
            if (named && header)
                return TRACE_REPEATED;
            if (named)
                header = line;
        }
        if (ends) {
            context->body = text->begin + at + first_byte(ends) + (bytes_equal(following, '\r') & ends & (0 - ends) ? 3 : 2);
            break;
        }
    }
    if (header)
        return trace_value(text, header + TRACE_NAME_BYTES, context);
    if (named < 0)
        return TRACE_CUT;
    return context->body ? TRACE_ABSENT : TRACE_GOES_ON;
}

/* Whether a line is the header, as is_traceparent has it: -1 where it is the beginning of that name. */
FLOW_INLINE int line_is_traceparent(const struct text_line *line)
{
    __u32 count = line->count;
    __u64 head;
    __u32 tail;

    __builtin_memcpy(&head, line->bytes, 8);
    __builtin_memcpy(&tail, line->bytes + 8, 4);
    head = (head | 0x20 * BYTES_OF_1) ^ 0x7261706563617274ull;
    tail = (tail | 0x00202020u) ^ 0x3a746e65u;
    if (count < 8)
        return count && head << (64 - 8 * count) ? 0 : -1;
    if (count < TRACE_NAME_BYTES)
        return head || (count > 8 && tail << (96 - 8 * count)) ? 0 : -1;
    return !(head | tail);
}

/* What is found in a line that was cut and is being put together: TRACE_GOES_ON where more of it is needed. */
FLOW_INLINE enum trace_found trace_line_find(const struct text_line *line, struct trace_context *context)
{
    const struct text text = {.end = line->count, .line = line};
    int named = line_is_traceparent(line);
    enum trace_found found;

    if (named <= 0)
        return named ? TRACE_GOES_ON : TRACE_OTHER;
    found = trace_value(&text, TRACE_NAME_BYTES, context);
    return found == TRACE_CUT && text.end < TEXT_LINE_BYTES ? TRACE_GOES_ON : found;
}

#endif
