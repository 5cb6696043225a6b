"""Following a server that fails in ways that a real one cannot be made to fail in."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from services.enricher.errors import ApiUnreachableError, KubeConfigError
from services.enricher.following.sync import KubeSync
from services.enricher.index.cluster import Cluster
from services.enricher.index.index import Index
from services.enricher.kubernetes.api import KubeApi, find_api
from services.enricher.kubernetes.listing import whole_list
from services.enricher.kubernetes.reflector import Reflector, State, Update
from services.enricher.kubernetes.resources import RESOURCES
from services.enricher.kubernetes.selection import Selection
from services.enricher.settings import KubeSettings
from services.runtime.errors import TaskFailedError
from tests.support.kubernetes.hostile_kube_api import HostileKubeApi, Request
from tests.unit.enricher.objects_as_json import Tree, pod

pytestmark = pytest.mark.timeout(300)  # for machines that are busy; nothing here is timed

PODS = RESOURCES[0]
STORM_SECONDS = 2.0
MOST_IN_STORM = 15
"""What the waits leave room for: two or three requests, then again after 0.25, 0.5 and so on, half of 1 s at the least."""


class Following:
    """A reflector of pods, and what it delivered."""

    def __init__(self, api: KubeApi) -> None:
        self.api = api
        self.updates: list[Update] = []
        self.came = threading.Condition()
        self.reflector = Reflector(api, PODS, "", self.deliver, selection=Selection(), watch_seconds=60, longest_wait_seconds=1)

    def deliver(self, update: Update) -> None:
        """Keep an update that brings more than a version."""
        with self.came:
            self.updates += [update] if update.changes or update.whole else []
            self.came.notify_all()

    def until(self, count: int) -> list[Update]:
        """Return the updates once there are so many."""
        with self.came:
            self.came.wait_for(lambda: len(self.updates) >= count)
            return list(self.updates)

    def names(self) -> list[str]:
        """Names of all objects of all updates."""
        return [change.obj.metadata.name for update in self.updates for change in update.changes]


@contextmanager
def following(server: HostileKubeApi, folder: Path, *, silence_seconds: float = 30) -> Iterator[Following]:
    """A reflector of the server's pods while the block runs; it ends when told to, whatever the server does."""
    api = find_api("auto", kubeconfig=server.kubeconfig(folder), silence_seconds=silence_seconds)
    assert api is not None
    followed = Following(api)
    followed.reflector.start()
    try:
        yield followed
    finally:
        followed.reflector.stop()
        followed.reflector.join(10)
        assert not followed.reflector.is_alive()


def added(name: str, version: str, kind: str = "ADDED") -> Tree:
    """A watch event."""
    tree = pod(name, "10.0.0.1")
    tree["metadata"]["resourceVersion"] = version
    return {"type": kind, "object": tree}


def bookmark(version: str, *, last: bool = False) -> Tree:
    """A bookmark, which may be the end of the initial events."""
    annotations = {"k8s.io/initial-events-end": "true"} if last else {}
    return {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": version, "annotations": annotations}}}


def is_initial(request: Request) -> bool:
    """Whether a request asks for a list that is a watch."""
    return request.query.get("sendInitialEvents") == "true"


def test_a_list_that_is_a_watch_goes_on_as_one(tmp_path: Path) -> None:
    """Initial events are one whole update, delivered when their end is marked; what follows on the stream are changes. A stream
    that breaks off is taken up at the last bookmark.
    """

    def answer(request: Request) -> None:
        if is_initial(request):
            request.stream(added("a", "5"), added("b", "6"), bookmark("9", last=True), added("c", "10"), bookmark("12"))
            request.end()
        else:
            assert request.query["resourceVersion"] == "12"
            request.stream(added("c", "13", "DELETED"))
            request.silence()

    with HostileKubeApi(answer) as server, following(server, tmp_path) as followed:
        updates = followed.until(3)
    assert [(update.whole, [change.obj.metadata.name for change in update.changes]) for update in updates] == [
        (True, ["a", "b"]),
        (False, ["c"]),
        (False, ["c"]),
    ]
    assert updates[2].changes[0].deleted


@pytest.mark.parametrize("refusal", [400, 422, 500])
def test_without_such_lists_pages_are_taken(tmp_path: Path, refusal: int) -> None:
    """A server that refuses them is asked for pages, all of one moment, and never again for such a list."""

    def answer(request: Request) -> None:
        if is_initial(request):
            request.refuse(refusal)
        elif request.watch:
            assert request.query["resourceVersion"] == "7"
            request.stream(added("d", "8"))
            request.silence()
        elif "continue" in request.query:
            request.list(pod("b", "10.0.0.2"), version="7")
        else:
            assert request.query["limit"] == "500"
            request.list(pod("a", "10.0.0.1"), version="7", following="more")

    with HostileKubeApi(answer) as server, following(server, tmp_path) as followed:
        followed.until(2)
        assert followed.names() == ["a", "b", "d"]
        assert not followed.api.watch_list
        assert sum(is_initial(request) for request in server.requests) == 1


def test_a_list_that_takes_too_long_is_taken_in_one_piece(tmp_path: Path) -> None:
    """When the server no longer knows the moment of the first page, the list is asked for without pages."""

    def answer(request: Request) -> None:
        if "continue" in request.query:
            request.refuse(410)
        elif "limit" in request.query:
            request.list(pod("a", "10.0.0.1"), following="more")
        else:
            request.list(pod("a", "10.0.0.1"), pod("b", "10.0.0.2"), version="9")

    with HostileKubeApi(answer) as server:
        api = find_api("auto", kubeconfig=server.kubeconfig(tmp_path), silence_seconds=5)
        assert api is not None
        items, version = whole_list(api, PODS, "", bytes)
        assert (len(items), version) == (2, "9")
        assert len(server.requests) == 3


def test_a_stream_that_went_silent_is_given_up(tmp_path: Path) -> None:
    """A connection that is open and brings nothing, not even bookmarks, is replaced, and what was missed then comes."""
    silent = threading.Event()

    def answer(request: Request) -> None:
        if is_initial(request):
            request.stream(added("a", "5"), bookmark("9", last=True))
            silent.set()
            request.silence()
        else:
            request.stream(added("b", "10"))
            request.silence()

    with HostileKubeApi(answer) as server, following(server, tmp_path, silence_seconds=1) as followed:
        followed.until(2)
        assert silent.is_set()
        assert followed.names() == ["a", "b"]
        assert followed.reflector.faults == 1


def storm(server: HostileKubeApi, folder: Path) -> tuple[int, Following]:
    """Let a reflector run for a while; return how many requests it made."""
    with following(server, folder) as followed:
        # Not a wait for something: the span over which requests are counted.
        time.sleep(STORM_SECONDS)
        return len(server.requests), followed


@pytest.mark.parametrize("kind", ["status", "event", "closed", "garbage", "half a line", "refused"])
def test_a_storm_of_faults_is_answered_with_patience(tmp_path: Path, kind: str) -> None:
    """However a server fails right after each list that succeeds, requests become few."""

    def answer(request: Request) -> None:
        if not request.watch:
            request.list(pod("a", "10.0.0.1"), version="1")
        elif is_initial(request):
            request.refuse(422)
        elif kind in ("status", "refused"):
            request.refuse(410 if kind == "status" else 500)
        else:
            gone = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "too old"}}
            request.stream(*{"event": (gone,), "garbage": (b"<html>\n",), "half a line": (b'{"type": "ADD',)}.get(kind, ()))
            request.end()

    with HostileKubeApi(answer) as server:
        made, followed = storm(server, tmp_path)
    assert 3 <= made <= MOST_IN_STORM
    assert all(update.whole for update in followed.updates)
    lists = sum(not request.watch for request in server.requests)
    # Only a version that is gone is a reason for a new list.
    assert (lists > 1) == (kind in ("status", "event"))


def test_the_server_says_how_long_to_wait(tmp_path: Path) -> None:
    """429 with Retry-After: nothing is asked before that."""

    def answer(request: Request) -> None:
        request.refuse(429, Retry_After="30")

    with HostileKubeApi(answer) as server:
        made, followed = storm(server, tmp_path)
    assert made == 1
    assert followed.reflector.state is State.LOST


def test_what_is_denied_is_asked_for_rarely(tmp_path: Path) -> None:
    """403 is said once and tried again after a minute, for rights may be given."""

    def answer(request: Request) -> None:
        request.refuse(403)

    with HostileKubeApi(answer) as server:
        made, followed = storm(server, tmp_path)
    assert made == 1
    assert followed.reflector.state is State.DENIED


def test_an_object_of_a_wrong_shape_is_left_out(tmp_path: Path) -> None:
    """One object that cannot be read is counted; those around it are taken and the stream goes on."""

    def answer(request: Request) -> None:
        odd = added("odd", "6")
        odd["object"]["spec"] = "what"
        request.stream(added("a", "5"), odd, bookmark("9", last=True), added("b", "10"))
        request.silence()

    with HostileKubeApi(answer) as server, following(server, tmp_path) as followed:
        followed.until(2)
        assert followed.names() == ["a", "b"]
        assert followed.reflector.malformed == 1


async def test_lines_may_come_in_any_pieces(tmp_path: Path) -> None:
    """A slow server that sends a byte or two at a time is understood all the same."""
    line = json.dumps(bookmark("9", last=True)).encode() + b"\n"

    def answer(request: Request) -> None:
        request.stream(*(line[at : at + 2] for at in range(0, len(line), 2)))
        request.silence()

    with HostileKubeApi(answer) as server, following(server, tmp_path) as followed:
        updates = await asyncio.to_thread(followed.until, 1)
    assert updates[0].whole
    assert not updates[0].changes


def test_what_is_no_list_is_no_list(tmp_path: Path) -> None:
    """A proxy's page with status 200 is an error, not a cluster without pods."""
    with HostileKubeApi(lambda request: request.send(200, b"<html>sign in</html>")) as server:
        api = find_api("auto", kubeconfig=server.kubeconfig(tmp_path), silence_seconds=5)
        assert api is not None
        with pytest.raises(ApiUnreachableError, match="no list"):
            whole_list(api, PODS, "", bytes)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_thread_that_fails_is_not_missed(tmp_path: Path) -> None:
    """An indexer that ends by an error of its own ends the service, which would else serve an old index for ever."""

    class Broken(Cluster):
        def compile(self, *, complete_since_unix_ns: int = 0) -> Index:
            raise RuntimeError("a fault of the index itself")

    def answer(request: Request) -> None:
        if not request.watch:
            request.list()
            return
        request.stream(bookmark("9", last=True))
        request.silence()

    with HostileKubeApi(answer) as server:
        api = find_api("auto", kubeconfig=server.kubeconfig(tmp_path), silence_seconds=5)
        assert api is not None
        sync = KubeSync(api, Broken(), KubeSettings())
        sync.start()
        with pytest.raises(TaskFailedError, match="indexer"):
            await sync.until_broken()
        await sync.stop()
    assert not sync.synced


async def test_rights_that_are_taken_away_make_the_unknown_unresolved(tmp_path: Path) -> None:
    """What was known stays, but from the denial on the index does not claim to be complete."""

    def answer(request: Request) -> None:
        request.stream(bookmark("9", last=True))
        request.end()

    with HostileKubeApi(answer) as server:
        api = find_api("auto", kubeconfig=server.kubeconfig(tmp_path), silence_seconds=5)
        assert api is not None
        sync = KubeSync(api, Cluster(), KubeSettings(wait_seconds=5, settle_seconds=0))
        sync.start()
        try:
            await sync.until_synced(asyncio.Event())
            assert sync.synced
            server.answer = lambda request: request.refuse(403)
            while sync.total("faults") < len(sync.reflectors):  # noqa: ASYNC110 - counted in other threads
                await asyncio.sleep(0.02)
            began = time.time_ns()
            view = await sync.view(began, asyncio.Event())
        finally:
            await sync.stop()
    assert view.index is not None
    assert view.complete_until_unix_ns <= began


def test_a_kubeconfig_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    """Not there, or of no use: said with its name."""
    with pytest.raises(KubeConfigError, match="missing"):
        find_api("auto", kubeconfig=tmp_path / "missing", silence_seconds=5)
    (tmp_path / "broken").write_text("clusters: 3")
    with pytest.raises(KubeConfigError, match="broken"):
        find_api("kubeconfig", kubeconfig=tmp_path / "broken", silence_seconds=5)
