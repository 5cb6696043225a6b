"""Whom the page's server lets in, and what its answers forbid."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.cli.errors import UsageError
from services.cli.view.access import Access
from services.cli.view.kept import Kept
from tests.unit.cli.view.asking import asking

TOKEN = "a token that is long enough"


@pytest.mark.parametrize("path", ["/", "/api/about", "/nothing", "/api/connection?flow=x", "/../pyproject.toml"])
async def test_every_answer_forbids_what_the_page_does_not_need(kept: Kept, built: Path, path: str) -> None:
    """No script, style or connection but our own, in no other page's frame; answers that are errors say so too."""
    async with asking(kept, built) as session, session.get(path) as response:
        policy = response.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'")
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert "Access-Control-Allow-Origin" not in response.headers


@pytest.mark.parametrize(
    ("host", "status"), [("localhost:1", 200), ("[::1]", 200), ("evil.example", 421), ("127.0.0.1.evil.example", 421)]
)
async def test_another_hosts_name_gets_nothing(kept: Kept, built: Path, host: str, status: int) -> None:
    """A name of somebody else's that leads here, as in DNS rebinding, is refused."""
    async with asking(kept, built) as session, session.get("/api/about", headers={"Host": host}) as response:
        assert response.status == status


@pytest.mark.parametrize(
    ("site", "path", "status"),
    [
        ("cross-site", "/api/about", 403),
        ("same-site", "/api/map", 403),
        ("cross-site", "/", 200),
        ("same-origin", "/api/about", 200),
    ],
)
async def test_another_page_makes_no_work(kept: Kept, built: Path, site: str, path: str, status: int) -> None:
    """What somebody else's page asks of the API is not made; a link of theirs leads here nevertheless."""
    async with asking(kept, built) as session, session.get(path, headers={"Sec-Fetch-Site": site}) as response:
        assert response.status == status


async def test_a_token_is_asked_for(kept: Kept, built: Path) -> None:
    """Without it neither API nor page; with it a browser gets a cookie that no script and no other site can use."""
    async with asking(kept, built, token=TOKEN) as session:
        async with session.get("/api/about") as refused, session.get("/", allow_redirects=False) as sent:
            assert (refused.status, sent.status, sent.headers["Location"]) == (401, 303, "/login")
        async with session.get("/api/about", headers={"Authorization": f"Bearer {TOKEN}"}) as allowed:
            assert allowed.status == 200
        async with session.post("/login", data={"token": "another token, as long"}) as wrong:
            assert wrong.status == 401
        async with session.get("/api/about", headers={"Authorization": "Bearer \udcff"}) as no_text:
            assert no_text.status == 401
        async with session.get("/app.css", allow_redirects=False) as style:
            assert style.status == 404, "there is none here, and nobody is sent to log in for it"
        async with session.post("/login", data={"token": TOKEN}, allow_redirects=False) as right:
            cookie = right.cookies["wirespan"]
        assert (cookie["httponly"], cookie["samesite"]) == (True, "Strict")
        async with session.get("/api/about", cookies={"wirespan": cookie.value}) as allowed:
            assert allowed.status == 200


@pytest.mark.parametrize(
    ("said", "secure"), [({}, ""), ({"X-Forwarded-Proto": "http"}, ""), ({"X-Forwarded-Proto": "HTTPS, http"}, True)]
)
async def test_a_browser_that_came_over_tls_keeps_its_cookie_to_that(
    kept: Kept, built: Path, said: dict[str, str], secure: object
) -> None:
    """Behind an ingress; one without TLS, as on loopback, would never send such a cookie again."""
    async with (
        asking(kept, built, token=TOKEN) as session,
        session.post("/login", data={"token": TOKEN}, headers=said, allow_redirects=False) as right,
    ):
        assert right.cookies["wirespan"]["secure"] == secure


async def test_who_an_ingress_let_in_is_let_in(kept: Kept, built: Path) -> None:
    """With a header that is trusted, only requests that have it."""
    async with asking(kept, built, header="X-Forwarded-User") as session:
        async with session.get("/api/about") as refused:
            assert refused.status == 401
        async with session.get("/api/about", headers={"X-Forwarded-User": "ada"}) as allowed:
            assert allowed.status == 200


@pytest.mark.parametrize(
    "access",
    [
        Access(address="0.0.0.0"),
        Access(token="short"),
        Access(token=""),
        Access(address="192.0.2.1", token="x"),
        Access(token=TOKEN, header="X-Forwarded-User"),
    ],
)
def test_never_open_to_others_by_mistake(access: Access) -> None:
    """Beyond loopback it takes a token of some length, or a header, which would let in without the token if both were given."""
    with pytest.raises(UsageError):
        access.check()
