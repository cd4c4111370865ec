"""The README's manifest, run as a reader would run it, makes what the README says."""

import re
from typing import Any

import yaml

from support.corpora import write_corpus
from support.laptop import Laptop
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
