"""Two pods of a cluster on this machine: network namespaces that are linked, control groups named as the kubelet names them, a
client and a server in them, and what the API server would say of both.

    with ClusterInABox(folder) as box:
        ...a Pipeline with box.settings...

The client, pod of the StatefulSet `frontend`, asks the server, pod of the StatefulSet `cart`, again and again,
over a connection of its own each time, and knocks where nobody listens. Every fifth question is a request of HTTP that carries
the box's `traceparent`; the answer is always one of HTTP.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from typing import Final, Self

from services.capture.live.owners.cgroups import find_root
from tests.support.node.namespaces import Namespace, Network
from tests.unit.enricher.objects_as_json import node, pod

NODE: Final = "node-a"
PORT: Final = 8080
CLOSED_PORT: Final = 8081

# Joined before the namespace is entered, in which control groups are not mounted.
_JOINED: Final = ("sh", "-c", 'echo 0 > "$0/cgroup.procs" && exec "$@"')
_SERVER: Final = """
import socket, sys, time
listener = socket.create_server((sys.argv[1], int(sys.argv[2])))
print("listening", flush=True)
while True:
    connection, _ = listener.accept()
    with connection:
        while connection.recv(4096):
            time.sleep(0.02)
            connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 6\\r\\n\\r\\nanswer")
"""
_CLIENT: Final = """
import itertools, socket, sys, time
traced = f"GET /cart HTTP/1.1\\r\\nHost: cart\\r\\ntraceparent: {sys.argv[4]}\\r\\nAccept: */*\\r\\n\\r\\n".encode()
for number in itertools.count():
    with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as connection:
        connection.sendall(b"question" if number % 5 else traced)
        connection.recv(100)
    with socket.socket() as refused:
        refused.connect_ex((sys.argv[1], int(sys.argv[3])))
    time.sleep(0.2)
"""


class ClusterInABox(AbstractContextManager["ClusterInABox"]):
    """What `folder` gets is the snapshot. Needs root. Nothing is left behind."""

    def __init__(self, folder: Path) -> None:
        subnet = f"10.{192 + os.getpid() % 32}.{os.getpid() // 32 % 256}"
        self.network = f"{subnet}.0/24"
        self.client, self.server = f"{subnet}.2", f"{subnet}.3"
        self.snapshot = folder / "box.json"
        self.trace_id, self.span_id = uuid.uuid4().int, uuid.uuid4().int >> 64
        """Of the span that asks, in whatever sends it to a backend."""
        self._uids = {name: str(uuid.uuid4()) for name in ("frontend", "cart")}

    def __enter__(self) -> Self:
        pods = {"frontend": self.client, "cart": self.server}
        trees = [pod(f"{name}-0", pods[name], uid=uid, owner=("StatefulSet", name)) for name, uid in self._uids.items()]
        self.snapshot.write_text(json.dumps({"kind": "List", "items": [node(NODE, "192.0.2.1"), *trees]}))
        with ExitStack() as stack:
            network = stack.enter_context(Network())
            frontend, cart = (network.namespace(name) for name in self._uids)
            network.link((frontend, "eth0", [f"{self.client}/24"]), (cart, "eth0", [f"{self.server}/24"]))
            groups = {name: stack.enter_context(_ControlGroup(uid)) for name, uid in self._uids.items()}
            server = self._start(stack, cart, groups["cart"], _SERVER, self.server, PORT)
            assert server.stdout is not None
            assert server.stdout.readline() == b"listening\n"
            context = f"00-{self.trace_id:032x}-{self.span_id:016x}-01"
            self._start(stack, frontend, groups["frontend"], _CLIENT, self.server, PORT, CLOSED_PORT, context)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._stack.close()

    @property
    def settings(self) -> dict[str, str]:
        """Variables of a `Pipeline` that captures the box live and knows its pods."""
        return {
            "WIRESPAN_CAPTURE_REPLAY_FILES": "",
            "WIRESPAN_CAPTURE_REPLAY_LOOP": "",
            "WIRESPAN_CAPTURE_NODE": NODE,
            "WIRESPAN_CAPTURE_ALLOW_NETWORKS": self.network,
            "WIRESPAN_ENRICHER_KUBE_SNAPSHOT": str(self.snapshot),
        }

    @staticmethod
    def _start(
        stack: ExitStack, namespace: Namespace, group: _ControlGroup, program: str, *arguments: object
    ) -> subprocess.Popen[bytes]:
        inside = ("ip", "netns", "exec", namespace.name, sys.executable, "-c", program, *map(str, arguments))
        process = stack.enter_context(subprocess.Popen([*_JOINED, group.path, *inside], stdout=subprocess.PIPE))
        stack.callback(process.kill)
        return process


class _ControlGroup(AbstractContextManager["_ControlGroup"]):
    """That of a pod's container, as the kubelet's cgroupfs driver lays it out below a top of our own."""

    def __init__(self, uid: str) -> None:
        self._top = find_root() / f"wirespan-test-{os.getpid()}-{uid[:8]}"
        self.path = self._top / "kubepods" / "besteffort" / f"pod{uid}" / f"{uid.replace('-', '') * 2}"

    def __enter__(self) -> Self:
        self.path.mkdir(parents=True)
        return self

    def __exit__(self, *_exc_info: object) -> None:
        for directory in (self.path, *self.path.parents[:4]):
            with suppress(FileNotFoundError):
                directory.rmdir()
