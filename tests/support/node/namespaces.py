"""Network namespaces as nodes and pods: a small cluster's network on one machine, gone without a trace when it is left.

Needs root. Everything lives in namespaces of its own (named `ws-<pid>-<run>-<name>`, so parallel runs do not meet); no
interface, address, rule or setting of the machine's own namespace is touched.

    with Network() as network:
        node = network.node("worker-a", "10.42.0.1/24", "fd42::1/64")
        pod = node.pod("cart", "10.42.0.12/24", "fd42::c/64")
        server = pod.namespace.socket(socket.AF_INET, socket.SOCK_STREAM)
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import itertools
import os
import re
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

NAMESPACES: Final = Path("/run/netns")
POD_MTU: Final = 1450
"""What a VXLAN overlay on Ethernet leaves to a pod."""

_CLONE_NEWNET: Final = 0x40000000
_SIOCETHTOOL: Final = 0x8946
_OFFLOADS_OFF: Final = {"tx checksum": 0x17, "tso": 0x1F, "gso": 0x24, "gro": 0x2C}
"""ETHTOOL_S* commands of linux/ethtool.h that make packets on a virtual link look as they would on a wire."""
_NAME: Final = re.compile(r"ws-(\d+)-\d+-.+")
_libc: Final = ctypes.CDLL(None, use_errno=True)
_runs: Final = itertools.count()


@dataclass(frozen=True, slots=True)
class Namespace:
    """One network namespace, by its name in /run/netns."""

    name: str

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread is in the namespace; a socket made meanwhile stays there for its life."""
        with Path("/proc/thread-self/ns/net").open("rb") as before, (NAMESPACES / self.name).open("rb") as inside:
            _set_namespace(inside.fileno())
            try:
                yield
            finally:
                _set_namespace(before.fileno())

    def socket(self, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM, protocol: int = 0) -> socket.socket:
        """A socket of this namespace, usable from anywhere."""
        with self.entered():
            return socket.socket(family, kind, protocol)

    def run(self, *command: str) -> str:
        """Run a command to its end in the namespace and return what it printed. Raises CalledProcessError with its stderr."""
        return _run("ip", "netns", "exec", self.name, *command)

    def spawn(self, command: Sequence[str], **options: object) -> subprocess.Popen[bytes]:
        """Start a process in the namespace; the caller ends it before the network is left."""
        return subprocess.Popen(["ip", "netns", "exec", self.name, *command], **options)  # type: ignore[call-overload, no-any-return]

    def ip(self, *arguments: str) -> str:
        """`ip` with these arguments, in the namespace."""
        return _run("ip", "-n", self.name, *arguments)

    def set_sysctl(self, name: str, value: object, *, optional: bool = False) -> None:
        """Set a setting by its path below /proc/sys/net; an optional one that this kernel has not is left out."""
        path = Path("/proc/sys/net", name)
        with self.entered():
            if not optional or path.exists():
                path.write_text(f"{value}\n")

    def sysctl(self, name: str) -> str:
        """A setting by its path below /proc/sys/net."""
        with self.entered():
            return Path("/proc/sys/net", name).read_text().strip()

    def disable_offloads(self, interface: str) -> None:
        """No segmentation or checksum offload on a virtual interface, so that packets are seen as a wire carries them."""
        with self.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            for command in _OFFLOADS_OFF.values():
                value = ctypes.create_string_buffer(struct.pack("II", command, 0))
                request = struct.pack("16sP", interface.encode(), ctypes.addressof(value))
                with contextlib.suppress(OSError):  # an interface that has no such offload
                    fcntl.ioctl(control, _SIOCETHTOOL, request)


@dataclass(frozen=True, slots=True)
class Pod:
    """A namespace with one link, `eth0`, to its node's bridge."""

    namespace: Namespace
    addresses: tuple[str, ...]
    """Without prefix length, in the order given."""


@dataclass(slots=True)
class Node:
    """A namespace with a bridge, `cni0`, that its pods hang on, and forwarding between its links."""

    network: Network
    name: str
    namespace: Namespace
    bridge_addresses: tuple[str, ...]
    pods: list[Pod] = field(default_factory=list)

    def pod(self, name: str, *addresses: str) -> Pod:
        """Add a pod with these addresses (with prefix length); its default routes lead to the bridge."""
        namespace = self.network.namespace(name)
        port = f"veth{len(self.pods)}"
        port_address = f"0a:58:fe:00:00:{len(self.pods):02x}"
        namespace.ip(
            "link", "add", "eth0", "mtu", str(POD_MTU), "address", hardware_address(addresses[0]), "type", "veth",
            "peer", "name", port, "mtu", str(POD_MTU), "address", port_address, "netns", self.namespace.name,
        )  # fmt: skip
        for owner, interface in ((namespace, "eth0"), (self.namespace, port)):
            owner.disable_offloads(interface)
        _quiet(self.namespace, port)
        self.namespace.ip("link", "set", port, "master", "cni0", "up")
        configure(namespace, "eth0", *addresses)
        for gateway in self.bridge_addresses:
            namespace.ip("route", "add", "default", "via", gateway.partition("/")[0])
        pod = Pod(namespace, tuple(address.partition("/")[0] for address in addresses))
        self.pods.append(pod)
        return pod


class Network:
    """The namespaces of one run. As a context manager it deletes every one of them, whatever happened meanwhile."""

    def __init__(self) -> None:
        self._prefix = f"ws-{os.getpid()}-{next(_runs)}"
        self._names: list[str] = []

    def __enter__(self) -> Self:
        remove_stale()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for name in reversed(self._names):
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)
        self._names.clear()

    def namespace(self, name: str) -> Namespace:
        """Add a namespace with nothing but its loopback interface, up."""
        full = f"{self._prefix}-{name}"
        self._names.append(full)
        _run("ip", "netns", "add", full)
        namespace = Namespace(full)
        namespace.ip("link", "set", "lo", "up")
        return namespace

    def node(self, name: str, *bridge_addresses: str) -> Node:
        """Add a node whose bridge has these addresses (with prefix length)."""
        namespace = self.namespace(name)
        namespace.set_sysctl("ipv4/ip_forward", 1)
        namespace.set_sysctl("ipv6/conf/all/forwarding", 1)
        namespace.ip(
            "link", "add", "cni0", "mtu", str(POD_MTU), "address", hardware_address(bridge_addresses[0]),
            "type", "bridge", "stp_state", "0", "mcast_snooping", "0",
        )  # fmt: skip
        for family in ("ip", "ip6"):
            namespace.set_sysctl(f"bridge/bridge-nf-call-{family}tables", 0, optional=True)
        namespace.disable_offloads("cni0")
        configure(namespace, "cni0", *bridge_addresses)
        return Node(self, name, namespace, bridge_addresses)

    def link(
        self,
        left: tuple[Namespace, str, Sequence[str]],
        right: tuple[Namespace, str, Sequence[str]],
        *,
        offloads: bool = False,
    ) -> None:
        """Join two namespaces by a link whose packets are a wire's, or with `offloads` of up to 64 KiB; each end is (namespace,
        interface name, its addresses with prefix length).
        """
        left[0].ip("link", "add", left[1], "type", "veth", "peer", "name", right[1], "netns", right[0].name)
        for namespace, interface, addresses in (left, right):
            if not offloads:
                namespace.disable_offloads(interface)
            configure(namespace, interface, *addresses)


def configure(namespace: Namespace, interface: str, *addresses: str) -> None:
    """Give an interface its addresses and bring it up; it sends nothing of its own accord but ARP and neighbour discovery."""
    _quiet(namespace, interface)
    for address in addresses:
        namespace.ip("address", "add", address, "dev", interface, *(["nodad"] if ":" in address else []))
    namespace.ip("link", "set", interface, "up")


def hardware_address(address: str) -> str:
    """The locally administered MAC that container networks derive from an IPv4 address (0a:58 and its four bytes)."""
    return "0a:58:" + ":".join(f"{byte:02x}" for byte in socket.inet_aton(address.partition("/")[0]))


def remove_stale() -> None:
    """Delete namespaces of runs that were killed: those whose process is gone."""
    for path in sorted(NAMESPACES.glob("ws-*")):
        found = _NAME.fullmatch(path.name)
        if found and not Path("/proc", found[1]).exists():
            subprocess.run(["ip", "netns", "delete", path.name], check=False, capture_output=True)


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP raise SystemExit in here, so that context managers clean up; Python does that for Ctrl-C itself."""

    def stop(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _quiet(namespace: Namespace, interface: str) -> None:
    namespace.set_sysctl(f"ipv6/conf/{interface}/addr_gen_mode", 1)
    namespace.set_sysctl(f"ipv6/conf/{interface}/accept_ra", 0)
    namespace.set_sysctl(f"ipv6/conf/{interface}/accept_dad", 0)


def _set_namespace(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")


def _run(*command: str) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        error = subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
        error.add_note(done.stderr.strip())
        raise error
    return done.stdout
