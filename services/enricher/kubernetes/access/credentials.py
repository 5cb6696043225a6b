"""Who we are to the API server, where that is renewed while we run: tokens in files, and credential plugins.

As client-go does it: a token's file is read again when it has changed; what a plugin said is kept until it expires. Whoever is
refused makes all of this anew. No text of an error holds what a file or a plugin said: that is the secret.
(https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins)
"""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from services.enricher.errors import ApiUnreachableError
from services.runtime.privacy.redaction import hide

_PLUGIN_SECONDS: Final = 60.0
_HEADER_VALUE: Final = re.compile(r"[\x21-\x7e]+")
_EXTENSION: Final = "client.authentication.k8s.io/exec"


@dataclass(frozen=True, slots=True)
class Credential:
    """What a request is sent with."""

    token: str = ""
    """Empty: none."""
    certificate: bytes = b""
    """PEM of the client's certificate with its key, for new connections. Empty: what the configuration names."""


class Credentials(Protocol):
    """Where credentials come from."""

    def current(self) -> Credential:
        """Return what is valid now. Raises ApiUnreachableError where it cannot be had."""
        ...


class FixedToken:
    """A token that the configuration holds itself, or none."""

    def __init__(self, token: str = "") -> None:
        self._credential = Credential(_usable(token, "the token") if token else "")

    def current(self) -> Credential:
        """Return it."""
        return self._credential


class TokenFile:
    """A token in a file that others renew. May be used by many threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: tuple[tuple[int, int, int], Credential] | None = None

    def current(self) -> Credential:
        """Return what the file holds, without the white space around it."""
        try:
            found = self._path.stat()
            stamp = found.st_ino, found.st_mtime_ns, found.st_size
            known = self._known
            if known is None or known[0] != stamp:
                token = _usable(self._path.read_text(), f"the token in {self._path}")
                self._known = known = stamp, Credential(token)
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "no text"
            raise ApiUnreachableError(f"no token can be read from {self._path}: {reason}") from None
        return known[1]


class _Status(msgspec.Struct, frozen=True, rename="camel"):
    token: str = ""
    client_certificate_data: str = ""
    client_key_data: str = ""
    expiration_timestamp: dt.datetime | None = None


class _ExecCredential(msgspec.Struct, frozen=True, rename="camel"):
    api_version: str
    kind: str
    status: _Status


class ExecPlugin:
    """A command that says who we are: `users[].user.exec` of a kubeconfig. Not for several threads at once."""

    def __init__(self, spec: Mapping[str, Any], folder: Path, cluster: Mapping[str, Any]) -> None:
        """`folder` is that of the kubeconfig. Raises ValueError for a command that is none."""
        command, self._api_version = spec.get("command"), spec.get("apiVersion")
        if not (isinstance(command, str) and command and isinstance(self._api_version, str)):
            raise ValueError("exec needs a command and an apiVersion")
        self._name = command
        # As kubectl: a path counts from the kubeconfig, a bare name from PATH.
        path = str(folder / command) if os.sep in command else command
        self._command = [path, *(str(argument) for argument in spec.get("args") or ())]
        self._environ = {str(item["name"]): str(item["value"]) for item in spec.get("env") or ()}
        hide(*self._environ.values())
        self._mode = spec.get("interactiveMode") or "IfAvailable"
        self._cluster = _cluster_info(cluster) if spec.get("provideClusterInfo") else None
        self._known: tuple[Credential, float | None] | None = None

    def current(self) -> Credential:
        """Return what the plugin said, asking it anew where that has expired."""
        if self._known is None or (self._known[1] is not None and time.time() >= self._known[1]):
            self._known = None
            self._known = self._ask()
        return self._known[0]

    def _ask(self) -> tuple[Credential, float | None]:
        terminal = self._mode != "Never" and sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()
        if self._mode == "Always" and not terminal:
            raise self._error("needs a terminal (interactiveMode: Always)")
        spec: dict[str, Any] = {"interactive": terminal} | ({"cluster": self._cluster} if self._cluster else {})
        info = json.dumps({"apiVersion": self._api_version, "kind": "ExecCredential", "spec": spec})
        environ = os.environ | self._environ | {"KUBERNETES_EXEC_INFO": info}
        try:
            done = subprocess.run(  # noqa: S603 - the kubeconfig names it, as for kubectl
                self._command,
                env=environ,
                stdin=None if terminal else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                # Shown to the person who is there; never kept, for nobody knows what it holds.
                stderr=None if terminal else subprocess.DEVNULL,
                timeout=_PLUGIN_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise self._error(f"has not ended within {_PLUGIN_SECONDS:.0f} s") from None
        except OSError as error:
            raise self._error(f"cannot be run: {error.strerror}") from None
        if done.returncode:
            raise self._error(f"ended with status {done.returncode}: run it by hand to see why")
        return self._credential(done.stdout)

    def _credential(self, output: bytes) -> tuple[Credential, float | None]:
        try:
            said = msgspec.json.decode(output, type=_ExecCredential)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise self._error("printed no ExecCredential") from None
        status = said.status
        hide(status.token, *status.client_key_data.split("\n"))
        if said.api_version != self._api_version:
            raise self._error(f"answered in another version than {self._api_version}")
        if not (status.token or status.client_certificate_data) or (
            bool(status.client_certificate_data) != bool(status.client_key_data)
        ):
            raise self._error("printed neither a token nor a certificate with its key")
        token = _usable(status.token, f"the token of the credential plugin {self._name}") if status.token else ""
        certificate = f"{status.client_certificate_data}\n{status.client_key_data}\n" if status.client_key_data else ""
        until = status.expiration_timestamp
        return Credential(token, certificate.encode()), until.timestamp() if until is not None else None

    def _error(self, what: str) -> ApiUnreachableError:
        return ApiUnreachableError(f"the credential plugin {self._name} {what}")


def _usable(text: str, what: str) -> str:
    """A token as a header may carry it. Raises ApiUnreachableError, without the token."""
    token = text.strip()
    hide(token)
    if not _HEADER_VALUE.fullmatch(token):
        raise ApiUnreachableError(f"{what} is " + ("empty" if not token else "none: it has characters that no header may have"))
    return token


def _cluster_info(cluster: Mapping[str, Any]) -> dict[str, Any]:
    """`spec.cluster` of what a plugin is told."""
    names = ("server", "tls-server-name", "insecure-skip-tls-verify", "certificate-authority-data", "proxy-url")
    info = {name: cluster[name] for name in names if cluster.get(name)}
    config = [each.get("extension") for each in cluster.get("extensions") or () if each.get("name") == _EXTENSION]
    authority = cluster.get("certificate-authority")
    if authority and "certificate-authority-data" not in info:
        with contextlib.suppress(OSError):  # whoever connects says so
            info["certificate-authority-data"] = base64.b64encode(Path(authority).read_bytes()).decode()
    return info | ({"config": config[0]} if config else {})
