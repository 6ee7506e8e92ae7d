"""What gateways are told: by ip(8) their addresses and routes, by nftables what passes. Pure.

`inside` is for a gateway's own namespace. `fence` is for the host, for all gateways together: their packets go out to
other machines and nowhere else, their addresses stay on this host. It keeps the host from routing between its own links
on networks (`host_access`), too.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Mapping
from hashlib import blake2s

from plugins.network.nat import INSIDE, OUTSIDE, TRANSFER, Gateway
from plugins.network.plan import BRIDGE_PREFIX, OUTSIDE_PREFIX, OWN_PREFIX, PREFIXES
from plugins.network.rules import VXLAN_PORT

TABLE = "inet qnet"
WIRE = "netdev qnet_gateways"
OWN = ("forward", "leaves", "enters", "input", "knocks", "postrouting")  # the chains of the host's table
HOOKS = ("ingress", "egress")
FROM_GATEWAYS = f'"{OUTSIDE_PREFIX}*"'
# Metadata services of clouds, and whatever else is near the host: none of a container's business (RFC 3927; AWS has
# fd00:ec2::254, Azure 168.63.129.16).
NEAR = {4: "{ 169.254.0.0/16, 168.63.129.16 }", 6: "{ fe80::/10, fd00:ec2::254 }"}
# A packet that leaves with the host's address would be one of its tunnel's for another host (RFC 7348; Linux's own).
VXLAN_PORTS = f"{{ {VXLAN_PORT}, 8472 }}"
WORD = {4: "ip", 6: "ip6"}
REMOVAL = "".join(f"add table {table}\ndelete table {table}\n" for table in (TABLE, WIRE))

_INSIDE = f"""
add table {TABLE}
delete table {TABLE}
table {TABLE} {{
    chain input {{
        type filter hook input priority filter; policy drop;
        ct state established,related accept
        icmp type echo-request accept
        icmpv6 type {{ echo-request, nd-neighbor-solicit, nd-neighbor-advert }} accept
    }}
    chain forward {{
        type filter hook forward priority filter; policy drop;
        ct state invalid drop
        iifname "{OUTSIDE}" oifname "{INSIDE}" ct state established,related accept
        RULES
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        oifname "{OUTSIDE}" masquerade
    }}
}}
"""

_HOST = f"""
table {TABLE} {{
    chain forward {{
        type filter hook forward priority filter; policy accept;
        iifname "{OWN_PREFIX}*" drop comment "who may talk to the host is not led on by it"
        oifname "{OWN_PREFIX}*" drop
        iifname {FROM_GATEWAYS} goto leaves
        oifname {FROM_GATEWAYS} goto enters
    }}
    chain leaves {{
        RULES
        udp dport {VXLAN_PORTS} drop
        ct status dnat drop comment "to this host's own services, by the rules of others"
    }}
    chain enters {{
        ct state established,related accept
        drop
    }}
    chain input {{
        type filter hook input priority filter; policy accept;
        iifname {FROM_GATEWAYS} goto knocks
    }}
    chain knocks {{
        icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
        drop
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr {TRANSFER[4]} oifname != {FROM_GATEWAYS} masquerade
        ip6 saddr {TRANSFER[6]} oifname != {FROM_GATEWAYS} masquerade
    }}
}}
"""


def inside(gateway: Gateway) -> str:
    """What nft does in a gateway's namespace: what comes from its subnets goes out in its name, replies come in."""
    way = f'iifname "{INSIDE}" oifname "{OUTSIDE}"'
    nets = [ipaddress.ip_network(subnet) for subnet in gateway.subnets]
    return _INSIDE.replace("RULES", _lines(f"{way} {WORD[net.version]} saddr {net} accept" for net in nets))


def fence(gateways: Collection[Gateway], links: Collection[str], *, host_access: bool = False) -> str:
    """What nft does on the host, in place of what it did before. Only links that are there can have rules."""
    if not (gateways or host_access):
        return REMOVAL
    rules = [f'oifname "{prefix}*" drop' for prefix in (*PREFIXES, BRIDGE_PREFIX)]
    for version, net in TRANSFER.items():
        word = WORD[version]
        rules += [f"{word} saddr != {net} drop", f"{word} daddr {NEAR[version]} drop"]
    walls = uplinks(gateways, links)
    wire = [f"add table {WIRE}"]
    for uplink, behind in walls.items():
        for hook in HOOKS:
            chain = f"{WIRE} {_chain(hook, uplink)}"
            kind = f'{{ type filter hook {hook} device "{uplink}" priority 0; policy accept; }}'
            wire += [f"add chain {chain} {kind}", *(f"add rule {chain} {rule}" for rule in _wall(behind))]
    return REMOVAL + _HOST.replace("RULES", _lines(rules)) + "\n".join(wire) + "\n"


def uplinks(gateways: Iterable[Gateway], links: Collection[str]) -> Mapping[str, list[Gateway]]:
    """The gateways behind each link that leads from their bridges to other hosts."""
    found: dict[str, list[Gateway]] = {}
    for gateway in gateways:
        if gateway.uplink in links:
            found.setdefault(gateway.uplink, []).append(gateway)
    return found


def fences(gateways: Collection[Gateway], links: Collection[str], *, host_access: bool = False) -> frozenset[str]:
    """What `plugins.network.filters.Filters.fences` finds once the fence is in force."""
    walls = {_chain(hook, uplink) for uplink in uplinks(gateways, links) for hook in HOOKS}
    return frozenset({*OWN, *walls} if gateways or host_access else ())


def _chain(hook: str, uplink: str) -> str:
    """A chain's name: a link's own may be none."""
    return f"{hook}_{blake2s(uplink.encode(), digest_size=4).hexdigest()}"


def _wall(gateways: Collection[Gateway]) -> Iterable[str]:
    """Every host has a gateway of this address: asking and telling where it is, and what is for it, stays here."""
    macs = _set(gateway.port.mac for gateway in gateways)
    parsed = [ipaddress.ip_address(address) for gateway in gateways for address in gateway.addresses]
    four, six = ([address for address in parsed if address.version == version] for version in (4, 6))
    yield from (f"ether {end} {macs} drop" for end in ("saddr", "daddr"))
    if four:
        yield from (f"arp {end} ip {_set(map(str, four))} drop" for end in ("saddr", "daddr"))
    if six:
        neighbour = "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert }"
        yield f"ip6 saddr {_set(map(str, six))} {neighbour} drop"
        yield f"{neighbour} @th,64,128 {_set(hex(int(address)) for address in six)} drop"


def links_inside(gateway: Gateway) -> str:
    """What ip(8) does in a gateway's namespace; doing it again changes nothing."""
    routes = (f"route replace default via {far.partition('/')[0]} dev {OUTSIDE}" for far in gateway.far)
    return _script(
        *(f"link set {name} up" for name in ("lo", INSIDE, OUTSIDE)),
        *(_address(text, INSIDE) for text in gateway.own),
        *(_address(text, OUTSIDE) for text in gateway.near),
        *routes,
    )


def links_outside(gateway: Gateway) -> str:
    """What ip(8) does on the host."""
    name = gateway.out.name
    return _script(f"link set {name} up", *(_address(text, name) for text in gateway.far))


def _address(text: str, link: str) -> str:
    # several hosts have the gateway's: none asks whether it is free
    return f"addr replace {text} dev {link}{' nodad' if ':' in text else ''}"


def _script(*lines: str) -> str:
    return "\n".join(lines) + "\n"


def _lines(rules: Iterable[str]) -> str:
    return "\n        ".join(rules)


def _set(items: Iterable[str]) -> str:
    return f"{{ {', '.join(sorted(set(items)))} }}"
