import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from rephrase_api.semantic import MUTABLE, SEMANTIC, declared, diff, spec_hash
from rephrase_api.v1alpha1 import RephraseRunSpec
from rephrase_api.v1alpha1.tree import leaves

FIELDS = Path(__file__).parents[2] / "golden" / "every-field"
ONE = yaml.safe_load((FIELDS / "one.yaml").read_text())
OTHER = yaml.safe_load((FIELDS / "other.yaml").read_text())
ALL_LEAVES = list(leaves(RephraseRunSpec))

SMALL: dict[str, Any] = {
    "source": {"uri": "s3://corpus/web"},
    "prompts": [
        {"name": "faq", "builtIn": "faq"},
        {"name": "own", "template": "Rewrite.\n\n[[DOCUMENT]]\n\nBe brief."},
    ],
    "model": {"name": "a/b"},
    "output": {"uri": "s3://rewritten/web"},
}


def small(**changes: object) -> dict[str, Any]:
    return declared(RephraseRunSpec.from_file({**SMALL, **changes}))


def owner_of(spec: Any, leaf: str) -> tuple[Any, str]:  # noqa: ANN401 - JSON
    """The mapping that holds a leaf, and its key there; of lists the first item."""
    *parents, key = leaf.split(".")
    for parent in parents:
        spec = spec[parent.removesuffix("[]")]
        spec = spec[0] if parent.endswith("[]") else spec
    return spec, key


def test_every_field_of_the_spec_is_named_either_semantic_or_mutable() -> None:
    """If this fails for a new field: decide, name it in `semantic.py`, set it in every-field/*.yaml."""
    assert sorted(SEMANTIC | MUTABLE) == sorted(ALL_LEAVES)
    assert SEMANTIC.isdisjoint(MUTABLE)


@pytest.mark.parametrize("leaf", ALL_LEAVES)
def test_the_hash_changes_with_a_semantic_field_and_with_no_other(leaf: str) -> None:
    changed = copy.deepcopy(ONE)
    owner, key = owner_of(changed, leaf)
    other, _ = owner_of(OTHER, leaf)
    assert owner[key] != other[key], "other.yaml must differ from one.yaml in every field"

    owner[key] = other[key]

    before = declared(RephraseRunSpec.from_file(ONE))
    after = declared(RephraseRunSpec.from_file(changed))
    assert (spec_hash(before) != spec_hash(after)) == (leaf in SEMANTIC)
    assert bool(diff(before, after)) == (leaf in SEMANTIC)


def test_nothing_but_semantic_fields_is_declared() -> None:
    everything = declared(RephraseRunSpec.from_file(ONE))

    assert set(everything) == {leaf.split(".")[0].removesuffix("[]") for leaf in SEMANTIC}
    assert set(everything["source"]) & {"storage", "secretRef", "unit"} == set()
    assert everything["model"]["engine"] == {"type": "OpenAI"}


def test_defaults_are_declared_so_that_writing_one_changes_nothing() -> None:
    written = RephraseRunSpec.from_file(SMALL).to_api()

    assert declared(RephraseRunSpec.from_file(written)) == small()
    assert (
        small(
            promptLayout="InstructionFirst",
            sampling={"maxTokens": 2048, "stop": []},
            quality={},
            workers={"pools": [{"name": "spot"}]},
        )
        == small()
    )


@given(st.permutations(["a", "b", "c", "d"]))
@settings(max_examples=10)
def test_the_order_of_prompts_is_irrelevant(names: list[str]) -> None:
    prompts = [{"name": name, "builtIn": "faq"} for name in names]

    assert spec_hash(small(prompts=prompts)) == spec_hash(small(prompts=sorted(prompts, key=str)))


@pytest.mark.parametrize(
    ("one", "same"),
    [
        ("s3://corpus/web", "s3://corpus/web/"),
        ("s3://corpus", "s3://corpus/"),
        ("corpus/web", "./corpus/web/"),
        ("/corpus/web", "file:///corpus/web"),
        ("/corpus/web", "/corpus//web/"),
    ],
)
def test_a_location_may_be_written_in_several_ways(one: str, same: str) -> None:
    assert small(source={"uri": one}) == small(source={"uri": same})


def test_a_decimal_may_be_written_in_several_ways() -> None:
    hashes = {
        spec_hash(small(source={"uri": "a", "sample": {"fraction": fraction}}))
        for fraction in ("0.01", 0.01, "0.010", ".01")
    }

    assert len(hashes) == 1


def test_the_hash_of_a_manifest_never_changes() -> None:
    """Pinned: with another hash every run begun before would be refused as another run."""
    assert spec_hash(small()) == "0bc0e69810f64db3"


def test_the_hash_survives_the_ledgers_json() -> None:
    through_json = yaml.safe_load(yaml.safe_dump(small()))

    assert spec_hash(through_json) == spec_hash(small())
    assert diff(through_json, small()) == []


def test_a_diff_is_readable() -> None:
    after = small(
        prompts=[
            {"name": "own", "template": "Rewrite.\n\n[[DOCUMENT]]\n\nBe thorough.\nThanks."},
            {"name": "math", "builtIn": "math", "rollouts": 2},
        ],
        sampling={"temperature": 0.7, "maxTokens": 512},
        source={"uri": "s3://corpus/web", "filters": [{"column": "a", "operator": "Exists"}]},
        systemMessage="One line. " * 20,
    )

    assert diff(small(), after) == [
        "prompts[faq]: removed",
        "prompts[math]: added",
        'prompts[own].template: changed at line 5: "Be brief." -> "Be thorough."',
        "sampling.maxTokens: 2048 -> 512",
        'source.filters: not set -> [{"column": "a", "operator": "Exists", "values": []}]',
        'systemMessage: not set -> "One line. One line. One line. One line. One line. One line. One'
        ' line. One l..."',
        "sampling.temperature: not set -> 0.7",
    ]


def test_a_template_that_only_grew_shows_where() -> None:
    longer = [SMALL["prompts"][0], {"name": "own", "template": "[[DOCUMENT]]\n\n\nMore."}]
    shorter = [SMALL["prompts"][0], {"name": "own", "template": "[[DOCUMENT]]\n"}]

    assert diff(small(prompts=shorter), small(prompts=longer)) == [
        'prompts[own].template: changed at line 3: end of text -> ""'
    ]
