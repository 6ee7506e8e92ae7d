"""The engines of all hosts, through their agents, by TLS. Every call has a deadline."""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import docker
import requests

from qnet.engine import REMOTE_API, remote_client
from qnet.errors import Conflict, Internal, InvalidRequest, NotFound, QnetError, Unavailable
from qnet.settings import Scheduler
from scheduler.model import Machine

CONNECT = 5.0  # seconds to reach a host
FRESH = 5.0  # seconds for which an idle connection is trusted
IDLE = 8  # connections kept for the next call, to each host
AUTH = "X-Registry-Auth"
BAD, GONE = 400, 404
KINDS: Mapping[int, type[QnetError]] = {
    400: InvalidRequest,
    403: InvalidRequest,
    404: NotFound,
    409: Conflict,
    500: Conflict,  # what the kernel, a plugin or the registry refuses
}


class ImageMissing(NotFound):
    """The host does not have the image."""


class Engines:
    """Calls of engines. Safe for many threads."""

    def __init__(self, settings: Scheduler) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._idle: defaultdict[tuple[str, str], list[tuple[float, Any]]] = defaultdict(list)

    def create(self, host: Machine, name: str, body: Mapping[str, Any], platform: str = "") -> str:
        """Make a container; returns its id. Raises ImageMissing, Conflict, InvalidRequest, Unavailable."""
        query = {"name": name, **({"platform": platform} if platform else {})}
        with self._client(host) as client:
            response = client.post(_url(client, "/containers/create"), params=query, json=body)
            if response.status_code == GONE and "image" in said(response).lower():
                raise ImageMissing(f"host {host.name}: {said(response)}")
            _check(response, host)
            return str(response.json()["Id"])

    def connect(self, host: Machine, network: str, container: str, settings: Mapping[str, Any]) -> None:
        """Put a container on one network more. Raises as `create`."""
        with self._client(host) as client:
            body = {"Container": container, "EndpointConfig": settings}
            _check(client.post(_url(client, f"/networks/{network}/connect"), json=body), host)

    def start(self, host: Machine, container: str) -> None:
        """Start a container; one that runs is no error. Raises as `create`."""
        with self._client(host) as client:
            _check(client.post(_url(client, f"/containers/{container}/start")), host)

    def remove(self, host: Machine, container: str, *, force: bool, volumes: bool = False) -> None:
        """Remove a container; one that is gone is no error. Raises Conflict: it runs; Unavailable."""
        with self._client(host) as client:
            query = {"force": int(force), "v": int(volumes)}
            response = client.delete(_url(client, f"/containers/{container}"), params=query)
            if response.status_code != GONE:
                _check(response, host)

    def ids(self, host: Machine) -> frozenset[str]:
        """The ids of all containers. Raises Unavailable."""
        with self._client(host) as client:
            response = client.get(_url(client, "/containers/json"), params={"all": 1})
            _check(response, host)
            return frozenset(str(entry["Id"]) for entry in response.json())

    def inspect(self, host: Machine, container: str) -> dict[str, Any] | None:
        """All of a container; None: there is none. Raises Unavailable."""
        with self._client(host) as client:
            return self._found(client.get(_url(client, f"/containers/{container}/json")), host)

    def create_network(self, host: Machine, body: Mapping[str, Any]) -> str:
        """Make a network; returns its id. Raises as `create`."""
        with self._client(host) as client:
            response = client.post(_url(client, "/networks/create"), json=body)
            _check(response, host)
            return str(response.json()["Id"])

    def inspect_network(self, host: Machine, network: str) -> dict[str, Any] | None:
        """All of a network; None: there is none. Raises Unavailable."""
        with self._client(host) as client:
            return self._found(client.get(_url(client, f"/networks/{network}")), host)

    def remove_network(self, host: Machine, network: str) -> None:
        """Remove a network; one that is gone is no error. Raises Conflict: it is in use; Unavailable."""
        with self._client(host) as client:
            response = client.delete(_url(client, f"/networks/{network}"))
            if response.status_code != GONE:
                _check(response, host)

    def pull(self, host: Machine, image: str, auth: str = "", platform: str = "") -> Iterator[Mapping[str, Any]]:
        """Pull an image, with a client's credentials; what the engine tells meanwhile. Raises as `create`."""
        query = {"fromImage": image, **({"platform": platform} if platform else {})}
        if "@" not in image and ":" not in image.rpartition("/")[2]:
            query["tag"] = "latest"
        headers = {AUTH: auth} if auth else {}
        with self._client(host, self._settings.pull_timeout) as client:
            response = client.post(_url(client, "/images/create"), params=query, headers=headers, stream=True)
            if response.status_code >= BAD:
                raise NotFound(f"host {host.name}: image {image} cannot be pulled: {said(response)}")
            for line in response.iter_lines():
                told = json.loads(line) if line else {}
                if told.get("error"):
                    raise NotFound(f"host {host.name}: image {image} cannot be pulled: {told['error']}")
                yield told

    def close(self) -> None:
        """Close what is idle."""
        with self._lock:
            clients = [client for found in self._idle.values() for _, client in found]
            self._idle.clear()
        for client in clients:
            client.close()

    @staticmethod
    def _found(response: requests.Response, host: Machine) -> dict[str, Any] | None:
        if response.status_code == GONE:
            return None
        _check(response, host)
        body: dict[str, Any] = response.json()
        return body

    @contextmanager
    def _client(self, host: Machine, timeout: float = 0.0) -> Iterator[Any]:
        """A connection to a host's engine; it is kept if all went well."""
        where = (host.url, host.api)
        with self._lock:
            since, client = self._idle[where].pop() if self._idle[where] else (0.0, None)
            old = [] if time.monotonic() - since < FRESH else [client, *(one for _, one in self._idle.pop(where, ()))]
        for one in filter(None, old):  # the other end may have closed it, and a partition have swallowed that
            one.close()
        client = None if old else client
        try:
            client = client or self._new(host)
            client.timeout = (CONNECT, timeout or self._settings.timeout)
            yield client
        except QnetError:
            self._keep(where, client)
            raise
        except (docker.errors.DockerException, requests.RequestException, OSError, ValueError) as error:
            if client is not None:
                client.close()
            raise Unavailable(f"host {host.name} does not answer at {host.url}: {_short(error)}") from error
        except BaseException:
            if client is not None:
                client.close()
            raise
        self._keep(where, client)

    def _keep(self, where: tuple[str, str], client: Any) -> None:
        with self._lock:
            if client is not None and len(self._idle[where]) < IDLE:
                self._idle[where].append((time.monotonic(), client))
                return
        if client is not None:
            client.close()

    def _new(self, host: Machine) -> Any:
        own = self._settings
        tls, version = (own.ca, own.cert, own.key), host.api or REMOTE_API
        return remote_client(f"tcp://{host.url}", tls, version, own.timeout)


def _url(client: Any, path: str) -> str:
    return f"{client.base_url}/v{client.api_version}{path}"


def _check(response: requests.Response, host: Machine) -> None:
    if response.status_code < BAD:
        return
    raise KINDS.get(response.status_code, Internal)(f"host {host.name}: {said(response)}")


def said(response: requests.Response) -> str:
    """What an engine says to a request that it refuses."""
    try:
        return str(response.json()["message"])
    except (ValueError, KeyError, TypeError):
        return response.text[:200]


def _short(error: BaseException) -> str:
    return str(error)[:300]
