"""A control group for each part of the shop, so that capture tells them apart by name as it does a host's systemd units."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from services.runtime.host.cgroup2 import look_at_tree

_SLICE: Final = "wirespan-shop.slice"


@contextlib.contextmanager
def control_groups(names: list[str]) -> Iterator[dict[str, Path]]:
    """Make the groups, and remove them at the end; none where this machine does not let us."""
    root = look_at_tree().root
    made: dict[str, Path] = {}
    top = root / _SLICE if root else None
    if top is not None:
        with contextlib.suppress(OSError):
            top.mkdir(exist_ok=True)
            for name in names:
                group = top / f"{name}.service"
                group.mkdir(exist_ok=True)
                made[name] = group
    try:
        yield made
    finally:
        for group in [*made.values(), *([top] if top else [])]:
            with contextlib.suppress(OSError):  # another run's, or gone
                group.rmdir()


def inside(group: Path | None, command: tuple[str, ...]) -> tuple[str, ...]:
    """Return the command that goes into the group and becomes `command` there."""
    if group is None:
        return command
    return ("/bin/sh", "-c", 'echo $$ >"$0" && exec "$@"', str(group / "cgroup.procs"), *command)
