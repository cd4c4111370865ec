"""The `rephrase` command. Builds the objects and hands them in; holds no rules."""

import asyncio
import contextlib
import json
import os
import sys
import time
import traceback
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from rephrase_api.errors import ExitCode, InvalidSpec, RephraseError
from rephrase_api.manifest import cluster_only_fields, parse_run
from rephrase_api.presets import presets
from rephrase_api.v1alpha1 import RephraseRun

app = typer.Typer(
    name="rephrase",
    help="Rewrite text into synthetic pretraining data: a RephraseRun on this machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
prompts_app = typer.Typer(help="The prompts that ship with rephrase.", no_args_is_help=True)
app.add_typer(prompts_app, name="prompts")
URI = Annotated[str, typer.Argument(help="Output of a run.", metavar="URI")]
Endpoint = Annotated[str, typer.Option(help="Endpoint of an S3-compatible store.")]
Region = Annotated[str, typer.Option(help="Region of the bucket.")]
AllowHTTP = Annotated[bool, typer.Option("--allow-http", help="Allow an endpoint without TLS.")]
_TYPER_INTERRUPTED = 130  # what typer makes of a KeyboardInterrupt
out = Console()
err = Console(stderr=True)

Manifest = Annotated[
    Path, typer.Argument(help="YAML file with one RephraseRun.", metavar="RUN.YAML")
]
JSON = Annotated[bool, typer.Option("--json", help="JSON on standard output, for machines.")]


def say(text: str) -> None:
    """Print a line as it is."""
    out.print(text, markup=False, highlight=False, soft_wrap=True)


def complain(text: str) -> None:
    """Print a line as it is on standard error."""
    err.print(text, markup=False, highlight=False, soft_wrap=True)


def main() -> NoReturn:
    """Entry point: turns every outcome into an exit code of `rephrase_api.errors.ExitCode`."""
    code: int = ExitCode.FAILED
    try:
        code = _outcome()
    except SystemExit as error:  # rich ends the process so where its reader is gone
        code = error.code if isinstance(error.code, int) else ExitCode.FAILED
    except BaseException:  # noqa: BLE001 - the edge: a fault of ours is told, and the process ends all the same
        with contextlib.suppress(OSError):
            traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # whoever read it may be gone
            stream.flush()
    # Not sys.exit: threads that still load an engine or read a file must not hold the process up.
    os._exit(int(code))


def _outcome() -> int:
    try:
        code = app(standalone_mode=False) or 0
    except RephraseError as error:
        complain(f"error: {error}")
        code = error.exit_code
    except typer.TyperException as error:  # usage errors, and help where a command is missing
        error.show()  # type: ignore[attr-defined]  # those that are raised have it
        code = ExitCode.INVALID
    except (typer.Abort, KeyboardInterrupt):
        code = ExitCode.DRAINED
    if code == _TYPER_INTERRUPTED:
        code = ExitCode.DRAINED
    return int(code)


def read_manifest(path: Path) -> RephraseRun:
    """Read and check a manifest; its problems are all reported at once."""
    return parse_run(_read_yaml(path), where=str(path))


def _read_yaml(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidSpec(
            f"cannot be read: {error.strerror}", where=str(path), remedy="Name a YAML file."
        ) from error
    except UnicodeDecodeError as error:
        raise InvalidSpec(
            f"is not UTF-8 at byte {error.start}", where=str(path), remedy="Name a YAML file."
        ) from error


@app.command()
def run(
    manifest: Manifest,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Worker processes. Default: one per GPU, else one.")
    ] = None,
    as_json: JSON = False,
) -> int:
    """Run a manifest on this machine; running it again continues where it stopped.

    Example: rephrase run examples/quickstart.yaml
    """
    from rephrase_runner import display, local

    found = read_manifest(manifest)
    name = found.metadata.name
    if as_json:
        shown: display.Display = display.JsonDisplay(out, time.monotonic)
    elif out.is_terminal:
        shown = display.LiveDisplay(out, name)
    else:
        shown = display.PlainDisplay(out, time.monotonic)
    ignored = cluster_only_fields(found.spec)
    if ignored:
        shown.note(f"only a cluster can honor {', '.join(ignored)}; left aside here")
    count = workers or local.worker_count(found, local.gpu_devices())
    logs = _logs(name)
    supervisor = local.Supervisor(found, workers=count, display=shown, logs=logs)
    try:
        result = asyncio.run(supervisor.run())
    finally:
        shown.close()
    if as_json:
        shown.show(result.progress)
        say(json.dumps({"exit": int(result.code), "reason": result.reason, "error": result.error}))
    elif result.code is ExitCode.OK:
        _summary(found, result.progress)
    else:
        complain(f"{result.reason}: {result.error}")
        complain(f"logs: {logs}")
        if result.code is ExitCode.DRAINED:
            complain(f"to continue: rephrase run {manifest}")
    return int(result.code)


def _logs(name: str) -> Path:
    return _state_folder() / name / time.strftime("%Y%m%dT%H%M%S")


def _state_folder() -> Path:
    """Where logs go (XDG base directory specification)."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "rephrase"


def _summary(found: RephraseRun, progress: object) -> None:
    from rephrase_api.progress import Progress

    if not isinstance(progress, Progress):
        return
    samples = progress.samples
    say(
        f"complete: {samples.written:,} samples written, {samples.skipped:,} skipped, "
        f"{samples.failed:,} failed; {progress.tokens.completion:,} tokens"
    )
    say(f"output:   {found.spec.output.uri}")
    say(f"report:   {found.spec.output.uri.rstrip('/')}/report.html")


@app.command()
def validate(manifest: Manifest, as_json: JSON = False) -> int:
    """Check a manifest without touching source, output or model: all problems at once.

    Example: rephrase validate run.yaml
    """
    from rephrase_api.errors import Problems

    try:
        found = read_manifest(manifest)
    except Problems as error:
        if not as_json:
            raise
        say(json.dumps({"valid": False, "problems": error.problems}))
        return int(error.exit_code)
    ignored = cluster_only_fields(found.spec)
    if as_json:
        say(json.dumps({"valid": True, "problems": [], "clusterOnly": ignored}))
        return int(ExitCode.OK)
    say(f"{manifest}: valid")
    if ignored:
        say(f"only a cluster can honor: {', '.join(ignored)}")
    return int(ExitCode.OK)


@app.command()
def plan(
    manifest: Manifest,
    prices: Annotated[
        Path | None,
        typer.Option(help="Price list, for pools without a price.", metavar="PRICES.YAML"),
    ] = None,
    canary: Annotated[
        bool,
        typer.Option(
            "--canary", help="Start the run here and do its canary (spec.canary.documents) first."
        ),
    ] = False,
    as_json: JSON = False,
) -> int:
    """Say what a run would take (tokens, GPU hours, money, time) without touching documents or model.

    Reads the manifest, the source's listing and footers, and what the output holds; writes nothing, but
    with --canary, which is a start of the run that stops after its first units.

    Example: rephrase plan run.yaml --prices prices.yaml
    """
    from rephrase_api.prices import parse_prices
    from rephrase_runner import forecast

    found = read_manifest(manifest)
    listed = None if prices is None else parse_prices(_read_yaml(prices), where=str(prices))
    if canary and (code := _canary(found, manifest)) is not ExitCode.OK:
        return int(code)
    told = asyncio.run(forecast.forecast(found, listed))
    if as_json:
        say(json.dumps(forecast.plain(told)))
    else:
        for line in forecast.lines(told):
            say(line)
    return int(ExitCode.OK)


def _canary(found: RephraseRun, manifest: Path) -> ExitCode:
    """Do the canary of a run; all that is shown goes to standard error, beside the plan."""
    from rephrase_runner import display, local

    if not found.spec.canary.documents:
        raise InvalidSpec(
            "is 0: there is no canary to measure",
            where="spec.canary.documents",
            remedy="Set it, as in canary: {documents: 1000}.",
        )
    name = found.metadata.name
    shown: display.Display = (
        display.LiveDisplay(err, name)
        if err.is_terminal
        else display.PlainDisplay(err, time.monotonic)
    )
    shown.note(
        f"this starts the run: its first units are written to {found.spec.output.uri}, and rephrase run "
        "goes on from there"
    )
    logs = _logs(name)
    supervisor = local.Supervisor(found, workers=1, display=shown, logs=logs, only_canary=True)
    try:
        result = asyncio.run(supervisor.run())
    finally:
        shown.close()
    if result.code is not ExitCode.OK:
        complain(f"{result.reason}: {result.error}")
        complain(f"logs: {logs}")
        if result.code is ExitCode.DRAINED:
            complain(f"to continue: rephrase plan {manifest} --canary")
    return result.code


@app.command()
def preview(
    manifest: Manifest,
    documents: Annotated[int, typer.Option(min=1, max=1000, help="How many documents.")] = 3,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Another model beside the manifest's: a folder, or a name on the hub. May be repeated."
        ),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write a page instead of showing texts.", metavar="FILE")
    ] = None,
    characters: Annotated[int, typer.Option(min=1, help="Of each text, in the terminal.")] = 1200,
    as_json: JSON = False,
) -> int:
    """Rewrite a few documents with every prompt and look at them, models side by side.

    Loads the models on this machine (or asks the endpoint); writes nothing to the output.

    Example: rephrase preview run.yaml --documents 3 --model HuggingFaceTB/SmolLM2-360M-Instruct
    """
    from rephrase_runner import preview as previewing
    from rephrase_runner import preview_page

    found = read_manifest(manifest)
    runs = [found, *(previewing.with_model(found, name) for name in model or ())]
    made = asyncio.run(previewing.preview(runs, documents=documents, note=complain))
    if html is not None:
        try:
            html.write_text(preview_page.render(made, run=found.metadata.name), encoding="utf-8")
        except OSError as error:
            raise InvalidSpec(f"cannot be written: {error.strerror}", where=str(html)) from error
        complain(f"wrote {html}")
    if as_json:
        say(json.dumps(previewing.plain(made)))
    elif html is None:
        out.print(previewing.shown(made, characters=characters))
    return int(ExitCode.OK)


@app.command()
def verify(
    uri: URI,
    endpoint: Endpoint = "",
    region: Region = "",
    allow_http: AllowHTTP = False,
    as_json: JSON = False,
) -> int:
    """Re-check every invariant of an output from its objects alone; exit code 1 if anything is wrong.

    Example: rephrase verify demo/output
    """
    from rephrase_runner import verify as verification
    from rephrase_runner.store import StorageOptions, Store

    store = Store(uri, StorageOptions(endpoint, region, allow_http))
    report = asyncio.run(verification.verify(store))
    if as_json:
        import dataclasses

        say(json.dumps(dataclasses.asdict(report)))
    else:
        for fault in report.faults:
            say(f"FAULT  {fault}")
        verdict = "sound" if not report.faults else f"{len(report.faults)} faults"
        say(
            f"{uri}: {verdict}; {report.units:,} units, {report.parts:,} parts, {report.files:,} "
            f"files, {report.samples:,} samples checked"
        )
    return int(ExitCode.FAILED if report.faults else ExitCode.OK)


@app.command()
def status(
    uri: URI,
    endpoint: Endpoint = "",
    region: Region = "",
    allow_http: AllowHTTP = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on until the run is complete.")
    ] = False,
    every: Annotated[
        float, typer.Option(min=0.2, help="Seconds between two looks of --watch.")
    ] = 5,
    as_json: JSON = False,
) -> int:
    """Show a run from its objects alone: progress, workers, leases, rates, discarded tokens.

    Example: rephrase status demo/output --watch
    """
    from rich.live import Live

    from rephrase_api.progress import Progress
    from rephrase_runner import status as look
    from rephrase_runner.store import StorageOptions, Store

    store = Store(uri, StorageOptions(endpoint, region, allow_http))

    def tell(progress: Progress) -> None:
        if as_json:
            say(progress.model_dump_json(by_alias=True))
        else:
            out.print(look.table(progress))

    if not watch:
        tell(asyncio.run(look.status(store)))
    elif as_json or not out.is_terminal:
        asyncio.run(look.follow(store, tell, seconds=every))
    else:
        with Live(console=out, auto_refresh=False) as live:
            asyncio.run(
                look.follow(
                    store,
                    lambda progress: live.update(look.table(progress), refresh=True),
                    seconds=every,
                )
            )
    return int(ExitCode.OK)


@app.command()
def report(
    uri: URI,
    endpoint: Endpoint = "",
    region: Region = "",
    allow_http: AllowHTTP = False,
    prices: Annotated[
        Path | None,
        typer.Option(help="Price list, for pools without a price.", metavar="PRICES.YAML"),
    ] = None,
    with_source: Annotated[
        bool,
        typer.Option("--with-source", help="Show documents beside their rewrites."),
    ] = False,
    file: Annotated[
        Path | None,
        typer.Option("--file", help="Write it here, and nothing to the output.", metavar="FILE"),
    ] = None,
) -> int:
    """Write report.html of a run, finished or not, from its objects alone: one page that needs nothing else.

    A driver writes it too when its run is complete. With --with-source the source is read where the
    output does not hold it, by the same endpoint and credentials.

    Example: rephrase report demo/output --file report.html
    """
    from rephrase_api.prices import parse_prices
    from rephrase_runner import report as page
    from rephrase_runner.store import StorageOptions, Store

    options = StorageOptions(endpoint, region, allow_http)
    listed = None if prices is None else parse_prices(_read_yaml(prices), where=str(prices))
    asked = page.Asked(listed, with_source=with_source, source=options)
    store = Store(uri, options)
    if file is None:
        asyncio.run(page.write(store, asked))
        say(f"wrote {uri.rstrip('/')}/{page.NAME}")
        return int(ExitCode.OK)
    text = asyncio.run(page.render(store, asked))
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidSpec(f"cannot be written: {error.strerror}", where=str(file)) from error
    say(f"wrote {file}")
    return int(ExitCode.OK)


@app.command()
def gc(
    uri: URI,
    endpoint: Endpoint = "",
    region: Region = "",
    allow_http: AllowHTTP = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Delete; without it nothing is touched.")
    ] = False,
    parts: Annotated[
        bool, typer.Option("--parts", help="Also the parts of a complete run; its data stays.")
    ] = False,
) -> int:
    """List what nobody refers to any more in an output, or remove it with --yes.

    Example: rephrase gc demo/output
    """
    from rephrase_runner import garbage
    from rephrase_runner.store import StorageOptions, Store

    async def sweep() -> tuple[list[garbage.Garbage], int]:
        store = Store(uri, StorageOptions(endpoint, region, allow_http))
        found = await garbage.find(store, published_parts=parts)
        size = sum(item.meta.size for item in found)
        return found, await garbage.remove(store, found) if yes else size

    found, size = asyncio.run(sweep())
    for item in found:
        say(f"{item.meta.name}: {item.why}")
    verb = "removed" if yes else "to remove with --yes"
    say(f"{uri}: {len(found):,} objects, {size:,} bytes {verb}")
    return int(ExitCode.OK)


@app.command()
def tune(
    manifest: Manifest,
    minutes: Annotated[float, typer.Option(min=0.1, help="Time for everything.")] = 30,
    window: Annotated[
        float, typer.Option(min=1, help="Seconds of the shortest measurement, without the start.")
    ] = 20,
    write: Annotated[
        Path,
        typer.Option(help="File for the patch with the fastest settings.", metavar="PATCH.YAML"),
    ] = Path("tune.patch.yaml"),
    as_json: JSON = False,
) -> int:
    """Try engine settings on the run's own documents and prompts, and write the fastest as a patch.

    Touches no output. Settings for speed never change what a run is: one that has begun goes on with them.

    Example: rephrase tune run.yaml --minutes 30
    """
    from rephrase_runner import tune as tuning

    found = read_manifest(manifest)
    told = (lambda trial: None) if as_json else (lambda trial: say(tuning.line(trial)))
    tuned = asyncio.run(tuning.tune(found, seconds=minutes * 60, window_seconds=window, told=told))
    if tuned.patch:
        _write(write, tuning.patch_text(found, tuned, write.name))
    if as_json:
        say(json.dumps(tuning.plain(tuned)))
    elif tuned.patch:
        before = f"{tuned.before:,.0f}" if tuned.before is not None else "nothing"
        say(f"{tuned.best:,.0f} tokens/s instead of {before}: wrote {write}")
    else:
        say(f"{tuned.best:,.0f} tokens/s: nothing was clearly faster than the run's own settings")
    return int(ExitCode.OK)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidSpec(f"cannot be written: {error.strerror}", where=str(path)) from error


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="File to write.", metavar="RUN.YAML")] = Path(
        "run.yaml"
    ),
) -> int:
    """Write a commented manifest to begin with; refuses to overwrite a file.

    Example: rephrase init run.yaml
    """
    from importlib.resources import files

    text = files("rephrase_runner").joinpath("starter.yaml").read_text(encoding="utf-8")
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise InvalidSpec(
            "exists already", where=str(path), remedy="Choose another name."
        ) from error
    except OSError as error:
        raise InvalidSpec(f"cannot be written: {error.strerror}", where=str(path)) from error
    say(f"wrote {path}; next: edit it, then rephrase validate {path}")
    return int(ExitCode.OK)


@prompts_app.command("list")
def list_prompts(as_json: JSON = False) -> int:
    """List the built-in prompts.

    Example: rephrase prompts list
    """
    if as_json:
        found = {name: preset.description for name, preset in presets().items()}
        say(json.dumps(found))
        return int(ExitCode.OK)
    table = Table(box=None, header_style="dim")
    table.add_column("name")
    table.add_column("what it makes")
    for name, preset in presets().items():
        table.add_row(name, preset.description)
    out.print(table)
    return int(ExitCode.OK)


@prompts_app.command("show")
def show_prompt(
    name: Annotated[str, typer.Argument(help="Name of a built-in prompt.")],
    layout: Annotated[
        str, typer.Option(help="InstructionFirst or DocumentFirst.")
    ] = "InstructionFirst",
) -> int:
    """Show a built-in prompt as it is sent, with [[DOCUMENT]] where the document goes.

    Example: rephrase prompts show faq --layout DocumentFirst
    """
    from rephrase_api.v1alpha1 import PromptLayout
    from rephrase_runner.prompts import compose

    if name not in presets():
        raise InvalidSpec(
            f'no built-in prompt "{name}"', remedy=f"There are {', '.join(presets())}."
        )
    if layout not in list(PromptLayout):
        raise InvalidSpec(
            f'no layout "{layout}"', where="--layout", remedy=f"Use {' or '.join(PromptLayout)}."
        )
    say(compose(presets()[name].instruction, PromptLayout(layout)))
    return int(ExitCode.OK)


@app.command()
def driver() -> int:
    """Run a driver as its pod does; takes everything from REPHRASE_* variables.

    Example: REPHRASE_RUN=demo REPHRASE_MANIFEST="$(cat run.json)" rephrase driver
    """
    from rephrase_runner.processes import driver_main

    return driver_main(dict(os.environ))


@app.command()
def worker() -> int:
    """Run a worker as its pod does; takes everything from REPHRASE_* variables.

    Example: REPHRASE_RUN=demo REPHRASE_OUTPUT_URI=demo/output rephrase worker
    """
    from rephrase_runner.processes import worker_main

    return worker_main(dict(os.environ))


@app.command(hidden=True)
def trial() -> int:
    """Try one set of engine settings, as `rephrase tune` asks for it on standard input.

    Example: rephrase trial < order.json
    """
    from rephrase_runner.trial import trial_main

    return trial_main(sys.stdin.read())


def _version(value: bool) -> None:
    if value:
        say(version("rephrase"))
        raise typer.Exit


@app.callback()
def _root(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass
