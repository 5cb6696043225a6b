/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* A flow's first packet. */
#ifndef WIRESPAN_BEGIN_H
#define WIRESPAN_BEGIN_H

#include "keys.h"
#include "../socket.h"

#include "../../engine/update.h"

/*
 * The slot for a packet whose flow has none, or nothing where the table is full. Two CPUs may do this for one flow at once: the
 * one that publishes first has it, the other gives its slot back and goes on with the first one's. `*reference` is the slot's.
 */
FLOW_INLINE struct slot *begin_flow(
        struct __sk_buff *skb, struct flow_key *key, const struct packet *packet, int from, slot_reference *reference)
{
    struct tap_slots *counts;
    struct slot *other;
    struct slot *slot;
    slot_reference *published;
    slot_reference taken = 0;
    __u32 zero = 0;
    __u32 number;

    counts = slot_counts.lookup(&zero);
    if (!counts)
        return NULL;
    __sync_fetch_and_add(&counts->asked, 1);
    if (free_slots.pop(&taken)) {
        __sync_fetch_and_add(&counts->refused, 1);
        return NULL;
    }
    number = (__u32)taken;
    slot = slots.lookup(&number);
    if (!slot)
        return NULL;
    slot->flow.id = taken;
    slot->flow.role = FLOW_ROLE_UNKNOWN;
    slot->socket.cgroup_id = bpf_skb_cgroup_id(skb);
    flow_open(&slot->flow, packet, from);
    if (packet->transport == TRANSPORT_TCP && !(packet->tcp_flags & TCP_SYN))
        find_role(skb, &slot->flow);
    *reference = taken;
    if (!flows_by_key.insert(key, &taken)) {
        slot->flow.state = FLOW_LIVE;
        return slot;
    }
    published = flows_by_key.lookup(key);
    if (published) {
        *reference = *published;
        other = slot_at(*published);
        if (!other && !flows_by_key.update(key, &taken)) {
            *reference = taken;
            slot->flow.state = FLOW_LIVE;
            return slot;
        }
    } else {
        other = NULL;
    }
    __sync_fetch_and_add(&counts->returned, 1);
    free_slots.push(&taken, 0);
    return other;
}

#endif
