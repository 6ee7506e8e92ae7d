"""The agent's threads, without an engine."""

from __future__ import annotations

import threading
from unittest.mock import Mock

import pytest

from qnet.settings import Agent as Policy
from scheduler.agent.service import Agent

SOON = 10.0  # seconds


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), PermissionError()])
def test_an_agent_that_cannot_write_its_state_goes_on(monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    monkeypatch.setattr("scheduler.agent.service.AGAIN", 0.01)
    compared = threading.Event()
    publisher = Mock()
    publisher.compare.side_effect = [error, None]

    def tell() -> None:
        if publisher.compare.call_count:
            compared.set()

    registration = Mock()
    registration.tell.side_effect = tell
    agent = Agent(Mock(), registration, publisher, Mock(), Mock(), Policy(), "host1")
    thread = threading.Thread(target=agent._look, daemon=True)
    thread.start()
    went_on = compared.wait(SOON)
    agent.stop()
    thread.join(SOON)
    assert went_on
