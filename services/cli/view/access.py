"""Who may look at the page, and what a browser may do with it.

On loopback whoever is on this machine; elsewhere who has the token, or whom an ingress has let in and named. A page of somebody
else's, open in the same browser, gets nothing: requests must name us as their host (DNS rebinding), and nothing is shared.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from services.cli.errors import UsageError

_LOCAL: Final = ("localhost", "127.0.0.1", "::1")
_COOKIE: Final = "wirespan"
_LEAST_TOKEN: Final = 16
LOGIN: Final = "/login"
_OPEN: Final = frozenset({LOGIN, "/app.css"})
"""What is for those who have no token yet."""
_SOMEBODY_ELSES: Final = frozenset({"cross-site", "same-site"})
"""Sec-Fetch-Site of what another page asks for; to follow a link to this one is no such thing."""

HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "worker-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """The rules."""

    address: str = "127.0.0.1"
    """Where it listens."""
    hosts: Iterable[str] = ()
    """Names by which it is asked for, besides that."""
    token: str | None = None
    header: str = ""
    """Of a request that an ingress has let in: it names who asks."""
    _key: bytes = field(default_factory=lambda: secrets.token_bytes(32))

    def check(self) -> None:
        """Raise UsageError where the page would be open to others than those on this machine."""
        if self.token is not None and len(self.token) < _LEAST_TOKEN:
            raise UsageError(f"the token of the page is shorter than {_LEAST_TOKEN} characters")
        if self.token is not None and self.header:
            raise UsageError("--token-file and --trusted-header are two ways to let somebody in: give one of them")
        if not is_loopback(self.address) and not (self.token or self.header):
            raise UsageError(
                f"at {self.address} others could see the page: give --token-file, or --trusted-header of an ingress"
            )

    def is_ours(self, host: str) -> bool:
        """Whether a request's Host names this page."""
        name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
        return name.strip("[]").lower() in {*_LOCAL, self.address.lower(), *(each.lower() for each in self.hosts)}

    def allows(self, request: web.Request) -> bool:
        """Whether whoever asks may look."""
        if self.header and request.headers.get(self.header, "").strip():
            return True
        if self.token is None:
            return not self.header
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        return _same(given, self.token) or _same(request.cookies.get(_COOKIE, ""), self._session(self.token))

    def let_in(self, token: str, request: web.Request, response: web.StreamResponse) -> bool:
        """Give a browser that has the token a cookie, so that it need not be asked again; one for TLS alone if it came so."""
        if self.token is None or not _same(token, self.token):
            return False
        # TLS ends at an ingress, which says so. Of several, the first is the one that the browser speaks to.
        secure = request.headers.get("X-Forwarded-Proto", "").partition(",")[0].strip().lower() == "https"
        response.set_cookie(_COOKIE, self._session(self.token), httponly=True, samesite="Strict", path="/", secure=secure)
        return True

    def _session(self, token: str) -> str:
        return hmac.new(self._key, token.encode(), hashlib.sha256).hexdigest()


def _same(one: str, other: str) -> bool:
    # What comes out of a request may hold bytes that are no UTF-8.
    return hmac.compare_digest(one.encode(errors="surrogateescape"), other.encode(errors="surrogateescape"))


def is_loopback(address: str) -> bool:
    """Whether nobody but those on this machine can reach it."""
    if address == "localhost":
        return True
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def guard(access: Access) -> Middleware:
    """Return what stands before every answer."""

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not access.is_ours(request.host):
            return web.Response(status=421, text="this is not the host that was asked for", headers=HEADERS)
        of_api = request.path.startswith("/api/")
        if of_api and request.headers.get("Sec-Fetch-Site") in _SOMEBODY_ELSES:
            return web.Response(status=403, text="another page asks for this", headers=HEADERS)
        if request.path not in _OPEN and not access.allows(request):
            if of_api:
                return web.Response(status=401, text="a token is needed", headers=HEADERS)
            return web.Response(status=303, headers={**HEADERS, "Location": LOGIN})
        return await handler(request)

    return guarded


async def add_headers(_request: web.Request, response: web.StreamResponse) -> None:
    """Put what a browser is told into every answer, errors too."""
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
