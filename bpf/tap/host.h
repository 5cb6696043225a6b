/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* What the tap gives the engine: counters that CPUs share, packets in socket buffers. Included before the engine. */
#ifndef WIRESPAN_HOST_H
#define WIRESPAN_HOST_H

#include <linux/types.h>

#define FLOW_ADD(member, value) __sync_fetch_and_add(&(member), (value))

typedef struct __sk_buff *frame_source;

static inline __attribute__((always_inline)) int parse_load(frame_source skb, __u32 offset, void *target, __u32 size)
{
    return (int)bpf_skb_load_bytes(skb, offset, target, size);
}

#endif
