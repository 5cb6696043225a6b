/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * Tunnels: from a parsed packet to what it carries. For replay; a socket sees its own packets, whatever they travel in.
 *
 * VXLAN, Geneve and GTP-U are UDP to a well-known port, which anybody may
 * use: there the header has to look like one, and what it carries has to be sound. GRE and IP in IP are protocols of their own.
 */
#ifndef WIRESPAN_TUNNEL_H
#define WIRESPAN_TUNNEL_H

#include "../host.h"

#include "../../engine/link.h"

/* services/capture/replay/layout.py has the depth; the kinds are proto/columns.py's Tunnel. */
#define TUNNEL_DEPTH 4

enum tunnel_kind {
    TUNNEL_NONE,
    TUNNEL_VXLAN,
    TUNNEL_GENEVE,
    TUNNEL_GRE,
    TUNNEL_IPIP,
    TUNNEL_GTPU,
};

#define PORT_GTPU              2152
#define PORT_VXLAN             4789
#define PORT_VXLAN_LINUX       8472 /* before there was an assigned one; flannel's */
#define PORT_GENEVE            6081
#define TRANSPORT_IPV4         4
#define TRANSPORT_IPV6         41
#define TRANSPORT_GRE          47
#define TUNNEL_GTPU_EXTENSIONS 4
#define ETHERTYPE_ETHERNET     0x6558 /* "transparent Ethernet bridging": a whole frame */

/* What a packet carries. */
struct tunnel {
    enum tunnel_kind kind;
    __u32 id;     /* VNI, GRE key, GTP-U's TEID; 0 where there is none */
    __u32 offset; /* of the frame or IP packet in it */
    __u16 type;   /* its ethertype */
};

/* RFC 7348 5; the group policy extension uses more of the first half. */
FLOW_INLINE int tunnel_vxlan(frame_source source, __u32 offset, struct tunnel *tunnel)
{
    __u8 header[8];

    if (parse_load(source, offset, header, sizeof(header)) || !(header[0] & 0x08) || header[7])
        return 0;
    if (!(header[0] & 0x80) && (header[1] || header[2] || header[3]))
        return 0;
    tunnel->kind = TUNNEL_VXLAN;
    tunnel->id = load_be32(header + 4) >> 8;
    tunnel->offset = offset + (__u32)sizeof(header);
    tunnel->type = ETHERTYPE_ETHERNET;
    return 1;
}

/* RFC 8926 3.4. What is marked as control, or carries what is no Ethernet and no IP, is left closed. */
FLOW_INLINE int tunnel_geneve(frame_source source, __u32 offset, struct tunnel *tunnel)
{
    __u8 header[8];

    if (parse_load(source, offset, header, sizeof(header)) || header[0] & 0xc0 || header[1] & 0xbf || header[7])
        return 0;
    tunnel->kind = TUNNEL_GENEVE;
    tunnel->id = load_be32(header + 4) >> 8;
    tunnel->offset = offset + (__u32)sizeof(header) + (header[0] & 0x3fu) * 4;
    tunnel->type = load_be16(header + 2);
    return 1;
}

/* 3GPP TS 29.281 5.1: the user's packets, not the protocol's own messages. */
FLOW_INLINE int tunnel_gtpu(frame_source source, __u32 offset, struct tunnel *tunnel)
{
    __u8 header[8];
    __u8 more[4];
    __u8 size;
    int count;

    if (parse_load(source, offset, header, sizeof(header)) || (header[0] & 0xf8) != 0x30 || header[1] != 0xff)
        return 0;
    tunnel->offset = offset + (__u32)sizeof(header);
    if (header[0] & 7) {
        if (parse_load(source, tunnel->offset, more, sizeof(more)))
            return 0;
        tunnel->offset += (__u32)sizeof(more);
        for (count = 0; header[0] & 4 && more[3]; count++) {
            if (count == TUNNEL_GTPU_EXTENSIONS || parse_load(source, tunnel->offset, &size, 1) || !size)
                return 0;
            tunnel->offset += size * 4u;
            if (parse_load(source, tunnel->offset - 1, &more[3], 1))
                return 0;
        }
    }
    if (parse_load(source, tunnel->offset, &size, 1))
        return 0;
    tunnel->kind = TUNNEL_GTPU;
    tunnel->id = load_be32(header + 4);
    tunnel->type = size >> 4 == 4 ? ETHERTYPE_IPV4 : size >> 4 == 6 ? ETHERTYPE_IPV6 : 0;
    return 1;
}

/* PPTP's GRE, version 1 (RFC 2637 4.1): a PPP frame (RFC 1662) that is neither compressed nor encrypted. Its id is the call's. */
FLOW_INLINE int tunnel_pptp(frame_source source, __u32 offset, struct tunnel *tunnel)
{
    __u8 header[8];

    if (parse_load(source, offset, header, sizeof(header)) || (header[0] & 0xef) != 0x20 || load_be16(header + 2) != 0x880b)
        return 0;
    offset += (__u32)sizeof(header) + (header[0] & 0x10 ? 4 : 0) + (header[1] & 0x80 ? 4 : 0);
    if (parse_ppp(source, &offset, &tunnel->type))
        return 0;
    tunnel->kind = TUNNEL_GRE;
    tunnel->id = load_be16(header + 6);
    tunnel->offset = offset;
    return 1;
}

/* RFC 2784 and 2890; NVGRE (RFC 7637) is GRE with a key. Source routes are left closed. */
FLOW_INLINE int tunnel_gre(frame_source source, __u32 offset, struct tunnel *tunnel)
{
    __u8 header[4];
    __u8 key[4];

    if (parse_load(source, offset, header, sizeof(header)) || header[0] & 0x40)
        return 0;
    if (header[1] & 7)
        return (header[1] & 7) == 1 && tunnel_pptp(source, offset, tunnel);
    tunnel->kind = TUNNEL_GRE;
    tunnel->type = load_be16(header + 2);
    tunnel->offset = offset + (__u32)sizeof(header) + (header[0] & 0x80 ? 4 : 0);
    if (header[0] & 0x20) {
        if (parse_load(source, tunnel->offset, key, sizeof(key)))
            return 0;
        tunnel->id = load_be32(key);
        tunnel->offset += (__u32)sizeof(key);
    }
    tunnel->offset += header[0] & 0x10 ? 4 : 0;
    return 1;
}

/* Whether a packet whose transport was parsed is a tunnel's, and then what it carries. */
FLOW_INLINE int tunnel_open(frame_source source, const struct packet *packet, struct tunnel *tunnel)
{
    __u32 behind_udp = packet->transport_offset + 8;
    int open = 0;

    tunnel->id = 0;
    switch (packet->transport) {
    case TRANSPORT_UDP:
        if (packet->destination_port == PORT_VXLAN || packet->destination_port == PORT_VXLAN_LINUX)
            open = tunnel_vxlan(source, behind_udp, tunnel);
        else if (packet->destination_port == PORT_GENEVE)
            open = tunnel_geneve(source, behind_udp, tunnel);
        else if (packet->destination_port == PORT_GTPU)
            open = tunnel_gtpu(source, behind_udp, tunnel);
        break;
    case TRANSPORT_GRE:
        open = tunnel_gre(source, packet->transport_offset, tunnel);
        break;
    case TRANSPORT_IPV4:
    case TRANSPORT_IPV6:
        tunnel->kind = TUNNEL_IPIP;
        tunnel->offset = packet->transport_offset;
        tunnel->type = packet->transport == TRANSPORT_IPV4 ? ETHERTYPE_IPV4 : ETHERTYPE_IPV6;
        open = 1;
        break;
    default:
        break;
    }
    return open && (tunnel->type == ETHERTYPE_ETHERNET || tunnel->type == ETHERTYPE_IPV4 || tunnel->type == ETHERTYPE_IPV6);
}

/* Parse what a tunnel carries; `wire_bytes` is where it ends in the frame. */
FLOW_INLINE enum packet_disposition tunnel_parse(
        frame_source source, const struct tunnel *tunnel, __u32 wire_bytes, struct packet *packet)
{
    if (tunnel->type == ETHERTYPE_ETHERNET)
        return parse_link_type_field(source, tunnel->offset + 12, tunnel->offset + 14, wire_bytes, packet);
    return parse_ethertype(source, tunnel->offset, wire_bytes, tunnel->type, packet);
}

/* Whether only the port said that there is a tunnel. */
FLOW_INLINE int tunnel_is_guessed(const struct tunnel *tunnel)
{
    return tunnel->kind == TUNNEL_VXLAN || tunnel->kind == TUNNEL_GENEVE || tunnel->kind == TUNNEL_GTPU;
}

#endif
