"""What gluster's command says when it cannot, and what becomes of it."""

from __future__ import annotations

import pytest
from glustercli.cli import utils

from plugins.volume import gluster
from qnet.errors import InvalidRequest, Unavailable
from qnet.schema import VolumePoolRecord

POOL = VolumePoolRecord(name="main", volume="gv0", servers=("10.0.0.1",), since="2026-11-22T00:00:00Z")
BUSY = "Another transaction is in progress for gv0. Please try again after some time."
LOST = "quota command failed : Failed to find the directory /x. Reason : Transport endpoint is not connected"


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the command says from now on: an error, or nothing where it works."""
    said: list[str] = []

    def execute(command: list[str]) -> tuple[int, str, str]:
        error = said.pop(0)
        return bool(error), "", error

    monkeypatch.setattr(utils, "execute", execute)
    monkeypatch.setattr(gluster, "PAUSE", (0, 0))
    return said


@pytest.mark.parametrize("why", [BUSY, LOST])
def test_what_passes_is_asked_again(answers: list[str], why: str) -> None:
    answers += [why, why, ""]
    gluster.Quota().limit(POOL, "/x", 10, 0)
    assert answers == []


@pytest.mark.parametrize("why", [BUSY, LOST])
def test_what_does_not_pass_is_told(answers: list[str], why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gluster, "PATIENCE", 0)
    monkeypatch.setattr(gluster, "LOST_PATIENCE", 0)
    answers += [why] * 9
    with pytest.raises(Unavailable, match="gluster is busy, or lost its bricks"):
        gluster.Quota().limit(POOL, "/x", 10, 0)


def test_what_is_refused_is_not_asked_again(answers: list[str]) -> None:
    answers += ["quota command failed : please enable quota first", ""]
    with pytest.raises(InvalidRequest, match="please enable quota first"):
        gluster.Quota().limit(POOL, "/x", 10, 0)
    assert answers == [""]
