"""A service's life, with real processes and real signals."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.runtime.errors import Stopping
from services.runtime.lifecycle import Lifecycle

ROOT = Path(__file__).parents[3]

SERVICE = """
import asyncio, sys
from services.runtime.lifecycle import service_main
from services.runtime.settings import ServiceSettings

async def main(settings, lifecycle):
{body}

sys.exit(service_main("sample", ServiceSettings, main, exit_codes={{LookupError: 7}}))
"""
READY = "    print('ready', flush=True)\n"
UNTIL_STOPPED = READY + "    await lifecycle.stopping.wait()\n"


class Service:
    """A process that runs a service's main."""

    def __init__(self, body: str, **variables: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVICE.format(body=body)],
            cwd=ROOT,
            env={**os.environ, "WIRESPAN_LOG_FORMAT": "json", **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_ready(self) -> None:
        """Return once main runs."""
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def read_line(self) -> dict[str, Any]:
        """Return the next line of the log."""
        assert self._process.stderr is not None
        return json.loads(self._process.stderr.readline())

    def end(self) -> tuple[int, str]:
        """Return exit status and what was logged."""
        _output, logged = self._process.communicate(timeout=30)
        return self._process.returncode, logged

    def kill(self) -> None:
        """End it in any case."""
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def start() -> Iterator[Any]:
    """Start services that do not outlive the test."""
    services = []

    def start(body: str, **variables: str) -> Service:
        services.append(Service(body, **variables))
        return services[-1]

    yield start
    for service in services:
        service.kill()


def events(logged: str) -> list[str]:
    """The events of a log."""
    return [json.loads(line)["event"] for line in logged.splitlines()]


def test_a_service_that_has_done_its_work_exits_0(start) -> None:
    """Main's end is the service's, and its tasks end with it."""
    assert start("    lifecycle.start('forever', asyncio.sleep(1000))\n").end() == (0, "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains(start, number: signal.Signals) -> None:
    """Main learns that it should stop, finishes what it has begun, and the process exits 0."""
    service = start(UNTIL_STOPPED + "    await asyncio.sleep(0.05)\n    print('drained')\n")
    service.wait_ready()
    service.signal(number)
    exit_code, logged = service.end()

    assert exit_code == 0
    assert events(logged) == ["service.stop_requested"]


def test_a_drain_that_takes_too_long_is_cut_off(start) -> None:
    """After the deadline main is cancelled, its cleanup runs, and the process exits 1."""
    body = READY + "    try:\n        await asyncio.sleep(1000)\n    finally:\n        print('cleaned', file=sys.stderr)\n"
    service = start(body, WIRESPAN_SAMPLE_DRAIN_SECONDS="0.1")
    service.wait_ready()
    service.signal(signal.SIGTERM)
    exit_code, logged = service.end()

    assert exit_code == 1
    assert "service.drain_timed_out" in logged
    assert logged.endswith("cleaned\n")


def test_a_second_signal_forces(start) -> None:
    """Whoever does not want to wait for the drain says so twice."""
    service = start(READY + "    await asyncio.sleep(1000)\n")
    service.wait_ready()
    service.signal(signal.SIGTERM)
    assert service.read_line()["event"] == "service.stop_requested"
    service.signal(signal.SIGTERM)
    exit_code, logged = service.end()

    assert exit_code == 1
    assert events(logged) == ["service.stop_forced"]


def test_a_failed_task_stops_the_service(start) -> None:
    """One line names the task and its error; main is asked to stop as by a signal."""
    body = "    async def fail():\n        raise OSError('disk gone')\n    lifecycle.start('writer', fail())\n" + UNTIL_STOPPED
    exit_code, logged = start(body).end()

    assert exit_code == 1
    (line,) = map(json.loads, logged.splitlines())
    assert (line["event"], line["task"], line["service"]) == ("task.failed", "writer", "sample")
    assert "disk gone" in line["exception"]


def test_a_failed_main_is_one_line(start) -> None:
    """An error of main is logged once and the process exits 1."""
    exit_code, logged = start("    raise OSError('disk gone')\n").end()

    assert exit_code == 1
    assert events(logged) == ["service.failed"]


def test_an_error_of_the_users_has_its_own_exit_status(start) -> None:
    """Where the user can mend it, there is one plain line and no trace."""
    assert start("    raise LookupError('no such file')\n").end() == (7, "no such file\n")


def test_wrong_settings_exit_2_before_anything_opens(start) -> None:
    """Every fault is on standard error, main never runs."""
    exit_code, logged = start(READY, WIRESPAN_SAMPLE_DRAIN_SECONDS="soon", WIRESPAN_LOG_LEVEL="loud").end()

    assert exit_code == 2
    assert logged.splitlines()[0] == "wirespan-sample: cannot start with these settings:"
    assert [line.split("=")[0].strip() for line in logged.splitlines()[1:]] == [
        "WIRESPAN_LOG_LEVEL",
        "WIRESPAN_SAMPLE_DRAIN_SECONDS",
    ]


async def test_waiting_ends_when_the_service_is_to_stop() -> None:
    """`unless_stopping` gives the result, or raises Stopping with what it waited for cancelled."""
    lifecycle = Lifecycle()
    assert await lifecycle.unless_stopping(asyncio.sleep(0, "done")) == "done"

    forever = asyncio.ensure_future(asyncio.sleep(1000))
    lifecycle.stopping.set()
    with pytest.raises(Stopping):
        await lifecycle.unless_stopping(forever)
    assert forever.cancelled()


def test_stopping_while_waiting_is_a_clean_end(start) -> None:
    """A service that waits for its server when it is told to stop exits 0."""
    service = start(READY + "    await lifecycle.unless_stopping(asyncio.sleep(1000))\n")
    service.wait_ready()
    service.signal(signal.SIGTERM)

    assert service.end()[0] == 0


@pytest.mark.parametrize("service", ["capture", "enricher", "exporter"])
def test_services_say_what_they_take(service: str) -> None:
    """`--help` lists the settings and starts nothing; any other argument is a mistake."""
    command = [sys.executable, "-m", f"services.{service}"]
    told = subprocess.run([*command, "--help"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert f"WIRESPAN_{service.upper()}_DRAIN_SECONDS (number, 25.0)\n" in told.stdout
    assert "WIRESPAN_NATS_URL (text, nats://127.0.0.1:4222)\n" in told.stdout
    mistaken = subprocess.run([*command, "--node", "a"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert (mistaken.returncode, mistaken.stdout, mistaken.stderr.count("\n")) == (2, "", 1)
