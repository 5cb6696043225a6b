/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* Requests and the time until they are answered. */
#ifndef WIRESPAN_RESPONSE_TIME_H
#define WIRESPAN_RESPONSE_TIME_H

#include "flow.h"

/* Bucket of a waiting time: floor(log2(time / 16 us)), kept within the ends. */
FLOW_INLINE __u32 response_time_bucket(__u64 time_ns)
{
    __u64 units = time_ns / FLOW_RESPONSE_TIME_UNIT_NS;
    __u32 rest = units >> (FLOW_RESPONSE_TIME_BUCKETS - 1) ? 1u << (FLOW_RESPONSE_TIME_BUCKETS - 1) : (__u32)units;
    __u32 bucket = 0;

    if (rest >> 16) {
        bucket += 16;
        rest >>= 16;
    }
    if (rest >> 8) {
        bucket += 8;
        rest >>= 8;
    }
    if (rest >> 4) {
        bucket += 4;
        rest >>= 4;
    }
    if (rest >> 2) {
        bucket += 2;
        rest >>= 2;
    }
    return bucket + (rest >> 1);
}

/* A request that was over at `asked_ns` has its answer. */
FLOW_INLINE void flow_answered(struct flow *flow, __u64 asked_ns, __u64 answered_ns)
{
    __u64 waited = answered_ns > asked_ns ? answered_ns - asked_ns : 0;
    __u32 bucket = response_time_bucket(waited);

    flow->responses += 1;
    flow->response_time_sum_ns += waited;
    if (waited > flow->response_time_max_ns)
        flow->response_time_max_ns = waited;
    if (bucket < FLOW_RESPONSE_TIME_BUCKETS)
        flow->response_time_histogram[bucket] += 1;
}

/*
 * A connection's exchanges: a request is what the client sends after the server's last payload; the response time runs from its last byte to
 * the server's first. Only payload not seen before counts, so that a repeat neither asks nor answers. What belongs to an
 * application's trace is told one by one: traced_exchange.h.
 */
FLOW_INLINE void flow_exchange(struct flow *flow, const struct packet *packet, int from)
{
    if (flow->role == FLOW_ROLE_UNKNOWN)
        return;
    if (flow_from_client(flow, from)) {
        flow->request_ns = packet->time_ns;
        return;
    }
    if (!flow->request_ns)
        return;
    flow_answered(flow, flow->request_ns, packet->time_ns);
    flow->request_ns = 0;
}

#endif
