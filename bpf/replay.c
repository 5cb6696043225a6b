/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * Replay: the userspace host of the flow engine. Packets of a capture file in, flow slots out; the capture's clock is the clock.
 * A shared library for services/capture/replay_source.py: one thread at a time, no state but the handle's.
 *
 * The slots belong to the caller, who reads them while no call runs; this file finds the slot of a packet, gives slots out and
 * takes them back. libpcap reads the file formats.
 */
#include <errno.h>
#include <linux/types.h>
#include <pcap/pcap.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

struct frame {
    const __u8 *bytes;
    __u32 captured;
};

typedef const struct frame *frame_source;

static inline int parse_load(frame_source source, __u32 offset, void *target, __u32 size)
{
    if (offset > source->captured || size > source->captured - offset)
        return -1;
    memcpy(target, source->bytes + offset, size);
    return 0;
}

#define PARSE_TCP_OPTIONS
#include "flow_deep.h"
#include "parse.h"

#define NO_SLOT 0xffffffffu
#ifndef FRAGMENTS
#define FRAGMENTS 4096u
#endif
#define FRAGMENT_TTL_NS 30000000000ull /* how long a receiver waits for a datagram's rest: Linux's ipfrag_time */
#define LAST_SECOND     9223372036ll   /* of what signed nanoseconds can hold */

/* Why replay_advance stopped. services/capture/replay_source.py has the same. */
enum replay_stop {
    REPLAY_UNTIL,      /* the next packet is later */
    REPLAY_PACKETS,    /* as many as asked for */
    REPLAY_END,        /* no packet left in the file, or no file open */
    REPLAY_TABLE_FULL, /* the next packet needs a slot: retire and release some */
    REPLAY_CUT,        /* the file ends or breaks in the middle of a packet; it is closed */
};

/* Everything seen adds up: packets = sum of dispositions; bytes = link_bytes + the same sum. Mirrored in replay_source.py. */
struct replay_counters {
    __u64 packets;    /* read from files */
    __u64 bytes;      /* their length on the wire */
    __u64 link_bytes; /* of packets in flows: what was on the wire around the IP packet */
    __u64 disposition_packets[PACKET_DISPOSITIONS];
    __u64 disposition_bytes[PACKET_DISPOSITIONS]; /* PACKET_FLOW: IP length; the others: on the wire */
    __u64 flows;                                  /* begun */
    __u64 used_slots;
    __u64 high_slot;       /* no slot from here on was ever used */
    __u64 clock_ns;        /* latest packet of this file */
    __u64 next_ns;         /* the packet that comes next; 0: none was read ahead */
    __u64 file_bytes_read; /* of this file */
};

/* A datagram whose first fragment was seen, so that the rest of it finds its flow. */
struct fragment {
    __u8 source_address[16];
    __u8 destination_address[16];
    __u64 time_ns;
    __u32 id;
    __u32 slot;
    __u32 generation;
    __u8 protocol;
    __u8 from;
    __u8 pad[2];
};

/* A slot's place in its bucket's chain; `hash` spares looking at slots of other flows. */
struct link {
    __u32 next;
    __u32 hash;
};

struct replay {
    struct replay_counters counters; /* first: the caller reads it through the handle */
    struct flow *slots;
    struct link *links;
    struct flow_trace *traces; /* of the slots */
    __u32 *buckets;
    struct fragment *fragments;
    __u32 capacity;
    __u32 bucket_mask;
    __u32 free_slot; /* head of the chain of released slots */
    __u64 seeds[4];
    pcap_t *file;
    int link_type;
    struct pcap_pkthdr *header; /* the packet read ahead */
    const __u8 *bytes;
};

/* ---- Finding slots ------------------------------------------------------------------------------------------------------- */

static inline __u64 mix(__u64 a, __u64 b)
{
    unsigned __int128 product = (unsigned __int128)a * b;

    return (__u64)product ^ (__u64)(product >> 64);
}

static inline __u64 hash_endpoint(const struct replay *replay, const __u8 *address, __u16 port)
{
    __u64 halves[2];

    memcpy(halves, address, sizeof(halves));
    return mix(halves[0] ^ replay->seeds[0], mix(halves[1] ^ replay->seeds[1], port ^ replay->seeds[2]));
}

/* The same for both directions. Seeded, so that no capture can be made whose flows all fall into one chain. */
static inline __u32 hash_packet(const struct replay *replay, const struct packet *packet)
{
    __u64 source = hash_endpoint(replay, packet->source_address, packet->source_port);
    __u64 destination = hash_endpoint(replay, packet->destination_address, packet->destination_port);
    __u64 kind = packet->transport;

    if (packet->transport == TRANSPORT_ICMP || packet->transport == TRANSPORT_ICMPV6)
        kind |= (__u64)icmp_kind(packet->transport, packet->icmp_type, packet->icmp_code) << 8;
    return (__u32)(mix((source + destination) ^ kind, replay->seeds[3]) >> 16);
}

/* Returns FLOW_TX or FLOW_RX where the packet belongs to the flow, else -1. */
static inline int match(const struct flow *flow, const struct packet *packet)
{
    if (flow->transport != packet->transport)
        return -1;
    if (packet->transport == TRANSPORT_ICMP || packet->transport == TRANSPORT_ICMPV6)
        if (icmp_kind(packet->transport, packet->icmp_type, packet->icmp_code) !=
                icmp_kind(flow->transport, flow->icmp_type, flow->icmp_code))
            return -1;
    if (flow->local_port == packet->source_port && flow->remote_port == packet->destination_port &&
            !memcmp(flow->local_address, packet->source_address, 16) &&
            !memcmp(flow->remote_address, packet->destination_address, 16))
        return FLOW_TX;
    if (flow->local_port == packet->destination_port && flow->remote_port == packet->source_port &&
            !memcmp(flow->local_address, packet->destination_address, 16) &&
            !memcmp(flow->remote_address, packet->source_address, 16))
        return FLOW_RX;
    return -1;
}

static inline __u32 find_slot(const struct replay *replay, const struct packet *packet, __u32 hash, int *from)
{
    __u32 slot = replay->buckets[hash & replay->bucket_mask];

    for (; slot != NO_SLOT; slot = replay->links[slot].next) {
        if (replay->links[slot].hash != hash)
            continue;
        *from = match(&replay->slots[slot], packet);
        if (*from >= 0)
            return slot;
    }
    return NO_SLOT;
}

static void unlink_slot(struct replay *replay, __u32 slot)
{
    __u32 *place = &replay->buckets[replay->links[slot].hash & replay->bucket_mask];

    while (*place != slot)
        place = &replay->links[*place].next;
    *place = replay->links[slot].next;
}

static void retire_slot(struct replay *replay, __u32 slot)
{
    if (replay->slots[slot].state != FLOW_LIVE)
        return;
    unlink_slot(replay, slot);
    replay->slots[slot].state = FLOW_RETIRED;
}

static void release_slot(struct replay *replay, __u32 slot)
{
    struct flow *flow = &replay->slots[slot];
    __u32 generation = flow->generation;

    if (flow->state == FLOW_FREE)
        return;
    retire_slot(replay, slot);
    memset(flow, 0, sizeof(*flow));
    memset(&replay->traces[slot], 0, sizeof(*replay->traces));
    flow->generation = generation + 1;
    replay->links[slot].next = replay->free_slot;
    replay->free_slot = slot;
    replay->counters.used_slots--;
}

static __u32 take_slot(struct replay *replay, __u32 hash)
{
    __u32 slot = replay->free_slot;
    __u32 *bucket = &replay->buckets[hash & replay->bucket_mask];

    if (slot != NO_SLOT)
        replay->free_slot = replay->links[slot].next;
    else if (replay->counters.high_slot < replay->capacity)
        slot = (__u32)replay->counters.high_slot++;
    else
        return NO_SLOT;
    replay->links[slot].hash = hash;
    replay->links[slot].next = *bucket;
    *bucket = slot;
    replay->counters.used_slots++;
    return slot;
}

/* ---- Packets ------------------------------------------------------------------------------------------------------------- */

/*
 * Which direction a flow's first packet has: local is the initiator. A TCP connection that was joined later does not say who
 * that was; its local is the end with an ephemeral port where only one has one (Linux takes them from 32768 on, and nobody
 * takes them below 1024), else the sender. Its role stays unknown.
 */
static int first_direction(const struct packet *packet)
{
    __u16 source = packet->source_port;
    __u16 destination = packet->destination_port;

    if (packet->transport == TRANSPORT_ICMP || packet->transport == TRANSPORT_ICMPV6)
        return icmp_part(packet->transport, packet->icmp_type) == ICMP_REPLY ? FLOW_RX : FLOW_TX;
    if (packet->transport != TRANSPORT_TCP)
        return FLOW_TX;
    if (packet->tcp_flags & TCP_SYN && !(packet->tcp_flags & TCP_RST))
        return packet->tcp_flags & TCP_ACK ? FLOW_RX : FLOW_TX;
    if ((source < 1024) != (destination < 1024))
        return source < 1024 ? FLOW_RX : FLOW_TX;
    if ((source < 32768) != (destination < 32768))
        return source < 32768 ? FLOW_RX : FLOW_TX;
    return FLOW_TX;
}

static struct fragment *fragment_place(const struct replay *replay, const struct packet *packet)
{
    __u64 source = hash_endpoint(replay, packet->source_address, packet->fragment_protocol);
    __u64 destination = hash_endpoint(replay, packet->destination_address, 0);

    return &replay->fragments[mix(source ^ packet->fragment_id, destination ^ replay->seeds[3]) % FRAGMENTS];
}

static void remember_fragment(struct replay *replay, const struct packet *packet, __u32 slot, int from)
{
    struct fragment *fragment = fragment_place(replay, packet);

    memcpy(fragment->source_address, packet->source_address, 16);
    memcpy(fragment->destination_address, packet->destination_address, 16);
    fragment->time_ns = packet->time_ns;
    fragment->id = packet->fragment_id;
    fragment->slot = slot;
    fragment->generation = replay->slots[slot].generation;
    fragment->protocol = packet->fragment_protocol;
    fragment->from = (__u8)from;
}

/* Count a later fragment into its datagram's flow. Returns PACKET_FRAGMENT where that is not known: its first one is missing. */
static enum packet_disposition count_fragment(struct replay *replay, const struct packet *packet)
{
    const struct fragment *fragment = fragment_place(replay, packet);
    struct flow *flow = &replay->slots[fragment->slot];

    if (!fragment->time_ns || fragment->id != packet->fragment_id || fragment->protocol != packet->fragment_protocol ||
            memcmp(fragment->source_address, packet->source_address, 16) ||
            memcmp(fragment->destination_address, packet->destination_address, 16))
        return PACKET_FRAGMENT;
    if (packet->time_ns > fragment->time_ns && packet->time_ns - fragment->time_ns > FRAGMENT_TTL_NS)
        return PACKET_FRAGMENT;
    if (flow->state != FLOW_LIVE || flow->generation != fragment->generation)
        return PACKET_FRAGMENT;
    flow_count(flow, packet, fragment->from);
    return PACKET_FLOW;
}

/*
 * An ICMP error quotes the packet that it is about, at least up to its ports (RFC 792, 4443 2.4): note it on that packet's flow.
 * The error itself is counted in its own.
 */
static void attach_error(struct replay *replay, const struct frame *frame, const struct packet *packet)
{
    __u32 at = packet->transport_offset + 8;
    struct packet quoted = {.transport = 0};
    __u8 header[PARSE_IPV6_HEADER_BYTES];
    __u8 ports[4];
    struct flow *flow;
    __u32 slot;
    int from;

    if (!icmp_is_error(packet->transport, packet->icmp_type) || parse_load(frame, at, header, 20))
        return;
    if (packet->transport == TRANSPORT_ICMP) {
        if (header[0] >> 4 != 4 || load_be16(header + 6) & 0x1fff)
            return;
        quoted.transport = header[9];
        map_ipv4(quoted.source_address, header + 12);
        map_ipv4(quoted.destination_address, header + 16);
        at += (header[0] & 15) * 4u;
    } else {
        if (header[0] >> 4 != 6 || parse_load(frame, at, header, sizeof(header)))
            return;
        quoted.transport = header[6];
        memcpy(quoted.source_address, header + 8, 16);
        memcpy(quoted.destination_address, header + 24, 16);
        at += (__u32)sizeof(header);
    }
    if (quoted.transport != TRANSPORT_TCP && quoted.transport != TRANSPORT_UDP && quoted.transport != TRANSPORT_SCTP)
        return;
    if (parse_load(frame, at, ports, sizeof(ports)))
        return;
    quoted.source_port = load_be16(ports);
    quoted.destination_port = load_be16(ports + 2);
    slot = find_slot(replay, &quoted, hash_packet(replay, &quoted), &from);
    if (slot == NO_SLOT)
        return;
    flow = &replay->slots[slot];
    flow->icmp_errors += 1;
    flow->icmp_error_type = packet->icmp_type;
    flow->icmp_error_code = packet->icmp_code;
}

/* Returns 0 where there is no slot for it; then nothing but a retired flow has changed, and the packet can come again. */
static int count_packet(struct replay *replay, struct packet *packet)
{
    __u32 hash = hash_packet(replay, packet);
    int from = FLOW_TX;
    __u32 slot = find_slot(replay, packet, hash, &from);
    struct flow *flow;

    if (slot != NO_SLOT && packet->transport == TRANSPORT_TCP && tcp_renews(&replay->slots[slot], packet, from)) {
        retire_slot(replay, slot);
        slot = NO_SLOT;
    } else if (slot != NO_SLOT) {
        flow_deepen(&replay->slots[slot], &replay->traces[slot], packet, from);
        flow_add(&replay->slots[slot], packet, from);
    }
    if (slot == NO_SLOT) {
        slot = take_slot(replay, hash);
        if (slot == NO_SLOT)
            return 0;
        from = first_direction(packet);
        flow = &replay->slots[slot];
        flow->state = FLOW_LIVE;
        flow->id = ++replay->counters.flows;
        flow_open(flow, packet, from);
        flow_deepen(flow, &replay->traces[slot], packet, from);
        flow_add(flow, packet, from);
    }
    if (packet->more_fragments)
        remember_fragment(replay, packet, slot, from);
    return 1;
}

static __u64 packet_time_ns(const struct pcap_pkthdr *header)
{
    long long seconds = header->ts.tv_sec;
    __u64 time_ns;

    if (seconds < 0)
        seconds = 0;
    if (seconds >= LAST_SECOND)
        seconds = LAST_SECOND - 1;
    time_ns = (__u64)seconds * 1000000000u + (__u32)header->ts.tv_usec;
    return time_ns ? time_ns : 1; /* 0 says "not seen" */
}

/* Returns 0 where the packet has to wait for a slot. */
static int take_packet(struct replay *replay, __u64 time_ns)
{
    struct replay_counters *counters = &replay->counters;
    __u32 wire_bytes = replay->header->len;
    struct frame frame = {.bytes = replay->bytes, .captured = replay->header->caplen};
    struct packet packet = {.time_ns = time_ns};
    enum packet_disposition disposition;

    /* Some writers state the captured length only. */
    if (wire_bytes < frame.captured)
        wire_bytes = frame.captured;
    disposition = parse_frame(&frame, replay->link_type, wire_bytes, &packet);
    if (disposition == PACKET_TRUNCATED && frame.captured == wire_bytes)
        disposition = PACKET_MALFORMED;
    if (disposition == PACKET_FRAGMENT)
        disposition = count_fragment(replay, &packet);
    else if (disposition == PACKET_FLOW && !count_packet(replay, &packet))
        return 0;
    if (disposition == PACKET_FLOW && (packet.transport == TRANSPORT_ICMP || packet.transport == TRANSPORT_ICMPV6))
        attach_error(replay, &frame, &packet);
    counters->packets++;
    counters->bytes += wire_bytes;
    counters->disposition_packets[disposition]++;
    if (disposition == PACKET_FLOW) {
        counters->disposition_bytes[disposition] += packet.ip_bytes;
        counters->link_bytes += wire_bytes - packet.ip_bytes;
    } else {
        counters->disposition_bytes[disposition] += wire_bytes;
    }
    if (time_ns > counters->clock_ns)
        counters->clock_ns = time_ns;
    return 1;
}

/* ---- The library's calls ------------------------------------------------------------------------------------------------- */

void replay_close(struct replay *replay)
{
    if (!replay)
        return;
    if (replay->file)
        pcap_close(replay->file);
    free(replay->links);
    free(replay->traces);
    free(replay->buckets);
    free(replay->fragments);
    free(replay);
}

/*
 * `slots` is zeroed memory for `capacity` flows, the caller's, and outlives the handle; capacity is a power of two. Returns NULL
 * where memory is missing.
 */
struct replay *replay_new(struct flow *slots, __u32 capacity)
{
    struct replay *replay = calloc(1, sizeof(*replay));
    __u32 index;

    if (!replay)
        return NULL;
    replay->slots = slots;
    replay->capacity = capacity;
    replay->bucket_mask = capacity - 1;
    replay->free_slot = NO_SLOT;
    replay->links = calloc(capacity, sizeof(*replay->links));
    replay->buckets = malloc((size_t)capacity * sizeof(*replay->buckets));
    replay->fragments = calloc(FRAGMENTS, sizeof(*replay->fragments));
    replay->traces = calloc(capacity, sizeof(*replay->traces));
    if (!replay->links || !replay->traces || !replay->buckets || !replay->fragments ||
            getrandom(replay->seeds, sizeof(replay->seeds), 0) != (ssize_t)sizeof(replay->seeds)) {
        replay_close(replay);
        return NULL;
    }
    for (index = 0; index < capacity; index++)
        replay->buckets[index] = NO_SLOT;
    return replay;
}

static pcap_t *open_capture(const char *path, char *error, size_t error_size)
{
    char detail[PCAP_ERRBUF_SIZE] = "";
    pcap_t *file = pcap_open_offline_with_tstamp_precision(path, PCAP_TSTAMP_PRECISION_NANO, detail);

    if (!file)
        snprintf(error, error_size, "%s", detail);
    return file;
}

/* Whether `path` can be opened as a capture: 0, or -1 and the reason in `error`. */
int replay_check_file(const char *path, char *error, size_t error_size)
{
    pcap_t *file = open_capture(path, error, error_size);

    if (!file)
        return -1;
    pcap_close(file);
    return 0;
}

/* Go on with another file through the same table; the clock begins anew. Returns as replay_check_file. */
int replay_open_file(struct replay *replay, const char *path, char *error, size_t error_size)
{
    if (replay->file)
        pcap_close(replay->file);
    replay->header = NULL;
    replay->counters.next_ns = 0;
    replay->counters.clock_ns = 0;
    replay->counters.file_bytes_read = 0;
    replay->file = open_capture(path, error, error_size);
    if (!replay->file)
        return -1;
    replay->link_type = pcap_datalink(replay->file);
    return 0;
}

/* Read ahead. Returns 1 for a packet, 0 for none, -1 where the file breaks. */
static int read_packet(struct replay *replay, char *error, size_t error_size)
{
    int got;

    if (replay->header)
        return 1;
    if (!replay->file)
        return 0;
    got = pcap_next_ex(replay->file, &replay->header, &replay->bytes);
    if (got == 1) {
        replay->counters.next_ns = packet_time_ns(replay->header);
        return 1;
    }
    if (got != PCAP_ERROR_BREAK)
        snprintf(error, error_size, "%s", pcap_geterr(replay->file));
    replay->counters.file_bytes_read = (__u64)ftello(pcap_file(replay->file));
    pcap_close(replay->file);
    replay->file = NULL;
    replay->header = NULL;
    replay->counters.next_ns = 0;
    return got == PCAP_ERROR_BREAK ? 0 : -1;
}

/*
 * Take packets in file order until one is later than `until_ns`, `max_packets` are taken or the file ends. `error` is set for
 * REPLAY_CUT.
 */
enum replay_stop replay_advance(struct replay *replay, __u64 until_ns, __u64 max_packets, char *error, size_t error_size)
{
    enum replay_stop stop = REPLAY_PACKETS;
    int got;

    while (max_packets--) {
        got = read_packet(replay, error, error_size);
        if (got <= 0)
            return got ? REPLAY_CUT : REPLAY_END;
        if (replay->counters.next_ns > until_ns) {
            stop = REPLAY_UNTIL;
            break;
        }
        if (!take_packet(replay, replay->counters.next_ns)) {
            stop = REPLAY_TABLE_FULL;
            break;
        }
        replay->header = NULL;
        replay->counters.next_ns = 0;
    }
    if (replay->file)
        replay->counters.file_bytes_read = (__u64)ftello(pcap_file(replay->file));
    return stop;
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
