"""etcd members on loopback, for tests. Only processes started here are ever signalled."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from qnet.store.etcd import EtcdStore

START_TIMEOUT = 20.0


_given: set[int] = set()


def free_port() -> int:
    """A TCP port of loopback that nobody listens on now, and that was not given before."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port not in _given:
            _given.add(port)
            return port


class Member:
    """One etcd process; `options` are further command line options."""

    def __init__(self, name: str, folder: Path, options: Sequence[str] = (), scheme: str = "http") -> None:
        self.name = name
        self.endpoint = f"127.0.0.1:{free_port()}"
        self.peer = f"http://127.0.0.1:{free_port()}"
        self.url = f"{scheme}://{self.endpoint}"
        self._folder = folder
        self._options = list(options)
        self._process: subprocess.Popen[bytes] | None = None
        self._frozen = False

    def start(self, cluster: str) -> None:
        """Start, or start again on the data it has."""
        binary = shutil.which("etcd")
        if binary is None:
            raise RuntimeError("etcd is not installed: apt-get install etcd-server")
        argv = [binary, "--name", self.name, "--data-dir", str(self._folder / self.name), "--log-level", "error"]
        argv += ["--listen-client-urls", self.url, "--advertise-client-urls", self.url]
        argv += ["--listen-peer-urls", self.peer, "--initial-advertise-peer-urls", self.peer]
        argv += ["--initial-cluster", cluster, *self._options]
        with (self._folder / f"{self.name}.log").open("ab") as log:
            self._process = subprocess.Popen(argv, stdout=log, stderr=log)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the member."""
        assert self._process is not None
        self._process.send_signal(number)

    def freeze(self) -> None:
        """Stop the process: its connections stay open and nobody answers."""
        self.signal(signal.SIGSTOP)
        self._frozen = True

    def thaw(self) -> None:
        """Go on after `freeze`."""
        self.signal(signal.SIGCONT)
        self._frozen = False

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Cluster:
    """Some members that form one cluster, in a folder of their own."""

    def __init__(self, size: int = 1, options: Sequence[str] = (), scheme: str = "http") -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="qnet-etcd-"))
        self.members = [Member(f"m{i}", self._folder, options, scheme) for i in range(size)]
        self._initial = ",".join(f"{member.name}={member.peer}" for member in self.members)

    @property
    def endpoints(self) -> list[str]:
        return [member.endpoint for member in self.members]

    def start(self, *members: Member) -> Cluster:
        """Start these members, or all."""
        for member in members or self.members:
            member.start(self._initial)
        return self

    def ready(self, store: EtcdStore | None = None) -> Cluster:
        """Wait until every member answers and there is a leader."""
        probe = store or EtcdStore(self.endpoints, timeout=2)
        deadline = time.monotonic() + START_TIMEOUT
        try:
            while True:
                status = probe.status()
                if not any(entry.error for entry in status) and any(entry.leader for entry in status):
                    return self
                if time.monotonic() > deadline:
                    logs = "\n".join(path.read_text()[-2000:] for path in self._folder.glob("*.log"))
                    raise RuntimeError(f"etcd did not start: {status}\n{logs}")
                time.sleep(0.05)
        finally:
            if store is None:
                probe.close()

    def leader(self) -> Member:
        """The member that leads."""
        with_status = EtcdStore(self.endpoints, timeout=1)
        try:
            while True:
                for member, status in zip(self.members, with_status.status(), strict=True):
                    if status.leader:
                        return member
                time.sleep(0.05)
        finally:
            with_status.close()

    def close(self) -> None:
        """Kill what was started and remove its files."""
        for member in self.members:
            member.kill()
        shutil.rmtree(self._folder)


def etcdctl(cluster: Cluster, *args: str, user: str = "") -> str:
    """Run etcdctl against the first member."""
    argv = ["etcdctl", "--endpoints", cluster.members[0].url, *(["--user", user] if user else []), *args]
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=30, env={"ETCDCTL_API": "3", "PATH": "/usr/bin"}, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(args)}: {done.stderr}")
    return done.stdout
