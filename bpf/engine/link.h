/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* From the link's header on: link types, VLAN tags, PPPoE. As parse.h, nothing is trusted. */
#ifndef WIRESPAN_LINK_H
#define WIRESPAN_LINK_H

#include "parse.h"

/* DLT_ values of libpcap (tcpdump.org/linktypes.html): raw IP has had several. */
enum link_type {
    LINK_NULL = 0,
    LINK_ETHERNET = 1,
    LINK_RAW = 12,
    LINK_RAW_OPENBSD = 14,
    LINK_RAW_FILE = 101,
    LINK_LOOP = 108,
    LINK_LINUX_SLL = 113,
    LINK_IPV4 = 228,
    LINK_IPV6 = 229,
    LINK_LINUX_SLL2 = 276,
};

enum ethertype {
    ETHERTYPE_IPV4 = 0x0800,
    ETHERTYPE_ARP = 0x0806,
    ETHERTYPE_VLAN = 0x8100,
    ETHERTYPE_IPV6 = 0x86dd,
    ETHERTYPE_PPPOE_SESSION = 0x8864,
    ETHERTYPE_QINQ = 0x88a8,
    ETHERTYPE_QINQ_OLD = 0x9100,
};

#define PARSE_VLAN_TAGS 4

FLOW_INLINE enum packet_disposition parse_ethertype(
        frame_source source, __u32 offset, __u32 wire_bytes, __u16 type, struct packet *packet)
{
    __u8 tag[4];
    __u8 pppoe[8]; /* RFC 2516, and the PPP protocol behind it */
    __u8 version;
    int count;

    for (count = 0; count < PARSE_VLAN_TAGS; count++) {
        if (type != ETHERTYPE_VLAN && type != ETHERTYPE_QINQ && type != ETHERTYPE_QINQ_OLD)
            break;
        if (parse_load(source, offset, tag, sizeof(tag)))
            return PACKET_TRUNCATED;
        type = load_be16(tag + 2);
        offset += (__u32)sizeof(tag);
    }
    if (type == ETHERTYPE_PPPOE_SESSION) {
        if (parse_load(source, offset, pppoe, sizeof(pppoe)))
            return PACKET_TRUNCATED;
        type = load_be16(pppoe + 6) == 0x0021 ? ETHERTYPE_IPV4 : load_be16(pppoe + 6) == 0x0057 ? ETHERTYPE_IPV6 : type;
        offset += (__u32)sizeof(pppoe);
    }
    if (type == ETHERTYPE_ARP)
        return PACKET_ARP;
    if (type != ETHERTYPE_IPV4 && type != ETHERTYPE_IPV6)
        return PACKET_NOT_IP;
    if (parse_load(source, offset, &version, sizeof(version)))
        return PACKET_TRUNCATED;
    if (version >> 4 != (type == ETHERTYPE_IPV4 ? 4 : 6))
        return PACKET_MALFORMED;
    return parse_ip(source, offset, wire_bytes - offset, packet);
}

/* The address family of a BSD loopback header: AF_INET6 differs by system, the byte order by machine. */
FLOW_INLINE enum packet_disposition parse_loopback(frame_source source, __u32 wire_bytes, struct packet *packet)
{
    __u8 header[4];
    __u32 family;

    if (parse_load(source, 0, header, sizeof(header)))
        return PACKET_TRUNCATED;
    family = load_be32(header);
    if (family > 0xffff)
        family = __builtin_bswap32(family);
    if (family != 2 && family != 10 && family != 24 && family != 28 && family != 30)
        return PACKET_NOT_IP;
    return parse_ip(source, (__u32)sizeof(header), wire_bytes - (__u32)sizeof(header), packet);
}

FLOW_INLINE enum packet_disposition parse_link_type_field(
        frame_source source, __u32 at, __u32 header_bytes, __u32 wire_bytes, struct packet *packet)
{
    __u8 type[2];

    if (parse_load(source, at, type, sizeof(type)))
        return PACKET_TRUNCATED;
    return parse_ethertype(source, header_bytes, wire_bytes, load_be16(type), packet);
}

/* Parse a whole frame of `wire_bytes`. The host has made sure that no more was captured than was on the wire. */
FLOW_INLINE enum packet_disposition parse_frame(frame_source source, int link_type, __u32 wire_bytes, struct packet *packet)
{
    switch (link_type) {
    case LINK_ETHERNET:
        return parse_link_type_field(source, 12, 14, wire_bytes, packet);
    case LINK_LINUX_SLL:
        return parse_link_type_field(source, 14, 16, wire_bytes, packet);
    case LINK_LINUX_SLL2:
        return parse_link_type_field(source, 0, 20, wire_bytes, packet);
    case LINK_RAW:
    case LINK_RAW_OPENBSD:
    case LINK_RAW_FILE:
    case LINK_IPV4:
    case LINK_IPV6:
        return parse_ip(source, 0, wire_bytes, packet);
    case LINK_NULL:
    case LINK_LOOP:
        return parse_loopback(source, wire_bytes, packet);
    default:
        return PACKET_UNKNOWN_LINK;
    }
}

#endif
