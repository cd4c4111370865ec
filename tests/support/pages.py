"""The pages for people: the YAML that they show, and the commands that they print."""

import re
from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any

import yaml

from rephrase_api.v1alpha1 import RephraseRunSpec
from rephrase_api.v1alpha1.base import camel
from support.manifests import a_manifest
from support.tiers import ROOT

PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
_CLOUD = "changes a real cloud's account"
NOT_RUN: Mapping[str, str] = {
    "make test": "it is what runs the others",
    "uv tool install '.[runner,vllm,fast-tokenizer]'": "8 GB that are of use with an NVIDIA GPU only",
    "vllm serve": "a GPU's; tests/engine has such a server, other tests a stand-in",
    "llama-server": "no package registry has it; a stand-in answers as it does",
    "gcloud": _CLOUD,
    "aws eks": _CLOUD,
    "az": _CLOUD,
    "helm upgrade --install nvdp": "a chart of NVIDIA's, from the internet",
}
"""How commands begin that no test runs, and why."""
_PARTS = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$|^#+ ([^\n]*)$", re.DOTALL | re.MULTILINE)
_FIELDS = frozenset(camel(name) for name in RephraseRunSpec.model_fields)


def yaml_documents(page: Path) -> list[dict[str, Any]]:
    """Every YAML document of a page's blocks of code."""
    text = page.read_text(encoding="utf-8")
    found = re.findall(r"^```yaml\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [document for block in found for document in yaml.safe_load_all(block)]


def runs_of(page: Path) -> list[dict[str, Any]]:
    """Every run that a page shows; where a block is a part of a spec, a run with these fields."""
    found = yaml_documents(page)
    whole = [one for one in found if one.get("kind") == "RephraseRun" and one["spec"]]
    return whole + [a_manifest(**one) for one in found if one.keys() <= _FIELDS]


def commands_of(page: Path) -> dict[str, list[str]]:
    """Commands that a page prints, without their comments, by the heading above them.

    Args:
        page: one of `PAGES`; or of `EXAMPLES`, whose comment at the top prints them under no heading.
    """
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".yaml":
        return {"": re.findall(r"^#     (\S.*)$", text, re.MULTILINE)}
    found: dict[str, list[str]] = {}
    heading = ""
    for _, language, code, title in _PARTS.findall(text):
        heading = title or heading
        if language == "shell":
            lines = re.sub(r"\\\n|(?<=\|)\n", "", dedent(code)).splitlines()
            found.setdefault(heading, []).extend(re.sub(r"\s+#.*", "", line) for line in lines)
    return found


def commands(page: str, heading: str = "", program: str = "") -> list[str]:
    """Commands under a heading; who asks for them runs them all, and so `test_docs.py` takes it.

    Args:
        page: path in the repository.
        heading: above them.
        program: only those of one program.
    """
    found = [one for one in commands_of(ROOT / page)[heading] if not_run(one) is None]
    return [one for one in found if program in ("", one.split()[0])]


def not_run(command: str) -> str | None:
    """How a command begins that no test runs; None: it has to be run."""
    return next((start for start in NOT_RUN if f"{command} ".startswith(f"{start} ")), None)


def put_example(folder: Path, name: str, changes: Mapping[str, str]) -> None:
    """Put an example where its commands look for it.

    Args:
        folder: they are run in.
        name: of the file.
        changes: texts of it and what is here in their place.
    """
    text = (ROOT / "examples" / name).read_text(encoding="utf-8")
    for printed, here in changes.items():
        assert printed in text, f"{name} has no more: {printed}"
        text = text.replace(printed, here)
    (folder / "examples").mkdir(exist_ok=True)
    (folder / "examples" / name).write_text(text, encoding="utf-8")
