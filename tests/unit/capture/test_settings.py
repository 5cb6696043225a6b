"""Capture's settings."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from services.capture.flows.timing import FlowTableSettings
from services.capture.settings import CaptureSettings
from services.runtime.settings import SettingsError, describe, load

PREFIX = "WIRESPAN_CAPTURE_"


def test_the_files_are_all_that_must_be_said() -> None:
    """With files alone the node is the host's name, the run has a random identity, and flows have their defaults."""
    settings = load(CaptureSettings, prefix=PREFIX, environ={"WIRESPAN_CAPTURE_REPLAY_FILES": "a.pcap,/b.pcapng"})

    assert settings.replay_files == (Path("a.pcap"), Path("/b.pcapng"))
    assert (settings.node_name, settings.epoch, settings.replay_loop) == (socket.gethostname(), "", False)
    assert settings.flow_table == FlowTableSettings()


def test_times_of_flows_can_be_set() -> None:
    """What decides when records come is a setting each."""
    environ = {
        "WIRESPAN_CAPTURE_REPLAY_FILES": "a",
        "WIRESPAN_CAPTURE_ACTIVE_INTERVAL_SECONDS": "5",
        "WIRESPAN_CAPTURE_LINGER_SECONDS": "0",
        "WIRESPAN_CAPTURE_TCP_IDLE_SECONDS": "60",
        "WIRESPAN_CAPTURE_UDP_IDLE_SECONDS": "1.5",
    }
    assert load(CaptureSettings, prefix=PREFIX, environ=environ).flow_table == FlowTableSettings(
        active_interval_seconds=5, linger_seconds=0, tcp_idle_seconds=60, udp_idle_seconds=1.5
    )


@pytest.mark.parametrize(
    ("variable", "value", "fault"),
    [
        ("EPOCH", "a/b", "WIRESPAN_CAPTURE_EPOCH='a/b': takes text that matches ^[A-Za-z0-9_-]*$"),
        ("MAX_FLOWS", "1", "WIRESPAN_CAPTURE_MAX_FLOWS='1': takes an integer of at least 1024"),
        (
            "DNS_PORTS",
            "53, dns",
            "WIRESPAN_CAPTURE_DNS_PORTS='53, dns': takes values separated by commas, each an integer of at least 1",
        ),
    ],
)
def test_what_cannot_work_is_refused(variable: str, value: str, fault: str) -> None:
    """A character that message ids give a meaning, a table too small, a port that is no number."""
    environ = {"WIRESPAN_CAPTURE_REPLAY_FILES": "a", f"WIRESPAN_CAPTURE_{variable}": value}
    with pytest.raises(SettingsError) as error:
        load(CaptureSettings, prefix=PREFIX, environ=environ)
    assert error.value.faults[0].startswith(fault)


def test_every_variable_is_described() -> None:
    """The table of settings has no empty line."""
    assert all(row.description for row in describe(CaptureSettings, PREFIX))
