/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * QUIC connections (RFC 9000, RFC 9369): which datagrams hold their handshake's two hellos. Those are in Initial packets, which are
 * encrypted by keys that everybody knows; who reads the datagrams decrypts them (services/capture/names/quic.py).
 *
 * A flow is one of QUIC where its first datagram begins with such a packet, or with one of early data that has overtaken it. Of each
 * end the first few datagrams are looked at (FLOW_OF_INTEREST): a hello with key shares of post-quantum algorithms is in two or three.
 */
#ifndef WIRESPAN_QUIC_H
#define WIRESPAN_QUIC_H

#include "flow.h"
#include "parse.h"
#include "piece.h"

#define QUIC_HEAD_BYTES     5u
#define QUIC_MOST_DATAGRAMS 8

enum quic_packet {
    QUIC_OTHER,
    QUIC_INITIAL,
    QUIC_EARLY_DATA,
};

/* What a datagram begins with, by the long header's first byte, without what is protected of it, and the version. */
FLOW_INLINE enum quic_packet quic_begins(frame_source source, __u32 offset)
{
    __u8 head[QUIC_HEAD_BYTES] = {0};
    __u32 version;
    __u32 first;

    if (parse_load(source, offset, head, QUIC_HEAD_BYTES))
        return QUIC_OTHER;
    version = load_be32(head + 1);
    first = head[0] & 0xf0u;
    if (version == 0x6b3343cf) /* version 2 has other numbers */
        first -= 0x10;
    else if (version != 1)
        return QUIC_OTHER;
    return first == 0xc0 ? QUIC_INITIAL : first == 0xd0 ? QUIC_EARLY_DATA : QUIC_OTHER;
}

/* Whether a datagram that is not its flow's first is to be looked at. */
FLOW_INLINE int quic_is_touched(const struct flow *flow, int from)
{
    return flow->sides[from & 1].known & FLOW_OF_INTEREST;
}

/* Look at a datagram of UDP that was added to its flow; its payload lies at `offset`. Returns 1 where it is to be handed on. */
FLOW_INLINE int quic_take(frame_source source, __u32 offset, struct flow *flow, int from, int is_first)
{
    struct flow_side *own = &flow->sides[from & 1];
    enum quic_packet begins;

    if (!is_first && !quic_is_touched(flow, from))
        return 0;
    begins = quic_begins(source, offset);
    if (is_first && begins != QUIC_OTHER) {
        flow->sides[FLOW_TX].known |= FLOW_OF_INTEREST;
        flow->sides[FLOW_RX].known |= FLOW_OF_INTEREST;
    }
    if (own->packets >= QUIC_MOST_DATAGRAMS)
        own->known &= (__u8)~FLOW_OF_INTEREST;
    return begins == QUIC_INITIAL && own->known & FLOW_OF_INTEREST;
}

#endif
