/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* What the kernel knows of a packet's socket. */
#ifndef WIRESPAN_SOCKET_H
#define WIRESPAN_SOCKET_H

#include "flows/addresses.h"
#include "constants.h"
#include "flows/slots.h"

#include "../engine/port_role.h"

#define TCP_STATE_LISTEN 10
#define SOCKET_DATAGRAM  2 /* SOCK_DGRAM */

BPF_SK_STORAGE(slot_of_socket, slot_reference);
/* No slot's reference: the socket is capture's own. */
#define OWN_SOCKET (~0ULL)

/* The task that made a socket. */
struct creator {
    __u64 name[2]; /* of the thread */
    __u32 process;
    __u32 pad;
};

/*
 * Noted where names of programs are asked for, and until capture has found its own process. A socket that was accepted, or is
 * older than capture, has none.
 */
BPF_SK_STORAGE(creator_of_socket, struct creator);
/* Capture's: its number here, where its own namespace has another. 0: not found yet. */
BPF_TABLE("array", u32, u32, own_process, 1);

/* The task that closed a flow's socket, beside the flow's slot. */
struct closer {
    slot_reference flow; /* 0: none yet */
    __u64 closed_ns;
    __u32 process;
    __u32 thread;
    char name[16]; /* of the thread: what it was started as, or calls itself */
};

/* Told where names of programs are asked for: who closes a socket may be gone when its record is made. */
BPF_F_TABLE("array", u32, struct closer, closers, SLOTS, BPF_F_MMAPABLE);

/*
 * Segments that the receiver had before, as it says itself (DSACK, RFC 2883): what they were sent again for was late, not lost. Of
 * a connection that is older than capture some may have been sent again before.
 */
FLOW_INLINE void note_in_vain(struct flow *flow, __u32 received_twice)
{
    const struct flow_side *own = &flow->sides[FLOW_TX];
    struct flow_side_rare *rare = &flow->rare[FLOW_TX];

    if (received_twice > own->retransmits)
        received_twice = own->retransmits;
    if (received_twice > rare->spurious_retransmits && own->known & FLOW_KNOWN_ISN)
        rare->spurious_retransmits = received_twice;
}

FLOW_INLINE void read_socket(struct slot *slot, struct bpf_sock *sk)
{
    struct socket_facts *facts = &slot->socket;
    struct bpf_tcp_sock *tcp = bpf_tcp_sock(sk);

    if (!tcp)
        return;
    facts->read = 1;
    facts->srtt_us = tcp->srtt_us >> 3;
    facts->min_rtt_us = tcp->rtt_min;
    facts->retransmits = tcp->total_retrans;
    facts->lost = tcp->lost_out;
    facts->congestion_window = tcp->snd_cwnd;
    note_in_vain(&slot->flow, tcp->dsack_dups);
}

/*
 * The role of a TCP connection older than capture: whoever listens on the local port accepted it. Where nobody does, it was made
 * from here, or its listener is gone: what the ports say of that is a guess. Asked once a flow. From address and port 0 nobody is
 * connected, so what is found can only listen; for IPv4 that may be an IPv6 socket.
 */
FLOW_INLINE void find_role(struct __sk_buff *skb, struct flow *flow)
{
    struct bpf_sock_tuple tuple = {};
    struct bpf_sock *listener;
    int ipv4 = is_mapped_ipv4(flow->local_address);
    int way;

    if (ipv4) {
        __builtin_memcpy(&tuple.ipv4.daddr, flow->local_address + 12, 4);
        tuple.ipv4.dport = bpf_htons(flow->local_port);
    } else {
        __builtin_memcpy(tuple.ipv6.daddr, flow->local_address, 16);
        tuple.ipv6.dport = bpf_htons(flow->local_port);
    }
    listener = bpf_sk_lookup_tcp(skb, &tuple, ipv4 ? sizeof(tuple.ipv4) : sizeof(tuple.ipv6), BPF_F_CURRENT_NETNS, 0);
    if (!listener) {
        way = direction_by_ports(flow->local_port, flow->remote_port);
        if (way >= 0)
            flow_tell_client(flow, way, FLOW_ROLE_OF_PORTS);
        return;
    }
    if (listener->state == TCP_STATE_LISTEN)
        flow->role = FLOW_ROLE_SERVER;
    bpf_sk_release(listener);
}

FLOW_INLINE void remember_slot(struct bpf_sock *sk, slot_reference reference)
{
    slot_reference *stored = slot_of_socket.sk_storage_get(sk, &reference, BPF_SK_STORAGE_GET_F_CREATE);

    if (stored && *stored != reference)
        *stored = reference;
}

FLOW_INLINE int is_to_be_noted(void)
{
    __u32 zero = 0;
    __u32 *own;

    if (TAP_HAS(TAP_CLOSERS))
        return 1;
    own = own_process.lookup(&zero);
    return own && !*own;
}

FLOW_INLINE void note_creator(struct bpf_sock *sk)
{
    struct creator *creator;

    if (!is_to_be_noted())
        return;
    creator = creator_of_socket.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
    if (!creator)
        return;
    bpf_get_current_comm(creator->name, sizeof(creator->name));
    creator->process = (__u32)(bpf_get_current_pid_tgid() >> 32);
}

/* Called when the socket is made: by the process that is to have it. */
FLOW_INLINE void mark_own(struct bpf_sock *sk)
{
    slot_reference own_socket = OWN_SOCKET;
    __u32 zero = 0;
    __u32 *own = own_process.lookup(&zero);

    if (own && *own == (__u32)(bpf_get_current_pid_tgid() >> 32) && sk->protocol == TRANSPORT_TCP)
        slot_of_socket.sk_storage_get(sk, &own_socket, BPF_SK_STORAGE_GET_F_CREATE);
}

/*
 * Whoever closes a socket is told only if it is who made it, under the same name: what execve closes is closed by the program that
 * the process has become, and what was handed on by another's. A task that has renamed itself meanwhile is let go.
 */
FLOW_INLINE void note_closer(struct bpf_sock *sk, slot_reference reference)
{
    __u32 number = (__u32)reference;
    struct closer *closer = closers.lookup(&number);
    struct creator *creator = creator_of_socket.sk_storage_get(sk, 0, 0);
    __u64 task = bpf_get_current_pid_tgid();
    __u64 name[2] = {};

    if (!closer || !creator)
        return;
    bpf_get_current_comm(name, sizeof(name));
    if (creator->process != (__u32)(task >> 32) || creator->name[0] != name[0] || creator->name[1] != name[1])
        return;
    /* Whoever reads meanwhile finds that it is no flow's. */
    closer->flow = 0;
    closer->closed_ns = bpf_ktime_get_ns();
    closer->process = (__u32)(task >> 32);
    closer->thread = (__u32)task;
    bpf_get_current_comm(closer->name, sizeof(closer->name));
    closer->flow = reference;
}

/*
 * A socket that its application has closed is gone once its FIN is acknowledged: the kernel then keeps the connection without a
 * socket (FIN-WAIT-2 and TIME-WAIT), and no program sees the other end's FIN and the ACK to it. For this end it is closed.
 */
FLOW_INLINE void settle_closed(struct flow *flow)
{
    const struct flow_side *own = &flow->sides[FLOW_TX];

    if (own->tcp_flags & TCP_FIN && flow->outcome == FLOW_OUTCOME_ESTABLISHED && own->acknowledged == own->next_sequence)
        flow->outcome = FLOW_OUTCOME_CLOSED;
}

#endif
