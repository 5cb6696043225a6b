/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* A parsed packet, and the words that its headers are read by. What every part of the engine includes. */
#ifndef WIRESPAN_PACKET_H
#define WIRESPAN_PACKET_H

#include <linux/types.h>

#define FLOW_INLINE static inline __attribute__((always_inline, unused))

/* IANA protocol numbers. */
enum transport {
    TRANSPORT_ICMP = 1,
    TRANSPORT_TCP = 6,
    TRANSPORT_UDP = 17,
    TRANSPORT_DCCP = 33,
    TRANSPORT_ICMPV6 = 58,
    TRANSPORT_SCTP = 132,
    TRANSPORT_UDPLITE = 136,
};

/* RFC 9293 3.1. */
enum tcp_flag {
    TCP_FIN = 0x01,
    TCP_SYN = 0x02,
    TCP_RST = 0x04,
    TCP_PSH = 0x08,
    TCP_ACK = 0x10,
};

/* What a host that keeps precise times makes of payload below the highest byte sent; packet.late. */
enum packet_late {
    LATE_UNJUDGED,
    LATE_REORDERED, /* overtaken on its way */
    LATE_REPEATED,  /* sent again */
};

/* What parse.h makes of a packet. */
struct packet {
    __u8 source_address[16];
    __u8 destination_address[16];
    __u64 time_ns;
    __u32 ip_bytes;      /* IP header and all behind it */
    __u32 payload_bytes; /* behind the transport header */
    __u32 segments;      /* more than 1 where segmentation is offloaded */
    __u32 sequence;
    __u32 acknowledgment;
    __u32 fragment_id;
    __u32 transport_offset; /* of the transport header in the frame */
    __u16 source_port; /* ICMP queries: the identifier, in both */
    __u16 destination_port;
    __u16 window;
    __u8 transport;
    __u8 tcp_flags;
    __u8 icmp_type;
    __u8 icmp_code;
    __u8 traffic_class; /* DSCP and ECN */
    __u8 hop_limit;
    __u8 more_fragments;
    __u8 fragment_protocol; /* IPv4: part of what identifies a datagram (RFC 791); IPv6: 0, it is not (RFC 8200 4.5) */
    __u8 late;
    __u8 window_scale; /* of a SYN, plus 1; 0: it has none, or the host does not read options */
    __u32 unseen;      /* of late payload that was judged: bytes that fill a gap, and so were not seen before */
#ifdef PARSE_PLACES
    __u32 ip_offset;            /* of the IP header in the frame */
    __u32 fragmentable_offset;  /* of what was cut into fragments */
    __u32 fragment_offset;      /* where in its datagram this fragment lies, in units of 8 bytes */
    __u32 pad2;
#endif
};

#ifdef PARSE_PLACES
_Static_assert(sizeof(struct packet) == 104, "struct packet has no hole");
#else
_Static_assert(sizeof(struct packet) == 88, "struct packet has no hole");
#endif

#endif
