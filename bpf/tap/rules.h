/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* What is left out: capture's own connections, and what the operator's rules say. */
#ifndef WIRESPAN_RULES_H
#define WIRESPAN_RULES_H

#include "counters.h"
#include "keys.h"

#ifndef KEEP_TRANSPORT
#define KEEP_TRANSPORT(number) 1
#endif

struct endpoint {
    __u8 address[16];
    __u32 port;
};

struct network {
    __u32 prefix_bits;
    __u8 address[16];
};

BPF_TABLE("hash", struct endpoint, u8, excluded_endpoints, 64);

#ifdef ALLOW_NETWORKS
BPF_F_TABLE("lpm_trie", struct network, u8, allowed_networks, 1024, BPF_F_NO_PREALLOC);
#endif
#ifdef DENY_NETWORKS
BPF_F_TABLE("lpm_trie", struct network, u8, denied_networks, 1024, BPF_F_NO_PREALLOC);
#endif
#if defined(ALLOW_PORTS) || defined(DENY_PORTS)
/* Value: bit 0 is allowed, bit 1 is denied. */
BPF_TABLE("array", u32, u8, port_rules, 65536);
#endif

/* Whether capture itself, or the operator's rules, leave this flow out. Returns the counter, or TAP_COUNTERS. */
FLOW_INLINE __u32 left_out(const struct flow_key *key)
{
    struct endpoint endpoint;

    __builtin_memcpy(endpoint.address, key->local_address, 16);
    endpoint.port = key->local_port;
    if (excluded_endpoints.lookup(&endpoint))
        return TAP_EXCLUDED;
    __builtin_memcpy(endpoint.address, key->remote_address, 16);
    endpoint.port = key->remote_port;
    if (excluded_endpoints.lookup(&endpoint))
        return TAP_EXCLUDED;
    if (!(KEEP_TRANSPORT(key->transport)))
        return TAP_FILTERED;
#if defined(ALLOW_PORTS) || defined(DENY_PORTS)
    {
        __u32 local_port = key->local_port;
        __u32 remote_port = key->remote_port;
        __u8 *local = port_rules.lookup(&local_port);
        __u8 *remote = port_rules.lookup(&remote_port);
        __u8 rules = (local ? *local : 0) | (remote ? *remote : 0);

#ifdef ALLOW_PORTS
        if (!(rules & 1))
            return TAP_FILTERED;
#endif
        if (rules & 2)
            return TAP_FILTERED;
    }
#endif
#if defined(ALLOW_NETWORKS) || defined(DENY_NETWORKS)
    {
        struct network network = {.prefix_bits = 128};

        __builtin_memcpy(network.address, key->remote_address, 16);
#ifdef ALLOW_NETWORKS
        if (!allowed_networks.lookup(&network))
            return TAP_FILTERED;
#endif
#ifdef DENY_NETWORKS
        if (denied_networks.lookup(&network))
            return TAP_FILTERED;
#endif
    }
#endif
    return TAP_COUNTERS;
}

#endif
