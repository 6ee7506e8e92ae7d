"""This host's engine, as its agent asks it. Each call has a deadline."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import docker
import requests

from qnet import metrics
from qnet.errors import Conflict, QnetError, Unavailable
from scheduler.engines import said
from scheduler.model import Network
from scheduler.translate import network_body

logger = logging.getLogger(__name__)

LOCAL, EVENTS = "local", "events"
TYPES = ["container", "network", "volume", "image"]
AWAY = 1.0  # seconds between two tries to follow events


class Dockerd:
    """The engine behind a unix socket."""

    def __init__(self, socket: str, timeout: float) -> None:
        self._url = f"unix://{socket}"
        self._timeout = timeout
        self._version = "auto"
        self.up = False  # whether it has answered last time

    def info(self) -> dict[str, Any]:
        """What it says of itself and the host, with its API's version. Raises Unavailable."""
        with self._client("info") as client:
            return {**client.info(), "ApiVersion": client.version()["ApiVersion"]}

    def networks(self) -> list[dict[str, Any]]:
        """All networks. Raises Unavailable."""
        with self._client("networks") as client:
            return list(client.networks())

    def volumes(self) -> list[str]:
        """The volumes that are on this host only. Raises Unavailable."""
        with self._client("volumes") as client:
            found = client.volumes(filters={"driver": LOCAL}).get("Volumes") or ()
            return [volume["Name"] for volume in found]

    def images(self) -> list[str]:
        """The names of all images. Raises Unavailable."""
        with self._client("images") as client:
            return [tag for image in client.images() for tag in image.get("RepoTags") or () if tag != "<none>:<none>"]

    def containers(self) -> list[dict[str, Any]]:
        """All containers, as they are listed. Raises Unavailable."""
        with self._client("containers") as client:
            return list(client.containers(all=True))

    def inspect(self, container: str) -> dict[str, Any] | None:
        """All of one container; None: there is none. Raises Unavailable."""
        with self._client("inspect") as client:
            try:
                found: dict[str, Any] = client.inspect_container(container)
            except docker.errors.NotFound:
                return None
            return found

    def remove(self, container: str, *, force: bool = False) -> None:
        """Remove a container with its anonymous volumes; one that is gone is no error. Raises Unavailable, Conflict."""
        with self._client("remove") as client:
            try:
                client.remove_container(container, v=True, force=force)
            except docker.errors.NotFound:
                return

    def create_network(self, network: Network) -> None:
        """Make a network of the cluster. Raises Conflict: the engine refuses; Unavailable."""
        with self._client(f"network {network.name}") as client:
            response = client.post(
                f"{client.base_url}/v{client.api_version}/networks/create", json=network_body(network)
            )
            if not response.ok:
                raise Conflict(f"network {network.name}: {said(response)}")

    def remove_network(self, network: str) -> None:
        """Remove a network by its id; one that is gone is no error. Raises Conflict: it is in use; Unavailable."""
        with self._client(f"network {network}") as client:
            try:
                client.remove_network(network)
            except docker.errors.NotFound:
                return

    def follow(
        self, heard: Callable[[Mapping[str, Any]], None], began: Callable[[], None], stop: threading.Event
    ) -> None:
        """Tell each event, until `stop`; `began` each time that it begins to listen, before the first. It may sit in a
        read for ever when nothing happens: run it on a daemon thread."""
        while not stop.is_set():
            try:
                for event in self._events(began):
                    heard(event)
                    if stop.is_set():
                        return
            except QnetError as error:
                logger.info("events: %s", error)
            stop.wait(AWAY)

    def _events(self, began: Callable[[], None]) -> Iterator[Mapping[str, Any]]:
        with self._client(EVENTS) as client:
            stream = client.events(decode=True, filters={"type": TYPES})
            began()
            yield from stream

    @contextmanager
    def _client(self, what: str) -> Iterator[Any]:
        client, began, answers = None, time.monotonic(), True
        try:
            client = docker.APIClient(base_url=self._url, version=self._version, timeout=self._timeout)
            self._version = client.api_version
            yield client
        except docker.errors.APIError as error:
            if error.is_client_error():
                raise Conflict(f"engine: {what}: {error.explanation}") from error
            raise Unavailable(f"engine: {what}: {error.explanation}") from error
        except (docker.errors.DockerException, requests.RequestException, OSError, ValueError) as error:
            answers = False
            raise Unavailable(f"engine: {what}: {error}") from error
        finally:
            self.up = answers
            if what != EVENTS:  # which are heard for as long as the engine lives
                metrics.ENGINE.labels(what.partition(" ")[0]).observe(time.monotonic() - began)
            if client is not None:
                client.close()
