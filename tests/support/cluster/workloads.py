"""What runs beside the chart in a cluster: servers that answer, and clients that say how often they were answered."""

from __future__ import annotations

import json
import signal
from dataclasses import dataclass
from typing import Any, Final

from tests.support.cluster.cluster import Cluster
from tests.support.cluster.images import tag

Tree = dict[str, Any]
NAMESPACE: Final = "shop"
PORT: Final = 8080
UDP_PORT: Final = 8053
_SERVER: Final = """
import http.server, socket, sys, threading
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        answer = b"answer" * (2_000 if self.path == "/long" else 1)
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
    def log_message(self, *_):
        pass
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.bind(("0.0.0.0", int(sys.argv[2])))
def echo():
    while True:
        data, peer = datagrams.recvfrom(1500)
        datagrams.sendto(b"answer to " + data, peer)
threading.Thread(target=echo, daemon=True).start()
http.server.ThreadingHTTPServer.request_queue_size = 128
http.server.ThreadingHTTPServer(("0.0.0.0", int(sys.argv[1])), Handler).serve_forever()
"""
# One line for each connection, by which its spans can be found; SIGINT ends it, and it says that it has said everything.
_CLIENT: Final = """
import itertools, json, signal, socket, sys, time
host, port, wanted, pause, datagram_port = sys.argv[1], *map(float, sys.argv[2:6])
stopped = []
signal.signal(signal.SIGINT, lambda *_: stopped.append(True))
def say(**what):
    print(json.dumps(what), flush=True)
def ask():
    connection = socket.create_connection((host, int(port)), timeout=20)
    with connection:
        connection.sendall(b"GET / HTTP/1.1\\r\\nHost: server\\r\\nConnection: close\\r\\n\\r\\n")
        answer = b""
        while more := connection.recv(4096):
            answer += more
        assert answer.endswith(b"answer"), answer
        return connection.getsockname()[1]
def ask_by_datagram(connected):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(20)
        if connected:
            asking.connect((host, int(datagram_port)))
            asking.send(b"question")
            answer = asking.recv(100)
        else:
            asking.sendto(b"question", (host, int(datagram_port)))
            answer, _ = asking.recvfrom(100)
        assert answer == b"answer to question", answer
        return asking.getsockname()[1]
for number in itertools.count():
    if stopped or wanted and number >= wanted:
        break
    began = time.time_ns()
    try:
        say(transport="tcp", began=began, port=ask())
        if datagram_port:
            say(transport="udp", began=time.time_ns(), port=ask_by_datagram(number % 2))
    except OSError as error:
        say(failed=repr(error), began=began)
    time.sleep(pause)
say(done=True)
if not wanted:
    signal.pause()
"""


@dataclass(frozen=True, slots=True)
class Asked:
    """One exchange that a client says it had."""

    transport: str
    began: int
    port: int
    """Of the client's socket."""


def container(program: str, *arguments: object, **more: Any) -> Tree:
    """A container of a Python program."""
    return {
        "name": "main",
        "image": f"wirespan:{tag()}",
        "command": ["python3", "-uc", program],
        "args": [str(each) for each in arguments],
        **more,
    }


def serve(cluster: Cluster, name: str, nodes: tuple[str, ...], *, host_network: bool = False) -> str:
    """Run a server on each of the nodes behind one Service; return the Service's address once all are ready."""
    labels = {"app": name}
    # The kubelet reads 10 KiB of an answer and closes, which resets a connection that has more; by TCP it says nothing.
    probe = {"httpGet": {"path": "/long", "port": PORT}, "periodSeconds": 1}
    # Nor is a server started anew because a busy machine took long to start it.
    alive = {"tcpSocket": {"port": PORT}, "periodSeconds": 1, "failureThreshold": 600}
    labelled = {"name": NAMESPACE}
    cluster.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": labelled})
    ports = [
        {"name": "http", "port": 80, "targetPort": PORT},
        {"name": "udp", "port": 53, "targetPort": UDP_PORT, "protocol": "UDP"},
    ]
    metadata = {"name": name, "namespace": NAMESPACE}
    service = {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"selector": labels, "ports": ports}}
    address: str = cluster.api.apply(service)["spec"]["clusterIP"]
    for node in nodes:
        spec = {
            "nodeName": node,
            "hostNetwork": host_network,
            "terminationGracePeriodSeconds": 0,
            "containers": [container(_SERVER, PORT, UDP_PORT, readinessProbe=probe, livenessProbe=alive)],
        }
        named = {"name": f"{name}-on-{node}", "namespace": NAMESPACE, "labels": labels}
        cluster.api.apply({"apiVersion": "v1", "kind": "Pod", "metadata": named, "spec": spec})
    cluster.api.until(
        f"the servers of {name} are ready",
        lambda: len([pod for pod in cluster.api.pods(NAMESPACE, f"app={name}") if is_ready(pod)]) == len(nodes),
    )
    until_routed(cluster, address, len(nodes))
    return address


def until_routed(cluster: Cluster, address: str, backends: int) -> None:
    """Wait until every node's kube-proxy has a Service with so many backends."""
    for node in cluster.nodes.values():
        cluster.api.until(
            f"{node.name} leads {address} to {backends} backends",
            lambda node=node: _backends(node.run("iptables-save", "-t", "nat"), address) >= backends,
        )


def _backends(rules: str, address: str) -> int:
    chains = {line.split()[-1] for line in rules.splitlines() if f"-d {address}/32" in line and "--dport 80 " in line}
    return sum(
        1 for line in rules.splitlines() if any(line.startswith(f"-A {chain} ") for chain in chains) and "KUBE-SEP-" in line
    )


class Client:
    """A pod that asks a server, over a new connection each time."""

    def __init__(self, cluster: Cluster, name: str, node: str, *, host_network: bool = False) -> None:
        self.cluster, self.name, self.node = cluster, name, node
        self._host_network = host_network

    @property
    def path(self) -> str:
        """The pod's."""
        return f"/api/v1/namespaces/{NAMESPACE}/pods/{self.name}"

    def start(self, address: str, *, times: int = 0, pause: float = 0.05, port: int = 80, udp_port: int = 0) -> None:
        """Ask so often, or until it is told to stop; with `udp_port` each time by a datagram as well."""
        spec = {
            "nodeName": self.node,
            "hostNetwork": self._host_network,
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "containers": [container(_CLIENT, address, port, times, pause, udp_port)],
        }
        metadata = {"name": self.name, "namespace": NAMESPACE, "labels": {"app": self.name}}
        self.cluster.api.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
        self.cluster.api.until(f"{self.name} asks", lambda: self.asked() or self.ended())

    def pod(self) -> Tree:
        """The pod as it is now."""
        return self.cluster.api.get(self.path)

    def ended(self) -> bool:
        """Whether it has come to its end."""
        return self.pod()["status"].get("phase") in {"Succeeded", "Failed"}

    def stop(self) -> list[Asked]:
        """Have it end what it is at, and return all that it says it has had."""
        (status,) = self.pod()["status"]["containerStatuses"]
        self.cluster.nodes[self.node].signal(status["containerID"], signal.SIGINT)
        return self.done()

    def done(self) -> list[Asked]:
        """All that it says it has had, once it has said everything; none of it may have failed."""
        self.cluster.api.until(f"{self.name} has done", lambda: any(each.get("done") for each in self._lines()))
        assert self.failures() == []
        return self.asked()

    def asked(self) -> list[Asked]:
        """What it says it has had so far."""
        return _asked(self._lines())

    def failures(self) -> list[Tree]:
        """What it says has failed."""
        return [each for each in self._lines() if "failed" in each]

    def _lines(self) -> list[Tree]:
        return _lines(self.cluster.api.log(NAMESPACE, self.name))


def _lines(log: str) -> list[Tree]:
    return [json.loads(line) for line in log.splitlines() if line.startswith("{") and line.endswith("}")]


def _asked(lines: list[Tree]) -> list[Asked]:
    return [Asked(each["transport"], each["began"], each["port"]) for each in lines if "port" in each]


def job(
    cluster: Cluster, name: str, address: str, *, pods: int, times: int, pause: float, node: str = ""
) -> dict[str, list[Asked]]:
    """Run a Job of so many clients, some at a time; return what each one's pod says it has had, once all have done."""
    asking = container(_CLIENT, address, 80, times, pause, 0)
    spec = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": [asking]}
    if node:
        spec["nodeName"] = node
    task = {"completions": pods, "parallelism": 5, "backoffLimit": 0, "template": {"spec": spec}}
    metadata = {"name": name, "namespace": NAMESPACE}
    cluster.api.apply({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": task})
    path = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs/{name}"
    cluster.api.until(f"the pods of {name} are done", lambda: cluster.api.get(path)["status"].get("succeeded", 0) >= pods)
    names = [pod["metadata"]["name"] for pod in cluster.api.pods(NAMESPACE, f"job-name={name}")]
    lines = {pod: _lines(cluster.api.log(NAMESPACE, pod)) for pod in names}
    assert [line for each in lines.values() for line in each if "failed" in line] == []
    return {pod: _asked(each) for pod, each in lines.items()}


def is_ready(pod: Tree) -> bool:
    """Whether the pod's condition says so."""
    return any(each["type"] == "Ready" and each["status"] == "True" for each in pod["status"].get("conditions", ()))
