"""`rephrase plan`: what a run would take, from its manifest, the source's footers and what the output holds.

Reads neither documents nor the model, and writes nothing. What follows from what was found is decided in
`rephrase_api.estimate`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from decimal import Decimal
from typing import Any

from rephrase_api import cost
from rephrase_api import progress as api
from rephrase_api.errors import AccessRefused
from rephrase_api.estimate import (
    Basis,
    Figure,
    Measured,
    PoolEstimate,
    Prefill,
    Price,
    Settings,
    Shape,
    gpu_of,
    in_pool,
    is_document_first,
    mean_output_tokens,
    output_tokens,
    prefill,
    samples,
)
from rephrase_api.prices import PoolPrices, PriceList, pool_prices
from rephrase_api.semantic import declared, spec_hash
from rephrase_api.v1alpha1 import RephraseRun, RephraseRunSpec
from rephrase_api.v1alpha1.base import camel
from rephrase_api.v1alpha1.source import Source
from rephrase_api.words import duration
from rephrase_runner.ledger import Ledger, check_same, read_spec
from rephrase_runner.records import Heartbeat
from rephrase_runner.schema import check_kept
from rephrase_runner.source import Scan, scan
from rephrase_runner.status import status
from rephrase_runner.store import StorageOptions, Store, Unclear, exists
from rephrase_runner.units import plan_units

_STARTING = "loading"
"""Phase of a worker that the estimate counts apart."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a run would take. Of one that has begun, what is left of it.

    Attributes:
        run: its name.
        files: of the source.
        units: still to be done.
        documents: the same; `total` is all source rows.
        samples: still to be made.
        mean_output_tokens: of an answer, by prompt.
        output_tokens: still to be generated.
        failed_share: of the samples made so far; None before there are any.
        currency: of all money.
        pools: what it takes if all is done in one of them, in the order of the spec.
        prefill: prompt tokens of a document in both layouts; None where the layout changes nothing.
        document_first: which of them the manifest has.
        notes: what else is to be known, a sentence each.
    """

    run: str
    files: int
    units: int
    total: int
    documents: Figure[float]
    samples: Figure[float]
    mean_output_tokens: Mapping[str, Figure[float]]
    output_tokens: Figure[float]
    failed_share: Figure[float] | None
    currency: str
    pools: Sequence[PoolEstimate]
    prefill: Prefill | None
    document_first: bool
    notes: Sequence[str]


@dataclass(frozen=True, slots=True)
class _Begun:
    """The run that lives in the output already."""

    progress: api.Progress
    heartbeats: Sequence[Heartbeat]


async def forecast(run: RephraseRun, prices: PriceList | None) -> Forecast:
    """Look at source and output, and estimate.

    Args:
        run: the manifest.
        prices: for pools without a price of their own.

    Raises:
        InvalidSpec: the source does not fit the manifest.
        SpecMismatch: the output belongs to a run with another spec.
        AccessRefused: the source cannot be read.
    """
    spec, notes = run.spec, []
    check_kept(list(spec.source.columns.keep))
    found = await scan(spec.source, storage=StorageOptions.of(spec.source.storage), estimate=True)
    try:
        begun = await _begun(spec)
    except (AccessRefused, Unclear) as error:
        begun = None
        notes.append(f"the output cannot be read, so this is an estimate of a new run: {error}")
    units = list(
        plan_units(
            found.files,
            target_documents=spec.source.unit.target_documents,
            limit=spec.source.limit.documents,
        )
    )
    total = sum(unit.rows for unit in units)
    documents, left = _documents(spec.source, found, total), len(units)
    if begun is not None and begun.progress.units.planned:
        documents, left = _left(begun.progress, documents)
    shape = Shape(spec, documents, left)
    shown = _measured(spec, begun)
    of_any = next(iter(shown.values()), None)
    priced = pool_prices(spec, prices)
    return Forecast(
        run=run.metadata.name,
        files=len(found.files),
        units=left,
        total=total,
        documents=documents,
        samples=samples(shape),
        mean_output_tokens=mean_output_tokens(spec, of_any),
        output_tokens=output_tokens(shape, of_any),
        failed_share=(
            Figure.exactly(of_any.failed_share, of_any.basis, of_any.source)
            if of_any is not None
            else None
        ),
        currency=priced.currency,
        pools=[
            in_pool(shape, pool, _price(priced, pool.name), shown.get(pool.name))
            for pool in spec.pools()
        ],
        prefill=prefill(spec, of_any),
        document_first=is_document_first(spec),
        notes=notes,
    )


async def _begun(spec: RephraseRunSpec) -> _Begun | None:
    if not exists(spec.output.uri):
        return None
    store = Store(spec.output.uri, StorageOptions.of(spec.output.storage))
    record = await read_spec(store)
    if record is None:
        return None
    wanted = declared(spec)
    check_same(record, wanted, spec_hash(wanted), uri=store.uri)
    book = Ledger(store, record.run)
    seen = await book.read_heartbeats(await book.heartbeat_metas())
    told = await status(store, canary_documents=spec.canary.documents)
    return _Begun(told, [one.heartbeat for one in seen])


def _documents(source: Source, found: Scan, rows: int) -> Figure[float]:
    """Documents of a run that has not begun."""
    fraction = Decimal(source.sample.fraction)
    counted = f"rows of {len(found.files)} footers" if found.exact else "heads of the files"
    basis = Basis.COUNTED if found.exact else Basis.ASSUMPTION
    words = [counted if found.exact else f"estimated from the {counted}"]
    if fraction < 1:
        words.append(f"of which a sample of {fraction}")
    if source.filters:
        basis = Basis.ASSUMPTION
        words.append("at most: how many fit spec.source.filters is seen when they are read")
    return Figure.exactly(float(rows * fraction), basis, "; ".join(words))


def _left(progress: api.Progress, planned: Figure[float]) -> tuple[Figure[float], int]:
    """Documents and units that a run which is planned still has to do."""
    seen = progress.documents
    units = progress.units.planned - progress.units.committed
    if not seen.done:
        return planned, units
    rows = seen.total - seen.done
    share = 1 - seen.filtered / seen.done
    source = f"{rows:,} rows left of {seen.total:,}"
    if seen.filtered:
        source += f", of which {share:.1%} fit filters and sample so far"
    basis = Basis.RUN if seen.filtered else Basis.COUNTED
    return Figure.exactly(rows * share, basis, source), units


def _measured(spec: RephraseRunSpec, begun: _Begun | None) -> dict[str, Measured]:
    """What the ledger shows, by pool: lengths are the same in all, rates are each pool's own.

    As long as nothing but the canary is done, it is the canary that has measured.
    """
    if begun is None:
        return {}
    progress, made = begun.progress, begun.progress.samples
    number = made.written + made.skipped + made.failed
    if not number or not progress.tokens.completion:
        return {}
    found = {}
    canary = progress.canary
    if canary is not None and canary.committed < progress.units.committed:
        canary = None  # the run has shown more
    lengths = dict(canary.output_tokens) if canary is not None else {}
    mean = progress.tokens.completion / number
    for pool in spec.pools():
        beats = [beat for beat in begun.heartbeats if beat.pool == pool.name]
        seconds = sum(
            spent for beat in beats for phase, spent in beat.seconds.items() if phase != _STARTING
        )
        tokens = sum(beat.generated_tokens for beat in beats)
        name, gpus = gpu_of(pool)
        # a laptop without GPUs takes the model to its CPU, whatever the pool says
        fits = {beat.gpus for beat in beats} == {gpus}
        rate = tokens / seconds if fits and seconds else None
        if canary is not None and fits and canary.pool == pool.name:
            rate = canary.tokens_per_second or None
        found[pool.name] = Measured(
            basis=Basis.CANARY if canary is not None else Basis.RUN,
            documents=progress.documents.done - progress.documents.filtered,
            output_tokens={**lengths, "": mean},
            prompt_tokens=progress.tokens.prompt / number,
            failed_share=made.failed / number,
            tokens_per_second=rate,
            gpu=name,
            gpus=gpus,
        )
    return found


def _price(priced: PoolPrices, pool: str) -> Price:
    if pool in priced.unknown:
        return Price(None, priced.unknown[pool], Basis.UNKNOWN)
    basis = Basis.PRICE_LIST if pool in priced.listed else Basis.SPEC
    return Price(priced.known[pool], priced.sources[pool], basis)


# -- for people --

_VALUE = 38
"""Width of the column of values; a longer one pushes its basis aside."""
_Row = tuple[str, str, str]


def lines(found: Forecast) -> Iterator[str]:
    """A forecast as lines: name, likely value (good to bad case), [basis] and source."""
    blocks = [list(_work(found)), *(list(_pool(pool, found.currency)) for pool in found.pools)]
    width = max(len(name) for rows in blocks for name, _, _ in rows) + 2
    for rows, pool in zip(blocks, (None, *found.pools), strict=True):
        if pool is not None:
            yield ""
            yield f"all in pool {pool.pool}: {_workers(pool)}"
        for name, value, basis in rows:
            yield f"{name:<{width}}{value:<{_VALUE}}  {basis}".rstrip()
    yield from ("", *found.notes) if found.notes else ()


def _work(found: Forecast) -> Iterator[_Row]:
    yield "files", f"{found.files:,}", ""
    yield "units", f"{found.units:,}", ""
    yield _row("documents", found.documents, _count)
    yield _row("samples", found.samples, _count)
    for name, mean in found.mean_output_tokens.items():
        yield _row(f"tokens of {name}", mean, _count)
    yield _row("output tokens", found.output_tokens, _count)
    if found.failed_share is not None:
        yield _row("failed samples", found.failed_share, "{:.2%}".format)
    if found.prefill is not None:
        layouts = found.prefill
        less = layouts.instruction_first / layouts.document_first
        value = f"{layouts.instruction_first:,.0f} -> {layouts.document_first:,.0f} prompt tokens"
        has = "the manifest has it" if found.document_first else "the manifest has it not"
        yield "DocumentFirst", value, f"of a document to compute, {less:.1f}x less; {has}"
        yield "", "", f"[{layouts.basis}] {layouts.source}"


def _pool(pool: PoolEstimate, currency: str) -> Iterator[_Row]:
    each = "a GPU" if pool.gpus else "a worker"
    yield _row("rate", pool.rate, _count, f" tokens/s {each}")
    yield _row("GPU hours" if pool.gpus else "worker hours", pool.gpu_hours, _hours)
    yield _row("cost", pool.money, _money, f" {currency}")
    yield _row("time", pool.seconds, duration)
    if pool.settings is not None:
        yield from _settings(pool.settings, pool.gpus)


def _row(name: str, figure: Figure[Any], show: Callable[[Any], str], unit: str = "") -> _Row:
    if figure.likely is None:
        return name, "unknown", figure.source
    least, likely, most = (show(value) for value in (figure.least, figure.likely, figure.most))
    between = "" if least == most else f" ({least} to {most})"
    return name, f"{likely}{between}{unit}", f"[{figure.basis}] {figure.source}"


def _workers(pool: PoolEstimate) -> str:
    workers = f"{pool.workers:,} workers" if pool.workers != 1 else "1 worker"
    return f"{workers} with {pool.gpus} {pool.gpu or 'GPU'} each" if pool.gpus else workers


def _settings(found: Settings, gpus: int) -> Iterator[_Row]:
    basis = f"[{Basis.TABLE}] {found.source}"
    yield "fastest settings", " ".join(found.arguments) or "vLLM's own", ""
    wanted = [*found.missing, *([f"{found.gpus} GPUs a worker"] if gpus != found.gpus else [])]
    lacks = f"the manifest lacks {' '.join(wanted)}" if wanted else "the manifest has them"
    yield "", f"{lacks}  {basis}", ""
    if found.caution:
        yield "", f"caution: {found.caution}", ""


def _count(value: float) -> str:
    for least, word in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if value >= 10 * least or (value >= least and word != "M"):
            return f"{value / least:,.{0 if value >= 100 * least else 2}f} {word}"
    return f"{value:,.0f}"


def _hours(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.4f}"


def _money(value: Decimal) -> str:
    return f"{value:,.0f}" if value >= 100 else cost.shown(value)


# -- for machines --


def plain(value: Any) -> Any:  # noqa: ANN401 - JSON
    """A forecast as JSON values: camelCase keys, money as text, null for what is unknown."""
    if is_dataclass(value):
        return {camel(field.name): plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return cost.shown(value) if isinstance(value, Decimal) else value
