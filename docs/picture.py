"""Draws what the dashboard *Runs* asks a Prometheus into an SVG: there is no Grafana here to be photographed.

    REPHRASE_PICTURE=docs/runs.svg .venv/bin/pytest -m '' tests/cluster/test_observed.py

lets a real Prometheus scrape real runs and hands this what it answered.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

WIDTH, HEIGHT, GAP = 320, 190, 16
TITLES = (
    "Tokens per second by run",
    "Committed units",
    "Time left",
    "Money so far by run",
    "Money per million tokens",
    "Share of the budget",
)
COLORS = ("#3b6fb6", "#d1702c", "#3f9b6b", "#8a5fb0")
Point = tuple[float, float]


def draw(told: dict[str, list[dict[str, Any]]]) -> str:
    """The picture: six panels, a line for each run."""
    times = [time for lines in told.values() for line in lines for time, _ in line["points"]]
    began, ended = min(times), max(times)
    runs = sorted({line["labels"]["run"] for title in TITLES for line in told[title]})
    colors = dict(zip(runs, COLORS, strict=False))
    parts = []
    for place, title in enumerate(TITLES):
        x, y = (place % 3) * (WIDTH + GAP), (place // 3) * (HEIGHT + GAP)
        parts.append(f'<g transform="translate({x},{y})">')
        parts += _panel(title, told[title], (began, ended), colors)
        parts.append("</g>")
    for place, (run, color) in enumerate(colors.items()):
        x, y = place * 120, 2 * (HEIGHT + GAP) + 12
        parts.append(f'<rect x="{x}" y="{y - 9}" width="10" height="10" fill="{color}"/>')
        parts.append(f'<text x="{x + 15}" y="{y}">{escape(run)}</text>')
    width, height = 3 * WIDTH + 2 * GAP, 2 * (HEIGHT + GAP) + 20
    style = "text{font:12px sans-serif;fill:#333}.small{font-size:10px;fill:#777}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}">'
        f'<style>{style}</style><rect width="100%" height="100%" fill="#fff"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _panel(
    title: str, lines: Sequence[dict[str, Any]], times: Point, colors: dict[str, str]
) -> Iterator[str]:
    left, top, width, height = 44, 24, WIDTH - 54, HEIGHT - 46
    highest = max((value for line in lines for _, value in line["points"]), default=1.0) or 1.0
    yield f'<rect width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#ddd"/>'
    yield f'<text x="10" y="16">{escape(title)}</text>'
    for share in (0.0, 0.5, 1.0):
        y = top + height * (1 - share)
        yield f'<line x1="{left}" x2="{left + width}" y1="{y:.0f}" y2="{y:.0f}" stroke="#eee"/>'
        yield f'<text class="small" x="6" y="{y + 3:.0f}">{_number(highest * share)}</text>'
    for share in (0.0, 1.0):
        minute = (times[1] - times[0]) * share / 60
        x = left + (width - 26) * share
        yield f'<text class="small" x="{x:.0f}" y="{HEIGHT - 8}">{minute:.0f} min</text>'
    for line in lines:
        dashes = ' stroke-dasharray="3 3"' if "expected" in line["legend"] else ""
        for stretch in _stretches(line["points"]):
            path = " ".join(
                f"{left + width * (time - times[0]) / (times[1] - times[0]):.1f},"
                f"{top + height * (1 - max(0.0, value) / highest):.1f}"
                for time, value in stretch
            )
            color = colors[line["labels"]["run"]]
            yield f'<polyline points="{path}" fill="none" stroke="{color}"{dashes}/>'


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _stretches(points: Sequence[Point]) -> Iterator[list[Point]]:
    """Parts of a line without a gap: while there is no operator, nobody tells."""
    stretch: list[Point] = []
    for time, value in points:
        if stretch and time - stretch[-1][0] > 5:
            yield stretch
            stretch = []
        stretch.append((time, value))
    yield stretch


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(draw(json.load(sys.stdin)), encoding="utf-8")
