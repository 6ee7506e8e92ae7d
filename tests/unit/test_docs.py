"""The reference names every setting, metric and kind of error; links in the documentation lead somewhere."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
from prometheus_client.metrics import MetricWrapperBase

from plugins.network import meter
from plugins.volume import meter as volume_meter
from qnet import errors, metrics
from qnet.settings import Settings

ROOT = Path(__file__).parents[2]
REFERENCE = (ROOT / "docs/reference.md").read_text()
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def test_every_setting_is_in_the_reference() -> None:
    defaults = Settings()
    for section in Settings.__struct_fields__:
        for option in getattr(defaults, section).__struct_fields__:
            assert f"`{section}.{option}`" in REFERENCE


def test_every_metric_is_in_the_reference() -> None:
    for value in vars(metrics).values():
        if isinstance(value, MetricWrapperBase):
            name = value.describe()[0].name
            assert f"`{name}" in REFERENCE


def test_every_metric_of_traffic_is_in_the_reference() -> None:
    for name in (*map(meter.TRAFFIC.format, meter.LABELS), meter.LIMIT):
        assert f"`{name}" in REFERENCE


def test_every_metric_of_volumes_is_in_the_reference() -> None:
    for name in volume_meter.METRICS:
        assert f"`{name}`" in REFERENCE


def test_every_kind_of_error_is_in_the_reference() -> None:
    for name, kind in inspect.getmembers(errors, inspect.isclass):
        if kind.__module__ == errors.__name__ and name != "QnetError":
            assert f"`{name}`" in REFERENCE


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target
