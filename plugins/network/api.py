"""The NetworkDriver calls of Docker's plugin protocol. Source: moby, libnetwork/drivers/remote/api."""

from __future__ import annotations

import ipaddress
from typing import Any

import msgspec

from plugins.network.model import INTERNAL, Subnet
from plugins.network.service import Service
from qnet.errors import InvalidRequest
from qnet.wire import Empty, Id, Plugin


class Capabilities(msgspec.Struct, frozen=True, rename="pascal"):
    """Networks are the engine's own (scope global needs swarm mode), their traffic crosses hosts."""

    scope: str = "local"
    connectivity_scope: str = "global"
    gw_alloc_checker: bool = msgspec.field(default=True, name="GwAllocChecker")


class GwAllocCheck(msgspec.Struct, frozen=True, rename="pascal"):
    """Asks whether a network needs gateway addresses (engines from 28 on)."""

    options: dict[str, Any] | None = None


class GwAllocCheckResponse(msgspec.Struct, frozen=True):
    """An internal network needs none."""

    skip4: bool = msgspec.field(name="SkipIPv4")
    skip6: bool = msgspec.field(name="SkipIPv6")


class IPAMData(msgspec.Struct, frozen=True, rename="pascal"):
    """A subnet of a new network; addresses carry their prefix length."""

    address_space: str = ""
    pool: str = ""
    gateway: str = ""
    aux_addresses: dict[str, str] | None = None


class CreateNetwork(msgspec.Struct, frozen=True):
    """A new network of this engine."""

    network: Id = msgspec.field(name="NetworkID")
    options: dict[str, Any] | None = msgspec.field(default=None, name="Options")
    ipv4: tuple[IPAMData, ...] | None = msgspec.field(default=None, name="IPv4Data")
    ipv6: tuple[IPAMData, ...] | None = msgspec.field(default=None, name="IPv6Data")


class NetworkCall(msgspec.Struct, frozen=True):
    """A call about a network."""

    network: Id = msgspec.field(name="NetworkID")


class Interface(msgspec.Struct, frozen=True, omit_defaults=True):
    """An endpoint's addresses, with prefix lengths, and its MAC address."""

    address: str = msgspec.field(default="", name="Address")
    address6: str = msgspec.field(default="", name="AddressIPv6")
    mac: str = msgspec.field(default="", name="MacAddress")


class CreateEndpoint(msgspec.Struct, frozen=True):
    """A new endpoint of a network."""

    network: Id = msgspec.field(name="NetworkID")
    endpoint: Id = msgspec.field(name="EndpointID")
    interface: Interface | None = msgspec.field(default=None, name="Interface")
    options: dict[str, Any] | None = msgspec.field(default=None, name="Options")


class CreateEndpointResponse(msgspec.Struct, frozen=True, rename="pascal"):
    """Only what the engine left open: repeating what it gave is an error."""

    interface: Interface


class EndpointCall(msgspec.Struct, frozen=True):
    """A call about an endpoint."""

    network: Id = msgspec.field(name="NetworkID")
    endpoint: Id = msgspec.field(name="EndpointID")


class OperInfo(msgspec.Struct, frozen=True, rename="pascal"):
    """What is worth knowing of an endpoint."""

    value: dict[str, str]


class Join(msgspec.Struct, frozen=True):
    """A container takes an endpoint."""

    network: Id = msgspec.field(name="NetworkID")
    endpoint: Id = msgspec.field(name="EndpointID")
    sandbox: str = msgspec.field(default="", name="SandboxKey")
    options: dict[str, Any] | None = msgspec.field(default=None, name="Options")


class InterfaceName(msgspec.Struct, frozen=True, rename="pascal"):
    """The link's name on the host, and what its name in the container starts with."""

    src_name: str
    dst_prefix: str = "eth"


class JoinResponse(msgspec.Struct, frozen=True):
    """Without a gateway the engine would add one of its own bridge's: `DisableGatewayService` forbids it."""

    name: InterfaceName = msgspec.field(name="InterfaceName")
    gateway: str = msgspec.field(name="Gateway")
    gateway6: str = msgspec.field(name="GatewayIPv6")
    disable_gateway: bool = msgspec.field(name="DisableGatewayService")


def _address(cidr: str) -> str:
    """An address that came with a prefix length, without it. Raises InvalidRequest."""
    try:
        return str(ipaddress.ip_interface(cidr).ip)
    except ValueError as error:
        raise InvalidRequest(f"{cidr[:64]!r} is no address: {error}") from error


def _subnet(data: IPAMData) -> Subnet:
    try:
        subnet = str(ipaddress.ip_network(data.pool))
    except ValueError as error:
        raise InvalidRequest(f"{data.pool[:64]!r} is no subnet: {error}") from error
    named = data.aux_addresses or {}
    auxiliary = tuple(_address(cidr) for cidr in named.values())
    return Subnet(subnet, _address(data.gateway) if data.gateway else "", auxiliary, tuple(named))


def register(plugin: Plugin, service: Service) -> None:
    """Serve the NetworkDriver calls."""

    def gw_alloc_check(call: GwAllocCheck) -> GwAllocCheckResponse:
        internal = (call.options or {}).get(INTERNAL, False)
        return GwAllocCheckResponse(internal is True, internal is True)

    def create_network(call: CreateNetwork) -> None:
        data = [*(call.ipv4 or ()), *(call.ipv6 or ())]
        subnets = [_subnet(entry) for entry in data]
        service.create_network(call.network, call.options or {}, subnets, {entry.address_space for entry in data})

    def delete_network(call: NetworkCall) -> None:
        service.delete_network(call.network)

    def create_endpoint(call: CreateEndpoint) -> CreateEndpointResponse:
        interface = call.interface or Interface()
        addresses = [_address(cidr) for cidr in (interface.address, interface.address6) if cidr]
        mac = service.create_endpoint(call.network, call.endpoint, addresses, interface.mac, call.options or {})
        return CreateEndpointResponse(Interface() if interface.mac else Interface(mac=mac))

    def join(call: Join) -> JoinResponse:
        joined = service.join(call.network, call.endpoint, call.sandbox)
        no_gateway = not (joined.gateway or joined.gateway6)
        return JoinResponse(InterfaceName(joined.link), joined.gateway, joined.gateway6, no_gateway)

    def leave(call: EndpointCall) -> None:
        service.leave(call.network, call.endpoint)

    def delete_endpoint(call: EndpointCall) -> None:
        service.delete_endpoint(call.endpoint)

    def oper_info(call: EndpointCall) -> OperInfo:
        return OperInfo(service.oper_info(call.endpoint))

    plugin.query("/NetworkDriver.GetCapabilities", Capabilities)
    plugin.call("/NetworkDriver.GwAllocCheck", GwAllocCheck, gw_alloc_check)
    plugin.call("/NetworkDriver.CreateNetwork", CreateNetwork, create_network)
    plugin.call("/NetworkDriver.DeleteNetwork", NetworkCall, delete_network)
    plugin.call("/NetworkDriver.CreateEndpoint", CreateEndpoint, create_endpoint)
    plugin.call("/NetworkDriver.DeleteEndpoint", EndpointCall, delete_endpoint)
    plugin.call("/NetworkDriver.EndpointOperInfo", EndpointCall, oper_info)
    plugin.call("/NetworkDriver.Join", Join, join)
    plugin.call("/NetworkDriver.Leave", EndpointCall, leave)
    for call in (
        "ProgramExternalConnectivity",
        "RevokeExternalConnectivity",
        "DiscoverNew",
        "DiscoverDelete",
        "AllocateNetwork",
        "FreeNetwork",
    ):
        plugin.query(f"/NetworkDriver.{call}", Empty)
