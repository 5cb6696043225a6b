/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * Text in a packet, read in words: what request.h, trace_context.h and response.h look at.
 *
 * As parse.h: nothing is trusted, no loop is unbounded, and the host has defined frame_source and parse_load before. It is made
 * for BPF's verifier: text is read in chunks into the stack, so that every index into memory is a constant, and no memory is
 * shared between CPUs. Words are taken for little-endian, as both hosts' processors are.
 */
#ifndef WIRESPAN_HTTP_TEXT_H
#define WIRESPAN_HTTP_TEXT_H

#include "../parse.h"

/* Of a text, looked at in one go: whole chunks. The verifier follows every word of them. */
#define TEXT_WINDOW      1024u
#define TEXT_CHUNK_WORDS 8u
#define TEXT_CHUNK_BYTES (TEXT_CHUNK_WORDS * 8u)

#define BYTES_OF_1  0x0101010101010101ull
#define ASCII_HIGH  (0x80 * BYTES_OF_1)
#define DIGITS_OF_0 ('0' * BYTES_OF_1)

/* Loops stay loops: unrolled they are larger than a program may be. */
#ifdef __clang__
#define TEXT_LOOP _Pragma("clang loop unroll(disable)")
#else
#define TEXT_LOOP
#endif

/* Of a text that was put together out of several packets. A power of two. */
#define TEXT_LINE_BYTES 128u

/* Bytes of a line, and room for as many behind any of them. */
struct text_line {
    __u8 bytes[2 * TEXT_LINE_BYTES] __attribute__((aligned(8)));
    __u32 count;
};

/* What is left of a text in its packet. */
struct text {
    frame_source source;
    __u32 begin;
    __u32 end;
    const struct text_line *line; /* it lies there, and in no packet; NULL else */
};

FLOW_INLINE int text_load(const struct text *text, __u32 offset, void *target, __u32 size)
{
    if (offset > text->end || text->end - offset < size)
        return -1;
    if (text->line) {
        __builtin_memcpy(target, text->line->bytes + (offset & (TEXT_LINE_BYTES - 1)), size);
        return 0;
    }
    return parse_load(text->source, offset, target, size);
}

#define TEXT_FEW_BYTES 16u /* as many as a request's first look loads */

/*
 * Load what there is from `offset` on, `most` bytes at most. Returns how many; 0: the text is over; -1: the packet is.
 *
 * Counted is what is behind the first byte, in a word of its own: a size that is at most `most` and only known not to be 0 may be
 * 0 to BPF's verifier before Linux 6.8, and nothing may be read of size 0.
 */
FLOW_INLINE int text_load_some(const struct text *text, __u32 offset, void *target, __u32 most)
{
    __u64 behind = text->end - offset - 1;

    if (offset >= text->end)
        return 0;
    __asm__("" : "+r"(behind));
    if (behind >= most)
        behind = most - 1;
    if (most == TEXT_FEW_BYTES) {
        /* Said once more where it is used: before Linux 5.16 a word that was on the stack meanwhile has no bound there. */
        __asm__("" : "+r"(behind));
        behind &= most - 1;
    }
    return parse_load(text->source, offset, target, (__u32)behind + 1) ? -1 : (int)behind + 1;
}

/* Leave behind all of a text but what stands behind its last newline. Returns -1 where that is longer than a line; which is used. */
FLOW_INLINE int text_last_line(struct text *text, struct text_line *line)
{
    __u32 length = text->end - text->begin;
    __u32 behind;

    if (length > TEXT_LINE_BYTES)
        text->begin = text->end - TEXT_LINE_BYTES;
    if (text_load_some(text, text->begin, line->bytes, TEXT_LINE_BYTES) <= 0)
        return -1;
    TEXT_LOOP
    for (behind = 0; behind < TEXT_LINE_BYTES; behind++) {
        if (behind >= text->end - text->begin)
            return length > TEXT_LINE_BYTES ? -1 : 0;
        if (line->bytes[(text->end - text->begin - 1 - behind) & (TEXT_LINE_BYTES - 1)] == '\n')
            break;
    }
    text->begin = text->end - behind;
    return behind < TEXT_LINE_BYTES ? 0 : -1;
}

/* Add to a line what a text begins with, as much as there is room for. Returns -1 where there is none, or no text. */
FLOW_INLINE int text_add(struct text_line *line, const struct text *text)
{
    __u64 count = line->count;
    int size;

    if (count >= TEXT_LINE_BYTES)
        return -1;
    size = text_load_some(text, text->begin, line->bytes + count, TEXT_LINE_BYTES);
    if (size <= 0)
        return -1;
    count += (__u32)size;
    line->count = count > TEXT_LINE_BYTES ? TEXT_LINE_BYTES : (__u32)count;
    return 0;
}

/* Load a chunk from `offset` on, and the word behind it; zeros where the text ends before. Returns as text_load_some. */
FLOW_INLINE int text_load_chunk(const struct text *text, __u32 offset, __u64 *words)
{
    __builtin_memset(words, 0, TEXT_CHUNK_BYTES + 8);
    return text_load_some(text, offset, words, TEXT_CHUNK_BYTES + 8);
}

/* 0x80 in every byte of `word` that equals `byte`, and nothing else. */
FLOW_INLINE __u64 bytes_equal(__u64 word, __u8 byte)
{
    __u64 rest = word ^ byte * BYTES_OF_1;

    return ~(((rest & ~ASCII_HIGH) + ~ASCII_HIGH) | rest | ~ASCII_HIGH);
}

/* The number of the first byte that is marked by 0x80; there is one. */
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

/* Where the first newline stands in the `chunks` chunks from the text's begin on; 0: there is none. */
FLOW_INLINE __u32 text_newline(const struct text *text, __u32 chunks)
{
    __u32 newline = 0;
    __u64 words[TEXT_CHUNK_WORDS + 1];
    __u64 newlines;
    __u32 word;

    TEXT_LOOP
    for (word = 0; word < chunks * TEXT_CHUNK_WORDS; word++) {
        if (!(word % TEXT_CHUNK_WORDS) && text_load_chunk(text, text->begin + word * 8, words) <= 0)
            break;
        newlines = bytes_equal(words[word % TEXT_CHUNK_WORDS], '\n');
        if (newlines) {
            newline = text->begin + word * 8 + first_byte(newlines);
            break;
        }
    }
    return newline;
}

#endif
