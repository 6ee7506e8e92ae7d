"""Alerts, dashboard and scrape configuration: Prometheus takes them, and what they ask for exists."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import reference

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "packaging/prometheus"
ALERTS = PROMETHEUS / "alerts.yml"
DASHBOARD = ROOT / "packaging/grafana/qnet.json"


def promtool(*words: str | Path) -> str:
    """What promtool says; an error fails the test."""
    done = subprocess.run(["promtool", *map(str, words)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def known() -> set[str]:
    """Every name that a metric of qnet's has in a scrape."""
    found = set()
    for name, (metric, _) in reference.metrics().items():
        ends = ("", "_bucket", "_count", "_sum") if metric.type == "histogram" else ("",)
        found |= {name + end for end in ends}
    return found


def rules() -> list[dict[str, Any]]:
    return list(yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"])


def queries() -> Iterator[str]:
    """Those of the dashboard, with what Grafana puts in."""
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for one in panel["targets"]:
            yield one["expr"].replace("$__rate_interval", "5m")


def test_the_alerts_are_rules_and_fire_when_they_should() -> None:
    assert "SUCCESS" in promtool("check", "rules", ALERTS)
    assert "SUCCESS" in promtool("test", "rules", PROMETHEUS / "alerts_test.yml")


def test_each_alert_is_tested_and_says_what_to_do() -> None:
    tested = (PROMETHEUS / "alerts_test.yml").read_text()
    headings = re.findall(r"^### (.+)$", (ROOT / "docs/failures.md").read_text(), re.MULTILINE)
    pages = {f"docs/failures.md#{re.sub('[^a-z -]', '', one.lower()).replace(' ', '-')}" for one in headings}
    for rule in rules():
        assert f'alertname="{rule["alert"]}"' in tested
        assert {"summary", "description", "action", "page"} == rule["annotations"].keys(), rule["alert"]
        assert rule["annotations"]["page"] in pages
        assert rule["labels"]["severity"] in ("warning", "critical")


def test_the_scrape_configuration_is_one(tmp_path: Path) -> None:
    text = (PROMETHEUS / "scrape.yml").read_text().replace("/etc/prometheus/qnet", str(tmp_path))
    for name in ("ca.pem", "operator.pem", "operator.key"):
        (tmp_path / name).touch()
    (tmp_path / "alerts.yml").write_text(ALERTS.read_text())
    (tmp_path / "prometheus.yml").write_text(text)
    assert "SUCCESS" in promtool("check", "config", tmp_path / "prometheus.yml")


def test_every_query_of_the_dashboard_parses(tmp_path: Path) -> None:
    recorded = [{"record": f"panel{number}", "expr": expr} for number, expr in enumerate(queries())]
    assert len(recorded) > 20
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": recorded}]}))
    assert f"{len(recorded)} rules found" in promtool("check", "rules", tmp_path / "rules.yml")


def test_the_panels_lie_beside_each_other() -> None:
    panels = [panel["gridPos"] for panel in json.loads(DASHBOARD.read_text())["panels"]]
    cells = [(x, y) for p in panels for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) == 23


@pytest.mark.parametrize("where", ["alerts", "dashboard", "docs/monitoring.md"])
def test_metrics_that_are_asked_for_exist(where: str) -> None:
    if where == "alerts":
        text = "\n".join(rule["expr"] for rule in rules())
    else:
        text = "\n".join(queries()) if where == "dashboard" else (ROOT / where).read_text()
    asked = set(re.findall(r"\bqnet_[a-z_]+", text))
    assert asked
    assert asked - known() == set()
