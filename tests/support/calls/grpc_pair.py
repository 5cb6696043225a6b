"""A client and a server of gRPC in a process of their own, which may be in a network of its own.

`python -m tests.support.calls.grpc_pair ADDRESS COUNT AT_ONCE FILE`; the file tells each call as the client's SDK knows it.
"""

from __future__ import annotations

import json
import sys
from dataclasses import astuple
from pathlib import Path

from opentelemetry.sdk.trace import SpanProcessor

from tests.support.calls.pairs import Call, grpc_calls, grpc_server, tracer


def read(path: Path) -> list[Call]:
    """The calls that a process has told of."""
    return [Call(*each) for each in json.loads(path.read_bytes())]


def main() -> None:
    """Make the calls."""
    address, count, at_once, path = sys.argv[1:]
    (caller, _), (answering, _) = (tracer(name, SpanProcessor()) for name in ("frontend", "cart"))
    with grpc_server(answering, address) as port:
        calls = grpc_calls(caller, f"{address}:{port}", int(count), int(at_once))
    Path(path).write_text(json.dumps([astuple(call) for call in calls]))


if __name__ == "__main__":
    main()
