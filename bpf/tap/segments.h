/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* Packets that segmentation offload made one. */
#ifndef WIRESPAN_SEGMENTS_H
#define WIRESPAN_SEGMENTS_H

#include "host.h"

#include "../engine/packet.h"

/* What stands in IPv6's header of a packet whose length it cannot say (RFC 2675), and is gone when it is cut: BIG TCP. */
#define JUMBO_BYTES   8
#define JUMBO_LONGEST (40u + 65535u)

FLOW_INLINE void count_segments(struct __sk_buff *skb, struct packet *packet)
{
    __u32 segments = skb->gso_segs;
    __u32 size;

    /* A virtual machine's card leaves the count to us. */
    if (!segments) {
        size = skb->gso_size;
        if (size && packet->payload_bytes > size && size < 0xffff)
            segments = (packet->payload_bytes + size - 1) / size;
    }
    if (segments > 1) {
        if (packet->ip_bytes > JUMBO_LONGEST && skb->protocol == bpf_htons(0x86dd))
            packet->ip_bytes -= JUMBO_BYTES;
        packet->segments = segments;
        packet->ip_bytes += (segments - 1) * (packet->ip_bytes - packet->payload_bytes);
    }
}

#endif
