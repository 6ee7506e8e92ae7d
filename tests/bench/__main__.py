"""The figures of docs/benchmarks.md: `python -m tests.bench [--only PART]`, or `make bench [ONLY=PART]`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console

from tests.bench.model import Group
from tests.bench.registry import GROUPS, PARTS
from tests.bench.report import Row, save, show
from tests.lab.cluster import Lab
from tests.lab.model import BUILD

OWN_DIR = Path("/run/qnet-bench")
# Load generators ask for addresses without making endpoints: repair must not take them back meanwhile.
SETTINGS = "[ipam]\ngrace = 3600.0\n"


@contextmanager
def fresh_lab(group: Group) -> Iterator[Lab]:
    """A lab of three hosts for one group, in a directory of its own unless QNET_LAB_DIR names one."""
    storage, placement = getattr(group, "STORAGE", False), getattr(group, "PLACEMENT", False)
    chosen = os.environ.get("QNET_LAB_DIR")
    shape = {"storage": storage, "placement": placement, "directory": chosen or OWN_DIR, "replace": not chosen}
    with Lab.up(3, settings=SETTINGS, **shape) as lab:
        yield lab


def run_group(part: str, group: Group, console: Console) -> Iterator[Row]:
    """Measure one group; what it could not measure is a row as well."""
    missing = {goal.figure: goal for goal in group.GOALS}
    reason = "the group did not yield this figure"
    try:
        with fresh_lab(group) as lab:
            for measured in group.measure(lab):
                missing.pop(measured.goal.figure)
                yield Row(part, measured.goal, measured.value, measured.detail)
    except Exception as error:
        console.print_exception()
        reason = f"{type(error).__name__}: {error}"
    for goal in missing.values():
        yield Row(part, goal, None, reason)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--only", type=click.Choice(PARTS), help="Run one part.")
@click.option("--no-fail", is_flag=True, help="End with status 0 even if a figure misses.")
def main(only: str | None, no_fail: bool) -> None:
    """Measure every figure in a lab of three Docker hosts. Needs root; takes about five minutes."""
    console = Console(width=None if sys.stdout.isatty() else 160)
    rows: list[Row] = []
    began = time.monotonic()
    for part, group in GROUPS:
        if only in (None, part):
            for row in run_group(part, group, console):
                rows.append(row)
                console.print(
                    f"{time.monotonic() - began:4.0f} s  {row}", markup=False, highlight=False, soft_wrap=True
                )
    rows.sort(key=lambda row: PARTS.index(row.part))
    show(console, rows)
    save(BUILD / "bench.json", rows)
    missed = [row for row in rows if not row.ok]
    console.print(f"{len(rows) - len(missed)} of {len(rows)} figures reached; load average {os.getloadavg()[1]:.1f}")
    sys.exit(1 if missed and not no_fail else 0)


if __name__ == "__main__":
    main(prog_name="python -m tests.bench")
