"""What may be imported where. `make check` runs the contracts themselves; here is what they cannot see."""

import ast
import os
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PACKAGES = {
    "rephrase_api": ROOT / "operator",
    "rephrase_operator": ROOT / "operator",
    "rephrase_runner": ROOT / "runner",
}
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
    "contracts"
]


def contract(name: str) -> dict[str, list[str]]:
    found: list[dict[str, list[str]]] = [one for one in CONTRACTS if one["name"] == name]
    return found[0]


def modules(package: str) -> dict[str, Path]:
    """All modules of a package by their full names, packages in it included."""
    top = PACKAGES[package]
    return {
        ".".join(path.relative_to(top).with_suffix("").parts).removesuffix(".__init__"): path
        for path in (top / package).rglob("*.py")
    }


def in_python(code: str, *, safe_path: bool) -> str:
    """What a Python started at the root of the checkout prints."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment | ({"PYTHONSAFEPATH": "1"} if safe_path else {}),
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def test_no_folder_of_the_root_is_a_package() -> None:
    """An `operator/__init__.py` would shadow the standard library's module, and break even `re`."""
    assert [path for path in ROOT.glob("*/__init__.py") if not path.parts[-2].startswith(".")] == []


@pytest.mark.parametrize("safe_path", [False, True])
def test_import_operator_at_the_root_gives_the_standard_library_s(*, safe_path: bool) -> None:
    file = in_python("import operator; print(operator.__file__)", safe_path=safe_path)

    assert Path(file).parent == Path(sysconfig.get_path("stdlib"))


@pytest.mark.parametrize(
    ("name", "package"),
    [("the API is layered", "rephrase_api"), ("the runner is layered", "rephrase_runner")],
)
def test_every_module_has_its_layer_and_every_layer_its_module(name: str, package: str) -> None:
    layers = " ".join(contract(name)["layers"]).replace("|", " ").replace(":", " ").split()

    children = {full.split(".")[1] for full in modules(package) if "." in full}

    assert sorted(layers) == sorted(children)


def test_exactly_the_modules_that_call_themselves_pure_are_under_the_contract() -> None:
    pure = {
        full
        for package in PACKAGES
        for full, path in modules(package).items()
        if " Pure" in (ast.get_docstring(ast.parse(path.read_text())) or "")
    }

    assert pure == set(contract("decisions are pure")["source_modules"])


def test_no_module_imports_an_engine_s_library_by_being_imported() -> None:
    """Importing vLLM takes many seconds: `validate` and `run` do without."""
    names = [name for package in PACKAGES for name in modules(package) if "__main__" not in name]
    code = (
        f"import importlib, sys\nfor name in {sorted(names)}: importlib.import_module(name)\n"
        "print(sorted({'vllm', 'torch', 'transformers'} & sys.modules.keys()))"
    )

    assert in_python(code, safe_path=True) == "[]"


def test_the_command_line_starts_without_what_only_a_run_needs() -> None:
    code = (
        "import sys, rephrase_runner.cli\n"
        "print(sorted({'pyarrow', 'obstore', 'aiohttp', 'huggingface_hub'} & sys.modules.keys()))"
    )

    assert in_python(code, safe_path=True) == "[]"
