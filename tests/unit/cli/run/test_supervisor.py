"""Child processes: restarted, stopped, and never left behind. The children are real."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from services.cli.errors import ServiceFailedError
from services.cli.run.processes.supervisor import Command, RestartPolicy, Supervisor, describe_exit


def python(tmp_path: Path, source: str, *, name: str = "child", ends: bool = False, fatal=frozenset({2})) -> Command:
    """A child that runs `source`."""
    return Command(
        name=name,
        arguments=(sys.executable, "-I", "-S", "-c", textwrap.dedent(source)),
        environ=os.environ,
        log_path=tmp_path / f"{name}.log",
        ends=ends,
        fatal_exits=fatal,
    )


async def written(path: Path) -> str:
    """Wait for a file that a child writes in one go."""
    while True:
        text = content(path)
        if text is not None:
            return text
        await asyncio.sleep(0.01)


def content(path: Path) -> str | None:
    """The file's content, None before it is there."""
    try:
        return path.read_text()
    except FileNotFoundError:
        return None


def announcing(path: Path, source: str) -> str:
    """Source that writes the child's process id to a file, whole or not at all, and goes on with `source`."""
    return f"""
import os, signal
with open({str(path)!r} + ".new", "w") as file:
    file.write(str(os.getpid()))
os.rename({str(path)!r} + ".new", {str(path)!r})
{source}
"""


def alive(pid: int) -> bool:
    """Whether there is such a process, and it is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_delays_double_until_the_limit() -> None:
    """Five restarts within a minute, each later than the last; the sixth is refused."""
    policy = RestartPolicy(limit=5, window_seconds=60, first_delay_seconds=0.1)
    assert [policy.delay_seconds(now) for now in range(6)] == [0.1, 0.2, 0.4, 0.8, 1.6, None]


def test_old_restarts_are_forgiven() -> None:
    """What dies once an hour is started again for ever."""
    policy = RestartPolicy(limit=1, window_seconds=60, first_delay_seconds=0.1)
    assert [policy.delay_seconds(now) for now in (0, 59, 60, 3600)] == [0.1, None, 0.1, 0.1]


async def test_a_process_that_dies_is_started_again(tmp_path) -> None:
    """A kill is survived, and said in one line."""
    said: list[str] = []
    mark, pid_file = tmp_path / "mark", tmp_path / "pid"
    source = announcing(
        pid_file,
        f"""
if not os.path.exists({str(mark)!r}):
    open({str(mark)!r}, "w").close()
    os.kill(os.getpid(), signal.SIGKILL)
signal.pause()
""",
    )
    async with Supervisor(say=said.append) as supervisor:
        supervisor.start(python(tmp_path, source))
        first = await written(pid_file)
        while await written(pid_file) == first:
            await supervisor.guard(asyncio.sleep(0.01))
    assert said == ["child was killed by SIGKILL; starting it again"]
    assert not alive(int(pid_file.read_text()))


async def test_a_process_that_keeps_dying_fails_the_run(tmp_path, monkeypatch) -> None:
    """After the last restart the failure is raised where the run waits, with what the process ended with."""
    monkeypatch.setattr(
        "services.cli.run.processes.supervisor.RestartPolicy", lambda: RestartPolicy(limit=2, first_delay_seconds=0.001)
    )
    said: list[str] = []
    async with Supervisor(say=said.append) as supervisor:
        supervisor.start(python(tmp_path, "raise SystemExit(7)"))
        with pytest.raises(ServiceFailedError, match="child ended with status 7; 2 restarts") as caught:
            await supervisor.guard(asyncio.Event().wait())
    assert (caught.value.service, caught.value.exit_code, len(said)) == ("child", 7, 2)


async def test_what_a_restart_cannot_mend_is_not_restarted(tmp_path) -> None:
    """Faulty settings stay faulty."""
    said: list[str] = []
    async with Supervisor(say=said.append) as supervisor:
        supervisor.start(python(tmp_path, "raise SystemExit(2)"))
        with pytest.raises(ServiceFailedError, match=r"child ended with status 2$"):
            await supervisor.guard(asyncio.Event().wait())
    assert said == []


async def test_a_natural_end_is_no_failure(tmp_path) -> None:
    """Capture ends when the file does; the run goes on."""
    done = tmp_path / "done"
    async with Supervisor(say=pytest.fail) as supervisor:
        supervisor.start(python(tmp_path, announcing(done, ""), ends=True))
        await supervisor.guard(written(done))
        await supervisor.stop("child")


async def test_processes_stop_in_reverse_order_of_their_start(tmp_path) -> None:
    """Who gives is stopped before who takes."""
    order = tmp_path / "order"
    source = """
def stop(*_):
    with open({order!r}, "a") as file:
        file.write({name!r})
    raise SystemExit
signal.signal(signal.SIGTERM, stop)
signal.pause()
"""
    async with Supervisor(say=pytest.fail) as supervisor:
        for name in "ab":
            ready = tmp_path / f"ready-{name}"
            body = source.format(order=str(order), name=name).replace(
                "signal.pause()", announcing(ready, "signal.pause()").strip()
            )
            supervisor.start(python(tmp_path, "import signal\n" + body, name=name))
            await written(ready)
    assert order.read_text() == "ba"


async def test_a_process_that_ignores_the_request_is_killed(tmp_path) -> None:
    """Nothing outlives its grace."""
    said: list[str] = []
    pid_file = tmp_path / "pid"
    source = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + announcing(
        pid_file, "while True: signal.pause()"
    )
    async with Supervisor(say=said.append) as supervisor:
        supervisor.start(python(tmp_path, source))
        pid = int(await written(pid_file))
        await supervisor.stop("child", grace_seconds=0.1)
        assert not alive(pid)
    assert said == ["child did not stop within 0.1 s: killed"]


def test_no_process_outlives_a_supervisor_that_is_killed(tmp_path) -> None:
    """The kernel takes the children of a parent that is killed with SIGKILL."""
    pid_file = tmp_path / "pid"
    parent = f"""
import asyncio, os, sys
from pathlib import Path
from services.cli.run.processes.supervisor import Command, Supervisor
async def main():
    async with Supervisor(say=print) as supervisor:
        arguments = (sys.executable, "-I", "-S", "-c", {announcing(pid_file, "signal.pause()")!r})
        log_path = Path({str(tmp_path / "log")!r})
        supervisor.start(Command(name="child", arguments=arguments, environ=os.environ, log_path=log_path))
        await asyncio.Event().wait()
asyncio.run(main())
"""
    process = subprocess.Popen([sys.executable, "-c", parent], cwd=Path(__file__).parents[4])
    try:
        pid = int(asyncio.run(asyncio.wait_for(written(pid_file), 30)))
        child = os.pidfd_open(pid)
    finally:
        process.kill()
        process.wait()
    asyncio.run(_readable(child))
    os.close(child)
    assert not alive(pid)


async def _readable(file_descriptor: int) -> None:
    """A pidfd becomes readable when its process has ended."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(file_descriptor, ended.set)
    await asyncio.wait_for(ended.wait(), 30)
    loop.remove_reader(file_descriptor)


def test_an_exit_is_described_in_words() -> None:
    """Statuses by number, signals by name."""
    assert describe_exit(7) == "ended with status 7"
    assert describe_exit(-signal.SIGKILL) == "was killed by SIGKILL"
