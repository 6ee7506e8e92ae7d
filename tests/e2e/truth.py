"""Whether a host's records, files and links agree with what its engine has."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tests.e2e import kit
from tests.lab.cluster import Lab
from tests.lab.commands import wait_for
from tests.lab.host import Host
from tests.lab.unixhttp import call

RUNNING = ("running", "paused", "restarting")


@dataclass(frozen=True, slots=True)
class Has:
    """What the engine has on qnet networks: endpoint ids by address, addresses asked for by stopped containers."""

    networks: dict[str, dict[str, Any]]
    endpoints: dict[str, str]
    asked: frozenset[str]


def engine_has(host: Host) -> Has:
    """Ask a host's engine."""
    _, networks = call(host.docker_socket, "GET", "/networks", timeout=60)
    _, boxes = call(host.docker_socket, "GET", "/containers/json?all=1", timeout=60)
    own = {net["Id"]: net for net in networks if net["Driver"] == "qnet"}
    names = {net["Name"] for net in own.values()}
    endpoints, asked = {}, set()
    for box in boxes:
        for name, end in box["NetworkSettings"]["Networks"].items():
            wanted = (end.get("IPAMConfig") or {}).get("IPv4Address")
            if name in names and box["State"] in RUNNING:
                endpoints[end["IPAddress"]] = end["EndpointID"]
            elif name in names and box["State"] != "created" and wanted:
                asked.add(wanted)
    return Has(own, endpoints, frozenset(asked))


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
    names = [name for name in kit.links(host) if name not in kit.LINKS]
    shims = {f"qh-{one}"[:15] for one, net in has.networks.items() if net["Options"].get("host_access") == "true"}
    bridged = [one for one, net in has.networks.items() if net["Options"].get("mode") == "bridge"]
    gateways = [one for one in bridged if has.networks[one]["Options"].get("nat") == "true"]
    routed = {f"{prefix}-{one}"[:15] for one in gateways for prefix in ("qr", "qu")}
    compare("links", set(names), shims | routed | ({"qb-eth1"} if bridged else set()))
    compare("namespaces", kit.namespaces(host), {f"qnet-{one[:12]}" for one in gateways})
    return found


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


def arm(host: Host, kill_at: int) -> None:
    """Let the faulty plugin of a host count its steps, and die before one of them."""
    (host.node.run / "qnet-fault.steps").unlink(missing_ok=True)
    fresh = host.node.run / "qnet-fault.new"
    fresh.write_text(json.dumps({"kill_at": kill_at}))
    fresh.rename(host.node.run / "qnet-fault.json")


def disarm(host: Host) -> None:
    """End the counting."""
    (host.node.run / "qnet-fault.json").unlink(missing_ok=True)
