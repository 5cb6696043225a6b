"""Which attributes a span carries under each profile: by name, so that new attributes need no word here.

`full` is everything. `standard` leaves out what can be worked out from the rest or serves machines more than people. `lean` is
enough for a map of services with rates, errors and durations, and to see why a connection failed or was slow. Resources are
whole in every profile: a request says each of them once.
"""

from __future__ import annotations

import re
from typing import Final, Literal, TypeAlias

Profile: TypeAlias = Literal["full", "standard", "lean"]

PROFILES: Final[tuple[Profile, ...]] = ("lean", "standard", "full")
"""From the smallest; each holds what those before it hold."""

NOT_IN_STANDARD: Final = (
    r"flow\.start",
    r"flow\.(reverse\.)?payload\.bytes\.delta",
    r"flow\.direction_source",
    r"flow\.(reverse\.)?tcp\.flags\.bits",
    r"flow\.(reverse\.)?tcp\.(fins|spurious_retransmits|keep_alives)",
    r"flow\.(reverse\.)?tcp\.rtt\.(count|max)",
    r"flow\.(reverse\.)?ip\.(ttl|dscp\.id|ecn\.id)",
    r"flow\.tcp\.socket\.(min|congestion_window|lost)",
    r"flow\.tcp\.(rndtrip|svc)\.latency",
    r"flow\.icmp\.(error\.)?(type|code)\.id",
    r"flow\.(request|response)\.transfer_time_max",
    r"flow\.response\.(time_sum|time_histogram)",
    r"network\.(local|peer)\.(address|port)",
    r"client\.(address|port)",
    r"server\.port",
    r"tls\.protocol\.name",
    r"service\.peer\.(name|namespace)",
    r"(source|destination)\..*\.uid",
    r"(source|destination)\.k8s\.replicaset\..*",
    r"(source|destination)\.container\.image\..*",
)
"""Patterns of whole names that only `full` carries."""

IN_LEAN: Final = (
    r"network\.transport",
    r"(source|destination)\.(address|port)",
    r"(source|destination)\.service\.(name|namespace)",
    r"(source|destination)\.k8s\.(namespace|pod)\.name",
    r"(source|destination)\..*\.label\..*",
    r"peer\.service",
    r"error\.type",
    r"flow\.(direction|observer|unseen|connection\.outcome|record)",
    r"flow\.(reverse\.)?(bytes|packets)\.delta",
    r"flow\.(reverse\.)?tcp\.retransmits",
    r"flow\.tcp\.(connect\.time|handshake\.latency)",
    r"flow\.response\.(count|time|time_max)",
    r"flow\.request\.unanswered",
    r"flow\.summary\..*",
    r"flow\.verdict(\.measure)?",
    r"server\.address",
    r"dns\.(question\.name|response_code)",
    r"flow\.tls\.(alert|handshake\.time)",
    r"flow\.(shared\.)?(request|response)\.(bytes|retransmits)",
    r"flow\.shared\.(rtt|silence_max)",
)
"""Patterns of whole names that `lean` carries."""

_NOT_IN_STANDARD: Final = re.compile("|".join(NOT_IN_STANDARD))
_IN_LEAN: Final = re.compile("|".join(IN_LEAN))


def least_profile(name: str) -> Profile:
    """Return the smallest profile that carries the span attribute `name`."""
    if _IN_LEAN.fullmatch(name):
        return "lean"
    return "full" if _NOT_IN_STANDARD.fullmatch(name) else "standard"


def carries(profile: Profile, name: str) -> bool:
    """Whether a span has the attribute `name` under a profile."""
    return PROFILES.index(least_profile(name)) <= PROFILES.index(profile)
