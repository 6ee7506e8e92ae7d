"""What a client has read and written, as GlusterFS counts it: what passes it, not what the kernel has at hand."""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as Late
from pathlib import Path

from plugins.volume.ports import Traffic

FOLDER = Path("/run/gluster")  # the only place where clients write such files
ASK = "trusted.io-stats-dump"  # setting it on a mount has its client write one (xlators/debug/io-stats)
PATIENCE = 0.8  # seconds
BYTES = re.compile(r"^\s*(BytesRead|BytesWritten) : (\d+)", re.MULTILINE)
COUNTS = re.compile(r"^(Read|Write) Count\s*:(.*)$", re.MULTILINE)


class Meters:
    """Clients of this host, asked by their mounts."""

    def __init__(self) -> None:
        self._asks = ThreadPoolExecutor(8, "traffic")

    def read(self, target: Path) -> Traffic | None:
        """Since a client began; None if it does not answer."""
        try:
            return self._asks.submit(_ask, target).result(PATIENCE)
        except (OSError, Late, ValueError):
            return None


def _ask(target: Path) -> Traffic:
    FOLDER.mkdir(exist_ok=True)
    name = f"qnet-{target.name}"
    try:
        os.setxattr(target, ASK, name.encode())
        (file,) = FOLDER.glob(f"{name}.*")
        return parse(file.read_text(errors="replace"))
    finally:
        for file in FOLDER.glob(f"{name}.*"):
            file.unlink(missing_ok=True)


def parse(text: str) -> Traffic:
    """What a client has written. Raises ValueError: it is something else."""
    whole = text.partition("=== Cumulative stats ===")[2].partition("=== Interval")[0]
    sums = {name: int(value) for name, value in BYTES.findall(whole)}
    if len(sums) != 2:
        raise ValueError("no statistics of a client")
    counts = {"Read": 0, "Write": 0}
    for name, values in COUNTS.findall(whole):
        counts[name] += sum(map(int, values.split()))
    return Traffic(sums["BytesRead"], sums["BytesWritten"], counts["Read"], counts["Write"])
