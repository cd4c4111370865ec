"""README's first command, as printed."""

from pathlib import Path

import pytest

from support.pages import commands
from support.shell import Shell, checkout


@pytest.mark.full
@pytest.mark.timeout(1200)
def test_make_demo_rewrites_real_documents_into_four_formats(tmp_path: Path) -> None:
    shell = Shell(checkout(tmp_path / "rephrase"), {"MAKEFLAGS": ""})

    said = "".join(shell.run(command, within=1200) for command in commands("README.md", "Try it"))

    made = {path.parent.name for path in shell.folder.glob("demo/output/data/*/*.parquet")}
    assert made == {"faq", "math", "table", "tutorial"}
    assert "demo/output: sound" in said
