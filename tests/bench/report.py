"""The table for people and build/bench.json for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench.model import RATIO, Goal


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of the report; `value` is None if it could not be measured, and `detail` says why."""

    part: str
    goal: Goal
    value: float | None
    detail: str

    @property
    def ok(self) -> bool:
        return self.value is not None and self.goal.reached(self.value)

    @property
    def shown(self) -> str:
        """The value with its unit; a ratio has none to show."""
        unit = "" if self.goal.unit == RATIO else f" {self.goal.unit}"
        return "not measured" if self.value is None else f"{self.value:.3f}{unit}"

    def __str__(self) -> str:
        verdict = "ok" if self.ok else "MISSES"
        return f"{self.goal.figure}: {self.shown}, must be {self.goal.must}: {verdict} ({self.detail})"


def show(console: Console, rows: Sequence[Row]) -> None:
    """Print the table; figures that miss stand out."""
    table = Table(title="figures", show_lines=True)
    for column in ("part", "figure", "value", "must", "ok", "measured: median (middle half, runs)"):
        table.add_column(column, justify="right" if column == "value" else "left")
    for row in rows:
        verdict = "yes" if row.ok else "NO"
        table.add_row(
            row.part, row.goal.figure, row.shown, row.goal.must, verdict, row.detail, style="" if row.ok else "bold red"
        )
    console.print(table)


def save(path: Path, rows: Sequence[Row]) -> None:
    """Write the list of figures."""
    found = [
        {
            "part": row.part,
            "figure": row.goal.figure,
            "value": None if row.value is None else round(row.value, 4),
            "unit": row.goal.unit,
            "must": row.goal.must,
            "ok": row.ok,
            "command": f"make bench ONLY={row.part}",
        }
        for row in rows
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n")
