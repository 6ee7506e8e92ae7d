"""What the links of this host have moved, as the kernel counts it anyway (proc_pid_net(5), dev)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

FILE = Path("/proc/self/net/dev")
HEADINGS = 2  # lines

Count: TypeAlias = tuple[int, int]
"""Packets and bytes."""


def moved() -> Mapping[str, tuple[Count, Count]]:
    """What each link received and what it sent, headers of Ethernet included."""
    found = {}
    for line in FILE.read_text().splitlines()[HEADINGS:]:
        name, _, rest = line.partition(":")
        fields = rest.split()
        found[name.strip()] = (int(fields[1]), int(fields[0])), (int(fields[9]), int(fields[8]))
    return found
