"""How live flows are captured, for the settings: without what captures them, which a replay does not load."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from services.capture.flows.datagrams import DatagramRules
from services.capture.names.pieces import Names
from services.capture.names.question_records import QuestionRules

DEFAULT_CAPACITY: Final = 131_072


@dataclass(frozen=True, slots=True, kw_only=True)
class TapRules:
    """Which flows are kept. Empty lists of what is allowed allow everything; what is denied is denied anyway."""

    loopback: bool = False
    """Whether connections of 127.0.0.0/8 and ::1 are kept."""
    allow_networks: tuple[str, ...] = ()
    """Networks (CIDR), of which one holds the remote address."""
    deny_networks: tuple[str, ...] = ()
    allow_ports: tuple[int, ...] = ()
    """Ports, of which one is the local or the remote one."""
    deny_ports: tuple[int, ...] = ()
    transports: tuple[int, ...] = ()
    """IANA protocol numbers to keep."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveOptions:
    """How the node's flows are captured."""

    capacity: int = DEFAULT_CAPACITY
    """Flows open at the same time."""
    drain_interval_seconds: float = 1.0
    """How often the table is looked at."""
    rules: TapRules = field(default_factory=TapRules)
    cgroup_root: Path | None = None
    """Where the host's cgroup2 tree is mounted; found where it is None."""
    trace_context: bool = False
    """Whether the exchanges of application traces are told."""
    datagrams: DatagramRules = field(default_factory=DatagramRules)
    process_names: bool = False
    """Whether sockets outside pods and containers are told with the program that holds them."""
    names: Names = "off"
    """What is read of names."""
    hidden_names: tuple[str, ...] = ()
    """Domains of which nothing but themselves is told."""
    questions: QuestionRules = field(default_factory=QuestionRules)
    """Which DNS questions are told by themselves."""
    succession: str = ""
    """What captures have in common that take over from each other on a node; empty: this one knows of no other."""
    meeting_bytes: int = 0
    """In so many bytes the exchanges of all connections are remembered, for spans that ask for theirs; 0: they are not."""
