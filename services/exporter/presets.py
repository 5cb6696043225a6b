"""Presets: how many spans there are and how much each says, chosen with one word."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from services.exporter.spans.profiles import Profile

Preset: TypeAlias = Literal["everything", "troubles", "map"]


@dataclass(frozen=True, slots=True)
class Choice:
    """What a preset stands for; each can be set by itself as well."""

    attributes: Profile
    keep_ratio: float
    """Share of the flows without trouble that are spans of their own."""
    keep_troubles: bool
    """Whether flows that failed, were slow or lossy are spans of their own where others are summed up."""


PRESETS: Final[dict[Preset, Choice]] = {
    "everything": Choice("standard", 1.0, keep_troubles=True),
    "troubles": Choice("standard", 0.0, keep_troubles=True),
    "map": Choice("lean", 0.0, keep_troubles=False),
}


def contradictions(preset: Preset, keep_ratio: float | None, *, keep_troubles: bool | None) -> list[str]:
    """Say which of the settings that were given (None: not) turn a preset into what it is not."""
    found = []
    chosen = PRESETS[preset]
    meant_to = chosen.keep_ratio < 1
    sums_up = meant_to if keep_ratio is None else keep_ratio < 1
    if sums_up is not meant_to:
        what = "sums flows up" if meant_to else "keeps every flow"
        found.append(f"preset={preset} {what}, keep_ratio={keep_ratio:g} does not: keep_ratio wins")
    if keep_troubles is None or keep_troubles is chosen.keep_troubles:
        return found
    said = f"keep_troubles={str(keep_troubles).lower()}"
    if sums_up:
        what = "keeps flows that had trouble" if chosen.keep_troubles else "sums up flows that had trouble too"
        found.append(f"preset={preset} {what}, {said} does not: keep_troubles wins")
    else:
        found.append(f"{said} changes nothing while every flow has spans of its own")
    return found
