/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* The slots, which the reader maps, and references to them. */
#ifndef WIRESPAN_SLOTS_H
#define WIRESPAN_SLOTS_H

#include "../host.h"

#include "../../engine/flow.h"

#ifndef SLOTS
#define SLOTS 131072
#endif

/* What the kernel knows of a TCP socket (include/uapi/linux/bpf.h, struct bpf_tcp_sock) and whose it is. */
struct socket_facts {
    __u64 cgroup_id;
    __u32 srtt_us; /* smoothed round-trip time, not shifted */
    __u32 min_rtt_us;
    __u32 retransmits; /* segments, over the socket's life */
    __u32 lost;        /* segments the kernel holds for lost now */
    __u32 congestion_window;
    __u32 answers;
    __u16 pushes;       /* of the client since the server's `answers`-th response, as they were received */
    __u16 backend_port; /* where packets went that the socket sent elsewhere: translation.h; 0: there */
    __u8 read;          /* what the kernel knows was read; 0: never, or no TCP */
    __u8 pad[3];
    __u8 backend_address[16];
};

struct slot {
    struct flow flow;
    struct socket_facts socket;
};

_Static_assert(sizeof(struct slot) == 512, "whole cache lines; services/capture/live/tap/slot_layout.py mirrors it");

/* A slot as it was when the reference was taken: slot number below, generation above, together the id of the flow. */
typedef __u64 slot_reference;

/* How the reader knows how far slots were used: `asked` is counted before a slot is taken. */
struct tap_slots {
    __u64 asked;
    __u64 refused;
    __u64 returned;
};

BPF_F_TABLE("array", u32, struct slot, slots, SLOTS, BPF_F_MMAPABLE);
BPF_F_TABLE("array", u32, struct tap_slots, slot_counts, 1, BPF_F_MMAPABLE);
BPF_STACK(free_slots, slot_reference, SLOTS);

/* The slot a reference points at, or nothing if it is another flow's or nobody's by now. */
FLOW_INLINE struct slot *slot_at(slot_reference reference)
{
    __u32 number = (__u32)reference;
    struct slot *slot = slots.lookup(&number);

    if (slot && slot->flow.id == reference && slot->flow.state != FLOW_RETIRED)
        return slot;
    return NULL;
}

#endif
