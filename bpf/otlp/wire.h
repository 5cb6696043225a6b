/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* Protobuf's wire format, a field at a time and without a copy (https://protobuf.dev/programming-guides/encoding/). */
#ifndef WIRESPAN_OTLP_WIRE_H
#define WIRESPAN_OTLP_WIRE_H

#include <stdint.h>
#include <string.h>

struct bytes {
    const uint8_t *at;
    const uint8_t *end;
};

enum wire_type {
    WIRE_VARINT = 0,
    WIRE_FIXED64 = 1,
    WIRE_BYTES = 2,
    WIRE_FIXED32 = 5,
};

struct field {
    uint32_t number;
    enum wire_type type;
    uint64_t value; /* of all but WIRE_BYTES */
    struct bytes bytes;
};

static inline uint32_t size_of(struct bytes bytes)
{
    return (uint32_t)(bytes.end - bytes.at);
}

static inline int read_varint(struct bytes *rest, uint64_t *value)
{
    unsigned shift;

    *value = 0;
    for (shift = 0; shift < 70; shift += 7) {
        if (rest->at == rest->end)
            return -1;
        *value |= shift < 64 ? (uint64_t)(*rest->at & 0x7f) << shift : 0;
        if (!(*rest->at++ & 0x80))
            return 0;
    }
    return -1;
}

static inline uint64_t little_endian(const uint8_t *at, unsigned size)
{
    uint64_t value = 0;

    while (size--)
        value = value << 8 | at[size];
    return value;
}

/* 1: there is a field, and `rest` begins behind it; 0: there is none left; -1: these bytes are no message. Groups are refused. */
static inline int next_field(struct bytes *rest, struct field *field)
{
    uint64_t key;
    uint64_t size;

    if (rest->at == rest->end)
        return 0;
    if (read_varint(rest, &key) || key >> 32 || !(key >> 3))
        return -1;
    field->number = (uint32_t)(key >> 3);
    field->type = (enum wire_type)(key & 7);
    field->bytes.at = field->bytes.end = rest->at;
    switch (field->type) {
    case WIRE_VARINT:
        return read_varint(rest, &field->value) ? -1 : 1;
    case WIRE_FIXED64:
        size = 8;
        break;
    case WIRE_FIXED32:
        size = 4;
        break;
    case WIRE_BYTES:
        if (read_varint(rest, &size))
            return -1;
        break;
    default:
        return -1;
    }
    if (size > (uint64_t)(rest->end - rest->at))
        return -1;
    field->bytes.at = rest->at;
    rest->at += size;
    field->bytes.end = rest->at;
    if (field->type != WIRE_BYTES)
        field->value = little_endian(field->bytes.at, (unsigned)size);
    return 1;
}

static inline int is_message(const struct field *field, uint32_t number)
{
    return field->number == number && field->type == WIRE_BYTES;
}

#endif
