"""`rephrase tune`: real processes with the engine Echo, whose speed follows from its settings."""

import json

import yaml

from support.corpora import write_corpus
from support.laptop import Laptop, tree
from support.manifests import a_manifest, echo, merged

QUICK = ("--minutes=0.5", "--window=1")


def test_the_fastest_settings_are_found_and_the_run_goes_on_with_them(laptop: Laptop) -> None:
    write_corpus(laptop.source, files=1, rows_per_file=30, row_group_rows=30)
    manifest = a_manifest(model=echo(concurrency=2, latency=0.1))
    laptop.write(manifest)
    assert laptop.rephrase("run", "run.yaml").code == 0
    before = tree(laptop.output)

    ended = laptop.rephrase("tune", "run.yaml", "--json", *QUICK)

    assert ended.code == 0, ended.said
    told = json.loads(ended.out)
    first = told["trials"][0]
    assert first["args"] == manifest["spec"]["model"]["engine"]["args"]
    assert told["tokensPerSecond"] > 5 * told["before"]
    assert tree(laptop.output) == before
    patch = yaml.safe_load((laptop.folder / "tune.patch.yaml").read_text())
    assert patch == told["patch"]
    laptop.write(merged(manifest, patch))
    assert laptop.rephrase("run", "run.yaml").code == 0


def test_an_engine_that_no_settings_help_is_told_with_what_it_said(laptop: Laptop) -> None:
    write_corpus(laptop.source, files=1, rows_per_file=30, row_group_rows=30)
    laptop.write(a_manifest(model=echo("--die-on=e")))

    ended = laptop.rephrase("tune", "run.yaml", *QUICK)

    assert ended.code == 70, ended.said
    assert "no settings worked; the last ones: the engine did not answer" in ended.err
    assert not (laptop.folder / "tune.patch.yaml").exists()


def test_a_source_without_documents_is_refused(laptop: Laptop) -> None:
    write_corpus(laptop.source, files=1, rows_per_file=30, row_group_rows=30)
    manifest = a_manifest(model=echo())
    nothing = [{"column": "id", "operator": "Equal", "values": ["nobody"]}]
    laptop.write(merged(manifest, {"spec": {"source": {"filters": nothing}}}))

    ended = laptop.rephrase("tune", "run.yaml", *QUICK)

    assert ended.code == 64, ended.said
    assert "spec.source: has no document to try anything with" in ended.err
