"""What the services of one host cost, as the package has installed them on a machine with systemd."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator

from plugins.cli.daemon_checks import DAEMONS
from tests.bench.model import Goal, Measured, spread
from tests.lab.cluster import Lab
from tests.lab.model import Layout
from tests.package.machine import Machine
from tests.package.site import Site, booted, built

START = Goal("start of a daemon to ready (systemctl start), the slowest of the five", "s", "≤", 1.0)
MEMORY = Goal("memory of all services of a host, idle", "MB", "≤", 300)
SIZE = Goal("the Debian package", "MB", "≤", 60)
GOALS = (START, MEMORY, SIZE)
STARTS = 7
SETTLE = 10.0  # seconds
MEGABYTE = 1_000_000
DIRECTORY = "/run/qnet-bench-package"


def measure(_lab: Lab) -> Iterator[Measured]:
    """The lab is not used: a machine has no less around it than a host."""
    package = built()
    yield Measured(SIZE, package.stat().st_size / MEGABYTE, package.name)
    with booted(Layout.find(os.environ.get("QNET_LAB_DIR", DIRECTORY) + "-package")) as machines:
        machine = Site(machines, package).first
        time.sleep(SETTLE)
        each = {unit: memory(machine, unit) for unit in DAEMONS}
        yield Measured(MEMORY, sum(each.values()), f"PSS: {', '.join(f'{unit} {mb:.0f}' for unit, mb in each.items())}")
        found = {unit: spread([start(machine, unit) for _ in range(STARTS)]) for unit in DAEMONS}
        detail = ", ".join(f"{unit} {times}" for unit, times in found.items())
        yield Measured(START, max(times.median for times in found.values()), f"s: {detail}")


def start(machine: Machine, unit: str) -> float:
    """Seconds from the command until systemd knows that it is ready."""
    machine.sh(f"systemctl stop {unit}")
    began = time.perf_counter()
    machine.sh(f"systemctl start {unit}")
    return time.perf_counter() - began


def memory(machine: Machine, unit: str) -> float:
    """Of all processes of a daemon, in MB; what processes share counts in proportion."""
    processes = f"pgrep -f '^/opt/qnet/bin/python3 /opt/qnet/bin/{unit}$'"
    rolled = machine.sh(f"for pid in $({processes}); do cat /proc/$pid/smaps_rollup; done").stdout
    found = [int(size) for size in re.findall(r"^Pss: +(\d+) kB", rolled, re.MULTILINE)]
    if not found:
        raise RuntimeError(f"{unit} does not run on {machine.name}")
    return sum(found) * 1024 / MEGABYTE
