"""docker-compose.yml and our images, for real: the bundled capture and a large one, killed services, a live tap.

Images of others that cannot be pulled are replaced by look-alikes; those of Tempo, Prometheus and Grafana are not needed here.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import nats
import pytest

from services.capture.live.owners.cgroups import NoCgroup2Error, find_root
from tests.e2e.backends.compose_spans import many_flows, read, replayed, talk, with_port
from tests.e2e.conftest import CAPTURE, ROOT, WIRESPAN
from tests.support.containers.compose import PATIENCE_SECONDS, Project, fetch_compose_v2
from tests.support.containers.docker_engine import EngineUnavailableError, docker_engine

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]  # the first to ask builds the images

BASE = "debian:bookworm-slim"
SERVICES = ("enricher", "exporter-file", "capture-once")
PROFILES = ("replay", "core", "live", "tools", "shop")
FLOWS = 20_000
USER = 65532
CAPABILITIES = {"NET_BIND_SERVICE": 10, "NET_ADMIN": 12, "SYS_ADMIN": 21, "PERFMON": 38, "BPF": 39}


@pytest.fixture(scope="module")
def engine() -> Iterator[Mapping[str, str]]:
    """The environment in which Docker and Compose work; where they cannot, the tests are skipped with the reason."""
    try:
        with docker_engine() as environment:
            # What people set for their own projects is not for these.
            yield {name: value for name, value in environment.items() if not name.startswith(("COMPOSE_", "WIRESPAN_"))}
    except EngineUnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def images(engine: Mapping[str, str]) -> None:
    """Our images, built from this checkout on the base that the registry gives, or on its look-alike."""
    (nats_tag,) = {line.split()[1] for line in (ROOT / "docker-compose.yml").read_text().splitlines() if "image: nats:" in line}

    def there(tag: str) -> bool:
        for command in (("docker", "image", "inspect", tag), ("docker", "pull", tag)):
            if subprocess.run(command, env=engine, capture_output=True, check=False, timeout=300).returncode == 0:
                return True
        return False

    if not (there(BASE) and there(nats_tag)):
        script = ROOT / "deploy" / "development" / "stand-in-images.sh"
        made = subprocess.run([script, nats_tag], env=engine, capture_output=True, text=True, check=False, timeout=900)
        if made.returncode != 0:
            pytest.skip(f"no registry gives {BASE}, and it cannot be made here: {made.stderr.strip()[-300:]}")
    Project("build", engine).compose("build", *SERVICES, "tap", profiles=("core", "tools"))


@pytest.fixture(scope="module")
def compose_v2(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """Compose 2, where it can be had."""
    return fetch_compose_v2(tmp_path_factory.mktemp("compose-v2"))


@pytest.fixture
def project(engine: Mapping[str, str], images: None, tmp_path: Path) -> Iterator[Project]:
    """A project whose spans go to a folder of the test's own, which the exporter in its container may write to."""
    folder = tmp_path / "spans"
    folder.mkdir()
    folder.chmod(0o777)
    with Project(f"wirespan-{os.getpid()}", {**engine, "SPANS": str(folder), "CLUSTER_NAME": "shop"}) as project:
        yield project


def status(project: Project, service: str) -> dict[str, str]:
    """/proc/1/status in the service's container."""
    lines = project.run_inside(service, "cat", "/proc/1/status").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def exited(project: Project, service: str) -> bool:
    """Whether it has come to its end."""
    return project.state(service)["Status"] == "exited"


def test_both_generations_of_compose_take_the_file(engine: Mapping[str, str], compose_v2: Path | None) -> None:
    """Compose 1.29 and 2 accept every profile; without one, everything up to Grafana is started, with `core` only our own."""
    first = Project("config", engine)
    for profile in PROFILES:
        first.compose("config", "--quiet", profiles=(profile,))
    if compose_v2 is None:
        pytest.skip("Compose 2 cannot be had here; 1.29 takes the file")
    second = Project("config", engine, command=(compose_v2,))
    services = {profile: set(second.compose("config", "--services", profiles=(profile,)).split()) for profile in PROFILES}
    everything = {"nats", "capture", "enricher", "exporter", "tempo", "prometheus", "grafana"}
    assert set(second.compose("config", "--services", profiles=()).split()) == services["replay"] == everything
    assert services["core"] == {"nats", *SERVICES}
    assert services["live"] == everything - {"capture", "enricher"} | {"capture-live", "enricher-live"}


@pytest.mark.parametrize("generation", [1, 2])
def test_the_core_profile_gives_the_spans_of_wirespan_replay(
    project: Project, compose_v2: Path | None, generation: int, tmp_path: Path, environment: dict[str, str]
) -> None:
    """All services become healthy, the capture ends with 0, and the file has the same spans, to the byte."""
    if generation == 2:
        if compose_v2 is None:
            pytest.skip("Compose 2 cannot be had here")
        project = Project(project.name, project.environment, command=(compose_v2,))
    project.compose("up", "--detach", "--no-build")
    project.until_healthy("nats", "enricher", "exporter-file")
    expected = replayed(CAPTURE, tmp_path, environment)
    project.until("the spans are there", lambda: len(read(project.spans)) >= len(expected))
    assert read(project.spans) == expected
    project.until("the capture has ended", lambda: exited(project, "capture-once"))
    assert project.state("capture-once")["ExitCode"] == 0
    project.compose("stop")
    for service in ("enricher", "exporter-file", "nats"):
        assert project.state(service)["ExitCode"] == 0, f"{service} was killed"


def test_services_have_no_rights(project: Project) -> None:
    """No root, no capability, no way to any, nothing to write to but /tmp, and no compiler in reach."""
    project.compose("up", "--detach", "--no-build", "enricher", "exporter-file")
    for service in ("enricher", "exporter-file"):
        found = project.inspect(service)
        assert found["HostConfig"]["ReadonlyRootfs"]
        assert found["HostConfig"]["CapDrop"] == ["ALL"]
        assert not found["HostConfig"]["Privileged"]
        assert "no-new-privileges:true" in found["HostConfig"]["SecurityOpt"]
        process = status(project, service)
        assert set(process["Uid"].split()) == {str(USER)}
        assert int(process["CapEff"], 16) == int(process["CapBnd"], 16) == 0
        assert process["NoNewPrivs"] == "1"
        written = "touch /here 2>/dev/null && echo root; touch /tmp/here && echo tmp"
        found = "for each in cc gcc clang pip sh; do command -v $each; done"
        assert project.run_inside(service, "sh", "-c", f"{written}; {found}").split() == ["tmp", "/usr/bin/sh"]


def test_images_say_what_they_are(project: Project) -> None:
    """Title, licence, version and a health check; the user is nobody, in capture too."""
    version = subprocess.run(
        [*WIRESPAN, "--version"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    ).stdout.split()[1]
    for name in ("capture", "enricher", "exporter"):
        (image,) = json.loads(project.docker("image", "inspect", f"wirespan-{name}:dev"))
        labels = image["Config"]["Labels"]
        assert labels["org.opencontainers.image.title"] == f"wirespan-{name}"
        assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
        assert labels["org.opencontainers.image.version"] == version
        assert image["Config"]["User"] == f"{USER}:{USER}"
        assert "/opt/wirespan/healthcheck.py" in image["Config"]["Healthcheck"]["Test"]


def test_whoever_is_killed_midway_nothing_is_lost(project: Project, tmp_path: Path, environment: dict[str, str]) -> None:
    """The stream is full when capture and NATS are killed, and half is written when enricher and exporter are: same spans.

    `docker kill` is an operator's and Docker leaves it at that: they start the service again. A service that dies by itself,
    here by a signal from outside, is started again by Docker.
    """
    capture = many_flows(tmp_path / "many.pcap", FLOWS)
    expected = replayed(capture, tmp_path, environment)
    assert len(expected) == FLOWS
    project.environment |= {"CAPTURE": str(capture), "STREAM_BYTES": str(1 << 20), "LOG_LEVEL": "debug"}
    project.compose("up", "--detach", "--no-build", "enricher", "exporter-file")
    project.until_healthy("nats", "enricher", "exporter-file")
    project.docker("pause", project.container("enricher"))
    project.compose("up", "--detach", "--no-build", "--no-deps", "capture-once")

    for kill in (die, kill_and_start, die):
        refusals = project.log("capture-once").count('"batch.refused"')
        project.until_logged("capture-once", '"batch.refused"', refusals + 1)
        kill(project, "capture-once")
    die(project, "nats")
    kill_and_start(project, "nats")
    project.docker("unpause", project.container("enricher"))

    for kill in (die, kill_and_start):
        size = project.spans.stat().st_size
        project.until(
            "more spans are there, or all", lambda size=size: grown(project.spans, size) or len(read(project.spans)) >= FLOWS
        )
        kill(project, "enricher")
        kill(project, "exporter-file")
    project.until("all spans are there", lambda: len(read(project.spans)) >= FLOWS)
    assert read(project.spans) == expected
    project.until("the capture has ended", lambda: exited(project, "capture-once"))
    assert project.state("capture-once")["ExitCode"] == 0


def grown(path: Path, size: int) -> bool:
    """Whether the file is longer than that."""
    return path.stat().st_size > size


def kill_and_start(project: Project, service: str) -> None:
    """`docker kill`, `docker start`."""
    project.docker("kill", project.container(service))
    project.docker("start", project.container(service))


def die(project: Project, service: str) -> None:
    """Kill the service's process behind Docker's back, and wait until Docker has started it again."""
    container = project.inspect(service)
    os.kill(container["State"]["Pid"], signal.SIGKILL)
    project.until(f"{service} is started again", lambda: project.inspect(service)["RestartCount"] > container["RestartCount"])
    project.until(f"{service} runs", lambda: project.state(service)["Running"])


async def test_each_user_of_the_bus_may_do_what_it_does(project: Project) -> None:
    """Nobody comes in without a password; capture cannot listen, the reader can and cannot write; the tap has what it needs."""
    await asyncio.to_thread(project.compose, "up", "--detach", "--no-build", "enricher", "exporter-file")
    await asyncio.to_thread(project.until_healthy, "nats", "enricher", "exporter-file")
    networks = project.inspect("nats")["NetworkSettings"]["Networks"]
    address = next(iter(networks.values()))["IPAddress"]
    refusals: list[str] = []

    async def refused(error: Exception) -> None:
        refusals.append(str(error))

    with socket.create_connection((address, 4222), timeout=PATIENCE_SECONDS) as stranger:
        stranger.sendall(b'CONNECT {"verbose": false}\r\nPING\r\n')
        with stranger.makefile("rb") as answers:
            assert b"Authorization Violation" in answers.read()
    passwords = dict(line.split("=", 1) for line in (ROOT / ".env").read_text().splitlines() if line.startswith("NATS_"))
    for user, subjects in {"capture": ["flows.raw.>"], "exporter": ["flows.enriched.>"], "reader": []}.items():
        refusals.clear()
        client = await nats.connect(
            f"nats://{address}:4222",
            user=user,
            password=passwords[f"NATS_{user.upper()}_PASSWORD"],
            error_cb=refused,
            inbox_prefix=f"_INBOX_{user}",
        )
        for subject in subjects:
            await client.subscribe(subject)
        await client.publish("flows.raw.another-node", b"")
        await client.publish("$JS.API.STREAM.DELETE.FLOWS_RAW", b"")
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(refusals) < 2 + len(subjects):
                await client.flush()
        await client.close()
        assert all("permissions violation" in each.lower() for each in refusals)

    def tapped() -> None:
        tap = project.compose("run", "--detach", "tap", "-o", "json", profiles=("core", "tools")).strip()
        listening = ("sh", "-c", "wget -q -O - 'http://127.0.0.1:8222/connz?subs=1'")
        project.until("the tap listens", lambda: '"flows.enriched.' in project.run_inside("nats", *listening))
        project.compose("up", "--detach", "--no-build", "--no-deps", "capture-once")
        project.until("the tap shows records", lambda: '"redis"' in project.docker("logs", tap))

    await asyncio.to_thread(tapped)


def test_the_live_profile_sees_the_hosts_connections(project: Project) -> None:
    """With no more than three capabilities capture taps the host's sockets, and a known connection has its span."""
    try:
        cgroup = find_root()
    except NoCgroup2Error as error:
        pytest.skip(str(error))
    project.environment |= {"CGROUP2": str(cgroup), "LOOPBACK": "true"}
    granted = {"BPF", "PERFMON", "NET_ADMIN"}
    if int(project.docker("version", "--format", "{{.Server.Version}}").split(".")[0]) < 23:
        project.environment |= {"CAP_BPF": "SYS_ADMIN", "CAP_PERFMON": "NET_BIND_SERVICE"}
        granted = {"SYS_ADMIN", "NET_BIND_SERVICE", "NET_ADMIN"}
    project.compose("up", "--detach", "--no-build", "enricher-live", "exporter-file", "capture-live", profiles=("live", "core"))
    project.until_healthy("nats", "enricher-live", "exporter-file", "capture-live")

    port = talk(requests=3)
    project.until("the connection is there", lambda: len(with_port(read(project.spans), port)) == 2)
    attributes = [
        {each["key"]: each["value"] for each in json.loads(span)[2]["attributes"]}
        for span in with_port(read(project.spans), port)
    ]
    assert {each["flow.observer"]["stringValue"] for each in attributes} == {"client", "server"}

    found = project.inspect("capture-live")["HostConfig"]
    assert (found["ReadonlyRootfs"], found["Privileged"], found["PidMode"]) == (True, False, "")
    assert set(found["CapAdd"]) == {*granted}
    process = status(project, "capture-live")
    assert int(process["CapBnd"], 16) == sum(1 << CAPABILITIES[name] for name in granted)
    project.compose("stop", profiles=("live", "core"))
    assert project.state("capture-live")["ExitCode"] == 0
