/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* Flows by their addresses and ports. */
#ifndef WIRESPAN_KEYS_H
#define WIRESPAN_KEYS_H

#include "addresses.h"
#include "slots.h"

#include "../../engine/icmp.h"

struct flow_key {
    __u8 local_address[16];
    __u8 remote_address[16];
    __u16 local_port;
    __u16 remote_port;
    __u16 icmp_kind;
    __u8 transport;
    __u8 pad;
};

BPF_TABLE("hash", struct flow_key, slot_reference, flows_by_key, SLOTS + 256);

FLOW_INLINE void flow_key_of(struct flow_key *key, const struct packet *packet, int from)
{
    int tx = from == FLOW_TX;

    __builtin_memcpy(key->local_address, tx ? packet->source_address : packet->destination_address, 16);
    __builtin_memcpy(key->remote_address, tx ? packet->destination_address : packet->source_address, 16);
    key->local_port = tx ? packet->source_port : packet->destination_port;
    key->remote_port = tx ? packet->destination_port : packet->source_port;
    key->transport = packet->transport;
    key->icmp_kind = 0;
    key->pad = 0;
    if (packet->transport == TRANSPORT_ICMP || packet->transport == TRANSPORT_ICMPV6)
        key->icmp_kind = icmp_kind(packet->transport, packet->icmp_type, packet->icmp_code);
}

#endif
