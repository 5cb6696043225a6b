r"""Whose socket it was, read from the path of its cgroup: pod, container, systemd unit.

The path alone is enough. It needs no process to be alive, no container runtime's socket and no Kubernetes API, and unlike an
IP address it is exact for pods on the host's network and for addresses that were used before.

What `identify` knows, with any prefix before it (kind, minikube, k3s, a kubelet's `--cgroup-root`, a private cgroup
namespace's `/../..`) and any sub-cgroups after it (systemd or another init system inside a container, crun's `/container`):

- kubelet's systemd driver, `kubepods-burstable-pod<uid>.slice`, whose uid has `_` for `-`, and its cgroupfs driver,
  `kubepods/burstable/pod<uid>`; static pods, whose uid is the 32-digit hash of their manifest;
- below a pod or alone: `cri-containerd-<id>.scope`, `crio-<id>.scope`, `docker-<id>.scope`, `libpod-<id>.scope`,
  `nerdctl-<id>.scope`, the same without `.scope`, the bare id, and `<slice>:cri-containerd:<id>` in one name, which runc makes
  of mismatched drivers;
- LXC and Incus (`lxc.payload.<name>`, `lxc/<name>`), systemd-nspawn and machines registered with systemd-machined;
- systemd's units, and those of a user's own systemd.

Who may claim what: a name counts by its outermost meaning, because whoever may write below a cgroup can make any name there.
Nothing inside a pod can pass for another pod or container, and no user can pass for a pod from below their own systemd. A pod
does win over a container around it, since that is what a node that is itself a container (kind, minikube) looks like.

What a path does not tell: a pod's sandbox ("pause") container is named as any other of its containers. It holds no sockets.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Final

MAX_TEXT: Final = 512
"""Characters kept of a name or path; what is longer ends in an ellipsis."""

_RUNTIMES: Final = {
    "cri-containerd": "containerd",
    "containerd": "containerd",
    "nerdctl": "containerd",
    "crio": "cri-o",
    "docker": "docker",
    "libpod": "podman",
    "libpod-payload": "podman",
}
_QOS: Final = {"burstable": "Burstable", "besteffort": "BestEffort"}

_POD_SLICE: Final = re.compile(r"(?:[^:]*-)?kubepods(?:-(burstable|besteffort))?-pod([0-9A-Za-z_.]{1,128})\.slice")
_POD_DIRECTORY: Final = re.compile(r"pod([0-9A-Za-z_.-]{1,128})")
_POD_UID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32}")
_CONTAINER: Final = re.compile(r"(?:([0-9A-Za-z][0-9A-Za-z.-]{0,63})[-_])?([0-9a-f]{64})(?:\.scope)?")
_UNIT: Final = re.compile(r"_?([0-9A-Za-z:_.\\@-]{1,247}\.(?:service|scope|socket|mount|swap|timer|path|automount))")
_USER_MANAGER: Final = re.compile(r"user@([0-9]{1,10})\.service")
_USER_SLICE: Final = re.compile(r"user-([0-9]{1,10})\.slice")
_LXC_PAYLOAD: Final = re.compile(r"lxc\.payload\.(.+)")
_MACHINE_SCOPE: Final = re.compile(r"machine-(.+)\.scope")
_NSPAWN: Final = re.compile(r"systemd-nspawn@(.+)\.service")
_ESCAPED: Final = re.compile(r"\\x([0-7][0-9a-f])")
_UNPRINTABLE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Identity:
    """The owner of a cgroup. What is not known, or does not apply, is empty.

    A row of a FlowBatch's `containers` is this with the empty fields left out (`row`): these names are the keys. A reader
    takes as the local workload the first that it can use of `pod_uid`, `container_id`, `container_name`, `systemd_user_unit`,
    `systemd_unit`, `cgroup`; within a pod, `container_id` says which of its containers.
    """

    cgroup: str
    """Path of the owner's cgroup below the mount, `/` for the root: of the container (the pod, the unit) itself, also where
    the socket belonged to one of its sub-cgroups. Bytes that are no UTF-8 and control characters are U+FFFD."""
    pod_uid: str = ""
    """As Kubernetes writes it. Of a static pod: the hash that its mirror pod has as `kubernetes.io/config.hash`."""
    pod_qos: str = ""
    """`Guaranteed`, `Burstable` or `BestEffort`."""
    container_id: str = ""
    """The 64 hexadecimal digits, without the runtime."""
    container_runtime: str = ""
    """`containerd`, `cri-o`, `docker`, `podman`, `lxc` or `systemd-nspawn`; empty where the path does not say."""
    container_name: str = ""
    """Of LXC containers and systemd's machines, which have names where others have ids."""
    systemd_unit: str = ""
    """The unit around it, as `systemctl` shows it; not of pods, and not the scope that is the container itself."""
    systemd_user_unit: str = ""
    """The unit of a user's own systemd, within `user@<id>.service`."""
    user_id: str = ""
    """Whose session or user unit it is."""

    def row(self) -> dict[str, str]:
        """Return the fields that are not empty, by name."""
        return {name: value for name in _NAMES if (value := getattr(self, name))}


_NAMES: Final = tuple(field.name for field in fields(Identity))


def identify(path: str) -> Identity:
    """Return the owner of the cgroup at `path`, as `/proc/<pid>/cgroup` or a walk below the mount spells it. Never raises."""
    names = [name for name in path.split("/") if name not in {"", ".", ".."}]
    trusted = next((depth for depth, name in enumerate(names) if _USER_MANAGER.fullmatch(name)), len(names))
    for depth in range(trusted):
        if pod := _pod(names, depth):
            return pod
    for depth in range(len(names)):
        if container := _container(names, depth):
            return container
    return _unit(names)


def _pod(names: Sequence[str], depth: int) -> Identity | None:
    """The pod at names[depth], with its container where there is one, or None."""
    name, _, joined = names[depth].partition(":")
    if match := _POD_SLICE.fullmatch(name):
        qos, uid = match[1], match[2].replace("_", "-")
    elif match := _POD_DIRECTORY.fullmatch(name):
        above = ("", "", *names[:depth])[-2:]
        qos, uid = (above[1] if above[1] in _QOS else None), match[1]
        if "kubepods" not in (above if qos else above[1:]) and not _POD_UID.fullmatch(uid):
            return None
    else:
        return None
    # Only a pod's own children are its runtime's; what is further down is the container's own.
    child, end = (
        (joined.replace(":", "-"), depth + 1) if joined else (names[depth + 1] if depth + 1 < len(names) else "", depth + 2)
    )
    runtime, container_id = _container_name(child)
    return Identity(
        cgroup=_path(names[: end if container_id else depth + 1]),
        pod_uid=uid,
        pod_qos=_QOS.get(qos or "", "Guaranteed"),
        container_id=container_id,
        container_runtime=runtime,
    )


def _container(names: Sequence[str], depth: int) -> Identity | None:
    """The container or machine at names[depth] outside any pod, or None."""
    name = names[depth]
    above = names[depth - 1] if depth else ""
    runtime, container_id = _container_name(name)
    container_name = ""
    units = names[:depth]
    if container_id:
        if above == "libpod_parent" and name == container_id:
            return None  # a pod of podman: its containers are one further down
        if not runtime and "docker" in units:
            runtime = "docker"
    elif match := _LXC_PAYLOAD.fullmatch(name):
        runtime, container_name = "lxc", match[1]
    elif above in {"lxc", "lxc.payload"} and depth == 1:
        runtime, container_name = "lxc", name
    elif match := _NSPAWN.fullmatch(name):
        runtime, container_name, units = "systemd-nspawn", _unescaped(match[1]), names[: depth + 1]
    elif above == "machine.slice" and (match := _MACHINE_SCOPE.fullmatch(name)):
        container_name, units = _unescaped(match[1]), names[: depth + 1]
    else:
        return None
    around = _unit(units)
    return Identity(
        cgroup=_path(names[: depth + 1]),
        container_id=container_id,
        container_runtime=runtime,
        container_name=plain_text(container_name),
        systemd_unit=around.systemd_unit,
        systemd_user_unit=around.systemd_user_unit,
        user_id=around.user_id,
    )


def _container_name(name: str) -> tuple[str, str]:
    """Runtime and id of a container's cgroup name, two empty strings where it is none."""
    match = _CONTAINER.fullmatch(name)
    if match is None:
        return "", ""
    prefix = match[1] or ""
    if prefix.endswith("conmon"):
        return "", ""  # the monitor process of CRI-O or podman, not what it watches
    return _RUNTIMES.get(prefix, ""), match[2]


def _unit(names: Sequence[str]) -> Identity:
    """The systemd unit whose cgroup `names` lie in; only the path where there is none."""
    unit, end, user_id = _first_unit(names, 0)
    user_unit = ""
    if manager := _USER_MANAGER.fullmatch(unit):
        user_id = manager[1]
        user_unit, end, _ = _first_unit(names, end)
    return Identity(
        cgroup=_path(names[:end] if unit else names),
        systemd_unit=unit,
        systemd_user_unit=user_unit,
        user_id=user_id,
    )


def _first_unit(names: Sequence[str], start: int) -> tuple[str, int, str]:
    """The unit right below the slices that begin at `start`, the depth after it, and the user whose slice was among them.

    Without a unit: an empty string and `start`.
    """
    user_id = ""
    for depth in range(start, len(names)):
        name = names[depth]
        if name.endswith(".slice"):
            if match := _USER_SLICE.fullmatch(name):
                user_id = match[1]
            continue
        match = _UNIT.fullmatch(name)
        return (match[1], depth + 1, user_id) if match else ("", start, user_id)
    return "", start, user_id


def _unescaped(name: str) -> str:
    r"""A name without systemd's escapes: `\x2d` is `-`."""
    return _ESCAPED.sub(lambda match: chr(int(match[1], 16)), name)


def _path(names: Sequence[str]) -> str:
    return plain_text("/" + "/".join(names))


def plain_text(text: str) -> str:
    """Return text that any reader can take: of bounded length, without control characters and what is no UTF-8."""
    if len(text) > MAX_TEXT:
        text = text[: MAX_TEXT - 1] + "\N{HORIZONTAL ELLIPSIS}"
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)
