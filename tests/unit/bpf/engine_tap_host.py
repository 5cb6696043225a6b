"""Runs packets through engine_tap.c in the kernel: for the system's Python, which has bcc. Only the standard library else.

Arguments: the folder bpf/. Standard input: JSON list of [time in ns, "egress" or "ingress", Ethernet frame in hex].
Standard output: JSON {"flows": [slot in hex ...], "dispositions": [count ...]}. Exit code 77: cannot run here, the reason on
standard error.
"""

from __future__ import annotations

import ctypes
import json
import os
import struct
import sys
from pathlib import Path

BPF_MAP_CREATE, BPF_PROG_TEST_RUN = 0, 10
CGROUP_SKB = 8
BPF_SYSCALL = {"x86_64": 321, "aarch64": 280}
TSTAMP_OFFSET, CONTEXT_BYTES = 152, 192
DISPOSITIONS = 9


def bpf(command: int, attributes: bytes) -> None:
    """The bpf system call. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(BPF_SYSCALL[os.uname().machine], command, ctypes.create_string_buffer(attributes), len(attributes)) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def run(program: int, frame: bytes, time_ns: int) -> None:
    """Give the program one packet whose `skb->tstamp` is `time_ns`."""
    data = ctypes.create_string_buffer(frame, len(frame))
    context = ctypes.create_string_buffer(CONTEXT_BYTES)
    struct.pack_into("<Q", context, TSTAMP_OFFSET, time_ns)
    fields = (program, 0, len(frame), 0, ctypes.addressof(data), 0, 1, 0, CONTEXT_BYTES, 0, ctypes.addressof(context), 0)
    bpf(BPF_PROG_TEST_RUN, struct.pack("<IIIIQQIIIIQQ", *fields) + bytes(16))


def main() -> int:
    """Compile, load, run, print."""
    try:
        bpf(BPF_MAP_CREATE, struct.pack("<IIII", 2, 4, 4, 1) + bytes(64))
    except OSError as error:
        sys.stderr.write(f"bpf(2) is not allowed here: {error}\n")
        return 77
    headers = sys.argv[1]
    os.environ["BCC_KERNEL_SOURCE"] = headers
    try:
        from bcc import BPF
    except ImportError as error:
        sys.stderr.write(f"the system's Python has no bcc: {error}\n")
        return 77
    program = BPF(src_file=str(Path(__file__).with_name("engine_tap.c")), cflags=[f"-I{headers}"])
    descriptors = {name: program.load_func(f"on_{name}", CGROUP_SKB).fd for name in ("egress", "ingress")}
    for time_ns, direction, frame in json.load(sys.stdin):
        run(descriptors[direction], bytes.fromhex(frame), time_ns)
    flows = [bytes(flow).hex() for flow in program["flows_by_key"].values()]
    counts = [program["dispositions"][index].value for index in range(DISPOSITIONS)]
    json.dump({"flows": flows, "dispositions": counts}, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
