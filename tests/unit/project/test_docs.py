"""The documents say what the code does: tables, numbers, paths and examples are compared with it."""

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from rephrase_api.errors import RephraseError
from rephrase_api.manifest import parse_run
from rephrase_api.v1alpha1 import RephraseRunSpec
from rephrase_api.v1alpha1.base import Model, camel
from rephrase_api.v1alpha1.status import RephraseRunStatus
from rephrase_api.v1alpha1.tree import model_of
from rephrase_runner.cli import app
from support.pages import EXAMPLES, NOT_RUN, PAGES, commands_of, not_run, runs_of
from support.tiers import TIERS

ROOT = Path(__file__).parents[3]
RUNNER = ROOT / "runner" / "rephrase_runner"
SOURCES = sorted(RUNNER.rglob("*.py"))


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def table(text: str, heading: str) -> list[list[str]]:
    """Cells of the table under a heading, without its head; code marks are left out."""
    section = re.split(r"^## ", text.split(f"## {heading}\n", 1)[1], flags=re.MULTILINE)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines[2:]]


# -- docs/reasons.md --


def calls(tree: ast.AST, name: str) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).rsplit(".", 1)[-1] == name:
            yield node


def text_of(value: ast.expr, module: ast.Module) -> str | None:
    """The text of a literal or of a constant of the module; None for what is only known at run time."""
    if isinstance(value, ast.Constant):
        return str(value.value)
    constants = {
        ast.unparse(node.targets[0]): node.value.value
        for node in module.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
    }
    found = constants.get(ast.unparse(value))
    return None if found is None else str(found)


def reasons_in_the_code() -> set[tuple[str, str]]:
    found = set()
    for path in SOURCES:
        module = ast.parse(path.read_text(encoding="utf-8"))
        for call in calls(module, "Problem"):
            reason = text_of(call.args[1], module)
            found.add((reason, ast.unparse(call.args[0]).rsplit(".", 1)[-1].lower()))
        for call in calls(module, "RequestFailed"):
            found.add((text_of(call.args[0], module), "failed"))
        for call in calls(module, "failed_rows"):
            found |= {
                (text_of(word.value, module), "failed")
                for word in call.keywords
                if word.arg == "reason"
            }
    return {(reason, outcome) for reason, outcome in found if reason is not None}


def test_every_reason_is_spelled_where_it_is_made_so_that_it_can_be_found() -> None:
    handed_on = {"reason", "outcome.reason"}
    unknown = [
        f"{path.name}: {ast.unparse(call)}"
        for path in SOURCES
        for module in [ast.parse(path.read_text(encoding="utf-8"))]
        for name, place in (("Problem", 1), ("RequestFailed", 0))
        for call in calls(module, name)
        if text_of(call.args[place], module) is None
        and ast.unparse(call.args[place]) not in handed_on
    ]

    assert unknown == []


def test_every_reason_of_a_sample_is_in_the_table_and_no_other() -> None:
    documented = {(cells[0], cells[1]) for cells in table(page("docs/reasons.md"), "Of samples")}

    assert documented == reasons_in_the_code()


def test_every_flag_is_in_the_table_and_no_other() -> None:
    made = {"kept_null"}
    for path in SOURCES:
        module = ast.parse(path.read_text(encoding="utf-8"))
        for call in calls(module, "append"):
            if ast.unparse(call.func) == "flags.append":
                made.add(str(text_of(call.args[0], module)))

    assert {cells[0] for cells in table(page("docs/reasons.md"), "Flags")} == made


def test_every_error_is_in_the_table_with_its_exit_code() -> None:
    for path in SOURCES:
        if path.stem not in {"__main__", "__init__"}:
            module = ".".join(path.relative_to(RUNNER.parent).with_suffix("").parts)
            importlib.import_module(module)
    kinds: list[type[RephraseError]] = [RephraseError, *below(RephraseError)]
    raised = {(kind.reason, str(int(kind.exit_code))) for kind in kinds}

    rows = table(page("docs/reasons.md"), "Of processes")

    assert {(cells[0], cells[1]) for cells in rows} == raised


def below(kind: type[RephraseError]) -> Iterator[type[RephraseError]]:
    for sub in kind.__subclasses__():
        if sub.__module__.startswith("rephrase_"):
            yield sub
            yield from below(sub)


# -- docs/ledger.md --


def cited(what: str) -> set[int]:
    """Numbers of holes, sections or invariants that the code refers to."""
    found: set[int] = set()
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        pattern = rf"\b{what}s? (\d+)(?:(?:, | and | to )(\d+))?"
        for first, second in re.findall(pattern, text):
            found |= {int(first), int(second or first)}
    return found


def test_every_part_of_the_ledger_that_the_code_cites_is_there() -> None:
    text = page("docs/ledger.md")
    sections = {int(number) for number in re.findall(r"^## (\d+)\.", text, re.MULTILINE)}
    holes = {int(number) for number in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)}
    invariants = text.split("## 10. ", 1)[1].split("## 11. ", 1)[0]
    numbered = {int(number) for number in re.findall(r"^(\d+)\. ", invariants, re.MULTILINE)}

    assert cited("hole") <= holes == set(range(1, 22))
    assert cited("section") <= sections
    assert cited("invariant") <= numbered


# -- all pages --


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_path_that_a_page_names_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    folders = "operator|runner|crds|examples|docs|tests|\\.ci"
    named = set(re.findall(rf"(?<![\w/.-])(?:{folders})/[\w./-]*[\w/]", text))
    linked = {
        str((path.parent / link).resolve().relative_to(ROOT))
        for link in re.findall(r"\]\((?!https?:|#)([^)#]+)[^)]*\)", text)
    }

    assert [name for name in sorted(named | linked) if not (ROOT / name).exists()] == []


def anchors(text: str) -> set[str]:
    """Where links into a page can lead: its headings, as GitHub makes anchors of them, and its own marks."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
    assert len(plain) == len(set(plain)), "two headings would have one anchor"
    return {*plain, *re.findall(r'<a id="([^"]+)">', text)}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_link_into_a_page_leads_to_a_heading(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", text)
    pages = {link: (path.parent / link if link else path).read_text("utf-8") for link, _ in links}

    assert [(link, name) for link, name in links if name not in anchors(pages[link])] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_run_that_a_page_shows_is_valid(path: Path) -> None:
    for manifest in runs_of(path):
        parse_run(yaml.safe_dump(manifest), where=path.name)  # raises with every problem


def paths_of(model: type[Model], path: str) -> Iterator[str]:
    """Paths of all fields, of lists with and without `[]`."""
    for name, field in model.model_fields.items():
        here = f"{path}.{camel(name)}"
        yield here
        if (below := model_of(field.annotation)) is not None:
            yield from paths_of(below, here)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_field_that_a_page_names_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    known = {*paths_of(RephraseRunSpec, "spec"), *paths_of(RephraseRunStatus, "status")}
    named = set(re.findall(r"(?<![\w./-])((?:spec|status)(?:\.[A-Za-z]+(?:\[\])?)+)", text))
    files = {"spec.json", "spec.py", "status.py"}

    assert [one for one in sorted(named - files) if one.replace("[]", "") not in known] == []


VALUES = yaml.safe_load(page("helm/rephrase-operator/values.yaml"))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_value_of_the_chart_that_a_page_names_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    groups = "|".join(name for name, value in VALUES.items() if isinstance(value, dict) and value)
    found = re.findall(rf"`((?:{groups})(?:\.[A-Za-z*]+)+)", text)
    named = {one for one in found if not one.endswith((".py", ".yaml"))}

    def exists(value: Any, *keys: str) -> bool:  # noqa: ANN401 - YAML
        if not keys:
            return True
        below = value.values() if keys[0] == "*" else [value[keys[0]]] if keys[0] in value else []
        return any(exists(one, *keys[1:]) for one in below)

    assert [one for one in sorted(named) if not exists(VALUES, *one.split("."))] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_test_that_a_page_names_exists(path: Path) -> None:
    tests = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "tests").rglob("*.py"))
    named = set(re.findall(r"\btest_[a-z0-9_]+\b(?!\.py)", path.read_text(encoding="utf-8")))

    assert [name for name in sorted(named) if f"def {name}(" not in tests] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_blocks_that_come_from_a_file_are_that_file(path: Path, *, update_golden: bool) -> None:
    """``<!-- file: NAME -->`` above a block of code says where it comes from."""
    text = path.read_text(encoding="utf-8")
    block = re.compile(r"(<!-- file: (\S+) -->\n```\w*\n)(.*?)(^```$)", re.DOTALL | re.MULTILINE)

    fresh = block.sub(lambda found: f"{found[1]}{page(found[2])}{found[4]}", text)

    if update_golden:
        path.write_text(fresh, encoding="utf-8")
    assert fresh == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_command_that_a_page_shows_is_one_of_ours(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    shown = set(re.findall(r"(?:^|`|rephrase-)rephrase ([a-z]+)", text, re.MULTILINE))
    ours = set(get_command(app).commands)  # type: ignore[attr-defined]

    assert shown <= ours
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE)) <= targets()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_option_of_a_command_that_a_page_shows_is_one_of_it(path: Path) -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    lines = re.findall(
        r"(?:^|`)rephrase ([a-z]+)([^`\n#]*)", path.read_text(encoding="utf-8"), re.M
    )
    shown = {(name, option) for name, rest in lines for option in re.findall(r" (--[a-z-]+)", rest)}
    known = {
        (name, option)
        for name, command in commands.items()
        for parameter in command.params
        for option in [*parameter.opts, *parameter.secondary_opts, "--help"]
    }

    assert shown <= known


def test_every_command_that_is_printed_is_run_by_a_test_or_named_with_the_reason() -> None:
    """A test that asks for commands runs what it is given: `support.pages.commands`."""
    tests = "".join(
        file.read_text(encoding="utf-8") for file in (ROOT / "tests").rglob("test_*.py")
    )
    asked = set(re.findall(r'\bcommands\("([^"]+)"(?:, "([^"]*)")?(?:, "(\w+)")?\)', tests))
    printed = [
        (str(path.relative_to(ROOT)), heading, command)
        for path in [*PAGES, *EXAMPLES]
        for heading, commands in commands_of(path).items()
        for command in commands
    ]
    forgotten = [
        (path, heading, command)
        for path, heading, command in printed
        if not_run(command) is None
        and not {(path, heading, ""), (path, heading, command.split()[0])} & asked
    ]

    assert forgotten == []
    assert {not_run(command) for *_, command in printed} - {None} == NOT_RUN.keys()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_commands_stand_in_blocks_that_say_so(path: Path) -> None:
    text = path.read_text(encoding="utf-8")

    assert re.findall(r"^ *```(?:bash|sh|console)$", text, re.MULTILINE) == []
    assert re.findall(r"^    (?:aws|helm|kubectl|make|rephrase) .*$", text, re.MULTILINE) == []


def targets() -> set[str]:
    """Targets of the Makefile that `make help` tells of."""
    return set(re.findall(r"^([a-z-]+):.* ## ", page("Makefile"), re.MULTILINE))


def test_make_help_tells_of_every_target() -> None:
    makefile = page("Makefile")
    written = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    phony = set(re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[0].split())

    assert written == phony == targets()


def test_every_make_target_is_explained_to_contributors() -> None:
    told = {cells[0] for cells in table(page("docs/contributing.md"), "Commands")}

    assert told == {f"make {target}" for target in targets()}


def test_every_tier_is_explained_to_contributors_in_its_order() -> None:
    rows = table(page("docs/contributing.md"), "Tests")
    told = [(cells[0].split("/")[0], cells[3]) for cells in rows]

    assert told == [(name, f"{tier.timeout_seconds} s") for name, tier in TIERS.items()]


def test_every_module_of_the_runner_is_on_the_map() -> None:
    text = page("docs/architecture.md")
    names = {path.name for path in RUNNER.glob("*.py")} - {"__init__.py", "__main__.py"}

    assert [name for name in sorted(names) if f"`{name}`" not in text] == []
