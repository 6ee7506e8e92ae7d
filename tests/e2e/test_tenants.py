"""Tenants on real engines: who may have networks, and how much. VLANs are tested in virtual machines."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.e2e import kit
from tests.e2e.kit import CREATE, qnet, refused
from tests.lab.cluster import Lab
from tests.lab.host import Host

SHOP = ("--ipam-opt", "tenant=shop", "-o", "tenant=shop")


@pytest.fixture
def shop(hosts: list[Host]) -> Iterator[list[Host]]:
    """The hosts, with a tenant that is removed in the end, when it has nothing any more."""
    qnet(hosts[0], "tenant", "create", "shop", CREATE.tag, "--supernet", "10.100.0.0/16")
    yield hosts
    kit.at_once(kit.remove_all, hosts)
    words = ("tenant", "rm", "shop", "--yes")
    kit.wait_for("the tenant's removal", lambda: qnet(hosts[0], *words, check=False).returncode == 0, 10)


def test_a_tenant_must_exist(lab: Lab, hosts: list[Host]) -> None:
    said = refused(hosts[0], *CREATE, "--subnet", "10.100.1.0/24", *SHOP, "web")
    assert "tenant shop does not exist: make it with qnet tenant create shop" in said
    kit.no_leaks(lab)


def test_a_tenant_has_its_own_subnets_and_no_more_than_it_may(lab: Lab, shop: list[Host]) -> None:
    said = refused(shop[0], *CREATE, "--subnet", "10.77.0.0/24", *SHOP, "web")
    assert "subnet 10.77.0.0/24 is not inside the supernets of tenant shop: 10.100.0.0/16" in said
    qnet(shop[1], "tenant", "set", "shop", "--max-networks", "1", "--max-addresses", "4")
    upper = ("--ip-range", "10.100.1.128/25")
    kit.network(shop[:2], "web", *SHOP, *upper, subnet="10.100.1.0/24", gateway="10.100.1.1")
    said = refused(shop[2], *CREATE, "--subnet", "10.100.2.0/24", *SHOP, "more")
    assert "tenant shop has 1 of 1 networks" in said
    for number, host in enumerate((shop[0], shop[1], shop[0])):
        kit.run(host, f"box{number}")
    said = refused(shop[1], *kit.run_args("late"))
    assert "tenant shop has all of the 4 addresses that it may have" in said
    said = refused(shop[1], *kit.run_args("later", "--ip", "10.100.1.99"))
    assert "tenant shop has all of the 4 addresses that it may have" in said
    shop[0].docker("rm", "-f", "box0")
    kit.run(shop[1], "next", "--ip", "10.100.1.99")


def test_a_tenant_with_something_stays_as_it_is(lab: Lab, shop: list[Host]) -> None:
    kit.network(shop[0], "web", *SHOP, subnet="", gateway="")
    has = json.loads(qnet(shop[1], "tenant", "inspect", "shop", "--json").stdout)["has"]
    assert has[0].startswith("pool 10.100.")
    for words in (("rm", "shop", "--yes"), ("rename", "shop", "store"), ("set", "shop", "--vlan", "auto")):
        done = qnet(shop[2], "tenant", *words, check=False)
        assert done.returncode == 1
        assert f"while it has {has[0]}" in done.stderr


@pytest.mark.mode("macvlan")
def test_a_kernel_without_vlans_says_so_and_keeps_nothing(lab: Lab, shop: list[Host]) -> None:
    """This kind of machine's kernel has no 802.1q; one that has it is what tests/vm is for."""
    qnet(shop[0], "tenant", "set", "shop", "--vlan", "100")
    if "the kernel makes vlan links" in qnet(shop[0], "doctor", check=False).stdout:
        kit.network(shop[0], "web", *SHOP, subnet="10.100.1.0/24", gateway="10.100.1.1")
        assert "eth1.100" in kit.links(shop[0])
        return
    said = refused(shop[0], *CREATE, "--subnet", "10.100.1.0/24", *SHOP, "web")
    assert "make link eth1.100 for VLAN 100 of eth1" in said
    assert "this kernel has no 802.1q: load it (modprobe 8021q)" in said
    kit.no_leaks(lab)
