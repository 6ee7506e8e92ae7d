"""Tenants' VLANs on a kernel that has 802.1q: two hosts, one trunk, and what is on the wire."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab.commands import wait_for
from tests.vm.cluster import TENANTS, Cluster
from tests.vm.host import CREATE, READY_WITHIN, Host, whose

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # the first one builds the image and boots the machines

HERE, THERE, ONLY_SHOP, OTHER = "10.60.0.11", "10.60.0.12", "10.60.0.21", "10.61.0.0/24"


def mac(tenant: str, address: str) -> str:
    """A MAC address that tells a frame's tenant, who have the same addresses otherwise."""
    return f"02:{TENANTS[tenant]:02x}:00:00:00:{int(address.rpartition('.')[2]):02x}"


def start(host: Host, tenant: str, address: str) -> str:
    """Starts a container of a tenant on its network of that name; returns the container's name."""
    name = f"{tenant}-{address.rpartition('.')[2]}"
    host.start(name, tenant, "--ip", address, "--mac-address", mac(tenant, address))
    return name


def refused(host: Host, *args: str) -> str:
    """What docker says to a command that must fail."""
    done = host.docker(*args, check=False)
    assert done.returncode != 0, f"docker {' '.join(args)} succeeded"
    return " ".join(done.stderr.split())


def test_tenants_with_one_subnet_do_not_meet(vms: Cluster, tmp_path: Path) -> None:
    one, two = vms.hosts

    def populate(host: Host) -> None:
        for tenant in TENANTS:
            host.network(tenant, tenant, "-o", "parent=eth1")
            start(host, tenant, HERE if host is one else THERE)

    with vms.segment.capture(tmp_path / "frames") as frames:
        vms.on_all(populate)
        start(two, "shop", ONLY_SHOP)
        for tenant in TENANTS:
            assert one.pings(f"{tenant}-11", THERE), f"{tenant} does not reach its own on the other host"
            assert two.pings(f"{tenant}-12", HERE), f"{tenant} does not reach its own on the other host"
            # both tenants have a container at that address: who answered?
            assert mac(tenant, THERE) in one.docker("exec", f"{tenant}-11", "ip", "neigh").stdout
        assert one.pings("shop-11", ONLY_SHOP)
        assert not one.pings("lab-11", ONLY_SHOP, tries=2)  # neither over the wire
        assert not two.pings("lab-12", ONLY_SHOP, tries=2)  # nor on the same host
    for tenant, vlan in TENANTS.items():
        own = {mac(tenant, address) for address in (HERE, THERE, ONLY_SHOP)}
        seen = [frame for frame in frames if {frame.source, frame.target} & own]
        assert len([frame for frame in seen if "ICMP echo" in frame.text]) >= 4
        assert [frame.text for frame in seen if frame.tags != (vlan,)] == []


def test_sub_interface_comes_with_the_first_network_and_goes_with_the_last(vms: Cluster) -> None:
    host = vms.hosts[0]
    assert host.segments() == set()
    host.network("first", "shop")
    assert host.segments() == {"eth1.100"}
    made = host.links()["eth1.100"]
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


@pytest.mark.parametrize("name", ["eth1.100", "trunk-shop"])
def test_sub_interface_that_was_there_is_used_and_stays(vms: Cluster, name: str) -> None:
    one, two = vms.hosts
    one.add_vlan(100, name)
    was = one.links()[name]["ifindex"]
    vms.on_all(lambda host: host.network("shop", "shop"))
    assert (one.segments(), two.segments()) == ({name}, {"eth1.100"})
    near = start(one, "shop", HERE)
    start(two, "shop", THERE)
    assert one.pings(near, THERE)
    one.docker("rm", "-f", near)
    one.docker("network", "rm", "shop")
    assert one.links()[name]["ifindex"] == was
    assert "ifalias" not in one.links()[name]


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
    host.start("on-own", "own")
    assert host.segments() == {"eth1.100", "eth1.200"}


def test_untagged_beside_tagged(vms: Cluster, tmp_path: Path) -> None:
    one = vms.hosts[0]

    def populate(host: Host) -> None:
        host.network("shop", "shop", "-o", "parent=eth1")
        host.network("plain", "default", "-o", "parent=eth1", subnet=OTHER)
        host.start("plain", "plain", "--ip", "10.61.0.11" if host is one else "10.61.0.12")
        start(host, "shop", HERE if host is one else THERE)

    vms.on_all(populate)
    with vms.segment.capture(tmp_path / "frames") as frames:
        assert one.pings("plain", "10.61.0.12")
        assert one.pings("shop-11", THERE)
    tags = {frame.tags for frame in frames if "ICMP echo" in frame.text and "10.61.0." in frame.text}
    assert tags == {()}
    assert {frame.tags for frame in frames if "ICMP echo" in frame.text and HERE in frame.text} == {(100,)}


def test_sub_interface_is_back_after_a_reboot(vms: Cluster) -> None:
    one, two = vms.hosts  # etcd is on the first
    vms.on_all(lambda host: host.network("shop", "shop"))
    start(one, "shop", HERE)
    name = start(two, "shop", THERE)
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
    host.exec("sleep", "15")
    assert host.segments() == {"eth1.100", "eth1.400"}
