/* The flow engine as a cgroup_skb program: proves that the engine compiles for BPF and pass the verifier. */
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

BPF_HASH(flows_by_key, struct endpoints, struct flow, 1024);
BPF_ARRAY(empty_flow, struct flow, 1);
BPF_ARRAY(dispositions, __u64, 8);

static __always_inline int count(struct __sk_buff *skb, int from)
{
    struct packet packet = {};
    struct endpoints key = {};
    struct flow *flow;
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
        return 1;
    }
    flow = empty_flow.lookup(&zero);
    if (!flow)
        return 1;
    flows_by_key.update(&key, flow);
    flow = flows_by_key.lookup(&key);
    if (flow)
        flow_begin(flow, &packet, from);
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
