/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * From the IP header on, bytes to a parsed packet. Nothing of the packet is trusted: what is read was checked to be there,
 * lengths are checked against what was on the wire, and what is no flow is called by what it is.
 *
 * Before including it a host defines `frame_source`, the type of a handle on the packet's bytes, and
 *     static int parse_load(frame_source source, __u32 offset, void *target, __u32 size)
 * which copies bytes and returns 0, or not 0 where they are not there.
 *
 * PARSE_TCP_OPTIONS, defined, has it look for a SYN's window scale: a loop over its options. PARSE_PLACES has it note where in
 * the frame a packet and its fragment lie.
 *
 * A packet's byte count is its IP length, from the IP header, however little of it was captured.
 */
#ifndef WIRESPAN_PARSE_H
#define WIRESPAN_PARSE_H

#include "icmp.h"
#include "packet.h"

/* What a packet is. services/capture/flows/layout.py has the same words. */
enum packet_disposition {
    PACKET_FLOW,
    PACKET_ARP,
    PACKET_NOT_IP,
    PACKET_TRUNCATED, /* the capture holds too little of it */
    PACKET_MALFORMED, /* it contradicts itself */
    PACKET_FRAGMENT,  /* a fragment without transport header; its datagram's first one tells the flow */
    PACKET_UNKNOWN_LINK,
    PACKET_NESTED, /* in more tunnels, one in the other, than replay opens */
    PACKET_COPY,   /* counted already, at another point of its way */
    PACKET_DISPOSITIONS,
};

#define PARSE_MAX_IP_BYTES        524288u /* the largest packet Linux hands to a card that segments */
#define PARSE_EXTENSION_HEADERS   8
#define PARSE_IPV6_HEADER_BYTES   40
#define PARSE_IPV6_HOP_BY_HOP     0
#define PARSE_IPV6_ROUTING        43
#define PARSE_IPV6_FRAGMENT       44
#define PARSE_IPV6_AUTHENTICATION 51
#define PARSE_IPV6_DESTINATION    60
#define PARSE_IPV6_MOBILITY       135

FLOW_INLINE __u16 load_be16(const __u8 *bytes)
{
    return (__u16)(bytes[0] << 8 | bytes[1]);
}

FLOW_INLINE __u32 load_be32(const __u8 *bytes)
{
    return (__u32)bytes[0] << 24 | (__u32)bytes[1] << 16 | (__u32)bytes[2] << 8 | bytes[3];
}

FLOW_INLINE void map_ipv4(__u8 *address, const __u8 *ipv4)
{
    __builtin_memset(address, 0, 10);
    address[10] = 0xff;
    address[11] = 0xff;
    __builtin_memcpy(address + 12, ipv4, 4);
}

#ifdef PARSE_TCP_OPTIONS
/* The window scale option (RFC 7323 2.2), at most 14, plus 1; 0 where there is none. */
FLOW_INLINE __u8 parse_window_scale(frame_source source, __u32 offset, __u32 end)
{
    __u8 option[3];
    __u32 size;

    while (offset < end && !parse_load(source, offset, option, 1) && option[0]) {
        size = 1;
        if (option[0] != 1) {
            if (parse_load(source, offset, option, 2) || option[1] < 2)
                return 0;
            size = option[1];
        }
        if (option[0] == 3 && size == 3 && end - offset >= 3 && !parse_load(source, offset, option, 3))
            return (__u8)((option[2] > 14 ? 14 : option[2]) + 1);
        offset += size;
    }
    return 0;
}
#endif

FLOW_INLINE enum packet_disposition parse_tcp(frame_source source, __u32 offset, __u32 length, struct packet *packet)
{
    __u8 header[20];
    __u32 header_bytes;

    if (length < sizeof(header))
        return PACKET_MALFORMED;
    if (parse_load(source, offset, header, sizeof(header)))
        return PACKET_TRUNCATED;
    header_bytes = (header[12] >> 4) * 4u;
    if (header_bytes < sizeof(header) || header_bytes > length)
        return PACKET_MALFORMED;
    packet->source_port = load_be16(header);
    packet->destination_port = load_be16(header + 2);
    packet->sequence = load_be32(header + 4);
    packet->acknowledgment = load_be32(header + 8);
    packet->tcp_flags = header[13];
    packet->window = load_be16(header + 14);
    packet->payload_bytes = length - header_bytes;
#ifdef PARSE_TCP_OPTIONS
    if (packet->tcp_flags & TCP_SYN)
        packet->window_scale = parse_window_scale(source, offset + (__u32)sizeof(header), offset + header_bytes);
#endif
    return PACKET_FLOW;
}

FLOW_INLINE enum packet_disposition parse_udp(frame_source source, __u32 offset, __u32 length, struct packet *packet)
{
    __u8 header[8];
    __u32 datagram;

    if (length < sizeof(header))
        return PACKET_MALFORMED;
    if (parse_load(source, offset, header, sizeof(header)))
        return PACKET_TRUNCATED;
    packet->source_port = load_be16(header);
    packet->destination_port = load_be16(header + 2);
    packet->payload_bytes = length - (__u32)sizeof(header);
    datagram = load_be16(header + 4);
    /* UDP-Lite has a checksum coverage there; a first fragment the whole datagram's length; a jumbogram 0 (RFC 2675). */
    if (packet->transport == TRANSPORT_UDP && !packet->more_fragments && datagram) {
        if (datagram < sizeof(header) || datagram > length)
            return PACKET_MALFORMED;
        packet->payload_bytes = datagram - (__u32)sizeof(header);
    }
    return PACKET_FLOW;
}

/* SCTP and DCCP: ports first, then a header whose fixed part is `header_bytes`. */
FLOW_INLINE enum packet_disposition parse_ports(
        frame_source source, __u32 offset, __u32 length, __u32 header_bytes, struct packet *packet)
{
    __u8 ports[4];

    if (length < header_bytes)
        return PACKET_MALFORMED;
    if (parse_load(source, offset, ports, sizeof(ports)))
        return PACKET_TRUNCATED;
    packet->source_port = load_be16(ports);
    packet->destination_port = load_be16(ports + 2);
    packet->payload_bytes = length - header_bytes;
    return PACKET_FLOW;
}

FLOW_INLINE enum packet_disposition parse_icmp(frame_source source, __u32 offset, __u32 length, struct packet *packet)
{
    __u8 header[8];

    if (length < sizeof(header))
        return PACKET_MALFORMED;
    if (parse_load(source, offset, header, sizeof(header)))
        return PACKET_TRUNCATED;
    packet->icmp_type = header[0];
    packet->icmp_code = header[1];
    packet->payload_bytes = length - (__u32)sizeof(header);
    if (icmp_part(packet->transport, packet->icmp_type) != ICMP_MESSAGE) {
        packet->source_port = load_be16(header + 4);
        packet->destination_port = packet->source_port;
    }
    return PACKET_FLOW;
}

/* `length` is what the IP header leaves to the transport. */
FLOW_INLINE enum packet_disposition parse_transport(frame_source source, __u32 offset, __u32 length, struct packet *packet)
{
    packet->transport_offset = offset;
    switch (packet->transport) {
    case TRANSPORT_TCP:
        return parse_tcp(source, offset, length, packet);
    case TRANSPORT_UDP:
    case TRANSPORT_UDPLITE:
        return parse_udp(source, offset, length, packet);
    case TRANSPORT_SCTP:
    case TRANSPORT_DCCP:
        return parse_ports(source, offset, length, 12, packet);
    case TRANSPORT_ICMP:
    case TRANSPORT_ICMPV6:
        return parse_icmp(source, offset, length, packet);
    default:
        packet->payload_bytes = length;
        return PACKET_FLOW;
    }
}

FLOW_INLINE enum packet_disposition parse_ipv4(frame_source source, __u32 offset, __u32 wire_bytes, struct packet *packet)
{
    __u8 header[20];
    __u32 header_bytes;
    __u32 total;
    __u16 fragment;

    if (parse_load(source, offset, header, sizeof(header)))
        return PACKET_TRUNCATED;
    header_bytes = (header[0] & 15) * 4u;
    total = load_be16(header + 2);
    /* Left 0 where the network card was to fill it in (segmentation offload). */
    if (!total)
        total = wire_bytes;
    if (header_bytes < sizeof(header) || total < header_bytes || total > wire_bytes || total > PARSE_MAX_IP_BYTES)
        return PACKET_MALFORMED;
    fragment = load_be16(header + 6);
    packet->ip_bytes = total;
    packet->traffic_class = header[1];
    packet->hop_limit = header[8];
    packet->transport = header[9];
    packet->fragment_protocol = header[9];
    packet->fragment_id = load_be16(header + 4);
    packet->more_fragments = (fragment & 0x2000) != 0;
    map_ipv4(packet->source_address, header + 12);
    map_ipv4(packet->destination_address, header + 16);
#ifdef PARSE_PLACES
    packet->ip_offset = offset;
    packet->fragmentable_offset = offset + header_bytes;
    packet->fragment_offset = fragment & 0x1fff;
#endif
    if (fragment & 0x1fff) {
        packet->payload_bytes = total - header_bytes;
        return PACKET_FRAGMENT;
    }
    return parse_transport(source, offset + header_bytes, total - header_bytes, packet);
}

FLOW_INLINE int is_extension_header(__u8 next)
{
    return next == PARSE_IPV6_HOP_BY_HOP || next == PARSE_IPV6_ROUTING || next == PARSE_IPV6_FRAGMENT ||
           next == PARSE_IPV6_AUTHENTICATION || next == PARSE_IPV6_DESTINATION || next == PARSE_IPV6_MOBILITY;
}

FLOW_INLINE enum packet_disposition parse_ipv6(frame_source source, __u32 offset, __u32 wire_bytes, struct packet *packet)
{
    __u8 header[PARSE_IPV6_HEADER_BYTES];
    __u8 extension[8];
    __u32 length;
    __u32 size;
    __u8 next;
    int count;

    if (parse_load(source, offset, header, sizeof(header)))
        return PACKET_TRUNCATED;
    if (wire_bytes < sizeof(header))
        return PACKET_MALFORMED;
    length = load_be16(header + 4);
    next = header[6];
    /* 0 for a jumbogram (RFC 2675) and before segmentation; "no next header" (59) may truly be empty. */
    if (!length && next != 59)
        length = wire_bytes - (__u32)sizeof(header);
    if (length > wire_bytes - (__u32)sizeof(header) || length > PARSE_MAX_IP_BYTES)
        return PACKET_MALFORMED;
    packet->ip_bytes = length + (__u32)sizeof(header);
    packet->traffic_class = (__u8)(header[0] << 4 | header[1] >> 4);
    packet->hop_limit = header[7];
    __builtin_memcpy(packet->source_address, header + 8, 16);
    __builtin_memcpy(packet->destination_address, header + 24, 16);
#ifdef PARSE_PLACES
    packet->ip_offset = offset;
#endif
    offset += (__u32)sizeof(header);
    for (count = 0; count < PARSE_EXTENSION_HEADERS && is_extension_header(next); count++) {
        if (length < sizeof(extension))
            return PACKET_MALFORMED;
        if (parse_load(source, offset, extension, sizeof(extension)))
            return PACKET_TRUNCATED;
        size = next == PARSE_IPV6_AUTHENTICATION ? (extension[1] + 2u) * 4 : (extension[1] + 1u) * 8;
        if (next == PARSE_IPV6_FRAGMENT)
            size = sizeof(extension);
        if (size > length)
            return PACKET_MALFORMED;
        offset += size;
        length -= size;
        if (next == PARSE_IPV6_FRAGMENT) {
            __u16 fragment = load_be16(extension + 2);

            packet->fragment_id = load_be32(extension + 4);
            packet->more_fragments = fragment & 1;
#ifdef PARSE_PLACES
            packet->fragmentable_offset = offset;
            packet->fragment_offset = fragment >> 3;
#endif
            if (fragment & 0xfff8) {
                packet->transport = extension[0];
                packet->payload_bytes = length;
                return PACKET_FRAGMENT;
            }
        }
        next = extension[0];
    }
    if (is_extension_header(next))
        return PACKET_MALFORMED;
    packet->transport = next;
    return parse_transport(source, offset, length, packet);
}

/* Parse from the IP header on: `wire_bytes` were on the wire from `offset` on. The caller sets time_ns, and zeroes the rest. */
FLOW_INLINE enum packet_disposition parse_ip(frame_source source, __u32 offset, __u32 wire_bytes, struct packet *packet)
{
    __u8 version;

    packet->segments = 1;
    if (parse_load(source, offset, &version, sizeof(version)))
        return PACKET_TRUNCATED;
    if (version >> 4 == 4)
        return parse_ipv4(source, offset, wire_bytes, packet);
    if (version >> 4 == 6)
        return parse_ipv6(source, offset, wire_bytes, packet);
    return PACKET_NOT_IP;
}

#endif
