"""A placement service on a store in process, with engines that are dictionaries: what `scheduler.engines` talks to."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from random import Random
from typing import Any

from flask import Flask
from flask.testing import FlaskClient

from qnet import schema
from qnet.errors import Conflict, InvalidRequest, NotFound, Unavailable
from qnet.schema import PoolRecord, TenantRecord, VolumeRecord
from qnet.store.base import Store
from qnet.store.commit import GroupCommit
from scheduler.addresses import Addresses
from scheduler.api import Api
from scheduler.audit import Audit
from scheduler.callers import Caller
from scheduler.commit import Desk
from scheduler.engines import ImageMissing
from scheduler.hosts import Hosts
from scheduler.known import Cluster
from scheduler.model import Machine, Net, Network
from scheduler.networks import Networks
from scheduler.reconcile import GRACE, Reconciler
from scheduler.runs import Runs
from scheduler.view import ALIVE, MACHINES, NETWORKS, REPLICAS, View, key
from scheduler.web import create_app

NOW = "2026-01-02T03:04:05+00:00"
SUBNET = "10.77.0.0/24"
ANN = Caller("operator ann")


class FakeEngines:
    """Engines of hosts by name, with what they hold. `fault` is called before each step and may raise."""

    def __init__(self) -> None:
        self.containers: dict[str, dict[str, dict[str, Any]]] = {}
        self.networks: dict[str, dict[str, dict[str, Any]]] = {}
        self.images: dict[str, set[str]] = {}
        self.pulled: list[tuple[str, str, str]] = []
        self.fault: Callable[[str], None] = lambda _: None

    def create(self, host: Machine, name: str, body: Mapping[str, Any], platform: str = "") -> str:
        self.fault("create")
        if body["Image"] not in self.images.setdefault(host.name, {"busybox"}):
            raise ImageMissing(f"host {host.name}: No such image: {body['Image']}:latest")
        there = self.containers.setdefault(host.name, {})
        if any(one["Name"] == f"/{name}" for one in there.values()):
            raise Conflict(f'host {host.name}: Conflict. The container name "/{name}" is already in use')
        if len(name) < 2:
            raise InvalidRequest(f"host {host.name}: Invalid container name ({name})")
        made = secrets.token_hex(32)
        there[made] = {
            "Id": made,
            "Name": f"/{name}",
            "Config": {"Labels": dict(body.get("Labels") or {}), "Image": body["Image"], "Env": body.get("Env")},
            "HostConfig": dict(body.get("HostConfig") or {}),
            "State": {"Status": "created", "ExitCode": 0, "StartedAt": "0001-01-01T00:00:00Z"},
            "NetworkSettings": {"Networks": dict((body.get("NetworkingConfig") or {}).get("EndpointsConfig") or {})},
            "Mounts": [],
        }
        self.fault("created")
        return made

    def connect(self, host: Machine, network: str, container: str, settings: Mapping[str, Any]) -> None:
        self.fault("connect")
        self._get(host, container)["NetworkSettings"]["Networks"][network] = dict(settings)

    def start(self, host: Machine, container: str) -> None:
        self.fault("start")
        self._get(host, container)["State"] |= {"Status": "running", "StartedAt": "2026-01-02T03:04:06Z"}
        self.fault("started")

    def remove(self, host: Machine, container: str, *, force: bool, volumes: bool = False) -> None:
        self.fault("remove")
        there = self.containers.setdefault(host.name, {})
        found = self.inspect(host, container)
        if found is not None:
            if found["State"]["Status"] == "running" and not force:
                raise Conflict(f"host {host.name}: You cannot remove a running container {found['Id']}")
            del there[found["Id"]]

    def ids(self, host: Machine) -> frozenset[str]:
        self.fault("list")
        return frozenset(self.containers.get(host.name, {}))

    def inspect(self, host: Machine, container: str) -> dict[str, Any] | None:
        self.fault("inspect")
        there = self.containers.setdefault(host.name, {})
        return there.get(container) or next((one for one in there.values() if one["Name"] == f"/{container}"), None)

    def create_network(self, host: Machine, body: Mapping[str, Any]) -> str:
        self.fault("create network")
        there = self.networks.setdefault(host.name, {})
        if body["Name"] in there:
            raise Conflict(f"host {host.name}: network with name {body['Name']} already exists")
        there[body["Name"]] = {**body, "Id": secrets.token_hex(32)}
        return str(there[body["Name"]]["Id"])

    def inspect_network(self, host: Machine, network: str) -> dict[str, Any] | None:
        return self.networks.setdefault(host.name, {}).get(network)

    def remove_network(self, host: Machine, network: str) -> None:
        self.networks.setdefault(host.name, {}).pop(network, None)

    def pull(self, host: Machine, image: str, auth: str = "", platform: str = "") -> Iterator[Mapping[str, Any]]:
        self.fault("pull")
        if image.startswith("nosuch"):
            raise NotFound(f"host {host.name}: image {image}: not found")
        self.pulled.append((host.name, image, auth))
        yield {"status": "Pulling"}
        self.images.setdefault(host.name, {"busybox"}).add(image)
        yield {"status": "Downloaded"}

    def _get(self, host: Machine, container: str) -> dict[str, Any]:
        found = self.inspect(host, container)
        if found is None:
            raise NotFound(f"host {host.name}: No such container: {container}")
        return found

    def close(self) -> None:
        pass


class World:
    """One replica, hosts with a network `web`, and a client of its API who is Ann, or whoever is named."""

    def __init__(self, store: Store, hosts: int = 3, replica: str = "r1", engines: FakeEngines | None = None) -> None:
        self.store = store
        self.engines = engines or FakeEngines()
        self.clock = 0.0
        store.put(key(REPLICAS, replica), b"")
        self.view = View(store)
        self.addresses = Addresses(store, 1, lambda: NOW, Random(replica))
        self.desk = Desk(store, GroupCommit(store), self.view, self.addresses, lambda: NOW, Random(replica), replica)
        known = Cluster(store, self.view)
        self.runs = Runs(self.desk, self.view, self.engines, known, 3600, 1 << 30)  # type: ignore[arg-type]
        self.reconciler = Reconciler(
            self.view, self.desk, self.runs, self.engines, replica, lambda: self.clock  # type: ignore[arg-type]
        )  # fmt: skip
        self.audit: list[tuple[str, ...]] = []
        audit = Audit("", lambda: NOW)
        audit.note = lambda *words, **more: self.audit.append((*words, *more.values()))  # type: ignore[method-assign]
        networks = Networks(store, self.view, self.engines, self.addresses, lambda: NOW)  # type: ignore[arg-type]
        hosts_ = Hosts(store, self.view, self.desk)
        self.api = Api(self.view, self.runs, hosts_, networks, audit, self.engines)  # type: ignore[arg-type]
        self.caller = ANN
        self.app: Flask = create_app(self.api.routes(), lambda: self.caller)
        for number in range(hosts):
            self.host(f"host{number + 1}")
        self.network("web", SUBNET)
        self.view.start()

    def host(self, name: str, alive: bool = True, **fields: Any) -> None:
        """A host, as its agent tells of it."""
        nets = {"web": Net("default", "qnet", (f"default/{SUBNET}",))}
        nets["shop"] = Net("shop", "qnet", ("shop/10.9.0.0/24",))
        given = {"cpus": 4000, "memory": 8 << 30, "url": f"{name}:7443", "api": "1.41", "networks": nets,
                 "parents": frozenset({"eth1"})} | fields  # fmt: skip
        self.store.put(key(MACHINES, name), schema.encode(Machine(name=name, **given)))
        if alive:
            self.store.put(key(ALIVE, name), b"")

    def network(self, name: str, subnet: str, tenant: str = "default") -> None:
        """A network of the cluster with its pool."""
        made = Network(name=name, id=f"id-{name}", since=NOW, tenant=tenant, options={"parent": "eth1"})
        self.store.put(key(NETWORKS, name), schema.encode(made))
        pool = PoolRecord(tenant=tenant, subnet=subnet, since=NOW)
        self.store.put(schema.pool_key(tenant, subnet), schema.encode(pool))

    def tenant(self, name: str, **limits: int) -> None:
        """A tenant, with a network and a volume named like it, and `-data`."""
        self.store.put(schema.tenant_key(name), schema.encode(TenantRecord(name=name, since=NOW, **limits)))
        self.network(name, "10.9.0.0/24" if name == "shop" else "10.10.0.0/24", name)
        volume = VolumeRecord(name=f"{name}-data", id=name, tenant=name, pool="p", since=NOW, ready=True)
        self.store.put(schema.volume_key(f"{name}-data"), schema.encode(volume))
        self.view.catch_up()

    def client(self) -> FlaskClient:
        """Calls the API as `caller`; the replica knows all that the store has."""
        self.view.catch_up()
        return self.app.test_client()

    def call(self, method: str, path: str, body: object = None, **query: str) -> tuple[int, Any]:
        """One call; status and answer."""
        answer = self.client().open(path, method=method, json=body, query_string=query)
        return answer.status_code, answer.json

    def run(self, name: str = "", **fields: Any) -> Any:
        """Run a container on `web`; its answer, which must be good."""
        status, answer = self.call("POST", "/v1/runs", asked(name, **fields))
        assert status == 201, answer
        return answer["containers"] if fields.get("instances") else answer["containers"][0]

    def refused(self, body: Mapping[str, Any]) -> tuple[int, str]:
        """A run that must be refused and leave nothing; status and words."""
        before = self.content()
        status, answer = self.call("POST", "/v1/runs", body)
        assert status >= 400, answer
        assert self.content() == before
        return status, answer["message"]

    def content(self) -> dict[str, Any]:
        """What is there, but for what only counts writes: records, and containers of engines."""
        found: dict[str, Any] = {
            kv.key: kv.value
            for kv in self.store.range(schema.ROOT).kvs
            if not any(part in kv.key for part in ("/ledgers/", "/quotas/", "/groups/", "/resting/"))
        }
        found |= {f"{host}/{one}": True for host, there in self.engines.containers.items() for one in there}
        return found

    def later(self, seconds: float = GRACE + 1) -> None:
        """The reconciler looks, and looks again after that long."""
        self.view.catch_up()
        self.reconciler.once()
        self.clock += seconds
        self.reconciler.once()

    def close(self) -> None:
        """End threads."""
        self.runs.close()
        self.addresses.close()
        self.view.close()


def asked(name: str = "", network: str = "web", address: str = "auto", **fields: Any) -> dict[str, Any]:
    """The body of a run."""
    body = {"name": name, "container": {"Image": "busybox"}}
    return body | ({"networks": [{"name": network, "address": address}]} if network else {}) | fields


def away(step: str, *steps: str) -> Callable[[str], None]:
    """A fault: these steps meet a host that does not answer."""

    def fault(now: str) -> None:
        if now in (step, *steps):
            raise Unavailable(f"host away at {now}")

    return fault
