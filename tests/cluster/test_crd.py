"""The RephraseRun API as a genuine API server serves it: what it takes, refuses, keeps and shows."""

import copy
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from rephrase_api.semantic import SEMANTIC, declared
from rephrase_api.v1alpha1 import RephraseRunSpec
from rephrase_api.v1alpha1.rules import RULES
from rephrase_api.v1alpha1.tree import leaves
from support.cluster.builders import condition, holds
from support.cluster.client import Client
from support.cluster.resources import path_of
from support.cluster.wire import Object, Refused
from support.manifests import a_manifest
from support.tiers import ROOT

EXAMPLES = sorted(
    path
    for path in (ROOT / "examples").glob("*.yaml")
    if "kind: RephraseRun" in path.read_text()  # others are price lists
)
BAD = sorted((ROOT / "tests/golden/manifests").glob("*.in.yaml"))
ANSWERS = ROOT / "tests/golden/refusals"
FIELDS = ROOT / "tests/golden/every-field"
Kubectl = Callable[..., "subprocess.CompletedProcess[str]"]
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"

TAKEN = {
    "key-not-a-string": "the API server makes a string of it, as kubectl does",
    "pod-template-protected": "what lies in a pod template is looked at by the operator",
    "several-documents": "kubectl sends each by itself",
    "yaml-tag": "the API server makes a string of it, as kubectl does",
}
"""Manifests that only the laptop refuses, and why the API server cannot."""

pytestmark = pytest.mark.usefixtures("crd")


def answer(namespace: Client, text: str) -> str:
    """What the API server says to a manifest, one line for each cause, without what differs by run."""
    try:
        namespace.try_yaml("rephraseruns", text)
    except Refused as refused:
        causes = sorted(f"  {c.get('field')}: {c['message']}" for c in refused.causes)
        lines = [f"{refused.code} {refused.reason}", *causes] if causes else [str(refused)]
        return "\n".join(lines) + "\n"
    return "taken\n"


# -- the CRD --------------------------------------------------------------------------------------


def test_the_crd_is_taken_without_reservations(cluster_client: Client) -> None:
    crd = cluster_client.get("customresourcedefinitions", "rephraseruns.rephrase.io")

    assert holds(crd, "Established")
    assert holds(crd, "NamesAccepted")
    assert condition(crd, "NonStructuralSchema") == {}
    assert condition(crd, "KubernetesAPIApprovalPolicyConformant") == {}


def test_it_is_applied_twice_without_a_change(cluster_client: Client) -> None:
    (path,) = (ROOT / "crds").glob("*.yaml")
    before = cluster_client.get("customresourcedefinitions", "rephraseruns.rephrase.io")

    after = cluster_client.apply(yaml.safe_load(path.read_text()))

    assert after["metadata"]["generation"] == before["metadata"]["generation"]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_taken(path: Path, namespace: Client) -> None:
    manifest = yaml.safe_load(path.read_text())
    manifest["metadata"].pop("namespace", None)  # the test's own will do

    assert namespace.create(manifest, dry_run=True)["metadata"]["uid"]


def test_the_run_that_comes_back_has_its_defaults(namespace: Client) -> None:
    run = namespace.create(a_manifest("defaults"))

    assert run["spec"]["workers"]["max"] == 1
    assert RephraseRunSpec.from_file(run["spec"]) == RephraseRunSpec.from_file(
        a_manifest("defaults")["spec"]
    )


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("given", BAD, ids=lambda path: path.name.removesuffix(".in.yaml"))
def test_what_the_laptop_refuses_the_api_server_answers(
    given: Path, namespace: Client, *, update_golden: bool
) -> None:
    expected = ANSWERS / given.name.replace(".in.yaml", ".out.txt")

    found = answer(namespace, given.read_text())

    if update_golden:
        ANSWERS.mkdir(exist_ok=True)
        expected.write_text(found)
    assert found == expected.read_text()


def test_every_answer_has_its_manifest() -> None:
    assert {path.name.split(".")[0] for path in ANSWERS.iterdir()} == {
        path.name.split(".")[0] for path in BAD
    }


def test_the_api_server_refuses_what_the_laptop_refuses_but_for_what_it_cannot_see() -> None:
    taken = {path.name.split(".")[0] for path in ANSWERS.iterdir() if path.read_text() == "taken\n"}

    assert taken == set(TAKEN)


def test_laptop_and_api_server_blame_the_same_fields_in_the_same_words() -> None:
    """The API server looks at rules only once the shape is right, so it may see less; never more."""
    rules = {rule.message for rule in RULES if not rule.findings}

    for path in ANSWERS.iterdir():
        laptop = (ROOT / "tests/golden/manifests" / path.name).read_text()
        blamed = set(re.findall(r"^  (\S+): ", laptop, re.M))
        for field, message in re.findall(r"^  (spec\S*): (.*)$", path.read_text(), re.M):
            # of a list the one may name the place and the other the whole
            whole = re.sub(r"\[\d+\]$", "", field)
            assert any(one in (field, whole) or one.startswith(f"{field}[") for one in blamed), (
                path.name,
                field,
            )
            words = message.removeprefix("Invalid value: ")
            assert words not in rules or words.split(";")[0] in laptop, (path.name, words)


# -- what may change ------------------------------------------------------------------------------


def owner_of(spec: Any, leaf: str) -> tuple[Any, str]:  # noqa: ANN401 - JSON
    """The mapping that holds a leaf, and its key there; of lists the first item."""
    *parents, key = leaf.split(".")
    for parent in parents:
        spec = spec[parent.removesuffix("[]")]
        spec = spec[0] if parent.endswith("[]") else spec
    return spec, key


def every_field(prompt: str) -> Object:
    """A valid spec with every field set, as far as they can stand side by side.

    Args:
        prompt: what its first prompt has: builtIn, template or templateFrom.
    """
    spec: Object = yaml.safe_load((FIELDS / "one.yaml").read_text())
    for kind in {"builtIn", "template", "templateFrom"} - {prompt}:
        spec["prompts"][0].pop(kind, None)
    if (
        prompt == "template"
    ):  # a model in a folder has no revision, and the other engine no endpoint
        spec["model"].pop("name")
        spec["model"].pop("revision")
        spec["model"]["engine"]["type"] = "VLLM"
        spec["model"]["engine"].pop("openAI")
    else:
        spec["model"].pop("uri")
    return spec


def edits(spec: Object) -> Iterator[tuple[str, Object]]:
    """Every field of a spec, and the spec with another value there."""
    other = yaml.safe_load((FIELDS / "other.yaml").read_text())
    for leaf in leaves(RephraseRunSpec):
        edited = copy.deepcopy(spec)
        with suppress(KeyError):  # this spec has it not
            owner, key = owner_of(edited, leaf)
            owner[key]
            owner[key] = owner_of(other, leaf)[0][key]
            yield leaf, edited


def omissions(spec: Object) -> Iterator[tuple[str, Object]]:
    """Every semantic field of a spec, and the spec without it."""
    for leaf in sorted(SEMANTIC):
        edited = copy.deepcopy(spec)
        with suppress(KeyError):
            owner, key = owner_of(edited, leaf)
            del owner[key]
            yield leaf, edited


@pytest.mark.parametrize("prompt", ["builtIn", "template", "templateFrom"])
def test_what_identifies_a_run_cannot_be_changed_and_all_else_can(
    prompt: str, namespace: Client
) -> None:
    spec = every_field(prompt)
    run = namespace.create(a_manifest("a-run") | {"spec": spec})
    told_before = {} if prompt == "builtIn" else dict(edits(every_field("builtIn")))

    answers = {
        leaf: replaced(namespace, run, edited)
        for leaf, edited in edits(spec)
        if leaf not in told_before
    }

    assert answers == {
        leaf: "Forbidden" if leaf in SEMANTIC | {"managedBy"} else "taken" for leaf in answers
    }


def test_what_identifies_a_run_cannot_be_added_or_taken_away_either(namespace: Client) -> None:
    spec = every_field("builtIn")
    run = namespace.create(a_manifest("full") | {"spec": spec})
    needed, answers, expected = set(), {}, {}

    for number, (leaf, less) in enumerate(omissions(spec)):
        try:
            lacks = namespace.create(a_manifest(f"less-{number}") | {"spec": less})
        except Refused:
            needed.add(leaf)
            continue
        answers[leaf] = (replaced(namespace, run, less), replaced(namespace, lacks, spec))
        # what has its default anyway may be written or not
        expected[leaf] = ("Forbidden",) * 2 if semantic(less) != semantic(spec) else ("taken",) * 2

    assert answers == expected
    assert len([leaf for leaf, said in expected.items() if "Forbidden" in said]) > 30
    assert needed == {
        *("source.uri", "prompts[].name", "prompts[].builtIn", "model.name", "output.uri"),
        *("source.filters[].column", "source.filters[].operator", "source.filters[].values"),
        *("model.engine.type", "model.maxModelLength"),  # of an engine with an endpoint
    }


def semantic(spec: Object) -> Object:
    return declared(RephraseRunSpec.from_file(spec))


def replaced(namespace: Client, run: Object, spec: Object) -> str:
    """What the API server says to another spec of a run: taken, Forbidden, or its message."""
    try:
        namespace.replace(run | {"spec": spec}, dry_run=True)
    except Refused as refused:
        return "Forbidden" if "Forbidden" in refused.message else refused.message
    return "taken"


# -- what is shown --------------------------------------------------------------------------------


def test_a_run_is_shown_in_one_line(namespace: Client) -> None:
    namespace.create(a_manifest("shown"))
    status = {
        "phase": "Running",
        "progress": {"display": "42%"},
        "workers": {"display": "3/4", "active": 3},
        "cost": {"total": "1.95"},
        "eta": "2026-12-01T00:00:00Z",
    }
    namespace.patch("rephraseruns", "shown", {"status": status}, "status")

    table = namespace.wire.request(
        "GET", path_of("rephraseruns", namespace.namespace), accept=TABLE
    )

    wide = [column["name"] for column in table["columnDefinitions"] if column["priority"]]
    names = [column["name"] for column in table["columnDefinitions"] if not column["priority"]]
    cells = dict(zip([*names, *wide], table["rows"][0]["cells"], strict=True))
    assert names == ["Name", "Phase", "Progress", "Workers", "Tok/s", "Cost", "ETA", "Age"]
    assert cells["Name"] == "shown"
    assert cells["Phase"] == "Running"
    assert cells["Progress"] == "42%"
    assert cells["Workers"] == "3/4"
    assert cells["Cost"] == "1.95"
    assert cells["ETA"] == "2026-12-01T00:00:00Z"


def test_the_status_is_written_apart_from_the_spec(namespace: Client) -> None:
    run = namespace.create(a_manifest("apart") | {"status": {"phase": "Succeeded"}})

    changed = namespace.patch(
        "rephraseruns",
        "apart",
        {"spec": {"suspend": True}, "status": {"phase": "Running"}},
        "status",
    )

    assert "phase" not in run.get("status", {})
    assert changed["status"]["phase"] == "Running"
    assert not changed["spec"].get("suspend")


def test_scaling_sets_the_maximum_of_workers(namespace: Client) -> None:
    namespace.create(a_manifest("scaled"))
    namespace.patch("rephraseruns", "scaled", {"status": {"workers": {"active": 3}}}, "status")

    namespace.patch("rephraseruns", "scaled", {"spec": {"replicas": 7}}, "scale")

    assert namespace.get("rephraseruns", "scaled")["spec"]["workers"]["max"] == 7
    assert namespace.get("rephraseruns", "scaled", "scale")["status"]["replicas"] == 3


def test_runs_are_found_by_their_phase(namespace: Client) -> None:
    for name, phase in (("one", "Running"), ("two", "Failed")):
        namespace.create(a_manifest(name))
        namespace.patch("rephraseruns", name, {"status": {"phase": phase}}, "status")

    found = namespace.list("rephraseruns", fields="status.phase=Failed")

    assert [run["metadata"]["name"] for run in found] == ["two"]


# -- kubectl --------------------------------------------------------------------------------------


def test_kubectl_takes_shows_explains_and_scales(kubectl: Kubectl, namespace: Client) -> None:
    applied = kubectl("apply", "-f", str(ROOT / "examples/quickstart.yaml"))
    scaled = kubectl("scale", "rr/quickstart", "--replicas=3")
    shown = kubectl("get", "rephrase")
    explained = kubectl("explain", "rr.spec.sampling.topP")

    assert applied.stdout == "rephraserun.rephrase.io/quickstart created\n", applied.stderr
    assert scaled.stdout == "rephraserun.rephrase.io/quickstart scaled\n", scaled.stderr
    assert shown.stdout.split()[:3] == ["NAME", "PHASE", "PROGRESS"], shown.stderr
    assert "FIELD: topP <number>" in explained.stdout, explained.stderr
    assert namespace.get("rephraseruns", "quickstart")["spec"]["workers"]["max"] == 3


def test_kubectl_apply_refuses_every_bad_manifest_and_names_the_field(
    kubectl: Kubectl, namespace: Client
) -> None:
    told: dict[str, str] = {}
    silent: dict[str, str] = {}
    for given in BAD:
        name = given.name.removesuffix(".in.yaml")
        answers = (ANSWERS / f"{name}.out.txt").read_text()
        fields = re.findall(r"^  ((?:spec|metadata)[\w.\[\]-]*): ", answers, re.MULTILINE)
        if name in TAKEN or name == "no-name" or not fields:  # kubectl itself wants a name
            continue
        applied = kubectl("apply", "-f", str(given))
        told[name] = applied.stderr
        if applied.returncode == 0 or not any(field in applied.stderr for field in fields):
            silent[name] = applied.stdout + applied.stderr

    assert silent == {}
    assert len(told) >= 25
    assert namespace.list("rephraseruns") == []
