"""The standard OTEL_EXPORTER_OTLP_* variables, with the meaning the OpenTelemetry specification gives them
(https://opentelemetry.io/docs/specs/otel/protocol/exporter/).

Each is read as OTEL_EXPORTER_OTLP_TRACES_<NAME> first (for metrics of flows OTEL_EXPORTER_OTLP_METRICS_<NAME>), then as
OTEL_EXPORTER_OTLP_<NAME>; an empty value counts as unset.
Where the specification leaves a choice, or implementations differ:

- PROTOCOL is what the endpoint suggests where nothing is set: `http/protobuf` for port 4318 or a path that ends in /v1/traces
  (/v1/metrics), else `grpc`. The specification allows either; `http/json` is not offered.
- TIMEOUT is in milliseconds, as specified. The OpenTelemetry SDK for Python reads the same variable in seconds.
- An endpoint with `http://` or `https://` says itself whether the connection is secure, for gRPC too. INSECURE counts only for
  a gRPC endpoint without a scheme, which is secure otherwise.
- A value that makes no sense is a fault that stops the start, where the specification would fall back to a default with a
  warning: spans that silently go elsewhere, or in the clear, are worse than a start that says what is wrong.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias
from urllib.parse import SplitResult, unquote, urlsplit

from services.exporter.delivery.header_files import HEADER_NAME, HEADER_VALUE, HeaderFile
from services.runtime.errors import SettingsError
from services.runtime.otlp_protocol import suggested_protocol
from services.runtime.privacy.redaction import hide

Signal: TypeAlias = Literal["traces", "metrics"]
DEFAULT_TIMEOUT_MS: Final = 10_000

VARIABLES: Final = {
    "ENDPOINT": (
        "http://localhost:4317 (grpc), http://localhost:4318 (http/protobuf)",
        "Where spans go. For HTTP, /v1/traces is appended to the general variable's path; the TRACES form is used as it is.",
    ),
    "PROTOCOL": ("grpc; http/protobuf for port 4318 or a path that ends in /v1/traces", "`grpc` or `http/protobuf`."),
    "HEADERS": ("", "Sent with every request: name=value, comma-separated, values percent-encoded."),
    "TIMEOUT": (str(DEFAULT_TIMEOUT_MS), "Milliseconds that one attempt may take."),
    "COMPRESSION": ("none", "`gzip` or `none`."),
    "CERTIFICATE": ("", "PEM file of the authorities to trust for the backend, instead of the system's."),
    "CLIENT_KEY": ("", "PEM file of the private key for mutual TLS."),
    "CLIENT_CERTIFICATE": ("", "PEM file of the certificate, with its chain, for mutual TLS."),
    "INSECURE": ("false", "`true`: no TLS. Only for gRPC, and only where the endpoint has no scheme."),
}
"""Each variable: its default, and what it means."""

_GENERAL: Final = "OTEL_EXPORTER_OTLP_"
_METADATA_NAME: Final = re.compile(r"[0-9a-z_.-]+")
_HOST: Final = r"(?:[\w.-]+|\[[0-9A-Fa-f:.]+(?:%[\w.-]+)?\])"
_GRPC_TARGET: Final = re.compile(
    rf"{_HOST}(?::\d+)?|dns:(?://{_HOST}(?::\d+)?/|/{{0,3}}){_HOST}(?::\d+)?|(?:unix|unix-abstract|ipv4|ipv6|vsock|xds):\S+",
    re.ASCII,
)
"""What gRPC resolves (https://grpc.github.io/grpc/core/md_doc_naming.html). All else it would ask DNS for, again and again."""
_GRPC_FORMS: Final = (
    "http://host:port, https://host:port, host:port, or a name that gRPC resolves (dns:, unix:, ipv4:, ipv6: ...)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OtlpSettings:
    """Where spans go and how."""

    protocol: Literal["grpc", "http/protobuf"]
    endpoint: str
    """gRPC: the target, `host:port` or another form that gRPC resolves. HTTP: the full URL that requests are posted to."""
    secure: bool
    headers: tuple[tuple[str, str], ...] = ()
    header_files: tuple[HeaderFile, ...] = ()
    """Headers whose values are in files; they count before those of the same name in `headers`."""
    timeout_seconds: float = DEFAULT_TIMEOUT_MS / 1000
    """Of one attempt."""
    compression: Literal["none", "gzip"] = "none"
    ca_file: Path | None = None
    client_key_file: Path | None = None
    client_certificate_file: Path | None = None

    @property
    def credential_files(self) -> tuple[Path, ...]:
        """Files that others renew while we run."""
        files = (self.ca_file, self.client_key_file, self.client_certificate_file) if self.secure else ()
        return (*(file for file in files if file is not None), *(header.path for header in self.header_files))

    def all_headers(self) -> dict[str, str]:
        """Return the headers, with names in lower case. Raises OSError or ValueError for files that hold none."""
        fixed = {name.lower(): value for name, value in self.headers}
        return fixed | {header.name: header.value() for header in self.header_files}

    @property
    def proxy_url(self) -> str:
        """The URL by which variables that name a proxy are read."""
        if self.protocol == "http/protobuf":
            return self.endpoint
        scheme, _, rest = self.endpoint.rpartition(":///")
        return f"{'https' if self.secure else 'http'}://{rest if scheme in ('', 'dns') else ''}"

    def ssl_context(self) -> ssl.SSLContext:
        """Load the certificates. Raises OSError (ssl.SSLError is one) for files that are none."""
        context = ssl.create_default_context(cafile=self.ca_file)
        if self.client_certificate_file is not None:
            context.load_cert_chain(self.client_certificate_file, self.client_key_file)
        return context


def read_environment(environ: Mapping[str, str] = os.environ, *, signal: Signal = "traces") -> OtlpSettings:
    """Return what the variables say of a signal. Raises SettingsError with one line for each that makes no sense."""
    return _Reader(environ, signal).read()


def read_endpoint(endpoint: str, variable: str, environ: Mapping[str, str] = os.environ) -> OtlpSettings:
    """Return what the variables say with another endpoint, in the form of OTEL_EXPORTER_OTLP_ENDPOINT.

    Raises SettingsError with one line for what is wrong with it, under the name of the `variable` that holds it.
    """
    try:
        others = {name: value for name, value in environ.items() if name != f"{_GENERAL}TRACES_ENDPOINT"}
        return read_environment({**others, f"{_GENERAL}ENDPOINT": endpoint})
    except SettingsError as error:
        raise SettingsError([fault.replace(f"{_GENERAL}ENDPOINT=", f"{variable}=") for fault in error.faults]) from error


class _Reader:
    """One reading of the environment; collects what is wrong with it."""

    def __init__(self, environ: Mapping[str, str], signal: Signal) -> None:
        self._environ = environ
        self._of_signal = f"{_GENERAL}{signal.upper()}_"
        self._path = f"/v1/{signal}"
        self._faults: list[str] = []

    def read(self) -> OtlpSettings:
        protocol = self._protocol()
        endpoint, secure = self._endpoint(protocol)
        settings = OtlpSettings(
            protocol=protocol,
            endpoint=endpoint,
            secure=secure,
            headers=self._headers(protocol),
            timeout_seconds=self._timeout_seconds(),
            compression=self._compression(),
            ca_file=self._file("CERTIFICATE"),
            client_key_file=self._file("CLIENT_KEY"),
            client_certificate_file=self._file("CLIENT_CERTIFICATE"),
        )
        if settings.client_key_file and not settings.client_certificate_file:
            self._fault("CLIENT_CERTIFICATE", "", "the certificate of the key that CLIENT_KEY names")
        elif secure and not self._faults:
            self._check_certificates(settings)
        if self._faults:
            raise SettingsError(self._faults)
        return settings

    def _variable(self, name: str) -> str:
        """The variable that decides: the one for the signal where it is set."""
        return self._of_signal + name if self._environ.get(self._of_signal + name, "").strip() else _GENERAL + name

    def _value(self, name: str) -> str:
        return self._environ.get(self._variable(name), "").strip()

    def _fault(self, name: str, value: str, wanted: str) -> None:
        self._faults.append(f"{self._variable(name)}={value!r}: wanted {wanted}")

    def _protocol(self) -> Literal["grpc", "http/protobuf"]:
        match self._value("PROTOCOL"):
            case "":
                return suggested_protocol(self._value("ENDPOINT"))
            case "grpc":
                return "grpc"
            case "http/protobuf":
                return "http/protobuf"
            case other:
                self._fault("PROTOCOL", other, "grpc or http/protobuf")
                return "grpc"

    def _compression(self) -> Literal["none", "gzip"]:
        match self._value("COMPRESSION"):
            case "" | "none":
                return "none"
            case "gzip":
                return "gzip"
            case other:
                self._fault("COMPRESSION", other, "gzip or none")
                return "none"

    def _timeout_seconds(self) -> float:
        value = self._value("TIMEOUT")
        if not value:
            return DEFAULT_TIMEOUT_MS / 1000
        if not (value.isascii() and value.isdigit() and int(value)):
            self._fault("TIMEOUT", value, "a whole number of milliseconds, at least 1")
            return DEFAULT_TIMEOUT_MS / 1000
        return int(value) / 1000

    def _endpoint(self, protocol: str) -> tuple[str, bool]:
        """The endpoint in the form its client takes, and whether it is secure."""
        value = self._value("ENDPOINT")
        if not value:
            return ("localhost:4317", False) if protocol == "grpc" else (f"http://localhost:4318{self._path}", False)
        scheme = value.partition("://")[0].lower() if "://" in value else ""
        if scheme in ("http", "https"):
            url = self._url(value)
            if protocol != "grpc" and url.path in ("", "/") and not self._value("PROTOCOL") and self._is_exact:
                # Most servers answer 404 there, and that is for good: spans would become dead letters.
                self._fault("ENDPOINT", value, f"a path, for this variable is used as it is: {self._path} for most servers")
            target = _target(url) if protocol == "grpc" else self._post_url(url)
            return target, scheme == "https"
        if protocol == "grpc":
            port = re.search(r":(\d+)$", value)
            if not _GRPC_TARGET.fullmatch(value) or (port and not 0 < int(port[1]) < 1 << 16):
                self._fault("ENDPOINT", _without_userinfo(value), _GRPC_FORMS)
            return value, not self._insecure()
        self._fault("ENDPOINT", _without_userinfo(value), "a URL that begins with http:// or https://")
        return value, False

    def _url(self, value: str) -> SplitResult:
        try:
            url = urlsplit(value)
            host = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname or ""
            named = bool(re.fullmatch(_HOST, host, re.ASCII)) and (url.port is None or url.port > 0)
        except ValueError:  # a port that is no number, a bracket that is not closed
            named = False
        if not named or url.username is not None:
            wanted = "a URL with a host" if not named else "credentials in HEADERS, not in the URL"
            self._fault("ENDPOINT", _without_userinfo(value), wanted)
            return urlsplit("http://localhost")
        return url

    def _post_url(self, url: SplitResult) -> str:
        if self._is_exact:
            return url._replace(path=url.path or "/").geturl()
        return url._replace(path=url.path.rstrip("/") + self._path).geturl()

    @property
    def _is_exact(self) -> bool:
        """Whether the endpoint is that of the signal."""
        return self._variable("ENDPOINT").startswith(self._of_signal)

    def _insecure(self) -> bool:
        value = self._value("INSECURE")
        if value.lower() not in ("", "true", "false"):
            self._fault("INSECURE", value, "true or false")
        return value.lower() == "true"

    def _headers(self, protocol: str) -> tuple[tuple[str, str], ...]:
        """`name=value` pairs as in W3C Baggage: percent-encoded, without properties."""
        headers = []
        for number, item in enumerate(self._value("HEADERS").split(","), start=1):
            if not item.strip():
                continue
            name, equals, value = (unquote(part).strip() for part in item.partition("="))
            name_form = _METADATA_NAME if protocol == "grpc" else HEADER_NAME
            if not equals or not name_form.fullmatch(name.lower()) or not HEADER_VALUE.fullmatch(value):
                # Never the value: it is a secret more often than not.
                self._fault("HEADERS", "***", f"name=value in printable ASCII, percent-encoded; item {number} is not")
                continue
            hide(value)
            headers.append((name, value))
        return tuple(headers)

    def _file(self, name: str) -> Path | None:
        value = self._value(name)
        if not value:
            return None
        try:
            Path(value).read_bytes()
        except OSError as error:
            self._fault(name, value, f"a file that can be read ({error.strerror})")
        return Path(value)

    def _check_certificates(self, settings: OtlpSettings) -> None:
        try:
            settings.ssl_context()
        except OSError as error:
            files = settings.ca_file, settings.client_certificate_file, settings.client_key_file
            named = ", ".join(str(file) for file in files if file)
            self._fault("CERTIFICATE", named, f"certificates and keys in PEM that belong together ({error})")


def _without_userinfo(value: str) -> str:
    return re.sub(r"(//|^)[^/]*@", r"\1***@", value)


def _target(url: SplitResult) -> str:
    """`host:port` for gRPC; without a port, that of the URL's scheme."""
    host = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname
    return f"{host}:{url.port or (443 if url.scheme == 'https' else 80)}"
