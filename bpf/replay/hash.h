/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* Endpoints as numbers. */
#ifndef WIRESPAN_HASH_H
#define WIRESPAN_HASH_H

#include <linux/types.h>
#include <string.h>

static inline __u64 mix(__u64 a, __u64 b)
{
    unsigned __int128 product = (unsigned __int128)a * b;

    return (__u64)product ^ (__u64)(product >> 64);
}

static inline __u64 hash_endpoint(const __u64 *seeds, const __u8 *address, __u16 port)
{
    __u64 halves[2];

    memcpy(halves, address, sizeof(halves));
    return mix(halves[0] ^ seeds[0], mix(halves[1] ^ seeds[1], port ^ seeds[2]));
}

/* For what a result may depend on: a table that gives places to whoever comes later must do so alike in every run. */
static const __u64 SAME_SEEDS[4] = {0x9e3779b97f4a7c15u, 0xbf58476d1ce4e5b9u, 0x94d049bb133111ebu, 0xd6e8feb86659fd93u};

#endif
