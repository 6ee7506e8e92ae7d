"""Where volumes lie in a pool, and what is done to them there, over a mount of the whole pool that only root can enter.

/qnet/volumes/TENANT/ID/data   what containers see; the limit is on ID, which is what hosts mount
/qnet/trash/ID                 removed
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as Late
from pathlib import Path

from plugins.volume.ports import Mounts, Usage
from qnet.errors import NotFound, QnetError, Unavailable
from qnet.schema import VolumePoolRecord, VolumeRecord

DATA = "data"
ROOTS = (0, 0, "0755")  # what a directory is that root makes
TRASH = "/qnet/trash"
COPYING = 100.0  # seconds: an engine waits two minutes for a create
PATIENCE = 0.8  # seconds that what is shown waits for a pool
TRIES, PAUSE = 10, 0.2  # seconds between tries of a rename: what a client has seen it believes for one


def place(volume: VolumeRecord) -> str:
    """A volume's directory in its pool."""
    return f"/qnet/volumes/{volume.tenant}/{volume.id}"


class Directories:
    """See `plugins.volume.ports.Directories`. What changes something raises Unavailable if the pool does not answer."""

    def __init__(self, mounts: Mounts, root: Path) -> None:
        self._mounts = mounts
        self._root = root
        self._looks = ThreadPoolExecutor(8, "usage")

    def open(self, pool: VolumePoolRecord) -> Path:
        """Mount a pool, unless it is and answers; returns where."""
        target = self._target(pool)
        self._mounts.mount(pool.servers, pool.volume, "", target)
        return target

    def make(self, pool: VolumePoolRecord, volume: VolumeRecord) -> None:
        """The directory alone."""
        try:
            self._home(pool, volume).mkdir(parents=True, exist_ok=True, mode=0o711)
        except OSError as error:
            raise _failed(pool, f"make volume {volume.name}", error) from error

    def fill(
        self, pool: VolumePoolRecord, volume: VolumeRecord, source: tuple[VolumePoolRecord, VolumeRecord] | None
    ) -> None:
        """All of it or nothing; two hosts that do it at once do it once."""
        home = self._home(pool, volume)
        fresh = home / f"{DATA}.{secrets.token_hex(4)}"
        if source is None and (volume.uid, volume.gid, volume.mode) == ROOTS:
            try:
                (home / DATA).mkdir(exist_ok=True)  # each step more is one more for all of Gluster's bricks
            except OSError as error:
                raise _not_made(pool, volume, error) from error
            return
        try:
            if (home / DATA).exists():
                return
            fresh.mkdir()
            if source is None:
                os.chown(fresh, volume.uid, volume.gid)
                fresh.chmod(int(volume.mode, 8))
            else:
                _copy(self._home(*source) / DATA, fresh, volume.name)
            if not (home / DATA).exists():
                fresh.rename(home / DATA)
        except OSError as error:
            raise _not_made(pool, volume, error) from error
        finally:
            for left in home.glob(f"{DATA}.*") if (home / DATA).exists() else (fresh,):
                shutil.rmtree(left, ignore_errors=True)

    def discard(self, pool: VolumePoolRecord, volume: VolumeRecord) -> None:
        """Rename it; that it was never made is no error either."""
        root = self.open(pool)
        self._move(pool, root / place(volume).lstrip("/"), root / TRASH.lstrip("/") / volume.id)

    def restore(self, pool: VolumePoolRecord, volume: VolumeRecord) -> None:
        """Raises NotFound: its data is in neither place."""
        root = self.open(pool)
        home = root / place(volume).lstrip("/")
        self._move(pool, root / TRASH.lstrip("/") / volume.id, home)
        if not (home / DATA).is_dir():
            raise NotFound(f"volume {volume.name}: its data is not in the trash of pool {pool.name} any more")

    def purge(self, pool: VolumePoolRecord, volume: VolumeRecord) -> None:
        """Delete all of it."""
        try:
            shutil.rmtree(self.open(pool) / TRASH.lstrip("/") / volume.id)
        except FileNotFoundError:
            return
        except OSError as error:
            raise _failed(pool, f"purge volume {volume.name}", error) from error

    def usage(self, pool: VolumePoolRecord, volume: VolumeRecord) -> Usage | None:
        """By statvfs(3), which Gluster answers with the limit's figures; without a limit, they would be the pool's."""
        target = self._target(pool)
        if not volume.size or target not in self._mounts.all():
            return None
        try:
            found = self._looks.submit(os.statvfs, target / place(volume).lstrip("/")).result(PATIENCE)
        except (OSError, Late):
            return None
        return Usage((found.f_blocks - found.f_bfree) * found.f_frsize, found.f_blocks * found.f_frsize)

    def measure(self, pool: VolumePoolRecord, volume: VolumeRecord) -> int:
        """By du(1), within its deadline. Raises Unavailable."""
        command = ["du", "-s", "--block-size=1", "--", str(self._home(pool, volume))]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=COPYING, check=True)
        except (subprocess.SubprocessError, OSError) as error:
            raise Unavailable(f"volume {volume.name} cannot be measured: {error}") from error
        return int(done.stdout.split()[0])

    def _home(self, pool: VolumePoolRecord, volume: VolumeRecord) -> Path:
        return self.open(pool) / place(volume).lstrip("/")

    def _target(self, pool: VolumePoolRecord) -> Path:
        return self._root / f"pool-{pool.name}"

    @staticmethod
    def _move(pool: VolumePoolRecord, here: Path, there: Path) -> None:
        try:
            there.parent.mkdir(parents=True, exist_ok=True, mode=0o711)
            _rename(here, there)
        except FileNotFoundError:
            return  # another host was faster, or it was never made
        except OSError as error:
            raise _failed(pool, f"move {here.name}", error) from error


def _rename(here: Path, there: Path) -> None:
    """A kernel that knows the directory from where another host moved it away has to move it in its own cache first. It
    cannot while it renames, for it has both parents locked: ESTALE; it can when it looks, unless somebody else has."""
    for _ in range(TRIES):
        try:
            here.stat()
            here.rename(there)
            return
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
        time.sleep(PAUSE)
    here.rename(there)


def _copy(here: Path, there: Path, name: str) -> None:
    """Everything with its permissions, owners, times and links. Raises NotFound, Unavailable."""
    if not here.is_dir():
        raise NotFound(f"what volume {name} is to be a copy of is gone")
    try:
        subprocess.run(
            ["cp", "-a", "--", f"{here}/.", str(there)], capture_output=True, text=True, timeout=COPYING, check=True
        )
    except subprocess.CalledProcessError as error:
        said = (error.stderr.strip().splitlines() or [f"status {error.returncode}"])[-1]
        raise Unavailable(f"volume {name} cannot be filled: {said}") from error
    except subprocess.TimeoutExpired as error:
        raise Unavailable(
            f"volume {name} is not copied within {COPYING:g} s, and engines wait no longer: make it without -o from=, "
            f"and copy by a container that has both"
        ) from error


def _not_made(pool: VolumePoolRecord, volume: VolumeRecord, error: OSError) -> QnetError:
    if isinstance(error, FileNotFoundError):
        return NotFound(f"volume {volume.name} was removed meanwhile")
    return _failed(pool, f"make volume {volume.name}", error)


def _failed(pool: VolumePoolRecord, what: str, error: OSError) -> Unavailable:
    return Unavailable(f"pool {pool.name}: cannot {what}: {error.strerror or error}")
