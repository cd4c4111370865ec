"""The alerts: valid, about metrics that there are, each shown to fire and not to, each with a runbook."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.exposed import names
from support.queries import ROOT, alerts, metrics_of

CASES = Path(__file__).with_name("alerts.yaml")
RULES = ROOT / "helm" / "rephrase-operator" / "files" / "rules.yaml"
RUNBOOKS = ROOT / "docs" / "runbooks.md"


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = ["promtool", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.needs("promtool")
def test_the_rules_are_valid() -> None:
    checked = promtool("check", "rules", RULES)

    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{len(alerts())} rules found" in checked.stdout


@pytest.mark.needs("promtool")
def test_each_alert_fires_when_it_should_and_only_then() -> None:
    tried = promtool("test", "rules", CASES)

    assert tried.returncode == 0, tried.stdout + tried.stderr


def test_each_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    cases: list[dict[str, Any]] = yaml.safe_load(CASES.read_text(encoding="utf-8"))["tests"]
    fires: set[str] = set()
    quiet: set[str] = set()
    for case in cases:
        alert, does, *_ = case["name"].split()
        (test,) = case["promql_expr_test"]
        shown = [sample["labels"] for sample in test["exp_samples"]]
        assert bool(shown) == (does == "fires"), case["name"]
        assert all(f'alertname="{alert}"' in labels for labels in shown), case["name"]
        (fires if shown else quiet).add(alert)

    assert fires == quiet == {alert["alert"] for alert in alerts()}


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_each_alert_says_what_it_is_how_bad_and_where_to_read_on(alert: dict[str, Any]) -> None:
    name, said = alert["alert"], alert["annotations"]

    assert alert["labels"]["severity"] in {"critical", "warning", "info"}
    assert said["description"].endswith(".")
    assert said["runbook"] == f"docs/runbooks.md#{name.lower()}"
    assert f"\n## {name}\n" in RUNBOOKS.read_text(encoding="utf-8")
    assert set(said) == {"summary", "description", "runbook"}


def test_there_is_no_runbook_of_an_alert_that_is_not_there() -> None:
    headings = re.findall(r"^## (\w+)$", RUNBOOKS.read_text(encoding="utf-8"), re.MULTILINE)

    assert headings == [alert["alert"] for alert in alerts()]


def test_alerts_ask_for_metrics_that_there_are(tmp_path: Path) -> None:
    there = names(tmp_path)
    unknown = {
        name for alert in alerts() for name in metrics_of(alert["expr"]) if name not in there
    }

    assert not unknown
