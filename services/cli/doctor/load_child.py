"""Asks bcc for its version, or has it load a small program; run by the system's Python, which has bcc.

    BCC_KERNEL_SOURCE=<our headers> /usr/bin/python3 -I load_child.py version|load

Prints one line of JSON. What is loaded is attached to nothing and is gone with this process. Only the standard library and bcc
are imported here, and nothing that Python 3.9 does not have.
"""

from __future__ import annotations

import ctypes
import json
import platform
import struct
import sys
import time
from typing import Any

SMALLEST = """
#include <linux/types.h>
int smallest(struct __sk_buff *skb) { return 1; }
"""

# What the socket tap does that an older kernel or a narrower permission might refuse.
FEATURES = """
#include <linux/types.h>
struct slot { u64 counts[8]; };
BPF_F_TABLE("array", u32, struct slot, slots, 16, 1U << 10); /* BPF_F_MMAPABLE */
BPF_SK_STORAGE(storage, u64);
int features(struct __sk_buff *skb)
{
    u32 index = skb->hash & 15;
    struct slot *slot = slots.lookup(&index);
    if (slot)
        __sync_fetch_and_add(&slot->counts[skb->len & 7], 1);
    struct bpf_sock *sk = skb->sk;
    if (!sk)
        return 1;
    sk = bpf_sk_fullsock(sk);
    if (!sk)
        return 1;
    struct bpf_tcp_sock *tcp = bpf_tcp_sock(sk);
    u64 *stored = storage.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
    if (stored && tcp)
        *stored = bpf_skb_cgroup_id(skb) + tcp->srtt_us;
    return 1;
}
"""

OBJ_GET_INFO_BY_FD = 15
SYSCALL_NUMBERS = {"x86_64": 321, "aarch64": 280}


def import_bcc() -> tuple[Any, dict[str, Any]]:
    """Return the module, or None, and what there is to say of it."""
    try:
        import bcc  # noqa: PLC0415 - its absence is an answer
    except ImportError as error:
        return None, {"error": "missing", "detail": str(error)}
    except Exception as error:  # noqa: BLE001 - a library that does not load, or another package's own trouble
        return None, {"error": "broken", "detail": f"{type(error).__name__}: {error}"}
    if not hasattr(bcc, "BPF"):
        return None, {"error": "foreign", "detail": str(getattr(bcc, "__file__", ""))}
    return bcc, {"version": str(getattr(bcc, "__version__", "of unknown version")), "python": platform.python_version()}


def jited_bytes(descriptor: int) -> int | None:
    """Return the length of a program's machine code, 0 where it is interpreted, None where that cannot be asked."""
    number = SYSCALL_NUMBERS.get(platform.machine())
    if number is None:
        return None
    info = ctypes.create_string_buffer(232)
    attribute = ctypes.create_string_buffer(struct.pack("=IIQ", descriptor, len(info), ctypes.addressof(info)), 128)
    if ctypes.CDLL(None).syscall(number, OBJ_GET_INFO_BY_FD, attribute, 128) < 0:
        return None
    length: int = struct.unpack_from("=I", info, 16)[0]
    return length


def load(bcc: Any) -> dict[str, Any]:
    """Load both programs; return how long the first took and what the second came to."""
    began = time.monotonic()
    try:
        smallest = bcc.BPF(text=SMALLEST)
        descriptor = smallest.load_func("smallest", bcc.BPF.CGROUP_SKB).fd
    except Exception as error:  # noqa: BLE001 - bcc raises nothing narrower
        return {"error": "load", "detail": str(error)}
    answer: dict[str, Any] = {"seconds": time.monotonic() - began, "jited_bytes": jited_bytes(descriptor)}
    try:
        features = bcc.BPF(text=FEATURES)
        features.load_func("features", bcc.BPF.CGROUP_SKB)
    except Exception as error:  # noqa: BLE001 - bcc raises nothing narrower
        answer |= {"error": "features", "detail": str(error)}
    return answer


def main(purpose: str) -> None:
    """Print the answer."""
    bcc, answer = import_bcc()
    if bcc is not None and purpose == "load":
        answer.update(load(bcc))
    print(json.dumps(answer))


if __name__ == "__main__":
    main(sys.argv[1])
