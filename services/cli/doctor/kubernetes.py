"""Checks of `wirespan doctor`: whether the Kubernetes API is there and lets the enricher read what it names workloads from."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from services.cli.doctor.finding import Finding, Status, ok, one_line, skipped
from services.runtime.privacy.redaction import hide

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

RESOURCES: Final = (
    ("", "pods"),
    ("", "services"),
    ("", "nodes"),
    ("discovery.k8s.io", "endpointslices"),
    *(("apps", kind) for kind in ("replicasets", "deployments", "statefulsets", "daemonsets")),
    *(("batch", kind) for kind in ("jobs", "cronjobs")),
)
"""API group and resource of what the enricher lists and watches whatever its settings, in all namespaces."""
VERBS: Final = ("list", "watch")

_SECONDS: Final = 2.0
_HEADER_VALUE: Final = re.compile(r"[\x20-\x7e]*")
_HARMLESS: Final = re.compile(
    r"Service |Invalid kube-config(\.| file\. No| file\. Expected object with name)|File does not exist"
)
_SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")


class _AccessError(Exception):
    """The configuration does not lead to an API."""


@dataclass(frozen=True, slots=True)
class KubernetesAccess:
    """How to reach the API, as given on the command line."""

    kubeconfig: Path | None = None
    context: str | None = None

    @property
    def asked_for(self) -> bool:
        """Whether somebody counts on it: then it is needed."""
        return self.kubeconfig is not None or self.context is not None

    def source(self, environ: Mapping[str, str] = os.environ, service_account: Path = _SERVICE_ACCOUNT) -> str | None:
        """Return where access comes from, None where there is no trace of a cluster; `in-cluster` for a service account."""
        if self.kubeconfig is not None:
            return str(self.kubeconfig)
        if environ.get("KUBECONFIG"):
            return environ["KUBECONFIG"]
        home = Path(environ.get("HOME") or "~").expanduser() / ".kube" / "config"
        if home.exists() or self.context is not None:
            return str(home)
        return "in-cluster" if environ.get("KUBERNETES_SERVICE_HOST") and service_account.exists() else None


def check_kubernetes(access: KubernetesAccess) -> Finding:
    """Check version and permissions. What was asked for is needed; what was merely found is not."""
    source = access.source()
    if source is None:
        return skipped("no kubeconfig and no service account: peers have no workload names (--kubeconfig names a file)")
    bad = Status.FAIL if access.asked_for else Status.WARN
    # Late, for it takes half a second.
    import urllib3.exceptions  # noqa: PLC0415
    from kubernetes.client.exceptions import ApiException  # noqa: PLC0415

    try:
        with _client(source, access.context) as client:
            return _look(client, source, bad)
    except ApiException as error:
        fix = "a token or certificate that the API takes" if error.status == 401 else "see the API server"
        return Finding(bad, one_line(f"{source}: HTTP {error.status}: {_message(error)}"), fix)
    except _AccessError as error:
        return Finding(bad, one_line(f"{source}: {error}"), "correct it, or name another with --kubeconfig or --kube-context")
    except (urllib3.exceptions.HTTPError, OSError) as error:
        return Finding(bad, one_line(f"{source}: no answer: {_root_cause(error)}"), "start it, or see what is in between")


def _client(source: str, context: str | None) -> ApiClient:
    from kubernetes import client, config  # noqa: PLC0415 - late, for it takes half a second

    settings = client.Configuration()
    settings.retries = False
    try:
        if source == "in-cluster":
            config.load_incluster_config(client_configuration=settings)  # type: ignore[no-untyped-call]
        else:
            config.load_kube_config(  # type: ignore[no-untyped-call]
                config_file=source, context=context, client_configuration=settings, persist_config=False
            )
    except Exception as error:  # what a file of any content and a credential plugin of any kind may lead to
        raise _AccessError(_without_content(error)) from error
    # As the enricher: white space around a token is no part of it. Nothing here lives long enough for it to be renewed.
    settings.refresh_api_key_hook = None
    settings.api_key = {name: value.strip() for name, value in settings.api_key.items()}
    hide(*settings.api_key.values())
    if any(not _HEADER_VALUE.fullmatch(value) for value in settings.api_key.values()):
        raise _AccessError("the token is none: it has characters that no header may have")
    return client.ApiClient(settings)


def _without_content(error: Exception) -> str:
    """What went wrong with a file or a plugin, without what it holds or printed: errors of the package quote both."""
    if isinstance(error, OSError):
        return str(error)
    line = str(error).partition("\n")[0]
    return line if _HARMLESS.match(line) else type(error).__name__


def _look(client: ApiClient, source: str, bad: Status) -> Finding:
    from kubernetes.client import VersionApi  # noqa: PLC0415 - late, for it takes half a second

    version = VersionApi(client).get_code(_request_timeout=_SECONDS).git_version
    denied = [
        f"{verb} {resource}" for group, resource in RESOURCES for verb in VERBS if not _allowed(client, group, resource, verb)
    ]
    found = f"{version} at {client.configuration.host} ({source})"
    if not denied:
        return ok(f"{found}, may list and watch all that names workloads")
    listed = ", ".join(resource if group == "" else f"{resource}.{group}" for group, resource in RESOURCES)
    fix = f"a ClusterRole with the verbs list and watch on {listed}, bound to this user"
    return Finding(bad, one_line(f"{found}, may not: {', '.join(denied)}"), fix)


def _allowed(client: ApiClient, group: str, resource: str, verb: str) -> bool:
    from kubernetes.client import (  # noqa: PLC0415 - late, for it takes half a second
        AuthorizationV1Api,
        V1ResourceAttributes,
        V1SelfSubjectAccessReview,
        V1SelfSubjectAccessReviewSpec,
    )

    attributes = V1ResourceAttributes(group=group, resource=resource, verb=verb)
    review = V1SelfSubjectAccessReview(spec=V1SelfSubjectAccessReviewSpec(resource_attributes=attributes))
    answer: Any = AuthorizationV1Api(client).create_self_subject_access_review(review, _request_timeout=_SECONDS)
    return bool(answer.status and answer.status.allowed)


def _message(error: Any) -> str:
    """What the API server says of an error, else the reason of the HTTP status."""
    try:
        return str(json.loads(error.body)["message"])
    except (KeyError, TypeError, ValueError):
        return str(error.reason)


def _root_cause(error: BaseException) -> str:
    """The innermost reason: urllib3 wraps it two and three times."""
    while isinstance(reason := getattr(error, "reason", None) or error.__cause__, BaseException):
        error = reason
    return str(error) or type(error).__name__
