"""The WIRESPAN_ variables of the environment: one that nothing reads is a typing error, and would be taken for a setting."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from services.cli.errors import UsageError
from services.runtime.settings import (
    PROCESS_PREFIX,
    ClusterSettings,
    HealthSettings,
    LogSettings,
    NatsSettings,
    StreamSettings,
    TelemetrySettings,
    describe,
)

_SHARED: Final[Mapping[str, type[msgspec.Struct]]] = {
    "NATS": NatsSettings,
    "STREAMS": StreamSettings,
    "LOG": LogSettings,
    "HEALTH": HealthSettings,
    "TELEMETRY": TelemetrySettings,
    "CLUSTER": ClusterSettings,
}
"""Groups whose names are known here; a service that is started refuses what it does not know of its own."""
_GROUPS: Final = (*_SHARED, "CAPTURE", "ENRICHER", "EXPORTER", "KUBE", "CLI")
_ALIKE: Final = 0.7


def check_variables(environ: Mapping[str, str]) -> None:
    """Raise UsageError for variables that look like settings and are none, with what was probably meant."""
    unknown = [f"{name}: there is no such setting{_hint(meant)}" for name, meant in _typos(environ)]
    if unknown:
        raise UsageError("; ".join(unknown))


def _typos(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    names = {
        variable.name for group, settings in _SHARED.items() for variable in describe(settings, f"{PROCESS_PREFIX}{group}_")
    }
    for name in sorted(environ):
        group, _, rest = name.removeprefix(PROCESS_PREFIX).partition("_")
        if not name.startswith(PROCESS_PREFIX) or not rest:
            continue
        if group in _SHARED and name not in names:
            yield name, next(iter(difflib.get_close_matches(name, names, 1, _ALIKE)), "")
        elif group not in _GROUPS and (meant := difflib.get_close_matches(group, _GROUPS, 1, _ALIKE)):
            yield name, f"{PROCESS_PREFIX}{meant[0]}_{rest}"


def _hint(meant: str) -> str:
    return f" (is it {meant}?)" if meant else ""
