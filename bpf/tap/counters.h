/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* Packets and bytes that are in no flow. */
#ifndef WIRESPAN_COUNTERS_H
#define WIRESPAN_COUNTERS_H

#include "host.h"

#include "../engine/packet.h"

/* Packets and bytes that are in no flow. services/capture/live/tap/slot_layout.py has the same words. */
enum tap_counter {
    TAP_UNATTRIBUTED_TCP, /* the table is full */
    TAP_UNATTRIBUTED_UDP,
    TAP_UNATTRIBUTED_OTHER,
    TAP_LOOPBACK,
    TAP_EXCLUDED,    /* capture's own connections */
    TAP_FILTERED,    /* by the operator's rules */
    TAP_STRAY_RESET, /* a RST from or to no connection: the answer to a closed port, at the side that refuses */
    TAP_MALFORMED,
    TAP_COUNTERS,
};

struct tap_count {
    __u64 packets;
    __u64 bytes;
};

BPF_TABLE("percpu_array", u32, struct tap_count, tap_counters, TAP_COUNTERS);

FLOW_INLINE void count_packet(__u32 counter, const struct packet *packet)
{
    struct tap_count *count = tap_counters.lookup(&counter);

    if (count) {
        count->packets += packet->segments;
        count->bytes += packet->ip_bytes;
    }
}

FLOW_INLINE __u32 unattributed(const struct packet *packet)
{
    return packet->transport == TRANSPORT_TCP   ? TAP_UNATTRIBUTED_TCP
           : packet->transport == TRANSPORT_UDP ? TAP_UNATTRIBUTED_UDP
                                                : TAP_UNATTRIBUTED_OTHER;
}

#endif
