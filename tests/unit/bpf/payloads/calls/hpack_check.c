/* The reader of header blocks for tests: a shared library that reads blocks one after the other through one table. */
#include "calls/hpack.h"

struct hpack_table *check_new(int is_part)
{
    struct hpack_table *table = calloc(1, sizeof(*table));

    hpack_begin(table);
    table->is_part = (__u32)is_part;
    return table;
}

void check_close(struct hpack_table *table)
{
    hpack_free(table);
    free(table);
}

int check_read(struct hpack_table *table, const __u8 *block, __u32 bytes, struct header_fields *fields)
{
    return hpack_read(block, bytes, table, fields);
}

/* Sizes of what stands in the table, newest first. */
__u32 check_sizes(const struct hpack_table *table, __u32 *sizes)
{
    __u32 index;

    for (index = 0; index < table->count; index++)
        sizes[index] = hpack_entry(table, index)->bytes + HPACK_ENTRY_BYTES;
    return table->count;
}

int check_huffman(const __u8 *code, __u32 bytes, __u8 *text, __u32 room)
{
    return huffman_decode(code, bytes, text, room);
}
