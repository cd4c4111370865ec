"""The README's manifest, run as a reader would run it, makes what the README says."""

import re
from pathlib import Path

import pytest

from support.corpora import write_corpus
from support.laptop import Laptop
from support.manifests import a_manifest, write_manifest
from support.pages import commands, put_example
from support.shell import Shell, checkout, path_with
from support.tiers import ROOT
from support.tools import uvx

README = (ROOT / "README.md").read_text(encoding="utf-8")


QUICKSTART = """\
    uri: demo/model               # a folder with a model's files; `name:` takes one from the hub
    maxModelLength: 2048          # context that prompt, document and answer share
    engine:
      args: [--enforce-eager]     # do not compile the model: a small run is done sooner without
"""
"""Its model, which is not here."""


def test_the_quickstart_makes_the_files_that_the_readme_lists(laptop: Laptop) -> None:
    put_example(
        laptop.folder, "quickstart.yaml", {QUICKSTART: "    name: echo\n    engine: {type: Echo}\n"}
    )
    write_corpus(laptop.folder / "demo" / "source", files=1, rows_per_file=100, row_group_rows=50)

    (command,) = commands("examples/quickstart.yaml")
    ended = laptop.rephrase(*command.split()[1:])
    verified = laptop.rephrase("verify", "demo/output")

    (listed,) = re.findall(
        r"^```text\n(demo/output/data.*?)^```$", README, re.DOTALL | re.MULTILINE
    )
    missing = [
        line for line in listed.splitlines() if not (laptop.folder / line.split()[0]).exists()
    ]
    assert (ended.code, verified.code) == (0, 0), ended.said + verified.said
    assert missing == []


def test_every_command_of_the_readme_runs_in_its_order_as_printed(laptop: Laptop) -> None:
    write_corpus(laptop.source, files=1, rows_per_file=60, row_group_rows=20)

    ended = {}
    for command in commands("README.md", "A run of your own"):
        _, name, *arguments = command.split()
        quick = ["--minutes=0.2", "--window=1"] if name == "tune" else []
        ended[name] = laptop.rephrase(name, *arguments, *quick)
        if name == "init":  # a reader edits it: here to documents and a model that are there
            laptop.write(a_manifest())

    assert {name: one.code for name, one in ended.items()} == dict.fromkeys(ended, 0)
    assert list(ended) == [
        *("init", "validate", "plan", "preview", "tune", "run", "status", "report", "verify")
    ]
    assert "output: sound" in ended["verify"].out


@pytest.mark.full
@pytest.mark.needs("uvx", "engine")
def test_the_ways_without_make_lead_to_a_command_that_runs(tmp_path: Path) -> None:
    shell = Shell(
        checkout(tmp_path / "rephrase"),
        {
            "PATH": path_with(Path(str(uvx())).parent),
            "UV_PROJECT_ENVIRONMENT": str(tmp_path / "environment"),
            "UV_TOOL_DIR": str(tmp_path / "tools"),
            "UV_TOOL_BIN_DIR": str(tmp_path / "bin"),
        },
    )
    write_corpus(shell.folder / "source", files=1, rows_per_file=60, row_group_rows=20)
    write_manifest(shell.folder / "run.yaml", a_manifest())

    for command in commands("README.md", "Without make"):
        shell.run(command)
    validated = shell.run(f"{tmp_path / 'bin' / 'rephrase'} validate run.yaml")

    assert (shell.folder / "output" / "README.md").exists()
    assert validated == "run.yaml: valid\n"
