"""Limits and counters of traffic: rates, who comes first, what is put into force and in which order, sums, commands."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.cli import top
from plugins.network import plan, rules
from plugins.network.plan import Guard, Link
from plugins.network.terms import Limits, Terms, endpoint_limits, settle
from qnet import schema
from qnet.errors import InvalidRequest, Unavailable
from qnet.rates import LEAST, MOST, parse_rate, show_rate
from qnet.schema import LimitRecord, TenantRecord
from qnet.tenants import Change
from tests.unit.test_cli import WEB, Cluster
from tests.unit.test_network_segments import SUBNET, Bench

MBIT = 1_000_000
ONE, TWO = "1" * 64, "2" * 64


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A host with a bridge network of tenant plain."""
    made = Bench(tmp_path)
    made.create("a", "plain", mode="bridge", egress="10mbit")
    yield made
    made.limits.close()
    made.store.close()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A container on a bridge network and one on a macvlan network."""
    made = Cluster()
    made.pool()
    made.network("host1", driver_mode="bridge")
    made.network("host1", "b" * 64, name="old")
    made.address("10.77.0.5", container="web1", container_id="c" * 64, network=WEB, endpoint=ONE)
    made.address("10.77.0.6", container="old1", container_id="d" * 64, network="b" * 64, endpoint=TWO)
    yield made
    made.store.close()


# -- rates ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("100mbit", 100 * MBIT),
        ("1.5Gbit", 1500 * MBIT),
        ("64kbit", 64_000),
        ("64000bit", 64_000),
        ("0.01tbit", 10_000 * MBIT),
        ("100kibit", 102_400),
        ("1MIBIT", 2**20),
        ("none", 0),
        ("NONE", 0),
    ],
)
def test_rates_are_tcs(text: str, rate: int) -> None:
    assert parse_rate(text, "egress") == rate


@pytest.mark.parametrize(
    "text",
    [
        "",
        "fast",
        "100",
        "100mb",
        "100mbps",
        "-1mbit",
        "1e9bit",
        "63kbit",
        "33gbit",
        "1,5mbit",
        "\u0661mbit",
        "mbit",
        "0",
        "0bit",
        "nan",
    ],
)
def test_what_is_no_rate_says_what_is(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"-o egress=.*: a rate from 64kbit to 32gbit, such as 100mbit .* or none"):
        parse_rate(text, "-o egress")


@given(st.integers(LEAST, MOST))
def test_a_rate_is_shown_as_it_is_given(rate: int) -> None:
    assert parse_rate(show_rate(rate), "egress") == rate
    assert parse_rate(show_rate(0), "egress") == 0


# -- who decides ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "endpoint", "network", "tenant", "egress"),
    [
        (None, None, None, 0, 0),
        (None, None, None, 1, 1),
        (None, None, 2, 1, 2),
        (None, 3, 2, 1, 3),
        (4, 3, 2, 1, 4),
        (0, 3, 2, 1, 0),
        (None, 0, 2, 1, 0),
        (None, None, 0, 1, 0),
    ],
)
def test_the_nearest_to_the_endpoint_decides(
    record: int | None, endpoint: int | None, network: int | None, tenant: int, egress: int
) -> None:
    said = LimitRecord(host="host1", since="", egress=record)
    owner = TenantRecord(name="t", since="", egress=tenant, ingress=9, supernets=("10.0.0.0/8",))
    found = settle(said, Limits(endpoint), Limits(network), owner, ["10.77.0.0/24"])
    assert found == Terms(egress, 9, ("10.77.0.0/24", "10.0.0.0/8"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"qnet.egres": "1mbit"}, "--driver-opt qnet.egres: no such option; there are: qnet.egress, qnet.ingress"),
        ({"qnet.egress": 5}, "its value is no text"),
        ({"qnet.ingress": "5"}, "--driver-opt qnet.ingress=5: a rate from 64kbit"),
    ],
)
def test_wrong_options_of_an_endpoint_are_named(options: dict[str, Any], says: str) -> None:
    assert endpoint_limits({"com.docker.network.portmap": [], "qnet.egress": "none"}) == Limits(0)
    with pytest.raises(InvalidRequest, match=says):
        endpoint_limits(options)


def test_modes_without_a_device_have_no_limits(bench: Bench) -> None:
    says = "networks of mode macvlan have no limits: .* -o mode=bridge"
    with pytest.raises(InvalidRequest, match=says):
        bench.create("b", "shop", ingress="10mbit")
    bench.create("b", "shop")
    with pytest.raises(InvalidRequest, match=says):
        bench.service.create_endpoint("b", ONE, ["10.100.1.9"], "", {"qnet.egress": "10mbit"})
    assert bench.repository.endpoints.all() == ()


# -- rules ---------------------------------------------------------------------------------------------------


def test_rules_count_by_the_far_end_and_hand_on() -> None:
    terms = Terms(egress=MBIT, internal=("10.77.0.0/24", "10.0.0.0/8", "fd00::/64"))
    lines = rules.script(Guard("qn-1", "02:00:00:00:00:01", ("10.77.0.2",), terms=terms)).splitlines()
    mine, sent, got = (
        [line.partition(f"{chain} ")[2] for line in lines if line.startswith(f"add rule netdev qnet {chain} ")]
        for chain in ("qn-1", "qn-1-sent", "qn-1-received")
    )
    inside = 'fwd to "qi-1"'
    nets = ("24 0xa4d00", "8 0xa")
    assert sent[:2] == [f"@ll,96,16 0x0800 @nh,128,{net} {inside}" for net in nets]
    assert sent[2].startswith("ip daddr != { 0.0.0.0/32, 10.0.0.0/8, 169.254.0.0/16,")
    assert sent[2].endswith('counter name "qn-1-sent-external" fwd to "qi-1"')
    assert sent[3].startswith("ip6 daddr != { ::/128, fd00::/64, fe80::/10, ff02::/16 }")
    assert sent[4] == inside
    assert got[:2] == [f"@ll,96,16 0x0800 @nh,96,{net} accept" for net in nets]
    assert got[2] == "ether type { 8021q, 8021ad } drop"
    assert all("saddr" in line for line in got[3:-1])
    assert all(line.endswith("accept") for line in got[3:])
    assert [line for line in mine if "fwd" in line or "accept" in line] == mine[:2]
    common = "meta pkttype other @ll,48,64 0x0200000000010800 @nh,72,8 6 @nh,96,32 0xa4d0002"
    assert mine[:2] == [f"{common} @nh,128,{net} {inside}" for net in nets]
    assert "fwd" not in rules.script(Guard("qn-1", "02:00:00:00:00:01", ("10.77.0.2",)))


def test_an_ifb_of_an_endpoint_that_is_gone_is_left_over() -> None:
    endpoint = plan.Endpoint(id=ONE, network="a", addresses=(), mac="")
    ifbs = [Link(name, "ifb", up=True, mtu=1500) for name in (plan.limit_link(ONE), plan.limit_link(TWO), "ifb0")]
    assert plan.left_over(ifbs, (), (endpoint,)) == [plan.limit_link(TWO)]


# -- in force ------------------------------------------------------------------------------------------------


def held(bench: Bench) -> tuple[int, int]:
    """What the first endpoint is held to, in mbit, if rules and limits agree."""
    guard = bench.filters.guards[plan.endpoint_link(ONE)]
    assert bench.qdiscs.speeds() == guard.speeds
    return guard.terms.egress // MBIT, guard.terms.ingress // MBIT


def say(bench: Bench, **fields: int | None) -> None:
    """What `qnet endpoint limit` writes."""
    record = LimitRecord(host="host1", since="", **fields)
    bench.store.put(schema.limit_key(ONE), schema.encode(record))


def synced(bench: Bench) -> tuple[int, int]:
    """What is in force after the store's news and a comparison."""
    bench.limits.follow()
    bench.limits._records.wait(bench.store.range(schema.LIMITS).revision, 5)
    bench.limits._owners.wait(bench.store.range(schema.TENANTS).revision, 5)
    bench.guards.sync()
    return held(bench)


def test_limits_are_complete_before_the_rules_lead_there(bench: Bench) -> None:
    seen: list[dict[str, int]] = []
    apply = bench.filters.apply
    bench.filters.apply = lambda guard: (seen.append(bench.qdiscs.speeds()), apply(guard))  # type: ignore[assignment,func-returns-value]
    guard = bench.start("a", ONE, **{"qnet.ingress": "20mbit"})
    assert seen == [guard.speeds]
    assert held(bench) == (10, 20)


def test_an_ifb_goes_after_the_rules_that_led_there(bench: Bench) -> None:
    bench.start("a", ONE)
    limiter = plan.limit_link(ONE)
    apply = bench.filters.apply

    def checked(guard: Guard) -> None:
        assert limiter in bench.kernel.links
        apply(guard)

    bench.filters.apply = checked  # type: ignore[method-assign]
    say(bench, egress=0)
    assert synced(bench) == (0, 0)
    assert limiter not in bench.kernel.links


def test_limits_follow_the_store(bench: Bench) -> None:
    bench.start("a", ONE)
    assert synced(bench) == (10, 0)
    say(bench, egress=30 * MBIT, ingress=40 * MBIT)
    assert synced(bench) == (30, 40)
    say(bench, egress=0)
    assert synced(bench) == (0, 0)
    bench.tenants.change("plain", Change(ingress=5 * MBIT, supernets=("10.0.0.0/8",)))
    assert synced(bench) == (0, 5)
    assert bench.filters.guards[plan.endpoint_link(ONE)].terms.internal == (SUBNET[0].subnet, "10.0.0.0/8")
    bench.store.delete(schema.limit_key(ONE))
    assert synced(bench) == (10, 5)


def test_a_restart_without_the_store_keeps_what_was_in_force(bench: Bench) -> None:
    bench.start("a", ONE)
    say(bench, egress=30 * MBIT)
    assert synced(bench) == (30, 0)
    assert bench.repository.endpoint(ONE).terms.egress == 30 * MBIT
    bench.limits.close()
    again = Bench(bench.repository.endpoints._folder.parents[1])
    again.filters, again.kernel, again.qdiscs = bench.filters, bench.kernel, bench.qdiscs
    again.guards = again.new_guards()
    bench.filters.guards.clear()
    again.guards.sync()
    assert held(again) == (30, 0)
    again.store.close()


@pytest.mark.parametrize("what", ["ifb", "queue", "wrong queue", "rules"])
def test_what_is_missing_comes_back(bench: Bench, what: str) -> None:
    bench.start("a", ONE, **{"qnet.ingress": "20mbit"})
    bench.guards.sync()
    if what == "ifb":
        bench.kernel.delete(plan.limit_link(ONE))
    elif what == "queue":
        bench.qdiscs.held.pop(plan.endpoint_link(ONE))
    elif what == "wrong queue":
        bench.qdiscs.held[plan.endpoint_link(ONE)] = 1
    else:
        bench.filters.guards.clear()
    bench.guards.sync()
    assert held(bench) == (10, 20)


def test_rules_of_an_earlier_process_are_made_anew_once(bench: Bench) -> None:
    guard = bench.start("a", ONE)
    applied: list[Guard] = []
    bench.filters.apply = applied.append  # type: ignore[method-assign]
    guards = bench.new_guards()
    guards.sync()
    guards.sync()
    assert applied == [guard]


def test_one_that_fails_does_not_keep_the_others_unguarded(bench: Bench) -> None:
    bench.start("a", ONE)
    bench.start("a", TWO)
    bench.filters.guards.clear()
    apply = bench.filters.apply

    def failing(guard: Guard) -> None:
        if guard.device == plan.endpoint_link(ONE):
            raise Unavailable("nft does not answer")
        apply(guard)

    bench.filters.apply = failing  # type: ignore[method-assign]
    bench.guards.sync()
    assert set(bench.filters.guards) == {plan.endpoint_link(TWO)}


def test_an_endpoint_takes_its_limits_along(bench: Bench) -> None:
    bench.start("a", ONE)
    say(bench, egress=30 * MBIT)
    assert synced(bench) == (30, 0)
    bench.service.delete_endpoint(ONE)
    assert plan.limit_link(ONE) not in bench.kernel.links
    assert bench.filters.guards == {}
    assert bench.store.get(schema.limit_key(ONE)) is None


def test_records_of_endpoints_that_are_gone_are_deleted_by_their_host_only(bench: Bench) -> None:
    say(bench, egress=0)
    other = LimitRecord(host="host2", since="")
    bench.store.put(schema.limit_key(TWO), schema.encode(other))
    bench.limits.follow()
    assert [kv.key for kv in bench.store.range(schema.LIMITS).kvs] == [schema.limit_key(TWO)]


# -- counters ------------------------------------------------------------------------------------------------


def count(bench: Bench, endpoint: str, size: int, packets: int = 0, internal: int = 0, dropped: int = 0) -> None:
    """The kernel has counted so much that was external, internal, dropped; in so many packets outwards and inwards."""
    device = plan.endpoint_link(endpoint)
    headers = 14 * packets
    bench.filters.counted |= {
        rules.counter(device, "sent", "external"): (packets, size),
        rules.counter(device, "sent", "dropped"): (0, dropped),
        rules.counter(device, "received", "external"): (packets, size + headers),
    }
    bench.moved[device] = (packets, size + internal + dropped + headers), (packets, size + internal + headers)


def told(bench: Bench, level: str, *labels: str, direction: str = "sent", scope: str = "external") -> float:
    """What a scrape says; -1: nothing."""
    name = f"qnet_{level}_traffic_bytes"
    samples = [sample for family in bench.meter.collect() if family.name == name for sample in family.samples]
    found = [s.value for s in samples if tuple(s.labels.values()) == (*labels, direction, scope)]
    return found[0] if found else -1


def test_sums_keep_what_is_gone_and_never_go_back(bench: Bench) -> None:
    bench.registry.names = {"a": "web"}
    bench.guards.sync()
    bench.start("a", ONE)
    bench.start("a", TWO)
    count(bench, ONE, 100)
    count(bench, TWO, 10)
    assert told(bench, "endpoint", ONE[:12], "web", "plain") == 100
    assert told(bench, "network", "web", "plain") == told(bench, "tenant", "plain") == 110
    bench.filters.counted = {}  # a firewall flushed everything
    assert told(bench, "network", "web", "plain") == 110
    count(bench, ONE, 7)
    assert told(bench, "endpoint", ONE[:12], "web", "plain") == 107
    count(bench, ONE, 9)
    bench.service.delete_endpoint(ONE)
    assert told(bench, "endpoint", ONE[:12], "web", "plain") == -1
    assert told(bench, "network", "web", "plain") == told(bench, "tenant", "plain") == 119
    bench.service.delete_network("a")
    assert told(bench, "network", "web", "plain") == -1
    assert told(bench, "tenant", "plain") == 119


def test_headers_are_not_counted(bench: Bench) -> None:
    bench.start("a", ONE)
    count(bench, ONE, 1000, packets=10, internal=500)
    for direction in ("sent", "received"):
        for scope, size in (("external", 1000), ("internal", 500)):
            assert told(bench, "endpoint", ONE[:12], "a", "plain", direction=direction, scope=scope) == size


def test_internal_is_what_moved_and_was_neither_external_nor_dropped(bench: Bench) -> None:
    def internal() -> float:
        return told(bench, "endpoint", ONE[:12], "a", "plain", scope="internal")

    bench.start("a", ONE)
    count(bench, ONE, 100, internal=30, dropped=7)
    assert internal() == 30
    count(bench, ONE, 120, internal=30, dropped=17)
    assert internal() == 30
    count(bench, ONE, 130, internal=20, dropped=17)  # the device had not counted all yet
    assert internal() == 30
    count(bench, ONE, 130, internal=45, dropped=17)
    assert internal() == 45
    bench.filters.counted = {}  # a firewall flushed everything
    assert internal() == 45
    bench.service.delete_endpoint(ONE)
    assert told(bench, "network", "a", "plain", scope="internal") == 15  # since the first look


def test_sums_begin_with_the_process(bench: Bench) -> None:
    """Else what an earlier process told counts twice: a sum that goes back is taken for one that began anew."""
    bench.start("a", ONE)
    count(bench, ONE, 100)
    bench.guards.sync()
    count(bench, ONE, 150)
    assert told(bench, "endpoint", ONE[:12], "a", "plain") == 150
    assert told(bench, "tenant", "plain") == 50


def test_a_kernel_that_does_not_answer_leaves_the_last_numbers(bench: Bench) -> None:
    bench.start("a", ONE)
    count(bench, ONE, 100)
    assert told(bench, "endpoint", ONE[:12], "a", "plain") == 100

    def away() -> dict[str, tuple[int, int]]:
        raise Unavailable("nft does not answer")

    bench.filters.counters = away  # type: ignore[method-assign]
    assert told(bench, "endpoint", ONE[:12], "a", "plain") == 100


def test_limits_are_told(bench: Bench) -> None:
    bench.start("a", ONE, **{"qnet.ingress": "20mbit"})
    (family,) = [family for family in bench.meter.collect() if family.name == top.LIMIT]
    assert {s.labels["direction"]: s.value for s in family.samples} == {"sent": 10 * MBIT, "received": 20 * MBIT}
    assert [family.name for family in bench.meter.describe()] == [family.name for family in bench.meter.collect()]


# -- commands ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["web1", "10.77.0.5", ONE, ONE[:12], "c" * 12])
def test_an_endpoint_is_named_in_many_ways(cluster: Cluster, name: str) -> None:
    done = cluster.qnet("endpoint", "limit", name, "--egress", "30mbit", "--ingress", "none")
    assert done.stdout == "endpoint 111111111111 of web1 on host1: egress 30mbit and ingress none\n"
    kv = cluster.store.get(schema.limit_key(ONE))
    assert kv is not None
    record = schema.decode(kv.value, LimitRecord)
    assert (record.host, record.egress, record.ingress) == ("host1", 30 * MBIT, 0)


def test_a_limit_changes_alone_and_goes_when_nothing_is_said(cluster: Cluster) -> None:
    cluster.json("endpoint", "limit", "web1", "--egress", "30mbit")
    assert cluster.json("endpoint", "limit", "web1", "--ingress", "20mbit") == {
        "endpoint": ONE, "address": "10.77.0.5", "host": "host1", "egress": 30 * MBIT, "ingress": 20 * MBIT,
    }  # fmt: skip
    cluster.json("endpoint", "limit", "web1", "--ingress", "default")
    assert cluster.json("endpoint", "limit", "web1", "--egress", "default")["egress"] is None
    assert cluster.store.get(schema.limit_key(ONE)) is None


def test_what_cannot_be_limited_is_refused(cluster: Cluster) -> None:
    limit = ("endpoint", "limit")
    assert "networks of mode macvlan have no limits" in cluster.refused(*limit, "old1", "--egress", "1mbit")
    assert "nothing to change: give --egress" in cluster.refused(*limit, "web1")
    assert "--egress=5: a rate from 64kbit" in cluster.refused(*limit, "web1", "--egress", "5")
    assert "no running container of tenant default" in cluster.refused(*limit, "web", "--egress", "1mbit")
    cluster.address("10.77.0.7", container="web1", network=WEB, endpoint="3" * 64)
    assert "name one by its address: 10.77.0.5, 10.77.0.7" in cluster.refused(*limit, "web1", "--egress", "1mbit")


def test_an_endpoint_that_went_meanwhile_gets_no_limit(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    get = cluster.store.get

    def late(key: str) -> Any:
        cluster.store.delete(schema.address_key("default", "10.77.0.0/24", "10.77.0.5"))
        return get(key)

    monkeypatch.setattr(cluster.store, "get", late)
    done = cluster.qnet("endpoint", "limit", "web1", "--egress", "1mbit")
    assert "changed meanwhile" in done.stderr
    assert cluster.store.range(schema.LIMITS).kvs == ()


def test_a_tenant_has_limits(cluster: Cluster) -> None:
    made = cluster.json("tenant", "create", "shop", "--untagged", "--egress", "100mbit")
    assert (made["egress"], made["ingress"]) == (100 * MBIT, 0)
    assert "Egress:       100mbit\nIngress:      none\n" in cluster.qnet("tenant", "inspect", "shop").stdout
    assert cluster.json("tenant", "set", "shop", "--egress", "none")["egress"] == 0
    assert "--egress=1: a rate from" in cluster.refused("tenant", "set", "shop", "--egress", "1")


def test_a_host_that_is_forgotten_takes_its_limits_along(cluster: Cluster) -> None:
    cluster.json("endpoint", "limit", "web1", "--egress", "30mbit")
    cluster.json("host", "forget", "host1", "--yes", "--force")
    assert cluster.store.range(schema.LIMITS).kvs == ()


def test_top_shows_rates_between_two_looks() -> None:
    one, two = ("111111111111", "web", "shop"), ("222222222222", "web", "shop")
    before = {(*one, "sent", "internal"): 1000.0, (*one, "sent", "external"): 0.0}
    now = {
        (*one, "sent", "internal"): 2000.0,
        (*one, "sent", "external"): 250_000.0,
        (*one, "sent", "limit"): 10.0 * MBIT,
        (*two, "sent", "internal"): 5_000_000.0,
    }
    rows = top._rows(before, now, 2.0, {"111111111111": "box"})
    assert [row["endpoint"] for row in rows] == ["111111111111", "222222222222"]
    assert (rows[0]["sent_internal"], rows[0]["sent_external"], rows[0]["sent_external_bytes"]) == (4000, MBIT, 250_000)
    assert tuple(top._cells(rows[0])) == ("box", "web", "shop", "1.0M", "1.0M", "0", "0", "10mbit", "")
    assert next(iter(top._cells(rows[1]))) == "222222222222"
    assert rows[1]["sent_internal"] == 0  # an endpoint that is seen for the first time
