"""Every rule and option of a run request, on three real hosts: host1 and host2 in rack r1, host3 in r2; host2 has a
hard disk, the others have SSDs."""

from __future__ import annotations

from tests.e2e import kit
from tests.e2e.placement.fleet import Fleet
from tests.lab.commands import wait_for

ANY = {"host1", "host2", "host3"}


KEPT: tuple[tuple[tuple[str, ...], set[str]], ...] = (
    (("--constraint", "rack==r2"), {"host3"}),
    (("--constraint", "rack!=r1"), {"host3"}),
    (("--constraint", "host==host2"), {"host2"}),
    (("--constraint", "host==/host[12]/", "--constraint", "disk!=hdd"), {"host1"}),
    (("--constraint", "disk==s*"), {"host1", "host3"}),
    (("--constraint", "rack==~r2"), {"host3"}),
    (("--constraint", "rack==~r9"), ANY),
    (("-e", "constraint:disk==hdd"), {"host2"}),
    (("--label", "qnet.constraint=disk==hdd"), {"host2"}),
    (("--affinity", "container==pole"), {"host2"}),
    (("--affinity", "container!=po*"), {"host1", "host3"}),
    (("--affinity", "image!=busybox"), {"host1", "host3"}),
    (("--affinity", "tier==/fro.t/"), {"host2"}),
    (("--affinity", "volume==pole-data"), {"host2"}),
    (("--affinity", "container==~pole"), {"host2"}),
    (("-e", "affinity:container!=pole"), {"host1", "host3"}),
    (("--platform", "linux/amd64"), ANY),
    (("-v", "pole-data:/data"), {"host2"}),
    (("-p", "8080:80"), {"host1", "host3"}),
)
REFUSED = (
    (("--constraint", "rack==r9"), "no host: 3 fail rack==r9"),
    (("--platform", "linux/arm64"), "no host: 3 are not linux/arm64"),
    (("-m", "9999g"), "no host: 3 lack memory (most free: host"),
    (("--cpus", "9999"), "no host: 3 lack CPUs (most free: host"),
    (("--pids-limit", "99999999"), "no host: 3 lack pids"),
    (("--affinity", "container==nosuch"), "no host: 3 fail container==nosuch"),
    (("--constraint", "rack"), "qnet.constraint='rack' is no rule: NAME==VALUE"),
    (("--spread", "rack:max_per=0"), "LABEL or LABEL:max_per=NUMBER"),
    (("--label", "qnet.ip=perhaps"), "sticky"),
)


def test_rules_are_kept(fleet: Fleet) -> None:
    pole = ("-v", "pole-data:/data", "--label", "tier=front", "-p", "8080:80")
    fleet.run("pole", "--constraint", "host==host2", *pole, network="bridge")
    assert fleet.ps()["pole"]["volumes"] == ["pole-data"]
    for number, (words, hosts) in enumerate(KEPT):
        names = [f"n{number}-{turn}" for turn in range(2)]
        assert {fleet.run(name, *words, network="bridge")["host"] for name in names} <= hosts, words
        fleet.qnet("rm", "-f", *names)


def test_refusals_say_why_and_make_nothing(fleet: Fleet) -> None:
    for words, said in REFUSED:
        assert said in fleet.refused("run", "--name", "n1", *words, "busybox", "sleep", "1d")
    assert fleet.ps("-a") == {}
    fleet.agree()


def test_no_more_than_allowed_at_one_value(fleet: Fleet) -> None:
    done = fleet.qnet(
        *("run", "--name", "m", "--instances", "4", "--spread", "host:max_per=1", "busybox", "sleep", "1d"), check=False
    )
    assert (done.returncode, len(done.stdout.splitlines())) == (1, 3)
    assert "1 of 4 do not run: no host: 3 are where host:max_per=1 is reached" in done.stderr
    assert {one["host"] for one in fleet.ps().values()} == ANY
    more = ("run", "--spread", "rack:max_per=2", "--group", "g", "--instances", "5", "--name", "g")
    done = fleet.qnet(*more, "busybox", "sleep", "1d", check=False)
    assert (done.returncode, len(done.stdout.splitlines())) == (1, 4)


def test_a_port_of_each_host_is_given_once(fleet: Fleet) -> None:
    found = [fleet.run(f"p{number}", "-p", "8080:80", network="bridge")["host"] for number in range(3)]
    assert set(found) == ANY
    assert "no host: 3 have port 8080/tcp taken" in fleet.refused("run", "-p", "8080:80", "busybox", "sleep", "1d")
    fleet.host("host2").docker("stop", "-t", "0", f"p{found.index('host2')}")
    assert "3 have port 8080/tcp taken" in fleet.refused("run", "-p", "8080:80", "busybox", "sleep", "1d")


def test_stopped_containers_take_no_room(fleet: Fleet) -> None:
    for number in range(3):
        fleet.run(f"big{number}", "--cpus", "2")
    assert "3 lack CPUs" in fleet.refused("run", "--cpus", "2", "busybox", "sleep", "1d")
    host = fleet.ps()["big1"]["host"]
    fleet.host(host).docker("stop", "-t", "0", "big1")
    assert fleet.run("next", "--cpus", "2")["host"] == host
    fleet.host(host).docker("start", "big1")  # by hand: nobody asked placement
    fleet.host(host).docker("rm", "-f", "next")
    assert "3 lack CPUs" in fleet.refused("run", "--cpus", "2", "busybox", "sleep", "1d")


def test_a_network_by_hand_is_where_it_is(fleet: Fleet) -> None:
    kit.network(fleet.hosts[1], "own", subnet="10.79.0.0/24", gateway="10.79.0.1")
    wait_for("host2 to tell of it", lambda: "own" in fleet.api("GET", "/v1/hosts/host2")[1]["networks"], 30)
    assert {fleet.run(f"o{number}", network="own")["host"] for number in range(3)} == {"host2"}
    fleet.qnet("host", "drain", "host2")
    said = fleet.refused("run", "--network", "own", "busybox")
    assert "2 do not have network own" in said
    assert "1 drained" in said
    fleet.qnet("rm", "-f", "o0", "o1", "o2")
    fleet.hosts[1].docker("network", "rm", "own")


def test_labels_of_hosts_can_be_changed(fleet: Fleet) -> None:
    assert fleet.qnet("host", "label", "host1", "rack=r7", "zone=z1").stdout == "host1 disk=ssd,rack=r7,zone=z1\n"
    assert fleet.run("l1", "--constraint", "rack==r7", on=2)["host"] == "host1"
    assert fleet.qnet("host", "label", "host1", "rack-", "zone-").stdout == "host1 disk=ssd,rack=r1\n"
    assert "3 fail rack==r7" in fleet.refused("run", "--constraint", "rack==r7", "busybox", on=1)


def test_two_networks_and_addresses_of_both_versions(fleet: Fleet) -> None:
    fleet.network("dual", "--subnet", "10.78.0.0/24", "--subnet", "fd00:78::/64")
    ran = fleet.run("d1", "--network", "dual", "--ip", "10.77.0.77")
    assert ran["addresses"]["web"] == ["10.77.0.77"]
    four, six = ran["addresses"]["dual"]
    found = kit.attached(fleet.host(ran["host"]), "d1", "dual")
    assert (found["IPAddress"], found["GlobalIPv6Address"]) == (four, six)
    fleet.agree()
