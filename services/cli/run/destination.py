"""Where the spans of a run go: to an OTLP endpoint, or to a file of OTLP/JSON lines."""

from __future__ import annotations

import fcntl
import itertools
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol, TypeAlias
from urllib.parse import urlsplit

from services.cli.errors import UsageError
from services.cli.views.printable import printable
from services.runtime.otlp_protocol import suggested_protocol
from services.runtime.privacy.private_files import refuse_planted_link

DEFAULT_OUTPUT: Final = Path("wirespan-spans.jsonl")
_TRACES_PATH: Final = "/v1/traces"
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
Existing: TypeAlias = Literal["refuse", "append", "overwrite"]

_CREDENTIALS: Final = re.compile(r"//[^/@]*@")
_OUTPUT_FILE: Final = "WIRESPAN_EXPORTER_OUTPUT_FILE"


class Destination(Protocol):
    """Where spans go."""

    def __str__(self) -> str:
        """Name it as a person would."""
        ...

    def environ(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return `environ` changed so that the exporter sends spans here."""
        ...


@dataclass(frozen=True, slots=True)
class EndpointDestination:
    """An OTLP endpoint; headers, certificates and the rest come from the OTEL_EXPORTER_OTLP_* variables."""

    endpoint: str
    protocol: str | None = None
    """None: what the environment says, else what the port suggests."""
    from_environment: bool = False
    """The environment names the endpoint already, in the form that the exporter is to use."""

    def __str__(self) -> str:
        return printable(_CREDENTIALS.sub("//***@", self.endpoint))

    def environ(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Set endpoint and protocol, and take out what would overrule them."""
        changed = {name: value for name, value in environ.items() if name != _OUTPUT_FILE}
        protocol = self.protocol
        if not self.from_environment:
            url = urlsplit(self.endpoint)
            # The general variable gets /v1/traces appended, the other one is used as it is.
            exact = url.path.endswith(_TRACES_PATH)
            for name in _ENDPOINTS:
                changed.pop(name, None)
            changed[_ENDPOINTS[0] if exact else _ENDPOINTS[1]] = self.endpoint
            said = any(environ.get(name) for name in _PROTOCOLS)
            if not protocol and not said and suggested_protocol(self.endpoint) != "grpc":
                protocol = "http/protobuf"
        if protocol:
            changed[_PROTOCOLS[0]] = protocol
        return changed


@dataclass(frozen=True, slots=True)
class FileDestination:
    """A file of OTLP/JSON lines, the format of the OpenTelemetry Collector's `otlpjsonfile` receiver."""

    path: Path
    existing: Existing = "refuse"
    """What becomes of spans that are in it already."""

    def __str__(self) -> str:
        return str(self.path)

    def environ(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Name the file, whatever endpoint the environment names."""
        return {**environ, _OUTPUT_FILE: str(self.path.absolute())}

    def prepare(self) -> None:
        """Make the file, which the exporter appends to, ready for this run's spans; none of another run goes unasked.

        Raises UsageError where it holds some and nobody said what becomes of them, where it cannot be written, or another
        exporter is writing to it.
        """
        try:
            refuse_planted_link(self.path)
            file_descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise UsageError(f"{self.path}: cannot be written: {error.strerror}") from error
        try:
            status = os.fstat(file_descriptor)
            if not stat.S_ISREG(status.st_mode):
                return
            fcntl.flock(file_descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if status.st_size and self.existing == "refuse":
                raise UsageError(
                    f"{self.path}: holds spans of an earlier run; --append adds to them, --overwrite replaces them"
                )
            if self.existing == "overwrite":
                os.ftruncate(file_descriptor, 0)
        except BlockingIOError as error:
            raise UsageError(f"{self.path}: another exporter writes to it") from error
        finally:
            os.close(file_descriptor)


def choose_destination(
    *,
    endpoint: str | None,
    protocol: str | None,
    output: Path | None,
    environ: Mapping[str, str],
    existing: Existing = "refuse",
) -> EndpointDestination | FileDestination:
    """Return the endpoint or the file that was asked for, else the environment's endpoint, else the default file: unless it is
    said what becomes of spans that are there, one with a number that holds none.

    Raises UsageError for options that contradict each other and for an endpoint that is no URL.
    """
    if endpoint is not None and output is not None:
        raise UsageError("spans go to --otlp-endpoint or to --output, not to both")
    if output is not None:
        if protocol is not None:
            raise UsageError("--otlp-protocol says how to reach an endpoint, --output is a file")
        return FileDestination(output, existing)
    if endpoint is not None:
        return EndpointDestination(_checked(endpoint), protocol)
    named = next((environ[name] for name in _ENDPOINTS if environ.get(name)), None)
    if named is not None:
        return EndpointDestination(named, protocol, from_environment=True)
    if protocol is not None:
        raise UsageError("--otlp-protocol needs --otlp-endpoint")
    return FileDestination(DEFAULT_OUTPUT if existing != "refuse" else _unused(DEFAULT_OUTPUT), existing)


def _unused(path: Path) -> Path:
    """Return the path, or the first of those with a number behind it, that holds nothing."""
    numbered = (path.with_stem(f"{path.stem}-{number}") for number in itertools.count(2))
    return next(each for each in itertools.chain([path], numbered) if not each.exists() or not each.stat().st_size)


def _checked(endpoint: str) -> str:
    try:
        url = urlsplit(endpoint)
        named = url.scheme in {"http", "https"} and bool(url.hostname) and url.port != 0
    except ValueError:
        named = False
    if not named:
        raise UsageError(
            f"{endpoint}: no OTLP endpoint; it should look like http://localhost:4317 or https://tempo.example:4318"
        )
    return endpoint
