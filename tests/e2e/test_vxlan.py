"""VXLAN networks on real engines and links: two tenants, one subnet, no switch that knows of either."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.e2e import kit
from tests.e2e.kit import links, network, pings, refused, run
from tests.e2e.test_traffic import assert_held, box, iperf, server, top
from tests.lab.cluster import Lab
from tests.lab.host import Host

pytestmark = [pytest.mark.mode("vxlan"), pytest.mark.engines]

VNIS = {"vx1": 501, "vx2": 502}


def vxlan(tenant: str, *options: str) -> tuple[str, ...]:
    """Options of a tenant's VXLAN network."""
    return (*kit.of(tenant, "vxlan"), *options)


@pytest.fixture
def hosts(hosts: list[Host]) -> list[Host]:
    """Hosts with two tenants that have VNIs."""
    kit.tenants(hosts[0], **{tenant: f"--vni={vni}" for tenant, vni in VNIS.items()})
    return hosts


def knows(host: Host, link: str) -> str:
    """The forwarding entries and neighbours of a VXLAN link."""
    fdb = host.exec("bridge", "fdb", "show", "dev", link, check=False).stdout
    return fdb + host.exec("ip", "neigh", "show", "dev", link, check=False).stdout


def test_a_tenant_reaches_its_own_on_every_host_and_no_other(lab: Lab, hosts: list[Host]) -> None:
    for tenant in VNIS:
        network(hosts, tenant, *kit.DUAL, *vxlan(tenant))
    shop = [run(host, f"one{n}", "--ip", f"10.77.0.{10 + n}", on="vx1") for n, host in enumerate(hosts)]
    same = run(hosts[1], "box1", "--ip", shop[0], on="vx2")
    own = run(hosts[2], "box2", "--ip", "10.77.0.40", on="vx2")
    six = [kit.attached(host, f"one{n}", "vx1")["GlobalIPv6Address"] for n, host in enumerate(hosts)]
    for number, host in enumerate(hosts):
        for address in (*shop, *six):
            assert pings(host, f"one{number}", address)
    assert pings(hosts[2], "box2", same)
    assert not pings(hosts[0], "one0", own, tries=1)
    assert not pings(hosts[2], "box2", shop[1], tries=1)
    assert not pings(hosts[2], "box2", shop[2], tries=1)


def test_links_and_entries_come_and_go_with_networks_and_containers(lab: Lab, hosts: list[Host]) -> None:
    network(hosts[:2], "web", *vxlan("vx1"))
    network(hosts[0], "more", *vxlan("vx1"), subnet="10.78.0.0/24", gateway="10.78.0.1")
    given, mac = run(hosts[0], "aa"), kit.attached(hosts[0], "aa")["MacAddress"]
    assert links(hosts[0])["qx-501"]["mtu"] == 1450
    assert f"{mac} dst {hosts[0].address}" in knows(hosts[1], "qx-501")
    assert f"{given} lladdr {mac}" in knows(hosts[1], "qx-501")
    assert mac not in knows(hosts[0], "qx-501")
    assert "qx-501" not in links(hosts[2])
    hosts[0].docker("rm", "-f", "aa")
    kit.wait_for("the entry is gone", lambda: mac not in knows(hosts[1], "qx-501"), 30)
    hosts[0].docker("network", "rm", "web")
    assert "qx-501" in links(hosts[0])
    hosts[0].docker("network", "rm", "more")
    assert set(links(hosts[0])) == kit.LINKS
    kit.wait_for("the host has left", lambda: hosts[0].address not in knows(hosts[1], "qx-501"), 30)
    hosts[1].docker("network", "rm", "web")
    for host in hosts:
        assert "qnet_underlay" not in host.exec("nft", "list", "tables").stdout


def test_questions_for_addresses_are_answered_on_the_host(lab: Lab, hosts: list[Host]) -> None:
    """None of them leaves it, the tenant's packets do."""
    network(hosts[:2], "web", *kit.DUAL, *vxlan("vx1"))
    run(hosts[0], "aa")
    far = run(hosts[1], "bb"), kit.attached(hosts[1], "bb")["GlobalIPv6Address"]
    words = ("tcpdump", "-i", "eth0", "-n", "-l", "--immediate-mode", "-Z", "root", "udp port 4789")
    with hosts[1].popen(*words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as dump:
        assert dump.stdout is not None
        while "listening on" not in dump.stdout.readline():
            assert dump.poll() is None
        try:
            assert all(pings(hosts[0], "aa", address) for address in far)
            assert all(pings(hosts[0], "aa", address) for address in far)  # what came before these is heard, too
        finally:
            dump.terminate()
        heard = dump.stdout.read()
    assert [heard.count(f"> {address}: ICMP") > 0 for address in far] == [True, True], heard
    assert "who-has" not in heard
    assert "neighbor solicitation" not in heard


def test_traffic_is_held_to_limits_and_counted(lab: Lab, hosts: list[Host]) -> None:
    near, far = hosts[:2]
    for host in (near, far):
        host.load("bench")
    network((near, far), "web", *vxlan("vx1", "-o", "egress=40mbit", "-o", "ingress=80mbit"))
    # a server that is held to nothing
    there = server(far, on="name=web,driver-opt=qnet.egress=none,driver-opt=qnet.ingress=none")
    box(near, "client")
    assert_held(near, there, (40, 80))
    before = top(near)
    arrived = iperf(near, there, "-n", "10M")["sum_received"]["bytes"]
    after = top(near)
    assert after["sent_internal_bytes"] - before["sent_internal_bytes"] == pytest.approx(arrived, rel=0.05)
    assert after["sent_external_bytes"] == before["sent_external_bytes"]


def test_a_container_that_moves_is_found_at_its_new_host(lab: Lab, hosts: list[Host]) -> None:
    network(hosts, "web", *vxlan("vx1"))
    run(hosts[2], "far")
    for host in (hosts[0], hosts[1], hosts[0], hosts[2]):
        kit.becomes_free(host, "mover", "--ip", "10.77.0.10")
        assert pings(hosts[2], "far", "10.77.0.10")
        host.docker("rm", "-f", "mover")


def test_killed_plugins_reboots_and_lost_entries(lab: Lab, hosts: list[Host]) -> None:
    network(hosts, "web", *vxlan("vx1"))
    given = run(hosts[0], "aa", "--restart", "always", "--ip", "10.77.0.10")
    far = run(hosts[1], "bb")
    hosts[0].plugin.kill()
    assert pings(hosts[0], "aa", far)
    late = run(hosts[2], "cc")
    hosts[0].start_plugin()
    kit.wait_for("who came meanwhile is known", lambda: late in knows(hosts[0], "qx-501"), 10)
    hosts[0].exec("ip", "neigh", "flush", "dev", "qx-501", "nud", "permanent")
    hosts[0].exec("bridge", "fdb", "del", kit.attached(hosts[2], "cc")["MacAddress"], "dev", "qx-501")
    kit.wait_for("it is put right", lambda: pings(hosts[0], "aa", late, tries=1), 10)
    hosts[0].reboot()
    kit.wait_for("it is back", lambda: pings(hosts[1], "bb", given, tries=1), 30)


@pytest.fixture
def underlays(hosts: list[Host]) -> Iterator[list[Host]]:
    """The first two hosts, each with a bridge of the operator's over eth1 that has an address."""
    pair = hosts[:2]
    for number, host in enumerate(pair):
        make_underlay(host, f"10.66.0.{10 + number}")
    yield pair
    for host in pair:
        kit.remove_all(host)
        host.exec("ip", "link", "delete", "br0", check=False)


def make_underlay(host: Host, address: str) -> None:
    """Make the bridge, as the host's network scripts do."""
    for words in ("add br0 type bridge", "set br0 up", "set eth1 master br0"):
        host.exec("ip", "link", *words.split())
    host.exec("ip", "address", "add", f"{address}/24", "dev", "br0")


@pytest.mark.parametrize("address", ["10.66.0.10", "10.66.0.20"])
def test_an_underlay_that_is_made_again(lab: Lab, underlays: list[Host], address: str) -> None:
    """The kernel deletes a VXLAN link with the one that it stands on; that may come back with another address."""
    near, far = underlays
    network(underlays, "web", *vxlan("vx1", "-o", "parent=br0"))
    here, there = run(near, "aa"), run(far, "bb")
    assert pings(near, "aa", there)
    near.exec("ip", "link", "delete", "br0")
    assert "qx-501" not in links(near)
    assert not pings(far, "bb", here, tries=1)
    make_underlay(near, address)
    kit.wait_for("its containers are back", lambda: pings(far, "bb", here, tries=1), 20)
    assert pings(near, "aa", there)


def test_the_host_reaches_its_containers_and_those_of_others_reach_it(lab: Lab, hosts: list[Host]) -> None:
    network(hosts[:2], "web", *vxlan("vx1", "-o", "host_access=true"))
    near, _ = run(hosts[0], "aa"), run(hosts[1], "bb")
    assert kit.host_pings(hosts[0], near)
    found = kit.address_records(lab, tenant="vx1")
    own = next(text for text, one in found.items() if one["kind"] == "host" and one["host"] == "host1")
    assert pings(hosts[0], "aa", own)
    assert f"{own} lladdr" in knows(hosts[1], "qx-501")


def test_the_way_out_and_limits(lab: Lab, hosts: list[Host]) -> None:
    near, far, outside = hosts
    for tenant in VNIS:
        network((near, far), tenant, *kit.DUAL, *vxlan(tenant, "-o", "nat=true", "-o", "egress=100mbit"))
    for tenant in VNIS:
        run(near, f"near-{tenant}", "--ip", "10.77.0.10", on=tenant)
    there = run(far, "there", on="vx1")
    for tenant in VNIS:
        for address in (outside.address, outside.node.address6):
            assert pings(near, f"near-{tenant}", address)
        assert not pings(near, f"near-{tenant}", near.address, tries=1)
    assert pings(near, "near-vx1", there)
    assert not pings(near, "near-vx2", there, tries=1)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (vxlan("plain"), "tenant plain has no VNI, which mode=vxlan needs: qnet tenant set plain --vni auto"),
        (
            kit.of("vx1", "macvlan"),
            "tenant vx1 has VNI 501 and no VLAN, so a network of mode macvlan would be without its tag",
        ),
        (vxlan("vx1", "-o", "parent=eth1"), "parent eth1 has no address, from which VXLAN packets would leave"),
        (vxlan("vx1", "-o", "parent=eth9"), "parent 'eth9' does not exist on this host"),
        (vxlan("vx1", "-o", "mtu=1500"), "-o mtu=1500 is more than the 1450 of parent qx-501"),
        (vxlan("vx1", "-o", "macvlan_mode=vepa"), "-o macvlan_mode=vepa needs mode=macvlan"),
    ],
)
def test_what_cannot_be_is_refused(lab: Lab, hosts: list[Host], options: tuple[str, ...], says: str) -> None:
    kit.tenants(hosts[0], plain="--untagged")
    said = refused(hosts[0], *kit.CREATE, "--subnet", kit.SUBNET, "--gateway", kit.GATEWAY, *options, "web")
    assert says in said
