"""The dataset card: `README.md` beside the data, a function of the manifest alone. Pure."""

import json

import yaml

from rephrase_runner.records import Counts, Manifest


def render(manifest: Manifest) -> str:
    """The card with a `configs:` head, so that `datasets.load_dataset(path, "faq")` finds each prompt."""
    prompts = sorted({file.prompt for file in manifest.files if file.prompt})
    head = {
        "configs": [
            {"config_name": prompt, "data_files": f"data/{prompt}/*.parquet"} for prompt in prompts
        ],
        "tags": ["synthetic", "rephrase"],
    }
    model = manifest.declared["model"]
    name = model.get("name") or model.get("uri")
    revision = manifest.resolved.model_revision
    lines = [
        "---",
        yaml.safe_dump(head, sort_keys=False).strip(),
        "---",
        "",
        "# Rephrased documents",
        "",
        f"{manifest.documents:,} documents of `{manifest.declared['source']['uri']}` rewritten by "
        f"`{name}`{f' at revision `{revision}`' if revision else ''}"
        f" with rephrase {manifest.version}. The column **`text` is the rewrite**; `source_id`, "
        "`source_file` and `source_row` name the document it was made from.",
        "",
        "```python",
        "import datasets",
        "",
        f'datasets.load_dataset("path/to/this/folder", "{prompts[0] if prompts else ""}")',
        "```",
        "",
        "## Account",
        "",
        "Every document is written, skipped with a reason, or failed with a reason. Lengths, flags, speed "
        "and cost are in [report.html](report.html).",
        "",
        "| prompt | in | written | skipped | failed |",
        "| --- | ---: | ---: | ---: | ---: |",
        *[_row(prompt, counts) for prompt, counts in sorted(manifest.counts.items())],
        "",
        f"{manifest.rows:,} source rows, {manifest.filtered:,} of them left out by the declared "
        f"filter. {manifest.tokens.completion:,} tokens in all rewrites, "
        f"{manifest.tokens.prompt:,} in their prompts; {manifest.discarded_tokens:,} tokens were "
        f"generated and discarded. {manifest.truncated:,} samples saw a document that was cut to fit.",
        "",
    ]
    if manifest.reasons:
        lines += [
            "Skipped and failed samples are in `dead_letter/` by name:",
            "",
            "| reason | samples |",
            "| --- | ---: |",
            *[f"| `{reason}` | {count:,} |" for reason, count in manifest.reasons.items()],
            "",
        ]
    if manifest.skipped_files:
        lines += ["Source files that could not be read and were left out:", ""]
        lines += [f"- `{file}`" for file in manifest.skipped_files]
        lines.append("")
    lines += ["## Prompts", ""]
    for prompt in manifest.resolved.prompts:
        lines += [
            f"### {prompt.name}",
            "",
            "```text",
            prompt.text,
            "```",
            "",
            f"{prompt.rollouts} per document; sampling `{json.dumps(prompt.sampling)}`",
            "",
        ]
    return "\n".join(lines)


def _row(prompt: str, counts: Counts) -> str:
    return (
        f"| {prompt} | {counts.in_:,} | {counts.written:,} | {counts.skipped:,} "
        f"| {counts.failed:,} |"
    )
