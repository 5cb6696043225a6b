"""Where `wirespan up` takes its flows from, and what it makes of a machine whose connections have both ends on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.cli.doctor.checks import why_not_live
from services.cli.doctor.finding import fail, ok, skipped, warn
from services.cli.errors import NotACaptureError, UsageError
from services.cli.run import up as command
from services.cli.run.pipeline import _live_settings, bus_ports, free_port
from services.cli.run.up import BUNDLED_CAPTURE, BUNDLED_SNAPSHOT, choose_source


def never():
    """A check that must not be made."""
    pytest.fail("nobody asked")


def test_this_machine_is_captured_where_it_can_be() -> None:
    """Nothing is replayed, and no cluster but one that was named gives the names."""
    source = choose_source(None, None, demo=False, why_not=lambda: None)
    assert (source.capture, source.kube_snapshot) == (None, None)
    assert source.said.startswith("capturing live on ")


def test_one_line_says_why_it_is_not() -> None:
    """What was found and what to do, and the bundled capture with its cluster instead."""
    source = choose_source(None, None, demo=False, why_not=lambda: fail("CAP_BPF is missing", "run it as root"))
    assert (source.capture, source.kube_snapshot) == (BUNDLED_CAPTURE, BUNDLED_SNAPSHOT)
    assert source.said == "replaying the bundled capture: CAP_BPF is missing; run it as root"


def test_what_is_asked_for_needs_no_check(tmp_path) -> None:
    """A file, or the demo, is replayed whatever the machine could do."""
    demo = choose_source(None, None, demo=True, why_not=never)
    assert (demo.capture, demo.said) == (BUNDLED_CAPTURE, "replaying the bundled capture in a loop")
    file = tmp_path / "c.pcap"
    file.write_bytes(b"\xd4\xc3\xb2\xa1" + bytes(20))
    named = choose_source(file, None, demo=False, why_not=never)
    assert (named.capture, named.kube_snapshot, named.said) == (file, None, f"replaying {file} in a loop")
    with pytest.raises(NotACaptureError):
        choose_source(tmp_path, None, demo=False, why_not=never)


def test_without_either_it_says_both_reasons(tmp_path, monkeypatch) -> None:
    """An installed package has no bundled capture: why live is not possible is said all the same."""
    monkeypatch.setattr(command, "BUNDLED_CAPTURE", tmp_path / "none")
    with pytest.raises(UsageError, match=r"no live capture: no bcc; install it\. And the bundled capture is not"):
        choose_source(None, None, demo=False, why_not=lambda: fail("no bcc", "install it"))
    with pytest.raises(UsageError, match=r"^the bundled capture is not"):
        choose_source(None, None, demo=True, why_not=never)


def test_the_first_failure_is_the_reason() -> None:
    """A warning is none, nor is what was skipped; nothing is compiled where something that only reads has failed."""
    fine = {"kernel": lambda: ok("new"), "cgroup2": lambda: warn("old", "new"), "load": lambda: skipped("needs bcc")}
    assert why_not_live(fine) is None
    broken = fine | {"capabilities": lambda: fail("none", "root"), "memlock": lambda: fail("low", "raise it"), "load": never}
    assert why_not_live(broken) == fail("none", "root")
    assert why_not_live(fine | {"bcc": lambda: fail("no bcc", "install it")}) == fail("no bcc", "install it")


@pytest.mark.parametrize(
    ("urls", "ports"),
    [
        ("nats://token@127.0.0.1:40293", [40293]),
        ("nats://nats", [4222]),
        ("nats", [4222]),
        ("tls://a:4333, nats://[::1]:4222,b:4333", [4222, 4333]),
    ],
)
def test_the_ports_of_the_bus(urls, ports) -> None:
    """Of every server that is named; the registered one where a URL names none."""
    assert bus_ports(urls) == ports


def test_live_settings_of_ones_own_go_first() -> None:
    """Loopback and short intervals are only defaults of a run on one machine; its own ports are left out in any case."""
    assert _live_settings({}, [40293]) == {
        "WIRESPAN_CAPTURE_LOOPBACK": "true",
        "WIRESPAN_CAPTURE_PROCESS_NAMES": "true",
        "WIRESPAN_CAPTURE_ACTIVE_INTERVAL_SECONDS": "5",
        "WIRESPAN_CAPTURE_DENY_PORTS": "40293",
    }
    own = {
        "WIRESPAN_CAPTURE_LOOPBACK": "false",
        "WIRESPAN_CAPTURE_PROCESS_NAMES": "false",
        "WIRESPAN_CAPTURE_ACTIVE_INTERVAL_SECONDS": "60",
        "WIRESPAN_CAPTURE_DENY_PORTS": "22,53",
    }
    assert _live_settings(own, [40293, 4317]) == own | {"WIRESPAN_CAPTURE_DENY_PORTS": "22,53,40293,4317"}


def test_a_port_is_none_that_clients_are_given() -> None:
    """Between the look and the service that listens there, a connection of anybody's would have it."""
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split())
    if last - first < 50_000:
        assert not first <= free_port() <= last
