/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * The Huffman code of HPACK (RFC 7541, appendix B). Its codes of one length are numbers in a row, in the order of their symbols, and
 * those of a greater length come behind them: so a code is found by its length, and its symbol by its place among them.
 */
#ifndef WIRESPAN_HUFFMAN_H
#define WIRESPAN_HUFFMAN_H

#include <linux/types.h>

#define HUFFMAN_SHORTEST 5
#define HUFFMAN_END      256 /* of a string: never in one */

/* clang-format off */
/* In the order of their codes. */
static const __u16 huffman_symbols[] = {
        48, 49, 50, 97, 99, 101, 105, 111, 115, 116, 32, 37, 45, 46, 47, 51, 52, 53, 54, 55, 56, 57, 61, 65, 95, 98, 100, 102,
        103, 104, 108, 109, 110, 112, 114, 117, 58, 66, 67, 68, 69, 70, 71, 72, 73, 74, 75, 76, 77, 78, 79, 80, 81, 82, 83,
        84, 85, 86, 87, 89, 106, 107, 113, 118, 119, 120, 121, 122, 38, 42, 44, 59, 88, 90, 33, 34, 40, 41, 63, 39, 43, 124,
        35, 62, 0, 36, 64, 91, 93, 126, 94, 125, 60, 96, 123, 92, 195, 208, 128, 130, 131, 162, 184, 194, 224, 226, 153, 161,
        167, 172, 176, 177, 179, 209, 216, 217, 227, 229, 230, 129, 132, 133, 134, 136, 146, 154, 156, 160, 163, 164, 169,
        170, 173, 178, 181, 185, 186, 187, 189, 190, 196, 198, 228, 232, 233, 1, 135, 137, 138, 139, 140, 141, 143, 147, 149,
        150, 151, 152, 155, 157, 158, 165, 166, 168, 174, 175, 180, 182, 183, 188, 191, 197, 231, 239, 9, 142, 144, 145, 148,
        159, 171, 206, 215, 225, 236, 237, 199, 207, 234, 235, 192, 193, 200, 201, 202, 205, 210, 213, 218, 219, 238, 240,
        242, 243, 255, 203, 204, 211, 212, 214, 221, 222, 223, 241, 244, 245, 246, 247, 248, 250, 251, 252, 253, 254, 2, 3, 4,
        5, 6, 7, 8, 11, 12, 14, 15, 16, 17, 18, 19, 20, 21, 23, 24, 25, 26, 27, 28, 29, 30, 31, 127, 220, 249, 10, 13, 22,
        256,
};
/* clang-format on */

/* Codes of one length. */
static const struct huffman_length {
    __u64 end;   /* behind the last one, as the first bits of 32 */
    __u32 begin; /* the first one, likewise */
    __u16 first; /* its symbol's place */
    __u16 bits;
} huffman_lengths[] = {
        {0x50000000ull, 0x0u, 0, 5},
        {0xb8000000ull, 0x50000000u, 10, 6},
        {0xf8000000ull, 0xb8000000u, 36, 7},
        {0xfe000000ull, 0xf8000000u, 68, 8},
        {0xff400000ull, 0xfe000000u, 74, 10},
        {0xffa00000ull, 0xff400000u, 79, 11},
        {0xffc00000ull, 0xffa00000u, 82, 12},
        {0xfff00000ull, 0xffc00000u, 84, 13},
        {0xfff80000ull, 0xfff00000u, 90, 14},
        {0xfffe0000ull, 0xfff80000u, 92, 15},
        {0xfffe6000ull, 0xfffe0000u, 95, 19},
        {0xfffee000ull, 0xfffe6000u, 98, 20},
        {0xffff4800ull, 0xfffee000u, 106, 21},
        {0xffffb000ull, 0xffff4800u, 119, 22},
        {0xffffea00ull, 0xffffb000u, 145, 23},
        {0xfffff600ull, 0xffffea00u, 174, 24},
        {0xfffff800ull, 0xfffff600u, 186, 25},
        {0xfffffbc0ull, 0xfffff800u, 190, 26},
        {0xfffffe20ull, 0xfffffbc0u, 205, 27},
        {0xfffffff0ull, 0xfffffe20u, 224, 28},
        {0x100000000ull, 0xfffffff0u, 253, 30},
};

/* Decode into `text`, which has room for `room`; what is longer is not written. Returns how long it is; -1: it is no such code. */
static int huffman_decode(const __u8 *code, __u32 bytes, __u8 *text, __u32 room)
{
    const struct huffman_length *length;
    __u64 bits = 0; /* those that come next, first */
    __u32 have = 0;
    __u32 at = 0;
    int decoded = 0;
    __u32 first;
    __u16 symbol;

    for (;;) {
        for (; have <= 56 && at < bytes; have += 8)
            bits |= (__u64)code[at++] << (56 - have);
        if (have < HUFFMAN_SHORTEST)
            break;
        first = (__u32)(bits >> 32);
        for (length = huffman_lengths; first >= length->end; length++)
            ;
        if (length->bits > have)
            break;
        symbol = huffman_symbols[length->first + ((first - length->begin) >> (32 - length->bits))];
        if (symbol == HUFFMAN_END)
            return -1;
        if ((__u32)decoded < room)
            text[decoded] = (__u8)symbol;
        decoded++;
        bits <<= length->bits;
        have -= length->bits;
    }
    /* Padding is the beginning of the longest code, and less than a byte (RFC 7541 5.2). */
    if (have > 7 || (have && bits >> (64 - have) != (1u << have) - 1))
        return -1;
    return decoded;
}

#endif
