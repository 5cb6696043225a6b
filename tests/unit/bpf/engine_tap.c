/* The flow engine as a cgroup_skb program: proves that the engine compiles for BPF and passes the verifier. */
#define FLOW_ADD(member, value) ((void)__sync_fetch_and_add(&(member), (value)))

typedef struct __sk_buff *frame_source;

#define parse_load(source, offset, target, size) bpf_skb_load_bytes(source, offset, target, size)

#include "engine/parse.h"
#include "engine/update.h"

struct endpoints {
    __u8 source_address[16];
    __u8 destination_address[16];
    __u16 source_port;
    __u16 destination_port;
    __u32 transport;
};

struct numbered {
    struct endpoints flow;
    __u32 number;
};

typedef const struct endpoints *question_host;

#include "engine/questions.h"

BPF_TABLE("lru_hash", struct numbered, struct question, open_questions, 1024);
BPF_HASH(flows_by_key, struct endpoints, struct flow, 1024);
BPF_ARRAY(empty_flow, struct flow, 1);
BPF_ARRAY(dispositions, __u64, PACKET_DISPOSITIONS);

static __always_inline struct question *question_open(question_host host, __u16 number)
{
    struct numbered key = {.flow = *host, .number = number};

    return open_questions.lookup(&key);
}

static __always_inline int question_keep(question_host host, __u16 number, const struct question *question)
{
    struct numbered key = {.flow = *host, .number = number};
    struct question kept = *question;

    return !open_questions.update(&key, &kept);
}

static __always_inline void question_forget(question_host host, __u16 number)
{
    struct numbered key = {.flow = *host, .number = number};

    open_questions.delete(&key);
}

static __always_inline int count(struct __sk_buff *skb, int from)
{
    struct packet packet = {};
    struct endpoints key = {};
    struct flow *flow;
    struct question_message message = {};
    int disposition;
    int zero = 0;
    __u64 *seen;

    packet.time_ns = skb->tstamp; /* the test says when */
    disposition = parse_ip(skb, 0, skb->len, &packet);
    seen = dispositions.lookup(&disposition);
    if (seen)
        __sync_fetch_and_add(seen, 1);
    if (disposition != PACKET_FLOW)
        return 1;
    __builtin_memcpy(key.source_address, from == FLOW_TX ? packet.source_address : packet.destination_address, 16);
    __builtin_memcpy(key.destination_address, from == FLOW_TX ? packet.destination_address : packet.source_address, 16);
    key.source_port = from == FLOW_TX ? packet.source_port : packet.destination_port;
    key.destination_port = from == FLOW_TX ? packet.destination_port : packet.source_port;
    key.transport = packet.transport;
    flow = flows_by_key.lookup(&key);
    if (flow) {
        flow_update(flow, &packet, from);
    } else {
        flow = empty_flow.lookup(&zero);
        if (!flow)
            return 1;
        flows_by_key.update(&key, flow);
        flow = flows_by_key.lookup(&key);
        if (!flow)
            return 1;
        flow_begin(flow, &packet, from);
    }
    if (is_looked_at(flow))
        look_at(&key, skb, packet.transport_offset, flow, &packet, from,
                flow->local_port == 53 || flow->remote_port == 53 ? FLOW_OPENS_NUMBERED : 0, &message);
    return 1;
}

int on_egress(struct __sk_buff *skb)
{
    return count(skb, FLOW_TX);
}

int on_ingress(struct __sk_buff *skb)
{
    return count(skb, FLOW_RX);
}
