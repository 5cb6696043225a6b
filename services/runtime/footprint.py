"""How a service that runs on every node stays small: without parts of libraries that it never uses, with one heap."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Final, cast

_ENVIRONMENT: Final = {
    # One heap for all threads, and freed memory goes back to the system (glibc): but for what a batch takes, whose pages would
    # be the system's and cleared anew for each.
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(1 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 21),
    # numpy asks for huge pages for large arrays, of which a table that is half empty touches all.
    "NUMPY_MADVISE_HUGEPAGE": "0",
    # Its linear algebra has a buffer for each thread, and nobody calls it.
    "OPENBLAS_NUM_THREADS": "1",
}
_WITHOUT_DOCSTRINGS: Final = 2


def start_small() -> None:
    """Start this program anew in the same process, unless it was: without docstrings (3 MiB of them) and with a frugal heap."""
    if sys.flags.optimize >= _WITHOUT_DOCSTRINGS:
        return
    environment = _ENVIRONMENT | os.environ
    os.execve(sys.executable, [sys.executable, "-OO", *sys.orig_argv[1:]], environment)  # noqa: S606 - ourselves


def do_without(*packages: str) -> None:
    """Have imports of these packages fail from here on, so that libraries to which they are optional come without them."""
    for package in packages:
        # None is how Python marks what cannot be imported.
        cast("dict[str, ModuleType | None]", sys.modules).setdefault(package, None)


@contextlib.contextmanager
def without(*packages: str) -> Iterator[None]:
    """As `do_without`, for what is imported in this context: who imports them after it has them."""
    modules = cast("dict[str, ModuleType | None]", sys.modules)
    hidden = [package for package in packages if package not in modules]
    do_without(*hidden)
    try:
        yield
    finally:
        for package in hidden:
            del modules[package]
