"""The API server: one way to ask it, as whoever we are at the moment (`access/`).

The `kubernetes` package brings the transport. Its models and its informer are not used: a pod as a model takes milliseconds and
150 KB, `SharedInformer` keeps such models, asks for whole lists, has no deadline for a connection that went silent, and does
not slow down when the server refuses.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

import msgspec

from services.enricher.errors import ApiRefusedError, ApiUnreachableError, KubeConfigError
from services.enricher.kubernetes.access.configuration import Access, Source, find_access, one_line
from services.enricher.kubernetes.access.credentials import Credential
from services.runtime.privacy.redaction import redacted

if TYPE_CHECKING:
    import urllib3
    from kubernetes import client

# Both take long to load, and whoever has an `Access` has loaded them: imported where they are used.

_CONNECT_SECONDS: Final = 5.0
_MOST_CONNECTIONS: Final = 256
_MOST_ERROR_BYTES: Final = 64 << 10
_CHUNK_BYTES: Final = 1 << 16
_OK: Final = 200
_UNAUTHORIZED: Final = 401


class _Status(msgspec.Struct, frozen=True):
    """What the server says of a request that it refuses."""

    message: str = ""
    reason: str = ""


class Answer:
    """A response that is being read."""

    def __init__(self, response: urllib3.BaseHTTPResponse) -> None:
        self._response = response

    def chunks(self) -> Iterator[bytes]:
        """Yield the body as it comes. Raises ApiUnreachableError where it breaks off or nothing comes for too long."""
        import urllib3  # noqa: PLC0415

        try:
            yield from self._response.stream(_CHUNK_BYTES, decode_content=True)
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise ApiUnreachableError(one_line(error)) from error

    def abort(self) -> None:
        """Let whoever waits for more in another thread have none."""
        try:
            self._response.shutdown()  # type: ignore[no-untyped-call, unused-ignore]
        except (ValueError, OSError, RuntimeError):
            return  # all of it has been read


class _MemoryFile:
    """A file that is on no disk: the TLS library reads files only. Gone with the object."""

    def __init__(self, content: bytes) -> None:
        self._descriptor = os.memfd_create("client-certificate")
        os.write(self._descriptor, content)
        self.path = f"/proc/self/fd/{self._descriptor}"

    def __del__(self) -> None:
        os.close(self._descriptor)


@dataclass(frozen=True, slots=True)
class _Connections:
    """Connections of who we are, or were."""

    access: Access
    client: client.ApiClient
    credential: Credential | None
    certificate: _MemoryFile | None
    """What a plugin gave; new connections read it."""
    generation: int
    """How often what says who we are had been read anew."""

    def headers(self) -> dict[str, str]:
        """What says who we are. Raises ApiUnreachableError."""
        if self.credential is not None:
            return {"Authorization": f"Bearer {self.credential.token}"} if self.credential.token else {}
        headers: dict[str, str] = {}
        try:
            self.client.update_params_for_auth(headers, [], ["BearerToken"], "", "GET", None)
        except Exception as error:  # noqa: BLE001 - it may ask an identity provider, and fails as that does
            raise ApiUnreachableError(f"who we are cannot be found out: {type(error).__name__}") from None
        return headers


class KubeApi:
    """A cluster's API server. May be used by many threads."""

    def __init__(self, read_access: Callable[[], Access], *, silence_seconds: float = 150.0) -> None:
        """Raises KubeConfigError where `read_access` does, which is asked again whenever the server does not know us."""
        self._read_access = read_access
        self._renewing = threading.Lock()
        self._connections: _Connections | None = None
        self._access = read_access()
        self._generation = 0
        self._host = str(self._access.configuration.host).rstrip("/")
        self._silence_seconds = silence_seconds
        self.watch_list = True
        """Whether lists are asked for as watches; off once the server has shown that it cannot."""

    @property
    def host(self) -> str:
        """URL of the server, as people may see it."""
        return redacted(self._host)

    @contextmanager
    def get(self, path: str, query: Mapping[str, str], *, accept: str, gzip: bool = False) -> Iterator[Answer]:
        """Ask for a path. Raises ApiRefusedError for any answer but 200, ApiUnreachableError where there is none."""
        headers = {"Accept": accept, "User-Agent": "wirespan"} | ({"Accept-Encoding": "gzip"} if gzip else {})
        url = f"{self._host}{path}" + (f"?{urlencode(query)}" if query else "")
        used = self._current()
        response = self._ask(used, url, headers)
        if response.status == _UNAUTHORIZED:
            renewed = self._renewed(used)
            if renewed is not None:
                _release(response)
                response = self._ask(renewed, url, headers)
        try:
            if response.status != _OK:
                raise _refusal(response)
            yield Answer(response)
        finally:
            _release(response)

    def _ask(self, connections: _Connections, url: str, headers: Mapping[str, str]) -> Any:
        import urllib3  # noqa: PLC0415

        timeout = urllib3.Timeout(connect=_CONNECT_SECONDS, read=self._silence_seconds)
        pool: Any = connections.client.rest_client.pool_manager
        sent = {**headers, **connections.headers()}
        try:
            return pool.request("GET", url, headers=sent, timeout=timeout, retries=False, preload_content=False)
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise ApiUnreachableError(one_line(error)) from None

    def _current(self) -> _Connections:
        """Connections of who we are now. Raises ApiUnreachableError."""
        with self._renewing:
            return self._connect()

    def _renewed(self, used: _Connections) -> _Connections | None:
        """Read anew who we are, unless another thread has; return other connections than `used`, None where nothing is new."""
        with self._renewing:
            if self._generation == used.generation:
                self._generation += 1
                try:
                    self._access = self._read_access()
                except KubeConfigError:
                    return None  # being written, perhaps
                self._connections = None
            renewed = self._connect()
        # A certificate in a file is not compared: a new connection may be made with another than the last.
        is_new = renewed.credential != used.credential or renewed.credential is None or renewed.access.configuration.cert_file
        return renewed if is_new else None

    def _connect(self) -> _Connections:
        access, known = self._access, self._connections
        credential = access.credentials.current() if access.credentials is not None else None
        if known is not None and known.credential == credential:
            return known
        pem = credential.certificate if credential is not None else b""
        if known is not None and known.credential is not None and known.credential.certificate == pem:
            self._connections = replace(known, credential=credential)
            return self._connections
        configuration, certificate = access.configuration, _MemoryFile(pem) if pem else None
        configuration.retries = False
        configuration.connection_pool_maxsize = _MOST_CONNECTIONS
        if certificate is not None:
            configuration.cert_file = configuration.key_file = certificate.path
        from kubernetes import client  # noqa: PLC0415

        self._connections = _Connections(access, client.ApiClient(configuration), credential, certificate, self._generation)
        return self._connections


def find_api(source: Source, *, kubeconfig: Path | None, silence_seconds: float) -> KubeApi | None:
    """Return the API server that the settings and the surroundings name (`find_access`), None where they name none.

    Raises KubeConfigError where what is named cannot be used. Credentials that cannot be had yet are no such case: whoever asks
    is told ApiUnreachableError, and asks again.
    """
    read_access = find_access(source, kubeconfig=kubeconfig)
    return KubeApi(read_access, silence_seconds=silence_seconds) if read_access is not None else None


def _release(response: Any) -> None:
    # What is left unread makes the connection useless to others.
    response.close()
    response.release_conn()


def _refusal(response: urllib3.BaseHTTPResponse) -> ApiRefusedError:
    import urllib3  # noqa: PLC0415

    try:
        body = response.read(_MOST_ERROR_BYTES, decode_content=True)
        status = msgspec.json.decode(body, type=_Status)
    except (urllib3.exceptions.HTTPError, OSError, msgspec.DecodeError, ValueError):
        status = _Status()
    after = response.headers.get("Retry-After", "")
    seconds = float(after) if after.isascii() and after.isdigit() else None
    said = status.message or status.reason or str(response.reason or "")
    # A server may repeat what it was asked with.
    return ApiRefusedError(response.status, redacted(said), seconds)
