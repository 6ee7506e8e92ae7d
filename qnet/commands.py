"""Commands of the host, with their refusals as qnet's errors; on the host itself or in a network namespace of ours."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from qnet.errors import Unavailable, Unsupported

NAMESPACES = Path("/run/netns")  # by name, as ip-netns(8) has them
TIMEOUT = 5.0
MOST = 300  # characters of what a command says
PACKAGES = {
    "ip": "iproute2",
    "bridge": "iproute2",
    "tc": "iproute2",
    "sysctl": "procps",
    "nsenter": "util-linux",
    "glusterfs": "glusterfs-client",
}


def run(command: Sequence[str], what: str, text: str = "", namespace: str = "", timeout: float = TIMEOUT) -> str:
    """What a command writes, given `text` to read.

    Args:
        what: what it is for, as it stands behind "cannot".
        timeout: seconds.

    Raises:
        Unsupported: it is not installed.
        Unavailable: it fails, or is not done in time.
    """
    enter = ["nsenter", f"--net={NAMESPACES / namespace}", "--"] if namespace else []
    try:
        done = subprocess.run(
            [*enter, *command], input=text, capture_output=True, text=True, timeout=timeout, check=True
        )
    except FileNotFoundError as error:
        name = str(error.filename)
        raise Unsupported(f"cannot {what}: {name} is not installed: apt install {PACKAGES.get(name, name)}") from error
    except subprocess.CalledProcessError as error:
        said = "; ".join((error.stderr or error.stdout).strip().splitlines()) or f"status {error.returncode}"
        raise Unavailable(f"cannot {what}: {command[0]}: {said[:MOST]}") from error
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"cannot {what}: {command[0]} was not done within {timeout:g} s") from error
    except (OSError, subprocess.SubprocessError) as error:
        raise Unavailable(f"cannot {what}: {error}") from error
    return done.stdout
