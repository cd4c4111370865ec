"""The dashboards: as the code says, every panel explained, about metrics that there are."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from support.exposed import names
from support.queries import DASHBOARDS, ROOT, metrics_of, panels

PANELS = [pytest.param(panel, id=f"{board}: {panel['title']}") for board, panel in panels()]


def test_the_dashboards_are_what_the_code_says_and_others_are_told_apart(tmp_path: Path) -> None:
    code = ROOT / "helm" / "dashboards.py"
    elsewhere = tmp_path / "dashboards.py"  # where there are no dashboards
    elsewhere.write_text(code.read_text(encoding="utf-8"), encoding="utf-8")
    here, there = (
        subprocess.run(
            [sys.executable, script, "--check"], stdout=subprocess.PIPE, text=True, check=False
        )
        for script in (code, elsewhere)
    )

    assert (here.returncode, here.stdout) == (0, "")
    assert there.returncode == 1
    assert there.stdout.startswith("runs.json, workers.json, operator.json: not what")


@pytest.mark.parametrize("panel", PANELS)
def test_every_panel_has_a_unit_a_sentence_and_a_query(panel: dict[str, Any]) -> None:
    text = panel["description"]

    assert panel["fieldConfig"]["defaults"]["unit"]
    assert text[0].isupper()
    assert text.endswith(".")
    assert len(text.split()) > 4
    assert all(target["expr"] for target in panel["targets"])
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_panels_ask_for_metrics_that_there_are(tmp_path: Path) -> None:
    there = names(tmp_path) | {"process_resident_memory_bytes", "process_cpu_seconds_total"}
    asked = {
        name
        for _, panel in panels()
        for target in panel["targets"]
        for name in metrics_of(target["expr"])
    }

    assert not asked - there
    assert {name for name in there - asked if name.startswith("rephrase_run_")} <= {
        "rephrase_run_completion_timestamp_seconds",
        "rephrase_run_last_progress_timestamp_seconds",
    }


def test_panels_do_not_lie_over_each_other_and_are_told_apart() -> None:
    for path in DASHBOARDS.glob("*.json"):
        board = json.loads(path.read_text(encoding="utf-8"))
        places = [panel["gridPos"] for panel in board["panels"]]
        cells = Counter(
            (x, y)
            for one in places
            for x in range(one["x"], one["x"] + one["w"])
            for y in range(one["y"], one["y"] + one["h"])
        )

        assert set(cells.values()) == {1}, path.name
        assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
        assert max(x for x, _ in cells) < 24
