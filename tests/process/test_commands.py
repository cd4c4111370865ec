"""The commands that a user meets first, their help, and what they say to mistakes."""

import json

import pytest

from rephrase_api.presets import presets
from support.laptop import Ended, Laptop

USAGE = {
    "": "Commands",  # what `rephrase` can do
    "prompts": "Commands",
    "rnu run.yaml": "No such command 'rnu'",
    "run": "Missing argument 'RUN.YAML'",
    "run none.yaml": "error: none.yaml: cannot be read: No such file or directory",
    "run .": "error: .: cannot be read: Is a directory",
    "run bytes.yaml": "error: bytes.yaml: is not UTF-8 at byte 0",
    "run run.yaml --wrokers 2": "No such option",
    "run run.yaml --workers 0": "--workers",
    "plan none.yaml": "error: none.yaml: cannot be read",
    "validate none.yaml": "error: none.yaml: cannot be read",
    "verify": "Missing argument 'URI'",
    "verify ftp://host/output": "ftp",
    "init none/run.yaml": "error: none/run.yaml: cannot be written: No such file or directory",
    "prompts show fqa": 'error: no built-in prompt "fqa". There are faq, math, table, tutorial.',
    "prompts show faq --layout Last": "InstructionFirst or DocumentFirst",
    "driver": "REPHRASE_RUN",
    "worker": "REPHRASE_RUN",
}
"""Mistakes, and what is said to them."""


def all_of(laptop: Laptop, commands: list[str]) -> dict[str, Ended]:
    """Run these commands side by side, since most of their time is the start of a process."""
    started = {command: laptop.start(*command.split()) for command in commands}
    return {command: going.ended() for command, going in started.items()}


def test_usage_errors_exit_with_64_and_say_what_is_wrong(laptop: Laptop) -> None:
    laptop.manifest.touch()
    (laptop.folder / "bytes.yaml").write_bytes(b"\xff")

    found = all_of(laptop, list(USAGE))

    said = {command: ended.out + ended.err for command, ended in found.items()}
    assert {command: ended.code for command, ended in found.items()} == dict.fromkeys(USAGE, 64)
    assert [command for command, words in USAGE.items() if words not in said[command]] == [], said
    assert not [command for command in USAGE if "Traceback" in said[command]]


def test_help_of_every_command_has_an_example_of_it(laptop: Laptop) -> None:
    listed = laptop.rephrase("--help")
    commands = [
        "run",
        "validate",
        "plan",
        "verify",
        "init",
        "driver",
        "worker",
        "prompts list",
        "prompts show",
    ]

    helped = all_of(laptop, [f"{command} --help" for command in commands])

    assert listed.code == 0
    assert [command for command in commands if command.split()[0] not in listed.out] == []
    for command, ended in helped.items():
        name = command.removesuffix(" --help")
        assert ended.code == 0, ended.said
        assert "Example: " in ended.out, command
        assert f"rephrase {name}" in ended.out.partition("Example: ")[2], command


def test_init_writes_a_manifest_that_validates_and_does_not_overwrite_one(laptop: Laptop) -> None:
    made = laptop.rephrase("init", "new.yaml")
    written = (laptop.folder / "new.yaml").read_bytes()
    valid = laptop.rephrase("validate", "new.yaml")
    again = laptop.rephrase("init", "new.yaml")

    assert (made.code, made.out) == (
        0, "wrote new.yaml; next: edit it, then rephrase validate new.yaml\n",
    )  # fmt: skip
    assert (valid.code, valid.out) == (0, "new.yaml: valid\n")
    assert (again.code, again.err) == (
        64, "error: new.yaml: exists already. Choose another name.\n",
    )  # fmt: skip
    assert (laptop.folder / "new.yaml").read_bytes() == written


def test_validate_names_all_problems_at_once(laptop: Laptop) -> None:
    laptop.manifest.write_text("kind: RephraseRun\nspec: {prompts: [], modle: {}}\n")

    plain = laptop.rephrase("validate", "run.yaml")
    for_machines = laptop.rephrase("validate", "run.yaml", "--json")

    report = json.loads(for_machines.out)
    assert plain.code == for_machines.code == 64
    assert report["valid"] is False
    assert len(report["problems"]) >= 5
    assert plain.err.startswith(f"error: run.yaml: {len(report['problems'])} problems\n")
    assert [problem for problem in report["problems"] if problem not in plain.err] == []


def test_prompts_are_listed_and_shown_as_they_are_sent(laptop: Laptop) -> None:
    listed = laptop.rephrase("prompts", "list")
    for_machines = laptop.rephrase("prompts", "list", "--json")
    shown = all_of(laptop, [f"prompts show {name}" for name in presets()])
    document_first = laptop.rephrase("prompts", "show", "faq", "--layout", "DocumentFirst")

    assert listed.code == 0
    assert [name for name in presets() if name not in listed.out] == []
    assert json.loads(for_machines.out).keys() == presets().keys()
    for name, ended in zip(presets(), shown.values(), strict=True):
        assert ended.code == 0
        assert ended.out.count("[[DOCUMENT]]") == 1
        assert presets()[name].instruction.strip() in ended.out
        assert ended.out.rstrip().endswith("[[DOCUMENT]]")
    assert document_first.out.startswith("Document:\n[[DOCUMENT]]\n")


def test_the_version_is_told(laptop: Laptop) -> None:
    ended = laptop.rephrase("--version")

    assert ended.code == 0
    assert ended.out.strip().count(".") == 2


@pytest.mark.parametrize("command", ["run", "verify"])
def test_a_state_folder_that_cannot_be_made_stops_only_what_needs_it(
    laptop: Laptop, undisturbed: Laptop, command: str
) -> None:
    in_the_way = {"XDG_STATE_HOME": str(undisturbed.manifest)}
    argument = {"run": str(undisturbed.manifest), "verify": str(undisturbed.output)}[command]

    ended = laptop.rephrase(command, argument, environment=in_the_way)

    assert ended.code == {"run": 69, "verify": 0}[command], ended.said
    assert ("XDG_STATE_HOME" in ended.err) is (command == "run")
