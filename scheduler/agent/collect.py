"""Which exited containers are removed, if anybody has said that some are. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from qnet.settings import Agent
from scheduler.model import Container


def collectable(containers: Iterable[Container], policy: Agent, now: datetime) -> list[Container]:
    """Those that qnet has placed and that ended long enough ago, but for the youngest and those that are to be kept."""
    if not policy.collect_after:
        return []
    ended = [
        one
        for one in containers
        if one.claim and one.state in ("exited", "dead") and one.changed and policy.collect_label not in one.labels
    ]
    ended.sort(key=lambda one: one.changed, reverse=True)
    oldest = now - timedelta(seconds=policy.collect_after)
    return [
        one for one in ended[policy.collect_keep :] if datetime.fromisoformat(one.changed).replace(tzinfo=UTC) <= oldest
    ]
