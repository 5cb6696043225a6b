"""Where the API server is, from a kubeconfig or a pod's service account.

The `kubernetes` package reads them. Tokens and plugins are ours (`credentials.py`): it reads a token's file once, with its line
end, runs a plugin at the start only, and has what they say in its errors.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from services.enricher.errors import ApiUnreachableError, KubeConfigError
from services.enricher.kubernetes.access.credentials import Credentials, ExecPlugin, FixedToken, TokenFile
from services.runtime.privacy.redaction import hide, hide_userinfo, redacted
from services.runtime.proxies import proxy_for

if TYPE_CHECKING:
    from kubernetes import client

# The `kubernetes` package takes half a second to load: it is imported once there is a cluster to reach.

Source = Literal["auto", "in-cluster", "kubeconfig", "off"]

_SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
_SECRET: Final = re.compile(r"token|password|secret|key-data|id-token|refresh-token|access-token", re.IGNORECASE)
_URLS: Final = ("server", "proxy-url")


@dataclass(frozen=True, slots=True)
class Access:
    """A cluster's API server, and who we are to it."""

    configuration: client.Configuration
    credentials: Credentials | None
    """None: what the `kubernetes` package makes of the configuration, such as basic authentication."""


def find_access(source: Source, *, kubeconfig: Path | None) -> Callable[[], Access] | None:
    """Return what reads where the API server is, None where none is named.

    `auto` is the pod's service account, else the kubeconfig that is given or that `KUBECONFIG` names; `~/.kube/config` is only
    read for `kubeconfig`. What is returned raises KubeConfigError where what is named cannot be used.
    """
    if source == "off":
        return None
    named = str(kubeconfig) if kubeconfig else os.environ.get("KUBECONFIG") or None
    if source == "in-cluster" or (source == "auto" and not kubeconfig and _SERVICE_ACCOUNT.exists()):
        return lambda: _read(source, _of_service_account)
    if source == "kubeconfig" or named:
        return lambda: _read(named or source, lambda: _of_kubeconfig(named))
    return None


def one_line(error: Exception) -> str:
    """An error as people may see it."""
    return redacted(" ".join(str(error).split()))[:300] or type(error).__name__


def _read(name: str, read: Callable[[], Access]) -> Access:
    try:
        return read()
    except ApiUnreachableError as error:  # a token that is none
        raise KubeConfigError(f"{name}: {error}") from None
    except Exception as error:  # noqa: BLE001 - a kubeconfig of an odd shape raises whatever reading it comes to
        raise KubeConfigError(f"{name}: {one_line(error)}") from None


def _of_service_account() -> Access:
    from kubernetes import client, config  # noqa: PLC0415 - see above

    configuration = client.Configuration()
    config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    configuration.proxy, configuration.no_proxy = proxy_for(configuration.host), None
    configuration.api_key.clear()
    configuration.refresh_api_key_hook = None
    return Access(configuration, TokenFile(_SERVICE_ACCOUNT))


def _of_kubeconfig(paths: str | None) -> Access:
    from kubernetes import client  # noqa: PLC0415 - see above
    from kubernetes.config import kube_config  # noqa: PLC0415

    merged: Any = kube_config.KubeConfigMerger(paths or kube_config.KUBE_CONFIG_DEFAULT_LOCATION).config  # type: ignore[no-untyped-call]
    if merged is None:
        raise KubeConfigError("there is no such file")
    _hide_secrets(merged)
    context = merged["contexts"].get_with_name(merged["current-context"])["context"]
    user = merged["users"].get_with_name(context["user"])["user"] if context.safe_get("user") else None
    cluster = merged["clusters"].get_with_name(context["cluster"])["cluster"]
    credentials = _of_user(user, cluster) if user is not None else FixedToken()
    configuration = client.Configuration()
    loader = kube_config.KubeConfigLoader(config_dict=merged, config_base_path=None)  # type: ignore[no-untyped-call]
    loader.load_and_set(configuration)  # type: ignore[no-untyped-call]
    if not cluster.safe_get("proxy-url"):
        configuration.proxy = proxy_for(configuration.host)
    configuration.no_proxy = None  # read already; and as for kubectl it does not count for a proxy that the kubeconfig names
    return Access(configuration, credentials)


def _of_user(user: Any, cluster: Any) -> Credentials | None:
    """Take out of the user of a kubeconfig what is ours to read; the rest is the package's. The order is client-go's."""
    folder = Path(user.path or ".").resolve().parent
    fields: dict[str, Any] = user.value
    file, token, plugin = (fields.pop(name, None) for name in ("tokenFile", "token", "exec"))
    if file:
        return TokenFile(folder / str(file))
    if token:
        return FixedToken(str(token))
    return ExecPlugin(plugin, folder, cluster.value) if plugin else None


def _hide_secrets(node: Any) -> None:
    """Hide what the kubeconfig holds, before anything of it can be in a message."""
    value = getattr(node, "value", node)
    for key, inner in value.items() if isinstance(value, dict) else ():
        if isinstance(inner, str) and _SECRET.search(str(key)):
            hide(inner)
        elif isinstance(inner, str) and key in _URLS:
            hide_userinfo(inner)
        _hide_secrets(inner)
    for inner in value if isinstance(value, list) else ():
        _hide_secrets(inner)
