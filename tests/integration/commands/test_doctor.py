"""`wirespan doctor` on this machine: the real kernel, compiler, bus, backend; a Kubernetes API that speaks real HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import pytest

from services.cli.doctor.finding import Finding, Status
from services.cli.doctor.kubernetes import RESOURCES, VERBS, KubernetesAccess, check_kubernetes
from services.cli.doctor.nats import check_nats
from services.cli.doctor.nats_sync import sync_trouble
from services.cli.doctor.otlp import check_otlp
from services.cli.run.destination import EndpointDestination
from services.cli.settings import BusSettings
from services.runtime.host.cgroup2 import look_at_tree
from services.runtime.nats import bus as runtime_bus
from services.runtime.settings import NatsSettings
from tests.support.certificates import make_certificates
from tests.support.pipeline.nats_server import NatsServer
from tests.support.pipeline.otlp_receiver import OtlpReceiver, Refuse
from tests.support.ports import free_port

ROOT = Path(__file__).parents[3]
COMMAND = [sys.executable, "-m", "services.cli", "doctor"]
WITHOUT_CGROUP2 = "umount -l $(awk '$3 == \"cgroup2\" {print $2}' /proc/mounts)"
"""Shell: in a mount namespace of its own, no cgroup2 is mounted any more."""
NAMES = [
    "kernel", "architecture", "btf", "jit", "lockdown", "capabilities", "cgroup2", "bcc", "load", "memory", "memlock",
    "replay", "nats-server", "nats", "otlp", "kubernetes",
]  # fmt: skip


def why_not_here() -> str | None:
    """Why this machine cannot show a live capture's checks; None where it can."""
    if os.geteuid() != 0:
        return "needs root"
    if subprocess.run(["/usr/bin/python3", "-I", "-c", "import bcc; bcc.BPF"], capture_output=True, check=False).returncode:
        return "needs python3-bpfcc"
    return None


_reason = why_not_here()
needs_bpf = pytest.mark.skipif(_reason is not None, reason=_reason or "")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def environ(home: Path, **variables: str) -> dict[str, str]:
    """An environment that knows no cluster, bus or backend but those given."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "WIRESPAN_", "KUBE"))}
    return kept | {"PYTHONPATH": str(ROOT), "HOME": str(home), **variables}


class Report:
    """What the command said."""

    def __init__(self, home: Path, *arguments: str | Path, within: tuple[str | Path, ...] = (), **variables: str) -> None:
        done = subprocess.run(
            [*within, *COMMAND, "--json", *arguments],
            cwd=home,
            env=environ(home, **variables),
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Traceback" not in done.stderr
        self.exit_status, self.stderr = done.returncode, done.stderr
        self.lines = [json.loads(line) for line in done.stdout.splitlines()]

    def __getitem__(self, name: str) -> dict[str, str]:
        return next(line for line in self.lines if line["name"] == name)

    def failed(self) -> list[str]:
        """The names of what is needed and missing."""
        return [line["name"] for line in self.lines if line["status"] == "fail"]


@needs_bpf
def test_this_machine_can_capture(tmp_path: Path) -> None:
    """As root on a machine with bcc all is there; every check has its line and nothing is left attached."""
    report = Report(tmp_path)
    assert (report.exit_status, report.failed()) == (0, [])
    assert [line["name"] for line in report.lines] == NAMES
    assert report.stderr == "live capture can work here\n"
    assert report["load"]["found"].endswith("as machine code")
    assert str(look_at_tree().root) in report["cgroup2"]["found"]
    assert [report[name]["status"] for name in ("nats", "otlp", "kubernetes")] == ["skipped"] * 3
    assert all(line["fix"] is None for line in report.lines if line["status"] in ("ok", "skipped"))


@needs_bpf
def test_plain_lines(tmp_path: Path) -> None:
    """Without a terminal each check is one line without colour."""
    done = subprocess.run(COMMAND, cwd=tmp_path, env=environ(tmp_path), capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert [line.split()[1] for line in lines] == NAMES
    assert "\x1b" not in done.stdout


@needs_bpf
def test_without_capabilities(tmp_path: Path) -> None:
    """A root without them can load nothing: both lines say so, and how to give them."""
    report = Report(tmp_path, within=("setpriv", "--bounding-set", "-all"))
    assert (report.exit_status, report.failed()) == (1, ["capabilities", "load"])
    assert "CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN are missing" in report["capabilities"]["found"]
    assert report["load"]["fix"] == "see `capabilities`"
    assert report.stderr == "needed and missing: capabilities, load\n"


@needs_bpf
def test_with_the_three_capabilities_only(tmp_path: Path) -> None:
    """CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN are enough."""
    report = Report(tmp_path, within=("setpriv", "--bounding-set", "-all,+bpf,+perfmon,+net_admin"))
    assert (report["capabilities"]["status"], report["load"]["status"]) == ("ok", "ok")
    assert report["capabilities"]["found"] == "CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN"


@needs_bpf
def test_one_capability_missing(tmp_path: Path) -> None:
    """What loading does not need and attaching does is missed too."""
    report = Report(tmp_path, within=("setpriv", "--bounding-set", "-all,+bpf,+perfmon"))
    assert report["capabilities"]["found"] == "CAP_NET_ADMIN is missing"
    assert report["load"]["status"] == "ok"
    assert report.exit_status == 1


@needs_bpf
def test_in_a_user_namespace(tmp_path: Path) -> None:
    """All capabilities, and none that counts."""
    within = ("unshare", "--user", "--map-root-user")
    if subprocess.run([*within, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine gives no user namespaces")
    report = Report(tmp_path, within=within)
    assert report.failed() == ["capabilities", "load"]
    assert "user namespace" in report["capabilities"]["found"]


@needs_root
def test_without_cgroup2(tmp_path: Path) -> None:
    """A machine that has version 1 only, or nothing mounted."""
    script = 'umount -l $(awk \'$3 == "cgroup2" {print $2}\' /proc/mounts) && exec "$@"'
    report = Report(tmp_path, within=("unshare", "--mount", "sh", "-c", script, "sh"))
    assert report["cgroup2"]["status"] == "fail"
    assert "mount -t cgroup2" in report["cgroup2"]["fix"]


@contextlib.contextmanager
def own_cgroup(parent: Path, **files: str) -> Iterator[Path]:
    """A control group below `parent` for this test."""
    path = parent / f"wirespan-doctor-{os.getpid()}"
    path.mkdir()
    try:
        for name, content in files.items():
            (path / name).write_text(content)
        yield path
    finally:
        path.rmdir()


@needs_root
def test_in_a_container_that_sees_its_own_cgroups_only(tmp_path: Path) -> None:
    """A private cgroup namespace, as container runtimes give: attaching there would see next to nothing."""
    root = look_at_tree().root
    if root is None:
        pytest.skip("no cgroup2 here")
    with own_cgroup(root) as group:
        into = ("sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh")
        mounted = ("sh", "-c", f'{WITHOUT_CGROUP2} && mount -t cgroup2 none {root} && exec "$@"', "sh")
        report = Report(tmp_path, within=(*into, "unshare", "--mount", "--cgroup", *mounted))
    assert report["cgroup2"]["status"] == "fail"
    assert "a container's own part" in report["cgroup2"]["found"]


@needs_root
def test_in_little_memory(tmp_path: Path) -> None:
    """The limit of the real control group is read, of whichever version."""
    parent, name = Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"
    if not parent.exists():
        root = look_at_tree().root
        if root is None or "memory" not in (root / "cgroup.subtree_control").read_text().split():
            pytest.skip("no memory controller here")
        parent, name = root, "memory.max"
    source = "from services.cli.doctor.cgroups import check_memory; print(check_memory())"
    with own_cgroup(parent, **{name: str(80 << 20)}) as group:
        script = f'echo $$ > {group}/cgroup.procs && exec "$@"'
        command = ["sh", "-c", script, "sh", sys.executable, "-c", source]
        done = subprocess.run(command, env=environ(tmp_path), capture_output=True, text=True, check=False)
    assert "limit of 80 MiB" in done.stdout, done.stderr


def test_the_neighbours(tmp_path: Path, nats_server: NatsServer, otlp_receiver: OtlpReceiver) -> None:
    """The command looks at the bus, the backend and the cluster that its options name, and at no nats-server to start."""
    with KubernetesApi(set()).serving() as api:
        arguments = ("--nats-url", nats_server.url, "--otlp-endpoint", otlp_receiver.grpc_endpoint)
        report = Report(tmp_path, *arguments, "--kubeconfig", api.kubeconfig(tmp_path))
    assert [report[name]["status"] for name in ("nats", "otlp", "kubernetes")] == ["ok"] * 3
    assert report["nats-server"]["status"] == "skipped"


def test_what_is_asked_for_is_needed(tmp_path: Path, nats_server: NatsServer, otlp_receiver: OtlpReceiver) -> None:
    """Neighbours that are named and not there make the command fail."""
    nats_server.stop()
    otlp_receiver.stop()
    report = Report(tmp_path, WIRESPAN_NATS_URL=nats_server.url, OTEL_EXPORTER_OTLP_ENDPOINT=otlp_receiver.grpc_endpoint)
    assert {"nats", "otlp"} <= set(report.failed())
    assert report.exit_status == 1
    assert report.stderr.startswith("needed and missing: ")


def bus(url: str, **settings: str) -> Finding:
    """What the check of the bus says."""
    return check_nats(BusSettings(nats=NatsSettings(url=url, **settings)), named=True)


async def make_streams(url: str) -> None:
    """As the services do."""
    async with runtime_bus.connect(NatsSettings(url=url), name="test") as connected:
        await connected.ensure_streams()


def test_the_bus(nats_server: NatsServer) -> None:
    """A server with JetStream: its version and its streams."""
    before = bus(nats_server.url)
    assert before.status is Status.OK
    assert "no streams yet" in before.found
    asyncio.run(make_streams(nats_server.url))
    after = bus(nats_server.url)
    assert "FLOWS_RAW with 0 messages" in after.found
    assert "nats-server 2." in after.found


@pytest.mark.parametrize(("interval", "kept", "troubled"), [("1s", 2.0, False), ("120s", 2.0, True), ("120s", 240.0, False)])
def test_the_bus_syncs_later_than_is_kept(tmp_path: Path, interval: str, kept: float, *, troubled: bool) -> None:
    """By the server's own word, where its monitoring port answers; of another server's word nothing follows."""
    port = free_port()
    with NatsServer(
        tmp_path / "nats", extra_config=f'http: "127.0.0.1:{port}"', jetstream=f"sync_interval: {interval}"
    ) as server:
        (line,) = (line for line in server.log if "Server ID" in line or " ID:" in line)
        identity = line.split()[-1]
        settings = NatsSettings(url=server.url, unsynced_seconds=kept)
        assert bool(sync_trouble(settings, identity, port)) == troubled
        assert sync_trouble(settings, "ANOTHER", port) is None
    assert sync_trouble(settings, identity, port) is None


def test_the_bus_is_not_there(nats_server: NatsServer) -> None:
    """Nobody listens any more."""
    nats_server.stop()
    finding = bus(nats_server.url)
    assert finding.status is Status.FAIL
    assert "Connect call failed" in finding.found


def test_the_bus_wants_credentials(tmp_path: Path) -> None:
    """A token that is wrong is told apart from a server that is not there, and is not printed."""
    with NatsServer(tmp_path / "nats", extra_config='authorization { token: "right" }') as server:
        refused = bus(server.url.replace("://", "://wrong-token@"))
        taken = bus(server.url, token="right")
    assert refused.status is Status.FAIL
    assert "WIRESPAN_NATS_" in refused.fix
    assert "wrong-token" not in refused.found
    assert taken.status is Status.OK


def test_the_bus_has_no_jetstream(tmp_path: Path) -> None:
    """For this account: connected, and of no use."""
    accounts = "accounts { plain: { users: [{ user: u, password: p }] } }"
    with NatsServer(tmp_path / "nats", extra_config=accounts) as server:
        finding = bus(server.url, user="u", password="p")
    assert finding.status is Status.FAIL
    assert "JetStream" in finding.found
    assert "jetstream" in finding.fix


def backend(endpoint: str, **variables: str) -> Finding:
    """What the check of the backend says."""
    return check_otlp(EndpointDestination(endpoint), variables)


def test_the_backend(otlp_receiver: OtlpReceiver) -> None:
    """Over gRPC and over HTTP it takes a request without spans, with the headers of the environment."""
    over_grpc = backend(otlp_receiver.grpc_endpoint, OTEL_EXPORTER_OTLP_HEADERS="authorization=Basic%20abc")
    over_http = backend(otlp_receiver.http_endpoint, OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf")
    assert (over_grpc.status, over_http.status) == (Status.OK, Status.OK)
    assert [(request.protocol, request.spans) for request in otlp_receiver.requests] == [("grpc", 0), ("http", 0)]
    assert otlp_receiver.requests[0].headers["authorization"] == "Basic abc"


def test_the_backend_over_tls(tmp_path: Path) -> None:
    """With the authority of the environment it is trusted, without it is not; over both protocols."""
    certificates = make_certificates(tmp_path)
    trusted = {"OTEL_EXPORTER_OTLP_CERTIFICATE": str(certificates.authority)}
    with OtlpReceiver(tls=certificates) as receiver:
        endpoints = (receiver.grpc_endpoint, f"{receiver.http_endpoint}/v1/traces")
        assert [backend(endpoint, **trusted).status for endpoint in endpoints] == [Status.OK, Status.OK]
        assert [backend(endpoint).status for endpoint in endpoints] == [Status.FAIL, Status.FAIL]


def test_the_backend_refuses(otlp_receiver: OtlpReceiver) -> None:
    """What it answered is in the line; a credential fault has its own fix, a busy backend is a warning."""
    otlp_receiver.script(Refuse(grpc.StatusCode.UNAUTHENTICATED, "who are you"), Refuse(429))
    denied = backend(otlp_receiver.grpc_endpoint)
    assert denied.status is Status.FAIL
    assert "UNAUTHENTICATED: who are you" in denied.found
    assert "HEADERS" in denied.fix
    busy = backend(f"{otlp_receiver.http_endpoint}/v1/traces")
    assert (busy.status, "HTTP 429" in busy.found) == (Status.WARN, True)
    lost = backend(f"{otlp_receiver.http_endpoint}/wrong/v1/traces")
    assert (lost.status, "HTTP 404" in lost.found) == (Status.FAIL, True)


def test_the_backend_speaks_the_other_protocol_or_nothing(otlp_receiver: OtlpReceiver) -> None:
    """HTTP to a gRPC port, gRPC to an HTTP port, and nobody there: each fails in one line that names the setting."""
    findings = [backend(f"{otlp_receiver.grpc_endpoint}/v1/traces"), backend(otlp_receiver.http_endpoint)]
    otlp_receiver.stop()
    findings.append(backend(otlp_receiver.grpc_endpoint))
    assert [finding.status for finding in findings] == [Status.FAIL] * 3
    assert all("OTEL_EXPORTER_OTLP_ENDPOINT" in finding.fix for finding in findings)


class KubernetesApi(ThreadingHTTPServer):
    """As much of an API server as the check asks: its version, and reviews of access, over real HTTP."""

    daemon_threads = True

    def __init__(self, denied: set[tuple[str, str]], *, status: int = 200) -> None:
        super().__init__(("127.0.0.1", 0), _KubernetesHandler)
        self.denied = denied
        self.status = status
        self.asked: list[tuple[str, str, str]] = []

    def kubeconfig(self, folder: Path) -> Path:
        """A file that leads here."""
        path = folder / "kubeconfig"
        cluster = {"name": "c", "cluster": {"server": f"http://127.0.0.1:{self.server_port}"}}
        user = {"name": "u", "user": {"token": "secret"}}
        context = {"name": "here", "context": {"cluster": "c", "user": "u"}}
        path.write_text(
            json.dumps(
                {"clusters": [cluster], "users": [user], "contexts": [context], "current-context": "here", "kind": "Config"}
            )
        )
        return path

    @contextlib.contextmanager
    def serving(self) -> Iterator[KubernetesApi]:
        """Answer for as long as the context lasts."""
        thread = threading.Thread(target=self.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield self
        finally:
            self.shutdown()
            thread.join()
            self.server_close()


class _KubernetesHandler(BaseHTTPRequestHandler):
    server: KubernetesApi

    def do_GET(self) -> None:
        self._answer({"major": "1", "minor": "33", "gitVersion": "v1.33.2", "gitCommit": "", "gitTreeState": "",
                      "buildDate": "", "goVersion": "", "compiler": "", "platform": ""})  # fmt: skip

    def do_POST(self) -> None:
        review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        wanted = review["spec"]["resourceAttributes"]
        self.server.asked.append((wanted["group"], wanted["resource"], wanted["verb"]))
        allowed = (wanted["resource"], wanted["verb"]) not in self.server.denied
        self._answer({**review, "status": {"allowed": allowed}})

    def _answer(self, body: object) -> None:
        if self.server.status != 200:
            body = {"kind": "Status", "message": "Unauthorized\x1b[2J"}
        data = json.dumps(body).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Say nothing on standard error."""


def test_kubernetes(tmp_path: Path) -> None:
    """Its version, and that all six resources may be listed and watched."""
    with KubernetesApi(set()).serving() as api:
        finding = check_kubernetes(KubernetesAccess(api.kubeconfig(tmp_path)))
    assert finding.status is Status.OK
    assert "v1.33.2" in finding.found
    assert len(set(api.asked)) == len(RESOURCES) * len(VERBS)
    assert ("discovery.k8s.io", "endpointslices", "watch") in api.asked


def test_kubernetes_denies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is denied is named; it is needed only where somebody asked for this cluster."""
    with KubernetesApi({("pods", "watch"), ("nodes", "list")}).serving() as api:
        asked_for = check_kubernetes(KubernetesAccess(api.kubeconfig(tmp_path)))
        monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig(tmp_path)))
        found = check_kubernetes(KubernetesAccess())
    assert asked_for.found.endswith("may not: watch pods, list nodes")
    assert "ClusterRole" in asked_for.fix
    assert (asked_for.status, found.status) == (Status.FAIL, Status.WARN)


def test_kubernetes_is_not_to_be_had(tmp_path: Path) -> None:
    """A token that is not taken, a server that is gone, a context and a file that are none."""
    with KubernetesApi(set(), status=401).serving() as api:
        kubeconfig = api.kubeconfig(tmp_path)
        refused = check_kubernetes(KubernetesAccess(kubeconfig))
    gone = check_kubernetes(KubernetesAccess(kubeconfig))
    no_context = check_kubernetes(KubernetesAccess(kubeconfig, "elsewhere"))
    kubeconfig.write_text("nonsense: [")
    nonsense = check_kubernetes(KubernetesAccess(kubeconfig))
    assert [finding.status for finding in (refused, gone, no_context, nonsense)] == [Status.FAIL] * 4
    assert "HTTP 401: Unauthorized" in refused.found
    assert "\x1b" not in refused.found
    assert "refused" in gone.found
    assert "elsewhere" in no_context.found


def test_kubernetes_with_a_token_in_a_file(tmp_path: Path) -> None:
    """Its line end is no part of it. What no header may carry, or is in a wrong place, is said without what it is."""
    token = tmp_path / "token"
    token.write_text("t\n")
    with KubernetesApi(set()).serving() as api:
        kubeconfig = api.kubeconfig(tmp_path)
        content = json.loads(kubeconfig.read_text())
        content["users"][0]["user"] = {"tokenFile": str(token)}
        kubeconfig.write_text(json.dumps(content))
        taken = check_kubernetes(KubernetesAccess(kubeconfig))
        token.write_text("secret-token\nsecret-token\n")
        broken = check_kubernetes(KubernetesAccess(kubeconfig))
        content["users"][0] = {"name": content["users"][0]["name"], "token": "secret-token"}
        kubeconfig.write_text(json.dumps(content))
        misplaced = check_kubernetes(KubernetesAccess(kubeconfig))
    assert [finding.status for finding in (taken, broken, misplaced)] == [Status.OK, Status.FAIL, Status.FAIL]
    assert "secret" not in f"{broken}{misplaced}"


@pytest.mark.parametrize("arguments", [("--otlp-endpoint", "no url"), ("--kubeconfig", "/no/such/file"), ("--what",)])
def test_wrong_usage(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """Is told apart from a machine that lacks something."""
    assert Report(tmp_path, *arguments).exit_status == 2
