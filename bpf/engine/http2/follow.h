/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * A connection of HTTP/2 followed from frame to frame (frame.h), by sequence numbers: what its segments say is told as told.h has it.
 *
 * Besides what exchange_steps.h asks for a host defines, before including this:
 *     int http2_tell(exchange_host host, frame_source source, struct http2_told *told, __u32 offset)
 *         hand it on, with told->held bytes at `offset` of the frame, HTTP2_HELD_BYTES at the most
 *     HTTP2_UNTOLD_BYTES, HTTP2_UNTOLD_NS     of DATA that http2_pass takes, what is told at once at the most
 */
#ifndef WIRESPAN_HTTP2_FOLLOW_H
#define WIRESPAN_HTTP2_FOLLOW_H

#include "../exchanges/exchange_steps.h"
#include "../parse.h"

#include "frame.h"
#include "told.h"

/* How often a connection of which no direction's place is known is tried, before it is given up. */
#define HTTP2_MOST_TRIALS 64u

struct http2_connection {
    struct http2_side sides[2];
    __u32 trials; /* that came to nothing while none was known */
    __u8 begins; /* enum http2_beginning */
    __u8 pad[3];
};

/* Up to Linux 6.1 a loop is one only if it goes back by a jump, which the compiler does not always do: this one is none. */
#ifdef __clang__
#define HTTP2_UNROLLED _Pragma("unroll")
#else
#define HTTP2_UNROLLED
#endif

/* Frames that http2_pass takes at once: of an upload four begin in a packet of 64 KiB, as a rule, of what is sent in small ones hundreds. */
#define HTTP2_PASSED 32
/* So few in the midst of a packet are left to http2_step, which takes as many at once: a host may go on no more than so often. */
#define HTTP2_FEW 9

/* What http2_step and http2_skip return where they took nothing. */
#define HTTP2_IS_NONE -1 /* what is there is no HTTP/2 */
#define HTTP2_JUMPS   -2 /* frames may have begun in what is missing */

/* Whose packet is looked at. */
struct http2_look {
    exchange_host host;
    frame_source source;
    const struct flow *flow;
    const struct packet *packet;
    int from;
};

/* Whether it is not known what a direction has said in frames before. */
FLOW_INLINE int http2_is_missed(const struct http2_connection *connection, int of_client)
{
    return connection->begins == HTTP2_JOINS || (connection->begins == HTTP2_CHANGES && !of_client);
}

/*
 * A direction, which goes on with this sequence number, is looked at for the first time: a client's with the preface. A server may
 * speak first, but has no more to say before the preface than whole frames in one segment (RFC 9113 3.4).
 */
FLOW_INLINE void http2_begin_side(struct http2_connection *connection, const struct flow *flow, int from, __u32 sequence)
{
    const struct flow_side *own = &flow->sides[from & 1];
    struct http2_side *side = &connection->sides[from & 1];
    int of_client = flow_from_client(flow, from);

    http2_lose_place(side);
    if (http2_is_missed(connection, of_client))
        return;
    side->trial = 0;
    side->next = of_client ? sequence + HTTP2_PREFACE_BYTES : sequence;
    side->state = HTTP2_IS_PLACED;
    if (of_client || connection->begins == HTTP2_SWITCHES ||
            (own->known & FLOW_KNOWN_ISN && sequence == own->initial_sequence + 1))
        side->state |= HTTP2_OPENS_SIDE;
}

/* The other direction's first packet since the connection is known to be one of HTTP/2 is here. Returns whether it is. */
FLOW_INLINE int http2_meet(struct http2_connection *connection, const struct flow *flow, const struct packet *packet, int from,
        const struct exchange_moment *before)
{
    if (connection->sides[from & 1].want)
        return 0;
    http2_begin_side(connection, flow, from, before->next_sequence ? before->next_sequence : packet->sequence);
    return 1;
}

/*
 * A connection is known to be one of HTTP/2, by a packet of this direction, which goes on with this sequence number: from here on
 * its frames are followed. The other direction begins with its own next packet (http2_meet), so that none writes what another CPU is
 * at: behind a 101 the packets of both may be here at once.
 */
FLOW_INLINE void http2_begin(
        struct http2_connection *connection, const struct flow *flow, int from, enum http2_beginning begins, __u32 sequence)
{
    if (begins != HTTP2_SWITCHES)
        __builtin_memset(connection, 0, sizeof(*connection)); /* a socket's last flow may have had it */
    connection->begins = (__u8)begins;
    http2_begin_side(connection, flow, from, sequence);
}

FLOW_INLINE void opening_describe(struct http2_opening *opening, const struct flow *flow)
{
    opening->flow_first_ns = flow->first_ns;
    __builtin_memcpy(opening->local_address, flow->local_address, 16);
    __builtin_memcpy(opening->remote_address, flow->remote_address, 16);
    opening->local_isn = flow->sides[FLOW_TX].initial_sequence;
    opening->remote_isn = flow->sides[FLOW_RX].initial_sequence;
    opening->local_port = flow->local_port;
    opening->remote_port = flow->remote_port;
    opening->role = flow->role;
    opening->isn_seen = (flow->sides[FLOW_TX].known & FLOW_KNOWN_ISN) | (flow->sides[FLOW_RX].known & FLOW_KNOWN_ISN) << 1;
}

FLOW_INLINE void http2_describe(
        struct http2_opening *opening, const struct http2_connection *connection, const struct flow *flow)
{
    opening->missed[FLOW_TX] = (__u8)http2_is_missed(connection, flow_from_client(flow, FLOW_TX));
    opening->missed[FLOW_RX] = (__u8)http2_is_missed(connection, flow_from_client(flow, FLOW_RX));
    opening_describe(opening, flow);
}

/* Tell of `parts` of the frame under way, and of `held` bytes of its header block, which lie at `offset`. */
FLOW_INLINE void http2_tell_frame(const struct http2_look *look, struct http2_side *side, __u8 parts, __u32 offset, __u32 held)
{
    const struct flow *flow = look->flow;
    struct http2_told told = {
            .flow_id = flow->id,
            .time_ns = look->packet->time_ns,
            .begun_ns = side->begun_ns,
            .stream = side->stream,
            .bytes = side->untold,
            .number = side->number,
            .resent = {exchange_side(flow, 1)->retransmits, exchange_side(flow, 0)->retransmits},
            .held = (__u16)held,
            .what = HTTP2_FRAME,
            .type = side->type,
            .flags = side->flags,
            .parts = parts,
            .from = (__u8)look->from,
    };

    if (flow_from_client(flow, look->from))
        told.parts |= HTTP2_OF_CLIENT;
    side->untold = 0;
    side->number++;
    http2_tell(look->host, look->source, &told, offset);
}

/*
 * Up to where all that a direction says is payload that is passed over, so that packets which end before it need not be looked at:
 * http2_skip makes up for them. 0: nowhere, or it is not known.
 */
FLOW_INLINE __u32 http2_passes_until(const struct http2_side *side)
{
    return side->state & HTTP2_IS_PLACED && http2_is_passing(side) ? side->next + side->left : 0;
}

/* A frame has come whole. */
FLOW_INLINE void http2_frame_ends(struct http2_side *side)
{
    if (http2_is_block(side) && side->flags & HTTP2_END_HEADERS)
        side->block = 0;
    http2_expect_head(side);
}

/*
 * Take what there is of a frame's head, at `offset`; with the fields behind it the frame begins. Returns HTTP2_IS_NONE where nothing
 * can be made of them.
 */
FLOW_INLINE int http2_step_head(const struct http2_look *look, struct http2_side *side, __u32 offset, __u32 there)
{
    __u64 behind = side->want - side->have - 1u; /* as text_load_some has it: bytes behind the first */
    __u32 have = side->have & (HTTP2_HEAD_ROOM - 1);

    if (behind >= there)
        behind = there - 1;
    __asm__("" : "+r"(behind));
    behind &= HTTP2_HEAD_ROOM - 1;
    if (!side->have && !side->block)
        side->begun_ns = look->packet->time_ns;
    if (parse_load(look->source, offset, side->head + have, (__u32)behind + 1))
        return HTTP2_IS_NONE;
    side->taken = (__u32)behind + 1;
    side->have += (__u8)(behind + 1);
    http2_settle();
    if (side->have == HTTP2_HEAD_BYTES && http2_take_head(side))
        return HTTP2_IS_NONE;
    http2_settle();
    if (side->have < side->want)
        return 0;
    if (http2_take_fields(side))
        return HTTP2_IS_NONE;
    side->untold = side->have;
    side->parts = HTTP2_BEGINS;
    return 0;
}

/* Take what there is of a frame's payload; of a header block no more than is handed on at once. */
FLOW_INLINE void http2_step_payload(struct http2_side *side, __u32 there)
{
    __u32 bytes = there - side->taken;
    __u32 held;

    if (bytes > side->left)
        bytes = side->left;
    if (!http2_is_passing(side)) {
        held = side->left - side->padding;
        if (held > HTTP2_HELD_BYTES)
            held = HTTP2_HELD_BYTES;
        /* Padding goes with the end of what is in front of it. */
        if (bytes < held || held < side->left - side->padding)
            bytes = bytes < held ? bytes : held;
        if (held > bytes)
            held = bytes;
        side->held = (__u16)held;
        side->block_bytes += held;
        if (side->block_bytes > HTTP2_BLOCK_BYTES) {
            side->parts |= HTTP2_CUT;
            side->held = 0;
        }
    }
    side->taken += bytes;
    side->left -= bytes;
    side->untold += bytes;
    if (!side->left)
        side->parts |= HTTP2_ENDS;
}

/*
 * Take the next of what one direction says, which lies at `offset` of the packet's frame: of a frame its head, and its payload as far
 * as it is there. Returns how many of the `there` bytes, or HTTP2_IS_NONE. What is on trial is told to nobody.
 */
FLOW_INLINE int http2_step(const struct http2_look *look, struct http2_side *side, __u32 offset, __u32 there)
{
    __u32 at;

    side->taken = 0;
    side->held = 0;
    side->parts = 0;
    if (side->have < side->want && http2_step_head(look, side, offset, there))
        return HTTP2_IS_NONE;
    http2_settle();
    at = side->taken;
    if (side->have == side->want)
        http2_step_payload(side, there);
    http2_settle();
    side->next += side->taken;
    if (!side->trial && http2_is_told(side) && (side->parts || side->held))
        http2_tell_frame(look, side, side->parts, offset + at, side->held);
    http2_settle();
    if (side->parts & HTTP2_ENDS)
        http2_frame_ends(side);
    return (int)side->taken;
}

/*
 * An upload is DATA of one stream, frame behind frame: take at once what of a packet's `there` bytes at `offset` is nothing else. Its
 * frames have one time and are told as one, and those of the packets behind it with them. The packet begins within a frame, or, where
 * it `may_begin`, with one. Returns how many bytes: all, none, or up to the payload of a frame that http2_step is to go on with.
 */
FLOW_INLINE __u32 http2_pass(const struct http2_look *look, struct http2_side *side, __u32 offset, __u32 there, int may_begin)
{
    int begins = !side->have && !side->block && !(side->state & HTTP2_OPENS_SIDE);
    __u32 stream = begins ? 0 : side->stream;
    __u32 at = begins ? 0 : side->left; /* the next head */
    __u32 length = 0;
    __u32 other;
    __u8 head[HTTP2_HEAD_BYTES];
    int passed;

    if (side->trial || (begins ? !may_begin : !http2_is_passing(side) || side->type != HTTP2_DATA || side->flags || !at))
        return 0;
    HTTP2_UNROLLED
    for (passed = 0; passed < HTTP2_PASSED; passed++) {
        if (at >= there || there - at <= HTTP2_HEAD_BYTES || parse_load(look->source, offset + at, head, sizeof(head)))
            break;
        other = (__u32)head[5] << 24 | (__u32)head[6] << 16 | (__u32)head[7] << 8 | head[8];
        stream = stream ? stream : other;
        if (head[3] | head[4] | (other ^ stream) | other >> 31 | !other)
            break;
        length = (__u32)head[0] << 16 | (__u32)head[1] << 8 | head[2];
        at += HTTP2_HEAD_BYTES + length;
    }
    if (!length || (may_begin && at <= there && passed < HTTP2_FEW))
        return 0;
    if (at <= there) {
        there = at - length;
        side->left = length;
    } else {
        side->left = at - there;
    }
    side->stream = stream;
    side->type = HTTP2_DATA;
    side->flags = 0;
    side->have = HTTP2_HEAD_BYTES;
    if (begins)
        side->untold = 0;
    if (!side->untold)
        side->begun_ns = look->packet->time_ns;
    side->next += there;
    side->untold += there;
    if (side->untold > HTTP2_UNTOLD_BYTES || look->packet->time_ns - side->begun_ns > HTTP2_UNTOLD_NS)
        http2_tell_frame(look, side, 0, 0, 0);
    return there;
}

/* Go to where a direction goes on in a segment: what is between was not captured, or came before. Returns 0 or HTTP2_JUMPS. */
FLOW_INLINE int http2_skip(const struct http2_look *look, struct http2_side *side)
{
    __u32 missing = look->packet->sequence - side->next;

    if (!(side->state & HTTP2_IS_PLACED)) {
        side->next = look->packet->sequence;
        side->state |= HTTP2_IS_PLACED;
        return 0;
    }
    if (!sequence_after(look->packet->sequence, side->next))
        return 0;
    if (!http2_is_passing(side) || missing > side->left) {
        if (!side->trial)
            return HTTP2_JUMPS;
        http2_lose_place(side);
        side->next = look->packet->sequence;
        side->state |= HTTP2_IS_PLACED;
        return 0;
    }
    side->left -= missing;
    side->untold += missing;
    side->next += missing;
    if (side->left)
        return 0;
    if (!side->trial && http2_is_told(side))
        http2_tell_frame(look, side, HTTP2_ENDS, 0, 0);
    http2_frame_ends(side);
    return 0;
}

/* A packet that says that nothing more comes, or none of this direction: what exchange_closes notes. */
FLOW_INLINE void http2_close(const struct http2_look *look, const struct exchange_moment *before)
{
    const struct flow *flow = look->flow;
    struct http2_told told = {
            .flow_id = flow->id,
            .time_ns = look->packet->time_ns,
            .what = HTTP2_CLOSES,
            .from = (__u8)look->from,
    };

    if (flow->outcome >= FLOW_OUTCOME_REFUSED)
        told.parts = HTTP2_IS_CLOSED;
    if (flow->outcome == FLOW_OUTCOME_RESET && before->outcome < FLOW_OUTCOME_REFUSED)
        told.parts |= HTTP2_RESETS;
    if (told.parts || !flow_from_client(flow, look->from))
        http2_tell(look->host, look->source, &told, 0);
}

/*
 * A packet's frames could not be taken further, as `how` says. A trial begins anew with the next segment, and so does one where frames
 * are missing; else they are followed no more. Returns whether they are.
 */
FLOW_INLINE int http2_stumble(const struct http2_look *look, struct http2_connection *connection, struct flow *flow, int how)
{
    struct http2_side *side = &connection->sides[look->from & 1];
    const struct http2_side *other = &connection->sides[(look->from & 1) ^ 1];
    int on_trial = side->trial;
    struct http2_told told = {.flow_id = flow->id, .time_ns = flow->last_ns, .what = HTTP2_MISSES, .from = (__u8)look->from};

    http2_lose_place(side);
    if (on_trial && ((other->want && !other->trial) || ++connection->trials < HTTP2_MOST_TRIALS))
        return 1;
    if (on_trial || how == HTTP2_IS_NONE)
        told.what = HTTP2_OVER;
    told.number = side->number++;
    http2_tell(look->host, look->source, &told, 0);
    if (told.what == HTTP2_MISSES)
        return 1;
    exchange_give_up(look->host, flow, CONNECTION_HTTP2);
    return 0;
}

#endif
