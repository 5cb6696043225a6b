/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * Replay: the userspace host of the flow engine. Packets of a capture file in, flow slots out; the capture's clock is the clock.
 * A shared library for services/capture/replay/source.py: one thread at a time, no state but the handle's.
 *
 * The slots belong to the caller, who reads them while no call runs.
 */
#include <linux/types.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "take.h"

/* Why replay_advance stopped. services/capture/replay/source.py has the same. */
enum replay_stop {
    REPLAY_UNTIL,      /* the next packet is later */
    REPLAY_PACKETS,    /* as many as asked for */
    REPLAY_END,        /* no packet left in the file, or no file open */
    REPLAY_TABLE_FULL, /* the next packet needs a slot: retire and release some */
    REPLAY_CUT,        /* nothing more can be read of the file: see replay_fault; it is closed */
    REPLAY_EXCHANGES,  /* many exchanges have ended: take them */
    REPLAY_PIECES,     /* there may be no room for the next packet's piece of payload: take them */
};

void replay_close(struct replay *replay)
{
    if (!replay)
        return;
    capture_close(&replay->file);
    exchanges_free(&replay->exchanges, replay->capacity);
    free(replay->links);
    free(replay->traces);
    free(replay->buckets);
    free(replay->datagrams);
    free(replay->outer_used);
    free(replay->blocks);
    free(replay->questions);
    free(replay->pieces);
    free(replay->handshakes);
    turns_free(replay->turns);
    free(replay->seen);
    free(replay);
}

/*
 * `slots`, `outers` and `files` are zeroed memory for `capacity` flows each, and `block_used` for a number for each of its blocks: the
 * caller's, they outlive the handle. Capacity is a power of two, 2^30 at most. Returns NULL where memory is missing.
 */
struct replay *replay_new(struct flow *slots, struct flow_outer *outers, __u32 *files, __u32 *block_used, __u32 capacity)
{
    struct replay *replay = calloc(1, sizeof(*replay));
    __u32 index;

    if (!replay)
        return NULL;
    replay->slots = slots;
    replay->outers = outers;
    replay->files = files;
    replay->capacity = capacity;
    replay->bucket_mask = capacity - 1;
    replay->block_used = block_used;
    replay->block_count = (capacity + BLOCK_SLOTS - 1) / BLOCK_SLOTS;
    replay->file.stream.fd = -1;
    replay->blocks = calloc(replay->block_count, sizeof(*replay->blocks));
    replay->seen = calloc(SEEN_PACKETS, sizeof(*replay->seen));
    replay->links = calloc(capacity, sizeof(*replay->links));
    replay->buckets = malloc((size_t)capacity * sizeof(*replay->buckets));
    replay->datagrams = calloc(DATAGRAMS, sizeof(*replay->datagrams));
    replay->outer_used = calloc(capacity, 1);
    replay->traces = calloc(capacity, sizeof(*replay->traces));
    replay->questions = calloc(1, sizeof(*replay->questions));
    replay->pieces = calloc(1, sizeof(*replay->pieces));
    replay->handshakes = calloc(capacity, sizeof(*replay->handshakes));
    if (!replay->blocks || !replay->seen || !replay->links || !replay->traces || !replay->buckets || !replay->datagrams ||
            !replay->outer_used || !replay->questions || !replay->pieces || !replay->handshakes ||
            getrandom(replay->seeds, sizeof(replay->seeds), 0) != (ssize_t)sizeof(replay->seeds)) {
        replay_close(replay);
        return NULL;
    }
    for (index = 0; index < capacity; index++)
        replay->buckets[index] = NO_SLOT;
    for (index = 0; index < replay->block_count; index++)
        replay->blocks[index].free_slot = NO_SLOT;
    return replay;
}

/*
 * Whether `fd`, which is closed, is a capture: 0, or -1 and the reason in `error`. `first_ns` becomes the time of its first packet,
 * 0 where there is none.
 */
int replay_check_file(int fd, __u64 *first_ns, char *error, size_t error_size)
{
    struct capture_file file;
    struct captured first;
    enum capture_read got;
    int status;

    *first_ns = 0;
    status = capture_open(&file, fd);
    if (status) {
        snprintf(error, error_size, "%s", file.fault);
    } else {
        do
            got = capture_next(&file, &first);
        while (got == CAPTURE_UNREADABLE);
        if (got == CAPTURE_PACKET)
            *first_ns = first.time_ns;
    }
    capture_close(&file);
    return status;
}

/* Go on with file `number`, or a pipe, through the same table; the clock begins anew. Returns as replay_check_file. */
int replay_open_file(struct replay *replay, int fd, __u32 number, char *error, size_t error_size)
{
    capture_close(&replay->file);
    forget_datagrams(replay);
    memset(replay->seen, 0, SEEN_PACKETS * sizeof(*replay->seen));
    replay->ahead = 0;
    replay->file_number = number;
    replay->counters.next_ns = 0;
    replay->counters.clock_ns = 0;
    replay->counters.file_bytes_read = 0;
    replay->reading = !capture_open(&replay->file, fd);
    if (!replay->reading)
        snprintf(error, error_size, "%s", replay->file.fault);
    replay->file_begins = 1;
    return replay->reading ? 0 : -1;
}

/* What could not be read of the file that is open, or was last, in words; empty where all could. Valid until the next one is. */
const char *replay_fault(const struct replay *replay)
{
    return replay->file.fault;
}

/* Packets of that file that could not be read, and were counted as malformed. */
__u64 replay_unreadable(const struct replay *replay)
{
    return replay->file.unreadable;
}

/* Read ahead. */
static enum capture_read read_packet(struct replay *replay)
{
    static const struct fragment_sum nothing = {.packets = 1};
    enum capture_read got;

    if (replay->ahead)
        return CAPTURE_PACKET;
    if (!replay->reading)
        return CAPTURE_END;
    while ((got = capture_next(&replay->file, &replay->next)) == CAPTURE_UNREADABLE)
        settle(replay, PACKET_MALFORMED, &nothing, 0);
    replay->counters.file_bytes_read = replay->file.stream.taken;
    if (got == CAPTURE_PACKET) {
        replay->ahead = 1;
        replay->counters.next_ns = replay->next.time_ns;
        return got;
    }
    forget_datagrams(replay);
    capture_close(&replay->file);
    replay->reading = 0;
    replay->counters.next_ns = 0;
    return got;
}

/* Take packets in file order until one is later than `until_ns`, `max_packets` are taken or the file ends. */
enum replay_stop replay_advance(struct replay *replay, __u64 until_ns, __u64 max_packets)
{
    enum capture_read got;

    while (max_packets--) {
        got = read_packet(replay);
        if (got != CAPTURE_PACKET)
            return got == CAPTURE_END ? REPLAY_END : REPLAY_CUT;
        if (replay->next.time_ns > until_ns)
            return REPLAY_UNTIL;
        if (replay->exchanges.ended_count >= ENDED_EXCHANGES ||
                (replay->exchanges.calls && replay->exchanges.calls->ended_count >= ENDED_EXCHANGES))
            return REPLAY_EXCHANGES;
        if (turns_are_full(replay->turns))
            return REPLAY_EXCHANGES;
        if (pieces_are_full(replay->pieces))
            return REPLAY_PIECES;
        if (!take_packet(replay, &replay->next))
            return REPLAY_TABLE_FULL;
        replay->ahead = 0;
        replay->counters.next_ns = 0;
    }
    return REPLAY_PACKETS;
}

/* No packet reaches these slots any more; a packet of the same flow begins another. Slots that are not live stay as they are. */
void replay_retire(struct replay *replay, const __u32 *slots, size_t count)
{
    size_t index;

    for (index = 0; index < count; index++)
        if (slots[index] < replay->capacity)
            retire_slot(replay, slots[index]);
}

/* Give slots back, zeroed, to be used again. */
void replay_release(struct replay *replay, const __u32 *slots, size_t count)
{
    size_t index;

    for (index = 0; index < count; index++)
        if (slots[index] < replay->capacity)
            release_slot(replay, slots[index]);
}

/* UDP of these ports is DNS. A flow of datagrams that rests for `rest_ns` has ended, so what comes later is the first of one. */
void replay_datagrams(struct replay *replay, const __u16 *dns_ports, size_t count, __u64 rest_ns)
{
    memset(replay->dns_ports, 0, sizeof(replay->dns_ports));
    while (count--)
        replay->dns_ports[dns_ports[count] >> 3] |= (__u8)(1 << (dns_ports[count] & 7));
    replay->rest_ns = rest_ns;
}

/* From now on, keep the exchanges of requests that carry a sampled trace context. Returns -1 where memory is missing. */
int replay_trace(struct replay *replay)
{
    return exchanges_keep(&replay->exchanges, replay->capacity);
}

/* What is kept of exchanges: `ended` are in the order in which they ended. Valid until the next call. */
const struct exchanges *replay_exchanges(const struct replay *replay)
{
    return &replay->exchanges;
}

/* Where the calls of HTTP/2 go: bpf/calls. NULL before replay_trace. */
struct calls *replay_calls(const struct replay *replay)
{
    return replay->exchanges.calls;
}

/* Copy the open exchanges, exchanges.open_count of them. */
void replay_open_exchanges(const struct replay *replay, struct exchange *copies)
{
    const struct exchanges *exchanges = &replay->exchanges;
    __u64 place;

    for (place = 0; place < exchanges->open_count; place++)
        copies[place] = exchanges->of_slot[exchanges->open[place]].exchange;
}

/* End the open exchanges that these are copies of, as their `end` and `ended_ns` say. */
void replay_end_exchanges(struct replay *replay, const struct exchange *copies, size_t count)
{
    const struct exchange *copy;

    for (copy = copies; copy < copies + count; copy++)
        if (copy->slot < replay->capacity)
            exchanges_end_copied(&replay->exchanges, &replay->slots[copy->slot], copy);
}

/* The ended exchanges were taken. */
void replay_exchanges_taken(struct replay *replay)
{
    replay->exchanges.ended_count = 0;
}

/*
 * From now on, keep every exchange of every connection; returns where, NULL where memory is missing. Its reader sets `ended_count`
 * to 0 when it has taken them.
 */
struct turns *replay_turns(struct replay *replay)
{
    if (!replay->turns)
        replay->turns = turns_new(replay->capacity);
    return replay->turns;
}

/* Pieces of payload that wait to be taken. The caller says which are wanted, and sets `used` to 0 when it has taken them. */
struct pieces *replay_pieces(const struct replay *replay)
{
    return replay->pieces;
}

/* Sizes of what is shared with the reader, so that it does not read one layout with the eyes of another. */
void replay_layout(__u64 sizes[6])
{
    sizes[0] = sizeof(struct flow);
    sizes[1] = sizeof(struct flow_outer);
    sizes[2] = sizeof(struct replay_counters);
    sizes[3] = sizeof(struct exchange);
    sizes[4] = sizeof(struct piece);
    sizes[5] = sizeof(struct turn);
}
