"""Not a load: tenants with a VNI each, and what another host tells of them; from inside a host, as etcd is there."""

from __future__ import annotations

from typing import Any

from qnet import schema
from qnet.schema import AddressRecord, VtepRecord
from qnet.store.base import Put
from qnet.store.etcd import EtcdStore
from qnet.tenants import Change, Tenants
from tests.bench import records

AWAY, VTEP = "away", "10.99.0.250"


class TenantsWithVnis:
    """Orders: `make` tenants, `arrive`: a container of each on a host that is none of the lab's."""

    def __init__(self, endpoint: str, subnet: str, **_: Any) -> None:
        self._store, self._subnet = EtcdStore((endpoint,)), subnet

    def order(self, do: str, vnis: list[int], generation: int = 0, **_: Any) -> dict[str, str]:
        """Tenants are named by their VNIs. `arrive` returns the MAC address by tenant, another for each generation."""
        if do == "make":
            tenants = Tenants(self._store, lambda: records.SINCE)
            for vni in vnis:
                tenants.create(f"t{vni}", Change(vni=vni))
            return {}
        found = {
            f"t{vni}": f"02:bb:{generation:02x}:{vni >> 16:02x}:{vni >> 8 & 255:02x}:{vni & 255:02x}" for vni in vnis
        }
        puts = [Put(schema.vtep_key(vni, AWAY), schema.encode(VtepRecord(address=VTEP))) for vni in vnis]
        address = self._subnet.replace("0/24", str(100 + generation))
        for tenant, mac in found.items():
            record = AddressRecord(kind="endpoint", host=AWAY, since=records.SINCE, claim=mac, mac=mac)
            puts.append(Put(schema.address_key(tenant, self._subnet, address), schema.encode(record)))
        records.write(self._store, puts)
        return found
