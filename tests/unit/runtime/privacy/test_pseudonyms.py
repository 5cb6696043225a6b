"""Pseudonyms of domain names: those of a snapshot that was made with the same key."""

from __future__ import annotations

import re

import pytest

from services.capture.names.reader import NameReader
from services.enricher.kubernetes.pseudonyms import Pseudonyms
from services.runtime.privacy.pseudonyms import domain_pseudonym
from tests.support.packets.replayed import replay_frames
from tests.support.packets.talks.tls_talk import contexts, talk

KEY = "k"
LABEL = r"n-[0-9a-f]{12}"


def test_a_services_name_has_the_pseudonyms_of_the_snapshot():
    """Those of the Service and of its namespace; what every cluster's names have stays."""
    given = Pseudonyms(KEY)
    made = domain_pseudonym(KEY.encode(), "cart.shop.svc.cluster.local")
    assert made == f"{given.name('cart')}.{given.name('shop')}.svc.cluster.local"
    assert domain_pseudonym(KEY.encode(), "kubernetes.default.svc.cluster.local") == "kubernetes.default.svc.cluster.local"


@pytest.mark.parametrize(
    ("domain", "shape"),
    [
        ("api.stripe.com", rf"{LABEL}\.{LABEL}\.com"), ("localhost", LABEL), ("", LABEL),
        ("4.3.2.1.in-addr.arpa", rf"{LABEL}\.in-addr\.arpa"), (".".join("abcdefghijklmnopqrstuvwxyz"), rf"({LABEL}\.){{12}}z"),
    ],
)  # fmt: skip
def test_of_other_names_the_last_label_stays(domain, shape):
    """And no other; an address is one label, and so is what is too long in front."""
    assert re.fullmatch(shape, domain_pseudonym(KEY.encode(), domain))
    assert domain_pseudonym(KEY.encode(), domain) != domain_pseudonym(b"another", domain)


def test_a_replay_tells_names_by_them(tmp_path):
    """The server's name of a handshake; of a hidden domain what is left."""
    frames = talk(*contexts())[0].frames
    for hidden, domain in (((), "shop.example"), (("example",), "example")):
        reader = NameReader("all", hidden, None, KEY.encode())
        assert replay_frames(tmp_path, frames, names=reader).only["tls_server_name"] == domain_pseudonym(KEY.encode(), domain)
