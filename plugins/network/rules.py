"""The nftables rules that keep an endpoint to its own addresses: a chain at the ingress of the host's end of its link.

Everything is dropped but what is named. What is let through goes on to a second chain, which hands it on; a third one
sees what the endpoint gets, at the device's egress. Counted is what most packets are not: dropped, or on its way out of
the tenant's subnets or in from there. The rest is what the device has moved besides: to count each packet took two
percent of a stream. Pure: `plugins.network.filters` gives it to nft.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeAlias

from plugins.network.frames import IPAddress
from plugins.network.plan import Guard

TABLE = "qnet"
UNDERLAY = "qnet_underlay"
VXLAN_PORT = 4789  # RFC 7348
# what bridges keep to themselves (IEEE 802.1D, 7.12.6): a bridge hands it to the host by the port, past its shield
RESERVED = "ether daddr & ff:ff:ff:ff:ff:f0 == 01:80:c2:00:00:00"
TAGGED = "ether type { 8021q, 8021ad }"  # another segment's: no bridge of ours looks at tags
DIRECTIONS = ("sent", "received")
EXTERNAL, DROPPED = "external", "dropped"
COUNTED = (("sent", EXTERNAL), ("sent", DROPPED), ("received", EXTERNAL))
# the type of a frame; where in its packet are, in bits: the protocol, the source, the destination (RFC 791, 8200)
FIELDS = {4: ("0800", 72, 96, 128), 6: ("86dd", 48, 64, 192)}
LINK_ONLY = ("0.0.0.0/32", "169.254.0.0/16", "224.0.0.0/24", "255.255.255.255/32", "::/128", "fe80::/10", "ff02::/16")
VNI = "@th,96,24"  # where its packets have it: nft 1.0.6 has no word for it
SETS = {"vnis": VNI, "senders": f"iifname . {VNI} . ip saddr", "senders6": f"iifname . {VNI} . ip6 saddr"}
SKELETON = (
    f"table inet {UNDERLAY} {{",
    *(line for name, what in SETS.items() for line in (f"set {name} {{", f"typeof {what}", "}")),
    "chain vxlan {",
    *(f"{what} @{name} accept" for name, what in SETS.items() if name != "vnis"),
    f"{VNI} != @vnis return",
    "drop",
    "}",
    "chain arriving {",
    "type filter hook prerouting priority raw; policy accept;",
    f"udp dport {VXLAN_PORT} jump vxlan",
    "}",
    "}",
)
IPNetwork: TypeAlias = "ipaddress.IPv4Network | ipaddress.IPv6Network"
Senders: TypeAlias = Mapping[int, frozenset[tuple[str, str]]]
"""For each VNI of the host who else is in it: an address, and the link by which its packets come."""
NOBODY = "0.0.0.0"  # noqa: S104 - the sender of who asks whether an address is free (RFC 5227)


def link_local(mac: str) -> ipaddress.IPv6Address:
    """The address that a link gives itself (modified EUI-64, RFC 4291, appendix A)."""
    octets = bytes.fromhex(mac.replace(":", ""))
    host = bytes([octets[0] ^ 2]) + octets[1:3] + b"\xff\xfe" + octets[3:]
    return ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + host)


def of(guard: Guard) -> tuple[str, ...]:
    """What is let through or dropped, in this order; the last rule drops the rest."""
    accept, drop = f"goto {guard.device}-sent", _count(guard, "sent", DROPPED, "drop")
    reserved = f"{RESERVED} {drop}"
    if not guard.checked:
        return (reserved, f"{TAGGED} {drop}", accept)
    parsed = [ipaddress.ip_address(address) for address in guard.addresses]
    four = [str(address) for address in parsed if address.version == 4]
    six = [*(address for address in parsed if address.version == 6), link_local(guard.mac)]
    mac, found = guard.mac.replace(":", ""), [*_common(guard, parsed)]
    found += [reserved, f"ether saddr != {guard.mac} {drop}", f"{TAGGED} {drop}"]
    if four:
        found += [
            f"arp htype 1 arp ptype ip arp saddr ether {guard.mac} arp saddr ip {_set([NOBODY, *four])} {accept}",
            # a server's, and what clients listen to: they do not look at where it comes from
            f"udp sport 67 {drop}",
            f"udp dport 68 {drop}",
            f"ip saddr {_set(four)} {accept}",
        ]
    if len(six) > 1:
        targets = _set(hex(int(address)) for address in six)
        found += [
            # fragments that could hide what the next rules look for: only these have their ports in the first one
            f"frag nexthdr != {{ tcp, udp, sctp, esp }} {drop}",
            f"icmpv6 type {{ nd-router-advert, nd-redirect }} {drop}",
            # the target of an advertisement, then the link's address that it, or a question, gives: nft 1.0.6 has no
            # words for them
            f"icmpv6 type nd-neighbor-advert @th,64,128 != {targets} {drop}",
            f"icmpv6 type nd-neighbor-advert @th,192,64 != 0x0201{mac} {drop}",
            f"ip6 saddr != :: icmpv6 type nd-neighbor-solicit @th,192,64 != 0x0101{mac} {drop}",
            f"udp sport 547 {drop}",
            f"udp dport 546 {drop}",
            f"ip6 saddr {_set(map(str, six))} {accept}",
            # who asks whether its own address is free, and who joins groups before it has one (RFC 4862, 3810)
            f"ip6 saddr :: icmpv6 type nd-neighbor-solicit @th,64,128 {targets} {accept}",
            f"ip6 saddr :: icmpv6 type mld2-listener-report {accept}",
        ]
    return (*found, drop)


def _common(guard: Guard, addresses: Iterable[IPAddress]) -> Iterator[str]:
    """TCP from an own address to one station of its subnet, untagged and, in IPv6, without options: most packets are
    that, so it is decided first. All that follows would let it pass."""
    onward = _onward(guard, "sent")
    for address in addresses:
        kind, tcp, source, destination = FIELDS[address.version]
        frame = f"meta pkttype other @ll,48,64 0x{guard.mac.replace(':', '')}{kind}"  # source and type in one
        own = f"{frame} @nh,{tcp},8 6 {_bytes(source, address)}"
        yield from (f"{own} {_bytes(destination, net)} {onward}" for net in _near(guard) if address in net)


def _bytes(offset: int, what: IPAddress | IPNetwork) -> str:
    """An address, or the prefix of a subnet, at so many bits of a packet. In nft's words the kernel would look at the
    type once more; and nft would list a type by its word as understood, and lose it when that is loaded again: then
    tagged frames would pass."""
    net = ipaddress.ip_network(what)
    return f"@nh,{offset},{net.prefixlen} {int(net.network_address) >> net.max_prefixlen - net.prefixlen:#x}"


def chains(device: str) -> tuple[str, str, str]:
    """The chains of an endpoint's device: at its ingress, what follows that, and at its egress."""
    return device, *(f"{device}-{direction}" for direction in DIRECTIONS)  # type: ignore[return-value]


def counter(device: str, direction: str, scope: str) -> str:
    """The name of one of the counters of an endpoint's device."""
    return f"{device}-{direction}-{scope}"


def script(guard: Guard) -> str:
    """What nft does, all of it or nothing, to put the rules into force; doing it again changes nothing, counters keep
    what they have."""
    ingress, sent, received = chains(guard.device)
    rules = {
        sent: _counted(guard, "sent", "daddr"),
        ingress: of(guard),
        received: _counted(guard, "received", "saddr"),
    }
    lines = [f"add table netdev {TABLE}", *(f"add {name}" for name in _counters(guard.device))]
    lines += [f"add chain netdev {TABLE} {sent}", _chain(guard.device), _chain(guard.device, "egress", received)]
    lines += [f"flush chain netdev {TABLE} {chain}" for chain in rules]
    lines += [f"add rule netdev {TABLE} {chain} {rule}" for chain, found in rules.items() for rule in found]
    return "\n".join(lines) + "\n"


def _counted(guard: Guard, direction: str, far: str) -> Iterator[str]:
    """Counts what has its far end outside; what is not IP never leaves the segment. The endpoint's own subnets come
    first: to compare with one is cheaper than to look into a set. What others sent may be tagged still."""
    inside = _onward(guard, direction)
    outside = _count(guard, direction, EXTERNAL, inside)
    for net in _near(guard):
        kind, _, source, destination = FIELDS[net.version]
        yield f"@ll,96,16 0x{kind} {_bytes(destination if direction == 'sent' else source, net)} {inside}"
    if direction == "received":
        yield f"{TAGGED} drop"
    nets = [ipaddress.ip_network(text) for text in (*LINK_ONLY, *guard.terms.internal)]
    for version, word in ((4, "ip"), (6, "ip6")):
        merged = ipaddress.collapse_addresses(net for net in nets if net.version == version)  # type: ignore[type-var]
        yield f"{word} {far} != {_set(map(str, merged))} {outside}"
    yield inside


def _near(guard: Guard) -> tuple[IPNetwork, ...]:
    """Those of the tenant's subnets that the endpoint has an address of."""
    own = [ipaddress.ip_address(address) for address in guard.addresses]
    nets = map(ipaddress.ip_network, guard.terms.internal)
    return tuple(net for net in nets if any(address in net for address in own))


def _onward(guard: Guard, direction: str) -> str:
    return f'fwd to "{guard.limiter}"' if guard.terms.egress and direction == "sent" else "accept"


def _count(guard: Guard, direction: str, scope: str, verdict: str) -> str:
    return f'counter name "{counter(guard.device, direction, scope)}" {verdict}'


def _counters(device: str) -> Iterator[str]:
    return (f"counter netdev {TABLE} {counter(device, *kind)}" for kind in COUNTED)


def removal(device: str) -> str:
    """What nft does to take a device's rules and counters away, whether there are any or not."""
    things = [*(f"chain netdev {TABLE} {chain}" for chain in chains(device)), *_counters(device)]
    made = (f"add {thing}" for thing in things)  # deleting what is not there is an error
    return "\n".join((f"add table netdev {TABLE}", *made, *(f"delete {thing}" for thing in things))) + "\n"


def shield(bridge: str) -> str:
    """What nft does so that the host itself is not on a segment: it would answer there for all of its addresses."""
    return "\n".join((f"add table netdev {TABLE}", _chain(bridge))) + "\n"


def underlay(senders: Senders, before: Senders | None = None) -> str:
    """What nft does so that only the other hosts of a VNI can send frames into it, over the underlay's link; without
    any VNI, what takes that away.

    It is asked before the host takes or forwards a packet: a container behind an address translation of this host would
    else speak in the host's name. VNIs of somebody else's VXLAN pass; a fragment too short to tell its VNI does not.

    Args:
        before: whose rules are in force; then only what changes is said. None: all is made anew.
    """
    fresh = [f"add table inet {UNDERLAY}", f"delete table inet {UNDERLAY}"]
    if not senders:
        return "\n".join(fresh) + "\n"
    had, has = _elements(before or {}), _elements(senders)
    lines = [] if before else [*fresh, *SKELETON]
    for word, pairs in (("delete", had - has), ("add", has - had)):
        for name in SETS:
            elements = sorted(element for where, element in pairs if where == name)
            if elements:
                lines.append(f"{word} element inet {UNDERLAY} {name} {_set(elements)}")
    return "\n".join(lines) + "\n"


def _elements(senders: Senders) -> set[tuple[str, str]]:
    found = {("vnis", str(vni)) for vni in senders}
    for vni, hosts in senders.items():
        found |= {("senders6" if ":" in vtep else "senders", f'"{link}" . {vni} . {vtep}') for link, vtep in hosts}
    return found


def _chain(device: str, hook: str = "ingress", name: str = "") -> str:
    policy = "drop" if hook == "ingress" else "accept"
    spec = f'{{ type filter hook {hook} device "{device}" priority 0; policy {policy}; }}'
    return f"add chain netdev {TABLE} {name or device} {spec}"


def _set(items: Iterable[str]) -> str:
    return f"{{ {', '.join(items)} }}"
