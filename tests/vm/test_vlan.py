"""Tenants' VLANs on a kernel that has 802.1q: two hosts, one trunk, and what is on the wire."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab.commands import wait_for
from tests.lab.model import LabError
from tests.vm.cluster import TENANTS, Cluster
from tests.vm.host import CREATE, READY_WITHIN, Host, run_args, whose

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # the first one builds the image and boots the machines

HERE, THERE, OTHER = "10.60.0.11", "10.60.0.12", "10.61.0.0/24"
OWN = {"shop": "10.60.0.21", "lab": "10.60.0.22"}  # addresses that only one of the tenants has
BOX = {"shop": "shop-21", "lab": "lab-22"}
SIZES = {"shop": 100, "lab": 200}  # of pings: they tell whose a frame is, where addresses and MAC addresses do not


DUAL = ("--ipv6", "--subnet", "fd00:60::/64")


def six(address: str) -> str:
    """The IPv6 address beside an IPv4 one."""
    return f"fd00:60::{address.rpartition('.')[2]}"


def start(host: Host, tenant: str, address: str, *options: str) -> str:
    """Starts a container of a tenant on its network of that name; returns the container's name."""
    name = f"{tenant}-{address.rpartition('.')[2]}"
    host.start(name, tenant, "--ip", address, *options)
    return name


def refused(host: Host, *args: str) -> str:
    """What docker says to a command that must fail."""
    done = host.docker(*args, check=False)
    assert done.returncode != 0, f"docker {' '.join(args)} succeeded"
    return " ".join(done.stderr.split())


@pytest.mark.parametrize("mode", ["macvlan", "bridge", "ipvlan"])
def test_tenants_with_one_subnet_do_not_meet(vms: Cluster, tmp_path: Path, mode: str) -> None:
    one, two = vms.hosts

    def populate(host: Host) -> None:
        for tenant in TENANTS:
            access = ("-o", "host_access=true") if (host, tenant) == (one, "shop") else ()
            host.network(tenant, tenant, "-o", f"mode={mode}", *DUAL, *access)
            own = HERE if host is one else OWN[tenant]
            start(host, tenant, own, "--ip6", six(own))

    def check(host: Host) -> None:
        for tenant, other in (("shop", "lab"), ("lab", "shop")):
            name, target = (f"{tenant}-11", OWN[tenant]) if host is one else (BOX[tenant], HERE)
            assert host.pings(name, target, SIZES[tenant])
            assert host.pings(name, six(target), SIZES[tenant])
            assert host.hears(name, target)
            assert not host.hears(name, OWN[other])  # over the wire, and on the same host

    with vms.segment.capture(tmp_path / "frames") as frames:
        vms.on_all(populate)
        vms.on_all(check)
        assert not two.hears(BOX["lab"], one.address)  # nor is the other host there; with host_access it would be
        one.exec("ping", "-c", "2", "-W", "3", HERE)
        if mode == "ipvlan":
            assert one.links()["eth1"]["address"] in one.docker("exec", "lab-11", "ip", "link", "show", "eth0").stdout
            said = refused(one, *run_args("mac", "lab", "--mac-address", "02:00:00:00:00:01"))
            assert "containers of an ipvlan network have the MAC address of their parent eth1.200" in said
    assert {frame.tags for frame in frames} == {(vlan,) for vlan in TENANTS.values()}
    for tenant, vlan in TENANTS.items():
        size = f"length {SIZES[tenant] + 8}"  # with ICMP's header
        for what in ("ICMP echo", "ICMP6, echo"):
            echoes = [frame for frame in frames if what in frame.text and frame.text.endswith(size)]
            assert len(echoes) >= 4
            assert [frame.text for frame in echoes if frame.tags != (vlan,)] == []


def test_sub_interface_comes_with_the_first_network_and_goes_with_the_last(vms: Cluster) -> None:
    host = vms.hosts[0]
    assert host.segments() == set()
    provider = ("link", "eth1", "name", "provider")  # the same number, and another tag
    host.exec("ip", "link", "add", *provider, "type", "vlan", "proto", "802.1ad", "id", "100")
    host.network("first", "shop")
    assert host.segments() == {"eth1.100", "provider"}
    host.exec("ip", "link", "delete", "provider")
    made = host.links()["eth1.100"]
    assert made["linkinfo"]["info_data"]["protocol"] == "802.1Q"
    assert (made["link"], made["linkinfo"]["info_data"]["id"], made["ifalias"]) == ("eth1", 100, "qnet")
    host.network("second", "shop", subnet=OTHER)
    host.network("lab", "lab")
    assert host.segments() == {"eth1.100", "eth1.200"}
    host.docker("network", "rm", "first")
    assert host.links()["eth1.100"]["ifindex"] == made["ifindex"]
    host.docker("network", "rm", "lab")
    assert host.segments() == {"eth1.100"}
    host.docker("network", "rm", "second")
    assert host.segments() == set()


def test_sub_interfaces_that_were_there_and_untagged_networks_beside_them(vms: Cluster, tmp_path: Path) -> None:
    one, two = vms.hosts
    names = {one: "trunk-shop", two: "eth1.100"}  # whatever it is called
    for host, name in names.items():
        host.add_vlan(100, name)
    were = {host: host.links()[name]["ifindex"] for host, name in names.items()}

    def populate(host: Host) -> None:
        host.network("shop", "shop")
        start(host, "shop", HERE if host is one else THERE)
        host.network("plain", "default", subnet=OTHER)
        host.start("plain", "plain", "--ip", "10.61.0.11" if host is one else "10.61.0.12")

    vms.on_all(populate)
    with vms.segment.capture(tmp_path / "frames") as frames:
        assert one.pings("shop-11", THERE)
        assert one.pings("plain", "10.61.0.12")
    echoes = [frame for frame in frames if "ICMP echo" in frame.text]
    assert {frame.tags for frame in echoes if HERE in frame.text} == {(100,)}
    assert {frame.tags for frame in echoes if "10.61.0.11" in frame.text} == {()}
    vms.on_all(Host.remove_networks)
    for host, name in names.items():
        assert host.segments() == {name}
        assert host.links()[name]["ifindex"] == were[host]
        assert "ifalias" not in host.links()[name]


def test_parents_of_a_tenant(vms: Cluster) -> None:
    host = vms.hosts[0]
    host.network("shop", "shop")
    host.network("lab", "lab")
    said = refused(host, *CREATE, *whose("shop"), "--subnet", OTHER, "-o", "parent=eth1.200", "wrong")
    assert (
        "parent eth1.200 carries VLAN 200 of tenant lab, and tenant shop has VLAN 100: name the link that carries all "
        "of them, -o parent=eth1"
    ) in said
    host.network("own", "shop", "-o", "parent=eth1.100", subnet=OTHER)
    assert host.segments() == {"eth1.100", "eth1.200"}
    parts = ("parent trunk (eth1) is up", "makes vlan links", "makes ipvlan links")

    found: list[str] = []

    def doctor_finds_all() -> bool:
        found[:] = host.doctor().splitlines()
        return all(part in "\n".join(found) for part in parts)

    # a kernel that is emulated can take seconds to make a link
    try:
        wait_for("doctor to find all", doctor_finds_all, 600)
    except LabError as late:
        raise AssertionError("\n".join(found)) from late


def test_sub_interface_is_back_after_a_reboot(vms: Cluster) -> None:
    one, two = vms.hosts  # etcd is on the first

    def populate(host: Host) -> None:
        host.network("shop", "shop")
        start(host, "shop", HERE if host is one else THERE)

    vms.on_all(populate)
    name = "shop-12"
    assert two.pings(name, HERE)
    two.exec("sync")
    two.power_off()
    two.power_on()
    two.wait()
    assert two.segments() == set()
    two.start_daemons()
    wait_for("return of the sub-interface", lambda: two.segments() == {"eth1.100"}, READY_WITHIN, 1)
    assert two.links()["eth1.100"]["ifalias"] == "qnet"
    two.docker("start", name)
    assert two.pings(name, HERE)
    assert one.pings("shop-11", THERE)


def test_sub_interfaces_that_a_crash_left_are_deleted(vms: Cluster) -> None:
    host = vms.hosts[0]
    host.add_vlan(400, "eth1.400")
    host.add_vlan(301, "qt-unfinished")
    host.add_vlan(300, "eth1.300", alias="qnet")
    wait_for("end of what was left", lambda: host.segments() == {"eth1.400"}, READY_WITHIN, 1)
    host.network("shop", "shop")  # and what is needed stays, comparison after comparison
    host.exec("sleep", "12")
    assert host.segments() == {"eth1.100", "eth1.400"}
