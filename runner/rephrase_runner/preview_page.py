"""Rewrites of the same documents by several models, side by side: their figures, and one HTML page. Pure."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rephrase_runner.markup import Markup, html_document, tag
from rephrase_runner.openings import WARN_AT, beginning, collapse
from rephrase_runner.rows import Document, Sample, Status

NOTHING = "-"
COLUMNS = ("prompt", "model", "tokens", "ends", "flags", "form", "begin alike", "left out")


@dataclass(frozen=True, slots=True)
class ModelPreview:
    """What one model made of the documents.

    Attributes:
        name: of the model.
        loading: seconds until it was ready.
        generating: seconds from then to the last answer.
        samples: by index of the document and name of the prompt.
    """

    name: str
    loading: float
    generating: float
    samples: Mapping[tuple[int, str], Sample]


@dataclass(frozen=True, slots=True)
class Preview:
    """Documents, and what each model made of them with each prompt."""

    documents: Sequence[Document]
    prompts: Sequence[str]
    models: Sequence[ModelPreview]


@dataclass(frozen=True, slots=True)
class PromptFigures:
    """What is to be known of a prompt's rewrites by one model.

    Attributes:
        tokens: of each rewrite.
        finish_reasons: how often each.
        flags: how often each.
        formed: rewrites that have the form their prompt asks for.
        form: those that were to have one.
        alike: rewrites that begin with the commonest first ten characters.
        problems: why there is no rewrite, how often.
    """

    tokens: Sequence[int]
    finish_reasons: Mapping[str, int]
    flags: Mapping[str, int]
    formed: int
    form: int
    alike: int
    problems: Mapping[str, int]


def figures(samples: Iterable[Sample]) -> PromptFigures:
    """The figures of one prompt and model."""
    found = list(samples)
    written = [one for one in found if one.status is Status.WRITTEN]
    beginnings = [beginning(one.text) for one in written]
    return PromptFigures(
        tokens=[one.completion_tokens for one in written],
        finish_reasons=Counter(one.finish_reason for one in written),
        flags=Counter(flag for one in written for flag in one.flags),
        formed=sum(one.notes.get("formed", 0) for one in written),
        form=sum(one.notes.get("form", 0) for one in written),
        alike=collapse(beginnings).top[WARN_AT] if beginnings else 0,
        problems=Counter(one.reason for one in found if one.status is not Status.WRITTEN),
    )


def rows(preview: Preview) -> Iterator[tuple[str, ...]]:
    """The figures of all prompts and models, as cells of `COLUMNS`."""
    for prompt in preview.prompts:
        for model in preview.models:
            found = figures(one for (_, name), one in model.samples.items() if name == prompt)
            made = len(found.tokens)
            mean = f"{sum(found.tokens) / made:,.0f}" if made else NOTHING
            between = f" ({min(found.tokens):,} to {max(found.tokens):,})" if made > 1 else ""
            yield (
                prompt,
                model.name,
                f"{mean}{between}",
                _counts(found.finish_reasons),
                _counts(found.flags),
                f"{found.formed} of {found.form}" if found.form else NOTHING,
                f"{found.alike} of {made}" if made > 1 else NOTHING,
                _counts(found.problems),
            )


def _counts(found: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(found.items())) or NOTHING


def said(sample: Sample) -> str:
    """A sample in a line."""
    if sample.status is not Status.WRITTEN:
        return f"{sample.status}: {sample.reason} ({sample.message})"
    flags = [flag for flag in sample.flags if flag != sample.finish_reason]
    words = [f"{sample.completion_tokens:,} tokens", sample.finish_reason, *flags]
    return ", ".join([*words, *(["document cut"] if sample.truncated else [])])


def speed(model: ModelPreview) -> str:
    """How long a model took."""
    tokens = sum(one.completion_tokens for one in model.samples.values())
    rate = tokens / model.generating if model.generating else 0.0
    took = f"{tokens:,} tokens in {model.generating:.1f} s ({rate:,.0f} tokens/s)"
    return f"ready in {model.loading:.0f} s; {took}"


def render(preview: Preview, *, run: str) -> str:
    """The page: one file, no script, no network."""
    count = len(preview.documents)
    body = tag(
        "body",
        tag(
            "header",
            tag("p", "Rephrase preview"),
            tag("h1", run),
            tag(
                "p",
                f"{count} {'document' if count == 1 else 'documents'}, {len(preview.prompts)} prompts, "
                f"{len(preview.models)} models. Nothing was written to the output.",
                class_="lead",
            ),
        ),
        tag("main", _figures(preview), *_documents(preview)),
    )
    return html_document(f"Rephrase preview: {run}", body)


def _figures(preview: Preview) -> Markup:
    names = [tag("th", name, scope="col", class_="words") for name in COLUMNS]
    body = [
        tag(
            "tr",
            tag("th", first, scope="row"),
            *(tag("td", cell, class_="words") for cell in cells),
        )
        for first, *cells in rows(preview)
    ]
    speeds = [tag("li", tag("code", one.name), f": {speed(one)}") for one in preview.models]
    table = tag(
        "table",
        tag("caption", "Of few documents: a look, not a measurement"),
        tag("thead", tag("tr", *names)),
        tag("tbody", *body),
    )
    return tag(
        "section",
        tag("h2", "Prompts and models", id="figures"),
        tag("div", table, class_="scroll", tabindex="0", role="region", aria_label="figures"),
        tag("ul", *speeds),
        aria_labelledby="figures",
    )


def _documents(preview: Preview) -> Iterator[Markup]:
    for index, document in enumerate(preview.documents):
        yield tag(
            "section",
            tag("h2", f"Document {index + 1}: ", tag("bdi", document.source_id)),
            tag(
                "details", tag("summary", "The document"), _text("the document", document.text, "")
            ),
            *(
                tag(
                    "article",
                    tag("h3", prompt),
                    tag(
                        "div",
                        *(
                            _text(model.name, found.text, said(found))
                            for model in preview.models
                            for found in [model.samples[index, prompt]]
                        ),
                        class_="texts",
                    ),
                )
                for prompt in preview.prompts
            ),
        )


def _text(name: str, text: str, more: str) -> Markup:
    return tag(
        "div",
        tag("h4", name, " ", tag("small", more)),
        tag("pre", text, dir="auto", tabindex="0", role="region", aria_label=f"text of {name}"),
        class_="text",
    )
