"""Manifests for tests: complete, on the engine Echo, with all clocks turned up."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

BRIEF = {"name": "brief", "template": "Shorten.\n\n[[DOCUMENT]]"}
TWICE = {"name": "twice", "template": "Say it anew: [[DOCUMENT]]", "rollouts": 2}
BUILT_IN = [{"name": name, "builtIn": name} for name in ("faq", "math", "table", "tutorial")]


def a_manifest(name: str = "test", **spec: Any) -> dict[str, Any]:  # noqa: ANN401 - YAML values
    """A run of `source/` into `output/`, both beside the manifest.

    Args:
        name: of the run.
        spec: fields of the spec, merged over those of this run: mappings field by field, all else
            as a whole; None leaves a field out.
    """
    base = {
        "source": {"uri": "source", "columns": {"id": "id", "keep": ["url"]}},
        "prompts": [BRIEF, TWICE],
        "model": {"name": "echo", "engine": {"type": "Echo", "args": ["--output-tokens=16"]}},
        "sampling": {"seed": 7},
        "output": {"uri": "output"},
        "durability": {"heartbeatSeconds": 1, "leaseSeconds": 3, "checkpointSeconds": 1},
    }
    return {
        "apiVersion": "rephrase.io/v1alpha1",
        "kind": "RephraseRun",
        "metadata": {"name": name},
        "spec": merged(base, spec),
    }


def echo(*args: str, concurrency: int = 64, latency: float = 0.0) -> dict[str, Any]:
    """A model for `a_manifest` that is as slow as wanted."""
    speed = [f"--concurrency={concurrency}", f"--latency-seconds={latency}"]
    return {"engine": {"args": ["--output-tokens=16", *speed, *args]}}


def write_manifest(path: Path, manifest: Mapping[str, Any]) -> Path:
    """The manifest as a YAML file; returns its path."""
    path.write_text(yaml.safe_dump(dict(manifest), sort_keys=False))
    return path


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the fields of `over`, mappings field by field; None removes a field."""
    result = dict(base)
    for key, value in over.items():
        known = result.get(key)
        if isinstance(value, Mapping) and isinstance(known, Mapping):
            result[key] = merged(known, value)
        elif value is None:
            result.pop(key, None)
        else:
            result[key] = value
    return result
