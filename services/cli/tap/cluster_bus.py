"""The bus of a cluster's release, through its API server: as `kubectl port-forward` does, as the user who may only read."""

from __future__ import annotations

import base64
import contextlib
import socket
import tempfile
import threading
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from services.cli.errors import CliError, UsageError
from services.cli.settings import BusSettings
from services.runtime.settings import NatsSettings

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

_LABELS: Final = "app.kubernetes.io/part-of=wirespan,app.kubernetes.io/component=nats"
_PORT: Final = 4222
_READER: Final = "reader"
_CHUNK_BYTES: Final = 1 << 16


@contextlib.contextmanager
def cluster_bus(context: str, namespace: str) -> Iterator[BusSettings]:
    """Yield how to reach the bus while the context lasts. It takes the rights to list pods, to read the reader's Secret and the
    ConfigMap of the bus's authority, and to create `pods/portforward` in the namespace.

    Raises UsageError where the kubeconfig has no such context, CliError where there is no such release or the API refuses.
    """
    release = _release(_client(context), namespace)
    with socket.create_server(("127.0.0.1", 0)) as listener, tempfile.NamedTemporaryFile("w") as authority:
        threading.Thread(target=_accept, args=(listener, context, namespace, release.pod), daemon=True).start()
        authority.write(release.authority)
        authority.flush()
        # The chart's certificates are for this name as well.
        url = f"{'tls' if release.authority else 'nats'}://localhost:{listener.getsockname()[1]}"
        yield BusSettings(
            nats=NatsSettings(
                url=url,
                user=_READER,
                password=release.password,
                inbox_prefix=f"_INBOX_{_READER}",
                tls_ca=Path(authority.name) if release.authority else None,
            )
        )


class _Release(NamedTuple):
    pod: str
    """Of NATS, and ready."""
    password: str
    """The reader's."""
    authority: str
    """PEM of who signed the server's certificate; empty where it has none."""


def _client(context: str) -> ApiClient:
    from kubernetes import config  # noqa: PLC0415 - large, and only who asks a cluster needs it

    try:
        client: ApiClient = config.new_client_from_config(context=context)  # type: ignore[no-untyped-call]
    except (config.ConfigException, OSError) as error:
        raise UsageError(f"--kube-context {context}: {error}") from error
    client.configuration.retries = False
    return client


def _release(api: ApiClient, namespace: str) -> _Release:
    from kubernetes import client  # noqa: PLC0415
    from urllib3.exceptions import HTTPError  # noqa: PLC0415

    core = client.CoreV1Api(api)
    try:
        pods: Any = core.list_namespaced_pod(namespace, label_selector=_LABELS).items
        ready = [pod for pod in pods if _is_ready(pod)]
        if not ready:
            raise CliError(f"no NATS of Wirespan is ready in namespace {namespace} (--kube-namespace names another)")
        # Pods of a stateful set are its name and a number; the chart's Secrets begin with the same name.
        pod: str = ready[0].metadata.name
        name = pod.rpartition("-")[0]
        secret: Any = core.read_namespaced_secret(f"{name}-{_READER}", namespace)
        authority = _authority(core, f"{name}-ca", namespace)
    except client.ApiException as error:
        raise CliError(f"the API server refuses: {error.status} {error.reason}") from error
    except HTTPError as error:
        raise CliError(f"the API server cannot be reached: {error}") from error
    return _Release(pod, base64.b64decode((secret.data or {}).get("password", "")).decode(), authority)


def _authority(core: Any, name: str, namespace: str) -> str:
    from kubernetes import client  # noqa: PLC0415

    try:
        found: Any = core.read_namespaced_config_map(name, namespace)
    except client.ApiException as error:
        if error.status == HTTPStatus.NOT_FOUND:
            return ""
        raise
    return str((found.data or {}).get("ca.crt", ""))


def _is_ready(pod: Any) -> bool:
    return any(each.type == "Ready" and each.status == "True" for each in pod.status.conditions or ())


def _accept(listener: socket.socket, context: str, namespace: str, pod: str) -> None:
    """Forward every connection until the listener is closed."""
    with contextlib.suppress(OSError):
        while True:
            ours, _ = listener.accept()
            threading.Thread(target=_forward, args=(ours, context, namespace, pod), daemon=True).start()


def _forward(ours: socket.socket, context: str, namespace: str, pod: str) -> None:
    """Pass on what comes in either direction until an end has closed; at once where there is no way to the pod."""
    from kubernetes import client, stream  # noqa: PLC0415

    with ours, contextlib.suppress(OSError, client.ApiException):
        core = client.CoreV1Api(_client(context))  # for this connection only: forwarding takes the client over
        forward: Any = stream.portforward(core.connect_get_namespaced_pod_portforward, pod, namespace, ports=str(_PORT))
        theirs = forward.socket(_PORT)
        theirs.settimeout(None)
        with contextlib.closing(theirs):
            back = threading.Thread(target=_pump, args=(theirs, ours), daemon=True)
            back.start()
            _pump(ours, theirs)
            back.join()


def _pump(source: Any, sink: Any) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(_CHUNK_BYTES):
            sink.sendall(data)
    for each in (source, sink):
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
