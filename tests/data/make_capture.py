"""Makes tests/data/cluster.pcapng, cluster.json and the table in README.md: `sudo python -m tests.data.make_capture`.

A cluster of two nodes is built from network namespaces, its workloads talk for some seconds, and what crosses the pods' bridge
of `worker-a` is recorded. Addresses of services are translated on the node, as kube-proxy does, to pods on the other node:
behind the bridge, so that every packet is recorded once. The machine's own network is not touched.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
from pathlib import Path
from typing import Final

from tests.data.cluster import BLACKHOLE, CAPTURED_AT_UNIX_NS, EXTERNAL_CLIENT, INGRESS_ADDRESS, NODES, PODS, pod, service
from tests.data.kubernetes_objects import kubernetes_list
from tests.data.recorder import Recorder
from tests.data.scenario import CONVERSATIONS, Conversation, conversation_table
from tests.data.shop import Lab, serving_everything
from tests.support.documents.generated_docs import with_section
from tests.support.node.namespaces import Namespace, Network, ended_by_signals

FOLDER: Final = Path(__file__).parent
SNAP_LENGTH: Final = 320
"""Enough for every header and for a `traceparent` among the first request headers."""
LINK_RATE: Final = "50mbit"
"""Between the nodes, so that transfers take a while and wait in a queue."""
_SETTLING_SECONDS: Final = 1.0
_TIMEOUT_SECONDS: Final = 20.0


def build_cluster(network: Network) -> dict[str, Namespace]:
    """Build nodes, pods, the world outside, service addresses and losses; returns the namespaces by name."""
    nodes = {node.name: network.node(node.name, f"{node.bridge}/24", f"{node.bridge6}/64") for node in NODES}
    namespaces = {name: node.namespace for name, node in nodes.items()}
    first, second = NODES
    links = [(f"{node.address}/24", f"{node.address6}/64") for node in NODES]
    network.link((namespaces[first.name], "eth0", links[0]), (namespaces[second.name], "eth0", links[1]))
    for node in NODES:
        namespaces[node.name].run(
            "tc", "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", LINK_RATE, "burst", "16kb", "latency", "200ms"
        )
    for here, there in ((first, second), (second, first)):
        namespaces[here.name].ip("route", "add", there.pod_cidrs[0], "via", there.address)
        namespaces[here.name].ip("route", "add", there.pod_cidrs[1], "via", there.address6)
    internet = namespaces["internet"] = network.namespace("internet")
    network.link((namespaces[first.name], "eth1", ["192.0.2.1/24"]), (internet, "eth0", ["192.0.2.2/24"]))
    internet.ip("address", "add", f"{EXTERNAL_CLIENT}/32", "dev", "lo")
    internet.ip("route", "add", "default", "via", "192.0.2.1")
    namespaces[first.name].ip("route", "add", "default", "via", "192.0.2.2")
    for found in PODS:
        if not found.host_network:
            added = nodes[found.node].pod(found.name, f"{found.address}/24", f"{found.address6}/64")
            added.namespace.set_sysctl("ipv4/tcp_syn_linear_timeouts", 0, optional=True)
            namespaces[found.name] = added.namespace
    _translate_services(namespaces[first.name])
    _lose_packets(namespaces)
    return namespaces


def _translate_services(node: Namespace) -> None:
    """Destination translation as kube-proxy does it, on the first node."""
    for name in ("kube-dns", "payments", "legacy", "archive"):
        found = service(name)
        for _, port, target, protocol in found.ports:
            destination = ("-d", found.address, "-p", protocol.lower(), "--dport", str(port))
            to = f"{pod(found.app).address}:{target}"
            node.run("iptables", "-w", "-t", "nat", "-A", "PREROUTING", *destination, "-j", "DNAT", "--to-destination", to)
    destination = ("-d", INGRESS_ADDRESS, "-p", "tcp", "--dport", "80")
    to = f"{pod('ingress-nginx').address}:80"
    node.run("iptables", "-w", "-t", "nat", "-A", "PREROUTING", *destination, "-j", "DNAT", "--to-destination", to)


def _lose_packets(namespaces: dict[str, Namespace]) -> None:
    """Drop what a conversation is to lose: all to the black hole, and regularly a data segment of the transfers."""
    backup, archive = pod("nightly-backup").address, pod("archive").address
    namespaces["worker-a"].run("iptables", "-w", "-A", "FORWARD", "-d", BLACKHOLE, "-j", "DROP")
    for source, destination, every in ((backup, archive, 25), (archive, backup, 20)):
        namespaces["worker-b"].run(
            "iptables", "-w", "-A", "FORWARD", "-s", source, "-d", destination, "-p", "tcp", "-m", "length", "--length", "500:",
            "-m", "statistic", "--mode", "nth", "--every", str(every), "--packet", str(every - 1), "-j", "DROP",
        )  # fmt: skip


async def converse(lab: Lab) -> Recorder:
    """Run every conversation and return the recording of it."""
    async with serving_everything(lab):
        with contextlib.ExitStack() as connections:
            connections.callback(lab.close)
            for conversation in CONVERSATIONS:
                if conversation.joined_late:
                    lab.opened[conversation.local[1]] = await conversation.connect(lab)
            await asyncio.sleep(_SETTLING_SECONDS)
            with Recorder(lab.namespaces["worker-a"], "cni0", SNAP_LENGTH) as recorder:
                async with asyncio.timeout(_TIMEOUT_SECONDS), asyncio.TaskGroup() as tasks:
                    for conversation in CONVERSATIONS:
                        tasks.create_task(_later(conversation, lab))
                await asyncio.sleep(0.3)
    return recorder


async def _later(conversation: Conversation, lab: Lab) -> None:
    await asyncio.sleep(conversation.begin_seconds)
    try:
        await conversation.run(conversation, lab)
    except Exception as error:
        error.add_note(f"{conversation.client} to {conversation.server}, from port {conversation.local[1]}")
        raise


def write_texts(folder: Path) -> None:
    """Write cluster.json and the table of README.md; neither needs the traffic."""
    (folder / "cluster.json").write_text(json.dumps(kubernetes_list(), indent=4, sort_keys=True) + "\n")
    readme = folder / "README.md"
    readme.write_text(with_section(readme.read_text(), "conversations", conversation_table()))


def main() -> int:
    """Make the files; 0 when they are written."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--texts-only", action="store_true", help="only cluster.json and the table in README.md; needs no root")
    parser.add_argument("--output", type=Path, default=FOLDER / "cluster.pcapng", help="where the capture goes")
    arguments = parser.parse_args()
    write_texts(FOLDER)
    if arguments.texts_only:
        return 0
    with ended_by_signals(), Network() as network:
        recorder = asyncio.run(converse(Lab(build_cluster(network))))
    recorder.write(arguments.output, CAPTURED_AT_UNIX_NS)
    sys.stdout.write(f"{len(recorder.packets)} packets, {arguments.output.stat().st_size} bytes in {arguments.output}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
