"""Everything a lab can leave on the machine, found by naming convention: it needs no state file."""

from __future__ import annotations

import re
from pathlib import Path

from tests.lab.commands import run, wait_for
from tests.lab.model import LabError, Layout
from tests.lab.namespaces import NETNS, delete_netns, forget_netns_folder
from tests.lab.processes import find, kill_all


def _netns(layout: Layout) -> list[str]:
    """The lab's network namespaces, hosts first."""
    pattern = re.compile(re.escape(layout.prefix) + r"-(host\d+|fabric)")
    names = (entry.name for entry in NETNS.iterdir()) if NETNS.is_dir() else iter(())
    return sorted((name for name in names if pattern.fullmatch(name)), reverse=True)


def _mounts(layout: Layout) -> list[str]:
    """Mount points below the lab's directories, innermost first."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    roots = (layout.dir, layout.data)
    return sorted((p for p in points if any(Path(p).is_relative_to(root) for root in roots)), reverse=True)


def _cgroups(layout: Layout) -> list[Path]:
    """The parents of the containers' control groups in every hierarchy (v1 and v2)."""
    pattern = re.compile(re.escape(layout.prefix) + r"-host\d+")
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, kind = line.partition(" - ")
        if kind.split()[0] in ("cgroup", "cgroup2"):
            root = Path(fields.split()[4])
            found += [entry for entry in root.iterdir() if pattern.fullmatch(entry.name)]
    return found


def _remove_cgroup(path: Path) -> bool:
    """Removes a control group with those in it; False if the kernel still holds one of them."""
    try:
        for child in path.iterdir():
            if child.is_dir() and not _remove_cgroup(child):
                return False
        path.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def clean(layout: Layout) -> None:
    """Removes every trace of the lab. Does nothing on a clean machine; raises LabError if something stays."""
    kill_all([layout.data], _netns(layout))
    for name in _netns(layout):
        delete_netns(name)
    forget_netns_folder()
    for point in _mounts(layout):
        run(["umount", "-l", point], check=False)
    wait_for(
        f"end of the control groups of {layout.prefix}",
        lambda: all(_remove_cgroup(path) for path in _cgroups(layout)),
        timeout=20,
    )
    run(["rm", "-rf", "--one-file-system", str(layout.dir), str(layout.data)], timeout=120)
    rest = leftovers(layout)
    if rest:
        raise LabError("the lab could not be removed: " + "; ".join(rest))


def leftovers(layout: Layout) -> list[str]:
    """What is on the machine of this lab, one line each; empty after `clean`."""
    processes = find([layout.data], _netns(layout))
    return [
        *(f"process {process.pid} {_command(process.pid)}" for process in processes),
        *(f"network namespace {name}" for name in _netns(layout)),
        *(f"mount {point}" for point in _mounts(layout)),
        *(f"control group {path}" for path in _cgroups(layout)),
        *(f"directory {path}" for path in (layout.dir, layout.data) if path.exists()),
    ]


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return "(gone)"
