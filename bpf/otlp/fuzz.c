/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * A libFuzzer target over the reader of OTLP requests: `make fuzz`. An input is a request. All that is counted is all that is there, with
 * little room too; what is told of lies in the request; and what can be read can be counted.
 */
#include <stdlib.h>

#include "scan.c"

#define MOST 64

static void check(const struct otlp_scan *scan, size_t size)
{
    uint32_t index;

    if (scan->seen != scan->span_count + scan->kind + scan->no_ids + scan->beyond || scan->span_count > scan->span_room ||
            scan->resource_count > scan->resource_room || scan->name_count > scan->span_count)
        abort();
    for (index = 0; index < scan->span_count; index++) {
        const struct otlp_span *span = &scan->spans[index];

        if (span->resource >= scan->resource_count || (span->name != OTLP_NO_NAME && span->name >= scan->name_count) ||
                span->end_ns < span->start_ns || span->kind < KIND_SERVER || span->kind > KIND_CONSUMER)
            abort();
    }
    for (index = 0; index < scan->name_count; index++)
        if (!scan->names[index].size || (uint64_t)scan->names[index].offset + scan->names[index].size > size)
            abort();
    for (index = 0; index < 4 * scan->resource_count; index++) {
        const struct otlp_text *text = &scan->resources[0].pod_uid + index;

        if ((uint64_t)text->offset + text->size > size)
            abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *bytes = malloc(size ? size : 1);
    uint32_t room;

    if (!bytes)
        return 0;
    /* Memory of its own, so that one byte too far is seen. */
    memcpy(bytes, data, size);
    for (room = 0; room <= MOST; room += MOST / 2) {
        struct otlp_scan scan = {.span_room = room, .resource_room = room};
        int64_t count = otlp_count(bytes, size);
        int got;

        scan.spans = malloc((room + 1) * sizeof(*scan.spans));
        scan.resources = malloc((room + 1) * sizeof(*scan.resources));
        scan.names = malloc((room + 1) * sizeof(*scan.names));
        if (scan.spans && scan.resources && scan.names) {
            got = otlp_scan(bytes, size, &scan);
            if (!got && count != scan.seen)
                abort();
            if (!got)
                check(&scan, size);
        }
        free(scan.spans);
        free(scan.resources);
        free(scan.names);
    }
    free(bytes);
    return 0;
}
