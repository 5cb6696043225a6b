/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * What the programs are told when they are loaded, so that they are compiled once for everybody. Whoever loads them puts it into
 * the instructions (services/capture/live/tap/loader.py, which has the same words); nothing is read for it at run time.
 *
 * TAP_HAS(what) is a jump that is taken or not: where it is not, the kernel takes out the jump, and where it is, what it passes.
 * TAP_VALUE(what) is a number that is known to the verifier.
 */
#ifndef WIRESPAN_CONSTANTS_H
#define WIRESPAN_CONSTANTS_H

#include "host.h"

enum tap_switch {
    TAP_COARSE_CLOCK, /* the kernel has bpf_ktime_get_coarse_ns: since 5.11 */
    TAP_EXCLUDE_LOOPBACK,
    TAP_ALLOW_NETWORKS, /* the rules themselves are in maps */
    TAP_DENY_NETWORKS,
    TAP_ALLOW_PORTS,
    TAP_DENY_PORTS,
    TAP_TRANSPORTS,    /* not all of them are kept */
    TAP_TRACE_CONTEXT, /* exchanges/exchanges.h */
    TAP_MEETING,       /* exchanges/turns.h: needs TAP_TRACE_CONTEXT and TAP_PIECES_TLS */
    TAP_PIECES_DNS,    /* pieces/pieces.h: of these kinds */
    TAP_PIECES_TLS,
    TAP_PIECES_QUIC,
    TAP_CLOSERS, /* socket.h */
    TAP_OWN,     /* own.h: capture's own connections are left out */
};

enum tap_value {
    TAP_TICK_NS,  /* the length of the kernel's tick */
    TAP_FIRST_NS, /* from when on a datagram without a flow is the first of one */
};

/* What is looked for in the instructions: no comparison is of the frame pointer, and no number begins like this. */
#define TAP_SWITCH_MARK 0x57530000
#define TAP_VALUE_MARK  0x57564c5500000000ULL

#define TAP_HAS(what)                                                                                                          \
    ({                                                                                                                         \
        __label__ without, done;                                                                                               \
        int has = 1;                                                                                                           \
        asm volatile goto("if r10 == %0 goto %l[without]" : : "i"(TAP_SWITCH_MARK | (what)) : : without);                      \
        goto done;                                                                                                             \
    without:                                                                                                                   \
        has = 0;                                                                                                               \
    done:                                                                                                                      \
        has;                                                                                                                   \
    })

#define TAP_VALUE(what)                                                                                                        \
    ({                                                                                                                         \
        __u64 value;                                                                                                           \
        asm volatile("%0 = %1 ll" : "=r"(value) : "i"(TAP_VALUE_MARK | (what)));                                               \
        value;                                                                                                                 \
    })

#endif
