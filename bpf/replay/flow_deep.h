/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * What a host knows that has a precise time for every packet, and memory for more than a slot: round trips, windows that are
 * full, transfer times, and whether late payload was overtaken or sent again. For replay; the socket tap has the kernel's own
 * round-trip time, and a precise time costs it as much as all the rest.
 *
 * flow_deepen runs before the packet is added to its flow, and writes the members marked "deep".
 */
#ifndef WIRESPAN_FLOW_DEEP_H
#define WIRESPAN_FLOW_DEEP_H

#include "host.h"

#include "../engine/update.h"

/* Wireshark's tcp.analysis: a fast retransmission follows the last duplicate ACK this closely. */
#define DEEP_FAST_RETRANSMIT_NS 20000000u

#define DEEP_GAPS 4

/* Bytes that were sent, since later ones were seen, and have not been seen themselves. */
struct trace_gap {
    __u32 begin;
    __u32 end; /* the same: there is none */
};

/* One direction, between packets. */
struct trace_side {
    struct trace_gap gaps[DEEP_GAPS];
    __u64 highest_ns;      /* when next_sequence last grew */
    __u64 acknowledged_ns; /* this side's last ACK */
    __u64 sample_ns;       /* when the segment was sent whose round trip is being timed; 0: none is */
    __u32 sample_end;
    __u32 window_bytes;
    __u8 window_scale; /* plus 1; 0: the SYN had none */
    __u8 syn_seen;
    __u8 window_known;
    __u8 next_gap; /* which of the gaps makes room for another */
    __u32 point;   /* this and what follows are of copies.h */
    __u16 id;
    __u8 copied;
    __u8 id_known;
    __u8 id_constant;
    __u8 pad[7];
};

/* What a flow's deep measures need and no record holds; zeroed with the slot. */
struct flow_trace {
    struct trace_side sides[2];
    __u64 syn_ns; /* the last SYN: an earlier one that was lost says nothing of the path */
    __u64 request_begin_ns;
    __u64 response_begin_ns; /* 0: no response is under way */
    __u64 response_last_ns;
};

FLOW_INLINE __u64 deep_elapsed(__u64 since, __u64 until)
{
    return until > since ? until - since : 0;
}

FLOW_INLINE __u32 deep_narrow(__u64 value)
{
    return value > 0xffffffffu ? 0xffffffffu : (__u32)value;
}

/* Of more than a few gaps the oldest is forgotten: what fills it then counts as seen before. */
FLOW_INLINE void deep_gap(struct trace_side *own, __u32 begin, __u32 end)
{
    own->gaps[own->next_gap] = (struct trace_gap){begin, end};
    own->next_gap = (own->next_gap + 1) % DEEP_GAPS;
}

/* How many of these bytes fill gaps, which they do no more. */
FLOW_INLINE __u32 deep_fill(struct trace_side *own, __u32 begin, __u32 end)
{
    __u32 filled = 0;
    unsigned int index;

    for (index = 0; index < DEEP_GAPS; index++) {
        struct trace_gap *gap = &own->gaps[index];
        struct trace_gap rest = {sequence_after(end, gap->begin) ? end : gap->begin, gap->end};
        __u32 first = sequence_after(begin, gap->begin) ? begin : gap->begin;
        __u32 last = sequence_after(gap->end, end) ? end : gap->end;

        if (!sequence_after(last, first))
            continue;
        filled += last - first;
        gap->end = first;
        if (first == gap->begin)
            *gap = rest;
        else if (rest.begin != rest.end && sequence_after(rest.end, rest.begin))
            deep_gap(own, rest.begin, rest.end);
    }
    return filled;
}

/* The first round trip: the last SYN to the ACK that completes the handshake. */
FLOW_INLINE __u64 deep_first_rtt(const struct flow *flow, const struct flow_trace *trace)
{
    if (!trace->syn_ns || !flow->handshake_ack_ns)
        return FLOW_REORDERING_NS;
    return deep_elapsed(trace->syn_ns, flow->handshake_ack_ns);
}

/*
 * Late payload, by Wireshark's rules: what was acknowledged, or two duplicate ACKs have just asked for, was sent again; what comes within a round trip
 * behind the highest byte, and is not the last thing sent, was overtaken; the rest was sent again.
 */
FLOW_INLINE __u8 deep_late(const struct flow *flow, const struct flow_trace *trace, const struct packet *packet, int from)
{
    const struct flow_side *own = &flow->sides[from & 1];
    const struct flow_side *peer = &flow->sides[!from];
    __u32 end = packet->sequence + packet->payload_bytes + !!(packet->tcp_flags & TCP_FIN);

    if (own->known & FLOW_KNOWN_ACKNOWLEDGED && !sequence_after(packet->sequence + packet->payload_bytes, own->acknowledged))
        return LATE_REPEATED;
    if (peer->duplicate_run >= 2 && own->acknowledged == packet->sequence &&
            deep_elapsed(trace->sides[!from].acknowledged_ns, packet->time_ns) < DEEP_FAST_RETRANSMIT_NS)
        return LATE_REPEATED;
    if (deep_elapsed(trace->sides[from & 1].highest_ns, packet->time_ns) < deep_first_rtt(flow, trace) &&
            end != own->next_sequence)
        return LATE_REORDERED;
    return LATE_REPEATED;
}

/* One segment is timed at a time (RFC 6298 3), and none once anything was sent again (Karn's algorithm). */
FLOW_INLINE void deep_acknowledged(struct flow_side_rare *peer, struct trace_side *timed, const struct packet *packet)
{
    __u64 rtt_ns;
    __u32 rtt;

    if (!timed->sample_ns || sequence_after(timed->sample_end, packet->acknowledgment))
        return;
    if (packet->time_ns >= timed->sample_ns) {
        rtt_ns = packet->time_ns - timed->sample_ns;
        rtt = deep_narrow(rtt_ns);
        peer->rtt_sum_ns += rtt_ns;
        if (!peer->rtt_samples || rtt < peer->rtt_min_ns)
            peer->rtt_min_ns = rtt;
        if (rtt > peer->rtt_max_ns)
            peer->rtt_max_ns = rtt;
        peer->rtt_samples += 1;
    }
    timed->sample_ns = 0;
}

/* The window in bytes. Scaling is on where both SYNs offer it, and never in a SYN (RFC 7323 2.2). */
FLOW_INLINE void deep_window(struct flow_trace *trace, const struct packet *packet, int from)
{
    struct trace_side *own = &trace->sides[from & 1];
    const struct trace_side *peer = &trace->sides[!from];
    int syn = packet->tcp_flags & TCP_SYN;

    if (syn) {
        own->syn_seen = 1;
        own->window_scale = packet->window_scale;
    }
    own->window_known = own->syn_seen && peer->syn_seen;
    own->window_bytes = packet->window;
    if (!syn && own->window_scale && peer->window_scale)
        own->window_bytes <<= own->window_scale - 1;
}

FLOW_INLINE void deep_payload(struct flow *flow, struct flow_trace *trace, struct packet *packet, int from)
{
    struct flow_side *own = &flow->sides[from & 1];
    struct trace_side *traced = &trace->sides[from & 1];
    const struct trace_side *peer = &trace->sides[!from];
    __u32 end = packet->sequence + packet->payload_bytes;

    if (peer->window_known && own->known & FLOW_KNOWN_ACKNOWLEDGED && end == own->acknowledged + peer->window_bytes)
        flow->rare[from & 1].window_full += 1;
    if (own->known & FLOW_KNOWN_NEXT && sequence_after(own->next_sequence, packet->sequence)) {
        if (!tcp_is_probe(own, packet)) {
            packet->late = deep_late(flow, trace, packet, from);
            packet->unseen = deep_fill(traced, packet->sequence, end);
            traced->sample_ns = 0;
        }
    } else if (!traced->sample_ns) {
        traced->sample_ns = packet->time_ns;
        traced->sample_end = end;
    }
}

FLOW_INLINE void deep_tcp(struct flow *flow, struct flow_trace *trace, struct packet *packet, int from)
{
    struct flow_side *own = &flow->sides[from & 1];
    struct trace_side *traced = &trace->sides[from & 1];
    __u32 next = packet->sequence + packet->payload_bytes + !!(packet->tcp_flags & TCP_FIN) + !!(packet->tcp_flags & TCP_SYN);

    if (packet->tcp_flags & TCP_RST)
        return;
    if (packet->tcp_flags & TCP_ACK) {
        deep_acknowledged(&flow->rare[!from], &trace->sides[!from], packet);
        traced->acknowledged_ns = packet->time_ns;
    }
    if ((packet->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN)
        trace->syn_ns = packet->time_ns;
    deep_window(trace, packet, from);
    if (packet->payload_bytes && !(packet->tcp_flags & TCP_SYN))
        deep_payload(flow, trace, packet, from);
    if (own->known & FLOW_KNOWN_NEXT && sequence_after(packet->sequence, own->next_sequence))
        deep_gap(traced, own->next_sequence, packet->sequence);
    if (!(own->known & FLOW_KNOWN_NEXT) || sequence_after(next, own->next_sequence))
        traced->highest_ns = packet->time_ns;
}

/*
 * Transfer times: a request's from its first byte to its last, a response's likewise. Both grow with every segment, so that a
 * record that is made in the middle holds what there was. What only fills a gap belongs to what is under way.
 */
FLOW_INLINE void deep_exchange(struct flow *flow, struct flow_trace *trace, const struct packet *packet, int from, int fills)
{
    __u64 now = packet->time_ns;
    __u32 taken_us;

    if (flow->role == FLOW_ROLE_UNKNOWN)
        return;
    if (fills && flow_from_client(flow, from) != (flow->request_ns != 0))
        return;
    if (flow_from_client(flow, from)) {
        trace->response_begin_ns = 0;
        if (!flow->request_ns) {
            trace->request_begin_ns = now;
            return;
        }
        flow->request_transfer_sum_ns += deep_elapsed(flow->request_ns, now);
        taken_us = deep_narrow(deep_elapsed(trace->request_begin_ns, now) / 1000);
        if (taken_us > flow->request_transfer_max_us)
            flow->request_transfer_max_us = taken_us;
    } else if (flow->request_ns) {
        trace->response_begin_ns = now;
        trace->response_last_ns = now;
    } else if (trace->response_begin_ns) {
        flow->response_transfer_sum_ns += deep_elapsed(trace->response_last_ns, now);
        taken_us = deep_narrow(deep_elapsed(trace->response_begin_ns, now) / 1000);
        if (taken_us > flow->response_transfer_max_us)
            flow->response_transfer_max_us = taken_us;
        trace->response_last_ns = now;
    }
}

/* Measure a packet that is about to be added to its flow; says in packet->late and packet->unseen what late payload is. */
FLOW_INLINE void flow_deepen(struct flow *flow, struct flow_trace *trace, struct packet *packet, int from)
{
    const struct flow_side *own = &flow->sides[from & 1];
    __u32 end = packet->sequence + packet->payload_bytes;
    int late;

    if (flow->transport == TRANSPORT_TCP) {
        deep_tcp(flow, trace, packet, from);
        if (!packet->payload_bytes || packet->tcp_flags & (TCP_RST | TCP_SYN))
            return;
        late = own->known & FLOW_KNOWN_NEXT && !sequence_after(end, own->next_sequence);
        if (!late || packet->unseen)
            deep_exchange(flow, trace, packet, from, late);
    }
}

#endif
