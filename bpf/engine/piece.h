/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * Pieces of payload that are handed to capture's process, each bounded and for one purpose. There they are parsed and dropped at
 * once; what is kept of them is in services/capture/names.
 */
#ifndef WIRESPAN_PIECE_H
#define WIRESPAN_PIECE_H

#include "packet.h"

/* What a piece is of. */
enum piece_kind {
    PIECE_DNS, /* a question, however often it is sent, or the answer to one that waits */
    PIECE_DNS_TCP, /* a segment to or from a DNS port: the sequence number stands in since_ns */
    PIECE_TLS, /* of a hello, or the record that ends a handshake: tls.h */
    PIECE_QUIC, /* a datagram that begins with an Initial packet: quic.h */
    PIECE_KINDS,
};

#define PIECE_BYTES 512u /* of payload; a power of two */
/* Of a hello: those with key shares of post-quantum algorithms and a ticket have some 2,000. A power of two. */
#define TLS_HELLO_BYTES 4096u

/* Of a datagram of QUIC: those that hold a hello are hardly larger than paths of the Internet take. A power of two. */
#define QUIC_DATAGRAM_BYTES 2048u

/* What is in front of a piece's bytes. services/capture/names/pieces.py has the same. */
struct piece {
    __u64 flow_id;
    __u64 time_ns;
    __u64 since_ns; /* DNS: when the question was first asked that this answers or repeats; 0: it is a new one.
                       TLS: when the handshake began that this ends; 0: it is of a hello */
    __u64 owner;         /* DNS: whose socket, or which address, asks; 0: nobody knows */
    __u16 payload_bytes; /* of the whole message, or hello; 65535 for more */
    __u16 held; /* bytes that follow */
    __u8 kind;
    __u8 from; /* enum flow_direction */
    __u16 place; /* TLS: where in the hello these bytes are */
};

_Static_assert(sizeof(struct piece) == 40, "struct piece has no hole; services/capture/names/pieces.py mirrors it");

FLOW_INLINE __u16 piece_payload_bytes(__u32 payload_bytes)
{
    return payload_bytes > 0xffff ? 0xffff : (__u16)payload_bytes;
}

#endif
