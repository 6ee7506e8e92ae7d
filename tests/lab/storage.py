"""GlusterFS on a lab host: its own glusterd, and bricks on an XFS file system in a file."""

from __future__ import annotations

from collections.abc import Sequence

from tests.lab.commands import wait_for
from tests.lab.model import Node
from tests.lab.namespaces import Namespaces
from tests.lab.service import Service

VOLUME = "pool1"
SIZE = "6G"  # of a host's file, which is sparse
BRICKS = "/srv/bricks"
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
        return self.gluster("pool", "list", check=False) == 0

    def mount(self) -> None:
        """Makes the file system of the bricks, once, and mounts it."""
        self._namespaces.run(["sh", "-c", _MOUNT, "sh", str(self.node.disk / "bricks.img")])

    def gluster(self, *words: str, check: bool = True, timeout: float = 60) -> int:
        """Runs the gluster command on the host."""
        return self._namespaces.run(["gluster", "--mode=script", *words], check=check, timeout=timeout).returncode


def make_volume(storages: Sequence[Storage]) -> None:
    """A distributed volume over all hosts: two sets of two copies and an arbiter, each on a host of its own."""
    first, *others = storages
    for other in others:
        first.gluster("peer", "probe", other.node.address)

    def joined() -> bool:
        return first.gluster("volume", "list", check=False) == 0 and _peers(first) == len(others)

    wait_for("glusterd's peers", joined, 30)
    bricks = [f"{one.node.address}:{BRICKS}/{number}" for number in range(SETS) for one in _turned(storages, number)]
    layout = ["replica", "3", "arbiter", "1"] if len(storages) > 2 else ["replica", "2"]
    first.gluster("volume", "create", VOLUME, *layout, *bricks, "force")
    first.gluster("volume", "start", VOLUME)


def _peers(storage: Storage) -> int:
    said = storage._namespaces.run(["gluster", "--mode=script", "pool", "list"]).stdout  # noqa: SLF001
    return said.count("Connected") - 1


def _turned(storages: Sequence[Storage], number: int) -> Sequence[Storage]:
    """Each set has its arbiter on another host."""
    return (*storages[number:], *storages[:number])
