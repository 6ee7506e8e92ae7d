"""Placement: rules and what they match, filters, scores, choices; indexes against a plain count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from qnet.errors import Exhausted, InvalidRequest
from scheduler import rules
from scheduler.feasible import Case, refusal, said
from scheduler.fleet import Fleet
from scheduler.model import Container, Machine, Policy, Request, Vitals
from scheduler.place import explain, place
from scheduler.rank import ranker
from scheduler.rules import Affinity, Constraint, Pattern, Spread, parse

GIB = 1 << 30


def machine(name: str, **fields: object) -> Machine:
    return Machine(**({"name": name, "cpus": 4000, "memory": 8 * GIB} | fields))  # type: ignore[arg-type]


def fleet(*machines: Machine, policy: Policy | None = None) -> Fleet:
    made = Fleet(policy)
    for one in machines:
        made.set_machine(one)
    return made


def ask(name: str = "new", **fields: object) -> Request:
    return Request(name=name, **fields)  # type: ignore[arg-type]


def refused(known: Fleet, request: Request) -> str:
    with pytest.raises(Exhausted) as caught:
        place(known, request, Random(0))
    return str(caught.value)


# -- rules ---------------------------------------------------------------------------------------------------


def test_rules_come_as_labels_and_in_swarms_words() -> None:
    found = parse(
        {
            "qnet.constraint": "rack==r1, disk!=hdd,zone==~/a,b|c/",
            "qnet.affinity": "container!=web-*",
            "qnet.spread": "rack:max_per=2,switch",
            "other": "x==y",
        },
        ["constraint:host==/h[12]/", "affinity:image==~redis", "A=1"],
    )
    assert [str(rule) for rule in found.constraints] == ["rack==r1", "disk!=hdd", "zone==~/a,b|c/", "host==/h[12]/"]
    assert [rule.hard for rule in found.constraints] == [True, True, False, True]
    assert [str(rule) for rule in found.affinities] == ["container!=web-*", "image==~redis"]
    assert found.spreads == (Spread("rack", 2), Spread("switch"))


@pytest.mark.parametrize(
    ("pattern", "value", "matches"),
    [
        ("r1", "r1", True), ("r1", "r11", False), ("r*", "r11", True), ("r?", "r11", False), ("r.", "rx", False),
        ("/r[0-9]+/", "r11", True), ("/r[0-9]/", "r11", False), ("/(a+)+b/", "a" * 5000, False), ("//", "//", True),
        ("a[b]", "a[b]", True), ("*", "a\nb", True),
    ],
)  # fmt: skip
def test_patterns_say_all_of_a_value(pattern: str, value: str, matches: bool) -> None:
    assert Pattern(pattern).matches(value) is matches


@pytest.mark.parametrize(
    ("label", "text", "complaint"),
    [
        (rules.CONSTRAINT, "rack", "is no rule: NAME==VALUE"),
        (rules.CONSTRAINT, "rack=r1", "is no rule"),
        (rules.CONSTRAINT, "==r1", "is no rule"),
        (rules.CONSTRAINT, "a b==r1", "is no rule"),
        (rules.CONSTRAINT, "rack==/(/", "is no regular expression: missing"),
        (rules.CONSTRAINT, r"rack==/(a)\1/", "is no regular expression: invalid escape"),
        (rules.CONSTRAINT, "rack==" + "x" * 1024, "up to 64 rules of up to 1024 characters"),
        (rules.AFFINITY, ",".join(["a==b"] * 65), "up to 64 rules"),
        (rules.SPREAD, "rack==r1", "LABEL or LABEL:max_per=NUMBER"),
        (rules.SPREAD, "rack:max_per=0", "LABEL or LABEL:max_per=NUMBER"),
        (rules.SPREAD, "rack:max_per=-1", "LABEL or LABEL:max_per=NUMBER"),
    ],
)
def test_what_is_no_rule_is_refused(label: str, text: str, complaint: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^qnet\.") as caught:
        parse({label: text})
    assert complaint in str(caught.value)


def test_a_label_that_is_not_there_is_none_of_the_values() -> None:
    wanted, unwanted = Constraint("disk", True, Pattern("*")), Constraint("disk", False, Pattern("hdd"))
    assert (wanted.holds("h1", {}), unwanted.holds("h1", {})) == (False, True)
    assert Constraint("host", True, Pattern("h1")).holds("h1", {})
    assert Constraint("host", True, Pattern("mine")).holds("h1", {"host": "mine"})


# -- filters -------------------------------------------------------------------------------------------------


def test_a_refusal_names_every_filter_with_its_count_and_the_nearest_miss() -> None:
    known = fleet(
        machine("host1", memory=GIB, parents=frozenset({"eth1"})),
        machine("host2", memory=2 * GIB, parents=frozenset({"eth1"})),
        machine("host3", memory=GIB // 2, parents=frozenset({"eth1"})),
        machine("host4", state="drain", parents=frozenset({"eth1"})),
        machine("host5"),
    )
    known.put(Container(name="a", host="host2", memory=GIB // 2))
    assert refused(known, ask(memory=4 * GIB, parents=frozenset({"eth1"}))) == (
        "no host: 3 lack memory (most free: host2 1.5 GiB of 4 GiB asked), 1 drained, 1 has no parent eth1"
    )
    assert refused(fleet(), ask()) == "no host: none is registered"


@pytest.mark.parametrize(
    ("one", "request_", "reason"),
    [
        ({"state": "drain"}, {}, "is drained"),
        ({"state": "down"}, {}, "is down"),
        ({"trouble": ("engine",)}, {}, "has trouble with engine"),
        ({"tenants": frozenset({"shop"})}, {}, "is not for tenant default"),
        ({}, {"platform": "linux/arm64"}, "is not linux/arm64"),
        ({}, {"parents": frozenset({"eth1"})}, "has no parent eth1"),
        ({}, {"pinned": frozenset({"data"})}, "does not have volume data"),
        ({}, {"constraints": (Constraint("rack", True, Pattern("r2")),)}, "fails rack==r2"),
        ({}, {"cpus": 4001}, "lacks CPUs: 4 CPUs of 4 CPUs asked"),
        ({}, {"memory": 9 * GIB}, "lacks memory: 8 GiB of 9 GiB asked"),
        ({}, {"memory": 4000 * GIB}, "lacks memory: 8 GiB of 4000 GiB asked"),
        ({"pids": 10}, {"pids": 11}, "lacks pids: 10 of 11 asked"),
        ({}, {"disk": 6 * GIB}, "lacks disk: 5 GiB of 6 GiB asked"),
        ({}, {"ports": (("tcp", 80),)}, "has port 80/tcp taken"),
        ({}, {"affinities": (Affinity("container", False, Pattern("w*")),)}, "fails container!=w*"),
        ({}, {"affinities": (Affinity("container", True, Pattern("db")),)}, "fails container==db"),
        ({}, {"affinities": (Affinity("tier", True, Pattern("back")),)}, "fails tier==back"),
        ({}, {"group": "g", "spreads": (Spread("host", 1),)}, "is where host:max_per=1 is reached"),
    ],
)  # fmt: skip
def test_every_filter_says_why(one: dict[str, object], request_: dict[str, object], reason: str) -> None:
    known = fleet(machine("h1", **({"labels": {"rack": "r1"}} | one)))
    known.set_vitals("h1", Vitals(disk=5 * GIB))
    web = Container(name="web", host="h1", ports=(("tcp", 80),), labels={"tier": "front"}, group="g", volumes=("v",))
    known.put(web)
    (verdict,) = explain(known, ask(**request_))
    assert [said(miss) for miss in verdict.misses] == [reason]
    assert refused(known, ask(**request_)).startswith("no host: 1 ")


@pytest.mark.parametrize(
    "fields",
    [
        {"cpus": 4000, "memory": 8 * GIB, "ports": (("udp", 80),)},
        {"affinities": (Affinity("volume", True, Pattern("v")), Affinity("image", True, Pattern("redis:*")))},
        {"affinities": (Affinity("tier", True, Pattern("/fr.*/")), Affinity("container", False, Pattern("db")))},
        {"group": "other", "spreads": (Spread("host", 1),)},
        {"tenant": "other", "affinities": (Affinity("container", False, Pattern("web")),)},
    ],
)
def test_what_fits_is_taken(fields: dict[str, object]) -> None:
    known = fleet(machine("h1"))
    stopped = Container(name="web", host="h1", image="redis:7", running=False, cpus=4000, ports=(("tcp", 80),),
                        labels={"tier": "front"}, group="g", volumes=("v",))  # fmt: skip
    known.put(stopped)
    assert place(known, ask(**fields), Random(0)) == "h1"


def test_what_is_stopped_keeps_its_ports_and_gives_back_the_rest() -> None:
    known = fleet(machine("h1"))
    web = Container(name="web", host="h1", cpus=3000, ports=(("tcp", 80),))
    known.put(web)
    assert "lacks CPUs" in refused(known, ask(cpus=2000))
    known.put(Container(name="web", host="h1", cpus=3000, ports=(("tcp", 80),), running=False))
    assert place(known, ask(cpus=2000), Random(0)) == "h1"
    assert "port 80/tcp" in refused(known, ask(ports=(("tcp", 80),)))


def test_more_may_be_promised_than_there_is() -> None:
    known = fleet(machine("h1"), policy=Policy(overcommit_cpus=2.0))
    assert place(known, ask(cpus=8000), Random(0)) == "h1"
    assert "lacks CPUs" in refused(known, ask(cpus=8001))


# -- scores --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("better", "fields"),
    [
        (Vitals(images=frozenset({"redis"})), {"image": "redis"}),
        (Vitals(now=0.1), {}),
        (Vitals(hours=0.1), {}),
        (Vitals(failures=0), {}),
    ],
)
def test_better_hosts_are_chosen(better: Vitals, fields: dict[str, object]) -> None:
    known = fleet(machine("h1"), machine("h2"), machine("h3"))
    for name in known.machines:
        known.set_vitals(name, Vitals(now=0.5, hours=0.5, failures=2))
    known.set_vitals("h2", Vitals(**({"now": 0.5, "hours": 0.5, "failures": 2} | _said(better))))
    assert {place(known, ask(**fields), Random(seed)) for seed in range(9)} == {"h2"}


def _said(vitals: Vitals) -> dict[str, object]:
    plain = Vitals(failures=2)
    return {name: getattr(vitals, name) for name in vitals.__struct_fields__
            if getattr(vitals, name) != getattr(plain, name)}  # fmt: skip


@pytest.mark.parametrize(("strategy", "wanted"), [("spread", "h2"), ("binpack", "h1")])
def test_hosts_are_filled_evenly_or_one_by_one(strategy: str, wanted: str) -> None:
    known = fleet(machine("h1"), machine("h2"), policy=Policy(strategy=strategy))  # type: ignore[arg-type]
    known.put(Container(name="a", host="h1", cpus=1000))
    assert {place(known, ask(cpus=100), Random(seed)) for seed in range(9)} == {wanted}


def test_wishes_are_granted_where_that_can_be() -> None:
    known = fleet(machine("h1", labels={"disk": "ssd"}), machine("h2", labels={"disk": "hdd"}))
    wish = ask(cpus=3000, constraints=(Constraint("disk", True, Pattern("ssd"), hard=False),))
    assert {place(known, wish, Random(seed)) for seed in range(9)} == {"h1"}
    known.put(Container(name="a", host="h1", cpus=3000))
    assert place(known, wish, Random(0)) == "h2"
    near = ask(affinities=(Affinity("container", True, Pattern("a"), hard=False),))
    assert {place(known, near, Random(seed)) for seed in range(9)} == {"h1"}
    far = ask(affinities=(Affinity("container", False, Pattern("a"), hard=False),))
    assert {place(known, far, Random(seed)) for seed in range(9)} == {"h2"}


@pytest.mark.parametrize("hosts", [12, 600])
def test_a_group_is_spread_evenly(hosts: int) -> None:
    known = fleet(*(machine(f"h{n:03}", labels={"rack": f"r{n % 4}"}) for n in range(hosts)))
    random = Random(1)
    for number in range(20):
        request = ask(f"c{number}", group="g", spreads=(Spread("rack"), Spread("host")))
        known.put(request.on(place(known, request, random)))
    held = known.containers.values()
    assert Counter(known.machines[one.host].labels["rack"] for one in held) == {f"r{n}": 5 for n in range(4)}
    assert max(Counter(one.host for one in held).values()) == (2 if hosts == 12 else 1)


def test_a_group_is_spread_over_hosts_too_many_to_look_at() -> None:
    known = fleet(*(machine(f"h{n:03}") for n in range(300)))
    random = Random(1)
    for number in range(300):
        request = ask(f"c{number}", group="g", spreads=(Spread("host", 1),))
        known.put(request.on(place(known, request, random)))
    assert max(Counter(one.host for one in known.containers.values()).values()) == 1
    assert "300 are where host:max_per=1 is reached" in refused(known, ask(group="g", spreads=(Spread("host", 1),)))


def test_what_is_kept_for_speed_follows_hosts_that_change() -> None:
    known = fleet(machine("h1", labels={"rack": "a"}), machine("h2", labels={"rack": "b"}))
    known.put(Container(name="c1", host="h1", group="g"))
    apart = ask(group="g", spreads=(Spread("rack", 1),))
    assert {place(known, apart, Random(seed)) for seed in range(9)} == {"h2"}
    known.set_machine(machine("h1", labels={"rack": "b"}))
    assert "2 are where rack:max_per=1 is reached" in refused(known, apart)
    known.set_machine(machine("h3", labels={"rack": "c"}))
    assert {place(known, apart, Random(seed)) for seed in range(9)} == {"h3"}
    known.drop_machine("h1")
    assert {place(known, apart, Random(seed)) for seed in range(9)} == {"h2", "h3"}
    known.drop_machine("h2")
    assert {place(known, ask(), Random(seed)) for seed in range(9)} == {"h3"}
    known.set_machine(machine("h3", state="drain"))
    assert refused(known, ask()) == "no host: 1 drained"


# -- properties ----------------------------------------------------------------------------------------------

NAMES = st.sampled_from([f"h{n}" for n in range(8)])
LABELS = st.dictionaries(st.sampled_from(["rack", "disk"]), st.sampled_from(["a", "b", "c"]))
MACHINES = st.builds(
    Machine,
    name=NAMES,
    cpus=st.integers(0, 4).map(lambda n: n * 1000),
    memory=st.integers(0, 4).map(lambda n: n * GIB),
    pids=st.sampled_from([0, 0, 3]),
    state=st.sampled_from(["ready", "ready", "ready", "drain", "down"]),
    labels=LABELS,
    tenants=st.sampled_from([frozenset(), frozenset(), frozenset({"shop"})]),
    parents=st.sampled_from([frozenset(), frozenset({"eth1"})]),
)
PATTERNS = st.sampled_from(["a", "b", "*", "/[ab]/"]).map(Pattern)
CONSTRAINTS = st.builds(Constraint, st.sampled_from(["rack", "disk"]), st.booleans(), PATTERNS, st.booleans())
AFFINITIES = st.builds(Affinity, st.sampled_from(["container", "tier"]), st.booleans(), PATTERNS, st.booleans())
SPREADS = st.builds(Spread, st.sampled_from(["rack", "host"]), st.integers(0, 2))
PORTS = st.lists(st.sampled_from([("tcp", 80), ("udp", 80), ("tcp", 81)]), max_size=2, unique=True).map(tuple)
REQUESTS = st.builds(
    Request,
    name=st.sampled_from(["a", "b", "c", "d", "e"]),
    tenant=st.sampled_from(["default", "shop"]),
    cpus=st.integers(0, 3).map(lambda n: n * 1000),
    memory=st.integers(0, 3).map(lambda n: n * GIB),
    pids=st.integers(0, 2),
    ports=PORTS,
    parents=st.sampled_from([frozenset(), frozenset({"eth1"})]),
    labels=st.dictionaries(st.just("tier"), st.sampled_from(["a", "b"])),
    group=st.sampled_from(["", "g"]),
    constraints=st.lists(CONSTRAINTS, max_size=2).map(tuple),
    affinities=st.lists(AFFINITIES, max_size=2).map(tuple),
    spreads=st.lists(SPREADS, max_size=2).map(tuple),
)


@dataclass(frozen=True, slots=True)
class Stay:
    """A host's state, or a container's end: what happens between placements."""

    gone: str = ""
    machine: Machine | None = None
    lost: str = ""


STAYS = st.one_of(
    st.builds(Stay, gone=st.sampled_from(["a", "b", "c"])),
    st.builds(Stay, machine=MACHINES),
    st.builds(Stay, lost=NAMES),
)


def allowed(known: Fleet, request: Request, host: str) -> bool:
    """By a plain look at everything, whether a host may take a request."""
    one = known.machines[host]
    held = [other for other in known.containers.values() if other.host == host]
    running = [other for other in held if other.running]
    mine = [other for other in known.containers.values() if other.tenant == request.tenant]
    taken = {port for other in held for port in other.ports}

    def named(rule: Affinity, other: Container) -> bool:
        value = other.name if rule.subject == "container" else other.labels.get(rule.subject)
        return other.tenant == request.tenant and value is not None and rule.pattern.matches(value)

    def at(spread: Spread) -> int:
        value = spread.value(host, one.labels)
        peers = [other for other in mine if request.group and other.group == request.group]
        places = [known.machines.get(other.host) for other in peers]
        return sum(place is not None and spread.value(place.name, place.labels) == value for place in places)

    return (
        one.state == "ready"
        and (not one.tenants or request.tenant in one.tenants)
        and request.parents <= one.parents
        and (not request.cpus or sum(other.cpus for other in running) + request.cpus <= one.cpus)
        and (not request.memory or sum(other.memory for other in running) + request.memory <= one.memory)
        and (not one.pids or sum(other.pids for other in running) + request.pids <= one.pids)
        and not taken & set(request.ports)
        and all(rule.holds(one.name, one.labels) for rule in request.constraints if rule.hard)
        and all(any(named(rule, c) for c in held) is rule.wanted for rule in request.affinities if rule.hard)
        and all(not rule.most or at(rule) < rule.most for rule in request.spreads)
    )


def played(machines: Iterable[Machine], steps: Sequence[Request | Stay], seed: int) -> tuple[Fleet, list[str]]:
    """A fleet after all steps, and where each request went."""
    known, random, went = fleet(*machines), Random(seed), []
    for step in steps:
        if isinstance(step, Stay):
            if step.machine:
                known.set_machine(step.machine)
            known.drop_machine(step.lost)
            known.remove(step.gone)
            continue
        known.remove(step.name)
        could = {name for name in known.machines if allowed(known, step, name)}
        verdicts = explain(known, step)
        assert {one.host for one in verdicts if not one.misses} == could
        try:
            host = place(known, step, random)
        except Exhausted as error:
            assert not could
            counted = sum(int(part.split()[0]) for part in str(error).removeprefix("no host: ").split(", ")
                          if part.split()[0].isdigit())  # fmt: skip
            assert counted == len(known.machines)
            went.append("")
            continue
        assert host in could
        chosen = next(one for one in verdicts if one.host == host)
        assert chosen.score == pytest.approx(ranker(Case(known, step))(known.machines[host]))
        known.put(step.on(host))
        went.append(host)
    return known, went


@settings(max_examples=150, deadline=None)
@given(
    st.lists(MACHINES, unique_by=lambda one: one.name), st.lists(st.one_of(REQUESTS, STAYS), max_size=12),
    st.integers(0, 9), st.randoms(),
)  # fmt: skip
def test_hard_rules_hold_and_the_explanation_agrees_and_the_order_of_hosts_does_not_matter(
    machines: list[Machine], steps: list[Request | Stay], seed: int, order: Random
) -> None:
    _, went = played(machines, steps, seed)
    mixed = list(machines)
    order.shuffle(mixed)
    assert played(mixed, steps, seed)[1] == went


@settings(max_examples=100, deadline=None)
@given(st.lists(MACHINES, min_size=1, unique_by=lambda one: one.name), st.lists(REQUESTS, min_size=1, max_size=12))
def test_what_is_gone_leaves_no_trace(machines: list[Machine], requests: list[Request]) -> None:
    known, _ = played(machines, requests, 1)
    assume(known.containers)
    for name in list(known.containers):
        known.remove(name)
    assert all(load == fleet().load("none") for load in known.loads.values())
    assert not known._hosts
    assert not known._values
    assert not known._standing


def test_a_refusal_of_what_has_come_free_meanwhile_says_so() -> None:
    assert "try again" in refusal(Case(fleet(machine("h1")), ask()))
