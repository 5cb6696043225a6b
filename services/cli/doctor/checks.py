"""The checks of `wirespan doctor`: all at once, each within a time limit, none with a traceback."""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final

from services.cli.doctor.cgroups import check_cgroup2, check_memory
from services.cli.doctor.finding import Finding, Status, fail
from services.cli.doctor.kernel import check_architecture, check_btf, check_jit, check_kernel, check_lockdown
from services.cli.doctor.kubernetes import KubernetesAccess, check_kubernetes
from services.cli.doctor.loading import check_bcc, check_load, check_replay_library
from services.cli.doctor.nats import check_nats, check_nats_server
from services.cli.doctor.otlp import check_otlp
from services.cli.doctor.privileges import check_capabilities, check_memlock
from services.cli.run.destination import EndpointDestination, FileDestination
from services.cli.settings import BusSettings
from services.runtime.settings import NatsSettings

DEADLINE_SECONDS: Final = 12.0
"""For all checks together; each has shorter limits of its own."""


_LOADING: Final = frozenset({"bcc", "load"})
"""Checks that start a child: half a second each."""


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report."""

    name: str
    finding: Finding


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is looked at besides the machine itself."""

    bus: BusSettings
    nats_url: str | None = None
    """As given on the command line, which makes it count even where it is the default one."""
    destination: EndpointDestination | FileDestination
    kubernetes: KubernetesAccess

    @property
    def nats_named(self) -> bool:
        """Whether somebody named the NATS to use."""
        default = NatsSettings().url
        return bool(self.nats_url or os.environ.get("WIRESPAN_NATS_URL")) or self.bus.nats.url != default


def checks(subject: Subject) -> dict[str, Callable[[], Finding]]:
    """Return every check by its name, in the order of the report."""
    release = platform.release()
    return {
        "kernel": lambda: check_kernel(release),
        "architecture": lambda: check_architecture(platform.machine()),
        "btf": check_btf,
        "jit": check_jit,
        "lockdown": check_lockdown,
        "capabilities": check_capabilities,
        "cgroup2": check_cgroup2,
        "bcc": check_bcc,
        "load": check_load,
        "memory": check_memory,
        "memlock": lambda: check_memlock(release),
        "replay": check_replay_library,
        "nats-server": lambda: check_nats_server(needed=not subject.nats_named),
        "nats": lambda: check_nats(subject.bus, named=subject.nats_named),
        "otlp": lambda: check_otlp(subject.destination),
        "kubernetes": lambda: check_kubernetes(subject.kubernetes),
    }


def run(looks: Mapping[str, Callable[[], Finding]], *, deadline_seconds: float = DEADLINE_SECONDS) -> Iterator[Check]:
    """Start all checks at once and yield each in its turn, as soon as it is done; at the deadline, that it is not."""
    until = time.monotonic() + deadline_seconds
    started = {name: _start(name, look) for name, look in looks.items()}
    for name, answer in started.items():
        yield Check(name, _finding(answer, until, deadline_seconds))


def why_not_live(looks: Mapping[str, Callable[[], Finding]] | None = None) -> Finding | None:
    """Return the first of the checks that live capture needs and that failed; None where it can work.

    `looks` are those checks; None asks this machine. What only reads comes first: nothing is compiled where that fails.
    """
    looks = _needed_for_live() if looks is None else looks
    reading = {name: look for name, look in looks.items() if name not in _LOADING}
    loading = {name: look for name, look in looks.items() if name in _LOADING}
    for stage in (reading, loading):
        for check in list(run(stage)):
            if check.finding.status is Status.FAIL:
                return check.finding
    return None


def _needed_for_live() -> dict[str, Callable[[], Finding]]:
    release = platform.release()
    return {
        "kernel": lambda: check_kernel(release),
        "architecture": lambda: check_architecture(platform.machine()),
        "capabilities": check_capabilities,
        "cgroup2": check_cgroup2,
        "memlock": lambda: check_memlock(release),
        "bcc": check_bcc,
        "load": check_load,
    }


def needed_and_missing(report: list[Check]) -> list[str]:
    """Return the names of the checks that failed."""
    return [check.name for check in report if check.finding.status is Status.FAIL]


def _start(name: str, look: Callable[[], Finding]) -> Future[Finding]:
    answer: Future[Finding] = Future()

    def work() -> None:
        try:
            answer.set_result(look())
        except Exception as error:  # noqa: BLE001 - whatever it is, it is one line of the report
            answer.set_result(fail(f"the check itself failed: {type(error).__name__}: {error}", "please report this"))

    # A daemon: one that hangs, in a credential plugin for example, does not keep the command from ending.
    threading.Thread(target=work, name=f"doctor-{name}", daemon=True).start()
    return answer


def _finding(answer: Future[Finding], until: float, deadline_seconds: float) -> Finding:
    try:
        return answer.result(max(until - time.monotonic(), 0.0))
    except TimeoutError:
        return fail(f"no answer within {deadline_seconds:g} s", "see what it waits for; the machine may be overloaded")
