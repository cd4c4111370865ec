"""The pages for people, and the YAML that they show."""

import re
from pathlib import Path
from typing import Any

import yaml

from rephrase_api.v1alpha1 import RephraseRunSpec
from rephrase_api.v1alpha1.base import camel
from support.manifests import a_manifest
from support.tiers import ROOT

PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
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
