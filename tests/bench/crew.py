"""Load generators as processes inside lab hosts: they wait for an order, do it at the same time, and report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from tests.lab.host import Host
from tests.lab.model import PROJECT


class Crew:
    """One process of a kind (see `tests.bench.worker`) on each of the hosts."""

    def __init__(self, hosts: Sequence[Host], kind: str, **spec: Any) -> None:
        self._workers: list[subprocess.Popen[str]] = []
        try:
            for number, host in enumerate(hosts, 1):
                one = {**spec, "number": number, "socket": "/run/docker/plugins/qnet.sock"}
                argv = [sys.executable, "-m", "tests.bench.worker", kind, json.dumps(one)]
                env = {**os.environ, "PYTHONPATH": str(PROJECT)}
                self._workers.append(
                    host.popen(*argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
                )
            self._answers()
        except BaseException:
            self.close()
            raise

    def order(self, **order: Any) -> list[dict[str, Any]]:
        """Have all do the same at once; returns what each reports. Raises RuntimeError if one of them ends."""
        for worker in self._workers:
            assert worker.stdin is not None
            worker.stdin.write(json.dumps(order) + "\n")
            worker.stdin.flush()
        return self._answers()

    def rate(self, **order: Any) -> float:
        """Calls per second of all together."""
        return sum(float(report["calls"] / report["seconds"]) for report in self.order(do="run", **order))

    def _answers(self) -> list[dict[str, Any]]:
        reports = []
        for worker in self._workers:
            assert worker.stdout is not None
            line = worker.stdout.readline()
            if not line:
                raise RuntimeError(f"a load generator ended with status {worker.wait()}: see its traceback above")
            reports.append(json.loads(line))
        return reports

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers:
            assert worker.stdin is not None
            worker.stdin.close()
        for worker in self._workers:
            try:
                worker.wait(timeout=10)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
            if worker.stdout is not None:
                worker.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
