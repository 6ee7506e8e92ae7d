"""Frames that announce and ask, when they are sent, and what becomes of an address that somebody answers for."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from pathlib import Path

import pytest

from plugins.network import announce
from plugins.network.announce import Announcer
from plugins.network.frames import IPAddress, announcement, answers, probe, sender
from plugins.network.model import Network, Subnet
from plugins.network.packets import attach
from plugins.network.probe import Prober
from plugins.network.repository import Repository
from qnet.addresses.model import mac_of
from qnet.errors import Conflict, Exhausted, Unavailable
from qnet.store.base import Txn, TxnResult
from tests.e2e import frames as other
from tests.lab.commands import wait_for
from tests.store.memory import MemoryStore
from tests.unit.world import Clock, Container, Host, records

MAC, DEVICE = "02:11:22:33:44:55", "02:00:00:00:00:99"
FOUR, SIX = ip_address("10.77.0.9"), ip_address("fd00:77::12:3456")
SUBNET = "10.77.0.0/24"


# frames


def test_announcements() -> None:
    arp = other.arp(1, MAC, str(FOUR), "00:00:00:00:00:00", str(FOUR))
    assert announcement(other.mac(MAC), FOUR) == other.ethernet(other.BROADCAST, MAC, other.ARP, arp)
    body = bytes.fromhex("20000000") + SIX.packed + b"\x02\x01" + other.mac(MAC)
    advertisement = other.icmp6(str(SIX), other.ALL_NODES, 136, body)
    assert announcement(other.mac(MAC), SIX) == other.ethernet(other.ALL_NODES_MAC, MAC, other.IPV6, advertisement)


def test_probes_are_in_nobodys_name() -> None:
    arp = other.arp(1, MAC, "0.0.0.0", "00:00:00:00:00:00", str(FOUR))
    assert probe(other.mac(MAC), FOUR) == other.ethernet(other.BROADCAST, MAC, other.ARP, arp)
    solicitation = other.icmp6("::", "ff02::1:ff12:3456", 135, bytes(4) + SIX.packed)
    assert probe(other.mac(MAC), SIX) == other.ethernet("33:33:ff:12:34:56", MAC, other.IPV6, solicitation)


def heard(address: IPAddress, frame: bytes) -> bool:
    """Whether the kernel lets a frame through the filter for answers of an address."""
    one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with one, two:
        attach(two, answers(address))
        two.setblocking(False)
        one.send(frame)
        try:
            assert sender(two.recv(200)) == DEVICE
        except BlockingIOError:
            return False
        return True


def arp(operation: int, who: str, target: str = "10.77.0.1") -> bytes:
    return other.ethernet(MAC, DEVICE, other.ARP, other.arp(operation, DEVICE, who, MAC, target))


def icmp(kind: int, target: str) -> bytes:
    body = bytes(4) + ip_address(target).packed
    return other.ethernet(MAC, DEVICE, other.IPV6, other.icmp6("fd00:77::1", "ff02::1", kind, body))


@pytest.mark.parametrize(
    ("address", "frame", "heard_of"),
    [
        (FOUR, arp(2, "10.77.0.9"), True),
        (FOUR, arp(1, "10.77.0.9"), True),
        (FOUR, arp(1, "10.77.0.8", "10.77.0.9"), False),
        (FOUR, other.tagged(arp(2, "10.77.0.9"), (0x8100, 7)), False),
        (FOUR, arp(2, "10.77.0.9")[:30], False),
        (FOUR, icmp(136, "fd00:77::9"), False),
        (SIX, icmp(136, str(SIX)), True),
        (SIX, icmp(135, str(SIX)), False),
        (SIX, icmp(136, "fd00:77::12:3457"), False),
        (SIX, icmp(136, "fd00:78::12:3456"), False),
    ],
)
def test_only_answers_are_heard(address: IPAddress, frame: bytes, heard_of: bool) -> None:
    assert heard(address, frame) == heard_of


# announcements


class Segment:
    """A segment whose containers get their links after some tries; it remembers what was said on it."""

    def __init__(self, misses: int = 0, error: OSError | None = None) -> None:
        self.misses, self.error = misses, error or FileNotFoundError("no namespace yet")
        self.said: list[tuple[str, str]] = []
        self.changed = threading.Condition()
        self.has: dict[str, str] = {}
        self.asked: list[str] = []

    def announce(self, sandbox: str, address: str) -> None:
        with self.changed:
            self.misses -= 1
            if self.misses >= 0:
                raise self.error
            self.said.append((sandbox, address))
            self.changed.notify_all()

    def who_has(self, link: str, address: IPAddress, wait: float, besides: str) -> str:
        self.asked.append(link)
        return self.has.get(str(address), "")

    def until(self, number: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.said) >= number, 5)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("PAUSE", 0.001), ("AGAIN", 0.01), ("PATIENCE", 0.2)):
        monkeypatch.setattr(announce, name, value)


@pytest.mark.usefixtures("quick")
def test_every_address_is_announced_three_times_once_it_is_there() -> None:
    segment = Segment(misses=5)
    announcer = Announcer(segment)
    announcer.start()
    announcer.announce("", ["10.77.0.8"])
    announcer.announce("/ns", ["10.77.0.9", "fd00:77::9"])
    segment.until(6)
    time.sleep(0.05)
    assert sorted(segment.said) == [("/ns", "10.77.0.9")] * 3 + [("/ns", "fd00:77::9")] * 3


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("error", "loud"), [(None, False), (PermissionError(1, "not permitted"), True)])
def test_what_never_comes_is_given_up(error: OSError | None, loud: bool, caplog: pytest.LogCaptureFixture) -> None:
    segment = Segment(misses=10**9, error=error)
    announcer = Announcer(segment)
    announcer.start()
    announcer.announce("/ns", ["10.77.0.9"])
    time.sleep(0.3)
    tried = segment.misses
    time.sleep(0.05)
    assert segment.misses == tried
    assert ("10.77.0.9 is not announced: /ns" in caplog.text) == loud
    segment.misses = 0
    announcer.announce("/ns", ["10.77.0.8"])
    segment.until(2)


@pytest.mark.usefixtures("quick")
def test_a_container_that_has_ended_is_not_looked_for_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    segment = Segment()
    tried: list[str] = []

    def once(sandbox: str, address: str) -> None:
        tried.append(address)
        if len(tried) > 1:
            raise FileNotFoundError("the namespace is gone")

    monkeypatch.setattr(segment, "announce", once)
    announcer = Announcer(segment)
    announcer.start()
    announcer.announce("/ns", ["10.77.0.9"])
    wait_for("it was tried again", lambda: len(tried) == 2, 5)
    time.sleep(0.1)
    assert len(tried) == 2


def test_more_than_the_queue_holds_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    announcer = Announcer(Segment())  # its thread never starts
    announcer.announce("/ns", ["10.77.0.9"] * (announce.LIMIT + 1))
    assert "address 10.77.0.9 is not announced: too many" in caplog.text


# who is asked, and where


class Kernel:
    def addresses(self, name: str) -> list[str]:
        return ["10.77.0.3"] if name == "eth1" else []


def test_only_networks_with_the_option_are_asked_on(tmp_path: Path) -> None:
    repository, segment = Repository(tmp_path / "state", tmp_path / "run"), Segment()
    prober = Prober(repository, Kernel(), segment, 0.3)  # type: ignore[arg-type]

    def add(name: str, parent: str, tenant: str = "default", *, probe: bool = True) -> None:
        subnets = (Subnet("10.77.0.0/24"), Subnet("fd00:77::/64"))
        repository.networks.save(Network(id=name, tenant=tenant, subnets=subnets, parent=parent, arp_probe=probe))

    add("a", "eth0", probe=False)
    segment.has = {"10.77.0.9": DEVICE}
    assert prober.answers("default", SUBNET, "10.77.0.9", "") == ""
    add("b", "eth1")
    add("c", "eth1")
    add("d", "eth2", "shop")
    assert prober.answers("default", SUBNET, "10.77.0.9", "") == DEVICE
    assert prober.answers("default", SUBNET, "10.77.0.8", "") == ""
    assert prober.answers("default", "10.78.0.0/24", "10.77.0.9", "") == ""
    assert prober.answers("default", SUBNET, "10.77.0.3", "") == "eth1 of this host"
    assert segment.asked == ["eth1", "eth1"]


# what becomes of addresses


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    store = MemoryStore()
    one = Host("host1", store, Clock(), tmp_path)
    yield one
    one.close()
    store.close()


def kinds(host: Host, subnet: str = SUBNET) -> dict[str, str]:
    return {address: record.kind for address, record in records(host.store, "default", subnet).items()}


def test_an_answered_address_is_quarantined_and_another_given(host: Host) -> None:
    pool = host.network("web", "10.77.0.0/29", "10.77.0.1")
    host.prober.has = {f"10.77.0.{last}": DEVICE for last in (2, 3, 4, 5)}
    assert host.service.request_address("e", pool, "") == "10.77.0.6/29"
    with pytest.raises(Exhausted, match=r"is full: .* \(host1 1, quarantined 4\)"):
        host.service.request_address("e", pool, "")
    found = records(host.store, "default", "10.77.0.0/29")
    assert {found[address].kind for address in host.prober.has} == {"quarantine"}
    assert found["10.77.0.2"].note == f"answered by {DEVICE} at 2026-01-01T00:00:00+00:00"
    assert "10.77.0.1" not in host.prober.asked
    host.service.release_address(pool, "10.77.0.2")
    host.engine.networks.clear()
    host.repaired()
    host.repaired()
    assert kinds(host, "10.77.0.0/29")["10.77.0.2"] == "quarantine"


def test_a_pool_full_of_other_devices_is_not_searched_for_ever(host: Host) -> None:
    pool = host.network("web", SUBNET, "10.77.0.1")
    host.prober.has = {f"10.77.0.{last}": DEVICE for last in range(2, 255)}
    with pytest.raises(Exhausted, match=r"8 addresses in a row are answered for .* --kind quarantine"):
        host.service.request_address("e", pool, "")
    assert list(kinds(host).values()).count("quarantine") == 8
    assert "endpoint" not in kinds(host).values()


def test_an_answered_address_that_was_asked_for_is_refused(host: Host) -> None:
    pool = host.network("web", SUBNET, "10.77.0.1")
    host.prober.has = {"10.77.0.9": DEVICE}
    for _ in range(2):
        with pytest.raises(Conflict, match=f"answered by {DEVICE} .*qnet address release 10.77.0.9 --tenant default"):
            host.service.request_address("e", pool, "10.77.0.9")
    assert kinds(host)["10.77.0.9"] == "quarantine"
    assert host.prober.asked == ["10.77.0.9"]


@pytest.mark.parametrize(("answered_by", "given"), [("", True), (mac_of("default", FOUR), True), (DEVICE, False)])
def test_a_held_address_that_comes_back(host: Host, answered_by: str, given: bool) -> None:
    host.network("web", SUBNET, "10.77.0.1")
    one = Container("c1", asked="10.77.0.9")
    host.start_container("web", one)
    host.stop_container(one)
    host.prober.has = {"10.77.0.9": answered_by}
    if given:
        assert host.start_container("web", one) == "10.77.0.9"
    else:
        with pytest.raises(Conflict, match=DEVICE):
            host.start_container("web", one)
    assert kinds(host)["10.77.0.9"] == ("endpoint" if given else "quarantine")


def test_another_containers_left_over_link_is_no_excuse(host: Host) -> None:
    """A host that was forgotten too early may run a container with this address, and with the MAC address of it."""
    pool = host.network("web", SUBNET, "10.77.0.1")
    host.prober.has = {"10.77.0.9": mac_of("default", FOUR)}
    with pytest.raises(Conflict, match="quarantined"):
        host.service.request_address("e", pool, "10.77.0.9")


def test_what_cannot_be_asked_for_is_given_back(host: Host) -> None:
    pool = host.network("web", SUBNET, "10.77.0.1")
    host.prober.has = {f"10.77.0.{last}": Unavailable("the link is down") for last in range(2, 255)}
    with pytest.raises(Unavailable, match="the link is down"):
        host.service.request_address("e", pool, "")
    assert list(kinds(host).values()) == ["gateway"]
    one = Container("c1", asked="10.77.0.9")
    host.prober.has["10.77.0.9"] = ""
    host.start_container("web", one)
    host.stop_container(one)
    host.prober.has["10.77.0.9"] = Unavailable("the link is down")
    with pytest.raises(Unavailable, match="the link is down"):
        host.start_container("web", one)
    assert kinds(host)["10.77.0.9"] == "held"


def test_a_restarted_engine_gets_what_its_endpoints_have_unasked(host: Host) -> None:
    host.network("web", SUBNET, "10.77.0.1")
    host.start_container("web", Container("c1", asked="10.77.0.9"))
    host.prober.has, host.prober.asked = {"10.77.0.9": DEVICE}, []
    host.restart_engine()
    assert host.prober.asked == []
    assert kinds(host)["10.77.0.9"] == "endpoint"


class Slow(MemoryStore):
    """A store whose transactions take a moment, so that callers meet; it counts what is made in each."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[int] = []

    def txn(self, txn: Txn, *, repeatable: bool = False) -> TxnResult:
        time.sleep(0.05)
        self.made.append(len(txn.compares) - 1)
        return super().txn(txn, repeatable=repeatable)


def test_a_crowd_is_asked_for_too_and_nobody_waits_for_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Slow()
    host = Host("host1", store, Clock(), tmp_path)
    pool = host.network("web", "10.77.0.0/20", "10.77.0.1")
    answers: Callable[..., str] = host.prober.answers
    together = threading.Barrier(16)

    def slow(tenant: str, subnet: str, address: str, besides: str) -> str:
        together.wait(5)  # all 16 are in here at once, or this fails
        return answers(tenant, subnet, address, besides)

    monkeypatch.setattr(host.prober, "answers", slow)
    with ThreadPoolExecutor(16) as threads:
        given = list(threads.map(lambda _: host.service.request_address("e", pool, "").partition("/")[0], range(16)))
    assert len(set(given)) == 16
    assert sorted(given) == sorted(host.prober.asked)
    assert max(store.made) > 4  # some were taken ahead
    host.service.close()
    host.close()
    store.close()
