"""Names of networks outside the cluster."""

from __future__ import annotations

import ipaddress

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from proto.columns import Resolution
from services.enricher.index.claims import packed_address
from services.enricher.index.external_networks import ExternalNetworks
from services.enricher.index.interval_table import NOBODY, address_words
from services.enricher.join import join
from tests.unit.enricher.objects_as_json import at, batch_of, cluster_of, flow, pod

NAMED = ("office=198.51.100.0/24", "vpn=198.51.100.64/26", "payments=203.0.113.7/32", "office=2001:db8::/32", "all=0.0.0.0/0")


def found(networks: ExternalNetworks, *addresses: str) -> list[str]:
    """The name of each address, empty for none."""
    packed = b"".join(packed_address(each) or b"" for each in addresses)
    numbers = networks.find(*address_words(np.frombuffer(packed, "V16")))
    return ["" if each == NOBODY else str(networks.entities[each].attributes["external.name"]) for each in numbers.tolist()]


def test_the_longest_prefix_names_an_address() -> None:
    """Networks may lie in each other; IPv6 and IPv4 are apart; a name may have several networks."""
    addresses = ("198.51.100.1", "198.51.100.65", "203.0.113.7", "203.0.113.8", "2001:db8::1", "2001:db9::1")
    assert found(ExternalNetworks(NAMED), *addresses) == ["office", "vpn", "payments", "all", "office", ""]
    assert found(ExternalNetworks(), "198.51.100.1") == [""]


@given(
    st.lists(st.tuples(st.ip_addresses(), st.integers(0, 32)), min_size=1, max_size=8), st.lists(st.ip_addresses(), min_size=1)
)
def test_any_networks_and_addresses(
    prefixes: list[tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]],
    addresses: list[ipaddress.IPv4Address | ipaddress.IPv6Address],
) -> None:
    """The answer is the one that looking at every network gives."""
    networks = {ipaddress.ip_network(f"{address}/{prefix}", strict=False) for address, prefix in prefixes}
    table = ExternalNetworks(f"{network}={network}" for network in networks)
    inside = [*addresses, *(network[0] for network in networks)]
    expected = []
    for address in inside:
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        holding = [network for network in networks if (mapped or address) in network]
        longest = max(holding, key=lambda each: each.prefixlen, default=None)
        expected.append("" if longest is None else str(longest))
    assert found(table, *map(str, inside)) == expected


def test_only_what_is_outside_is_named() -> None:
    """A pod is itself whatever network it lies in; an end that may be somebody's stays unresolved."""
    networks = ExternalNetworks(("everywhere=0.0.0.0/0",))
    index = cluster_of(pod("cart-0", "10.42.0.10")).compile(complete_since_unix_ns=0)
    batch = batch_of(flow("10.42.0.10:1", "203.0.113.9:443"), flow("198.51.100.1:1", "203.0.113.9:443"))
    joined = join(batch, index, networks=networks)
    local, remote = at(joined, "local_entity"), at(joined, "remote_entity")
    assert local is not None
    assert local.type == "k8s.pod"
    assert remote is not None
    assert (remote.type, remote.attributes) == ("external", {"external.name": "everywhere"})
    assert at(joined, "remote_entity", 1) is at(joined, "local_entity", 1) is remote
    assert joined.column("remote_resolution").tolist() == [Resolution.EXTERNAL] * 2
    doubtful = join(batch, index, networks=networks, complete_until_unix_ns=0)
    assert at(doubtful, "remote_entity") is None
    assert doubtful.column("remote_resolution").tolist() == [Resolution.UNRESOLVED] * 2


def test_without_a_cluster_networks_are_named_all_the_same() -> None:
    """Where there is no index at all, the user's word stands."""
    joined = join(batch_of(flow("10.0.0.1:1", "203.0.113.9:443")), None, networks=ExternalNetworks(("far=203.0.113.0/24",)))
    remote = at(joined, "remote_entity")
    assert remote is not None
    assert remote.attributes == {"external.name": "far"}
    assert (joined.column("local_resolution")[0], joined.column("remote_resolution")[0]) == (
        Resolution.UNRESOLVED,
        Resolution.EXTERNAL,
    )
