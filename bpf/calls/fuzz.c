/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * A libFuzzer target over header blocks and the calls that they are of: `make fuzz`.
 *
 * An input is what a host tells of frames: seven bytes of what, type, flags, parts, which connection and side, the stream, and how
 * much is held, then that. What is told of is numbered, but where the connection's byte says that something was lost. After each input
 * what is kept is within its bounds and what was counted adds up.
 */
#define MOST_CALLS       64u
#define MOST_CONNECTIONS 4u
#define MOST_HELD_BYTES  100000u
#define MOST_STREAMS     16u
#include "calls.h"

#include <stddef.h>

#define FLOWS 8u

static void check(const struct calls *calls, const __u64 *taken)
{
    const struct connection *connection;
    struct exchange open[MOST_CALLS];
    __u64 connections = 0;
    __u64 held = 0;
    __u64 known = calls_open(calls, open);
    __u64 streams = 0;
    int from;

    for (connection = calls->quietest; connection; connection = connection->livelier) {
        connections++;
        streams += connection->count;
        for (from = 0; from < 2; from++) {
            const struct call_side *side = &connection->sides[from];

            held += hpack_held(&side->table) + (side->block ? HTTP2_BLOCK_BYTES : 0);
            if (side->table.bytes > side->table.limit || side->table.count > side->table.room)
                abort();
        }
    }
    if (connections != calls->connection_count || connections > MOST_CONNECTIONS || held != calls->held_bytes)
        abort();
    if (streams != calls->open_count || streams > MOST_CALLS || known > streams)
        abort();
    if (held > MOST_HELD_BYTES && connections > 1)
        abort();
    if (calls->requests[TRACE_SAMPLED] + calls->handed_over != *taken + known + calls->requests[REQUEST_UNPAIRED])
        abort();
}

static void take(struct calls *calls, __u64 *taken)
{
    const struct exchange *each;
    __u64 index;

    for (index = 0; index < calls->ended_count; index++) {
        each = &calls->ended[index];
        if (each->end == EXCHANGE_END_OPEN || !(each->trace_flags & 1) || (!each->number && each->end != EXCHANGE_END_COMPLETE))
            abort();
    }
    *taken += calls->ended_count;
    calls_taken(calls, calls->ended_count);
}

int LLVMFuzzerTestOneInput(const __u8 *data, size_t size)
{
    __u32 numbers[FLOWS][2] = {{0}};
    struct calls *calls = calls_new();
    __u64 taken = 0;
    __u64 unpaired;
    __u64 open;
    __u8 *copy;

    if (!calls)
        return 0;
    for (; size >= 7; data += 7, size -= 7) {
        __u32 flow = data[4] % FLOWS;
        struct http2_told told = {.what = data[0] % 6, .type = data[1] % 10, .flags = data[2], .parts = data[3]};

        told.flow_id = flow;
        told.from = data[4] >> 3 & 1;
        told.time_ns = told.begun_ns = 7;
        told.stream = data[5];
        told.held = data[6];
        told.bytes = told.held;
        if (told.what == HTTP2_FRAME || told.what == HTTP2_MISSES || told.what == HTTP1_MESSAGE)
            told.number = numbers[flow][told.from]++ + (data[4] == 0xff);
        if (told.held > size - 7)
            told.held = (__u16)(size - 7);
        /* Memory of its own, so that one byte too far is seen. */
        copy = malloc(told.held ? told.held : 1);
        if (!copy)
            break;
        memcpy(copy, data + 7, told.held);
        if (told.what == HTTP2_UPGRADES && told.held >= sizeof(struct exchange)) /* of a trace, as its host counted */
            copy[offsetof(struct exchange, trace_flags)] |= 1;
        open = calls->open_count;
        unpaired = calls->requests[REQUEST_UNPAIRED];
        calls_take(calls, &told, copy);
        if (told.what == HTTP2_UPGRADES)
            calls->requests[TRACE_SAMPLED] += calls->open_count > open || calls->requests[REQUEST_UNPAIRED] > unpaired;
        free(copy);
        data += told.held;
        size -= told.held;
        take(calls, &taken);
        check(calls, &taken);
    }
    calls_close(calls);
    return 0;
}
