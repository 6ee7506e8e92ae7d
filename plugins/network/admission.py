"""Who may stand where: a new network against its tenant, the link it asks for, and those that are there already.

Whoever is on a link untagged hears and says there what he likes, other tenants' tags and a host's own packets too,
unless a bridge of ours holds his containers to their addresses.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from plugins.network.model import BRIDGED, Ask, Network
from plugins.network.plan import Link
from plugins.network.ports import Owners
from qnet.errors import InvalidRequest
from qnet.schema import TenantRecord
from qnet.settings import Network as Wires
from qnet.tenants import DEFAULT


class Admission:
    """Refusals with what to type instead. Every method raises InvalidRequest, and NotFound, Unavailable."""

    def __init__(self, tenants: Owners, wires: Wires) -> None:
        self._tenants = tenants
        # over which tenants' VLANs and VNIs travel on this host, unless a link is named
        self._trunk = wires.parents.get(wires.parent, wires.parent)
        self._underlay = wires.parents.get(wires.underlay, wires.underlay) or self._trunk

    def check_tenant(self, ask: Ask, tenant: TenantRecord) -> None:
        """Whether a tenant may have such a network."""
        if ask.mode == "vxlan" and not tenant.vni:
            raise InvalidRequest(
                f"tenant {tenant.name} has no VNI, which mode=vxlan needs: qnet tenant set {tenant.name} --vni auto"
            )
        if ask.mode != "vxlan" and tenant.vni and not tenant.vlan and tenant.name != DEFAULT:
            raise InvalidRequest(
                f"tenant {tenant.name} has VNI {tenant.vni} and no VLAN, so a network of mode {ask.mode} would be "
                f"without its tag: add -o mode=vxlan"
            )
        if ask.macvlan_mode == "passthru" and not tenant.trusted:
            raise InvalidRequest(
                f"-o macvlan_mode=passthru gives a container all that its parent hears, and tenant {tenant.name} is "
                f"not trusted with that: choose another mode, or qnet tenant set {tenant.name} --trusted"
            )

    def check_tags(self, ask: Ask, tenant: TenantRecord, tags: Mapping[int, Link]) -> None:
        """Whether a tenant's network may stand on a link that carries the frames of VLANs without their tags.

        Args:
            tags: see `plan.tags`.
        """
        for vlan, link in tags.items():
            if vlan == tenant.vlan:
                continue
            owner = self._tenants.owner("vlan", vlan)
            if owner or (tenant.vlan and ask.mode != "vxlan"):
                has = f"VLAN {tenant.vlan}" if tenant.vlan else "no VLAN"
                raise InvalidRequest(
                    f"parent {ask.parent} carries VLAN {vlan}{f' of tenant {owner}' if owner else ''}, and tenant "
                    f"{tenant.name} has {has}: name the link that carries all of them, -o parent={link.parent}"
                )

    def check_company(self, made: Network, tenant: TenantRecord, others: Collection[Network]) -> None:
        """Whether who is beside a network is nobody whom it must not meet."""
        for other in others:
            if made.vni and other.vni == made.vni and other.trunk != made.trunk:
                raise InvalidRequest(
                    f"VNI {other.vni} travels over {other.trunk} on this host, for network {other.id[:12]}: "
                    f"-o parent={other.trunk}"
                )
        if made.vlan or made.vni:
            beside = [other for other in others if other.parent == made.trunk and not (other.vlan or other.vni)]
            for other in beside:
                if made.vni or other.mode not in BRIDGED:
                    self._refuse(self._tenants.get(other.tenant), made.trunk, "VXLAN packets" if made.vni else "VLANs")
        elif what := self._carried(made, others):
            self._refuse(tenant, made.parent, what)
        strangers = [other for other in others if other.parent == made.parent and other.tenant != made.tenant]
        if strangers and (vlan := made.vlan or (tenant.vlan if tenant.vlan in made.untagged else 0)):
            raise InvalidRequest(
                f"link {made.parent} carries VLAN {vlan}, which is tenant {made.tenant}'s, and network "
                f"{strangers[0].id[:12]} of tenant {strangers[0].tenant} stands on it: remove that one first"
            )

    def _carried(self, made: Network, others: Iterable[Network]) -> str:
        """What of others a link carries that an untagged network on it could hear or forge; empty if nothing."""
        here = [other for other in others if other.trunk == made.parent]
        if any(other.vni for other in here) or (made.parent == self._underlay and self._given("vni")):
            return "VXLAN packets"
        if made.mode in BRIDGED:
            return ""
        return (
            "VLANs" if any(other.vlan for other in here) or (made.parent == self._trunk and self._given("vlan")) else ""
        )

    def _given(self, kind: str) -> bool:
        """Whether any tenant has a tag of a kind: its frames may come by this host's link for them at any time."""
        return any(getattr(tenant, kind) for tenant in self._tenants.all())

    @staticmethod
    def _refuse(tenant: TenantRecord, link: str, what: str) -> None:
        if not tenant.trusted:
            raise InvalidRequest(
                f"parent {link} would carry {what} and, untagged, the frames of tenant {tenant.name}, who is not "
                f"trusted with that: name another link, or give {tenant.name} a VLAN"
            )


def check_sub_interface(made: Network, links: Mapping[str, Link]) -> None:
    """Whether the link that is to carry a network's VLAN does, if it is there. Raises InvalidRequest."""
    link = links.get(made.parent)
    if not made.vlan or link is None:
        return
    if (link.vlan, link.parent) != (made.vlan, made.trunk):
        raise InvalidRequest(
            f"link {made.parent} is there and is not VLAN {made.vlan} of {made.trunk}: remove or rename it"
        )
    if made.bridge and link.master not in ("", made.bridge):
        raise InvalidRequest(
            f"link {made.parent} is part of {link.master}, and a bridge over it would take it away from there: "
            f"-o parent={link.master}, or another mode"
        )
