"""The README's manifest, run as a reader would run it, makes what the README says."""

import re
from typing import Any

import yaml

from support.corpora import write_corpus
from support.laptop import Laptop
from support.manifests import a_manifest
from support.tiers import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(language: str, *, holding: str) -> str:
    """The README's block of code that has this text in it."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    (one,) = (text for text in found if holding in text)
    return str(one)


def test_the_readmes_manifest_makes_the_files_that_the_readme_lists(laptop: Laptop) -> None:
    manifest: dict[str, Any] = yaml.safe_load(block("yaml", holding="RephraseRun"))
    manifest["spec"]["model"] = {"name": "echo", "engine": {"type": "Echo"}}
    write_corpus(laptop.folder / "demo" / "source", files=1, rows_per_file=100, row_group_rows=50)
    laptop.write(manifest)

    ended = laptop.run()
    verified = laptop.rephrase("verify", "demo/output")

    listed = [line.split()[0] for line in block("text", holding="part-00000").splitlines()]
    missing = [name for name in listed if not (laptop.folder / name).exists()]
    assert (ended.code, verified.code) == (0, 0), ended.said + verified.said
    assert missing == []


def test_every_command_of_the_readme_runs_in_its_order_as_printed(laptop: Laptop) -> None:
    commands = [
        line.partition("#")[0].split()[1:]
        for line in block("shell", holding="rephrase init").splitlines()
    ]
    write_corpus(laptop.source, files=1, rows_per_file=60, row_group_rows=20)

    ended = {}
    for command in commands:
        quick = ["--minutes=0.2", "--window=1"] if command[0] == "tune" else []
        ended[command[0]] = laptop.rephrase(*command, *quick)
        if command[0] == "init":  # a reader edits it: here to documents and a model that are there
            laptop.write(a_manifest())

    assert {name: one.code for name, one in ended.items()} == dict.fromkeys(ended, 0)
    assert list(ended) == [
        *("init", "validate", "plan", "preview", "tune", "run", "status", "report", "verify")
    ]
    assert "output: sound" in ended["verify"].out
