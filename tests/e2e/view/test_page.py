"""The page in a real browser: every view of the bundled capture, what it says, whom it asks, and who can use it."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.e2e.browser import PATIENCE_MS, WHY_NOT, running_browser, serving
from tests.e2e.conftest import CAPTURE, ROOT, SNAPSHOT, WIRESPAN

AXE = ROOT / "services" / "cli" / "view" / "web" / "node_modules" / "axe-core" / "axe.min.js"
OF_CLUSTER = (CAPTURE, "--kube-snapshot", SNAPSHOT)
WATCH = "addEventListener('securitypolicyviolation', (event) => console.error(`forbidden: ${event.blockedURI}`))"

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)]


def command(*arguments: object) -> str:
    """What a command of ours prints about the bundled capture."""
    return subprocess.run([*WIRESPAN, *map(str, arguments)], cwd=ROOT, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page of the bundled capture."""
    records = tmp_path_factory.mktemp("records") / "cluster.jsonl"
    records.write_text(command("tap", *OF_CLUSTER, "-o", "json"))
    with serving(records.parent, "view", records, "--port", 0) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, as the distribution has it."""
    with running_browser() as started:
        yield started


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """A tab. Whatever the browser complains of, or asks of anybody else, fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, base_url=address, reduced_motion="reduce")
    tab = context.new_page()
    tab.set_default_timeout(PATIENCE_MS)
    wrong: list[str] = []
    tab.add_init_script(WATCH)
    tab.on("console", lambda message: wrong.append(message.text) if message.type in {"error", "warning"} else None)
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("request", lambda request: None if request.url.startswith(address) else wrong.append(f"asks {request.url}"))
    yield tab
    context.close()
    assert not wrong


def api(address: str, path: str) -> Any:
    """What the page's own server says."""
    with urllib.request.urlopen(f"{address}api/{path}") as response:
        return json.load(response)


def check_accessible(page: Page) -> None:
    """Nothing of what axe looks at is wrong: names, roles, contrast, focus."""
    if not AXE.exists():
        return
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    assert [(each["id"], [node["html"][:150] for node in each["nodes"]]) for each in found["violations"]] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_map(page: Page, scheme: str) -> None:
    """Troubles come first, an edge has its numbers and its flows, a namespace folds; the address says all of it."""
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    page.goto("/")
    rows = page.get_by_role("table", name="pairs").get_by_role("row")
    expect(rows.first).to_contain_text("2 of 3 failed", timeout=PATIENCE_MS)
    expect(page.locator(".drawing[data-laid]")).to_be_visible(timeout=PATIENCE_MS)
    worst = json.loads(command("explain", *OF_CLUSTER, "--json"))
    expect(page.get_by_label("the worst")).to_contain_text(worst["sentence"], timeout=PATIENCE_MS)
    check_accessible(page)
    rows.first.click()
    expect(page.get_by_label("chosen edge")).to_contain_text("1 reset by server", timeout=PATIENCE_MS)
    told = json.loads(command("explain", *OF_CLUSTER, "shop/frontend to shop/payments:80", "--json"))
    expect(page.get_by_label("chosen edge").locator(".verdict")).to_contain_text(told["sentence"], timeout=PATIENCE_MS)
    check_accessible(page)
    page.get_by_role("button", name="shop", exact=False).first.click()
    expect(rows.first).to_contain_text("3 of 11 failed", timeout=PATIENCE_MS)
    assert "fold=shop" in page.url


def test_flows_are_searched_and_ordered(page: Page, address: str) -> None:
    """The tap's grammar finds as many records as the tap; a heading orders them; a search that is none is said."""
    page.goto("/?view=flows")
    rows = page.get_by_role("table", name="flows").get_by_role("row")
    expect(page.locator(".note")).to_contain_text("40 records", timeout=PATIENCE_MS)
    check_accessible(page)
    page.get_by_role("button", name="received").click()
    expect(rows.nth(1)).to_contain_text("125 KiB", timeout=PATIENCE_MS)
    page.keyboard.press("/")
    page.keyboard.type("failed not port 53")
    page.keyboard.press("Enter")
    number = len(command("tap", *OF_CLUSTER, "--failed", "--not", "--port", "53").splitlines())
    expect(page.locator(".note")).to_contain_text(f"{number} records", timeout=PATIENCE_MS)
    shared = page.url
    page.goto("about:blank")
    page.goto(shared)
    expect(page.locator(".note")).to_contain_text(f"{number} records", timeout=PATIENCE_MS)
    assert len(api(address, "flows?q=failed+not+port+53")["rows"]) == number


def test_connection_by_the_keyboard_alone(page: Page) -> None:
    """Rows are reached, one is opened and left again by keys; it says what `wirespan explain` says of it."""
    page.goto("/?view=flows&q=verdict+path_loss")
    expect(page.locator(".note")).to_contain_text("2 records", timeout=PATIENCE_MS)
    page.get_by_label("flows, rows").focus()
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_url("**view=connection**")
    told = json.loads(command("explain", *OF_CLUSTER, re.search(r"flow=(0x[0-9a-f]+)", page.url)[1], "--json"))
    expect(page.locator(".verdict")).to_contain_text(told["sentence"], timeout=PATIENCE_MS)
    for step in told["story"]:
        expect(page.locator(".story")).to_contain_text(step["what"], timeout=PATIENCE_MS)
    expect(page.locator("rect.sent-again")).to_have_count(1, timeout=PATIENCE_MS)
    check_accessible(page)
    page.keyboard.press("Escape")
    page.wait_for_url("**view=flows**")


def test_trace(page: Page) -> None:
    """The slowest trace is first; its request is on an axis of time, with its wait."""
    page.goto("/?view=trace")
    link = page.get_by_role("table", name="traces").get_by_role("link").first
    expect(link).to_be_visible(timeout=PATIENCE_MS)
    check_accessible(page)
    link.click()
    expect(page.locator("rect.server-wait")).to_have_count(1, timeout=PATIENCE_MS)
    check_accessible(page)


def test_stretch_of_time(page: Page) -> None:
    """Dragging over the time line leaves what ended in that stretch, in the address too; `a` is all time again."""
    page.goto("/?view=flows")
    expect(page.get_by_role("status")).to_have_text("all read", timeout=PATIENCE_MS)
    expect(page.locator(".note")).to_contain_text("40 records", timeout=PATIENCE_MS)
    box = page.locator(".plot .u-over").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.98, box["y"] + 20, steps=4)
    page.mouse.up()
    page.wait_for_url("**since=**")
    expect(page.locator(".note")).not_to_contain_text("40 records", timeout=PATIENCE_MS)
    page.keyboard.press("a")
    expect(page.locator(".note")).to_contain_text("40 records", timeout=PATIENCE_MS)


def test_pipeline_of_a_run(browser: Browser, tmp_path: Path) -> None:
    """`wirespan up` serves the page: its flows are there as they pass, the ledger and what `status` says too."""
    with serving(tmp_path, "up", "--demo", "--view-port", 0) as url, contextlib.closing(browser.new_page(base_url=url)) as page:
        page.goto("/")
        expect(page.get_by_role("table", name="pairs").get_by_role("row").first).to_contain_text("failed", timeout=PATIENCE_MS)
        expect(page.get_by_role("status")).to_have_text("live")
        page.keyboard.press("4")
        expect(page.locator(".pipeline")).to_contain_text("FLOWS_ENRICHED", timeout=PATIENCE_MS)
        expect(page.locator(".pipeline table")).to_contain_text("spans accepted", timeout=PATIENCE_MS)
        check_accessible(page)


def test_the_page_comes_back_by_itself(browser: Browser, address: str) -> None:
    """A server that refuses is asked again; and the pipeline now and then, though no record comes."""
    with contextlib.closing(browser.new_page(base_url=address)) as page:
        page.clock.install()
        page.route("**/api/events", lambda route: route.fulfill(status=503, body="too many pages are open"))
        page.goto("/?view=pipeline")
        expect(page.locator(".status")).to_have_text("the server is gone", timeout=PATIENCE_MS)
        page.unroute("**/api/events")
        page.clock.fast_forward("00:04")
        expect(page.locator(".status")).to_have_text("all read", timeout=PATIENCE_MS)
        for _ in range(3):
            with page.expect_request("**/api/pipeline", timeout=PATIENCE_MS):
                page.clock.fast_forward("00:06")
