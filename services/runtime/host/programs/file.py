"""A file of compiled programs, as bpf/tap/compiling/compile.py writes it: a line of JSON, then instructions and types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import msgspec


@dataclass(frozen=True, slots=True)
class CompiledMap:
    """What a map is made with; `types` are its key's and its value's in the file's."""

    kind: int
    key_bytes: int
    value_bytes: int
    max_entries: int
    flags: int
    types: tuple[int, int]


@dataclass(frozen=True, slots=True)
class CompiledProgram:
    """Instructions without descriptors, and which map belongs where in them."""

    kind: int
    attach_type: int
    instructions: bytes
    maps: tuple[tuple[int, str], ...]
    functions: bytes
    lines: bytes
    record_bytes: tuple[int, int]
    """Of one of `functions`, and of one of `lines`."""


@dataclass(frozen=True, slots=True)
class CompiledPrograms:
    """What one source was compiled to."""

    id: str
    """Names the source."""
    compiler: str
    types: bytes
    maps: Mapping[str, CompiledMap]
    programs: Mapping[str, CompiledProgram]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file. Raises OSError where there is none, ValueError where it is none of these."""
        return cls.parse(path.read_bytes())

    @classmethod
    def parse(cls, content: bytes) -> Self:
        """Read a file's content. Raises ValueError where it is none of these."""
        first, _, rest = content.partition(b"\n")
        try:
            head: dict[str, Any] = msgspec.json.decode(first)
            return cls(
                head["id"],
                head["compiler"],
                _part(rest, head["types"]),
                {name: CompiledMap(**each | {"types": tuple(each["types"])}) for name, each in head["maps"].items()},
                {name: _program(rest, each) for name, each in head["programs"].items()},
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"no compiled programs: {error}") from None


def _part(rest: bytes, place: list[int]) -> bytes:
    at, length = place
    return rest[at : at + length]


def _program(rest: bytes, each: dict[str, Any]) -> CompiledProgram:
    first, second = each["record_bytes"]
    return CompiledProgram(
        kind=each["kind"],
        attach_type=each["attach_type"],
        instructions=_part(rest, each["instructions"]),
        maps=tuple((at, name) for at, name in each["maps"]),
        functions=_part(rest, each["functions"]),
        lines=_part(rest, each["lines"]),
        record_bytes=(first, second),
    )
