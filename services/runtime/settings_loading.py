"""Typed settings from the environment and an optional TOML file.

A settings type is a frozen `msgspec.Struct`. Field `otlp_endpoint` of the service `exporter` is read from the variable
`WIRESPAN_EXPORTER_OTLP_ENDPOINT`, else from `otlp_endpoint` in the table `[exporter]` of the file that `WIRESPAN_CONFIG` names,
else it has its default. A field that is itself a struct is a group shared by all services: field `nats` reads `WIRESPAN_NATS_*`
and the table `[nats]`. msgspec and not pydantic, which would cost every node 12 MiB.
"""

from __future__ import annotations

import os
import re
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeVar

import msgspec
from msgspec import Meta

from services.runtime.errors import SettingsError
from services.runtime.privacy.redaction import hide, hide_userinfo

PROCESS_PREFIX: Final = "WIRESPAN_"
CONFIG_VARIABLE: Final = "WIRESPAN_CONFIG"

_Struct = TypeVar("_Struct", bound=msgspec.Struct)
_USERINFO: Final = re.compile(r"([\'\"]?(?:\w+://)?)[^\s,]*@")
_ELEMENT: Final = re.compile(r"`\$\[(\d+)\]`")


class Variable(NamedTuple):
    """One environment variable, as a table of settings shows it."""

    name: str
    type: str
    default: str
    description: str


def load(
    struct_type: type[_Struct], *, prefix: str, environ: Mapping[str, str] = os.environ, path: Path | None = None
) -> _Struct:
    """Return the settings of type `struct_type`, whose variables begin with `prefix` (`WIRESPAN_CAPTURE_`).

    `path` is a TOML file; None means the one that `WIRESPAN_CONFIG` names, if any. Raises SettingsError with every fault.
    """
    faults: list[str] = []
    if path is None and environ.get(CONFIG_VARIABLE):
        path = Path(environ[CONFIG_VARIABLE])
    tables = _read_file(path, faults) if path is not None else {}
    source = _Source(environ, tables, str(path), faults)
    settings = source.read(struct_type, prefix)
    if faults or settings is None:
        raise SettingsError(faults)
    return settings


def describe(struct_type: type[msgspec.Struct], prefix: str) -> list[Variable]:
    """Return every variable of the settings type, its own first, then the groups'."""
    own: list[Variable] = []
    groups: list[Variable] = []
    for field in _fields(struct_type):
        if field.group is not None:
            groups += describe(field.group, _group_prefix(field.name))
            continue
        default = "required" if field.required else _show_default(field.default)
        own.append(Variable(prefix + field.name.upper(), _show_type(field.type), default, field.description))
    return own + groups


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    type: Any
    """Without `None` and without the Meta that names it."""
    constrained: Any
    """The type as msgspec checks it: with constraints, without `None`."""
    default: Any
    optional: bool
    secret: bool
    description: str
    group: type[msgspec.Struct] | None

    @property
    def required(self) -> bool:
        return self.default is msgspec.NODEFAULT


def _fields(struct_type: type[msgspec.Struct]) -> Iterator[_Field]:
    hints = typing.get_type_hints(struct_type, include_extras=True)
    for info in msgspec.structs.fields(struct_type):
        hint = hints[info.name]
        metas: tuple[Meta, ...] = ()
        if typing.get_origin(hint) is Annotated:
            hint, *extras = typing.get_args(hint)
            metas = tuple(extra for extra in extras if isinstance(extra, Meta))
        members = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
        kept = [member for member in members if member is not types.NoneType]
        plain: Any = typing.Union[tuple(kept)]  # noqa: UP007 - made of what the program finds
        default = info.default_factory() if callable(info.default_factory) else info.default
        yield _Field(
            name=info.name,
            type=plain,
            constrained=Annotated[(plain, *metas)] if metas else plain,
            default=default,
            optional=len(kept) < len(members),
            secret=any((meta.extra or {}).get("secret") for meta in metas),
            description=next((meta.description for meta in metas if meta.description), ""),
            group=plain if isinstance(plain, type) and issubclass(plain, msgspec.Struct) else None,
        )


@dataclass(frozen=True, slots=True)
class _Source:
    """The environment and the file, read field by field; faults are collected."""

    environ: Mapping[str, str]
    tables: Mapping[str, Any]
    path: str
    faults: list[str]

    def read(self, struct_type: type[_Struct], prefix: str) -> _Struct | None:
        table_name = prefix.removeprefix(PROCESS_PREFIX).rstrip("_").lower()
        table = self._table(table_name)
        before = len(self.faults)
        values: dict[str, Any] = {}
        known: set[str] = set()
        for field in _fields(struct_type):
            if field.group is not None:
                values[field.name] = self.read(field.group, _group_prefix(field.name))
                continue
            variable = prefix + field.name.upper()
            known |= {variable, field.name}
            self._read_field(field, variable, (table_name, table), values)
        self._refuse_unknown(prefix, table_name, table, known)
        if len(self.faults) > before:
            return None
        try:
            return struct_type(**values)
        except ValueError as error:
            self.faults.append(f"{prefix}*: {error}")
            return None

    def _table(self, name: str) -> Mapping[str, Any]:
        table = self.tables.get(name, {})
        if isinstance(table, dict):
            return table
        self.faults.append(f"{self.path}: {name!r} should be a table")
        return {}

    def _read_field(self, field: _Field, variable: str, table: tuple[str, Mapping[str, Any]], values: dict[str, Any]) -> None:
        text = self.environ.get(variable)
        where, raw = variable, _from_text(field, text) if text is not None else None
        if text is None and field.name in table[1]:
            where, raw = f"{self.path} [{table[0]}] {field.name}", table[1][field.name]
        elif text is None:
            if field.required:
                self.faults.append(f"{variable}: must be set: {field.description}")
            return
        if raw is None and field.optional:
            values[field.name] = None
            return
        _hide(field, raw)
        try:
            values[field.name] = msgspec.convert(raw, field.constrained, strict=text is None, dec_hook=_decode_path)
        except (msgspec.ValidationError, ValueError) as error:
            self.faults.append(f"{where}={_masked(field, text if text is not None else raw)}: {_wanted(field, raw, error)}")

    def _refuse_unknown(self, prefix: str, table_name: str, table: Mapping[str, Any], known: set[str]) -> None:
        for variable in sorted(self.environ):
            if variable.startswith(prefix) and variable not in known:
                self.faults.append(f"{variable}: there is no such setting")
        for key in sorted(table):
            if key not in known:
                self.faults.append(f"{self.path} [{table_name}] {key}: there is no such setting")


def _group_prefix(field_name: str) -> str:
    return f"{PROCESS_PREFIX}{field_name.upper()}_"


def _read_file(path: Path, faults: list[str]) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        faults.append(f"{CONFIG_VARIABLE}={path}: {error}")
        return {}


def _from_text(field: _Field, text: str) -> Any:
    if field.optional and not text:
        return None
    if typing.get_origin(field.type) is tuple:
        return [item.strip() for item in text.split(",") if item.strip()]
    return text


def _decode_path(wanted: type, value: Any) -> Any:
    if wanted is Path and isinstance(value, str) and value:
        return Path(value)
    raise ValueError("Expected a path" if wanted is Path else f"Unsupported type {wanted}")


def _hide(field: _Field, value: object) -> None:
    """Let no text of this process have what is secret about a setting."""
    for text in value if isinstance(value, list) else [value]:
        if isinstance(text, str) and field.secret:
            hide(text)
        elif isinstance(text, str) and "@" in text:
            for url in text.split(","):
                hide_userinfo(url.strip())


def _wanted(field: _Field, raw: Any, error: Exception) -> str:
    """Say what a setting takes; of several values, also which of them is none."""
    at = _ELEMENT.search(str(error))
    which = f"{_masked(field, raw[int(at[1])])} is none" if at and isinstance(raw, list) and not field.secret else ""
    return ": ".join(filter(None, [f"takes {_words(msgspec.inspect.type_info(field.constrained))}", which]))


def _words(kind: msgspec.inspect.Type) -> str:
    """Return what a type takes as a person would say it."""
    words = "a path"
    match kind:
        case msgspec.inspect.Metadata():
            words = _words(kind.type)
        case msgspec.inspect.VarTupleType():
            words = f"values separated by commas, each {_words(kind.item_type)}"
        case msgspec.inspect.LiteralType():
            words = f"one of {', '.join(map(str, kind.values))}"
        case msgspec.inspect.BoolType():
            words = "true or false"
        case msgspec.inspect.IntType() | msgspec.inspect.FloatType():
            bounds = ("of at least", kind.ge), ("of more than", kind.gt), ("of at most", kind.le), ("of less than", kind.lt)
            limits = " and ".join(f"{words} {bound}" for words, bound in bounds if bound is not None)
            words = f"{'an integer' if isinstance(kind, msgspec.inspect.IntType) else 'a number'} {limits}".rstrip()
        case msgspec.inspect.StrType():
            least = f" of at least {kind.min_length} characters" if kind.min_length else ""
            words = f"text{least}" + (f" that matches {kind.pattern}" if kind.pattern else "")
    return words


def _masked(field: _Field, value: object) -> str:
    return "***" if field.secret else _USERINFO.sub(r"\1***@", repr(value))


def _show_type(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return " or ".join(f"`{choice}`" for choice in typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        return f"{_show_type(typing.get_args(kind)[0])}, ..."
    names = {str: "text", int: "integer", float: "number", bool: "true or false", Path: "path"}
    return names.get(kind, str(kind))


def _show_default(default: object) -> str:
    if default is None or default in ("", ()):
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return ",".join(str(item) for item in default)
    return str(default)
