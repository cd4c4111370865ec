"""The documented queries that join OpenCost's prices with runs, on series as OpenCost exposes them."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.tiers import ROOT

pytestmark = pytest.mark.needs("promtool")
PODS = {"a-0": ("a", "n1", 1), "a-1": ("a", "n1", 1), "b-0": ("b", "n2", 2), "other": ("", "n2", 1)}
"""Run, node and GPUs by pod; one belongs to no run."""
PRICES = {"n1": 2.5, "n2": 3.0}
TOKENS_PER_MINUTE = 60_000


def samples() -> list[dict[str, str]]:
    """An hour of them. OpenCost tells the price of a node more than once: by instance type, and by itself."""
    found = {
        f'node_gpu_hourly_cost{{node="{node}", instance_type="{kind}"}}': f"{price}x60"
        for node, price in PRICES.items()
        for kind in ("g6.xlarge", "g6.xlarge-old")
    }
    for pod, (run, node, gpus) in PODS.items():
        where = f'namespace="team", pod="{pod}"'
        found[f'container_gpu_allocation{{{where}, container="worker", node="{node}"}}'] = (
            f"{gpus}x60"
        )
        label = f', label_rephrase_io_run="{run}"' if run else ""
        found[f"kube_pod_labels{{{where}{label}}}"] = "1x60"
        if run:
            series = f'rephrase_generated_tokens_total{{{where}, rephrase_io_run="{run}"}}'
            found[series] = f"0+{TOKENS_PER_MINUTE}x60"
    return [{"series": series, "values": values} for series, values in found.items()]


@pytest.mark.parametrize(
    ("query", "label", "expected"),
    [
        ("opencost-run", "label_rephrase_io_run", {"a": 5.0, "b": 6.0}),
        # 5 dollars an hour for 2,000 tokens a second, 6 for 1,000
        (
            "opencost-tokens",
            "rephrase_io_run",
            {"a": 1e6 * 5 / 3600 / 2000, "b": 1e6 * 6 / 3600 / 1000},
        ),
    ],
)
def test_a_query_gives_the_money_of_each_run_and_of_nothing_else(
    query: str, label: str, expected: dict[str, float], tmp_path: Path
) -> None:
    shown = [
        {"labels": f'{{namespace="team", {label}="{run}"}}', "value": value}
        for run, value in expected.items()
    ]
    case: dict[str, Any] = {
        "expr": (ROOT / "docs" / f"{query}.promql").read_text(encoding="utf-8"),
        "eval_time": "30m",
        "exp_samples": shown,
    }
    test = {"interval": "1m", "input_series": samples(), "promql_expr_test": [case]}
    path = tmp_path / "case.yaml"
    path.write_text(yaml.safe_dump({"tests": [test]}))
    tried = subprocess.run(
        ["promtool", "test", "rules", path], capture_output=True, text=True, check=False
    )

    assert tried.returncode == 0, tried.stdout + tried.stderr
