/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * Payload that comes before its socket does: with the ACK that completes the handshake, where the client sent no bare one or that was
 * lost or overtaken, and whatever a listener waits for before it accepts (TCP_DEFER_ACCEPT). The kernel shows it as the listener's, whose
 * storage is no connection's. So the flow is left for the programs that are called with the packet, which run on the same CPU, and before
 * another is received there.
 */
#ifndef WIRESPAN_ACCEPTED_H
#define WIRESPAN_ACCEPTED_H

#include "flows/slots.h"
#include "socket.h"

BPF_TABLE("percpu_array", u32, slot_reference, flow_of_listener, 1);

/* A listener and an unconnected socket have no remote port. */
FLOW_INLINE int is_connected(const struct bpf_sock *sk)
{
    return sk->dst_port != 0;
}

/*
 * Whether a packet of no connected socket, which is in its flow by now, brings a listener payload of a connection whose SYN was seen.
 * The listener has sent a SYN-ACK and no more, so it acknowledges just that; whoever did not get one, since the address is not
 * theirs, does not know what to acknowledge. Without a SYN-ACK to compare it is taken for it. A raw socket is shown a connection's packets
 * before their own is, and all of them.
 */
FLOW_INLINE int is_unaccepted(const struct bpf_sock *sk, const struct flow *flow, const struct packet *packet, int from)
{
    const struct flow_side *own = &flow->sides[FLOW_TX];

    return sk && from == FLOW_RX && packet->transport == TRANSPORT_TCP && packet->payload_bytes &&
           !(packet->tcp_flags & TCP_SYN) && flow->sides[FLOW_RX].known & FLOW_KNOWN_ISN &&
           (sk->state != TCP_STATE_LISTEN || !(own->known & FLOW_KNOWN_ISN) ||
                   packet->acknowledgment == own->initial_sequence + 1);
}

FLOW_INLINE void leave_flow(slot_reference reference)
{
    __u32 zero = 0;
    slot_reference *left = flow_of_listener.lookup(&zero);

    if (left)
        *left = reference;
}

/* The slot of the flow that a called program's packet is of, and the reference to it; NULL: it is gone. */
FLOW_INLINE struct slot *slot_of_call(struct bpf_sock *sk, int from, slot_reference *reference)
{
    __u32 zero = 0;
    slot_reference *stored;

    if (from == FLOW_TX || is_connected(sk))
        stored = slot_of_socket.sk_storage_get(sk, 0, 0);
    else
        stored = flow_of_listener.lookup(&zero);
    if (!stored)
        return NULL;
    *reference = *stored;
    return slot_at(*reference);
}

#endif
