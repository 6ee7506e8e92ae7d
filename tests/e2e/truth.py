"""Whether a host's records, files and links agree with what its engine has."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.e2e import kit, wires
from tests.e2e.wires import Wired
from tests.lab.cluster import Lab
from tests.lab.commands import wait_for
from tests.lab.host import Host
from tests.lab.unixhttp import call

RUNNING = ("running", "paused", "restarting")


@dataclass(frozen=True, slots=True)
class Has:
    """What the engine has on qnet networks: endpoint ids by address, their networks by those, addresses asked for by
    stopped containers."""

    networks: dict[str, dict[str, Any]]
    endpoints: dict[str, str]
    places: dict[str, str]
    asked: frozenset[str]


def engine_has(host: Host) -> Has:
    """Ask a host's engine."""
    _, networks = call(host.docker_socket, "GET", "/networks", timeout=60)
    _, boxes = call(host.docker_socket, "GET", "/containers/json?all=1", timeout=60)
    own = {net["Id"]: net for net in networks if net["Driver"] == "qnet"}
    names = {net["Name"] for net in own.values()}
    endpoints, places, asked = {}, {}, set()
    for box in boxes:
        for name, end in box["NetworkSettings"]["Networks"].items():
            wanted = (end.get("IPAMConfig") or {}).get("IPv4Address")
            if name in names and box["State"] in RUNNING:
                endpoints[end["IPAddress"]] = end["EndpointID"]
                places[end["EndpointID"]] = end["NetworkID"]
            elif name in names and box["State"] != "created" and wanted:
                asked.add(wanted)
    return Has(own, endpoints, places, frozenset(asked))


def differences(lab: Lab, host: Host) -> list[str]:
    """Where records, files and links of a host differ from what its engine has; empty when all is well."""
    has, found = engine_has(host), []

    def compare(what: str, got: object, wanted: object) -> None:
        if got != wanted:
            found.append(f"{host.name}: {what}: {got}, the engine has {wanted}")

    store = kit.records(lab)
    own = [(key, one.fields) for key, one in store.items() if "/address/" in key and one.fields["host"] == host.name]
    endpoints = {key.rpartition("/")[2]: one for key, one in own if one["kind"] == "endpoint"}
    compare("addresses", {text: one.get("endpoint", "") for text, one in endpoints.items()}, has.endpoints)
    held = {key.rpartition("/")[2] for key, one in own if one["kind"] == "held"}
    compare("held addresses", held, set(has.asked) - set(has.endpoints))
    claims = {one["claim"] for one in endpoints.values()}
    macs = [one.fields for key, one in store.items() if "/macs/" in key and one.fields["host"] == host.name]
    compare("claims of MAC addresses", {one["claim"] for one in macs}, claims)
    uses = [one.fields["networks"] for key, one in store.items() if key.endswith(f"/use/{host.name}")]
    compare("networks counted on pools", sum(uses), len(has.networks))
    published = {key.rpartition("/")[2] for key in store if f"/networks/{host.name}/" in key}
    compare("published networks", published, set(has.networks))
    kept = {path.parent.name: set() for path in kit.files(host)} | {"networks": set(), "endpoints": set()}
    for path in kit.files(host):
        kept[path.parent.name].add(path.name.removesuffix(".json"))
    compare("networks on disk", kept["networks"], set(has.networks))
    compare("endpoints on disk", kept["endpoints"], set(has.endpoints.values()))
    journal = host.node.disk / "private/var/lib/qnet/releases.journal"
    compare("journal", journal.read_text() if journal.exists() else "", "")
    wired = [_wired(store, has, network) for network in has.networks]
    compare("kernel", wires.kernel(host), set().union(*(one.kernel() for one in wired)))
    vnis = {one.vni: one.options.get("tenant", "default") for one in wired if one.mode == "vxlan"}
    entered = {key for key in store if key.startswith("/qnet/v1/vteps/") and key.endswith(f"/{host.name}")}
    compare("VNIs", entered, {f"/qnet/v1/vteps/{vni}/{host.name}" for vni in vnis})
    for vni, tenant in vnis.items():
        compare(f"entries of VNI {vni}", wires.heard(host, vni), _told(store, host, vni, tenant))
    return found


def _wired(store: Mapping[str, kit.Record], has: Has, network: str) -> Wired:
    options: Mapping[str, str] = has.networks[network]["Options"]
    tenant = store.get(f"/qnet/v1/tenants/{options.get('tenant', 'default')}")
    ends = tuple(endpoint for endpoint, place in has.places.items() if place == network)
    return Wired(network, options, tenant.fields.get("vni", 0) if tenant else 0, ends)


def _told(store: Mapping[str, kit.Record], host: Host, vni: int, tenant: str) -> set[str]:
    """What a host's link must know by the records."""
    prefix = f"/qnet/v1/vteps/{vni}/"
    vteps = {key.removeprefix(prefix): one.fields["address"] for key, one in store.items() if key.startswith(prefix)}
    vteps.pop(host.name, None)
    contents = [one for one in store.values() if one.key.startswith(f"/qnet/v1/contents/{tenant}/")]
    addresses = [one for one in contents if "/address/" in one.key and one.fields.get("mac")]
    return wires.told(vteps, ((one.key.rpartition("/")[2], one.fields["mac"], one.fields["host"]) for one in addresses))


def agrees(lab: Lab, host: Host, within: float = kit.SETTLED_WITHIN) -> None:
    """Records, files and links agree with the engine, soon at least. Raises AssertionError."""
    left: list[str] = []

    def settled() -> bool:
        left[:] = differences(lab, host)
        return not left

    try:
        wait_for("agreement", settled, within, 0.1)
    except Exception as late:
        raise AssertionError(f"after {within:g} s: {'; '.join(left)}") from late


def duplicates(lab: Lab, hosts: list[Host]) -> list[str]:
    """Addresses that containers of several hosts have."""
    given = [text for host in hosts for text in engine_has(host).endpoints]
    return sorted({text for text in given if given.count(text) > 1})


def steps(host: Host) -> list[str]:
    """The steps that the faulty plugin of a host has taken since it was armed."""
    path = host.node.run / "qnet-fault.steps"
    return path.read_text().split("\n")[:-1] if path.exists() else []


def arm(host: Host, kill_at: int, where: str = "request") -> None:
    """Let the faulty plugin of a host count its steps, for the engine or in another thread, and die before one."""
    (host.node.run / "qnet-fault.steps").unlink(missing_ok=True)
    fresh = host.node.run / "qnet-fault.new"
    fresh.write_text(json.dumps({"kill_at": kill_at, "in": where}))
    fresh.rename(host.node.run / "qnet-fault.json")


def disarm(host: Host) -> None:
    """End the counting."""
    (host.node.run / "qnet-fault.json").unlink(missing_ok=True)
