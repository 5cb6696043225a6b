/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* TCP's sequence and acknowledgment numbers: what is new, sent again, overtaken, a probe; and what the receiver says to it. */
#ifndef WIRESPAN_TCP_SEQUENCE_H
#define WIRESPAN_TCP_SEQUENCE_H

#include "flow.h"

/* Wireshark's tcp.analysis: how far behind the highest byte an overtaken segment may be where no round trip is known. */
#define FLOW_REORDERING_NS 3000000u
/* The unit of gap_at: 2^10 ns. */
#define FLOW_GAP_BITS 10

/*
 * A probe that carries nothing new: a segment of at most one byte just below the highest byte sent, where all of that was
 * acknowledged (RFC 9293 3.8.4). Into a closed window it asks for room (Linux), else whether anybody is there.
 */
FLOW_INLINE int tcp_is_probe(const struct flow_side *own, const struct packet *packet)
{
    return packet->payload_bytes <= 1 && own->known & FLOW_KNOWN_NEXT && packet->sequence + 1 == own->next_sequence &&
           own->known & FLOW_KNOWN_ACKNOWLEDGED && own->acknowledged == own->next_sequence &&
           !(packet->tcp_flags & (TCP_SYN | TCP_FIN));
}

/*
 * Whether late payload that was received into a gap was overtaken on its way: nothing that was lost can have been sent again
 * within a round trip of the gap that it left, and nothing is held up for long. Where the round trip is not known, what two
 * duplicate ACKs asked for was sent again (RFC 5681 3.2).
 */
FLOW_INLINE int tcp_was_overtaken(const struct flow *flow, const struct packet *packet, __u32 begin)
{
    const struct flow_side *own = &flow->sides[FLOW_RX];
    __u32 elapsed = (__u32)(packet->time_ns >> FLOW_GAP_BITS) - flow->gap_at;

    if (flow->syn_ns && flow->handshake_ack_ns > flow->syn_ns && !flow->syn_repeats && !flow->syn_ack_repeats)
        return elapsed <= (__u32)((flow->handshake_ack_ns - flow->syn_ns) >> (FLOW_GAP_BITS + 1));
    if (flow->sides[FLOW_TX].duplicate_run >= 2 && own->acknowledged == begin)
        return 0;
    return elapsed <= FLOW_REORDERING_NS >> FLOW_GAP_BITS;
}

/* Whether a segment received is not the next one: its time tells reordering from repetition. */
FLOW_INLINE int tcp_is_out_of_place(const struct flow *flow, const struct packet *packet, int from)
{
    return from == FLOW_RX && packet->payload_bytes && packet->sequence != flow->sides[FLOW_RX].next_sequence;
}

/*
 * Payload that begins below the highest byte sent was sent before, or was overtaken. A sender's own socket overtakes nothing. At
 * the receiver's, what is acknowledged was there before, and time tells the rest. A host with precise times has judged by those.
 *
 * Sent again is not seen again: what was lost before it came here fills a gap, and moves the end of its request. While a receiver
 * has a gap it acknowledges all up to it, at once (RFC 5681 4.2); what is not acknowledged then is new.
 */
FLOW_INLINE void tcp_late(struct flow *flow, const struct packet *packet, int from, __u32 begin, __u32 end)
{
    struct flow_side *own = &flow->sides[from & 1];
    __u32 behind = own->next_sequence - begin;
    __u32 overlap = behind < packet->payload_bytes ? behind : packet->payload_bytes;
    __u32 unseen = packet->unseen;
    int acknowledged = own->known & FLOW_KNOWN_ACKNOWLEDGED && !sequence_after(end, own->acknowledged);
    int reordered = packet->late == LATE_REORDERED;

    if (packet->late == LATE_UNJUDGED) {
        unseen = from == FLOW_RX && !acknowledged && flow->gap_at ? overlap : 0;
        reordered = unseen && tcp_was_overtaken(flow, packet, begin);
    } else if (unseen > overlap) {
        unseen = overlap;
    }
    if (unseen && flow->request_ns && flow_from_client(flow, from))
        flow->request_ns = packet->time_ns;
    if (reordered) {
        FLOW_ADD(own->out_of_order, packet->segments);
        return;
    }
    FLOW_ADD(own->retransmits, packet->segments);
    FLOW_ADD(own->retransmit_bytes, overlap - unseen);
    if (acknowledged)
        FLOW_ADD(flow->rare[from & 1].spurious_retransmits, packet->segments);
}

/*
 * Follow the sender's sequence numbers. Returns whether the segment carries payload beyond the highest byte sent. A byte sent into
 * a closed window is a probe, and as good as not sent (RFC 9293 3.8.6.1).
 */
FLOW_INLINE int tcp_sequence(struct flow *flow, const struct packet *packet, int from)
{
    struct flow_side *own = &flow->sides[from & 1];
    const struct flow_side *peer = &flow->sides[!from];
    __u32 begin = packet->sequence + !!(packet->tcp_flags & TCP_SYN);
    __u32 end = begin + packet->payload_bytes;
    __u32 next = end + !!(packet->tcp_flags & TCP_FIN);
    int fresh = packet->payload_bytes != 0;

    if (own->known & FLOW_KNOWN_NEXT) {
        if (sequence_after(own->next_sequence, begin)) {
            fresh = fresh && sequence_after(end, own->next_sequence);
            if (tcp_is_probe(own, packet) && !peer->window)
                count_few(&flow->rare[from & 1].zero_window_probes);
            else if (tcp_is_probe(own, packet))
                flow->rare[from & 1].keep_alives += 1;
            else if (packet->payload_bytes)
                tcp_late(flow, packet, from, begin, end);
        } else if (packet->payload_bytes == 1 && begin == own->next_sequence && !peer->window &&
                   own->known & FLOW_KNOWN_ACKNOWLEDGED) {
            count_few(&flow->rare[from & 1].zero_window_probes);
            return 0;
        }
    }
    if (!(own->known & FLOW_KNOWN_NEXT) || sequence_after(next, own->next_sequence)) {
        if (from == FLOW_RX && own->known & FLOW_KNOWN_NEXT && sequence_after(begin, own->next_sequence) && !flow->gap_at)
            flow->gap_at = (__u32)(packet->time_ns >> FLOW_GAP_BITS) | 1;
        own->next_sequence = next;
        own->known |= FLOW_KNOWN_NEXT;
    }
    return fresh;
}

/*
 * Follow the receiver's acknowledgments and window. A duplicate ACK is RFC 5681's: it repeats the highest acknowledgment and the
 * window, carries nothing, and more than it acknowledges was sent.
 */
FLOW_INLINE void tcp_acknowledge(struct flow *flow, const struct packet *packet, int from)
{
    struct flow_side *own = &flow->sides[from & 1];
    struct flow_side *peer = &flow->sides[!from];

    if (!(peer->known & FLOW_KNOWN_ACKNOWLEDGED) || sequence_after(packet->acknowledgment, peer->acknowledged)) {
        /* The challenge of an end that still holds an older connection (RFC 5961 4.2) acknowledges nothing of this one. */
        if (flow->outcome == FLOW_OUTCOME_HALF_OPEN && peer->known & FLOW_KNOWN_ISN &&
                (sequence_after(packet->acknowledgment, peer->next_sequence) ||
                        !sequence_after(packet->acknowledgment, peer->initial_sequence)))
            return;
        peer->acknowledged = packet->acknowledgment;
        peer->known |= FLOW_KNOWN_ACKNOWLEDGED;
        own->duplicate_run = 0;
    } else if (!packet->payload_bytes && packet->acknowledgment == peer->acknowledged && packet->window == own->window &&
               packet->window && packet->sequence == own->next_sequence && peer->next_sequence != peer->acknowledged &&
               !(packet->tcp_flags & (TCP_SYN | TCP_FIN))) {
        FLOW_ADD(own->duplicate_acks, 1);
        count_few(&own->duplicate_run);
    }
    if (from == FLOW_TX && flow->gap_at && packet->acknowledgment == peer->next_sequence)
        flow->gap_at = 0;
    if (!packet->window && !(packet->tcp_flags & (TCP_SYN | TCP_FIN)))
        flow->rare[from & 1].zero_windows += 1;
    own->window = packet->window;
}

#endif
