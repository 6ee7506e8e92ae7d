"""What tests of placement have in common: a lab with agents and replicas, calls of them, and what may not be left."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.e2e import kit
from tests.lab.cluster import Lab
from tests.lab.commands import Result, wait_for
from tests.lab.host import Host
from tests.lab.unixhttp import call

HOLD = 8
SETTINGS = f"""
[ipam]
grace = 2.0
rest = 2
repair_interval = 1.0
[volume]
repair_interval = 1.0
[agent]
down_after = 3
usage_interval = 0.5
[scheduler]
hold = {HOLD}
listen = "0.0.0.0:7444"
"""
PLACEMENT = "/qnet/v1/placement/"
SLEEP = ("busybox", "sleep", "1d")
SETTLED = 25.0  # seconds until what was left half-way is settled: leases, the reconciler's grace, an agent's


@contextmanager
def lab(engine: str, directory: str, settings: str = "", hosts: int = 3, **shape: Any) -> Iterator[Lab]:
    """Hosts with placement, three unless said otherwise."""
    with Lab.up(
        hosts, engine=engine, settings=SETTINGS + settings, placement=True, directory=directory, replace=True, **shape
    ) as made:
        yield made
    assert made.leftovers() == []


@dataclass
class Fleet:
    """The lab, by the command `qnet` of a host and by the API of its replica."""

    lab: Lab

    @property
    def hosts(self) -> list[Host]:
        return self.lab.hosts

    def qnet(self, *words: str, on: int = 0, check: bool = True, timeout: float = 60) -> Result:
        return self.hosts[on].exec(".venv/bin/qnet", *words, check=check, timeout=timeout)

    def refused(self, *words: str, on: int = 0) -> str:
        done = self.qnet(*words, on=on, check=False)
        assert done.returncode == 1, (words, done.stdout, done.stderr)
        return done.stderr.strip()

    def run(self, name: str, *words: str, network: str = "web", on: int = 0) -> dict[str, Any]:
        """Run one container that sleeps; its answer."""
        nets = ("--network", network) if network else ()
        words = (*words, *SLEEP) if "busybox" not in words else words
        answer = json.loads(self.qnet("run", "--json", "-d", *nets, "--name", name, *words, on=on).stdout)
        found: dict[str, Any] = answer[0]
        return found

    def ps(self, *words: str, on: int = 0) -> dict[str, dict[str, Any]]:
        found = json.loads(self.qnet("ps", "--json", *words, on=on).stdout)
        return {one["name"]: one for one in found}

    def api(self, method: str, path: str, body: object = None, on: int = 0, timeout: float = 60) -> tuple[int, Any]:
        return call(self.hosts[on].scheduler.socket, method, path, body, timeout=timeout)

    def network(self, name: str = "web", *words: str) -> None:
        """A network of the cluster, on all hosts; containers that ask for no address get one of its upper half."""
        parent = ("-o", f"parent={kit.CREATE.parent}")
        mode = () if kit.CREATE.mode == "macvlan" else ("-o", f"mode={kit.CREATE.mode}")
        subnet = words or ("--subnet", kit.SUBNET, "--ip-range", kit.UPPER_HALF, "--gateway", kit.GATEWAY)
        self.qnet("network", "create", *subnet, *parent, *mode, name)

    def host(self, name: str) -> Host:
        return self.lab.host(name)

    def on(self, host: str, *, stopped: bool = False) -> set[str]:
        """The names of a host's containers that run, as its engine has them; or of all."""
        every = ("-a",) if stopped else ()
        return set(self.host(host).docker("ps", *every, "--format", "{{.Names}}").stdout.split())

    def records(self) -> dict[str, dict[str, Any]]:
        """The containers that the store knows of."""
        prefix = PLACEMENT + "containers/"
        return {key.removeprefix(prefix): one.fields for key, one in kit.records(self.lab, prefix).items()}

    def agree(self) -> None:
        """What runs is what the store and every replica know, each name once, each address once, soon at least."""
        wrong: list[str] = []

        def same() -> bool:
            wrong[:] = self._wrong()
            return not wrong

        try:
            wait_for("engines, store and replicas to agree", same, SETTLED, 0.5)
        except Exception as late:
            raise AssertionError("; ".join(wrong)) from late

    def _wrong(self) -> list[str]:
        there: dict[str, str] = {}
        found = []
        for host in self.hosts:
            for one in self._listed(host):
                name = one["Labels"].get("qnet.name") or one["Names"][0].lstrip("/")
                if name in there:
                    found.append(f"{name} is on {there[name]} and {host.name}")
                there[name] = host.name
        known = self.records()
        found += [f"{name} on {host} is not known" for name, host in there.items() if name not in known]
        found += [f"{name} is nowhere" for name in known if name not in there]
        found += [f"{name} is half-way" for name, one in known.items() if one.get("by")]
        held = kit.address_records(self.lab)
        owners = [one.get("container") for one in held.values() if one["kind"] in ("endpoint", "held") and one["host"]]
        found += [f"{name} has several addresses" for name in set(owners) if owners.count(name) > 1]
        found += [f"{name} has an address and is nowhere" for name in owners if name not in there]
        for number, host in enumerate(self.hosts):
            if host.scheduler.process:
                seen = {one["name"] for one in self.api("GET", "/v1/containers?all=1", on=number)[1]}
                found += [f"{host.name} knows {sorted(seen ^ set(known))[:5]} otherwise"] if seen != set(known) else []
        return found

    @staticmethod
    def _listed(host: Host) -> list[dict[str, Any]]:
        _, listed = call(host.docker_socket, "GET", "/containers/json?all=1", timeout=60)
        return list(listed)

    def restore(self) -> None:
        """Bring everything up that a test has taken down."""

        def up(host: Host) -> None:
            if not host.namespaces.holder:
                host.start()
            host.heal()
            services = [host.etcd, host.plugin, host.engine, host.agent, host.scheduler, host.gateway]
            if self.lab.shape.storage:
                services[1:1] = [host.storage, host.volume_plugin]
            for service in services:
                if service is not None and not service.process:
                    service.start()

        kit.at_once(up, self.hosts)
        for host in self.hosts:
            self.qnet("host", "ready", host.name)
        wait_for("all hosts to be ready", lambda: self.hosts[0].scheduler.hosts_up() == len(self.hosts), 30)

    def sweep(self) -> None:
        """Remove all that a test has made, by the service itself, then look for leaks."""
        self.restore()
        names = list(self.ps("-a"))
        if names:
            self.qnet("rm", "-f", *names, check=False, timeout=120)  # one may go by itself
        for address, record in kit.address_records(self.lab).items():
            if record["kind"] == "held" and not record["host"]:  # for a name, for a while
                self.qnet("address", "release", "--yes", address, check=False)  # it may be over by itself
        for network in self.api("GET", "/v1/networks")[1]:
            done = self.qnet("network", "rm", network["name"], check=False)
            if done.returncode:
                assert "has active endpoints" in done.stderr, done.stderr
                kit.at_once(kit.remove_all, self.hosts)  # who knows an engine that miscounts them
                self.qnet("network", "rm", network["name"])
        for host in self.hosts:
            for volume in host.docker("volume", "ls", "-q").stdout.split():
                host.docker("volume", "rm", volume, check=False)
        left: list[str] = []

        def clean() -> bool:
            left[:] = self.leaks()
            return not left

        try:
            wait_for("a clean fleet", clean, HOLD + 20, 0.5)
        except Exception as late:
            self._clear()
            raise AssertionError("; ".join(left)) from late

    def _clear(self) -> None:
        """What a test leaked fails that test, and not all that come after it."""
        kit.at_once(kit.remove_all, self.hosts)

    def leaks(self) -> list[str]:
        """Records, networks and addresses that nothing needs."""
        prefixes = (PLACEMENT + "containers/", PLACEMENT + "networks/", "/qnet/v1/contents/", "/qnet/v1/networks/")
        found = [key for prefix in prefixes for key in kit.records(self.lab, prefix) if "/resting/" not in key]
        for host in self.hosts:
            found += [f"{host.name}: {name}" for name in host.docker("ps", "-aq").stdout.split()]
            names = set(host.docker("network", "ls", "--format", "{{.Name}}").stdout.split())
            found += [f"{host.name}: network {name}" for name in names - kit.PREDEFINED]
        return found
