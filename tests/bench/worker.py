"""A load generator process: reads orders as JSON lines, answers each with a line. Started by `tests.bench.crew`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

from tests.bench.load_bare import Bare
from tests.bench.load_entries import Entries
from tests.bench.load_fill import Fill
from tests.bench.load_joins import Joins
from tests.bench.load_placements import Placements
from tests.bench.load_service import InProcess
from tests.bench.load_socket import Sockets
from tests.bench.load_tenants import TenantsWithVnis

# Each is made of its specification and has `order(**order)`, whose answer is for the parent.
KINDS: dict[str, Callable[..., Any]] = {
    "bare": Bare,
    "entries": Entries,
    "fill": Fill,
    "joins": Joins,
    "placements": Placements,
    "service": InProcess,
    "sockets": Sockets,
    "tenants": TenantsWithVnis,
}


def main() -> None:
    """Serve orders until standard input ends."""
    load = KINDS[sys.argv[1]](**json.loads(sys.argv[2]))
    print("{}", flush=True)
    for line in sys.stdin:
        print(json.dumps(load.order(**json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
