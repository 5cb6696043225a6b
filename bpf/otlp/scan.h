/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* What is read of an ExportTraceServiceRequest. Mirrored in services/enricher/intake/scan.py. */
#ifndef WIRESPAN_OTLP_SCAN_H
#define WIRESPAN_OTLP_SCAN_H

#include <stddef.h>
#include <stdint.h>

#define OTLP_NO_NAME UINT32_MAX

/* A part of the request. */
struct otlp_text {
    uint32_t offset;
    uint32_t size;
};

/* Who made spans. */
struct otlp_resource {
    struct otlp_text pod_uid;
    struct otlp_text pod_address;
    struct otlp_text container_id;
    struct otlp_text host_name;
};

/* A span of a kind that has a network below it. */
struct otlp_span {
    uint8_t trace_id[16];
    uint8_t span_id[8];
    uint8_t parent_span_id[8]; /* all zero: it has none */
    uint64_t start_ns;
    uint64_t end_ns;
    uint8_t peer_address[16]; /* all zero: it is not said as a literal */
    uint32_t resource;
    uint32_t name; /* of the peer, in `names`, or OTLP_NO_NAME */
    uint16_t peer_port;
    uint16_t local_port;
    uint8_t kind;
    uint8_t flags;
    uint8_t padding[2];
};

struct otlp_scan {
    struct otlp_span *spans;
    struct otlp_resource *resources;
    struct otlp_text *names; /* a name may stand in several places */
    uint32_t span_room;
    uint32_t resource_room; /* of names there is room for as many as of spans */
    uint32_t span_count;
    uint32_t resource_count;
    uint32_t name_count;
    uint32_t seen;      /* spans in the request */
    uint32_t kind;      /* of other kinds */
    uint32_t no_ids;    /* without ids, or times */
    uint32_t beyond;    /* for which there is no room */
    uint32_t padding;
};

/* How many spans a request has; -1: it is none. They are not looked at. */
int64_t otlp_count(const uint8_t *bytes, size_t size);
/* Fill in spans, resources, names and counts; -1: it is no request. */
int otlp_scan(const uint8_t *bytes, size_t size, struct otlp_scan *scan);
/* Sizes of span, resource and scan. */
void otlp_layout(uint64_t sizes[3]);

#endif
