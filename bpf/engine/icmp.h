/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* What ICMP's messages are to each other: a query and its answer, or an error about another packet. */
#ifndef WIRESPAN_ICMP_H
#define WIRESPAN_ICMP_H

#include "packet.h"

enum icmp_part {
    ICMP_MESSAGE, /* an error or a notice: nobody answers it */
    ICMP_REQUEST,
    ICMP_REPLY,
};

/* Echo, timestamp, information and address mask, RFC 792, 950 and 4443: queries, which carry an identifier. */
FLOW_INLINE enum icmp_part icmp_part(__u8 transport, __u8 type)
{
    if (transport == TRANSPORT_ICMPV6)
        return type == 128 ? ICMP_REQUEST : type == 129 ? ICMP_REPLY : ICMP_MESSAGE;
    if (type == 8 || type == 13 || type == 15 || type == 17)
        return ICMP_REQUEST;
    if (type == 0 || type == 14 || type == 16 || type == 18)
        return ICMP_REPLY;
    return ICMP_MESSAGE;
}

/* Destination unreachable, packet too big, time exceeded, parameter problem: they quote the packet they are about. */
FLOW_INLINE int icmp_is_error(__u8 transport, __u8 type)
{
    return transport == TRANSPORT_ICMPV6 ? type >= 1 && type <= 4 : type == 3 || type == 11 || type == 12;
}

/* What of type and code is part of the flow key: the same for a query and its reply. */
FLOW_INLINE __u16 icmp_kind(__u8 transport, __u8 type, __u8 code)
{
    switch (icmp_part(transport, type)) {
    case ICMP_REQUEST:
        return (__u16)(type << 8);
    case ICMP_REPLY:
        return (__u16)((transport == TRANSPORT_ICMPV6 ? 128 : type == 0 ? 8 : type - 1) << 8);
    default:
        return (__u16)(type << 8 | code);
    }
}

#endif
