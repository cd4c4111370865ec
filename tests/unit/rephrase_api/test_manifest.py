import itertools
from pathlib import Path

import pytest
import yaml

from rephrase_api.errors import ExitCode, Problems
from rephrase_api.manifest import cluster_only_fields, parse_run, problems_of
from rephrase_api.v1alpha1 import RephraseRun
from rephrase_api.v1alpha1.rules import RULES

ROOT = Path(__file__).parents[3]
REFUSED = sorted((ROOT / "tests/golden/manifests").glob("*.in.yaml"))
EXAMPLES = sorted({*(ROOT / "examples").glob("*.yaml")} - {ROOT / "examples" / "prices.yaml"})

HEAD = "apiVersion: rephrase.io/v1alpha1\nkind: RephraseRun\nmetadata: {name: a-run}\n"
SPEC = """
spec:
  source: {uri: corpus}
  prompts: [{name: faq, builtIn: faq}]
  model: {name: HuggingFaceTB/SmolLM2-1.7B-Instruct}
  output: {uri: rewritten}
"""


def parsed(more: str = "") -> RephraseRun:
    return parse_run(HEAD + SPEC + more, where="run.yaml")


@pytest.mark.parametrize("given", REFUSED, ids=lambda path: path.name.removesuffix(".in.yaml"))
def test_a_bad_manifest_is_refused_with_sentences(given: Path, *, update_golden: bool) -> None:
    expected = given.with_name(given.name.replace(".in.yaml", ".out.txt"))

    with pytest.raises(Problems) as refused:
        parse_run(given.read_text(), where="run.yaml")

    if update_golden:
        expected.write_text(f"{refused.value}\n")
    assert f"{refused.value}\n" == expected.read_text()
    assert refused.value.exit_code is ExitCode.INVALID


def test_every_golden_message_has_its_manifest() -> None:
    messages = (ROOT / "tests/golden/manifests").glob("*.out.txt")

    assert {path.name.split(".")[0] for path in messages} == {
        path.name.split(".")[0] for path in REFUSED
    }


def test_every_rule_is_broken_by_some_golden_manifest() -> None:
    """A rule that speaks in findings is known by its remedies instead."""
    told = "".join(path.read_text() for path in ROOT.glob("tests/golden/manifests/*.out.txt"))

    silent = [rule.message for rule in RULES if rule.message not in told and not rule.findings]

    assert silent == []
    assert "use spec.model.maxModelLength" in told
    assert ".podTemplate.spec.hostNetwork: must not be set here" in told


def test_no_sentence_speaks_of_pydantic() -> None:
    told = "".join(path.read_text() for path in ROOT.glob("tests/golden/manifests/*.out.txt"))

    for word in ("Input should", "pydantic", "validation", "Extra inputs", "_type", "NoneType"):
        assert word not in told


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_accepted(path: Path) -> None:
    run = parse_run(path.read_text(), where=path.name)

    assert run.metadata.name == path.stem or path.stem == "s3-spot-gpu"


def test_the_quickstart_asks_for_nothing_that_needs_a_cluster() -> None:
    run = parse_run((ROOT / "examples/quickstart.yaml").read_text(), where="quickstart.yaml")

    assert cluster_only_fields(run.spec) == []


def test_null_is_absence_as_in_the_api_server() -> None:
    run = parsed("  sampling:\n  workers: {pools: , max: }\n  quality: null\n")

    assert run.spec == parsed().spec


def test_a_status_is_ignored() -> None:
    run = parse_run(f"{HEAD}{SPEC}status: {{phase: Running, made: up}}\n", where="run.yaml")

    assert run.spec == parsed().spec


def test_what_the_api_server_adds_to_the_metadata_is_taken() -> None:
    text = HEAD.replace(
        "{name: a-run}",
        "{name: a-run, uid: u, generation: 3, resourceVersion: '7', managedFields: [{manager: k}],"
        " creationTimestamp: 2026-11-23T08:06:10Z, annotations: {a: b}}",
    )

    run = parse_run(text + SPEC, where="run.yaml")

    assert (run.metadata.generation, run.metadata.uid) == (3, "u")


def test_decimals_may_be_written_without_quotes() -> None:
    run = parsed(
        "  scaling: {budget: {amount: 500}}\n"
        "  workers: {pools: [{name: a, pricePerGPUHour: 1.95, resources: {requests: {cpu: 6}}}]}\n"
    )

    pool = run.spec.workers.pools[0]
    assert run.spec.scaling.budget is not None
    assert run.spec.scaling.budget.amount == "500"
    assert pool.price_per_gpu_hour == "1.95"
    assert pool.resources.requests == {"cpu": "6"}


def test_numbers_and_times_are_read_as_kubectl_reads_them() -> None:
    run = parsed(
        "  sampling: {minP: 1e-2, stop: [12:30, =], maxTokens: 0x10}\n"
        "  scaling: {deadline: 2026-12-01T00:00:00Z}\n"
    )

    assert run.spec.sampling.stop == ("12:30", "=")
    assert run.spec.sampling.max_tokens == 16
    assert run.spec.sampling.min_p == 0.01
    assert run.spec.scaling.deadline is not None
    assert run.spec.scaling.deadline.isoformat() == "2026-12-01T00:00:00+00:00"


def test_fields_that_only_a_cluster_can_honor_are_named() -> None:
    run = parsed(
        "  suspend: true\n"
        "  serviceAccountName: a\n"
        "  image: {runner: a}\n"
        "  canary: {documents: 10, approval: Manual}\n"
        "  driver: {nodeSelector: {a: b}}\n"
        "  workers: {max: 3, pools: [{name: a, queueName: q, pricePerGPUHour: '1'}]}\n"
        "  ttlSecondsAfterFinished: 5\n"
        "  scaling: {budget: {amount: '5'}}\n"
    )

    assert cluster_only_fields(run.spec) == [
        "spec.suspend",
        "spec.serviceAccountName",
        "spec.image",
        "spec.canary.approval",
        "spec.workers.pools[0].queueName",
        "spec.driver.nodeSelector",
        "spec.scaling.budget",
        "spec.ttlSecondsAfterFinished",
    ]


def test_a_default_written_out_is_not_named_as_cluster_only() -> None:
    run = parsed()
    written = yaml.safe_dump({"spec": run.spec.to_api()})

    assert cluster_only_fields(parse_run(HEAD + written, where="run.yaml").spec) == []


def test_the_operator_applies_the_rules_to_what_the_api_server_let_through() -> None:
    overlay = {"spec": {"hostPID": True}}
    stored = parsed("  workers: {pools: [{name: a}]}\n").to_api()
    stored["spec"]["workers"]["pools"][0]["podTemplate"] = overlay  # type: ignore[index]

    problems = problems_of(RephraseRun.from_api(stored))

    assert problems == [
        "spec.workers.pools[0].podTemplate.spec.hostPID: must not be set here; leave it out"
    ]


def test_problems_are_told_in_one_message_however_they_are_mixed() -> None:
    bad = [
        "  sampling: {temperature: hot}\n",
        "  durability: {leaseSeconds: 5}\n",
        "  colour: blue\n",
    ]

    for order in itertools.permutations(bad):
        with pytest.raises(Problems) as refused:
            parsed("".join(order))
        assert len(refused.value.problems) == 3
