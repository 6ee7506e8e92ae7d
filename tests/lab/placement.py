"""The agent, a replica of the placement service and the front on a host."""

from __future__ import annotations

from pathlib import Path

from tests.lab.model import PROJECT
from tests.lab.service import Service
from tests.lab.unixhttp import answers, call


class Agent(Service):
    """Tells the store of this host, and relays calls for its engine."""

    name = "qnet-agent"

    def argv(self) -> list[str]:
        return [str(PROJECT / ".venv/bin/qnet-agent")]

    def environment(self) -> dict[str, str]:
        return {"PYTHONUNBUFFERED": "1"}

    def ready(self) -> bool:
        return (self.node.run / "qnet/agent.ready").exists() and self.process is not None


class Scheduler(Service):
    """The placement service; it answers at /run/qnet/scheduler.sock of its host."""

    name = "qnet-scheduler"

    def argv(self) -> list[str]:
        return [str(PROJECT / ".venv/bin/qnet-scheduler")]

    def environment(self) -> dict[str, str]:
        return {"PYTHONUNBUFFERED": "1"}

    @property
    def socket(self) -> Path:
        return self.node.run / "qnet/scheduler.sock"

    def ready(self) -> bool:
        if not answers(self.socket, "GET", "/v1/health"):
            return False
        return bool(call(self.socket, "GET", "/v1/health")[1]["ready"])

    def hosts_up(self) -> int:
        """How many hosts are ready, as this replica knows."""
        status, found = call(self.socket, "GET", "/v1/hosts")
        return sum(one["state"] == "ready" and not one["trouble"] for one in found) if status == 200 else 0


class Gateway(Service):
    """Docker's API for the fleet; it answers at /run/qnet/docker.sock of its host."""

    name = "qnet-gateway"

    def argv(self) -> list[str]:
        return [str(PROJECT / ".venv/bin/qnet-gateway")]

    def environment(self) -> dict[str, str]:
        return {"PYTHONUNBUFFERED": "1"}

    @property
    def socket(self) -> Path:
        return self.node.run / "qnet/docker.sock"

    def ready(self) -> bool:
        return answers(self.socket, "GET", "/info")
