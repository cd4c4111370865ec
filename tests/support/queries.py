"""Every query that we ship: of the alerts and of the dashboards."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
FILES = ROOT / "helm" / "rephrase-operator" / "files"
DASHBOARDS = FILES / "dashboards"
_METRIC = re.compile(r"\b(?:rephrase_(?!io_)|vllm:|process_)\w+")


def alerts() -> list[dict[str, Any]]:
    """The alerts, in the order of their file."""
    groups = yaml.safe_load((FILES / "rules.yaml").read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def metrics_of(expression: str) -> set[str]:
    """Names of the metrics that an expression asks for."""
    return set(_METRIC.findall(expression))


def panels() -> list[tuple[str, dict[str, Any]]]:
    """All panels of all dashboards, rows aside, each with its dashboard's name."""
    found = []
    for path in sorted(DASHBOARDS.glob("*.json")):
        board = json.loads(path.read_text(encoding="utf-8"))
        found += [(path.stem, panel) for panel in board["panels"] if panel["type"] != "row"]
    return found
