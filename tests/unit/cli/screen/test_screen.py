"""The screen of `wirespan up`: the real one, by its keys, over real records."""

from __future__ import annotations

import asyncio
import os
import pty
import random
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from textual import events
from textual.drivers.headless_driver import HeadlessDriver
from textual.pilot import Pilot

from proto.columns import Observer, Outcome, Reason, Role
from proto.flow_batch import Entity
from proto.verdicts.names import Verdict, VerdictMeasure
from proto.verdicts.rules import judged
from services.cli.explain.shown import lines
from services.cli.screen.app import LiveScreen
from services.cli.screen.available import has_screen
from services.cli.screen.pairs import Pairs
from services.cli.screen.rows_view import RowsView
from services.cli.screen.terminal import OnTerminal
from services.cli.tap.filters import FlowFilter
from services.cli.view.asked import wanted
from services.cli.view.kept import Kept
from services.cli.views.conversations import Conversations, conversations_of
from services.cli.views.flow_view import flow_views
from services.runtime.errors import BusError
from tests.unit.cli.flow_records import LOCAL, REMOTE, record_batch

PATIENCE_SECONDS = 60
SAID, TOLD = "capturing live on here", ["the page to look at: http://127.0.0.1:4280"]
SLOW = {"verdict": Verdict.SERVER_SLOW, "verdict_measure": VerdictMeasure.RESPONSE_TIME_MAX}


def shop() -> Kept:
    """Three pairs: one refused, one slow with two connections, one that is well; and what kernels say by themselves."""
    kept = Kept()
    kept.add(record_batch(flow_id=1, remote_port=81, outcome=Outcome.REFUSED, tx_bytes=0, rx_bytes=0))
    for flow_id in (2, 3):
        kept.add(record_batch(flow_id=flow_id, local_port=flow_id, remote_port=82, response_time_max_ns=801_000_000, **SLOW))
    kept.add(record_batch(flow_id=4, remote_port=83))
    for flow_id, kind in ((5, 135), (6, 143), (7, 133)):
        kept.add(record_batch(flow_id=flow_id, transport=58, icmp_type=kind, role=Role.UNKNOWN))
    return kept


def text(app: LiveScreen) -> str:
    """What is on the screen."""
    return "\n".join("".join(segment.text for segment in line) for line in app.screen._compositor.render_strips())


@asynccontextmanager
async def at(kept: Kept, size: tuple[int, int] = (100, 30), which: FlowFilter | None = None) -> AsyncIterator[Pilot[None]]:
    """The screen over these records, once it has heard all of them and is drawn. None is gone while a test lasts."""
    pairs = Pairs(kept, which or FlowFilter(), window_seconds=3600)
    async with LiveScreen(pairs, SAID, TOLD).run_test(size=size) as pilot:
        await until(pilot, lambda shown: pairs._last == kept.last and "last minute" in shown)
        await pilot.pause()
        yield pilot


async def until(pilot: Pilot[None], condition: Callable[[str], object]) -> str:
    """Wait until the screen is so; return it."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition(shown := text(pilot.app)):
            await pilot.pause(0.01)
    return shown


def ports(shown: str) -> list[str]:
    """The ports of the destinations of a list of pairs, in its order."""
    rows = [line for line in shown.splitlines() if line.startswith("10.0.0.5 ") and "->" not in line]
    return [line.split("]:")[1].split()[0] for line in rows if "]:" in line]


async def press(pilot: Pilot[None], *keys: str) -> None:
    """Press keys, each once the last one has done what it does."""
    for key in keys:
        await pilot.press(key)
        await pilot.pause()


async def test_troubles_are_first_and_noise_of_kernels_is_one_row_at_the_end() -> None:
    """At first sight; behind that row is each of them."""
    async with at(shop()) as pilot:
        shown = await until(pilot, lambda shown: ports(shown) == ["81", "82", "83"])
        assert shown.count("kernels") == 1
        assert shown.index("kernels") > shown.index("]:83")
        assert "last minute: 7 flows" in shown
        await press(pilot, "G", "enter")
        await until(pilot, lambda shown: "kernels -> neighbour discovery" in shown and shown.count("10.0.0.5") >= 3)


async def test_rows_are_ordered_by_any_column_and_backwards() -> None:
    """The heading says which; numbers have the largest first, and once around is where it began."""
    async with at(shop()) as pilot:
        await press(pilot, "s", "s")
        await until(pilot, lambda shown: "destination ▲" in shown and ports(shown) == ["81", "82", "83"])
        await press(pilot, "r")
        await until(pilot, lambda shown: "destination ▼" in shown and ports(shown) == ["83", "82", "81"])
        await press(pilot, "s", "s")
        await until(pilot, lambda shown: "flows ▼" in shown and ports(shown)[0] == "82")
        await press(pilot, "S", "S", "S", "S", "r")
        await until(pilot, lambda shown: "troubles first, backwards" in shown and ports(shown) == ["83", "82", "81"])


async def test_a_search_is_the_filters_of_tap() -> None:
    """Among what the command was given; what is no filter is said, and can be mended; an empty one shows all again."""
    async with at(shop(), which=wanted({"q": "not port 83"})) as pilot:
        await until(pilot, lambda shown: ports(shown) == ["81", "82"])
        await press(pilot, "slash", *"slower-than x", "enter")
        await until(pilot, lambda shown: "'x' is no duration" in shown and ports(shown) == ["81", "82"])
        await press(pilot, "backspace", *"100ms", "enter")
        await until(pilot, lambda shown: "search: slower-than 100ms" in shown and ports(shown) == ["82"])
        await press(pilot, "slash", "home", "ctrl+k", "enter")
        await until(pilot, lambda shown: "search:" not in shown and ports(shown) == ["81", "82"])


async def test_keys_that_come_in_one_piece_with_the_slash_are_of_the_search() -> None:
    """As a terminal sends what is pasted: what begins or ends something in the table does nothing of it there."""
    async with at(shop()) as pilot:
        for character in "/to-service shop/web ?sqjp":
            name = {"/": "slash", " ": "space", "?": "question_mark"}.get(character, character)
            pilot.app._driver.send_message(events.Key(name, character))
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (focused := pilot.app.focused) is None or getattr(focused, "value", "") != "to-service shop/web ?sqjp":
                await pilot.pause(0.01)
        await press(pilot, "escape")
        await until(pilot, lambda shown: ports(shown) == ["81", "82", "83"] and "troubles first" in shown)
        assert not pilot.app.pairs.paused


async def test_a_pair_opens_into_its_connections_and_each_into_what_explain_says() -> None:
    """Word by word; Escape leads back."""
    kept = shop()
    async with at(kept) as pilot:
        await press(pilot, "down", "enter")
        await until(pilot, lambda shown: "10.0.0.5:2" in shown and "10.0.0.5:3" in shown and "server slow" in shown)
        await press(pilot, "enter")
        shown = await until(pilot, lambda shown: "verdict" in shown)
        (row, _) = pilot.app.pairs.connections(("10.0.0.5", "2001:db8::1", 82, "tcp"))
        explained = pilot.app.pairs.explained(row.told)
        assert explained is not None
        said = " ".join(" ".join(line.plain for line in lines(explained)).split())
        assert said in " ".join(shown.split())
        assert "server_slow: the server is slow, not the network" in said
        await press(pilot, "escape", "escape")
        await until(pilot, lambda shown: ports(shown) == ["81", "82", "83"])


async def test_what_is_chosen_stays_chosen_while_others_come_before_it() -> None:
    """Once somebody has moved; until then it is the first row, whichever that is."""
    kept = shop()
    async with at(kept) as pilot:
        view = pilot.app.screen.query_one(RowsView)
        kept.add(record_batch(flow_id=8, remote_port=79, outcome=Outcome.REFUSED, rx_bytes=9_000_000))
        await until(pilot, lambda shown: ports(shown)[:1] == ["79"] and "-> [2001:db8::1]:79" in shown)
        assert view.place == 0
        await press(pilot, "down")
        await until(pilot, lambda shown: "-> [2001:db8::1]:81" in shown)
        kept.add(record_batch(flow_id=9, remote_port=78, outcome=Outcome.REFUSED, rx_bytes=99_000_000))
        await until(pilot, lambda shown: ports(shown)[:1] == ["78"])
        assert view.place == 2
        await until(pilot, lambda shown: "-> [2001:db8::1]:81" in shown)


async def test_a_pause_holds_everything_still() -> None:
    """What comes meanwhile is there afterwards."""
    kept = shop()
    async with at(kept) as pilot:
        await press(pilot, "p")
        await until(pilot, lambda shown: "paused" in shown)
        kept.add(record_batch(flow_id=8, remote_port=79, outcome=Outcome.REFUSED))
        pilot.app._look()
        await press(pilot, "s", "s")
        await until(pilot, lambda shown: "destination ▲" in shown and ports(shown) == ["81", "82", "83"])
        await press(pilot, "space")
        await until(pilot, lambda shown: "79" in ports(shown) and "paused" not in shown)


@pytest.mark.parametrize("size", [(80, 24), (60, 12), (200, 50)])
async def test_long_names_and_addresses_fit_and_command_nothing(size: tuple[int, int]) -> None:
    """Both ends of a name are seen, and its port; all of it stands below the table. Markup and escapes are shown."""
    long = "checkout-of-the-shop-with-a-name-that-somebody-generated"
    names = [Entity("k8s.pod", {"k8s.pod.name": "[red]\x1b]0;a\x07\x1b[2J", "k8s.namespace.name": "shop"})]
    kept = Kept()
    wide = np.void(bytes.fromhex("20010db885a308d313198a2e03707348"))
    kept.add(record_batch(flow_id=1, local_entity=0, entities=names, remote_address=wide, remote_port=443))
    named = [Entity("k8s.pod", {"k8s.deployment.name": long, "k8s.namespace.name": "shop"})]
    kept.add(record_batch(flow_id=2, remote_entity=0, entities=named, outcome=Outcome.REFUSED))
    async with at(kept, size) as pilot:
        shown = text(pilot.app)
        assert "\x1b" not in shown
        assert "\x07" not in shown
        assert {len(line) for line in shown.splitlines()} == {size[0]}
        rows = [line for line in shown.splitlines() if line.startswith(("10.0.0.5  ", "shop/[r"))]
        assert all(port in row for port, row in zip((":6379", ":443"), rows, strict=True))
        flat = "".join(shown.split())
        assert f"->shop/{long}:6379" in flat
        await press(pilot, "down")
        await until(pilot, lambda shown: "shop/[red]" in shown)
        assert r"shop/[red]\x1b]0;a\x07\x1b[2J->[2001:db8:85a3:8d3:1319:8a2e:370:7348]:443" in "".join(text(pilot.app).split())


async def test_a_terminal_that_changes_its_size_shows_as_much_as_there_is_room_for() -> None:
    """The chosen row is visible in each."""
    kept = Kept()
    for port in range(1, 101):
        kept.add(record_batch(flow_id=port, remote_port=port))
    async with at(kept, (80, 24)) as pilot:
        await press(pilot, "G")
        await until(pilot, lambda shown: "-> [2001:db8::1]:" in shown and "]:1 " not in shown)
        last = ports(text(pilot.app))[-1]
        for size in ((70, 14), (120, 60), (80, 24)):
            await pilot.resize_terminal(*size)
            shown = await until(pilot, lambda shown, wide=size[0]: {len(line) for line in shown.splitlines()} == {wide})
            shown = await until(pilot, lambda shown: last in ports(shown))
            assert 1 <= len(ports(shown)) <= size[1]
        await press(pilot, "g")
        await until(pilot, lambda shown: "-> [2001:db8::1]:1 " in shown)


@pytest.mark.parametrize("keys", [("q",), ("ctrl+c",), ("enter", "q"), ("question_mark", "ctrl+c"), ("slash", "ctrl+c")])
async def test_it_ends_at_once_wherever_somebody_is(keys: tuple[str, ...]) -> None:
    """By the first key."""
    async with at(shop()) as pilot:
        await press(pilot, *keys)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not pilot.app._exit:  # noqa: ASYNC110 - of its end there is no event
                await asyncio.sleep(0.01)


async def test_help_tells_the_keys_and_what_was_said_before() -> None:
    """The screen has covered it."""
    async with at(shop()) as pilot:
        await press(pilot, "question_mark")
        await until(pilot, lambda shown: "wirespan tap" in shown and TOLD[0] in shown)
        await press(pilot, "question_mark", "escape")
        await until(pilot, lambda shown: ports(shown) == ["81", "82", "83"])


async def test_what_others_print_stands_on_the_screen() -> None:
    """Without its colours and commands; with them it is kept for afterwards."""
    async with at(shop()) as pilot:
        sys.stderr.write("exporter \x1b[1mended\x1b[0m; starting it again\n")
        shown = await until(pilot, lambda shown: "exporter ended; starting it again" in shown)
        assert "\x1b" not in shown
        assert pilot.app.printed == ["exporter \x1b[1mended\x1b[0m; starting it again"]


async def test_the_ends_of_a_connection_are_named_in_full() -> None:
    """The container by its name, its image and its id, wherever it runs; what is not known is left out."""
    pod = {"k8s.namespace.name": "shop", "k8s.pod.name": "web-1", "k8s.container.name": "app", "k8s.node.name": "n1"}
    image = {"container.image.name": "nginx", "container.image.tags": ["1.29"], "container.id": "0123456789abcdef"}
    found = [
        Entity("k8s.pod", pod | image),
        Entity("container", {"host.name": "h1", "container.name": "db", "service.name": "db"}),
    ]
    kept = Kept()
    kept.add(record_batch(entities=found, local_entity=0, remote_entity=1))
    async with at(kept) as pilot:
        await until(pilot, lambda shown: "shop/web-1 -> db:6379" in shown)
        await press(pilot, "enter", "enter")
        await until(
            pilot,
            lambda shown: (
                "source       pod shop/web-1, container app (nginx:1.29, 0123456789ab), on n1, 10.0.0.5" in shown
                and "destination  container db, on h1, 2001:db8::1" in shown
            ),
        )


async def test_words_of_filters_are_completed() -> None:
    """The last one of a search."""
    async with at(shop()) as pilot:
        await press(pilot, "slash", *"not por")
        async with asyncio.timeout(PATIENCE_SECONDS):
            while pilot.app.focused._suggestion != "not port":
                await pilot.pause(0.01)
        await press(pilot, "right", *" 82", "enter")
        await until(pilot, lambda shown: ports(shown) == ["81", "83"])


async def test_a_fault_of_the_screen_is_raised_and_none_of_its_variables_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """They may hold what nobody should see."""
    app = LiveScreen(Pairs(shop(), FlowFilter()), SAID, TOLD)
    secret = "do-not-print-this"  # noqa: F841  # a traceback with the values of variables would have it

    def fails() -> None:
        raise ValueError("broken")

    app.pairs.look = fails
    with pytest.raises(ValueError, match="broken"):
        async with app.run_test():
            pass
    assert "do-not-print-this" not in "".join(capsys.readouterr())


async def test_a_bus_that_does_not_answer_keeps_nobody_who_has_ended_the_screen() -> None:
    """What is asked beside it is given up; one that lets nobody in ends the screen and is told."""
    app = LiveScreen(Pairs(shop(), FlowFilter()), SAID, TOLD, driver_class=HeadlessDriver)
    asked = asyncio.Event()

    async def answers_never() -> None:
        asked.set()
        await asyncio.Event().wait()

    async def refuses() -> None:
        raise BusError("not let in")

    screen = OnTerminal(app)
    async with asyncio.timeout(PATIENCE_SECONDS):
        with pytest.raises(BusError, match="not let in"):
            await screen.until_ended(answers_never(), refuses())
        ended = asyncio.create_task(screen.until_ended(answers_never()))
        asked.clear()
        await asked.wait()
        app.exit()
        await ended
    await screen.give_back()


async def test_of_five_thousand_pairs_only_what_is_visible_is_drawn() -> None:
    """However far down somebody is."""
    kept, number = Kept(), 5000
    one = judged(record_batch())
    columns = {name: np.repeat(array, number, axis=0) for name, array in one.columns.items()}
    columns |= {"flow_id": np.arange(number, dtype=np.uint64), "remote_port": np.arange(number, dtype=np.uint16)}
    kept.add(replace(one, count=number, columns=columns))
    async with at(kept, (120, 40)) as pilot:
        assert "5,000 flows" in text(pilot.app)
        view = pilot.app.screen.query_one(RowsView)
        await press(pilot, "G")
        await until(pilot, lambda _: view.place == 4999)
        assert view.render().row_count == view.size.height - 3


@pytest.mark.parametrize(
    ("variables", "terminals", "has"),
    [
        ({}, ("stdin", "stdout"), True),
        ({}, ("stdout",), False),
        ({}, ("stdin",), False),
        ({"NO_COLOR": "1"}, ("stdin", "stdout"), False),
        ({"TERM": "dumb"}, ("stdin", "stdout"), False),
        ({"TERM": ""}, ("stdin", "stdout"), False),
    ],
)
def test_plain_lines_are_for_who_has_no_terminal_or_asks_for_them(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], terminals: tuple[str, ...], *, has: bool
) -> None:
    """A pipe, a file, a terminal that can do no more, NO_COLOR."""
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "wb"), os.fdopen(theirs, "r+b", buffering=0) as terminal, Path(os.devnull).open("rb") as nothing:
        for name in ("stdin", "stdout"):
            monkeypatch.setattr(sys, name, terminal if name in terminals else nothing)
        for name, value in {"NO_COLOR": "", "TERM": "xterm", **variables}.items():
            monkeypatch.setenv(name, value)
        assert has_screen() is has


def some_views(seed: int):
    """Records of a few connections, at both ends or at one, some of which change their names, some with many records."""
    chance = random.Random(seed)
    for at in range(400):
        flow = chance.randrange(40)
        server = flow % 3 == 0
        ends = {"local_port": 6379, "remote_port": 1000 + flow} if server else {"local_port": 1000 + flow, "remote_port": 6379}
        if server:
            ends |= {"local_address": np.void(REMOTE), "remote_address": np.void(LOCAL), "role": Role.SERVER}
        batch = record_batch(
            flow_id=flow, record=chance.randrange(3), observer=Observer.SOCKET, **ends,
            isn_seen=chance.choice((0, 3)), local_isn=flow // 3, remote_isn=99,
            outcome=chance.choice((Outcome.CLOSED, Outcome.REFUSED, Outcome.UNKNOWN)), tx_bytes=at, end_unix_ns=at,
            tx_retransmits=chance.randrange(2), reason=chance.choice((Reason.ACTIVE_TIMEOUT, Reason.END_OF_FLOW)),
            **chance.choice((SLOW, {})),
        )  # fmt: skip
        yield from flow_views(batch)


@pytest.mark.parametrize("seed", range(5))
def test_what_is_summed_up_piece_by_piece_is_what_all_of_it_sums_up_to(seed: int) -> None:
    """At any time: what came, what went, what changed its name."""
    conversations, held = Conversations(window_seconds=60), []
    for now, view in enumerate(some_views(seed)):
        conversations.add(now, view)
        held.append((now, view))
        if now % 7:
            continue
        found = conversations.current(now)
        assert sorted(found, key=str) == sorted(conversations_of([view for then, view in held if then > now - 60]), key=str)
        for each in found:
            parts = [part for part, _ in conversations.connections(each.key)]
            assert sum(part.flows for part in parts) == each.flows
    assert conversations.current(10_000) == []
    assert conversations._told == conversations._name_of == conversations._parts == {}


def test_what_did_not_change_is_not_summed_up_again() -> None:
    """A look costs what came and went."""
    conversations = Conversations()
    for flow_id in range(100):
        (view,) = flow_views(record_batch(flow_id=flow_id, remote_port=flow_id + 1))
        conversations.add(0.0, view)
    before = {each.key: each for each in conversations.current(1.0)}
    conversations.add(2.0, replace(view, flow=("n", "e", 1000), connection="another"))
    after = {each.key: each for each in conversations.current(3.0)}
    assert [key for key in after if after[key] is not before[key]] == [("10.0.0.5", "2001:db8::1", 100, "tcp")]
