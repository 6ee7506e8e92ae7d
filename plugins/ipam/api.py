"""The IpamDriver calls of Docker's plugin protocol. Source: moby, libnetwork/ipams/remote/api."""

from __future__ import annotations

import msgspec

from plugins.ipam.service import Service
from qnet.engine import ADDRESS_SPACE
from qnet.wire import Empty, Plugin, caller_instance

ADDRESS_TYPE = "RequestAddressType"
GATEWAY = "com.docker.network.gateway"
CONTAINER_NAME = "com.docker.network.endpoint.name"


class Capabilities(msgspec.Struct, frozen=True):
    """No MAC address before the address: qnet derives one from the other. Replay, so that nothing is lost."""

    requires_mac: bool = msgspec.field(default=False, name="RequiresMACAddress")
    requires_replay: bool = msgspec.field(default=True, name="RequiresRequestReplay")


class AddressSpaces(msgspec.Struct, frozen=True):
    """One space for both: pools are the cluster's either way."""

    local: str = msgspec.field(default=ADDRESS_SPACE, name="LocalDefaultAddressSpace")
    shared: str = msgspec.field(default=ADDRESS_SPACE, name="GlobalDefaultAddressSpace")


class RequestPool(msgspec.Struct, frozen=True, rename="pascal"):
    """Asks for a pool for a new network, or again after the engine's restart."""

    address_space: str
    pool: str
    sub_pool: str = ""
    options: dict[str, str] | None = None
    v6: bool = False


class RequestPoolResponse(msgspec.Struct, frozen=True):
    """The pool, by an id that the engine keeps."""

    pool_id: str = msgspec.field(name="PoolID")
    pool: str = msgspec.field(name="Pool")
    data: dict[str, str] = msgspec.field(default_factory=dict, name="Data")


class ReleasePool(msgspec.Struct, frozen=True):
    """A network is removed."""

    pool_id: str = msgspec.field(name="PoolID")


class RequestAddress(msgspec.Struct, frozen=True):
    """Asks for one address; `Options` tell a gateway and, from engine 29 on, the container's name."""

    pool_id: str = msgspec.field(name="PoolID")
    address: str = msgspec.field(default="", name="Address")
    options: dict[str, str] | None = msgspec.field(default=None, name="Options")


class RequestAddressResponse(msgspec.Struct, frozen=True, rename="pascal"):
    """The address with its prefix length."""

    address: str
    data: dict[str, str] = {}


class ReleaseAddress(msgspec.Struct, frozen=True):
    """Gives one address back."""

    pool_id: str = msgspec.field(name="PoolID")
    address: str = msgspec.field(name="Address")


def register(plugin: Plugin, service: Service) -> None:
    """Serve the IpamDriver calls."""

    def request_pool(call: RequestPool) -> RequestPoolResponse:
        pool = service.request_pool(caller_instance(), call.pool, call.sub_pool, call.options or {}, call.v6)
        return RequestPoolResponse(str(pool), str(pool.subnet))

    def release_pool(call: ReleasePool) -> Empty:
        service.release_pool(call.pool_id)
        return Empty()

    def request_address(call: RequestAddress) -> RequestAddressResponse:
        options = call.options or {}
        if options.get(ADDRESS_TYPE) == GATEWAY:
            return RequestAddressResponse(service.request_gateway(caller_instance(), call.pool_id, call.address))
        container = options.get(CONTAINER_NAME, "")
        return RequestAddressResponse(service.request_address(caller_instance(), call.pool_id, call.address, container))

    def release_address(call: ReleaseAddress) -> Empty:
        service.release_address(call.pool_id, call.address)
        return Empty()

    plugin.query("/IpamDriver.GetCapabilities", Capabilities)
    plugin.query("/IpamDriver.GetDefaultAddressSpaces", AddressSpaces)
    plugin.call("/IpamDriver.RequestPool", RequestPool, request_pool)
    plugin.call("/IpamDriver.ReleasePool", ReleasePool, release_pool)
    plugin.call("/IpamDriver.RequestAddress", RequestAddress, request_address)
    plugin.call("/IpamDriver.ReleaseAddress", ReleaseAddress, release_address)
