"""Prompt presets: one YAML file each in this folder; adding a file adds a preset.

A preset holds `description` (one line), `instruction` (what the model is asked to do, without the
document) and `source` (where the idea comes from). `rephrase_runner.prompts` puts instruction and document
together in the layout of the run.
"""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import yaml


@dataclass(frozen=True, slots=True)
class Preset:
    """A prompt that ships with the package."""

    name: str
    description: str
    instruction: str
    source: str


@cache
def presets() -> dict[str, Preset]:
    """All presets by name, in alphabetical order."""
    found = {}
    for entry in sorted(files(__name__).iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(".yaml"):
            name = entry.name.removesuffix(".yaml")
            body = yaml.safe_load(entry.read_text(encoding="utf-8"))
            found[name] = Preset(name=name, **{key: value.strip() for key, value in body.items()})
    return found
