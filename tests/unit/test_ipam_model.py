"""Pool ids, ranges, MAC addresses and subnets."""

from __future__ import annotations

import ipaddress
import random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from qnet.addresses.model import PoolId, Span, mac_of, parse_exclusion, parse_pool_id
from qnet.addresses.pools import Occupancy, capacity, carve, overlapping
from qnet.errors import InvalidRequest
from qnet.tenants import parse_tenant

V4 = ipaddress.ip_network("10.77.0.0/24")
V6 = ipaddress.ip_network("fd00:77::/64")

networks4 = st.builds(
    lambda number, prefix: ipaddress.ip_network((number >> (32 - prefix) << (32 - prefix), prefix)),
    st.integers(2**24, 2**32 - 1),
    st.integers(8, 32),
)


@given(subnet=networks4, extra=st.integers(0, 8), tenant=st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True))
def test_pool_id_survives_its_text(subnet: ipaddress.IPv4Network, extra: int, tenant: str) -> None:
    prefix = min(subnet.prefixlen + extra, 32)
    part = next(subnet.subnets(new_prefix=prefix))
    pool = PoolId(tenant, subnet, part, (f"{subnet[0]}-{subnet[-1]}", str(subnet[0])))
    assert parse_pool_id(str(pool)) == pool


@pytest.mark.parametrize(
    "text",
    ["", "/", "default", "default/10.0.0.0", "default/10.0.0.1/24", "A/10.0.0.0/24", "a/b/10.0.0.0/24",
     "default/10.0.0.0/24?range", "default/10.0.0.0/24?x=1", "default/10.0.0.0/33", "../default/10.0.0.0/24",
     "default/10.0.0.0/24?range=fish", "default/10.0.0.0/24?range=", "default/10.0.0.0/24?range=10.0.1.0/25",
     "default/10.0.0.0/24?range=fd00::/64", "default/10.0.0.0/24?exclude=10.0.1.1", "a" * 5000],
)  # fmt: skip
def test_foreign_pool_ids_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_pool_id(text)


@pytest.mark.parametrize(
    ("subnet", "first", "last"),
    [("10.0.0.0/24", 1, 254), ("10.0.0.0/31", 0, 1), ("10.0.0.0/32", 0, 0), ("10.0.0.0/30", 1, 2),
     ("fd00::/64", 1, 2**64 - 1), ("fd00::/127", 0, 1), ("fd00::/128", 0, 0)],
)  # fmt: skip
def test_what_may_be_handed_out(subnet: str, first: int, last: int) -> None:
    assert PoolId("default", ipaddress.ip_network(subnet)).handed_out == Span(first, last)


def test_range_limits_what_is_handed_out() -> None:
    top = PoolId("default", V4, ipaddress.ip_network("10.77.0.128/25"))
    assert top.handed_out == Span(128, 254)
    bottom = PoolId("default", V4, ipaddress.ip_network("10.77.0.0/25"))
    assert bottom.handed_out == Span(1, 127)


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_two_addresses_of_a_tenant_have_two_macs(one: int, two: int) -> None:
    assume(one != two)
    first, second = ipaddress.IPv4Address(one), ipaddress.IPv4Address(two)
    assert mac_of("shop", first) != mac_of("shop", second)
    assert mac_of("shop", first) == mac_of("shop", first)


@given(st.ip_addresses(), st.integers(0, 9))
def test_macs_are_unicast_and_local(address: ipaddress.IPv4Address, salt: int) -> None:
    assert int(mac_of("shop", address, salt)[:2], 16) & 3 == 2


@pytest.mark.parametrize("text", ["", "A", "a_b", "-a", "a-", "a" * 33, "a/b", "a\n", "..", "ä"])
def test_bad_tenants_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_tenant(text)


@pytest.mark.parametrize("text", ["", "10.77.0.9-10.77.0.3", "10.78.0.1", "10.77.0.1-10.78.0.1", "x", "fd00::1"])
def test_bad_exclusions_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_exclusion(text, V4)


def test_exclusions_in_three_forms() -> None:
    assert parse_exclusion("10.77.0.3-10.77.0.9", V4) == Span(3, 9)
    assert parse_exclusion("10.77.0.3", V4) == Span(3, 3)
    assert parse_exclusion("10.77.0.64/26", V4) == Span(64, 127)


@given(
    used=st.sets(st.integers(0, 63)),
    resting=st.sets(st.integers(0, 63)),
    excluded=st.lists(
        st.tuples(st.integers(0, 63), st.integers(0, 63)).map(lambda p: Span(min(p), max(p))), max_size=3
    ),
    bounds=st.tuples(st.integers(0, 63), st.integers(0, 63)),
    seed=st.integers(0, 999),
)
def test_pick_prefers_rested_addresses_and_never_takes_used_ones(
    used: set[int], resting: set[int], excluded: list[Span], bounds: tuple[int, int], seed: int
) -> None:
    occupancy = Occupancy(64)
    for offset in used:
        occupancy.use(offset)
    for offset in resting - used:
        occupancy.rest(offset)
    span = Span(min(bounds), max(bounds))
    allowed = {o for o in range(span.first, span.last + 1) if not any(o in part for part in excluded)}
    picked = occupancy.pick(span, excluded, random.Random(seed))
    fresh = allowed - used - resting
    if fresh:
        assert picked in fresh
    elif allowed - used:
        assert picked in allowed - used
    else:
        assert picked is None
    assert capacity(span, excluded) == len(allowed)


def test_asking_keeps_other_threads_off() -> None:
    occupancy = Occupancy(4)
    seen = set()
    for _ in range(4):
        offset = occupancy.pick(Span(0, 3), (), random.Random(1))
        assert offset is not None
        occupancy.ask(offset)
        seen.add(offset)
    assert seen == {0, 1, 2, 3}
    assert occupancy.pick(Span(0, 3), (), random.Random(1)) is None
    occupancy.answered(2)
    assert occupancy.pick(Span(0, 3), (), random.Random(1)) == 2


@given(st.lists(st.integers(0, 255), max_size=256, unique=True), st.integers(0, 99))
def test_carved_subnets_are_free(taken: list[int], seed: int) -> None:
    supernet = ipaddress.ip_network("10.200.0.0/16")
    others = [ipaddress.ip_network((int(supernet[0]) + (index << 8), 24)) for index in taken]
    carved = carve([supernet], 24, others, random.Random(seed))
    if len(others) == 256:
        assert carved is None
    else:
        assert carved is not None
        assert carved.subnet_of(supernet)  # type: ignore[arg-type]
        assert overlapping(carved, others) is None
