"""Docker engines: Debian 12's as installed, newer ones as unpacked by `packaging/bootstrap.sh engines`."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.lab.model import BUILD, LabError, Node
from tests.lab.namespaces import Namespaces
from tests.lab.processes import Process
from tests.lab.service import Service
from tests.lab.unixhttp import answers, call

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
UNPACKED = BUILD / "engines"
SLOW_CONTAINERD = "timeout waiting for containerd to start"  # 10 s, at times too few for the disk after a kill


def _folders(name: str) -> list[Path]:
    return [UNPACKED / name / "usr/sbin", UNPACKED / name / "usr/bin"]


def search_path(engine: str) -> str:
    """PATH for a dockerd of that engine: its own programs first, and Debian 12's runc."""
    folders = [folder for name in dict.fromkeys((engine, "debian12")) for folder in _folders(name)]
    return ":".join([*(str(folder) for folder in folders if folder.is_dir()), SYSTEM_PATH])


def missing(engine: str) -> str | None:
    """Why an engine is not here; None if it is."""
    unpacked = (UNPACKED / engine / "usr/sbin/dockerd").exists()
    if unpacked or (engine == "debian12" and shutil.which("dockerd", path=SYSTEM_PATH)):
        return None
    reason = UNPACKED / f"{engine}.missing"
    said = f" ({' '.join(reason.read_text().split())})" if reason.exists() else ""
    how = "packaging/bootstrap.sh" if engine == "debian12" else "packaging/bootstrap.sh engines"
    return f"engine {engine} is not here{said}: run `{how}`"


def client() -> str:
    """The docker command: QNET_DOCKER_CLI or the first on PATH."""
    found = shutil.which(os.environ.get("QNET_DOCKER_CLI") or "docker")
    if found is None:
        raise LabError("no docker command is here: run packaging/bootstrap.sh or set QNET_DOCKER_CLI")
    return found


def client_argv(node: Node, args: Sequence[str]) -> list[str]:
    """The docker command line for a host's engine."""
    return [client(), "-H", f"unix://{node.docker_socket}", *args]


def client_env(env: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment without what would lead the docker command to another engine."""
    unwanted = {
        "DOCKER_HOST",
        "DOCKER_CONTEXT",
        "DOCKER_TLS_VERIFY",
        "DOCKER_CERT_PATH",
        "DOCKER_API_VERSION",
    }
    return {key: value for key, value in env.items() if key not in unwanted}


class Engine(Service):
    """dockerd (and the containerd it starts) on one host."""

    name = "dockerd"
    kills_group = False  # containerd and the containers outlive a crash of dockerd

    def __init__(self, node: Node, namespaces: Namespaces, engine: str) -> None:
        super().__init__(node, namespaces)
        self._engine = engine
        self.args: list[str] = []

    def argv(self) -> list[str]:
        return [
            "dockerd",
            "--iptables=false",
            "--ip6tables=false",
            "--bridge=none",
            "--userland-proxy=false",
            "--storage-driver=overlay2",
            f"--data-root={self.node.disk / 'docker'}",
            "--pidfile=/run/docker.pid",
            "--group=root",
            "--exec-opt=native.cgroupdriver=cgroupfs",
            f"--cgroup-parent={self.node.cgroup}",
            "--log-level=warn",
            "-H=unix:///run/docker.sock",
            *self.args,
        ]

    def environment(self) -> dict[str, str]:
        return {"PATH": search_path(self._engine)}

    def start(self, command: Sequence[str] | None = None, env: Mapping[str, str] | None = None) -> None:
        """As usual, but once more if its containerd was too slow: systemd would restart it."""
        self._forget_the_dead()
        try:
            super().start(command, env)
        except LabError as error:
            if SLOW_CONTAINERD not in str(error):
                raise
            super().start(command, env)

    def _forget_the_dead(self) -> None:
        """dockerd takes whatever has the pid of one that was killed, or waits to be reaped with it, for that one."""
        if self.process is None:
            (self.node.run / "docker.pid").unlink(missing_ok=True)
        file = self.node.run / "docker/containerd/containerd.pid"
        with contextlib.suppress(FileNotFoundError):
            if not Process.words(int(file.read_text())).startswith("containerd --config"):
                file.unlink()

    def ready(self) -> bool:
        return answers(self.node.docker_socket, "GET", "/_ping")

    def version(self) -> str | None:
        """What the engine says of itself; None if it does not answer."""
        if not self.process or not self.ready():
            return None
        return str(call(self.node.docker_socket, "GET", "/version")[1]["Version"])
