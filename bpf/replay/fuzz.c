/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * A libFuzzer target over the parsers, the flow engine and replay's tables: `make fuzz`.
 *
 * An input is a link type's number (an index into link_types), then packets: two bytes of captured length, one of what the wire
 * had more, one of time since the packet before (in 2^k ns, above 128 backwards), then the captured bytes. A table that is full
 * gives up a slot. After each input the counters must add up, no flow may hold more than was counted, every exchange that began
 * must be over or open, no question has two answers, a turn that has ended has both its halves, and pieces of payload say how long
 * they are.
 */
#define DATAGRAMS       16u
#define ENDED_EXCHANGES 16u
#define ENDED_TURNS     16u
#define PIECES_BYTES    16384u
#define QUESTION_PLACES 16u
#define SEEN_PACKETS    16u
#include "replay.c"

#define CAPACITY 16u

static const __u32 link_types[] = {LINK_ETHERNET, LINK_RAW, LINK_LINUX_SLL, LINK_LINUX_SLL2, LINK_NULL, LINK_LOOP, LINK_PPP,
        LINK_CISCO_HDLC, LINK_PPP_ETHER, LINK_PPP_WITH_DIRECTION, LINK_PPI};

static const __u16 dns_ports[] = {53, 5353};

static struct flow slots[CAPACITY];
static struct flow_outer outers[CAPACITY];
static __u32 files[CAPACITY];
static __u32 block_used;
static struct replay *replay;

static void begin_again(void)
{
    __u32 index;

    memset(slots, 0, sizeof(slots));
    memset(replay->traces, 0, CAPACITY * sizeof(*replay->traces));
    memset(outers, 0, sizeof(outers));
    memset(replay->outer_used, 0, CAPACITY);
    memset(replay->datagrams, 0, DATAGRAMS * sizeof(*replay->datagrams));
    memset(replay->seen, 0, SEEN_PACKETS * sizeof(*replay->seen));
    replay->held_fragments = 0;
    memset(&replay->counters, 0, sizeof(replay->counters));
    memset(replay->seeds, 0x5a, sizeof(replay->seeds));
    for (index = 0; index < CAPACITY; index++)
        replay->buckets[index] = NO_SLOT;
    replay->blocks[0] = (struct slot_block){.free_slot = NO_SLOT};
    replay->open_block = 0;
    block_used = 0;
    memset(replay->questions, 0, sizeof(*replay->questions));
    memset(replay->handshakes, 0, CAPACITY * sizeof(*replay->handshakes));
    memset(replay->turns->of_slot, 0, CAPACITY * sizeof(*replay->turns->of_slot));
    replay->turns->ended_count = 0;
    replay->begin_ns = 0;
    replay->seen_ns = 0;
    replay->file_begins = 1;
    memset(replay->exchanges.requests, 0, sizeof(replay->exchanges.requests));
    for (index = 0; index < CAPACITY; index++) {
        http1_forget(&replay->exchanges, index);
        http2_forget(&replay->exchanges, index);
    }
    while (replay->exchanges.calls->quietest)
        connection_forget(replay->exchanges.calls, replay->exchanges.calls->quietest);
    calls_taken(replay->exchanges.calls, replay->exchanges.calls->ended_count);
    replay->exchanges.calls->handed_over = 0;
    replay->exchanges.open_count = 0;
    replay->exchanges.ended_count = 0;
    replay->pieces->used = 0;
}

static void check_exchanges(__u64 *taken)
{
    const struct exchanges *exchanges = &replay->exchanges;
    const struct exchange *each;
    __u64 index;
    __u64 told;

    for (index = 0; index < exchanges->ended_count; index++) {
        each = &exchanges->ended[index];
        if (each->request_last_ns < each->request_first_ns || each->response_first_ns > each->response_last_ns ||
                each->status_bytes > EXCHANGE_STATUS_BYTES || !(each->trace_flags & 1) || each->is_stream ||
                each->end == EXCHANGE_END_OPEN)
            abort();
        ++*taken;
    }
    replay_exchanges_taken(replay);
    calls_taken(exchanges->calls, exchanges->calls->ended_count);
    /*
     * Of those that began some were dropped, or handed over to calls; of what could not be paired some never began. Of some the
     * headers still come.
     */
    told = *taken + exchanges->calls->handed_over;
    for (index = 0; index < exchanges->open_count; index++)
        told += exchanges->of_slot[exchanges->open[index]].exchange.request_first_ns != 0;
    if (exchanges->requests[TRACE_SAMPLED] < told ||
            exchanges->requests[TRACE_SAMPLED] > told + exchanges->requests[REQUEST_UNPAIRED])
        abort();
}

static void check_turns(void)
{
    struct turns *turns = replay->turns;
    const struct turn *turn;

    for (turn = turns->ended; turn < turns->ended + turns->ended_count; turn++)
        if (!turn->request_first_ns || !turn->response_first_ns || !turn->flow_id)
            abort();
    turns->ended_count = 0;
}

static void check_pieces(void)
{
    struct pieces *pieces = replay->pieces;
    const struct piece *piece;
    __u64 at;

    for (at = 0; at < pieces->used; at += (sizeof(*piece) + piece->held + 7) & ~7ull) {
        piece = (const struct piece *)(pieces->bytes + at);
        if (piece->held > TLS_HELLO_BYTES || piece->held > piece->payload_bytes || piece->kind >= PIECE_KINDS)
            abort();
        if (piece->kind == PIECE_TLS && piece->place + piece->held > piece->payload_bytes)
            abort();
    }
    if (at != pieces->used || at > PIECES_BYTES)
        abort();
    if (pieces_are_full(pieces))
        pieces->used = 0;
}

static void check(__u64 lost_bytes)
{
    const struct replay_counters *counters = &replay->counters;
    __u64 bytes = counters->link_bytes + counters->tunnel_bytes;
    __u64 packets = 0;
    __u64 held = lost_bytes;
    int kind;
    __u32 index;

    for (kind = 0; kind < PACKET_DISPOSITIONS; kind++) {
        packets += counters->disposition_packets[kind];
        bytes += counters->disposition_bytes[kind];
    }
    if (counters->link_bytes > counters->bytes || counters->tunnel_bytes > counters->bytes || replay->held_fragments)
        abort();
    if (block_used != counters->used_slots)
        abort();
    for (index = 0; index < CAPACITY; index++)
        if (slots[index].requests == FLOW_REQUESTS_NUMBERED && slots[index].responses > slots[index].questions)
            abort();
    for (index = 0; index < CAPACITY; index++)
        held += slots[index].sides[FLOW_TX].bytes + slots[index].sides[FLOW_RX].bytes;
    if (packets != counters->packets || bytes != counters->bytes || held != counters->disposition_bytes[PACKET_FLOW])
        abort();
}

int LLVMFuzzerTestOneInput(const __u8 *data, size_t size)
{
    struct captured packet = {.time_ns = 1700000000000000000ull};
    __u64 lost_bytes = 0;
    __u64 taken = 0;
    __u32 next = 0;
    __u8 *copy;

    if (!replay) {
        replay = replay_new(slots, outers, files, &block_used, CAPACITY);
        if (!replay || replay_trace(replay) || !replay_turns(replay))
            abort();
        replay_datagrams(replay, dns_ports, sizeof(dns_ports) / sizeof(dns_ports[0]), 1000000000);
        replay_pieces(replay)->wanted = (1 << PIECE_KINDS) - 1;
    }
    if (!size)
        return 0;
    begin_again();
    packet.link_type = link_types[data[0] % (sizeof(link_types) / sizeof(link_types[0]))];
    for (data++, size--; size >= 4; data += packet.captured, size -= packet.captured) {
        packet.captured = (__u32)(data[0] << 8 | data[1]);
        packet.wire_bytes = packet.captured + data[2];
        packet.time_ns += data[3] & 128 ? -(1ull << (data[3] & 31)) : 1ull << (data[3] & 63) % 40;
        data += 4;
        size -= 4;
        if (packet.captured > size)
            packet.captured = (__u32)size;
        /* Memory of its own, so that one byte too far is seen. */
        copy = malloc(packet.captured ? packet.captured : 1);
        if (!copy)
            return 0;
        memcpy(copy, data, packet.captured);
        packet.bytes = copy;
        while (!take_packet(replay, &packet)) {
            next = (next + 7) % CAPACITY;
            lost_bytes += slots[next].sides[FLOW_TX].bytes + slots[next].sides[FLOW_RX].bytes;
            replay_retire(replay, &next, 1);
            replay_release(replay, &next, 1);
        }
        free(copy);
        check_exchanges(&taken);
        check_turns();
        check_pieces();
    }
    forget_datagrams(replay);
    check(lost_bytes);
    return 0;
}
