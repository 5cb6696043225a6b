"""A Service as kube-proxy makes one in its node's network: DNAT to a backend, and the source masqueraded on the way there."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tests.support.node.namespaces import Namespace


@dataclass(frozen=True, slots=True)
class Service:
    """An address and port that stand for a backend's."""

    transport: str
    address: str
    port: int
    backend: str
    backend_port: int

    @property
    def target(self) -> str:
        """The backend as NAT rules have it."""
        backend = f"[{self.backend}]" if ":" in self.backend else self.backend
        return f"{backend}:{self.backend_port}"


def _iptables(tool: str) -> Callable[[Namespace, Service], None]:
    def add(node: Namespace, service: Service) -> None:
        append = [tool.replace("iptables", "ip6tables") if ":" in service.backend else tool, "-w", "-t", "nat", "-A"]
        match = ["-d", service.address, "-p", service.transport, "--dport", str(service.port)]
        for chain in ("OUTPUT", "PREROUTING"):
            node.run(*append, chain, *match, "-j", "DNAT", "--to-destination", service.target)
        there = ["-d", service.backend, "-p", service.transport, "--dport", str(service.backend_port)]
        node.run(*append, "POSTROUTING", *there, "-j", "MASQUERADE", "--random-fully")

    return add


def _nftables(node: Namespace, service: Service) -> None:
    family = "ip6" if ":" in service.backend else "ip"
    node.run("nft", "add", "table", family, "services")
    for chain, priority in (("output", "-100"), ("prerouting", "dstnat"), ("postrouting", "srcnat")):
        node.run("nft", f"add chain {family} services {chain} {{ type nat hook {chain} priority {priority}; }}")
    match = f"{family} daddr {service.address} {service.transport} dport {service.port}"
    for chain in ("output", "prerouting"):
        node.run("nft", f"add rule {family} services {chain} {match} dnat to {service.target}")
    there = f"{family} daddr {service.backend} {service.transport} dport {service.backend_port}"
    node.run("nft", f"add rule {family} services postrouting {there} masquerade fully-random")


FORMS: Final[dict[str, tuple[str, Callable[[Namespace, Service], None]]]] = {
    "iptables": ("iptables-legacy", _iptables("iptables-legacy")),
    "iptables-nft": ("iptables-nft", _iptables("iptables-nft")),
    "nftables": ("nft", _nftables),
}
"""Form of kube-proxy's rules -> the tool it takes, and how a Service is added."""


def reason_to_skip(form: str, node: Namespace) -> str | None:
    """Why this form cannot be had here; None where it can."""
    tool, _ = FORMS[form]
    if shutil.which(tool) is None:
        return f"{tool} is not installed"
    probe = ["nft", "list", "tables"] if tool == "nft" else [tool, "-t", "nat", "-S"]
    found = subprocess.run(["ip", "netns", "exec", node.name, *probe], check=False, capture_output=True, text=True)
    return f"this kernel has no {form}: {found.stderr.strip()}" if found.returncode else None
