/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* What the operator's rules leave out. */
#ifndef WIRESPAN_RULES_H
#define WIRESPAN_RULES_H

#include "constants.h"
#include "flows/keys.h"

struct network {
    __u32 prefix_bits;
    __u8 address[16];
};

BPF_F_TABLE("lpm_trie", struct network, u8, allowed_networks, 1024, BPF_F_NO_PREALLOC);
BPF_F_TABLE("lpm_trie", struct network, u8, denied_networks, 1024, BPF_F_NO_PREALLOC);
/* Value: bit 0 is allowed, bit 1 is denied. */
BPF_TABLE("array", u32, u8, port_rules, 65536);

/* A bit for each transport that is kept. */
BPF_TABLE("array", u32, u64, kept_transports, 4);

FLOW_INLINE int is_kept_transport(__u8 transport)
{
    __u32 place = transport >> 6;
    __u64 *kept = kept_transports.lookup(&place);

    return kept && *kept >> (transport & 63) & 1;
}

FLOW_INLINE __u8 port_rules_of(const struct flow_key *key)
{
    __u32 local_port = key->local_port;
    __u32 remote_port = key->remote_port;
    __u8 *local = port_rules.lookup(&local_port);
    __u8 *remote = port_rules.lookup(&remote_port);

    return (local ? *local : 0) | (remote ? *remote : 0);
}

/* Whether the operator's rules leave this flow out. */
FLOW_INLINE int is_left_out(const struct flow_key *key)
{
    struct network network;

    if (TAP_HAS(TAP_TRANSPORTS)) {
        if (!is_kept_transport(key->transport))
            return 1;
    }
    if (TAP_HAS(TAP_ALLOW_PORTS)) {
        if (!(port_rules_of(key) & 1))
            return 1;
    }
    if (TAP_HAS(TAP_DENY_PORTS)) {
        if (port_rules_of(key) & 2)
            return 1;
    }
    network.prefix_bits = 128;
    __builtin_memcpy(network.address, key->remote_address, 16);
    if (TAP_HAS(TAP_ALLOW_NETWORKS)) {
        if (!allowed_networks.lookup(&network))
            return 1;
    }
    if (TAP_HAS(TAP_DENY_NETWORKS)) {
        if (denied_networks.lookup(&network))
            return 1;
    }
    return 0;
}

#endif
