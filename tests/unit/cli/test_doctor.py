"""What `wirespan doctor` makes of a machine, read from files that stand for /proc and /sys."""

from __future__ import annotations

import json
import os
import resource
import threading
from pathlib import Path

import pytest

from services.cli.doctor import bounds as doctor_bounds
from services.cli.doctor import checks as doctor_checks
from services.cli.doctor.cgroups import check_cgroup2, check_memory, memory_limit_bytes
from services.cli.doctor.checks import Check, Subject, checks, needed_and_missing
from services.cli.doctor.command import json_line, plain_line
from services.cli.doctor.finding import Finding, Status, fail, ok, skipped, warn, without_credentials
from services.cli.doctor.kernel import check_architecture, check_btf, check_jit, check_kernel, check_lockdown
from services.cli.doctor.kubernetes import RESOURCES as ASKED_ABOUT
from services.cli.doctor.kubernetes import KubernetesAccess
from services.cli.doctor.loading import bcc_installer, check_bcc, check_replay_library, loads, refused
from services.cli.doctor.otlp import _backend, check_otlp
from services.cli.doctor.privileges import check_capabilities, check_memlock, effective_capabilities
from services.cli.run.destination import EndpointDestination, FileDestination
from services.cli.settings import BusSettings
from services.enricher.kubernetes.resources import RESOURCES
from services.runtime.host.cgroup2 import look_at_tree
from services.runtime.host.programs.building import Found
from services.runtime.host.programs.errors import ProgramsError
from services.runtime.host.programs.file import CompiledPrograms
from services.runtime.host.programs.loading import ProgramDescription

MIB = 1 << 20
ALL_CAPABILITIES = (1 << 41) - 1
NEEDED = 1 << 39 | 1 << 38 | 1 << 12
SYS_ADMIN = 1 << 21


def write(path: Path, text: str) -> None:
    """A file with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def process_files(folder: Path, *, capabilities: int = ALL_CAPABILITIES, user_namespace: int = 4026531837) -> Path:
    """A /proc of a process with these capabilities."""
    write(folder / "self" / "status", f"Name:\tx\nCapInh:\t0000000000000000\nCapEff:\t{capabilities:016x}\nCapBnd:\t0\n")
    (folder / "self" / "ns").mkdir()
    (folder / "self" / "ns" / "user").symlink_to(f"user:[{user_namespace}]")
    return folder


def cgroup_root(path: Path, **files: str) -> Path:
    """A folder that looks like a mounted cgroup2."""
    for name, content in {"cgroup.procs": "", **{name.replace("_", "."): text for name, text in files.items()}}.items():
        write(path / name, content)
    return path


def mounts(folder: Path, *lines: str) -> Path:
    """A /proc with these lines in its mounts."""
    write(folder / "mounts", "".join(f"{line} 0 0\n" for line in lines))
    return folder


@pytest.mark.parametrize(
    ("release", "status", "said"),
    [
        ("6.18.44-custom", Status.OK, "coarse clock (5.11)"),
        ("5.11.0-1.el9", Status.OK, "cgroup links (5.7)"),
        ("5.10.0-28-amd64", Status.OK, "without coarse clock (5.11)"),
        ("5.4.0-150-generic", Status.FAIL, "without mapped arrays (5.5), cgroup links (5.7)"),
        ("4.18.0-553.el8", Status.FAIL, "socket storage (5.2)"),
        ("5.9.16", Status.FAIL, "older than 5.10"),
        ("nonsense", Status.FAIL, "no version of Linux"),
    ],
)
def test_kernel(release: str, status: Status, said: str) -> None:
    """A kernel from 5.10 on is enough; an older one is told what it lacks and from where on it is there."""
    finding = check_kernel(release)
    assert finding.status is status
    assert said in finding.found
    assert bool(finding.fix) == (status is not Status.OK)


def test_architecture() -> None:
    """x86-64 and arm64, nothing else."""
    assert [check_architecture(machine).status for machine in ("x86_64", "aarch64", "s390x", "armv7l")] == [
        Status.OK,
        Status.OK,
        Status.FAIL,
        Status.FAIL,
    ]


def test_type_information_is_not_needed(tmp_path: Path) -> None:
    """Whether or not the kernel has BTF."""
    without = check_btf(tmp_path)
    write(tmp_path / "kernel" / "btf" / "vmlinux", "")
    assert (without.status, check_btf(tmp_path).status) == (Status.OK, Status.OK)
    assert "is not there" in without.found


@pytest.mark.parametrize(
    ("content", "status"), [("1\n", Status.OK), ("0\n", Status.WARN), ("2\n", Status.WARN), (None, Status.SKIPPED)]
)
def test_jit(tmp_path: Path, content: str | None, status: Status) -> None:
    """An interpreted program costs more and works; a container's own network namespace does not show the setting."""
    if content is not None:
        write(tmp_path / "sys" / "net" / "core" / "bpf_jit_enable", content)
    assert check_jit(tmp_path).status is status


@pytest.mark.parametrize(
    ("content", "status"),
    [
        ("[none] integrity confidentiality\n", Status.OK),
        ("none [integrity] confidentiality\n", Status.OK),
        ("none integrity [confidentiality]\n", Status.WARN),
        (None, Status.OK),
    ],
)
def test_lockdown(tmp_path: Path, content: str | None, status: Status) -> None:
    """Only confidentiality touches BPF."""
    if content is not None:
        write(tmp_path / "kernel" / "security" / "lockdown", content)
    assert check_lockdown(tmp_path).status is status


@pytest.mark.parametrize(
    ("capabilities", "status", "missing"),
    [
        (NEEDED, Status.OK, set()),
        (SYS_ADMIN, Status.OK, set()),
        (ALL_CAPABILITIES, Status.OK, set()),
        (NEEDED & ~(1 << 38), Status.FAIL, {"CAP_PERFMON"}),
        (1 << 39, Status.FAIL, {"CAP_PERFMON", "CAP_NET_ADMIN"}),
        (0, Status.FAIL, {"CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN"}),
    ],
)
def test_capabilities(tmp_path: Path, capabilities: int, status: Status, missing: set[str]) -> None:
    """All three, or CAP_SYS_ADMIN alone; else what is missing is named with the ways to give it."""
    finding = check_capabilities(process_files(tmp_path, capabilities=capabilities))
    assert finding.status is status
    if missing:
        assert {name for name in ("CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN") if name in finding.found} == missing
        for way in ("AmbientCapabilities=CAP_BPF CAP_PERFMON CAP_NET_ADMIN", "capabilities.add: [BPF, PERFMON, NET_ADMIN]"):
            assert way in finding.fix


def test_capabilities_of_a_user_namespace_do_not_count(tmp_path: Path) -> None:
    """A rootless container has every capability and may still not load anything."""
    finding = check_capabilities(process_files(tmp_path, user_namespace=4026532177))
    assert finding.status is Status.FAIL
    assert "user namespace" in finding.found


def test_capabilities_without_proc(tmp_path: Path) -> None:
    """No /proc, and one that says nothing, are findings."""
    assert check_capabilities(tmp_path).status is Status.FAIL
    write(tmp_path / "self" / "status", "Name:\tx\n")
    assert effective_capabilities(tmp_path) is None


@pytest.mark.parametrize(
    ("release", "limit", "capabilities", "status"),
    [
        ("6.1.0", 65536, 0, Status.OK),
        ("5.10.0", resource.RLIM_INFINITY, 0, Status.OK),
        ("5.10.0", 256 * MIB, 0, Status.OK),
        ("5.10.0", 65536, NEEDED, Status.FAIL),
        ("5.10.0", 65536, NEEDED | 1 << 24, Status.OK),
    ],
)
def test_locked_memory(tmp_path: Path, release: str, limit: int, capabilities: int, status: Status) -> None:
    """Matters before 5.11 only, and not to who may raise it."""
    assert check_memlock(release, process_files(tmp_path, capabilities=capabilities), limit).status is status


def test_pure_cgroup2(tmp_path: Path) -> None:
    """The root of the tree, wherever it is mounted; the mount table escapes blanks."""
    root = cgroup_root(tmp_path / "the tree")
    process = mounts(tmp_path / "proc", "proc /proc proc rw", f"cgroup2 {tmp_path}/the\\040tree cgroup2 rw,nsdelegate")
    finding = check_cgroup2(process, {})
    assert str(root) in finding.found
    assert finding.status is Status.OK
    assert "hybrid" not in finding.found


def test_hybrid_cgroup2(tmp_path: Path) -> None:
    """Beside the controllers of version 1; its path is said."""
    root = cgroup_root(tmp_path / "unified")
    process = mounts(tmp_path / "proc", "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu", f"cgroup2 {root} cgroup2 rw")
    finding = check_cgroup2(process, {})
    assert finding.status is Status.OK
    assert str(root) in finding.found
    assert "hybrid" in finding.found


def test_pods_of_version_1_alone(tmp_path: Path) -> None:
    """On a hybrid host, pods without a group of version 2 are named: capture sees their connections and not whose they are."""
    root, memory = cgroup_root(tmp_path / "unified"), tmp_path / "memory"
    uids = [f"1e6a2f34-90ab-4cde-8f01-23456789abc{number}" for number in range(5)]
    for uid in uids:
        (memory / "kubepods" / "burstable" / f"pod{uid}" / "c0ffee").mkdir(parents=True)
    process = mounts(tmp_path / "proc", f"cgroup {memory} cgroup rw,memory", f"cgroup2 {root} cgroup2 rw")
    (root / "kubepods" / f"pod{uids[0]}").mkdir(parents=True)
    finding = check_cgroup2(process, {})
    assert finding.status is Status.WARN
    assert f"4 pods have control groups of version 1 alone ({uids[1]}, {uids[2]}, {uids[3]}, ...)" in finding.found
    assert "systemd cgroup driver" in finding.fix
    for uid in uids[1:]:
        (root / "kubepods" / f"pod{uid}").mkdir()
    assert check_cgroup2(process, {}).status is Status.OK


def test_version_1_only(tmp_path: Path) -> None:
    """Is not enough, and the fix is a mount."""
    finding = check_cgroup2(mounts(tmp_path, "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu"), {})
    assert finding.status is Status.FAIL
    assert "only version 1" in finding.found
    assert "mount -t cgroup2" in finding.fix


def test_no_cgroups_at_all(tmp_path: Path) -> None:
    """Neither with an empty table nor without one, nor where the mount cannot be reached."""
    assert check_cgroup2(tmp_path, {}).status is Status.FAIL
    assert check_cgroup2(mounts(tmp_path, "proc /proc proc rw", "short"), {}).status is Status.FAIL
    assert check_cgroup2(mounts(tmp_path, f"cgroup2 {tmp_path}/gone cgroup2 rw"), {}).status is Status.FAIL


def test_a_containers_own_tree_is_not_the_root(tmp_path: Path) -> None:
    """Only the root of the hierarchy has no cgroup.events."""
    root = cgroup_root(tmp_path / "cgroup", cgroup_events="populated 1\n", cgroup_procs=f"1\n{os.getpid()}\n")
    process = mounts(tmp_path / "proc", f"cgroup2 {root} cgroup2 ro")
    finding = check_cgroup2(process, {})
    assert finding.status is Status.FAIL
    assert "hostPath" in finding.fix
    assert check_cgroup2(process, {"WIRESPAN_CAPTURE_CGROUP_ROOT": str(root)}).status is Status.WARN


def test_a_node_that_is_a_container_has_a_tree_of_its_own(tmp_path: Path) -> None:
    """Its processes are in groups below the root that it sees, as systemd or a kubelet makes them: all of them are seen."""
    root = cgroup_root(tmp_path / "cgroup", cgroup_events="populated 1\n")
    finding = check_cgroup2(mounts(tmp_path / "proc", f"cgroup2 {root} cgroup2 rw"), {})
    assert finding.status is Status.OK
    assert "container" in finding.found


def test_the_mount_that_shows_the_most(tmp_path: Path) -> None:
    """Of a container's own tree and the host's, the one whose directory is older: its inode number is the smaller one."""
    one, other = cgroup_root(tmp_path / "one"), cgroup_root(tmp_path / "other")
    older = min(one, other, key=lambda path: path.stat().st_ino)
    process = mounts(tmp_path / "proc", f"cgroup2 {one} cgroup2 ro", f"cgroup2 {other} cgroup2 ro")
    assert look_at_tree(process / "mounts").root == older


def test_memory_limit_of_version_2(tmp_path: Path) -> None:
    """The smallest on the way up counts; `max` is none."""
    root = cgroup_root(tmp_path / "cgroup")
    process = mounts(tmp_path / "proc", f"cgroup2 {root} cgroup2 rw")
    write(process / "self" / "cgroup", "0::/pod/container\n")
    write(root / "pod" / "container" / "memory.max", "max\n")
    assert check_memory(process).status is Status.OK
    write(root / "pod" / "memory.max", f"{64 * MIB}\n")
    finding = check_memory(process)
    assert (finding.status, memory_limit_bytes(process)) == (Status.WARN, 64 * MIB)
    assert "64 MiB" in finding.found
    assert "96 MiB" in finding.fix


def test_memory_limit_of_version_1(tmp_path: Path) -> None:
    """Read from the memory hierarchy; a number near 2^63 is none; a path that the container does not see is its root."""
    root = tmp_path / "memory"
    process = mounts(tmp_path / "proc", f"cgroup {root} cgroup rw,memory", f"cgroup {tmp_path} cgroup rw,cpu")
    write(process / "self" / "cgroup", "4:memory:/docker/abc\n1:cpu:/\n")
    write(root / "memory.limit_in_bytes", "9223372036854771712\n")
    assert memory_limit_bytes(process) is None
    write(root / "memory.limit_in_bytes", f"{256 * MIB}\n")
    assert memory_limit_bytes(process) == 256 * MIB
    assert check_memory(process).status is Status.OK
    write(root / "docker" / "abc" / "memory.limit_in_bytes", f"{32 * MIB}\n")
    assert memory_limit_bytes(process) == 32 * MIB


def test_memory_of_a_process_outside_of_its_namespaces_root(tmp_path: Path) -> None:
    """A path that leads out of the mount is not followed."""
    root = cgroup_root(tmp_path / "cgroup", memory_max=f"{128 * MIB}\n")
    process = mounts(tmp_path / "proc", f"cgroup2 {root} cgroup2 rw")
    write(process / "self" / "cgroup", "0::/../../other\n")
    write(tmp_path.parent / "other" / "memory.max", "1\n")
    assert memory_limit_bytes(process) == 128 * MIB
    assert memory_limit_bytes(tmp_path / "nothing") is None


@pytest.mark.parametrize(
    ("os_release", "command"),
    [
        ('NAME="Debian"\nID=debian\n', "apt-get install python3-bpfcc"),
        ('ID=linuxmint\nID_LIKE="ubuntu debian"\n', "apt-get install python3-bpfcc"),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"\n', "dnf install python3-bcc"),
        ('ID="opensuse-leap"\n', "zypper install python3-bcc"),
        ("ID=unheard-of\n", "install your distribution's bcc"),
    ],
)
def test_package_of_the_distribution(tmp_path: Path, os_release: str, command: str) -> None:
    """The fix is the command of this distribution."""
    write(tmp_path / "os-release", os_release)
    assert bcc_installer(tmp_path / "os-release").startswith(command)
    assert bcc_installer(tmp_path / "none").startswith("install your distribution's bcc")


def interpreter(folder: Path, script: str) -> Path:
    """A program in place of the system's Python."""
    path = folder / "python3"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def bcc_of_nothing_built(python: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Finding:
    """What is said of bcc where no programs are built."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    monkeypatch.setattr("bpf.PROGRAMS", tmp_path / "none.bpf")
    return check_bcc(python)


def test_no_system_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is what a minimal image has."""
    finding = bcc_of_nothing_built(tmp_path / "python3", monkeypatch, tmp_path)
    assert finding.status is Status.FAIL
    assert "does not start" in finding.found


def test_bcc_is_not_needed_where_programs_are_built(tmp_path: Path) -> None:
    """A package's programs do without; whether there is a fallback is said."""
    found = Found(CompiledPrograms("", "bcc 0.26.0", b"", {}, {}), "package")
    without = check_bcc(tmp_path / "python3", found)
    assert (without.status, without.found) == (
        Status.OK, "not needed: the package brings the programs (bcc 0.26.0); there is no fallback",
    )  # fmt: skip
    python = interpreter(tmp_path, """echo '{"version": "0.31.0", "python": "3.12.1"}'""")
    assert check_bcc(python, found).found.endswith(f"as the fallback there is 0.31.0 in {python} (3.12.1)")


def test_a_foreign_bcc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyPI's package of that name is told apart and told to go."""
    python = interpreter(tmp_path, """echo '{"error": "foreign", "detail": "/usr/local/lib/bcc/__init__.py"}'""")
    finding = bcc_of_nothing_built(python, monkeypatch, tmp_path)
    assert finding.status is Status.FAIL
    assert "/usr/local/lib/bcc/__init__.py" in finding.found
    assert "pip uninstall bcc" in finding.fix


def test_a_child_that_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it wrote last is in the line; what it wrote to the terminal's harm is not."""
    python = interpreter(tmp_path, r"printf 'one\n\033[2Jlast words\n' >&2; exit 3")
    finding = bcc_of_nothing_built(python, monkeypatch, tmp_path)
    assert finding.status is Status.FAIL
    assert "ended with 3" in finding.found
    assert "last words" in finding.found
    assert "\x1b" not in finding.found


def test_an_interpreted_program_is_a_warning() -> None:
    """No machine code although it loaded."""
    finding = loads(ProgramDescription(2, 0, 2), "package", 0.01)
    assert finding.status is Status.WARN
    assert "interpreted" in finding.found


def test_what_the_verifier_says_is_told(tmp_path: Path) -> None:
    """The line that matters out of its log, and where to look; without capabilities, it is them."""
    log = "0: (b7) r0 = 1\nR1 pointer arithmetic prohibited for !root\nprocessed 7 insns (limit 1000000)"
    error = ProgramsError("load_failed", log, "")
    finding = refused(error, process_files(tmp_path / "proc"))
    assert finding.status is Status.FAIL
    assert "pointer arithmetic prohibited" in finding.found
    assert "insns" not in finding.found
    assert "seccomp" in finding.fix
    assert refused(error, tmp_path).fix == "see `capabilities`"


def test_replay_library(tmp_path: Path) -> None:
    """Its absence, or one that does not load, does not hinder live capture."""
    assert check_replay_library(tmp_path / "none.so").status is Status.WARN
    write(tmp_path / "broken.so", "no library")
    assert check_replay_library(tmp_path / "broken.so").status is Status.WARN


def test_backend_of_the_environment() -> None:
    """The endpoint, protocol, headers and TLS are those the exporter would use."""
    grpc_backend = _backend({"OTEL_EXPORTER_OTLP_ENDPOINT": "tempo:4317", "OTEL_EXPORTER_OTLP_HEADERS": "X-Scope=a%20b,bad"})
    assert (grpc_backend.http, grpc_backend.secure, grpc_backend.headers) == (False, True, (("x-scope", "a b"),))
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://t:4318/otlp/", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}
    assert _backend(environ).url == "http://t:4318/otlp/v1/traces"
    exact = _backend(environ | {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://t/exact"})
    assert (exact.url, exact.secure) == ("https://t/exact", True)


def test_faults_of_the_backends_settings() -> None:
    """A certificate that is not there is a line of the report; without an endpoint there is nothing to ask."""
    finding = check_otlp(EndpointDestination("https://127.0.0.1:1"), {"OTEL_EXPORTER_OTLP_CERTIFICATE": "/no/such.pem"})
    assert finding.status is Status.FAIL
    assert "OTEL_EXPORTER_OTLP_" in finding.fix
    assert check_otlp(FileDestination(Path("spans.jsonl"))).status is Status.SKIPPED


def test_where_the_cluster_is_found(tmp_path: Path) -> None:
    """The option, KUBECONFIG, the home directory, the service account; else there is no cluster."""
    token = tmp_path / "token"
    in_pod = {"HOME": str(tmp_path), "KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    assert KubernetesAccess().source(in_pod, token) is None
    write(token, "secret")
    assert KubernetesAccess().source(in_pod, token) == "in-cluster"
    write(tmp_path / ".kube" / "config", "")
    assert KubernetesAccess().source(in_pod, token) == str(tmp_path / ".kube" / "config")
    assert KubernetesAccess().source(in_pod | {"KUBECONFIG": "/a:/b"}, token) == "/a:/b"
    assert KubernetesAccess(kubeconfig=Path("/c")).source(in_pod | {"KUBECONFIG": "/a"}, token) == "/c"


def test_every_check_has_its_turn_and_none_a_traceback() -> None:
    """Whatever a check raises or however long it hangs, each is one line, in the order of the report."""
    released = threading.Event()

    def broken() -> Finding:
        raise ZeroDivisionError("line one\nline two")

    def hanging() -> Finding:
        released.wait()
        return ok("late")

    looks = {"broken": broken, "hanging": hanging, "fine": lambda: ok("there"), "absent": lambda: skipped("why not")}
    report = list(doctor_checks.run(looks, deadline_seconds=0.3))
    released.set()
    assert [check.name for check in report] == list(looks)
    assert [check.finding.status for check in report] == [Status.FAIL, Status.FAIL, Status.OK, Status.SKIPPED]
    assert report[0].finding.found == "the check itself failed: ZeroDivisionError: line one line two"
    assert "no answer within" in report[1].finding.found
    assert needed_and_missing(report) == ["broken", "hanging"]


def test_lines() -> None:
    """One line each, with the fix where there is one; JSON has the four fields."""
    check = Check("jit", warn("off\nreally", "turn it\ton"))
    assert plain_line(check) == "warn    jit          off really -- fix: turn it on"
    assert json.loads(json_line(check)) == {"name": "jit", "status": "warn", "found": "off really", "fix": "turn it on"}
    assert json.loads(json_line(Check("jit", ok("on"))))["fix"] is None
    assert len(fail("x" * 10_000, "y").found) == 400


def test_credentials_are_not_shown() -> None:
    """Of none of several URLs, with or without a scheme."""
    assert without_credentials("nats://u:p@a:1,t@b:2,nats://c") == "nats://***@a:1,***@b:2,nats://c"


def test_a_named_bus_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The default URL is looked at only where somebody named it; then no server of our own is needed."""
    monkeypatch.delenv("WIRESPAN_NATS_URL", raising=False)
    file = FileDestination(Path("spans.jsonl"))
    unnamed = Subject(bus=BusSettings(), destination=file, kubernetes=KubernetesAccess())
    assert checks(unnamed)["nats"]().status is Status.SKIPPED
    assert checks(unnamed)["nats-server"]().status is Status.OK
    named = Subject(bus=BusSettings(), nats_url=BusSettings().nats.url, destination=file, kubernetes=KubernetesAccess())
    assert named.nats_named
    assert checks(named)["nats-server"]().status is Status.SKIPPED


def test_an_event_loop_leaves_hanging_look_ups_behind() -> None:
    """A look-up of a name that nothing can interrupt does not hold the check."""
    import asyncio

    released = threading.Event()

    async def give_up() -> str:
        hanging = asyncio.get_running_loop().run_in_executor(None, released.wait)
        await asyncio.wait({hanging}, timeout=0)
        return "gave up"

    assert doctor_bounds.run_bounded(give_up()) == "gave up"
    assert not released.is_set()
    released.set()


def test_the_rights_that_are_asked_about_are_those_that_the_enricher_uses() -> None:
    """No more, so that nobody grants what is not needed, and no less."""
    assert {tuple(each) for each in ASKED_ABOUT} == {(each.group, each.plural) for each in RESOURCES}
