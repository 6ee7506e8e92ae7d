"""etcd: one member, or one on each of the first hosts."""

from __future__ import annotations

import json
from collections.abc import Sequence

from tests.lab.commands import Result
from tests.lab.model import Node
from tests.lab.namespaces import Namespaces
from tests.lab.service import Service


def endpoints(members: Sequence[Node]) -> list[str]:
    """Client addresses, host:port."""
    return [f"{member.address}:2379" for member in members]


class Etcd(Service):
    """The member on one host; its data survive a reboot."""

    name = "etcd"

    def __init__(self, node: Node, namespaces: Namespaces, members: Sequence[Node]) -> None:
        super().__init__(node, namespaces)
        self._members = members

    def argv(self) -> list[str]:
        peers = ",".join(f"{member.name}=http://{member.address}:2380" for member in self._members)
        here = self.node.address
        return [
            "etcd",
            f"--name={self.node.name}",
            f"--data-dir={self.node.disk / 'etcd'}",
            f"--listen-client-urls=http://{here}:2379,http://127.0.0.1:2379",
            f"--advertise-client-urls=http://{here}:2379",
            f"--listen-peer-urls=http://{here}:2380",
            f"--initial-advertise-peer-urls=http://{here}:2380",
            f"--initial-cluster={peers}",
            f"--initial-cluster-token={self.node.layout.prefix}",
            "--initial-cluster-state=new",
            "--logger=zap",
            "--log-level=warn",
        ]

    def ready(self) -> bool:
        """Whether the member serves: it knows a leader and a majority answers."""
        return self.process is not None and self._ctl("endpoint", "health").returncode == 0

    def leads(self) -> bool:
        """Whether this member is the leader of its cluster."""
        answer = self._ctl("endpoint", "status", "--write-out=json")
        if self.process is None or answer.returncode != 0:
            return False
        status = json.loads(answer.stdout)[0]["Status"]
        # while there is none, the answer leaves the leader out
        return bool(status.get("leader") == status["header"]["member_id"])

    def _ctl(self, *args: str) -> Result:
        argv = [
            "env",
            "ETCDCTL_API=3",
            "etcdctl",
            "--endpoints=127.0.0.1:2379",
            "--command-timeout=1s",
            *args,
        ]
        return self._namespaces.run(argv, check=False)
