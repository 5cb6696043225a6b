/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* From the link's header on: link types, VLAN tags, PPPoE. As parse.h, nothing is trusted. */
#ifndef WIRESPAN_LINK_H
#define WIRESPAN_LINK_H

#include "parse.h"

/* DLT_ values of libpcap (tcpdump.org/linktypes.html): raw IP has had several. */
enum link_type {
    LINK_NULL = 0,
    LINK_ETHERNET = 1,
    LINK_PPP = 9,
    LINK_RAW = 12,
    LINK_RAW_OPENBSD = 14,
    LINK_PPP_HDLC = 50,
    LINK_PPP_ETHER = 51,
    LINK_RAW_FILE = 101,
    LINK_CISCO_HDLC = 104,
    LINK_LOOP = 108,
    LINK_LINUX_SLL = 113,
    LINK_PPI = 192, /* a header around a frame of another type: the host's */
    LINK_PPP_WITH_DIRECTION = 204,
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

#define PARSE_VLAN_TAGS   4
#define PARSE_PPPOE_BYTES 6 /* RFC 2516 4: in front of PPP */

/*
 * A PPP frame's protocol as an ethertype, 0 for what is no IP, and `offset` behind it. Address and control (RFC 1662 3.1) may be
 * left out, and of the protocol the first byte where it is 0 (RFC 1661 6.5). Returns not 0 where it is cut.
 */
FLOW_INLINE int parse_ppp(frame_source source, __u32 *offset, __u16 *type)
{
    __u8 bytes[2];
    __u16 protocol;

    if (parse_load(source, *offset, bytes, sizeof(bytes)))
        return -1;
    if (bytes[0] == 0xff && bytes[1] == 0x03) {
        *offset += (__u32)sizeof(bytes);
        if (parse_load(source, *offset, bytes, sizeof(bytes)))
            return -1;
    }
    /* An odd first byte is the whole protocol. */
    protocol = bytes[0] & 1 ? bytes[0] : load_be16(bytes);
    *offset += bytes[0] & 1 ? 1 : (__u32)sizeof(bytes);
    *type = protocol == 0x0021 ? ETHERTYPE_IPV4 : protocol == 0x0057 ? ETHERTYPE_IPV6 : 0;
    return 0;
}

FLOW_INLINE enum packet_disposition parse_ethertype(
        frame_source source, __u32 offset, __u32 wire_bytes, __u16 type, struct packet *packet)
{
    __u8 tag[4];
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
        offset += PARSE_PPPOE_BYTES;
        if (parse_ppp(source, &offset, &type))
            return PACKET_TRUNCATED;
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

FLOW_INLINE enum packet_disposition parse_ppp_frame(frame_source source, __u32 offset, __u32 wire_bytes, struct packet *packet)
{
    __u16 type;

    if (parse_ppp(source, &offset, &type))
        return PACKET_TRUNCATED;
    return parse_ethertype(source, offset, wire_bytes, type, packet);
}

/* A link that says by its first byte whose framing it has: Cisco's (RFC 1547 4.3.1), whose protocol is an ethertype, or PPP's. */
FLOW_INLINE enum packet_disposition parse_hdlc(frame_source source, __u32 wire_bytes, struct packet *packet)
{
    __u8 address;

    if (parse_load(source, 0, &address, sizeof(address)))
        return PACKET_TRUNCATED;
    if (address == 0x0f || address == 0x8f)
        return parse_link_type_field(source, 2, 4, wire_bytes, packet);
    return parse_ppp_frame(source, 0, wire_bytes, packet);
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
    case LINK_PPP:
    case LINK_PPP_HDLC:
    case LINK_CISCO_HDLC:
        return parse_hdlc(source, wire_bytes, packet);
    case LINK_PPP_ETHER:
        return parse_ppp_frame(source, PARSE_PPPOE_BYTES, wire_bytes, packet);
    case LINK_PPP_WITH_DIRECTION:
        return parse_ppp_frame(source, 1, wire_bytes, packet);
    case LINK_NULL:
    case LINK_LOOP:
        return parse_loopback(source, wire_bytes, packet);
    default:
        return PACKET_UNKNOWN_LINK;
    }
}

#endif
