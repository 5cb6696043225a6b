/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* Addresses, IPv6 or IPv4-mapped. */
#ifndef WIRESPAN_ADDRESSES_H
#define WIRESPAN_ADDRESSES_H

#include "../host.h"

#include "../../engine/packet.h"

FLOW_INLINE __u32 word_at(const __u8 *bytes)
{
    return *(const __u32 *)bytes;
}

/* Whether two addresses are the same; compilers do not inline memcmp for BPF. */
FLOW_INLINE int is_same(const __u8 *a, const __u8 *b)
{
    return !((word_at(a) ^ word_at(b)) | (word_at(a + 4) ^ word_at(b + 4)) | (word_at(a + 8) ^ word_at(b + 8)) |
             (word_at(a + 12) ^ word_at(b + 12)));
}

FLOW_INLINE int is_mapped_ipv4(const __u8 *address)
{
    return !(word_at(address) | word_at(address + 4)) && word_at(address + 8) == bpf_htonl(0xffff);
}

FLOW_INLINE int is_loopback(const __u8 *address)
{
    if (word_at(address) | word_at(address + 4))
        return 0;
    if (word_at(address + 8))
        return address[12] == 127 && is_mapped_ipv4(address);
    return word_at(address + 12) == bpf_htonl(1);
}

#endif
