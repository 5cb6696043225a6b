"""Of what is it known that it is outside: where nobody can know, an end is unknown and not external."""

from __future__ import annotations

import ipaddress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proto.columns import Resolution
from services.enricher.index.claims import packed_address
from services.enricher.index.cluster import Cluster
from services.enricher.index.external_networks import ExternalNetworks
from services.enricher.index.interval_table import address_words
from services.enricher.index.possible_networks import PossibleNetworks, around
from services.enricher.join import join
from tests.unit.enricher.objects_as_json import NOW, SECOND, batch_of, cluster_of, decoded, flow, name_at, node, pod, service


def remote(cluster: Cluster, *addresses: str, **more: Any) -> list[Resolution]:
    """What is said of nobody's addresses."""
    rows = [flow("10.0.0.1:40000", f"[{each}]:80" if ":" in each else f"{each}:80", start_unix_ns=NOW) for each in addresses]
    batch = join(batch_of(*rows), cluster.compile(), **more)
    return [Resolution(each) for each in batch.column("remote_resolution").tolist()]


def held(networks: PossibleNetworks, *addresses: str) -> list[bool]:
    """Which addresses they hold."""
    packed = b"".join(packed_address(each) or b"" for each in addresses)
    return networks.hold(*address_words(np.frombuffer(packed, "V16"))).tolist()


@pytest.mark.parametrize(
    "address",
    [
        "10.200.1.1", "172.16.0.1", "172.31.255.255", "192.168.7.7",  # private
        "100.64.0.2",  # shared: OVN's join network, Tailscale's, a carrier's
        "169.254.20.10", "169.254.169.254", "fe80::1",  # link-local: NodeLocal DNSCache, a cloud's metadata, a gateway
        "fd00:10::1", "fec0::1",  # unique local, and what it was before
        "0.0.0.0", "::", "255.255.255.255", "224.0.0.251", "ff02::fb", "240.0.0.9", "198.18.0.1", "192.0.0.1",
        "127.0.0.1", "::1",  # of a capture file: whose, nobody knows
    ],
)  # fmt: skip
def test_an_address_that_means_nothing_outside_is_unknown(address: str) -> None:
    """A node's tunnel, bridge or second interface may have it, and no object says so."""
    assert remote(cluster_of(node("node-a", "172.18.0.2")), address) == [Resolution.UNKNOWN]


@pytest.mark.parametrize(
    "address",
    ["203.0.113.9", "9.255.255.255", "11.0.0.0", "172.32.0.1", "172.15.255.255", "100.128.0.1", "8.8.8.8", "223.255.255.255",
     "2001:db8::1", "2600::1", "3fff:ffff::1", "64:ff9b::808:808"],
)  # fmt: skip
def test_a_public_address_that_nobody_has_is_external(address: str) -> None:
    """Unless the cluster uses such addresses itself."""
    assert remote(cluster_of(node("node-a", "172.18.0.2")), address) == [Resolution.EXTERNAL]


def test_public_addresses_that_the_cluster_uses_for_itself_may_be_its_own() -> None:
    """The networks of its pods, and what lies around its pods, nodes and Services; not around its ways in from outside."""
    ways_in = {"loadBalancer": {"ingress": [{"ip": "203.0.113.7"}]}}
    outer = node("node-b")
    outer["status"]["addresses"].append({"type": "ExternalIP", "address": "192.0.2.7"})
    cluster = cluster_of(
        node("node-a", "198.51.100.7", spec={"podCIDRs": ["2001:db8:1::/56", "9.1.0.0/16"]}),
        node("node-c", annotations={"network.cilium.io/ipv4-pod-cidr": "9.5.0.0/24"}),
        outer,
        pod("cart-0", "8.1.2.3", "2001:db8:2::3"),
        service("web", "7.1.2.3", status=ways_in, spec={"externalIPs": ["6.1.2.3"]}),
    )
    inside = "198.51.100.8", "2001:db8:1:ff::1", "9.1.255.1", "9.5.0.9", "8.1.2.200", "2001:db8:2::99", "7.1.2.4"
    assert set(remote(cluster, *inside)) == {Resolution.UNKNOWN}
    outside = (
        "198.51.101.8",
        "2001:db8:1:100::1",
        "9.2.0.1",
        "8.1.3.3",
        "2001:db8:2:1::3",
        "203.0.113.8",
        "192.0.2.8",
        "6.1.2.4",
    )
    assert set(remote(cluster, *outside)) == {Resolution.EXTERNAL}


def test_the_address_of_a_pod_that_is_gone_is_unknown_between_two_holders() -> None:
    """Nobody had it then that anybody knows of, and it is the cluster's."""
    cluster = cluster_of(node("node-a", "172.18.0.2"))
    gone = decoded(pod("cart-0", "8.1.2.3"))
    cluster.feed(gone, observed_unix_ns=NOW - 90 * SECOND)
    cluster.remove(gone, observed_unix_ns=NOW - 60 * SECOND)
    assert remote(cluster, "8.1.2.3") == [Resolution.UNKNOWN]


def test_what_users_name_is_outside_all_the_same() -> None:
    """Somebody who names a private network knows what nobody else can."""
    cluster = cluster_of(node("node-a", "172.18.0.2"))
    batch = join(
        batch_of(flow("10.0.0.1:1", "10.200.0.9:5432")), cluster.compile(), networks=ExternalNetworks(("db=10.200.0.0/16",))
    )
    assert name_at(batch, "remote_entity") == "db"
    assert batch.column("remote_resolution").tolist() == [Resolution.EXTERNAL]


def test_what_the_index_could_not_hear_of_in_time_stays_unresolved() -> None:
    """That is another trouble, and passes."""
    found = remote(cluster_of(node("node-a", "172.18.0.2")), "10.200.0.9", "203.0.113.9", complete_until_unix_ns=NOW - 1)
    assert found == [Resolution.UNRESOLVED] * 2


ipv4 = st.ip_addresses(v=4)
networks = st.lists(
    st.builds(lambda each, prefix: ipaddress.ip_network((each, prefix), strict=False), ipv4, st.integers(4, 32)), max_size=5
)


@given(networks, st.lists(ipv4, min_size=1, max_size=20))
def test_ranges_hold_what_the_networks_hold(own: list[ipaddress.IPv4Network], addresses: list[ipaddress.IPv4Address]) -> None:
    """Also where they overlap, and at their first and last addresses."""
    asked = [*addresses, *(each[place] for each in own for place in (0, -1))]
    plain = PossibleNetworks()
    expected = [plain_held or any(each in network for network in own) for plain_held, each in zip(
        held(plain, *map(str, asked)), asked, strict=True
    )]  # fmt: skip
    assert held(PossibleNetworks(own), *map(str, asked)) == expected


@given(st.lists(st.ip_addresses(), max_size=20))
def test_what_is_around_an_address_holds_it(addresses: list[ipaddress.IPv4Address | ipaddress.IPv6Address]) -> None:
    """One network for each /24 or /64, of those that need one."""
    texts = [str(each) for each in addresses if getattr(each, "ipv4_mapped", None) is None]
    found = around(np.frombuffer(b"".join(packed_address(each) or b"" for each in texts), "V16"))
    assert len(set(found)) == len(found)
    assert all(held(PossibleNetworks(found), *texts)) if texts else not found
