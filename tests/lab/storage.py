"""GlusterFS on a lab host: its own glusterd, and bricks on an XFS file system in a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tests.lab.commands import Result, wait_for
from tests.lab.service import Service

if TYPE_CHECKING:
    from tests.lab.host import Host

POOL, VOLUME = "main", "gv0"
SIZE = "6G"  # of a host's file, which is sparse
BRICKS = "/var/lib/bricks"
SETS = 2  # of three bricks each: two copies of the data and an arbiter
_MOUNT = f"""
set -eu
mkdir -p {BRICKS} /var/lib/glusterd /var/log/glusterfs
[ -e "$1" ] || {{ truncate -s {SIZE} "$1"; mkfs.xfs -q -i size=512 "$1"; }}
mountpoint -q {BRICKS} || mount -o loop "$1" {BRICKS}
"""


class Storage(Service):
    """glusterd; it starts the processes of its bricks by itself."""

    name = "glusterd"

    def argv(self) -> list[str]:
        return ["glusterd", "-N", "--log-level", "WARNING"]

    def ready(self) -> bool:
        return self.gluster("pool", "list", check=False).returncode == 0

    def spawn(self, command: Sequence[str] | None = None, env: Mapping[str, str] | None = None) -> None:
        """Starts it, with the file system of its bricks, which is made once."""
        self._namespaces.run(["sh", "-c", _MOUNT, "sh", str(self.node.disk / "bricks.img")])
        super().spawn(command, env)

    def gluster(self, *words: str, check: bool = True, timeout: float = 60) -> Result:
        """Runs the gluster command on the host."""
        return self._namespaces.run(["gluster", "--mode=script", *words], check=check, timeout=timeout)


def make_pool(hosts: Sequence[Host]) -> None:
    """A distributed volume over all hosts, two sets of two copies and an arbiter, and qnet's pool in it."""
    first, *others = (host.storage for host in hosts)
    for other in others:
        first.gluster("peer", "probe", other.node.address)

    def all_know_all() -> bool:
        """One that is late refuses to make a volume."""
        lists = [host.storage.gluster("pool", "list").stdout for host in hosts]
        return all(text.count("Connected") == len(hosts) for text in lists)

    wait_for("glusterd's peers", all_know_all, 30)
    bricks = [f"{host.address}:{BRICKS}/{turn}" for turn in range(SETS) for host in (*hosts[turn:], *hosts[:turn])]
    layout = {1: [], 2: ["replica", "2"]}.get(len(hosts), ["replica", "3", "arbiter", "1"])
    first.gluster("volume", "create", VOLUME, *layout, *bricks, "force")
    first.gluster("volume", "start", VOLUME)
    servers = ",".join(host.address for host in hosts)
    hosts[0].exec(".venv/bin/qnet", "volume", "pool", "add", POOL, f"{servers}:/{VOLUME}")
