/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* A TCP connection's life: handshake, close, refusal, reset, and the next one on the same ports. */
#ifndef WIRESPAN_TCP_CONNECTION_H
#define WIRESPAN_TCP_CONNECTION_H

#include "flow.h"

/*
 * Whether a packet opens another connection on the flow's addresses and ports. An end's initial sequence number is what tells
 * connections apart: a SYN with another one is another connection, whatever state the old one is in (RFC 9293 3.10.7.4 has a
 * live peer answer it by a challenge; then the first SYN and all that follows make the new flow).
 */
FLOW_INLINE int tcp_renews(const struct flow *flow, const struct packet *packet, int from)
{
    const struct flow_side *own = &flow->sides[from & 1];
    const struct flow_side *peer = &flow->sides[!from];

    if (!(packet->tcp_flags & TCP_SYN) || packet->tcp_flags & TCP_RST)
        return 0;
    if (own->known & FLOW_KNOWN_ISN) {
        if (packet->sequence == own->initial_sequence)
            return 0;
        return !(packet->tcp_flags & TCP_ACK) || flow_ended(flow);
    }
    if (packet->tcp_flags & TCP_ACK) {
        if (!(peer->known & FLOW_KNOWN_ISN))
            return flow_ended(flow);
        return !sequence_after(packet->acknowledgment, peer->initial_sequence) ||
               sequence_after(packet->acknowledgment, peer->next_sequence);
    }
    /* Simultaneous open, or a SYN that was overtaken by its SYN-ACK. */
    return !(flow->outcome == FLOW_OUTCOME_HALF_OPEN && !flow->closed_by);
}

FLOW_INLINE void tcp_syn(struct flow *flow, const struct packet *packet, int from)
{
    struct flow_side *own = &flow->sides[from & 1];
    int first = !(own->known & FLOW_KNOWN_ISN);

    if (first) {
        own->initial_sequence = packet->sequence;
        own->known |= FLOW_KNOWN_ISN;
    }
    if (flow_role_source(flow) == FLOW_ROLE_OF_PORTS)
        flow_tell_client(flow, packet->tcp_flags & TCP_ACK ? !from : from, 0);
    if (packet->tcp_flags & TCP_ACK) {
        flow_set_client(flow, !from);
        if (!flow_from_client(flow, from)) {
            if (flow->syn_ack_ns)
                count_saturating(&flow->syn_ack_repeats);
            else
                flow->syn_ack_ns = packet->time_ns;
        }
    } else {
        flow_set_client(flow, from);
        if (!flow->syn_ns)
            flow->syn_ns = packet->time_ns;
        else if (!first)
            count_saturating(&flow->syn_repeats);
    }
    /* Some stacks ask again after a refusal, and may be let in. */
    if (flow->outcome == FLOW_OUTCOME_UNKNOWN || flow->outcome == FLOW_OUTCOME_REFUSED ||
            flow->outcome == FLOW_OUTCOME_HALF_OPEN) {
        flow->outcome = FLOW_OUTCOME_HALF_OPEN;
        flow->closed_by = FLOW_END_NONE;
    }
}

/*
 * A segment without SYN and RST on a half-open connection: whoever sends one that continues this handshake holds the connection
 * for established. Only the client's ACK to a SYN-ACK dates it: to one that was seen, or that the server's own socket must have
 * sent (kernels before 6.6 show no program the SYN-ACKs over IPv6, and none does those that are SYN cookies): until that ACK a
 * server sends nothing else, so the ACK has the SYN-ACK's number. A challenge ACK continues nothing.
 */
FLOW_INLINE void tcp_completes(struct flow *flow, const struct packet *packet, int from)
{
    const struct flow_side *own = &flow->sides[from & 1];
    struct flow_side *peer = &flow->sides[!from];
    int unseen = from == FLOW_RX && flow_from_client(flow, from) && !(peer->known & FLOW_KNOWN_ISN);

    if (!(packet->tcp_flags & TCP_ACK) || flow->closed_by)
        return;
    if (peer->known & FLOW_KNOWN_ISN && !sequence_after(packet->acknowledgment, peer->initial_sequence))
        return;
    if (own->known & FLOW_KNOWN_ISN && !sequence_after(packet->sequence, own->initial_sequence))
        return;
    if (unseen) {
        peer->initial_sequence = packet->acknowledgment - 1;
        peer->next_sequence = packet->acknowledgment;
        peer->known |= FLOW_KNOWN_ISN | FLOW_KNOWN_NEXT;
    }
    if (unseen || (flow_from_client(flow, from) && flow->syn_ack_ns))
        flow->handshake_ack_ns = packet->time_ns;
    flow->outcome = FLOW_OUTCOME_ESTABLISHED;
}

FLOW_INLINE void tcp_fin(struct flow *flow, int from)
{
    if (!flow->closed_by)
        flow->closed_by = (__u8)flow_end_of(from);
    if (flow->sides[!from].tcp_flags & TCP_FIN && flow->outcome < FLOW_OUTCOME_REFUSED)
        flow->outcome = FLOW_OUTCOME_CLOSED;
}

/*
 * Whether the other end believes a RST (RFC 9293 3.10.7.4, RFC 5961 3): it is at what that end expects next or in its window. Where
 * the expected one lies is known from its ACKs and from what was sent, and the window at least as it stands in the header. An
 * answer to a SYN has no number of its own yet and acknowledges the SYN (3.10.7.3).
 */
FLOW_INLINE int tcp_rst_believed(const struct flow *flow, const struct packet *packet, int from)
{
    const struct flow_side *own = &flow->sides[from & 1];
    const struct flow_side *peer = &flow->sides[!from];
    int acknowledged = own->known & FLOW_KNOWN_ACKNOWLEDGED;
    __u32 highest = acknowledged ? own->acknowledged : own->next_sequence;

    if (flow->outcome == FLOW_OUTCOME_HALF_OPEN && !(own->known & FLOW_KNOWN_ISN))
        return !(peer->known & FLOW_KNOWN_ISN) ||
               (packet->tcp_flags & TCP_ACK && sequence_after(packet->acknowledgment, peer->initial_sequence) &&
                       !sequence_after(packet->acknowledgment, peer->next_sequence));
    if (acknowledged && sequence_after(own->acknowledged, packet->sequence + 1))
        return 0;
    if (!acknowledged && !(own->known & FLOW_KNOWN_NEXT))
        return 1;
    highest += acknowledged ? peer->window : 0xffff;
    if (own->known & FLOW_KNOWN_NEXT && sequence_after(own->next_sequence, highest))
        highest = own->next_sequence;
    return !sequence_after(packet->sequence, highest);
}

/* Whether a server has said nothing but its SYN-ACK, again and again: it never left SYN-RECEIVED, whatever the client holds. */
FLOW_INLINE int tcp_never_accepted(const struct flow *flow, int from)
{
    const struct flow_side *own = &flow->sides[from & 1];
    const struct flow_side *peer = &flow->sides[!from];

    return flow->syn_ack_repeats > 1 && !flow_from_client(flow, from) && own->next_sequence == own->initial_sequence + 1 &&
           peer->acknowledged == peer->initial_sequence + 1;
}

/*
 * A RST that finds nothing of its connection, not a segment, says who sent it and no more. One that is believed acknowledges like
 * any segment; nothing else in it is part of the stream.
 */
FLOW_INLINE void tcp_rst(struct flow *flow, const struct packet *packet, int from)
{
    struct flow_side *peer = &flow->sides[!from];

    if (flow_ended(flow) || !tcp_rst_believed(flow, packet, from))
        return;
    flow->closed_by = (__u8)flow_end_of(from);
    if (packet->tcp_flags & TCP_ACK && peer->known & FLOW_KNOWN_ACKNOWLEDGED &&
            sequence_after(packet->acknowledgment, peer->acknowledged) &&
            !sequence_after(packet->acknowledgment, peer->next_sequence))
        peer->acknowledged = packet->acknowledgment;
    if (flow->outcome == FLOW_OUTCOME_HALF_OPEN) {
        if (!flow_from_client(flow, from) && !flow->syn_ack_ns)
            flow->outcome = FLOW_OUTCOME_REFUSED;
    } else if (tcp_never_accepted(flow, from)) {
        flow->outcome = FLOW_OUTCOME_HALF_OPEN;
    } else if ((flow->sides[FLOW_TX].known | flow->sides[FLOW_RX].known) & FLOW_KNOWN_NEXT) {
        flow->outcome = FLOW_OUTCOME_RESET;
    }
}

/*
 * A segment behind a RST. Its sender's connection goes on where it sends or acknowledges what is new: then nothing was reset, the
 * RST was not its own, or not believed. What the other end says may have been on its way.
 */
FLOW_INLINE void tcp_goes_on(struct flow *flow, const struct packet *packet, int from)
{
    const struct flow_side *own = &flow->sides[from & 1];
    const struct flow_side *peer = &flow->sides[!from];
    __u32 next = packet->sequence + packet->payload_bytes + !!(packet->tcp_flags & TCP_FIN);

    if (flow->closed_by != flow_end_of(from) || !(own->known & FLOW_KNOWN_NEXT))
        return;
    if (!sequence_after(next, own->next_sequence) &&
            !(peer->known & FLOW_KNOWN_ACKNOWLEDGED && sequence_after(packet->acknowledgment, peer->acknowledged)))
        return;
    flow->outcome = (own->known | peer->known) & FLOW_KNOWN_ISN ? FLOW_OUTCOME_ESTABLISHED : FLOW_OUTCOME_UNKNOWN;
    flow->closed_by = own->tcp_flags & TCP_FIN    ? (__u8)flow_end_of(from)
                      : peer->tcp_flags & TCP_FIN ? (__u8)flow_end_of(!from)
                                                  : FLOW_END_NONE;
}

#endif
