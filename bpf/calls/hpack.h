/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * Header blocks of HTTP/2 (HPACK, RFC 7541): read field by field. A list of headers is never made, however long it would become; the
 * dynamic table keeps of each field what header.h says. Where the beginning of a table is not known, what is added is: an index counts
 * from the newest entry, and an encoder never points at what it has let go, so what is beyond the known ones is unknown and nothing else.
 */
#ifndef WIRESPAN_HPACK_H
#define WIRESPAN_HPACK_H

#include <stdlib.h>

#include "header.h"
#include "huffman.h"

#define HPACK_TABLE_BYTES      4096u  /* where its ends have agreed on nothing else */
#define HPACK_MOST_TABLE_BYTES 65536u /* as RFC 7541 4.1 counts them; a larger one is not followed */
#define HPACK_ENTRY_BYTES      32u    /* that each counts besides its name and value */
#define HPACK_INTEGER_BYTES    4      /* behind the first: none here is larger than 2^28 */
#define HPACK_STATIC           61u

/* A dynamic table: its entries in a ring, whose size is a power of two. */
struct hpack_table {
    struct header *entries;
    __u32 room;
    __u32 newest;
    __u32 count;
    __u32 bytes;
    __u32 limit;
    __u32 is_part; /* behind these there may be others, which are not known */
};

/* What is left of a block. */
struct hpack_cursor {
    const __u8 *at;
    const __u8 *end;
};

static void hpack_begin(struct hpack_table *table)
{
    table->newest = 0;
    table->count = 0;
    table->bytes = 0;
    table->limit = HPACK_TABLE_BYTES;
    table->is_part = 0;
}

/* Its memory. */
static __u64 hpack_held(const struct hpack_table *table)
{
    return table->room * sizeof(*table->entries);
}

static void hpack_free(struct hpack_table *table)
{
    free(table->entries);
    memset(table, 0, sizeof(*table));
}

/* Entry `index`, 0 being the newest. */
static struct header *hpack_entry(const struct hpack_table *table, __u32 index)
{
    return &table->entries[(table->newest - index) & (table->room - 1)];
}

static void hpack_evict(struct hpack_table *table, __u32 limit)
{
    while (table->count && table->bytes > limit) {
        table->count--;
        table->bytes -= hpack_entry(table, table->count)->bytes + HPACK_ENTRY_BYTES;
    }
}

/* Returns -1 where memory is missing. */
static int hpack_grow(struct hpack_table *table)
{
    __u32 room = table->room ? 2 * table->room : 8;
    struct header *entries = malloc(room * sizeof(*entries));
    __u32 index;

    if (!entries)
        return -1;
    for (index = 0; index < table->count; index++)
        entries[table->count - 1 - index] = *hpack_entry(table, index);
    free(table->entries);
    table->entries = entries;
    table->room = room;
    table->newest = table->count - 1;
    return 0;
}

/* Likewise. */
static int hpack_add(struct hpack_table *table, const struct header *header)
{
    __u32 bytes = header->bytes + HPACK_ENTRY_BYTES;

    hpack_evict(table, bytes > table->limit ? 0 : table->limit - bytes);
    if (bytes > table->limit)
        return 0; /* RFC 7541 4.4: an empty table is all that comes of it */
    if (table->count == table->room && hpack_grow(table))
        return -1;
    table->newest++;
    table->count++;
    table->bytes += bytes;
    *hpack_entry(table, 0) = *header;
    return 0;
}

/* An integer whose first byte has so many bits of it (RFC 7541 5.1); -1: it is cut off, or too long. */
static int hpack_integer(struct hpack_cursor *cursor, int bits)
{
    __u32 mask = (1u << bits) - 1;
    __u32 value;
    int place;

    if (cursor->at == cursor->end)
        return -1;
    value = *cursor->at++ & mask;
    if (value < mask)
        return (int)value;
    for (place = 0; place < HPACK_INTEGER_BYTES; place++) {
        if (cursor->at == cursor->end)
            return -1;
        value += (*cursor->at & 0x7fu) << 7 * place;
        if (*cursor->at++ < 0x80)
            return (int)value;
    }
    return -1;
}

/* A string (RFC 7541 5.2). Where it is not wanted it is passed over. Returns -1 where it is none. */
static int hpack_string(struct hpack_cursor *cursor, struct header_text *text, int wanted)
{
    int is_huffman = cursor->at < cursor->end && *cursor->at & 0x80;
    int bytes = hpack_integer(cursor, 7);
    const __u8 *begin = cursor->at;

    if (bytes < 0 || bytes > cursor->end - cursor->at)
        return -1;
    cursor->at += bytes;
    if (!wanted)
        return 0;
    if (is_huffman) {
        bytes = huffman_decode(begin, (__u32)bytes, text->text, HEADER_TEXT_BYTES);
        if (bytes < 0)
            return -1;
    } else {
        memcpy(text->text, begin, (__u32)bytes < HEADER_TEXT_BYTES ? (__u32)bytes : HEADER_TEXT_BYTES);
    }
    text->bytes = (__u32)bytes;
    return 0;
}

/* An entry of the static table (RFC 7541, appendix A). Nobody asks how long its value is. */
static struct header hpack_static(__u32 index)
{
    /* clang-format off */
    static const __u8 names[HPACK_STATIC] = {10, 7, 7, 5, 5, 7, 7, 7, 7, 7, 7, 7, 7, 7, 14, 15, 15, 13, 6, 27, 3, 5, 13, 13, 19, 16,
            16, 14, 16, 13, 12, 6, 4, 4, 6, 7, 4, 4, 8, 17, 13, 8, 19, 13, 4, 8, 12, 18, 19, 5, 7, 7, 11, 6, 10, 25, 17, 10, 4, 3, 16};
    /* clang-format on */
    static const __u16 statuses[] = {200, 204, 206, 304, 400, 404, 500};
    struct header header = {.name_bytes = names[index - 1]};

    if (index == 2 || index == 3) {
        header.name = HEADER_METHOD;
        header.number = index == 2 ? HTTP_METHOD_GET : HTTP_METHOD_POST;
    } else if (index >= 8 && index <= 14) {
        header.name = HEADER_STATUS;
        header.number = statuses[index - 8];
    } else {
        header.name = index <= 7 ? HEADER_PSEUDO : HEADER_OTHER;
    }
    return header;
}

/* An entry of the tables; -1: there is none of this index. */
static int hpack_look_up(const struct hpack_table *table, int index, struct header *header)
{
    if (index <= 0)
        return -1;
    if (index <= (int)HPACK_STATIC) {
        *header = hpack_static((__u32)index);
        return 0;
    }
    if ((__u32)index - HPACK_STATIC > table->count) {
        memset(header, 0, sizeof(*header));
        header->name = HEADER_UNKNOWN;
        return table->is_part ? 0 : -1;
    }
    *header = *hpack_entry(table, (__u32)index - HPACK_STATIC - 1);
    return 0;
}

/* A field that is said, by name or the index of one; kept in the table where it `is_kept`. Returns -1 where it is none. */
static int hpack_literal(struct hpack_cursor *cursor, struct hpack_table *table, int is_kept, struct header *header)
{
    struct header_text text = {.bytes = 0};
    int index = hpack_integer(cursor, is_kept ? 6 : 4);

    if (index < 0)
        return -1;
    if (index) {
        struct header entry;

        if (hpack_look_up(table, index, &entry))
            return -1;
        *header = (struct header){.name = entry.name, .name_bytes = entry.name_bytes};
    } else {
        if (hpack_string(cursor, &text, 1))
            return -1;
        *header = (struct header){.name = (__u8)header_name(&text), .name_bytes = (__u16)text.bytes};
    }
    text.bytes = 0;
    if (hpack_string(cursor, &text, is_kept || (header->name != HEADER_OTHER && header->name != HEADER_PSEUDO)))
        return -1;
    header->bytes = header->name_bytes + text.bytes;
    header_value(header, &text);
    return is_kept ? hpack_add(table, header) : 0;
}

/* Returns -1 where it is none. */
static int hpack_field(struct hpack_cursor *cursor, struct hpack_table *table, struct header_fields *fields)
{
    struct header header = {.bytes = 0};
    int size;

    if (*cursor->at & 0x80) {
        if (hpack_look_up(table, hpack_integer(cursor, 7), &header))
            return -1;
    } else if ((*cursor->at & 0xe0) == 0x20) {
        size = hpack_integer(cursor, 5);
        if (size < 0 || size > (int)HPACK_MOST_TABLE_BYTES)
            return -1;
        table->limit = (__u32)size;
        hpack_evict(table, table->limit);
        return 0;
    } else if (hpack_literal(cursor, table, *cursor->at & 0x40, &header)) {
        return -1;
    }
    header_take(fields, &header);
    return 0;
}

/*
 * Read what a block says, and change the dynamic table as it says. Returns -1 where it is no block of HPACK: the table is not to be
 * used any more. A trace context is recognised by its form where its name is not known.
 */
static int hpack_read(const __u8 *block, __u32 bytes, struct hpack_table *table, struct header_fields *fields)
{
    struct hpack_cursor cursor = {block, block + bytes};

    memset(fields, 0, sizeof(*fields));
    while (cursor.at < cursor.end)
        if (hpack_field(&cursor, table, fields))
            return -1;
    return 0;
}

#endif
