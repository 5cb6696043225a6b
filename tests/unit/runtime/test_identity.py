"""A cgroup's path says who owns it, as every runtime and driver writes it, and no path can make it fail or lie."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.runtime.host.identity import MAX_TEXT, Identity, identify

UID = "1e6a2f34-90ab-4cde-8f01-23456789abcd"
SYSTEMD_UID = UID.replace("-", "_")
STATIC_UID = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"
OTHER_UID = "ffffffff-90ab-4cde-8f01-23456789abcd"
ID = "c0ffee" + "12" * 29
OTHER_ID = "deadbeef" * 8

BURSTABLE = f"kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{SYSTEMD_UID}.slice"
KIND_NODE = f"system.slice/docker-{OTHER_ID}.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice"

POD_CONTAINERS = [
    # path, runtime, qos
    (f"/{BURSTABLE}/cri-containerd-{ID}.scope", "containerd", "Burstable"),
    (f"/{BURSTABLE}/crio-{ID}.scope", "cri-o", "Burstable"),
    (f"/{BURSTABLE}/crio-{ID}.scope/container", "cri-o", "Burstable"),
    (f"/{BURSTABLE}/docker-{ID}.scope", "docker", "Burstable"),
    (f"/kubepods.slice/kubepods-pod{SYSTEMD_UID}.slice/cri-containerd-{ID}.scope", "containerd", "Guaranteed"),
    (
        f"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{SYSTEMD_UID}.slice/cri-containerd-{ID}.scope",
        "containerd",
        "BestEffort",
    ),
    # cgroupfs driver: containerd and Docker write the bare id
    (f"/kubepods/burstable/pod{UID}/{ID}", "", "Burstable"),
    (f"/kubepods/besteffort/pod{UID}/{ID}", "", "BestEffort"),
    (f"/kubepods/pod{UID}/{ID}", "", "Guaranteed"),
    (f"/kubepods/burstable/pod{UID}/crio-{ID}", "cri-o", "Burstable"),
    # kubelet with systemd, containerd without
    (
        f"/system.slice/containerd.service/kubepods-burstable-pod{SYSTEMD_UID}.slice:cri-containerd:{ID}",
        "containerd",
        "Burstable",
    ),
    # kind and minikube: the node is a container
    (
        f"/{KIND_NODE}/kubelet-kubepods-burstable-pod{SYSTEMD_UID}.slice/cri-containerd-{ID}.scope",
        "containerd",
        "Burstable",
    ),
    (f"/docker/{OTHER_ID}/kubelet/kubepods/besteffort/pod{UID}/{ID}", "", "BestEffort"),
    (f"/docker/{OTHER_ID}/kubepods/burstable/pod{UID}/{ID}", "", "Burstable"),
    # k3s, started by systemd or not
    (f"/system.slice/k3s.service/kubepods/burstable/pod{UID}/{ID}", "", "Burstable"),
    (f"/k3s/kubepods/pod{UID}/{ID}", "", "Guaranteed"),
    # from within a private cgroup namespace
    (f"/../../{BURSTABLE}/cri-containerd-{ID}.scope", "containerd", "Burstable"),
    (f"/../kubepods/burstable/pod{UID}/{ID}", "", "Burstable"),
    (f"/../../pod{UID}/{ID}", "", "Guaranteed"),
    # what a container makes below itself stays its own
    (f"/{BURSTABLE}/cri-containerd-{ID}.scope/system.slice/nginx.service", "containerd", "Burstable"),
    (f"/{BURSTABLE}/cri-containerd-{ID}.scope/docker/{OTHER_ID}", "containerd", "Burstable"),
    (f"/{BURSTABLE}/cri-containerd-{ID}.scope/kubepods/pod{OTHER_UID}/{OTHER_ID}", "containerd", "Burstable"),
]


@pytest.mark.parametrize(("path", "runtime", "qos"), POD_CONTAINERS)
def test_pod_and_container_are_read_from_the_path(path, runtime, qos):
    """Both kubelet drivers, every runtime, any prefix and any sub-cgroup give the same pod uid and container id."""
    identity = identify(path)
    assert (identity.pod_uid, identity.container_id) == (UID, ID)
    assert (identity.container_runtime, identity.pod_qos) == (runtime, qos)
    assert not identity.systemd_unit
    assert re.search(rf"{ID}(\.scope)?$", identity.cgroup)


@pytest.mark.parametrize(
    "path",
    [
        f"/kubepods/burstable/pod{STATIC_UID}/{ID}",
        f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{STATIC_UID}.slice/crio-{ID}.scope",
    ],
)
def test_static_pods_have_the_hash_of_their_manifest(path):
    """The API server, etcd and other static pods have 32 hexadecimal digits for a uid."""
    assert identify(path).pod_uid == STATIC_UID
    assert identify(path).container_id == ID


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (f"/{BURSTABLE}", Identity(f"/{BURSTABLE}", pod_uid=UID, pod_qos="Burstable")),
        (f"/{BURSTABLE}/crio-conmon-{ID}.scope", Identity(f"/{BURSTABLE}", pod_uid=UID, pod_qos="Burstable")),
        (f"/{BURSTABLE}/a/cri-containerd-{OTHER_ID}.scope", Identity(f"/{BURSTABLE}", pod_uid=UID, pod_qos="Burstable")),
    ],
)
def test_what_is_of_a_pod_but_of_no_container_is_the_pods(path, expected):
    """The pod's own cgroup, its monitor process and anything unknown below it name the pod and no container."""
    assert identify(path) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (
            f"/system.slice/docker-{ID}.scope/system.slice/nginx.service",
            Identity(f"/system.slice/docker-{ID}.scope", container_id=ID, container_runtime="docker"),
        ),
        (f"/docker/{ID}", Identity(f"/docker/{ID}", container_id=ID, container_runtime="docker")),
        (
            f"/machine.slice/libpod-{ID}.scope/container",
            Identity(f"/machine.slice/libpod-{ID}.scope", container_id=ID, container_runtime="podman"),
        ),
        (
            f"/libpod_parent/{OTHER_ID}/libpod-{ID}",
            Identity(f"/libpod_parent/{OTHER_ID}/libpod-{ID}", container_id=ID, container_runtime="podman"),
        ),
        (
            f"/machine.slice/machine-libpod_pod_{OTHER_ID}.slice/libpod-{ID}.scope",
            Identity(
                f"/machine.slice/machine-libpod_pod_{OTHER_ID}.slice/libpod-{ID}.scope",
                container_id=ID,
                container_runtime="podman",
            ),
        ),
        (
            f"/system.slice/shop.service/libpod-payload-{ID}",
            Identity(
                f"/system.slice/shop.service/libpod-payload-{ID}",
                container_id=ID,
                container_runtime="podman",
                systemd_unit="shop.service",
            ),
        ),
        (
            f"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope",
            Identity(
                f"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope",
                container_id=ID,
                container_runtime="podman",
                systemd_unit="user@1000.service",
                user_id="1000",
            ),
        ),
        (f"/ecs/{STATIC_UID}/{ID}", Identity(f"/ecs/{STATIC_UID}/{ID}", container_id=ID)),
        ("/lxc.payload.web-1/init.scope", Identity("/lxc.payload.web-1", container_name="web-1", container_runtime="lxc")),
        ("/lxc/101/ns/system.slice", Identity("/lxc/101", container_name="101", container_runtime="lxc")),
        (
            "/machine.slice/systemd-nspawn@build\\x2dbox.service/payload/system.slice/sshd.service",
            Identity(
                "/machine.slice/systemd-nspawn@build\\x2dbox.service",
                container_name="build-box",
                container_runtime="systemd-nspawn",
                systemd_unit="systemd-nspawn@build\\x2dbox.service",
            ),
        ),
        (
            "/machine.slice/machine-qemu\\x2d1\\x2dvm.scope/libvirt/vcpu0",
            Identity(
                "/machine.slice/machine-qemu\\x2d1\\x2dvm.scope",
                container_name="qemu-1-vm",
                systemd_unit="machine-qemu\\x2d1\\x2dvm.scope",
            ),
        ),
    ],
)
def test_containers_of_a_host_that_is_no_node(path, expected):
    """Docker, podman, LXC and machines give the container, with the unit around it where there is one."""
    assert identify(path) == expected


@pytest.mark.parametrize(
    ("path", "cgroup", "unit", "user_unit", "user_id"),
    [
        ("/system.slice/nginx.service", "/system.slice/nginx.service", "nginx.service", "", ""),
        ("/system.slice/ssh.service/a/b", "/system.slice/ssh.service", "ssh.service", "", ""),
        (
            "/system.slice/system-getty.slice/getty@tty1.service",
            "/system.slice/system-getty.slice/getty@tty1.service",
            "getty@tty1.service",
            "",
            "",
        ),
        ("/init.scope", "/init.scope", "init.scope", "", ""),
        ("/system.slice/_cpu.service", "/system.slice/_cpu.service", "cpu.service", "", ""),
        (
            "/user.slice/user-1000.slice/session-3.scope",
            "/user.slice/user-1000.slice/session-3.scope",
            "session-3.scope",
            "",
            "1000",
        ),
        (
            "/user.slice/user-1000.slice/user@1000.service/app.slice/app-mail.service/tab",
            "/user.slice/user-1000.slice/user@1000.service/app.slice/app-mail.service",
            "user@1000.service",
            "app-mail.service",
            "1000",
        ),
        (
            "/user.slice/user-7.slice/user@7.service",
            "/user.slice/user-7.slice/user@7.service",
            "user@7.service",
            "",
            "7",
        ),
        ("/", "/", "", "", ""),
        ("", "/", "", "", ""),
        ("/user.slice", "/user.slice", "", "", ""),
        ("/batch/job-7", "/batch/job-7", "", "", ""),
        (f"/system.slice/crio-conmon-{ID}.scope", f"/system.slice/crio-conmon-{ID}.scope", f"crio-conmon-{ID}.scope", "", ""),
    ],
)
def test_a_plain_server_has_its_units(path, cgroup, unit, user_unit, user_id):
    """Services, templates, sessions and user units are named as systemctl names them; else the path stands alone."""
    assert identify(path) == Identity(cgroup, systemd_unit=unit, systemd_user_unit=user_unit, user_id=user_id)


@pytest.mark.parametrize(
    "below",
    [f"kubepods.slice/kubepods-pod{SYSTEMD_UID}.slice/cri-containerd-{ID}.scope", f"kubepods/pod{UID}/{ID}", f"pod{UID}"],
)
def test_a_user_cannot_pass_for_a_pod(below):
    """Whoever has a systemd of their own can make cgroups of any name below it; none of them is a pod."""
    identity = identify(f"/user.slice/user-1000.slice/user@1000.service/{below}")
    assert not identity.pod_uid
    assert identity.user_id == "1000"


@pytest.mark.parametrize(
    "path",
    [
        "/kubepods/podcast",
        "/kubepods.slice/kubepods-burstable.slice",
        "/music/podcast.service",
        f"/kubepods/burstable/pod{'x' * 300}",
        "/kubepods-burstable-pod.slice",
        "/system.slice/docker-.scope",
        f"/system.slice/docker-{ID[:-1]}.scope",
        f"/system.slice/docker-{ID.upper()}.scope",
    ],
)
def test_what_only_looks_like_a_container_is_none(path):
    """Names that are nearly right give no container id."""
    assert not identify(path).container_id
    assert identify(path).pod_uid in {"", "cast"}


def test_a_row_has_only_what_is_known():
    """The row for the wire is a map of the fields that hold something."""
    assert identify("/system.slice/nginx.service").row() == {
        "cgroup": "/system.slice/nginx.service",
        "systemd_unit": "nginx.service",
    }
    assert identify("/").row() == {"cgroup": "/"}


_words = st.sampled_from(
    [
        *("kubepods", "burstable", "besteffort", "pod", f"pod{UID}", "kubepods.slice", f"kubepods-pod{SYSTEMD_UID}.slice"),
        *(ID, f"cri-containerd-{ID}.scope", f"docker-{OTHER_ID}.scope", "docker", "a.slice:crio:", "..", ".service"),
        *("lxc", "lxc.payload.a\n", "machine.slice", "machine-\\x2d\\x00.scope", "systemd-nspawn@.service"),
        *("user-1000.slice", "user@1000.service"),
    ]
)
_names = _words | st.text(max_size=40) | st.text(st.characters(categories=["Cs", "Cc"]), max_size=5)


@given(st.lists(_names, max_size=12).map("/".join) | st.text())
@example("/".join(["kubepods-"] * 3000))
@example("\udcff" * 4096)
@example("/machine.slice/machine-\\x0a\\x7f.scope")
def test_any_path_gives_a_clean_identity(path):
    """Whatever a cgroup is called, the row is short, printable UTF-8 with a path, and ids have the form of ids."""
    row = identify(path).row()
    assert row["cgroup"].startswith("/")
    for value in row.values():
        assert len(value.encode()) <= 4 * MAX_TEXT
        assert len(value) <= MAX_TEXT
        assert not re.search("[\x00-\x1f\x7f-\x9f]", value)
    assert re.fullmatch(r"[0-9a-f]{64}|", row.get("container_id", ""))
    assert re.fullmatch(r"[0-9A-Za-z_.-]*", row.get("pod_uid", ""))


@given(st.lists(_names, max_size=8).map("/".join))
def test_nothing_below_a_container_changes_whose_it_is(below):
    """A pod's container owns all that is made below it, whatever that is called."""
    path = f"/{BURSTABLE}/cri-containerd-{ID}.scope"
    assert identify(f"{path}/{below}") == identify(path)
