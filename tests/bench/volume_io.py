"""What containers read and write through a volume, beside a bare mount of the same directory; how far limits hold."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial

from tests.bench.model import RATIO, Goal, Measured, interleaved, paired, spread
from tests.lab.cluster import Lab
from tests.lab.host import Host
from tests.lab.unixhttp import call

STORAGE = True
KINDS = {"read": ("1M", "sequential 1 MiB reads"), "write": ("1M", "sequential 1 MiB writes")}
KINDS |= {"randread": ("4k", "random 4 KiB reads"), "randwrite": ("4k", "random 4 KiB writes")}
SPEEDS = {kind: Goal(f"fio, {text}, ÷ on a bare mount", RATIO, "≥", 0.97) for kind, (_, text) in KINDS.items()}
SOFT = Goal("a 2 GB write gets beyond a limit of 50 MB by (to know; 2 GB is no limit at all)", "MB", "≤", 2000)
STRICT = Goal("the same with -o strict=true", "MB", "≤", 2)
GOALS = (*SPEEDS.values(), SOFT, STRICT)
ROUNDS, SECONDS = 21, 2


def measure(lab: Lab) -> Iterator[Measured]:
    """All on one host, which is a server of the volume, too."""
    host = lab.hosts[0]
    host.docker("volume", "create", "-d", "sharedfs", "-o", "size=2G", "data")
    host.docker("run", "-d", "--network", "none", "--name", "aa", "-v", "data:/data", "busybox", "sleep", "1d")
    _, told = call(host.node.volume_socket, "POST", "/VolumeDriver.Path", {"Name": "data"})
    ours = told["Mountpoint"]
    source = host.exec("findmnt", "-n", "-o", "SOURCE", ours.rpartition("/")[0]).stdout.strip()
    host.exec("mkdir", "-p", "/mnt/bare")
    host.exec("mount", "-t", "glusterfs", source, "/mnt/bare")
    for kind, goal in SPEEDS.items():
        measures = {"ours": partial(_speed, host, kind, ours), "bare": partial(_speed, host, kind, "/mnt/bare/data")}
        for one in measures.values():
            one()
        found = interleaved(ROUNDS, **measures)
        detail = f"KiB/s: {spread(found['ours'])}, bare {spread(found['bare'])}"
        yield Measured(goal, paired(found, "ours", "bare").median, detail)
    host.docker("rm", "-f", "aa")
    for goal, strict in ((SOFT, "false"), (STRICT, "true")):
        name = f"small-{strict}"
        host.docker("volume", "create", "-d", "sharedfs", "-o", "size=50MB", "-o", f"strict={strict}", name)
        sizes = spread(_beyond(host, name) for _ in range(3))
        yield Measured(goal, sizes.median, f"MB: {sizes}")


def _speed(host: Host, kind: str, folder: str) -> float:
    """KiB per second of one fio, past the kernel's cache."""
    said = host.exec(
        *("fio", "--name=one", f"--filename={folder}/fio", f"--rw={kind}", f"--bs={KINDS[kind][0]}", "--size=128M"),
        *("--direct=1", "--ioengine=psync", f"--runtime={SECONDS}", "--time_based", "--output-format=json"),
        timeout=120,
    ).stdout
    job = json.loads(said[said.index("{") :])["jobs"][0]
    return float(job["write" if "write" in kind else "read"]["bw"])


def _beyond(host: Host, volume: str) -> float:
    """MB beyond 50 that a writer gets."""
    words = ("run", "--rm", "--network", "none", "-v", f"{volume}:/data", "busybox", "sh", "-c")
    script = "dd if=/dev/zero of=/data/big bs=1M count=2000 2>/dev/null; stat -c %s /data/big; rm /data/big"
    size = int(host.docker(*words, script, timeout=300).stdout)
    return size / 1e6 - 50
