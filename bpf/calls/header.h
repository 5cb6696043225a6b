/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * A header field, as far as it is of interest: the trace context, the method, the status. What a value means is all that is kept of
 * it, also in the tables of HPACK; so an entry of a table has one size, however long its field was.
 */
#ifndef WIRESPAN_HEADER_H
#define WIRESPAN_HEADER_H

#include "../replay/host.h"

#include "../engine/exchanges/exchange.h"
#include "../engine/http/trace_context.h"

#define HEADER_TEXT_BYTES 80u /* that are looked at of a name or a value: a trace context and blanks around it */

enum header_name {
    HEADER_OTHER,
    HEADER_UNKNOWN, /* it stands in a table that is not known */
    HEADER_PSEUDO,  /* a request's, whichever */
    HEADER_METHOD,
    HEADER_STATUS,
    HEADER_GRPC_STATUS,
    HEADER_CONTEXT,
};

struct header {
    __u32 bytes; /* of name and value */
    __u16 name_bytes;
    __u16 number; /* the method; the status; gRPC's plus 1; 0: it says none */
    __u8 name;    /* enum header_name */
    __u8 found;   /* of a context: enum trace_found */
    __u8 flags;
    __u8 pad;
    __u8 trace_id[16];
    __u8 parent_span_id[8];
};

/* A name or a value, of which no more is there than is looked at. */
struct header_text {
    __u32 bytes; /* that it has */
    __u8 text[HEADER_TEXT_BYTES + 1];
};

static int text_is(const struct header_text *text, const char *other)
{
    return text->bytes == strlen(other) && !memcmp(text->text, other, text->bytes);
}

static enum header_name header_name(const struct header_text *name)
{
    if (text_is(name, "traceparent"))
        return HEADER_CONTEXT;
    if (text_is(name, "grpc-status"))
        return HEADER_GRPC_STATUS;
    if (text_is(name, ":status"))
        return HEADER_STATUS;
    if (text_is(name, ":method"))
        return HEADER_METHOD;
    return name->bytes && name->text[0] == ':' ? HEADER_PSEUDO : HEADER_OTHER;
}

static __u16 header_method(const struct header_text *value)
{
    static const char *const methods[] = {"GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "CONNECT", "TRACE"};
    __u16 method;

    for (method = HTTP_METHOD_GET; method < HTTP_METHOD_OTHER; method++)
        if (text_is(value, methods[method - HTTP_METHOD_GET]))
            return method;
    return value->bytes ? HTTP_METHOD_OTHER : HTTP_METHOD_UNKNOWN;
}

/* A number of `most` digits at the most; -1 where it is none. */
static int header_digits(const struct header_text *value, __u32 most)
{
    int number = 0;
    __u32 at;

    for (at = 0; at < value->bytes && at < most; at++) {
        if (value->text[at] < '0' || value->text[at] > '9')
            return -1;
        number = number * 10 + value->text[at] - '0';
    }
    return value->bytes && value->bytes <= most ? number : -1;
}

/* Codes of gRPC are 0 to 16 (its specification's statuscodes.md); beyond that nobody knows what is meant. */
static __u16 header_grpc_status(const struct header_text *value)
{
    int status = header_digits(value, 2);

    return (__u16)(status < 0 || status > 16 || (value->bytes == 2 && status < 10) ? 0 : status + 1);
}

/* A context ends a line in HTTP/1, and so it does for who reads it. */
static void header_context(struct header *header, struct header_text *value)
{
    struct trace_context context = {.flags = 0};
    __u32 held = value->bytes < HEADER_TEXT_BYTES ? value->bytes : HEADER_TEXT_BYTES;
    const struct frame frame = {value->text, held + 1};
    const struct text text = {.source = &frame, .begin = 0, .end = held + 1};

    value->text[held] = '\n';
    header->found = (__u8)trace_value(&text, 0, &context);
    if (header->found == TRACE_CUT)
        header->found = TRACE_MALFORMED;
    memcpy(header->trace_id, context.trace_id, sizeof(header->trace_id));
    memcpy(header->parent_span_id, context.parent_span_id, sizeof(header->parent_span_id));
    header->flags = context.flags;
}

/*
 * Take over what a field's value says. One whose name is not known may have the form of a context, which is longer than usual in
 * versions later than 00.
 */
static void header_value(struct header *header, struct header_text *value)
{
    int may_be_context = header->name == HEADER_UNKNOWN && value->bytes >= TRACE_VALUE_BYTES;

    if (header->name == HEADER_METHOD)
        header->number = header_method(value);
    else if (header->name == HEADER_GRPC_STATUS)
        header->number = header_grpc_status(value);
    else if (header->name == HEADER_STATUS && value->bytes == 3 && header_digits(value, 3) > 0)
        header->number = (__u16)header_digits(value, 3);
    else if (header->name == HEADER_CONTEXT || may_be_context)
        header_context(header, value);
    if (may_be_context && header->found != TRACE_MALFORMED)
        header->name = HEADER_CONTEXT;
}

/* What the fields of a block say together. */
struct header_fields {
    __u8 contexts; /* how many: 2 for more */
    __u8 is_request; /* it has a pseudo-header and no status: trailers have none (RFC 9113 8.1) */
    __u8 method;
    __u8 grpc_status; /* plus 1 */
    __u16 status;    /* 0: there is none, or it stands in a table that is not known */
    __u8 is_part;    /* a field of it does */
    __u8 pad;
    struct header context;
};

static void header_take(struct header_fields *fields, const struct header *header)
{
    switch (header->name) {
    case HEADER_UNKNOWN: /* but for a value that is said, which would have its form */
        fields->is_part |= !header->bytes;
        break;
    case HEADER_CONTEXT:
        if (fields->contexts < 2)
            fields->contexts++;
        fields->context = *header;
        break;
    case HEADER_STATUS:
        fields->status = header->number;
        break;
    case HEADER_GRPC_STATUS:
        fields->grpc_status = (__u8)header->number;
        break;
    case HEADER_METHOD:
        fields->is_request = 1;
        if (header->number)
            fields->method = (__u8)header->number;
        break;
    case HEADER_PSEUDO:
        fields->is_request = 1;
        break;
    }
}

#endif
