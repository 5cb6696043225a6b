"""Whole lists of a resource, page by page, as the API's JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from services.enricher.errors import ApiRefusedError, ApiUnreachableError
from services.enricher.kube_api import KubeApi
from services.enricher.kube_resources import Page, Resource, page_decoder

PAGE_OBJECTS: Final = 500
GONE: Final = 410


def pages(api: KubeApi, resource: Resource, namespace: str = "", *, page_objects: int = PAGE_OBJECTS) -> Iterator[Page]:
    """Yield the pages of a list. All are of one moment, and `resource_version` of the last one is where a watch goes on.

    Raises ApiRefusedError, with status 410 where the server no longer knows the moment: begin again, with `page_objects` 0 for
    a list in one piece. Raises ApiUnreachableError also for an answer that is no list.
    """
    query = {"limit": str(page_objects)} if page_objects else {}
    while True:
        with api.get(resource.path(namespace), query, accept=resource.accept(of_list=True), gzip=True) as answer:
            body = b"".join(answer.chunks())
        try:
            page = page_decoder.decode(body)
        except msgspec.DecodeError as error:
            raise ApiUnreachableError(f"no list: {error}") from error
        yield page
        if not page.metadata.following:
            return
        query["continue"] = page.metadata.following


def whole_list(api: KubeApi, resource: Resource, namespace: str = "") -> list[Page]:
    """Return all pages of a list; where they took longer than the server keeps the moment, the list in one piece."""
    try:
        return list(pages(api, resource, namespace))
    except ApiRefusedError as error:
        if error.status != GONE:
            raise
        return list(pages(api, resource, namespace, page_objects=0))
