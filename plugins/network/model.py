"""The values of the network driver: what a network was made with, which endpoints it has."""

from __future__ import annotations

import ipaddress
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, get_args

import msgspec

from plugins.network.terms import Limits, Terms, network_limits
from qnet.errors import InvalidRequest
from qnet.folder import Kept
from qnet.tenants import DEFAULT, parse_tenant

MacvlanMode: TypeAlias = Literal["bridge", "private", "vepa", "passthru"]
MACVLAN_MODES: tuple[str, ...] = get_args(MacvlanMode)
ModeName: TypeAlias = Literal["macvlan", "bridge", "vxlan", "ipvlan"]
MODE_NAMES: tuple[str, ...] = get_args(ModeName)
OPTIONS = (
    *("parent", "mode", "macvlan_mode", "mtu", "host_access", "spoof_check", "nat", "arp_probe", "tenant"),
    *("egress", "ingress"),
)
BRIDGED: tuple[ModeName, ...] = ("bridge", "vxlan")  # whose containers are ports of a bridge
NEEDS = {"macvlan_mode": ("macvlan",), "spoof_check": BRIDGED, "arp_probe": ("macvlan", "bridge", "ipvlan")}
MIN_MTU = {4: 68, 6: 1280}
MAX_MTU = 65535

GENERIC = "com.docker.network.generic"
INTERNAL = "com.docker.network.internal"


class Subnet(msgspec.Struct, frozen=True):
    """A subnet of a network; `gateway` and `auxiliary` without prefix lengths, `gateway` may be empty."""

    subnet: str
    gateway: str = ""
    auxiliary: tuple[str, ...] = ()
    auxiliary_names: tuple[str, ...] = ()


class Network(Kept, frozen=True, kw_only=True):
    """A network of this host's engine, as it is kept on disk. `mtu` 0: the parent's.

    With a `vlan`, `parent` is the sub-interface of that VLAN on the link `trunk`; with a `vni`, it is the VXLAN link
    whose packets travel over `trunk`. In modes bridge and vxlan, `bridge` joins the endpoints; it is the parent itself
    if that is one. With `nat`, `pair` tells its gateway's way to the host from those of others on this host.
    `untagged`: the VLANs whose frames the link that was asked for carries without their tags.
    """

    v: int = 1
    tenant: str
    subnets: tuple[Subnet, ...]
    parent: str
    macvlan_mode: MacvlanMode = "bridge"
    mtu: int = 0
    internal: bool = False
    host_access: bool = False
    host_addresses: tuple[str, ...] = ()
    trunk: str = ""
    vlan: int = 0
    vni: int = 0
    untagged: tuple[int, ...] = ()
    mode: ModeName = "macvlan"
    bridge: str = ""
    spoof_check: bool = True
    nat: bool = False
    pair: int = 0
    arp_probe: bool = False
    limits: Limits = Limits()

    @property
    def shares_mac(self) -> bool:
        """Whether the containers have the MAC address of the parent, and none of their own."""
        return self.mode == "ipvlan"

    def subnet_of(self, address: str) -> str:
        """The subnet of the network that an address is in.

        Raises:
            InvalidRequest: it is in none.
        """
        parsed = ipaddress.ip_address(address)
        for entry in self.subnets:
            if parsed in ipaddress.ip_network(entry.subnet):
                return entry.subnet
        raise InvalidRequest(f"address {address} is in no subnet of network {self.id[:12]}")


class Endpoint(Kept, frozen=True, kw_only=True):
    """An endpoint between CreateEndpoint and DeleteEndpoint; addresses without prefix lengths. `mac` may be empty.

    `limits` are those that it was made with, `terms` what is in force. `request`: the id under which it was made.
    """

    v: int = 1
    network: str
    addresses: tuple[str, ...]
    mac: str
    joined: bool = False
    limits: Limits = Limits()
    terms: Terms = Terms()
    request: str = ""


class Ask(msgspec.Struct, frozen=True):
    """What CreateNetwork asks for, options parsed."""

    id: str
    tenant: str
    subnets: tuple[Subnet, ...]
    parent: str
    macvlan_mode: MacvlanMode
    mtu: int
    internal: bool
    host_access: bool
    mode: ModeName = "macvlan"
    spoof_check: bool = True
    nat: bool = False
    arp_probe: bool = False
    limits: Limits = Limits()


def parse_options(options: Mapping[str, Any]) -> tuple[Mapping[str, str], bool]:
    """The `-o` options and whether the network is internal.

    Raises:
        InvalidRequest: an option is unknown or no text.
    """
    generic = options.get(GENERIC) or {}
    if not isinstance(generic, Mapping):
        raise InvalidRequest(f"{GENERIC} is no map of options")
    for name, value in generic.items():
        if name.startswith("com.docker.network."):
            continue
        if name not in OPTIONS:
            raise InvalidRequest(f"-o {name[:64]}: no such option; there are: {', '.join(OPTIONS)}")
        if not isinstance(value, str):
            raise InvalidRequest(f"-o {name}: its value is no text")
    internal = options.get(INTERNAL, False)
    return {name: value for name, value in generic.items() if name in OPTIONS}, internal is True or internal == "true"


def parse_ask(
    network: str, options: Mapping[str, Any], subnets: Sequence[Subnet], parent: str, underlay: str = ""
) -> Ask:
    """CreateNetwork's options as values.

    Args:
        parent: the host's default parent, for networks that name none.
        underlay: the same for networks of mode vxlan; empty: `parent`.

    Raises:
        InvalidRequest: naming the option, its value and what is allowed.
    """
    given, internal = parse_options(options)
    mode = given.get("mode", "macvlan")
    if mode not in MODE_NAMES:
        raise InvalidRequest(f"-o mode={mode[:32]}: no such mode; there are: {', '.join(MODE_NAMES)}")
    for option, needs in NEEDS.items():
        if option in given and mode not in needs:
            raise InvalidRequest(
                f"-o {option}={given[option][:32]} needs mode={' or '.join(needs)}: networks of mode {mode} have none"
            )
    macvlan = given.get("macvlan_mode", "bridge")
    if macvlan not in MACVLAN_MODES:
        raise InvalidRequest(f"-o macvlan_mode={macvlan[:32]}: no such mode; there are: {', '.join(MACVLAN_MODES)}")
    host_access = _flag("host_access", given.get("host_access", "false"))
    if host_access and macvlan != "bridge":
        raise InvalidRequest(
            f"-o host_access=true needs macvlan_mode=bridge: in mode {macvlan} nothing reaches the host"
        )
    if given.get("parent") == "":
        raise InvalidRequest("-o parent= is empty: name a link, or leave it out for the one of the settings")
    tenant = parse_tenant(given.get("tenant", DEFAULT))
    return Ask(
        id=network,
        tenant=tenant,
        subnets=tuple(subnets),
        parent=given.get("parent", (underlay if mode == "vxlan" else "") or parent),
        mode=mode,  # type: ignore[arg-type]
        spoof_check=_flag("spoof_check", given.get("spoof_check", "true")),
        arp_probe=_flag("arp_probe", given.get("arp_probe", "false")),
        macvlan_mode=macvlan,  # type: ignore[arg-type]
        mtu=_mtu(given.get("mtu", "0"), subnets),
        internal=internal,
        host_access=host_access,
        nat=_flag("nat", given.get("nat", "false")),
        limits=network_limits(given),
    )


def check_mac(text: str) -> None:
    """Whether a MAC address that a user asked for, if any, is one that a link can have.

    Raises:
        InvalidRequest: it is none, is 0 or names a group.
    """
    try:
        octets = bytes.fromhex(text.replace(":", ""))
    except ValueError as error:
        raise InvalidRequest(f"MAC address {text[:32]!r} is none: {error}") from error
    if text and (len(octets) != 6 or not any(octets) or octets[0] & 1):
        raise InvalidRequest(f"MAC address {text[:32]} is not one that a link can have: 02:… to fe:…, first byte even")


def _flag(name: str, text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise InvalidRequest(f"-o {name}={text[:32]}: true or false")
    return text.lower() == "true"


def _mtu(text: str, subnets: Sequence[Subnet]) -> int:
    versions = {ipaddress.ip_network(entry.subnet).version for entry in subnets}
    least = max((MIN_MTU[version] for version in versions), default=MIN_MTU[4])
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 6 else -1
    if number != 0 and not least <= number <= MAX_MTU:
        raise InvalidRequest(f"-o mtu={text[:32]}: a number from {least} to {MAX_MTU}, or 0 for the parent's")
    return number


def command_with_driver(subnets: Sequence[Subnet], options: Mapping[str, str], internal: bool) -> str:
    """The `docker network create` that would have been right, for who left the IPAM driver out."""
    words = ["docker network create -d qnet --ipam-driver qnet"]
    if options.get("tenant", DEFAULT) != DEFAULT:
        words.append(f"--ipam-opt tenant={options['tenant']}")
    if any(ipaddress.ip_network(entry.subnet).version == 6 for entry in subnets):
        words.append("--ipv6")
    for entry in subnets:
        words.append(f"--subnet {entry.subnet}")
        words += [f"--gateway {entry.gateway}"] if entry.gateway else []
        named = zip(entry.auxiliary_names, entry.auxiliary, strict=False)
        words += [f"--aux-address {shlex.quote(f'{name}={address}')}" for name, address in named]
    words += ["--internal"] if internal else []
    words += [f"-o {name}={value}" for name, value in options.items()]
    return " ".join([*words, "NAME"])
