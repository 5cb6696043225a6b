"""The kernel's own word on identity: real cgroups, real sockets, and the ids that a BPF program sees on their packets."""

import contextlib
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from proto.columns import NO_INDEX
from services.capture.live.owners.cgroups import CgroupIndex, NoCgroup2Error, cgroup_id, find_root
from tests.support.ports import free_ports

UID = "1e6a2f34-90ab-4cde-8f01-23456789abcd"
POD_SLICE = f"kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID.replace('-', '_')}.slice"
CONTAINER = f"{POD_SLICE}/cri-containerd-{'c0ffee12' * 8}.scope"
SIDECAR = f"{POD_SLICE}/crio-{'51deca12' * 8}.scope"
WORKER = f"{CONTAINER}/system.slice/worker.service"
CGROUPFS_CONTAINER = f"kubepods/besteffort/pod{UID[::-1]}/{'abcdef01' * 8}"
UNIT = "system.slice/nginx.service"

SYSTEM_PYTHON = "/usr/bin/python3"

# What BCC includes of itself; the program needs nothing of a kernel's headers.
HEADERS = {
    "linux/kconfig.h": "#define CONFIG_BPF_SYSCALL 1\n",
    "linux/types.h": """
        typedef unsigned char u8, __u8; typedef signed char s8, __s8;
        typedef unsigned short u16, __u16, __be16, __sum16; typedef short s16, __s16;
        typedef unsigned int u32, __u32, __be32, __wsum; typedef int s32, __s32;
        typedef unsigned long long u64, __u64, __be64, __aligned_u64; typedef long long s64, __s64;
        typedef unsigned long size_t, uintptr_t; typedef long ssize_t; typedef int pid_t; typedef _Bool bool;
        """,
    "linux/version.h": "#define KERNEL_VERSION(a, b, c) 0\n#define LINUX_VERSION_CODE 0\n",
    "asm/page.h": "#define PAGE_SIZE 4096UL\n",
    "linux/bpf_common.h": "",
    "linux/log2.h": "",
    "uapi/linux/bpf.h": "",
    "uapi/linux/if_packet.h": "",
}

# Prints a line when it is attached; at the next line of input prints {local port: cgroup id} for both directions, and ends.
OBSERVER = r"""
import json, os, sys
from bcc import BPF, BPFAttachType
bpf = BPF(text='''
BPF_HASH(sent, u32, u64);
BPF_HASH(received, u32, u64);
int egress(struct __sk_buff *skb) {
    u32 port = skb->local_port;
    u64 id = bpf_skb_cgroup_id(skb);
    sent.update(&port, &id);
    return 1;
}
int ingress(struct __sk_buff *skb) {
    u32 port = skb->local_port;
    u64 id = bpf_skb_cgroup_id(skb);
    received.update(&port, &id);
    return 1;
}
''')
cgroup = os.open(sys.argv[1], os.O_RDONLY)
kinds = {"egress": BPFAttachType.CGROUP_INET_EGRESS, "ingress": BPFAttachType.CGROUP_INET_INGRESS}
functions = {name: bpf.load_func(name, BPF.CGROUP_SKB) for name in kinds}
for name, kind in kinds.items():
    bpf.attach_func(functions[name], cgroup, kind)
print("attached", flush=True)
sys.stdin.readline()
for name, kind in kinds.items():
    bpf.detach_func(functions[name], cgroup, kind)
print(json.dumps([{str(key.value): value.value for key, value in bpf[table].items()} for table in ("sent", "received")]))
"""

# Joins a cgroup, answers itself over UDP and TCP on the loopback from these ports, and is gone.
TALKER = r"""
import socket, sys
with open(sys.argv[1] + "/cgroup.procs", "w") as procs:
    procs.write("0")
udp_port, client_port, server_port = map(int, sys.argv[2:])
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("127.0.0.1", udp_port))
udp.sendto(b"x", udp.getsockname())
udp.recv(1)
listener = socket.create_server(("::1", server_port), family=socket.AF_INET6)
client = socket.create_connection(("::1", server_port), source_address=("::1", client_port))
server, _ = listener.accept()
client.sendall(b"x")
server.recv(1)
"""


def remove(top):
    """Take a cgroup tree down, the lowest first."""
    for directory, _, _ in os.walk(top, topdown=False):
        with contextlib.suppress(FileNotFoundError):
            Path(directory).rmdir()


@pytest.fixture
def node():
    """A cgroup of our own below the real mount: the root of a node in a test. Nothing of it is left behind."""
    if os.geteuid() != 0:
        pytest.skip("making cgroups needs root")
    try:
        top = find_root() / f"wirespan-test-{os.getpid()}"
        top.mkdir()
    except NoCgroup2Error:
        pytest.skip("no cgroup2 file system is mounted")
    except OSError as error:
        pytest.skip(f"cgroups cannot be made here: {error}")
    try:
        yield top
    finally:
        remove(top)


def make(node, path):
    """Make a cgroup and return its id."""
    (node / path).mkdir(parents=True, exist_ok=True)
    return cgroup_id(node / path)


def talk(cgroup):
    """Run a process in the cgroup that talks to itself; return the ports of its UDP, TCP client and TCP server sockets, which
    no other socket of the test has: packets are known by them.
    """
    ports = free_ports(3)
    subprocess.run([sys.executable, "-c", TALKER, cgroup, *map(str, ports)], check=True, capture_output=True, timeout=60)
    return ports


@contextlib.contextmanager
def observed(node, tmp_path):
    """What BPF programs on `node` see meanwhile: a list that holds, afterwards, {port: cgroup id} sent and received."""
    probe = subprocess.run([SYSTEM_PYTHON, "-c", "import bcc"], check=False, capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"{SYSTEM_PYTHON} has no bcc (python3-bpfcc): {probe.stderr.strip().splitlines()[-1:]}")
    for name, text in HEADERS.items():
        header = tmp_path / "headers" / "include" / name
        header.parent.mkdir(parents=True, exist_ok=True)
        header.write_text(text)
    environment = {**os.environ, "BCC_KERNEL_SOURCE": str(tmp_path / "headers")}
    environment.pop("PYTHONPATH", None)
    errors = tmp_path / "observer.log"
    with (
        errors.open("w") as log,
        subprocess.Popen(
            [SYSTEM_PYTHON, "-c", OBSERVER, node],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environment,
        ) as child,
    ):
        try:
            if child.stdout.readline() != "attached\n":
                child.wait(10)
                reason = errors.read_text()
                if "Operation not permitted" in reason:
                    pytest.skip("the kernel does not permit BPF here")
                pytest.fail(f"the observer did not attach: {reason}")
            seen = []
            yield seen
            output, _ = child.communicate("\n", timeout=30)
            assert child.returncode == 0, errors.read_text()
            seen.extend({int(port): cgroup for port, cgroup in table.items()} for table in json.loads(output))
        finally:
            child.kill()


def test_ids_on_packets_are_inode_numbers(node, tmp_path):
    """bpf_skb_cgroup_id is the directory's inode number, for each end of a connection, sent and received, UDP and TCP."""
    paths = [CONTAINER, SIDECAR, WORKER, CGROUPFS_CONTAINER, UNIT, "."]
    expected = {}
    with observed(node, tmp_path) as seen:
        for path in paths:
            cgroup = make(node, path)
            expected |= dict.fromkeys(talk(node / path), cgroup)
    sent, received = seen
    assert len(expected) == 3 * len(paths)
    assert {port: sent[port] for port in expected} == expected
    assert {port: received[port] for port in expected} == expected


def test_packets_of_processes_that_are_gone_name_their_owner(node, tmp_path):
    """From the id on a packet alone, after process and cgroup are gone: pod and container, sub-cgroups included, and units."""
    with CgroupIndex(node) as index:
        with observed(node, tmp_path) as seen:
            ports = {}
            for path in (CONTAINER, WORKER, CGROUPFS_CONTAINER, UNIT):
                make(node, path)
                index.refresh()  # as an event loop does that waits for it
                ports[path] = talk(node / path)[0]
        remove(node / "kubepods.slice")
        sent, _ = seen
        indexes, table = index.rows(np.array([sent[port] for port in ports.values()], "<u8"))
        assert indexes.tolist() == [0, 0, 1, 2]
        assert [(row.get("pod_uid"), row.get("container_id")) for row in table] == [
            (UID, "c0ffee12" * 8),
            (UID[::-1], "abcdef01" * 8),
            (None, None),
        ]
        assert table[2]["systemd_unit"] == "nginx.service"
        assert index.counts.scans == 1


def test_ids_are_not_used_again(node):
    """A cgroup made after another is gone has a larger id: what is remembered of the dead cannot be taken for the new."""
    made = []
    for _ in range(200):
        made.append(make(node, CONTAINER))
        (node / CONTAINER).rmdir()
    assert all(earlier < later for earlier, later in itertools.pairwise(made))


def test_the_kernel_tells_of_cgroups_that_come_and_go(node):
    """On the real file system: no scan but the first, gone cgroups leave no watch behind, and names are used again at will."""
    with CgroupIndex(node) as index:
        before = []
        for number in range(300):
            cgroup = make(node, CONTAINER)
            before.append(cgroup)
            index.refresh()
            assert index.owner(cgroup).pod_uid == UID
            (node / CONTAINER).rmdir()
            if number % 2:
                index.refresh()
        index.refresh()
        assert index.counts.scans == 1
        assert index.counts.watching
        indexes, table = index.rows(np.array(before, "<u8"))
        assert NO_INDEX not in indexes
        assert len(table) == 1
        watches = Path(f"/proc/self/fdinfo/{index.fileno()}").read_text().count("inotify wd")
        assert watches == index.counts.live == len(CONTAINER.split("/"))


def test_the_root_that_is_found_is_the_root():
    """The mount that is found holds this process, at the path that the kernel gives for it."""
    try:
        root = find_root()
    except NoCgroup2Error:
        pytest.skip("no cgroup2 file system is mounted")
    own = next(line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
    if "/.." in own:
        pytest.skip("this process is outside its own cgroup namespace")
    assert (root / own[3:].lstrip("/") / "cgroup.procs").exists()
