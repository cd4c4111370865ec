"""The dashboards of the chart as code: `python helm/dashboards.py --write` or `--check`.

What a panel asks and says is data; `board` makes Grafana's JSON of it. A run's value is the maximum of what
all operators tell: while one follows another, Prometheus may hold the series of both.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from grafana_foundation_sdk.builders import prometheus, stat, table, timeseries
from grafana_foundation_sdk.builders.common import (
    ReduceDataOptions,
    StackingConfig,
    VizLegendOptions,
)
from grafana_foundation_sdk.builders.dashboard import (
    Dashboard,
    DatasourceVariable,
    QueryVariable,
    Row,
)
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    LegendDisplayMode,
    LegendPlacement,
    StackingMode,
)
from grafana_foundation_sdk.models.dashboard import Dashboard as Board
from grafana_foundation_sdk.models.dashboard import (
    DataSourceRef,
    DataTransformerConfig,
    DynamicConfigValue,
    VariableRefresh,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

FOLDER = Path(__file__).parent / "rephrase-operator" / "files" / "dashboards"
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel.

    Attributes:
        title: what it shows.
        unit: Grafana's name of it.
        text: a sentence for who does not know it.
        queries: PromQL by legend.
        kind: lines, stack (of areas), number or table.
        width: of 24.
        units: of a table's columns, by legend, where not `unit`.
        signed: whether values below 0 mean something.
    """

    title: str
    unit: str
    text: str
    queries: dict[str, str]
    kind: str = "lines"
    width: int = 8
    units: tuple[tuple[str, str], ...] = ()
    signed: bool = False


# -- what is asked of the operator, by run --

RUN = 'namespace=~"$namespace", run=~"$run"'
NAME = "{{namespace}}/{{run}}"
MONEY_NAME = f"{NAME} {{{{currency}}}}"


def of_run(metric: str, *labels: str, **also: str) -> str:
    """A metric of runs with these labels, each value once; `also` must be equal."""
    matchers = ", ".join([RUN, *(f'{name}="{value}"' for name, value in also.items())])
    by = ", ".join(("namespace", "run", *labels))
    return f"max by ({by}) (rephrase_run_{metric}{{{matchers}}})"


def per_run(query: str) -> str:
    """Summed up for each run."""
    return f"sum by (namespace, run) ({query})"


def lately(query: str) -> str:
    """How much of a total has come in the last hour; a new operator that tells the old total adds none."""
    return f"({query}) - min_over_time(({query})[1h:1m])"


COMMITTED, PLANNED = of_run("units", state="committed"), of_run("units", state="planned")
RATE = of_run("completion_tokens_per_second")
END = of_run("estimated_completion_timestamp_seconds")
READY = of_run("workers", "pool", state="ready")
MONEY = of_run("cost", "pool", "currency", "useful")
LOST = of_run("cost", "pool", "currency", "useful", useful="false")
PER_MILLION = of_run("cost_per_million_tokens", "currency")
PROJECTED = of_run("cost_projected", "currency")
OVER = 'rephrase_run_condition{type=~"Complete|Failed", status="True"} == 1'
SPENDING_BY_POOL = f"sum by (pool) (deriv(({MONEY})[15m:1m]))"
FIRING = 'ALERTS{alertname=~"Rephrase.*", alertstate="firing"}'


def share_of_samples(outcome: str) -> str:
    """Of all committed samples."""
    some, every = of_run("samples", outcome=outcome), of_run("samples", "outcome")
    return f"{some} / {per_run(every)}"


# -- what is asked of workers, by pod --

POD = 'namespace=~"$namespace", rephrase_io_run=~"$run"'
POD_NAME = "{{rephrase_io_run}}"
WORKER_NAME = "{{rephrase_io_run}} {{rephrase_io_slot}}"


def of_pods(query: str) -> str:
    """Summed up for each run."""
    return f"sum by (namespace, rephrase_io_run) ({query})"


def growth(metric: str, window: str = "5m") -> str:
    """A counter's growth per second."""
    return f"rate({metric}{{{POD}}}[{window}])"


def mean(metric: str, window: str = "5m") -> str:
    """Of what a histogram or summary has seen lately, for each run."""
    return (
        f"{of_pods(growth(f'{metric}_sum', window))} / {of_pods(growth(f'{metric}_count', window))}"
    )


SPEED = (
    "sum by (namespace, rephrase_io_run, rephrase_io_slot) "
    f"({growth('rephrase_generated_tokens_total')})"
)
MEDIAN = f"quantile by (namespace, rephrase_io_run) (0.5, {SPEED})"
TOKENS_BY_POOL = (
    "label_replace(sum by (rephrase_io_pool) "
    f"({growth('rephrase_generated_tokens_total', '15m')}), "
    '"pool", "$1", "rephrase_io_pool", "(.*)")'
)
PHASES = growth("rephrase_worker_phase_seconds_total")
GPU = "DCGM_FI_PROF_GR_ENGINE_ACTIVE"
OWN = "on (instance) rephrase_operator_price_list_refused"
"""Only of the operator's process."""


NOW = (
    Panel(
        "Live runs",
        "short",
        "Runs that are neither complete nor failed.",
        {"runs": f"count({PLANNED} unless on (namespace, run) ({OVER})) or vector(0)"},
        kind="number",
        width=4,
    ),
    Panel(
        "Tokens per second",
        "short",
        "Completion tokens that all workers of the runs chosen generate per second.",
        {"tokens/s": f"sum({RATE})"},
        kind="number",
        width=4,
    ),
    Panel(
        "Ready workers",
        "short",
        "Workers that have their model loaded.",
        {"workers": f"sum({READY})"},
        kind="number",
        width=4,
    ),
    Panel(
        "Money so far",
        "none",
        "What the runs chosen cost so far; pools without a known price are not in it.",
        {"{{currency}}": f"sum by (currency) ({MONEY})"},
        kind="number",
        width=4,
    ),
    Panel(
        "Money per hour",
        "none",
        "What is being spent, by the growth of the cost in the last ten minutes.",
        {"{{currency}}": f"sum by (currency) (deriv(({MONEY})[10m:1m])) * 3600"},
        kind="number",
        width=4,
    ),
    Panel(
        "Alerts",
        "short",
        "Alerts that fire; docs/runbooks.md says what to do about each.",
        {"alerts": f"count({FIRING}) or vector(0)"},
        kind="number",
        width=4,
    ),
    Panel(
        "What is wrong",
        "short",
        "Each alert that fires, with its run; docs/runbooks.md has a section of its name.",
        {"firing": f"max by (severity, alertname, namespace, run, rephrase_io_run) ({FIRING})"},
        kind="table",
        width=24,
    ),
    Panel(
        "Runs",
        "short",
        "A line for each run: how far, how fast, when it ends at this rate, what it costs.",
        {
            "Done": f"{COMMITTED} / {PLANNED}",
            "Tokens/s": RATE,
            "Of expected": of_run("realized_rate_ratio"),
            "Ready": per_run(READY),
            "Wanted": per_run(of_run("workers", "pool", state="desired")),
            "Time left": f"{END} - time()",
            "Cost": per_run(MONEY),
            "Projected": per_run(PROJECTED),
            "Per M tokens": per_run(PER_MILLION),
        },
        kind="table",
        width=24,
        units=(("Done", "percentunit"), ("Of expected", "percentunit"), ("Time left", "s")),
    ),
)
PROGRESS = (
    Panel(
        "Tokens per second by run",
        "short",
        "Completion tokens generated per second, and what canary or table would have it.",
        {
            NAME: RATE,
            f"{NAME} expected": of_run("expected_completion_tokens_per_second"),
        },
    ),
    Panel(
        "Committed units",
        "percentunit",
        "Share of the plan's units that are finished for good.",
        {NAME: f"{COMMITTED} / {PLANNED}"},
    ),
    Panel(
        "Time left",
        "s",
        "Time until all samples are finished at the rate of the last minute.",
        {NAME: f"{END} - time()"},
    ),
    Panel(
        "In time by",
        "s",
        "Time from the estimated end to the deadline; below zero the deadline is missed.",
        {NAME: f"{of_run('deadline_timestamp_seconds')} - {END}"},
        signed=True,
    ),
    Panel(
        "Committed completion tokens",
        "short",
        "Completion tokens of committed units, by the ledger.",
        {NAME: of_run("tokens", kind="completion", outcome="committed")},
    ),
    Panel(
        "Failed and skipped samples",
        "percentunit",
        "Share of the committed samples that broke, and of those with nothing to rewrite.",
        {
            f"{NAME} failed": share_of_samples("failed"),
            f"{NAME} skipped": share_of_samples("skipped"),
        },
    ),
)
COSTS = (
    Panel(
        "Money so far by run",
        "none",
        "Money spent from when a pod has its node to its end, pulling and loading included.",
        {MONEY_NAME: f"sum by (namespace, run, currency) ({MONEY})"},
    ),
    Panel(
        "Money per million tokens",
        "none",
        "Money for a million committed completion tokens, all that the run spent counted.",
        {MONEY_NAME: PER_MILLION},
    ),
    Panel(
        "Money for lost work",
        "none",
        "Money for tokens that are in no commit, told while no worker is alive.",
        {MONEY_NAME: f"sum by (namespace, run, currency) ({LOST})"},
    ),
    Panel(
        "Projected money",
        "none",
        "What the whole run will have cost if it goes on as so far.",
        {MONEY_NAME: PROJECTED},
    ),
    Panel(
        "Share of the budget",
        "percentunit",
        "Money spent of spec.scaling.budget; just before all of it is, the run is suspended.",
        {NAME: f"sum by (namespace, run, currency) ({MONEY}) / {of_run('budget', 'currency')}"},
    ),
    Panel(
        "Money per million tokens by pool",
        "none",
        "Money for a million completion tokens in each pool, of the last quarter of an hour.",
        {"{{pool}}": f"1e6 * {SPENDING_BY_POOL} / on (pool) {TOKENS_BY_POOL}"},
    ),
    Panel(
        "GPU hours by pool",
        "h",
        "GPU hours held in each pool of nodes; worker hours in a pool without GPUs.",
        {"{{pool}}": f"sum by (pool) ({of_run('gpu_seconds', 'pool', 'useful')}) / 3600"},
        kind="stack",
    ),
)

NUMBERS = (
    Panel(
        "Workers by state",
        "short",
        "Workers that should be, have a Job, have their model loaded, and wait for a node.",
        {"{{state}}": f"sum by (state) ({of_run('workers', 'pool', 'state')})"},
    ),
    Panel(
        "Ready workers by pool",
        "short",
        "Workers that have their model loaded, by pool of nodes.",
        {"{{pool}}": f"sum by (pool) ({READY})"},
        kind="stack",
    ),
    Panel(
        "Time by phase",
        "percentunit",
        "Share of the workers' time: loading is paid and makes nothing, idle is a run's tail.",
        {"{{phase}}": f"sum by (phase) ({PHASES}) / scalar(sum({PHASES}))"},
        kind="stack",
    ),
    Panel(
        "Preempted pods",
        "short",
        "Pods preempted, evicted or lost with their node in the last hour; no retry is used up.",
        {
            "{{pool}}, {{reason}}": "sum by (pool, reason) "
            f"({lately(of_run('disruptions', 'pool', 'reason'))})"
        },
    ),
    Panel(
        "Failed pods",
        "short",
        "Pods that failed by themselves in the last hour; eight without progress stop a run.",
        {"{{pool}}": f"sum by (pool) ({lately(of_run('worker_failures', 'pool'))})"},
    ),
    Panel(
        "Units taken over from silent workers",
        "short",
        "Units whose holder sent no heartbeat for longer than its lease, in half an hour.",
        {POD_NAME: of_pods(f"increase(rephrase_lease_expiries_total{{{POD}}}[30m])")},
    ),
)
SPEEDS = (
    Panel(
        "Tokens per second by worker",
        "short",
        "Completion tokens that each worker generates per second, whatever becomes of them.",
        {WORKER_NAME: SPEED},
    ),
    Panel(
        "Slowest workers",
        "percentunit",
        "The ten slowest workers as a share of their run's median: far below 1 is a slow node.",
        {
            WORKER_NAME: f"bottomk(10, {SPEED} / on (namespace, rephrase_io_run) group_left () {MEDIAN})"
        },
    ),
    Panel(
        "GPU activity",
        "percentunit",
        "Share of the time in which a GPU's compute engine works, by NVIDIA's DCGM exporter.",
        {
            "{{pod}}": f"avg by (namespace, pod) ({GPU} and on (namespace, pod) rephrase_requests{{{POD}}})"
        },
    ),
    Panel(
        "Requests in hand",
        "short",
        "Requests that the engines have, and that wait to be submitted or tried again.",
        {"{{state}}": f"sum by (state) (rephrase_requests{{{POD}}})"},
        kind="stack",
    ),
    Panel(
        "Duration of a unit",
        "s",
        "Time from the claim of a unit to its commit, mean of a quarter of an hour.",
        {POD_NAME: mean("rephrase_unit_duration_seconds", "15m")},
    ),
    Panel(
        "Oldest unsaved samples",
        "s",
        "Time since a worker last saved finished samples: what a preemption loses at most.",
        {
            POD_NAME: f"max by (namespace, rephrase_io_run) (rephrase_checkpoint_age_seconds{{{POD}}})"
        },
    ),
)
ENGINES = (
    Panel(
        "Batch",
        "short",
        "Requests in the engines' batches and waiting for them: with none waiting there is room.",
        {
            "in the batch": f"sum(vllm:num_requests_running{{{POD}}})",
            "waiting": f"sum(vllm:num_requests_waiting{{{POD}}})",
        },
    ),
    Panel(
        "KV cache in use",
        "percentunit",
        "Share of the KV cache in use: near 1 requests are put back and done again.",
        {
            "mean": f"avg(vllm:kv_cache_usage_perc{{{POD}}})",
            "highest": f"max(vllm:kv_cache_usage_perc{{{POD}}})",
        },
    ),
    Panel(
        "Requests put back",
        "reqps",
        "Requests that lost their place in the batch for want of KV cache, per second.",
        {POD_NAME: of_pods(growth("vllm:num_preemptions_total"))},
    ),
    Panel(
        "Prompt tokens found in the cache",
        "percentunit",
        "Share of the prompt tokens that another prompt of the same document has computed.",
        {
            POD_NAME: f"{of_pods(growth('vllm:prefix_cache_hits_total'))} / "
            f"{of_pods(growth('vllm:prefix_cache_queries_total'))}"
        },
    ),
    Panel(
        "Tokens a step",
        "short",
        "Tokens that the model works on in one step: the more, the better a GPU is used.",
        {POD_NAME: mean("vllm:iteration_tokens_total")},
    ),
    Panel(
        "Time in the queue and to the first token",
        "s",
        "Time that requests wait for the batch, and until their first token, mean.",
        {
            f"{POD_NAME} queue": mean("vllm:request_queue_time_seconds"),
            f"{POD_NAME} first token": mean("vllm:time_to_first_token_seconds"),
        },
    ),
    Panel(
        "Drafted tokens kept",
        "percentunit",
        "Share of the tokens drafted by speculative decoding that the model keeps.",
        {
            POD_NAME: f"{of_pods(growth('vllm:spec_decode_num_accepted_tokens_total'))} / "
            f"{of_pods(growth('vllm:spec_decode_num_draft_tokens_total'))}"
        },
    ),
)
STORES = (
    Panel(
        "Time of a request to the store",
        "s",
        "Mean time of a request to the output by kind, retries included.",
        {
            "{{op}}": f"sum by (op) ({growth('rephrase_store_request_duration_seconds_sum')}) / "
            f"sum by (op) ({growth('rephrase_store_request_duration_seconds_count')})"
        },
    ),
    Panel(
        "Errors of the store",
        "reqps",
        "Requests to the output that failed, per second; they are tried again.",
        {POD_NAME: of_pods(growth("rephrase_store_errors_total"))},
    ),
    Panel(
        "Rewrites that begin alike",
        "percentunit",
        "Share of the commonest ten first characters among the last thousand rewrites.",
        {
            f"{POD_NAME} {{{{prompt}}}}": "max by (namespace, rephrase_io_run, prompt) "
            f"(rephrase_commonest_opening_ratio{{{POD}}})"
        },
    ),
)

LOOKS = (
    Panel(
        "Since the last look",
        "s",
        "Time since the operator last looked at any run: seconds, while there are runs.",
        {"time": "time() - max(rephrase_operator_last_reconcile_timestamp_seconds > 0)"},
        kind="number",
    ),
    Panel(
        "Drivers that do not answer",
        "short",
        "Runs whose driver the operator cannot ask; their workers go on.",
        {"drivers": f"count({of_run('driver_reachable')} == 0) or vector(0)"},
        kind="number",
    ),
    Panel(
        "Price list refused",
        "bool_yes_no",
        "Whether the price list cannot be used, and the last good one is.",
        {"refused": "max(rephrase_operator_price_list_refused)"},
        kind="number",
    ),
    Panel(
        "Duration of a look",
        "s",
        "Time of one look at a run, the median and the slowest of twenty.",
        {
            f"quantile {share}": f"histogram_quantile({share}, sum by (le) "
            "(rate(rephrase_operator_reconcile_duration_seconds_bucket[5m])))"
            for share in (0.5, 0.95)
        },
    ),
    Panel(
        "Looks per second",
        "ops",
        "Looks at runs per second, and those that ended with an error.",
        {
            "looks": "sum(rate(rephrase_operator_reconcile_duration_seconds_count[5m]))",
            "errors": "sum(rate(rephrase_operator_reconcile_errors_total[5m]))",
        },
    ),
    Panel(
        "Runs by condition",
        "short",
        "Runs for which each condition holds.",
        {"{{type}}": f"sum by (type) ({of_run('condition', 'type', status='True')})"},
    ),
)
DEEDS = (
    Panel(
        "Requests to the API server",
        "reqps",
        "Requests per second by verb and answer, without the watches.",
        {
            "{{verb}} {{code}}": "sum by (verb, code) "
            "(rate(rephrase_operator_api_requests_total[5m]))"
        },
        kind="stack",
    ),
    Panel(
        "Objects made and deleted",
        "ops",
        "Jobs and other objects made, changed and deleted per second, by result.",
        {
            "{{action}} {{result}}": "sum by (action, result) "
            "(rate(rephrase_operator_actions_total[5m]))"
        },
        kind="stack",
    ),
    Panel(
        "Scaling decisions",
        "short",
        "Changes of the number of workers in the last hour, by what decided and where to.",
        {
            "{{reason}} {{direction}}": "sum by (reason, direction) "
            "(increase(rephrase_operator_scaling_decisions_total[1h]))"
        },
    ),
    Panel(
        "Ended pods",
        "short",
        "Pods of workers that ended in the last hour, by how and why.",
        {
            "{{ending}} {{reason}}": "sum by (ending, reason) "
            "(increase(rephrase_operator_ended_pods_total[1h]))"
        },
    ),
    Panel(
        "Memory",
        "bytes",
        "Memory of the operator's process.",
        {"memory": f"max(process_resident_memory_bytes and {OWN})"},
    ),
    Panel(
        "CPU",
        "percentunit",
        "CPU of the operator's process, 1 = one core.",
        {"CPU": f"max(rate(process_cpu_seconds_total[5m]) and {OWN})"},
    ),
)

PAGES: dict[str, tuple[str, str, dict[str, tuple[Panel, ...]]]] = {
    "runs": (
        "Rephrase / Runs",
        "Tokens, time and money of each run, and what is wrong.",
        {"Now": NOW, "Progress": PROGRESS, "Money": COSTS},
    ),
    "workers": (
        "Rephrase / Workers",
        "What the workers of runs do, and which are slow.",
        {
            "How many, and what they do": NUMBERS,
            "How fast": SPEEDS,
            "vLLM": ENGINES,
            "Store and text": STORES,
        },
    ),
    "operator": (
        "Rephrase / Operator",
        "Whether the operator looks after its runs.",
        {"Looks at runs": LOOKS, "What it does": DEEDS},
    ),
}


def board(name: str) -> Board:
    """A page as Grafana wants it."""
    title, text, rows = PAGES[name]
    made = (
        Dashboard(title)
        .uid(f"rephrase-{name}")
        .description(text)
        .tags(["rephrase"])
        .refresh("30s")
        .time("now-3h", "now")
        .timezone("browser")
        .editable()
        .with_variable(DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .with_variable(_choice("namespace", "label_values(rephrase_run_condition, namespace)"))
        .with_variable(
            _choice("run", 'label_values(rephrase_run_condition{namespace=~"$namespace"}, run)')
        )
    )
    number = 0
    for heading, panels in rows.items():
        number += 1
        made = made.with_row(Row(heading).id(number))
        for panel in panels:
            number += 1
            made = made.with_panel(_panel(panel, number))
    return made.build()


def _choice(name: str, query: str) -> QueryVariable:
    return (
        QueryVariable(name)
        .label(name.capitalize())
        .datasource(SOURCE)
        .query(query)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .multi(multi=True)
        .include_all(include_all=True)
        .all_value(".*")
    )


def _panel(panel: Panel, number: int) -> timeseries.Panel | stat.Panel | table.Panel:
    made: timeseries.Panel | stat.Panel | table.Panel
    if panel.kind == "number":
        made = stat.Panel().height(4).reduce_options(ReduceDataOptions().calcs(["lastNotNull"]))
    elif panel.kind == "table":
        made = table.Panel().height(7)
        for column, unit in panel.units:
            made = made.override_by_name(column, [DynamicConfigValue("unit", unit)])
        made = _as_table(made, list(panel.queries))
    else:
        below = VizLegendOptions().display_mode(LegendDisplayMode.LIST)
        below = below.placement(LegendPlacement.BOTTOM).show_legend(show_legend=True)
        lines = timeseries.Panel().height(8).legend(below)
        if not panel.signed:
            lines = lines.min(0)
        if panel.kind == "stack":
            lines = lines.fill_opacity(30).stacking(StackingConfig().mode(StackingMode.NORMAL))
        made = lines
    made = made.id(number).title(panel.title).description(panel.text).unit(panel.unit)
    made = made.span(panel.width).datasource(SOURCE)
    for place, (legend, query) in enumerate(panel.queries.items()):
        target = prometheus.Dataquery().expr(query).ref_id(chr(ord("A") + place))
        target = target.legend_format(legend)
        if panel.kind == "table":
            target = target.instant().format(PromQueryFormat.TABLE)
        made = made.with_target(target)
    return made


def _as_table(made: table.Panel, columns: list[str]) -> table.Panel:
    """One line for each run: the queries' tables merged, their values named."""
    values = (
        ["Value"]
        if len(columns) == 1
        else [f"Value #{chr(ord('A') + n)}" for n in range(len(columns))]
    )
    renamed = dict(zip(values, columns, strict=True))
    organized = {"excludeByName": {"Time": True}, "renameByName": renamed}
    made = made.with_transformation(DataTransformerConfig(id_val="merge", options={}))
    return made.with_transformation(DataTransformerConfig(id_val="organize", options=organized))


def main(arguments: Sequence[str]) -> int:
    """Write the dashboards, or say which are not what this says; returns the exit code."""
    encoder = JSONEncoder(sort_keys=True, indent=2)
    stale = []
    for name in PAGES:
        path, wanted = FOLDER / f"{name}.json", encoder.encode(board(name)) + "\n"
        if "--write" in arguments:
            path.parent.mkdir(exist_ok=True)
            path.write_text(wanted, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != wanted:
            stale.append(path.name)
    if stale:
        print(f"{', '.join(stale)}: not what helm/dashboards.py says; run `make dashboards`")
    return bool(stale)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
