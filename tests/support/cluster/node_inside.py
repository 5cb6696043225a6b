"""The first process of a node: mounts what a node has of its own, starts its programs, takes in the orphans of its containers.

Started by tests.support.cluster.node with the path of the node's settings. It ends, and the node with it, when one of the
programs does.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

START_SECONDS: Final = 60
_SYSCTLS: Final = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1_000_000,
    "kernel/keys/root_maxbytes": 25_000_000,
}
"""What the kubelet sets for the whole machine: it is shown files of the node's own, which say that it is set."""
_OWN: Final = ("/run", "/var/lib", "/var/log")
"""Where programs write to paths that cannot be configured."""


def mount(*arguments: str | Path) -> None:
    """Mount by the command, which knows the options by name."""
    subprocess.run(["mount", *map(str, arguments)], check=True)


def mount_node(settings: dict[str, Any], folder: Path) -> None:
    """What a node sees of its own: processes, control groups, settings of the kernel, and places to write to."""
    mount("-t", "proc", "proc", "/proc")
    subprocess.run(["umount", "--lazy", "/sys"], check=True)  # with the machine's control groups in it
    mount("-t", "sysfs", "sysfs", "/sys")
    hierarchies = settings["cgroups"]
    if len(hierarchies) > 1:
        mount("-t", "tmpfs", "-o", "mode=755", "cgroup", "/sys/fs/cgroup")
    for each in hierarchies:
        Path(each["path"]).mkdir(exist_ok=True)
        mount("-t", each["kind"], *(["-o", each["options"]] if each["options"] else []), "cgroup", each["path"])
    for path in _OWN:
        mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", path)
    for path in ("/run/netns", "/run/lock", "/var/lib/kubelet", "/var/lib/cni", "/var/lib/volumes", "/var/log/pods"):
        Path(path).mkdir()
    for path in ("kubelet", "volumes"):
        (folder / path).mkdir()
        mount("--bind", folder / path, f"/var/lib/{path}")
    for name, value in _SYSCTLS.items():
        shown = folder / name.replace("/", "-")
        shown.write_text(f"{value}\n")
        mount("--bind", shown, f"/proc/sys/{name}")
    mount("--make-rshared", "/")


def start(folder: Path, name: str, *arguments: str, executable: str | None = None) -> int:
    """Start a program whose output goes to a file of its own; return its process id."""
    with (folder / f"{name}.log").open("wb") as log:
        return subprocess.Popen([name, *arguments], executable=executable, stdout=log, stderr=log).pid


def await_containerd(folder: Path) -> None:
    """Wait until it answers."""
    deadline = time.monotonic() + START_SECONDS
    while subprocess.run(["ctr", "version"], capture_output=True, check=False).returncode:
        if time.monotonic() > deadline:
            sys.exit(f"containerd does not answer:\n{(folder / 'containerd.log').read_text()[-2000:]}")
        time.sleep(0.1)


def main() -> None:
    """Be a node."""
    settings = json.loads(Path(sys.argv[1]).read_text())
    folder = Path(settings["folder"])
    socket.sethostname(settings["name"])
    mount_node(settings, folder)
    programs = {start(folder, "containerd", "--config", settings["containerd"]): "containerd"}
    await_containerd(folder)
    kubelet = (
        f"--config={settings['kubelet']}",
        f"--kubeconfig={settings['kubeconfig']}",
        f"--hostname-override={settings['name']}",
        f"--node-ip={settings['address']}",
    )
    proxy = (f"--config={settings['kube_proxy']}", f"--hostname-override={settings['name']}")
    programs |= {
        start(folder, name, *arguments, "--v=2", executable=settings["kubernetes"]): name
        for name, arguments in (("kubelet", kubelet), ("kube-proxy", proxy))
    }
    while True:
        ended, status = os.wait()
        if ended in programs:
            sys.exit(f"{programs[ended]} has ended with {status}:\n{(folder / f'{programs[ended]}.log').read_text()[-2000:]}")


if __name__ == "__main__":
    main()
