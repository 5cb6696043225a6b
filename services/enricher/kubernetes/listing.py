"""Whole lists of a resource, page by page, as the API's JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, TypeVar

import msgspec

from services.enricher.errors import ApiRefusedError, ApiUnreachableError
from services.enricher.kubernetes.api import KubeApi
from services.enricher.kubernetes.resources import Page, Resource, page_decoder

_Taken = TypeVar("_Taken")

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


def whole_list(
    api: KubeApi, resource: Resource, namespace: str, take: Callable[[msgspec.Raw], _Taken | None]
) -> tuple[list[_Taken], str]:
    """Return what `take` makes of each object of a list, None left out, and the list's version.

    The JSON of a page is gone before the next one comes. Where the pages took longer than the server keeps their moment, the
    list is taken anew in one piece.
    """
    for page_objects in (PAGE_OBJECTS, 0):
        taken: list[_Taken] = []
        version = ""
        try:
            for page in pages(api, resource, namespace, page_objects=page_objects):
                taken += [made for item in page.items or () if (made := take(item)) is not None]
                version = page.metadata.resource_version
        except ApiRefusedError as error:
            if error.status != GONE or not page_objects:
                raise
        else:
            break
    return taken, version
