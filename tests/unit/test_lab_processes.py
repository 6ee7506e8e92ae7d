"""Which processes of the lab count as running."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from tests.lab.processes import Process

# The first thread ends and leaves a zombie; the other has the process's sockets until its input ends.
ORPHANED = """
import ctypes, sys, threading
threading.Thread(target=sys.stdin.read).start()
ctypes.CDLL(None).pthread_exit(None)
"""


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def becomes_zombie(pid: int) -> None:
    deadline = time.monotonic() + 20
    while state(pid) != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_process_runs_while_one_of_its_threads_does() -> None:
    with subprocess.Popen([sys.executable, "-c", ORPHANED], stdin=subprocess.PIPE) as process:
        becomes_zombie(process.pid)
        assert Process.of(process.pid) is not None


def test_one_that_waits_to_be_reaped_is_over() -> None:
    with subprocess.Popen(["true"]) as process:
        becomes_zombie(process.pid)
        assert Process.of(process.pid) is None
