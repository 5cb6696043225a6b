"""Which cluster an API server is of, and how far it has come: what was known goes on only with the same one, never backwards.

A cluster that is made anew, or restored from a backup, begins again with versions that it had before. Its API server accepts a
watch from a version that it has not reached, and tells only of what is newer: nothing, for a long time.
"""

from __future__ import annotations

import threading
import time
from typing import Final

import msgspec

from services.enricher.errors import ApiRefusedError, ApiUnreachableError
from services.enricher.kubernetes.api import KubeApi
from services.enricher.kubernetes.listing import pages
from services.enricher.kubernetes.resources import Page, Resource, page_decoder

_PATH: Final = "/api/v1/namespaces/default/services"
_QUERY: Final = {"fieldSelector": "metadata.name=kubernetes", "limit": "1"}
_DENIED: Final = frozenset((403, 404))
_FRESH_SECONDS: Final = 5.0


class _Metadata(msgspec.Struct, frozen=True):
    name: str = ""
    uid: str = ""


class _Named(msgspec.Struct, frozen=True):
    metadata: _Metadata = _Metadata()


_named_decoder: Final = msgspec.json.Decoder(_Named)


class ClusterIdentity:
    """The cluster that an API server is of. May be asked by many threads, which share an answer that is new enough."""

    def __init__(self, api: KubeApi) -> None:
        self._api = api
        self._asking = threading.Lock()
        self._known: tuple[float, str] | None = None

    def uid(self) -> str:
        """Return the uid of the Service `kubernetes`, which each cluster makes for itself and keeps; empty where it may not be
        read. Raises ApiRefusedError, ApiUnreachableError.
        """
        with self._asking:
            if self._known is None or time.monotonic() > self._known[0] + _FRESH_SECONDS:
                uid = self._ask()
                self._known = time.monotonic(), uid
            return self._known[1]

    def _ask(self) -> str:
        try:
            with self._api.get(_PATH, _QUERY, accept="application/json") as answer:
                page: Page = page_decoder.decode(b"".join(answer.chunks()))
            found = [_named_decoder.decode(item).metadata for item in page.items or ()]
        except ApiRefusedError as error:
            if error.status not in _DENIED:
                raise
            return ""
        except msgspec.DecodeError as error:
            raise ApiUnreachableError(f"no list: {error}") from error
        return next((each.uid for each in found if each.name == "kubernetes"), "")


def has_reached(api: KubeApi, resource: Resource, namespace: str, version: str) -> bool:
    """Return whether a server has a resource's version, or a later one. Raises ApiRefusedError, ApiUnreachableError.

    A list that asks for no version gives the newest there is, whichever of several servers answers.
    """
    newest = next(pages(api, resource, namespace, page_objects=1)).metadata.resource_version
    return not (newest.isdecimal() and version.isdecimal()) or int(newest) >= int(version)
