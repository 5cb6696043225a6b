/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * The spans of an OTLP request (opentelemetry/proto/collector/trace/v1) as rows, for services/enricher/intake. What is not asked for is
 * passed over by its length. It allocates nothing, keeps nothing and reads nothing but the request.
 */
#include "scan.h"
#include "peer.h"

#define RECENT_NAMES 1024 /* a power of two */

enum kind {
    KIND_SERVER = 2,
    KIND_CONSUMER = 5,
};

struct state {
    const uint8_t *begin;
    struct otlp_scan *scan;
    uint32_t recent[RECENT_NAMES]; /* numbers of names, one more, by their hash */
};

static int has(struct bytes id, uint32_t size)
{
    const uint8_t *at;

    if (size_of(id) != size)
        return 0;
    for (at = id.at; at < id.end; at++)
        if (*at)
            return 1;
    return 0;
}

static struct otlp_text placed(const struct state *state, struct bytes text)
{
    struct otlp_text place = {0, 0};

    if (size_of(text)) {
        place.offset = (uint32_t)(text.at - state->begin);
        place.size = size_of(text);
    }
    return place;
}

/* The number of a name; one that was there lately has it again. */
static uint32_t numbered(struct state *state, struct bytes name)
{
    struct otlp_scan *scan = state->scan;
    uint32_t hash = 2166136261u;
    const uint8_t *at;
    uint32_t *slot;

    if (!size_of(name))
        return OTLP_NO_NAME;
    for (at = name.at; at < name.end; at++)
        hash = (hash ^ *at) * 16777619u;
    slot = &state->recent[(hash ^ hash >> 16) & (RECENT_NAMES - 1)];
    if (*slot) {
        const struct otlp_text *known = &scan->names[*slot - 1];

        if (known->size == size_of(name) && !memcmp(state->begin + known->offset, name.at, known->size))
            return *slot - 1;
    }
    scan->names[scan->name_count] = placed(state, name);
    *slot = ++scan->name_count;
    return *slot - 1;
}

static int read_peer(struct state *state, struct bytes rest, struct otlp_span *span)
{
    struct value values[ATTRIBUTES] = {{0}};
    struct field field;
    struct host host;

    while (next_field(&rest, &field) > 0)
        if (is_message(&field, 9) && read_attribute(field.bytes, values))
            return -1;
    if (span->kind == KIND_SERVER)
        span->local_port = client_of(values, &host);
    else
        server_of(values, &host);
    memcpy(span->peer_address, host.address, sizeof(host.address));
    span->peer_port = host.port;
    span->name = numbered(state, host.name);
    return 0;
}

static int read_span(struct state *state, struct bytes rest, uint32_t resource)
{
    struct otlp_scan *scan = state->scan;
    struct bytes trace_id = {rest.at, rest.at};
    struct bytes span_id = {rest.at, rest.at};
    struct bytes parent_span_id = {rest.at, rest.at};
    struct bytes whole = rest;
    struct otlp_span *span;
    uint64_t start_ns = 0;
    uint64_t end_ns = 0;
    uint64_t kind = 0;
    uint64_t flags = 0;
    struct field field;
    int got;

    while ((got = next_field(&rest, &field)) > 0) {
        if (is_message(&field, 1))
            trace_id = field.bytes;
        else if (is_message(&field, 2))
            span_id = field.bytes;
        else if (is_message(&field, 4))
            parent_span_id = field.bytes;
        else if (field.number == 6 && field.type == WIRE_VARINT)
            kind = field.value;
        else if (field.number == 7 && field.type == WIRE_FIXED64)
            start_ns = field.value;
        else if (field.number == 8 && field.type == WIRE_FIXED64)
            end_ns = field.value;
        else if (field.number == 16 && field.type == WIRE_FIXED32)
            flags = field.value;
    }
    if (got)
        return -1;
    scan->seen++;
    if (kind < KIND_SERVER || kind > KIND_CONSUMER) {
        scan->kind++;
        return 0;
    }
    if (!has(trace_id, 16) || !has(span_id, 8) || !start_ns || end_ns < start_ns) {
        scan->no_ids++;
        return 0;
    }
    if (scan->span_count == scan->span_room || resource == scan->resource_room) {
        scan->beyond++;
        return 0;
    }
    span = &scan->spans[scan->span_count];
    memset(span, 0, sizeof(*span));
    memcpy(span->trace_id, trace_id.at, 16);
    memcpy(span->span_id, span_id.at, 8);
    if (size_of(parent_span_id) == 8)
        memcpy(span->parent_span_id, parent_span_id.at, 8);
    span->start_ns = start_ns;
    span->end_ns = end_ns;
    span->resource = resource;
    span->kind = (uint8_t)kind;
    /* Who sends a span has sampled its trace; many SDKs do not say so in the flags, which are younger. */
    span->flags = (uint8_t)flags | 1;
    if (read_peer(state, whole, span))
        return -1;
    scan->span_count++;
    return 0;
}

static int read_resource(struct state *state, struct bytes rest, struct value values[ATTRIBUTES])
{
    struct field field;
    int got;

    (void)state;
    while ((got = next_field(&rest, &field)) > 0)
        if (is_message(&field, 1) && read_attribute(field.bytes, values))
            return -1;
    return got;
}

static struct otlp_text text_of(const struct state *state, const struct value *value)
{
    struct bytes nothing = {state->begin, state->begin};

    return placed(state, value->type == VALUE_TEXT ? value->text : nothing);
}

static int read_resource_spans(struct state *state, struct bytes rest)
{
    struct otlp_scan *scan = state->scan;
    struct value values[ATTRIBUTES] = {{0}};
    struct bytes whole = rest;
    uint32_t resource = scan->resource_count;
    struct field field;
    struct field inner;
    int got;

    /* Mostly it stands in front, but nobody has promised that. */
    while ((got = next_field(&rest, &field)) > 0)
        if (is_message(&field, 1) && read_resource(state, field.bytes, values))
            return -1;
    if (got)
        return -1;
    if (resource < scan->resource_room) {
        scan->resources[resource] = (struct otlp_resource){
                .pod_uid = text_of(state, &values[K8S_POD_UID]),
                .pod_address = text_of(state, &values[K8S_POD_IP]),
                .container_id = text_of(state, &values[CONTAINER_ID]),
                .host_name = text_of(state, &values[HOST_NAME]),
        };
        scan->resource_count++;
    }
    while (next_field(&whole, &field) > 0) {
        if (!is_message(&field, 2))
            continue;
        while ((got = next_field(&field.bytes, &inner)) > 0)
            if (is_message(&inner, 2) && read_span(state, inner.bytes, resource))
                return -1;
        if (got)
            return -1;
    }
    return 0;
}

int otlp_scan(const uint8_t *bytes, size_t size, struct otlp_scan *scan)
{
    struct state state = {.begin = bytes, .scan = scan};
    struct bytes rest = {bytes, bytes + size};
    struct field field;
    int got;

    if (size >= UINT32_MAX)
        return -1;
    while ((got = next_field(&rest, &field)) > 0)
        if (is_message(&field, 1) && read_resource_spans(&state, field.bytes))
            return -1;
    return got;
}

int64_t otlp_count(const uint8_t *bytes, size_t size)
{
    struct bytes rest = {bytes, bytes + size};
    struct field resource;
    struct field scope;
    struct field span;
    int64_t count = 0;
    int got;

    if (size >= UINT32_MAX)
        return -1;
    while ((got = next_field(&rest, &resource)) > 0) {
        if (!is_message(&resource, 1))
            continue;
        while ((got = next_field(&resource.bytes, &scope)) > 0) {
            if (!is_message(&scope, 2))
                continue;
            while ((got = next_field(&scope.bytes, &span)) > 0)
                count += is_message(&span, 2);
            if (got)
                return -1;
        }
        if (got)
            return -1;
    }
    return got ? -1 : count;
}

void otlp_layout(uint64_t sizes[3])
{
    sizes[0] = sizeof(struct otlp_span);
    sizes[1] = sizeof(struct otlp_resource);
    sizes[2] = sizeof(struct otlp_scan);
}
