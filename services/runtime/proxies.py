"""HTTP(S)_PROXY and NO_PROXY, read in one way for all clients of a process: each library has rules of its own otherwise.

`http_proxy` or `https_proxy`, by the URL's scheme, names the proxy; lower case counts before upper case. `no_proxy` lists what
is reached without it, separated by commas: `*`, an address, a network in CIDR form, or a domain, which stands for all hosts
below it too; each may be followed by a port.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from urllib.parse import urlsplit

from services.runtime.privacy.redaction import hide_userinfo


def proxy_for(url: str, environ: Mapping[str, str] = os.environ) -> str | None:
    """Return the URL of the proxy that leads to a URL, None where there is none. A proxy without a scheme is one of HTTP."""
    parts = urlsplit(url)
    proxy = _variable(f"{parts.scheme}_proxy", environ)
    if not proxy or not parts.hostname or _is_direct(parts.hostname, parts.port, _variable("no_proxy", environ)):
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    hide_userinfo(proxy)
    return proxy


def grpc_options(url: str, environ: Mapping[str, str] = os.environ) -> tuple[tuple[str, int | str], ...]:
    """Return the options of a gRPC channel to a URL that have it use the proxy, or none."""
    proxy = proxy_for(url, environ)
    return (("grpc.http_proxy", proxy),) if proxy else (("grpc.enable_http_proxy", 0),)


def _variable(name: str, environ: Mapping[str, str]) -> str:
    return (environ.get(name) or environ.get(name.upper()) or "").strip()


def _is_direct(host: str, port: int | None, no_proxy: str) -> bool:
    return any(_matches(entry.strip().lower(), host.lower(), port) for entry in no_proxy.split(","))


def _matches(entry: str, host: str, port: int | None) -> bool:
    if not entry or entry == "*":
        return bool(entry)
    name, colon, number = entry.rpartition(":")
    if colon and number.isdecimal() and (":" not in name or name.endswith("]")):
        if port != int(number):
            return False
        entry = name
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry.strip("[]"), strict=False)
    except ValueError:  # one of the two is a name
        domain = entry.removeprefix("*").lstrip(".")
        return bool(domain) and (host == domain or host.endswith(f".{domain}"))
