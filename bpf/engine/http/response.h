/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* Where a server's final response begins: at the first status line whose code is not 1xx (RFC 9110 15.2). */
#ifndef WIRESPAN_HTTP_RESPONSE_H
#define WIRESPAN_HTTP_RESPONSE_H

#include "../exchanges/exchange.h"
#include "text.h"

#define STATUS_SWITCHING 101u

enum response_found {
    RESPONSE_IS_AWAITED, /* there is no final status line in it */
    RESPONSE_GOES_ON,    /* nor in what was looked at; more of it is left, from the text's begin on */
    RESPONSE_BEGINS,     /* exchange->status is its code */
    RESPONSE_SWITCHES,   /* what follows a 101's head begins with the text */
    RESPONSE_IS_NONE,    /* the server says something that is no response's beginning */
};

/* Go on in the head of an interim response. Returns whether its empty line is left behind. */
FLOW_INLINE int response_skip_head(struct exchange *exchange, struct text *text)
{
    __u64 words[TEXT_CHUNK_WORDS + 1];
    __u64 following;
    __u64 ends;
    __u64 word;
    __u8 next = 0;
    __u32 at;

    if (exchange->awaits == EXCHANGE_AWAITS_HEAD_END) {
        TEXT_LOOP
        for (at = 0; at < TEXT_WINDOW; at += 8) {
            if (!(at % TEXT_CHUNK_BYTES) && text_load_chunk(text, text->begin + at, words) <= 0)
                break;
            word = words[at / 8 % TEXT_CHUNK_WORDS];
            following = word >> 8 | words[at / 8 % TEXT_CHUNK_WORDS + 1] << 56;
            ends = bytes_equal(word, '\n') & (bytes_equal(following, '\r') | bytes_equal(following, '\n'));
            if (ends) {
                text->begin += at + first_byte(ends) + 1;
                exchange->awaits = EXCHANGE_AWAITS_EMPTY_LINE;
                break;
            }
        }
        if (exchange->awaits == EXCHANGE_AWAITS_HEAD_END) {
            if (text->end - text->begin > TEXT_WINDOW) {
                text->begin += TEXT_WINDOW;
                return 0;
            }
            if (!text_load(text, text->end - 1, &next, 1) && next == '\n')
                exchange->awaits = EXCHANGE_AWAITS_EMPTY_LINE;
            text->begin = text->end;
            return 0;
        }
    }
    if (text_load(text, text->begin, &next, 1))
        return 0;
    if (next == '\r' && exchange->awaits == EXCHANGE_AWAITS_EMPTY_LINE) {
        exchange->awaits = EXCHANGE_AWAITS_NEWLINE;
        text->begin++;
        if (text_load(text, text->begin, &next, 1))
            return 0;
    }
    exchange->awaits = EXCHANGE_AWAITS_HEAD_END;
    text->begin += next == '\n';
    return next == '\n';
}

/* Look at the next of what a server says before its final response has begun, one thing at a time. */
FLOW_INLINE enum response_found response_look(struct exchange *exchange, struct text *text)
{
    __u64 have = exchange->status_bytes;
    __u64 version;
    __u32 code;
    int size;

    if (text->begin >= text->end)
        return RESPONSE_IS_AWAITED;
    if (exchange->awaits == EXCHANGE_AWAITS_SWITCH)
        return RESPONSE_SWITCHES;
    if (exchange->awaits != EXCHANGE_AWAITS_STATUS) {
        if (response_skip_head(exchange, text)) {
            exchange->awaits = exchange->status == STATUS_SWITCHING ? EXCHANGE_AWAITS_SWITCH : EXCHANGE_AWAITS_STATUS;
            exchange->status_bytes = 0;
        }
        return text->begin < text->end ? RESPONSE_GOES_ON : RESPONSE_IS_AWAITED;
    }
    if (have >= EXCHANGE_STATUS_BYTES)
        return RESPONSE_IS_NONE;
    size = text_load_some(text, text->begin, exchange->status_line + have, EXCHANGE_STATUS_BYTES);
    if (size <= 0)
        return RESPONSE_IS_NONE;
    if (size > (int)(EXCHANGE_STATUS_BYTES - have))
        size = (int)(EXCHANGE_STATUS_BYTES - have);
    text->begin += (__u32)size;
    exchange->status_bytes = (__u8)(have + (__u32)size);
    if (exchange->status_bytes < EXCHANGE_STATUS_BYTES)
        return RESPONSE_IS_AWAITED;
    /* "HTTP/1." and a digit, then a space and three digits, little-endian */
    version = *(const __u64 *)exchange->status_line;
    code = *(const __u32 *)(exchange->status_line + 8) ^ 0x30303020u;
    if ((version & 0x00ffffffffffffffull) != 0x002e312f50545448ull || code & 0xf0f0f0ff)
        return RESPONSE_IS_NONE;
    exchange->status = (__u16)((code >> 8 & 15) * 100 + (code >> 16 & 15) * 10 + (code >> 24));
    if (exchange->status / 100 != 1)
        return RESPONSE_BEGINS;
    exchange->awaits = EXCHANGE_AWAITS_HEAD_END;
    return text->begin < text->end ? RESPONSE_GOES_ON : RESPONSE_IS_AWAITED;
}

#endif
