"""The page's server: what it says is what the commands say, and it keeps no more than it may."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from proto.columns import NO_INDEX, Observer, Outcome, Reason, Role
from proto.flow_batch import Entity
from proto.verdicts.rules import judged
from services.cli.errors import CliError
from services.cli.explain.command import explained
from services.cli.explain.connections import Seen
from services.cli.explain.explanation import explain
from services.cli.view.assets import assets
from services.cli.view.kept import Kept
from services.cli.views.flow_columns import FLOW_COLUMNS
from services.cli.views.flow_view import flow_views
from tests.unit.cli.flow_records import LOCAL, REMOTE, START, record_batch
from tests.unit.cli.view.asking import answer, asking, between, pod


async def test_map_has_troubles_first_and_folds_namespaces(kept: Kept, built: Path) -> None:
    """What failed comes first; a namespace that is folded is one place, and nothing is lost by it."""
    async with asking(kept, built) as session:
        whole = await answer(session, "map?fold=none")
        folded = await answer(session, "map?fold=shop")
    assert (whole["edges"][0]["source"], whole["edges"][0]["destination"]) == ("web/ingress", "shop/frontend")
    assert whole["edges"][0]["trouble"] == "refused, 1 of 1 failed"
    assert whole["namespaces"] == ["shop", "web"]
    assert {(edge["source"], edge["destination"], edge["flows"]) for edge in folded["edges"]} == {
        ("shop/", "shop/", 2),
        ("web/ingress", "shop/", 1),
    }
    assert folded["totals"] == {**whole["totals"], "troubles": "1"}


async def test_the_first_of_the_map_is_what_explain_calls_the_worst(built: Path) -> None:
    """What happens to most of the known goes first, though fewer failed, and whatever somebody does where nobody may be; the
    map says it in the sentence of `explain`. Each end needs to know no more than its own name.
    """
    kept, slow = Kept(), {"observer": Observer.SOCKET, "isn_seen": 3, "response_time_max_ns": 800_000_000}
    for number in range(20):
        refused = {"outcome": Outcome.REFUSED, "responses": 0, "local_port": 2000 + number}
        kept.add(record_batch(entities=[pod("shop", "scanner")], local_entity=0, flow_id=100 + number, **refused))
    kept.add(between("shop/a", "shop/b", flow_id=2, local_port=1002, outcome=Outcome.REFUSED, responses=0))
    host = Entity("host", {"host.name": "vm"})
    for flow_id in range(10, 16, 2):
        client = {"flow_id": flow_id, "local_port": flow_id, "local_isn": flow_id, "remote_isn": 1}
        server = {"flow_id": flow_id + 1, "remote_port": flow_id, "local_isn": 1, "remote_isn": flow_id, "role": Role.SERVER}
        of_client, of_server = [pod("shop", "frontend"), host], [pod("shop", "slow"), host]
        ends = {"local_address": np.void(REMOTE), "remote_address": np.void(LOCAL), "local_port": 6379}
        kept.add(record_batch(entities=of_client, local_entity=0, remote_entity=1, **client, **slow))
        kept.add(record_batch(entities=of_server, local_entity=0, remote_entity=1, **ends, **server, **slow))
    (told,), more = explained([piece.batch for piece in kept.pieces], "")
    async with asking(kept, built) as session:
        said = await answer(session, "map?fold=none")
    first = said["edges"][0]
    assert (first["source"], first["destination"]) == ("shop/frontend", "shop/slow")
    same = {key: told.as_json()[key] for key in ("source", "destination", "verdict", "sentence")}
    assert said["worst"] == {**same, "flow": f"{told.as_json()['flow_id']:#x}", "wrong": True, "more": more}
    assert (told.advice.sentence, more) == ("the server is slow, not the network", 2)


async def test_what_finds_an_edge_finds_its_flows(kept: Kept, built: Path) -> None:
    """Each edge comes with a search, in the tap's grammar, whose records are that edge's and no other's."""
    async with asking(kept, built) as session:
        for edge in (await answer(session, "map?fold=none"))["edges"]:
            of = await answer(session, f"edge?fold=none&source={edge['source']}&destination={edge['destination']}")
            found = await answer(session, f"flows?q={of['parts'][0]['query']}")
            assert len(found["rows"]) == edge["flows"] == int(of["parts"][0]["words"]["flows"])


async def test_a_name_that_a_client_asks_for_is_outside(built: Path) -> None:
    """It is no workload, not even by a slash, nor where it looks like one; the edge's search finds its flows."""
    kept = Kept()
    names = ["kube-system/coredns", "payments/", "redis.service", "a*b"]
    for number, name in enumerate(names, 1):
        batch = between("shop/frontend", "shop/cart", flow_id=number, tls_server_name=0, remote_entity=NO_INDEX)
        kept.add(replace(batch, names=[name]))
    unit = Entity("host", {"host.name": "web-1", "service.name": "nginx.service"})
    ends = [pod("shop", "frontend"), unit]
    kept.add(record_batch(entities=ends, local_entity=0, remote_entity=1, flow_id=9))
    async with asking(kept, built) as session:
        found = await answer(session, "map?fold=none")
        assert found["namespaces"] == ["outside", "shop"]
        assert {node["id"] for node in found["nodes"] if node["place"] == "outside"} == {
            r"kube-system\x2fcoredns", r"payments\x2f", "redis.service", "a*b", "nginx.service",
        }  # fmt: skip
        for edge in found["edges"]:
            ends = {end: edge[end] for end in ("source", "destination")}
            async with session.get("/api/edge", params={"fold": "none", **ends}) as response:
                (part,) = (await response.json())["parts"]
            async with session.get("/api/flows", params={"q": part["query"]}) as response:
                assert len((await response.json())["rows"]) == 1


async def test_an_edge_of_a_search_is_of_both(kept: Kept, built: Path) -> None:
    """Alternatives of a search do not come back into what is said of one edge, nor into the search that finds its flows."""
    kept.add(between("shop/frontend", "shop/cart", flow_id=4, outcome=Outcome.REFUSED, responses=0))
    search = "to-workload cart not to-workload=cache to-workload=redis protocol tcp failed not port 53"
    ends = {"source": "shop/frontend", "destination": "shop/cart", "fold": "none"}
    async with asking(kept, built) as session, session.get("/api/edge", params={"q": search, **ends}) as response:
        (part,) = (await response.json())["parts"]
    assert part["worst"]["flow"] == "0x4"
    assert part["query"] == (
        "not to-workload=cache failed not port 53 from-workload shop/frontend to-workload shop/cart to-port 6379 protocol tcp"
    )


async def test_a_scan_of_ports_is_told_of_in_part(built: Path) -> None:
    """Of an edge with any number of ports the worst are told, and how many are left out."""
    kept = Kept()
    for port in range(1, 31):
        outcome = Outcome.REFUSED if port == 30 else Outcome.CLOSED
        kept.add(between("shop/scanner", "shop/cart", flow_id=port, local_port=1000 + port, remote_port=port, outcome=outcome))
    async with asking(kept, built) as session:
        told = await answer(session, "edge?fold=none&source=shop/scanner&destination=shop/cart")
    assert (len(told["parts"]), told["left_out"], told["parts"][0]["port"]) == (20, 10, 30)


async def test_flows_are_rows_of_the_taps_table(kept: Kept, built: Path) -> None:
    """The same cells; what came after a record is asked for by its number."""
    async with asking(kept, built) as session:
        found = await answer(session, "flows?q=not failed")
        newer = await answer(session, f"flows?after={found['rows'][0]['n']}")
    views = [view for piece in kept.pieces for view in flow_views(piece.batch)]
    assert [row["cells"] for row in found["rows"]] == [[column.cell(view) for column in FLOW_COLUMNS] for view in views[:2]]
    assert [row["n"] for row in newer["rows"]] == [2, 3]


@pytest.mark.parametrize("search", ["port many", "bogus", "not", "since", "to-port 1 'open", f"slower-than {'9' * 400}s"])
async def test_what_cannot_be_searched_is_said(kept: Kept, built: Path, search: str) -> None:
    """A search that is none is answered with the reason, as the tap would give it."""
    async with asking(kept, built) as session, session.get("/api/flows", params={"q": search}) as response:
        assert response.status == 400
        assert await response.text()


async def test_connection_says_what_explain_says(kept: Kept, built: Path) -> None:
    """The sentence, the story and the numbers are those of `wirespan explain`; the axis has what lasted."""
    async with asking(kept, built) as session:
        said = await answer(session, "connection?flow=0x1")
        async with session.get("/api/connection?flow=0xff") as unknown:
            assert unknown.status == 404
    (one,) = Seen([kept.pieces[0].batch.take(slice(0, 1))]).connections(lambda _: True)
    told = explain(one)
    assert (said["head"], said["sentence"], said["because"]) == (told.head, told.advice.sentence, told.because)
    assert [step["what"] for step in said["story"]] == [step.text for step in told.steps]
    assert [bar["kind"] for lane in said["lanes"] for bar in lane["bars"]] == ["record", "connect"]


async def test_both_ends_are_on_one_axis_of_time(kept: Kept, built: Path) -> None:
    """What client and server told of a connection is one connection, asked for by either's flow; both decide."""
    times = {"flow_start_unix_ns": START, "start_unix_ns": START, "end_unix_ns": START + 900_000_000}
    seen = {"observer": Observer.SOCKET, "isn_seen": 3, "response_time_max_ns": 800_000_000, **times}
    client = between("shop/frontend", "shop/slow", flow_id=8, local_isn=1, remote_isn=2, **seen)
    ends = {"local_entity": 1, "remote_entity": 0, "local_port": 6379, "remote_port": 48112}
    server = between("shop/frontend", "shop/slow", flow_id=9, local_isn=2, remote_isn=1, role=Role.SERVER, **ends, **seen)
    for batch in (client, server):
        kept.add(batch)
    async with asking(kept, built) as session:
        of_client, of_server = [await answer(session, f"connection?flow={flow_id}") for flow_id in (8, 9)]
        (edge,) = (await answer(session, "edge?fold=none&source=shop/frontend&destination=shop/slow"))["parts"]
    assert of_client == of_server
    assert [(lane["end"], lane["name"].partition(":")[0]) for lane in of_client["lanes"]] == [
        ("client", "shop/frontend"),
        ("server", "shop/slow"),
    ]
    assert {key: told for key, told in edge["worst"].items() if key != "more"} == {
        key: of_client[key] for key in edge["worst"] if key != "more"
    }
    assert edge["worst"]["more"] == 0
    assert (of_client["verdict"], of_client["told_by"]) == ("server_slow", "both ends")


async def test_of_a_long_channel_the_latest_requests_are_told(built: Path) -> None:
    """All records of the connection itself, and no more of its requests than an axis has room for."""
    kept = Kept()
    kept.add(between("shop/frontend", "shop/cart", flow_id=8))
    ids = [np.void(number.to_bytes(16, "big")) for number in range(1, 502)]
    for each in ids:
        kept.add(between("shop/frontend", "shop/cart", flow_id=8, reason=Reason.EXCHANGE, trace_id=each))
    async with asking(kept, built) as session:
        told = await answer(session, "connection?flow=8")
    assert told["left_out"] == 101
    assert told["lanes"][0]["bars"]


def test_no_more_is_kept_than_may_be() -> None:
    """The oldest records go, and it is said how many."""
    kept = Kept(most=3)
    for number in range(10):
        kept.add(between("a/b", "c/d", flow_id=number))
    assert (kept.records, kept.gone, kept.last) == (3, 7, 10)
    assert [int(piece.batch.column("flow_id")[0]) for piece in kept.pieces] == [7, 8, 9]


async def test_small_batches_are_joined_and_say_the_same(built: Path) -> None:
    """Records that came one by one, of two captures in turn, are few pieces once somebody looks; answers are those of their
    order, with every record's own names, also while more come and old ones go.
    """
    kept = Kept(most=800)
    some = [
        replace(between(f"shop/{number % 7}", "shop/cart", flow_id=number, local_port=number), node=f"node-{number % 2}")
        for number in range(1, 1001)
    ]
    for batch in some[:500]:
        kept.add(batch)
    assert len(kept.pieces) < 20
    for batch in some[500:]:
        kept.add(batch)
    came = [number for piece in kept.since(450) for number in piece.numbers.tolist()]
    assert came == list(range(451, 1001))
    assert [int(flow) for piece in kept.since(450) for flow in piece.batch.column("flow_id")] == came
    async with asking(kept, built) as session:
        found = await answer(session, "flows")
    numbers = [row["n"] for row in found["rows"]]
    assert kept.records == len(numbers) <= 800
    assert numbers == sorted(numbers)
    assert (numbers[-1], found["last"], kept.gone + kept.records) == (1000, 1000, 1000)
    for row, number in zip(found["rows"], numbers, strict=True):
        (view,) = flow_views(judged(some[number - 1]))
        assert row["cells"] == [column.cell(view) for column in FLOW_COLUMNS]
    assert len(kept.pieces) < 20


def test_time_line_counts_each_record_once(kept: Kept) -> None:
    """Every record of a flow is in one stretch, troubles besides."""
    line = kept.time_line()
    assert (np.sum(line["records"]), np.sum(line["troubles"])) == (3, 1)


class SlowToTell(Kept):
    """Whose time line takes until it may be told."""

    def __init__(self) -> None:
        super().__init__()
        self.made = 0
        self.begun_to, self.may = threading.Event(), threading.Event()

    def time_line(self) -> dict[str, object]:
        """Wait, and count."""
        self.made += 1
        self.begun_to.set()
        assert self.may.wait(60)
        return super().time_line()


async def test_what_nobody_waits_for_is_not_made(built: Path) -> None:
    """Of requests that wait for their turn, those whose client has gone are left out."""
    slow = SlowToTell()
    async with asking(slow, built) as session:
        first = asyncio.create_task(answer(session, "time_line"))
        assert await asyncio.to_thread(slow.begun_to.wait, 60)
        url = session._base_url
        assert url is not None
        _, gone = await asyncio.open_connection(url.host, url.port)
        gone.write(b"GET /api/time_line HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await answer(session, "about")  # by then it waits for its turn
        gone.close()
        await gone.wait_closed()
        await answer(session, "about")  # and by then it has gone
        slow.may.set()
        await first
        await answer(session, "time_line")
    assert slow.made == 2


def test_a_page_that_is_not_built_says_so(tmp_path: Path) -> None:
    """One line, and what builds it."""
    with pytest.raises(CliError, match="make setup"):
        assets(tmp_path)


def test_a_page_that_is_built_brings_its_licences() -> None:
    """Of everything that is bundled, beside the assets; and no address of a registry is in the lock file."""
    web = Path(__file__).parents[4] / "services" / "cli" / "view" / "web"
    assert "resolved" not in (web / "package-lock.json").read_text()
    folder = web.parent / "assets"
    if not (folder / "index.html").exists():
        pytest.skip("the page is not built: there is no Node with npm, or their registry did not answer")
    licences = (folder / "licences.txt").read_text()
    for name in ("cytoscape", "uplot", "preact", "d3-force", "@dagrejs/dagre", "@tanstack/virtual-core"):
        assert f"{name} " in licences
