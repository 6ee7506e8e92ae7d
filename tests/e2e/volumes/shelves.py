"""What tests of volumes have in common: a lab with storage, containers that use volumes, and what may not be left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.e2e import kit
from tests.lab.cluster import Lab
from tests.lab.commands import Result, wait_for
from tests.lab.host import Host
from tests.lab.model import LabError
from tests.lab.storage import SETS, VOLUME
from tests.lab.unixhttp import call

MOUNTS = "/var/lib/qnet/mounts"
CREATE = ("volume", "create", "-d", "sharedfs")
# A writer tells what is safe: a line is acknowledged once it is synced.
WRITER = """
i=0
while true; do
    i=$((i + 1))
    echo $i >>/data/log && sync -f /data/log 2>/dev/null && echo $i >/tmp/next && mv /tmp/next /tmp/said
done
"""


@contextmanager
def lab(engine: str, directory: str, settings: str) -> Iterator[Lab]:
    """A lab with storage; its plugins look at their clients each second."""
    settings = f"{settings}\n[volume]\nrepair_interval = 1.0\n"
    with Lab.up(3, engine=engine, settings=settings, storage=True, directory=f"{directory}-s", replace=True) as made:
        yield made
    assert made.leftovers() == []


def swept(made: Lab) -> Iterator[list[Host]]:
    """The hosts, and after a test nothing left of it: a mount, record or file that it leaks fails it."""
    yield made.hosts
    for host in made.hosts:
        for service in (host.storage, host.volume_plugin):
            if not service.process:
                service.start()
        if not host.engine.process:
            host.start_engine()
    kit.at_once(lambda host: host.docker("rm", "-f", *ids(host, "ps", "-aq"), check=False), made.hosts)
    left: list[str] = []

    def clean() -> bool:
        for name in ids(made.hosts[0], "volume", "ls", "-q"):
            made.hosts[0].docker("volume", "rm", name, check=False)
        left[:] = leaks(made)
        return not left

    try:
        wait_for("a clean lab", clean, 20, 0.3)
    except Exception as late:
        raise AssertionError("; ".join(left)) from late


def ids(host: Host, *words: str) -> list[str]:
    return host.docker(*words).stdout.split()


def leaks(lab: Lab) -> list[str]:
    """Mounts, records, files and directories that no volume needs."""
    records = kit.records(lab, "/qnet/v1/volume")
    found = [key for key in records if "/volumes/" in key or "/volume-mounts/" in key]
    for host in lab.hosts:
        found += [f"{host.name}: {point}" for point in mounts(host)]
        found += [f"{host.name}: {path}" for path in (host.node.disk / "private/var/lib/qnet/volumes").glob("*")]
    kept = {one.fields["volume"]["id"] for key, one in records.items() if "/volume-trash/" in key}
    there = lab.hosts[0].exec(
        "sh", "-c", f"ls -d {MOUNTS}/pool-main/qnet/*/* {MOUNTS}/pool-main/qnet/volumes/*/*", check=False
    )
    names = {Path(line).name for line in there.stdout.split()} - {"default", "shop"}
    return found + sorted(names - kept)


def mounts(host: Host) -> dict[str, str]:
    """Mounted volumes, with the process of their client."""
    listed = host.exec("cat", "/proc/self/mountinfo").stdout.splitlines()
    points = [line.split()[4] for line in listed if " fuse.glusterfs " in line]
    ours = [point for point in points if point.startswith(MOUNTS) and "/pool-" not in point]
    return {point: host.exec("pgrep", "-f", f"glusterfs .* {point}$", check=False).stdout.strip() for point in ours}


def create(host: Host, name: str = "data", *options: str) -> None:
    host.docker(*CREATE, *(word for one in options for word in ("-o", one)), name)


def start(host: Host, name: str, command: str = "sleep 1d", volume: str = "data", *options: str) -> None:
    words = [
        *("run", "-d", "--network", "none", "--stop-signal", "KILL"),
        *("--name", name, "-v", f"{volume}:/data", *options),
    ]
    host.docker(*words, "busybox:latest", "sh", "-c", command)


def once(host: Host, command: str, volume: str = "data", check: bool = True) -> Result:
    words = ["run", "--rm", "--network", "none", "-v", f"{volume}:/data", "busybox:latest", "sh", "-c", command]
    return host.docker(*words, check=check)


def status(host: Host, volume: str = "data") -> dict[str, Any]:
    return dict(kit.inspect(host, "volume", volume)["Status"])


def metric(host: Host, name: str) -> float:
    """What a host's plugin tells of its only volume."""
    _, told = call(host.node.volume_socket, "GET", "/metrics")
    (line,) = (line for line in told.splitlines() if line.startswith(f"{name}{{"))
    return float(line.split()[-1])


def acknowledged(host: Host, name: str = "aa") -> int:
    """What the writer says it has acknowledged."""
    return int(host.docker("exec", name, "cat", "/tmp/said", check=False).stdout or 0)


def kept(hosts: list[Host], name: str) -> None:
    """Ends the first host's writer; every host has what it said was acknowledged."""
    said = acknowledged(hosts[0], name)
    hosts[0].docker("kill", name)
    assert said > 0
    for host in hosts:
        assert once(host, "cat /data/log").stdout.split()[:said] == [str(number) for number in range(1, said + 1)]


def bricks(host: Host) -> list[int]:
    """The processes of its bricks."""
    found = host.exec("pgrep", "-f", "glusterfsd .*bricks", check=False).stdout.split()
    return [int(pid) for pid in found if _host_of(pid) == host.node.netns]


def _host_of(pid: str) -> str:
    named = {path.stat().st_ino: path.name for path in Path("/run/netns").iterdir()}
    try:
        return named.get(Path(f"/proc/{pid}/ns/net").stat().st_ino, "")
    except FileNotFoundError:
        return ""  # it has ended


def heal(host: Host) -> None:
    """Waits until all of a host's bricks run and all replicas are the same. Gluster looks every ten minutes what there
    is to do, and when a brick comes back: it is asked to look now. A glusterd that was restarted since its bricks began
    starts one that died only when it is told to for the second time."""
    said = ""

    def done() -> bool:
        nonlocal said
        if len(bricks(host)) < SETS:
            host.storage.gluster("volume", "start", VOLUME, "force", check=False)
        host.storage.gluster("volume", "heal", VOLUME, check=False)
        said = host.storage.gluster("volume", "heal", VOLUME, "info", check=False).stdout
        counts = [line.rpartition(" ")[2] for line in said.splitlines() if line.startswith("Number of entries")]
        return bool(counts) and set(counts) == {"0"} and len(bricks(host)) == SETS

    try:
        wait_for("heal", done, 120, 1)
    except LabError as late:
        status = host.storage.gluster("volume", "status", VOLUME, check=False).stdout
        raise AssertionError(f"{said}\n{status}") from late
