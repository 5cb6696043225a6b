/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* What time it is, precisely or as of the last tick. */
#ifndef WIRESPAN_CLOCK_H
#define WIRESPAN_CLOCK_H

#include "constants.h"
#include "host.h"

#include "../engine/flow.h"

/* How far the kernel's own departure time of a segment may be from what is known of now to be taken for the packet's time. */
#define DEPARTURE_NEAR_NS 20000000ULL

BPF_TABLE("array", u32, u64, tick_base, 1);

/*
 * The time of the last tick. The kernel counts ticks on the monotonic clock, and the JIT makes bpf_jiffies64 a load, where the
 * coarse clock is a call that costs half as much as the precise one. `tick_base` is the time of tick 0, 0 while it is not known.
 */
FLOW_INLINE __u64 clock_coarse_ns(void)
{
    __u32 zero = 0;
    __u64 *base;

    if (!TAP_HAS(TAP_COARSE_CLOCK))
        return bpf_ktime_get_ns();
    base = tick_base.lookup(&zero);
    if (base && *base)
        return *base + bpf_jiffies64() * TAP_VALUE(TAP_TICK_NS);
    return bpf_ktime_get_coarse_ns();
}

/* Put the ticks right where they are not: at the beginning, and after the machine was suspended. Returns the precise time. */
FLOW_INLINE __u64 set_ticks(void)
{
    __u64 now = bpf_ktime_get_ns();
    __u32 zero = 0;
    __u64 *base;
    __u64 tick_ns;

    if (!TAP_HAS(TAP_COARSE_CLOCK))
        return now;
    base = tick_base.lookup(&zero);
    tick_ns = TAP_VALUE(TAP_TICK_NS);
    if (base && now - (*base + bpf_jiffies64() * tick_ns) >= 2 * tick_ns)
        *base = bpf_ktime_get_coarse_ns() - bpf_jiffies64() * tick_ns;
    return now;
}

/*
 * The time of a packet. One that begins or ends something timed has the precise time: for TCP that is sent the kernel has just
 * taken it (skb->tstamp is its departure time on this clock), else it costs as much as all the rest. The others have the time of
 * the last tick, 1 to 4 ms old, but never one before what the flow has seen.
 */
FLOW_INLINE __u64 packet_time(struct __sk_buff *skb, const struct flow *flow, int timed, int departure)
{
    __u64 time_ns = 0;
    __u64 coarse;

    if (timed) {
        if (!departure)
            return bpf_ktime_get_ns();
        time_ns = skb->tstamp;
        if (time_ns - flow->last_ns < DEPARTURE_NEAR_NS)
            return time_ns;
    }
    coarse = clock_coarse_ns();
    if (timed)
        return time_ns - coarse + DEPARTURE_NEAR_NS < 2 * DEPARTURE_NEAR_NS ? time_ns : bpf_ktime_get_ns();
    return coarse > flow->last_ns ? coarse : flow->last_ns;
}

#endif
