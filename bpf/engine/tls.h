/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * TLS handshakes (RFC 8446, RFC 5246) of connections that begin with one, or come to it soon: where each end's hello lies, and which
 * record ends it. Nothing is decrypted, and nothing read but the headers of records and of the two hellos.
 *
 * Both ends' first payload is looked at (FLOW_OF_INTEREST). Where the client's is no ClientHello, nor one of either end what one may
 * follow upon (tls_prelude), that is all. Else the next packets are looked at until the ClientHello comes, which begins one; then
 * each record is followed to the next by its length, until the handshake is over:
 *   - by the client's first record of application data (type 23) after the server said something. In TLS 1.2 it carries just that.
 *     In TLS 1.3 it is the client's Finished, or the Certificate before it, in a disguise (RFC 8446 5.2): what comes in it cannot
 *     be told, but that the client holds the server for who it is. What a client sends before it was answered is early data.
 *   - or by a fatal alert in clear text, of either end.
 * Where a segment is missing or was overtaken the next record may not be found, and the handshake's end is not told.
 *
 * As parse.h: nothing is trusted, no loop is unbounded, and the host has defined frame_source and parse_load before. Besides, it
 * defines before including this `handshake_host`, whatever it needs to find the flow's handshake, and, anywhere, the three
 * functions that take one.
 */
#ifndef WIRESPAN_TLS_H
#define WIRESPAN_TLS_H

#include "flow.h"
#include "parse.h"
#include "piece.h"

/* Loops stay loops: unrolled they are larger than a program may be. */
#ifdef __clang__
#define TLS_LOOP _Pragma("clang loop unroll(disable)")
#else
#define TLS_LOOP
#endif

#define TLS_RECORD_HEADER  5u
#define TLS_MESSAGE_HEADER 4u
#define TLS_HEAD_BYTES     (TLS_RECORD_HEADER + TLS_MESSAGE_HEADER)
#define TLS_ALERT_BYTES    2u
#define TLS_LONGEST_RECORD (16384u + 2048u) /* TLS 1.2 encrypted: RFC 5246 6.2.3 */
/* In one packet: a server's flight of TLS 1.2, each message in a record of its own, or a client's. */
#define TLS_MOST_RECORDS 8
/* Packets with payload that are looked at: a handshake with long chains of certificates, both ways, has fewer. */
#define TLS_MOST_PACKETS 64
/* And before the ClientHello: mail servers are greeted, asked what they can, and asked for TLS. */
#define TLS_MOST_WAITS         16
#define TLS_PRELUDE_HEAD_BYTES 8u
#define TLS_PROXY_BYTES        16u
#define TLS_PROXY_LINE_BYTES   107u /* at the most */
#define TLS_MYSQL_BYTES        36u

enum tls_record {
    TLS_CHANGE_CIPHER_SPEC = 20,
    TLS_ALERT = 21,
    TLS_HANDSHAKE = 22,
    TLS_APPLICATION_DATA = 23,
};

enum tls_message {
    TLS_CLIENT_HELLO = 1,
    TLS_SERVER_HELLO = 2,
};

#define TLS_FATAL 2
/* What is handed on of a record that ends a handshake has no more; a power of two. */
#define TLS_ENDS_BYTES 8u

/* handshake_side.begun of a server that sends its handshake as application data, as in TLS 1.3 alone. */
#define HANDSHAKE_DISGUISED 2u

/* What one end has sent, by sequence numbers. */
struct handshake_side {
    __u32 next; /* where its next record begins */
    __u32 hello;
    __u32 hello_end; /* the same as hello: it has sent none */
    __u32 begun; /* it sent a record; `next` is known before */
};

/* One that is under way. */
struct handshake {
    __u64 flow_id;
    __u64 hello_ns; /* the ClientHello's first byte; nothing while it is awaited, for the client has not begun */
    struct handshake_side sides[2];
    __u32 client; /* enum flow_direction */
    __u32 packets;
};

_Static_assert(sizeof(struct handshake) == 56, "struct handshake has no hole");

/* What of a packet is to be handed on. Offsets are those of the frame. */
struct handshake_told {
    __u64 since_ns; /* the ClientHello, where this packet ends the handshake; else 0 */
    __u32 hello;    /* its bytes, from here on */
    __u32 hello_held;
    __u32 hello_place; /* where in the hello that is */
    __u32 hello_bytes; /* of the whole hello; 0: the packet holds none of it */
    __u32 end;         /* the record that ends the handshake */
    __u32 end_held;
    __u32 disguised; /* that record is part of the handshake: TLS 1.3 */
};

/* The flow's handshake that is under way, or NULL. */
static inline struct handshake *handshake_open(handshake_host host);
/* Zeroed room for one, or NULL. */
static inline struct handshake *handshake_begin(handshake_host host);
/* It is over. */
static inline void handshake_end(handshake_host host);

/* Whether a TCP packet's payload is to be looked at; asked before it is added to its flow. */
FLOW_INLINE int handshake_is_touched(const struct flow *flow, const struct packet *packet, int from)
{
    return flow->sides[from & 1].known & FLOW_OF_INTEREST && packet->payload_bytes;
}

/* Whether this is the header of a record. */
FLOW_INLINE int tls_is_record(const __u8 *head)
{
    __u32 bytes = load_be16(head + 3);

    return head[0] >= TLS_CHANGE_CIPHER_SPEC && head[0] <= TLS_APPLICATION_DATA && head[1] == 3 && head[2] <= 4 && bytes &&
           bytes <= TLS_LONGEST_RECORD;
}

FLOW_INLINE __u32 tls_message_bytes(const __u8 *head)
{
    return (__u32)head[TLS_RECORD_HEADER + 1] << 16 | load_be16(head + TLS_RECORD_HEADER + 2);
}

/* A hello begins at `sequence`. Its message may be cut into records; then some of their headers are at its end. */
FLOW_INLINE void handshake_says_hello(struct handshake_side *own, const __u8 *head, __u32 sequence)
{
    __u32 bytes = TLS_HEAD_BYTES + tls_message_bytes(head);

    own->hello = sequence;
    own->hello_end = sequence + (bytes < TLS_HELLO_BYTES ? bytes : TLS_HELLO_BYTES);
}

/* What of the hello lies in this packet. */
FLOW_INLINE void handshake_tell_hello(
        const struct handshake_side *own, __u32 offset, const struct packet *packet, struct handshake_told *told)
{
    __u32 end = packet->sequence + packet->payload_bytes;
    __u32 begin = sequence_after(own->hello, packet->sequence) ? own->hello : packet->sequence;

    if (sequence_after(end, own->hello_end))
        end = own->hello_end;
    if (own->hello == own->hello_end || !sequence_after(end, begin))
        return;
    told->hello = offset + (begin - packet->sequence);
    told->hello_held = end - begin;
    told->hello_place = begin - own->hello;
    told->hello_bytes = own->hello_end - own->hello;
}

/* Follow the records of a packet. Returns 1 where one ends the handshake, -1 where there is none, and so no TLS. */
FLOW_INLINE int handshake_follow(frame_source source, __u32 offset, struct handshake *handshake, const struct packet *packet,
        int from, struct handshake_told *told)
{
    struct handshake_side *own = &handshake->sides[from & 1];
    int of_client = (__u32)from == handshake->client;
    __u8 head[TLS_HEAD_BYTES] = {0};
    __u32 at;
    __u32 bytes;
    int count;

    TLS_LOOP
    for (count = 0; count < TLS_MOST_RECORDS; count++) {
        at = own->next - packet->sequence;
        /* Elsewhere, before the packet or behind it, or not all there. */
        if (at >= packet->payload_bytes || parse_load(source, offset + at, head, TLS_RECORD_HEADER))
            return 0;
        if (!tls_is_record(head))
            return -1;
        bytes = load_be16(head + 3);
        told->end = offset + at;
        told->end_held = TLS_RECORD_HEADER;
        if (head[0] == TLS_APPLICATION_DATA && of_client && handshake->sides[!from].begun) {
            told->disguised = handshake->sides[!from].begun == HANDSHAKE_DISGUISED;
            return 1;
        }
        if (head[0] == TLS_APPLICATION_DATA && !of_client)
            own->begun = HANDSHAKE_DISGUISED;
        if (head[0] == TLS_ALERT && bytes == TLS_ALERT_BYTES &&
                !parse_load(source, offset + at, head, TLS_RECORD_HEADER + TLS_ALERT_BYTES) &&
                head[TLS_RECORD_HEADER] == TLS_FATAL) {
            told->end_held += TLS_ALERT_BYTES;
            return 1;
        }
        /* Behind a hello that is not handed on yet comes no other: what looks like one is encrypted. */
        if (head[0] == TLS_HANDSHAKE && (own->hello == own->hello_end || !sequence_after(own->hello_end, packet->sequence)) &&
                !parse_load(source, offset + at, head, TLS_HEAD_BYTES) &&
                head[TLS_RECORD_HEADER] == (of_client ? TLS_CLIENT_HELLO : TLS_SERVER_HELLO))
            handshake_says_hello(own, head, own->next);
        own->next += TLS_RECORD_HEADER + bytes;
    }
    return 0;
}

/* The line that HAProxy's protocol begins a connection with, in its first version: its length, or 0 where its end is not there. */
FLOW_INLINE __u32 tls_proxy_line(frame_source source, __u32 offset)
{
    __u8 letter = 0;
    __u32 at;

    TLS_LOOP
    for (at = 0; at < TLS_PROXY_LINE_BYTES; at++) {
        if (parse_load(source, offset + at, &letter, 1))
            return 0;
        if (letter == '\n')
            return at + 1;
    }
    return 0;
}

/*
 * What may stand before a ClientHello, in the clear: how many bytes of a payload that begins with it, or 0. Of a client a header of
 * HAProxy's protocol, PostgreSQL's and MySQL's request for TLS (the latter answers nothing), HTTP's CONNECT; of a server the greeting
 * of SMTP or FTP, IMAP, POP3. What one end says by what the other would is none of it.
 */
FLOW_INLINE __u32 tls_prelude(frame_source source, __u32 offset, __u32 payload_bytes, int of_client)
{
    __u8 head[TLS_PROXY_BYTES] = {0};
    __u32 first;
    __u32 second;

    if (payload_bytes < TLS_PRELUDE_HEAD_BYTES || parse_load(source, offset, head, TLS_PRELUDE_HEAD_BYTES))
        return 0;
    first = load_be32(head);
    second = load_be32(head + 4);
    if (!of_client)
        return first == 0x32323020 /* "220 " */ || first == 0x3232302d /* "220-" */ || first == 0x2a204f4b /* "* OK" */ ||
                               first >> 8 == 0x2b4f4b /* "+OK" */
                       ? payload_bytes
                       : 0;
    if (first == 8 && payload_bytes == 8 && (second == 80877103 /* TLS */ || second == 80877104 /* GSSAPI, before it */))
        return payload_bytes;
    if (first == 0x20000001 && payload_bytes >= TLS_MYSQL_BYTES && head[5] & 0x08 /* CLIENT_SSL */)
        return TLS_MYSQL_BYTES;
    if (first == 0x434f4e4e && second == 0x45435420) /* "CONNECT " */
        return payload_bytes;
    if (first == 0x50524f58 && second >> 16 == 0x5920) /* "PROXY " */
        return tls_proxy_line(source, offset);
    if (first == 0x0d0a0d0a && second == 0x000d0a51 && !parse_load(source, offset, head, TLS_PROXY_BYTES))
        return TLS_PROXY_BYTES + load_be16(head + 14);
    return 0;
}

FLOW_INLINE int tls_is_client_hello(frame_source source, __u32 offset)
{
    __u8 head[TLS_HEAD_BYTES] = {0};

    return !parse_load(source, offset, head, TLS_HEAD_BYTES) && head[0] == TLS_HANDSHAKE && tls_is_record(head) &&
           head[TLS_RECORD_HEADER] == TLS_CLIENT_HELLO && tls_message_bytes(head) + TLS_MESSAGE_HEADER >= load_be16(head + 3);
}

/* Whether who sends this is the client; where that is a guess, whoever sends a ClientHello is. */
FLOW_INLINE int tls_of_client(const struct flow *flow, int from)
{
    return flow->role == FLOW_ROLE_UNKNOWN || flow_role_source(flow) == FLOW_ROLE_OF_PORTS || flow_from_client(flow, from);
}

/* A flow's first payload from `from`, whose packet was added to it. Returns the handshake that is to be expected, or NULL. */
FLOW_INLINE struct handshake *handshake_expect(handshake_host host, struct flow *flow, const struct packet *packet, int from)
{
    const struct flow_side *own = &flow->sides[from & 1];
    int of_client = tls_of_client(flow, from);
    struct handshake *handshake;

    if (own->known & FLOW_KNOWN_ISN && packet->sequence != own->initial_sequence + 1)
        return NULL;
    if (!of_client && flow->sides[!from].payload_bytes) /* no greeting, but an answer */
        return NULL;
    handshake = handshake_begin(host);
    if (!handshake)
        return NULL;
    handshake->client = (__u32)(of_client ? from : !from) & 1;
    /* What was no prelude of the other end may have been an answer: MySQL's server speaks first. */
    flow->sides[FLOW_TX].known |= FLOW_OF_INTEREST;
    flow->sides[FLOW_RX].known |= FLOW_OF_INTEREST;
    return handshake;
}

/* It is over, or is not to be expected any more. */
FLOW_INLINE void handshake_leave(handshake_host host, struct flow_side *own)
{
    own->known &= (__u8)~FLOW_OF_INTEREST;
    handshake_end(host);
}

/*
 * Look at a packet that was added to its flow, and that handshake_is_touched before; its payload lies at `offset`. `told` was
 * zeroed before.
 */
FLOW_INLINE void handshake_take(handshake_host host, frame_source source, __u32 offset, struct flow *flow,
        const struct packet *packet, int from, struct handshake_told *told)
{
    struct handshake *handshake = handshake_open(host);
    struct flow_side *own = &flow->sides[from & 1];
    struct handshake_side *side;
    __u32 before = 0;
    int says_hello = 0;
    int of_client;
    int ends;

    if (!handshake || !handshake->sides[handshake->client & 1].begun) {
        of_client = handshake ? (__u32)from == handshake->client : tls_of_client(flow, from);
        before = tls_prelude(source, offset, packet->payload_bytes, of_client);
        says_hello = of_client && before < packet->payload_bytes && tls_is_client_hello(source, offset + before);
        if (!handshake && (before || says_hello))
            handshake = handshake_expect(host, flow, packet, from);
        if (!handshake) {
            own->known &= (__u8)~FLOW_OF_INTEREST;
            return;
        }
        handshake->packets += 1;
        if (!says_hello) {
            if (handshake->packets == TLS_MOST_WAITS)
                handshake_leave(host, own);
            return;
        }
        handshake->hello_ns = packet->time_ns;
        handshake->packets = 0;
        handshake->sides[from & 1].next = packet->sequence + before;
        handshake->sides[!from].next = packet->acknowledgment;
    }
    side = &handshake->sides[from & 1];
    side->begun = 1;
    ends = handshake_follow(source, offset, handshake, packet, from, told);
    handshake_tell_hello(side, offset, packet, told);
    if (ends > 0)
        told->since_ns = handshake->hello_ns;
    else
        told->end_held = 0;
    handshake->packets += 1;
    if (ends || handshake->packets >= TLS_MOST_PACKETS)
        handshake_leave(host, own);
}

#endif
