"""Commands as argv lists, each with a deadline and a typed error."""

from __future__ import annotations

import shlex
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.lab.model import LabError

Result = subprocess.CompletedProcess[str]


class CommandError(LabError):
    """A command failed or took too long; carries argv, status (None after a timeout), stdout and stderr."""

    def __init__(self, argv: Sequence[str], status: int | None, stdout: str, stderr: str) -> None:
        self.argv = list(argv)
        self.status = status
        self.stdout = stdout
        self.stderr = stderr
        how = "took too long" if status is None else f"exit status {status}"
        said = (stderr or stdout).strip()
        super().__init__(f"{shlex.join(argv)}: {how}: {said}")


def _text(output: bytes | str | None) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""


def run(
    argv: Sequence[str | Path],
    *,
    check: bool = True,
    timeout: float = 30,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
) -> Result:
    """Runs a command to its end and returns its output. Raises CommandError after `timeout` seconds and, with
    `check`, for an exit status other than 0."""
    args = [str(part) for part in argv]
    try:
        done = subprocess.run(
            args,
            check=False,
            timeout=timeout,
            capture_output=True,
            text=True,
            errors="replace",
            env=env,
            **({"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}),
        )
    except subprocess.TimeoutExpired as late:
        raise CommandError(args, None, _text(late.stdout), _text(late.stderr)) from late
    except FileNotFoundError as missing:
        raise LabError(f"{args[0]}: no such command; packaging/bootstrap.sh installs what is needed") from missing
    if check and done.returncode != 0:
        raise CommandError(args, done.returncode, done.stdout, done.stderr)
    return Result(args, done.returncode, done.stdout, done.stderr)


def wait_for(what: str, probe: Callable[[], bool], timeout: float, pause: float = 0.05) -> None:
    """Returns as soon as `probe` holds. Raises LabError, naming `what`, after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not probe():
        if time.monotonic() > deadline:
            raise LabError(f"{what}: not within {timeout:g} s")
        time.sleep(pause)
