"""The API server: where it is, who we are, and one way to ask.

The `kubernetes` package reads the configuration (kubeconfig, service account), renews credentials and brings the transport. Its
models and its informer are not used: a pod as a model takes milliseconds and 150 KB, `SharedInformer` keeps such models, asks
for whole lists, has no deadline for a connection that went silent, and does not slow down when the server refuses.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlencode

import msgspec
import urllib3
from kubernetes import client, config

from services.enricher.errors import ApiRefusedError, ApiUnreachableError, KubeConfigError

Source = Literal["auto", "in-cluster", "kubeconfig", "off"]

_SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
_CONNECT_SECONDS: Final = 5.0
_MOST_CONNECTIONS: Final = 256
_MOST_ERROR_BYTES: Final = 64 << 10
_CHUNK_BYTES: Final = 1 << 16
_OK: Final = 200


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
        try:
            yield from self._response.stream(_CHUNK_BYTES, decode_content=True)
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise ApiUnreachableError(_one_line(error)) from error

    def abort(self) -> None:
        """Let whoever waits for more in another thread have none."""
        try:
            self._response.shutdown()  # type: ignore[no-untyped-call, unused-ignore]
        except (ValueError, OSError, RuntimeError):
            return  # all of it has been read


class KubeApi:
    """A cluster's API server. May be used by many threads."""

    def __init__(self, configuration: client.Configuration, *, silence_seconds: float = 150.0) -> None:
        configuration.retries = False
        configuration.connection_pool_maxsize = _MOST_CONNECTIONS
        self._client = client.ApiClient(configuration)
        self._host = str(configuration.host).rstrip("/")
        self._silence_seconds = silence_seconds
        self.watch_list = True
        """Whether lists are asked for as watches; off once the server has shown that it cannot."""

    @property
    def host(self) -> str:
        """URL of the server."""
        return self._host

    @contextmanager
    def get(self, path: str, query: Mapping[str, str], *, accept: str, gzip: bool = False) -> Iterator[Answer]:
        """Ask for a path. Raises ApiRefusedError for any answer but 200, ApiUnreachableError where there is none."""
        headers = {"Accept": accept, "User-Agent": "wirespan"} | ({"Accept-Encoding": "gzip"} if gzip else {})
        timeout = urllib3.Timeout(connect=_CONNECT_SECONDS, read=self._silence_seconds)
        url = f"{self._host}{path}" + (f"?{urlencode(query)}" if query else "")
        try:
            # The token may come from a file that is renewed, or from a command.
            self._client.update_params_for_auth(headers, [], ["BearerToken"], path, "GET", None)
            pool: Any = self._client.rest_client.pool_manager
            response = pool.request("GET", url, headers=headers, timeout=timeout, retries=False, preload_content=False)
        except (urllib3.exceptions.HTTPError, OSError, config.ConfigException) as error:
            raise ApiUnreachableError(_one_line(error)) from error
        try:
            if response.status != _OK:
                raise _refusal(response)
            yield Answer(response)
        finally:
            # What is left unread makes the connection useless to others.
            response.close()
            response.release_conn()


def find_api(source: Source, *, kubeconfig: Path | None, silence_seconds: float) -> KubeApi | None:
    """Return the API server that the settings and the surroundings name, None where they name none.

    `auto` is the pod's service account, else the kubeconfig that is given or that `KUBECONFIG` names; `~/.kube/config` is only
    read for `kubeconfig`. Raises KubeConfigError where what is named cannot be used.
    """
    if source == "off":
        return None
    named = str(kubeconfig) if kubeconfig else os.environ.get("KUBECONFIG") or None
    configuration = client.Configuration()
    try:
        if source == "in-cluster" or (source == "auto" and not kubeconfig and _SERVICE_ACCOUNT.exists()):
            config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        elif source == "kubeconfig" or named:
            config.load_kube_config(named, client_configuration=configuration)  # type: ignore[no-untyped-call]
        else:
            return None
    except Exception as error:  # a kubeconfig of an odd shape raises whatever reading it comes to
        raise KubeConfigError(f"{named or source}: {_one_line(error)}") from error
    return KubeApi(configuration, silence_seconds=silence_seconds)


def _refusal(response: urllib3.BaseHTTPResponse) -> ApiRefusedError:
    try:
        body = response.read(_MOST_ERROR_BYTES, decode_content=True)
        status = msgspec.json.decode(body, type=_Status)
    except (urllib3.exceptions.HTTPError, OSError, msgspec.DecodeError, ValueError):
        status = _Status()
    after = response.headers.get("Retry-After", "")
    seconds = float(after) if after.isascii() and after.isdigit() else None
    return ApiRefusedError(response.status, status.message or status.reason or str(response.reason or ""), seconds)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
