"""Charts of a report as inline SVG with a text alternative each. Pure.

A chart holds shapes only and is stretched to its place; labels stand around it as text, so that they keep
their size on a phone.
"""

import math
from collections.abc import Mapping, Sequence

from rephrase_runner.histogram import following
from rephrase_runner.markup import Markup, joined, tag

_WIDTH, _HEIGHT = 600, 160
NAMES = ("written", "skipped", "failed")


def _svg(*shapes: str, label: str, width: float, height: float, class_: str) -> Markup:
    return tag(
        "svg",
        tag("title", label),
        *shapes,
        viewBox=f"0 0 {width:g} {height:g}",
        preserveAspectRatio="none",
        role="img",
        class_=class_,
    )


def outcomes(counts: Sequence[int], *, label: str) -> Markup:
    """Written, skipped and failed as one bar."""
    total = max(1, sum(counts))
    at = 0.0
    shapes = []
    for name, count in zip(NAMES, counts, strict=True):
        # what is there is seen, however little it is
        width = max(100 * count / total, 0.8) if count else 0.0
        shapes.append(
            tag("rect", x=f"{at:.2f}", y="0", width=f"{width:.2f}", height="8", class_=name)
        )
        at += width
    return _svg(*shapes, label=label, width=max(100.0, at), height=8, class_="outcomes")


def speed(points: Sequence[tuple[float, float]], *, top: float, label: str) -> Markup:
    """Tokens per second over time, as an area of steps.

    Args:
        points: start of each step, its rate.
        top: what the upper edge is.
        label: what it shows, in a sentence.
    """
    wide = _WIDTH / max(1, len(points))
    edge = " ".join(
        f"V{_HEIGHT - _HEIGHT * rate / top:.1f} H{(number + 1) * wide:.1f}"
        for number, (_, rate) in enumerate(points)
    )
    line = edge.removeprefix("V").partition(" ")
    return _svg(
        *[_rule(share) for share in (0.0, 0.5, 1.0)],
        tag("path", d=f"M0,{_HEIGHT} {edge} V{_HEIGHT} Z", class_="area"),
        tag("path", d=f"M0,{line[0]} {line[2]}", class_="edge"),
        label=label,
        width=_WIDTH,
        height=_HEIGHT,
        class_="plot",
    )


def _rule(share: float) -> Markup:
    y = f"{_HEIGHT * (1 - share):g}"
    return tag("line", x1="0", x2=str(_WIDTH), y1=y, y2=y, class_="rule")


def bars(counts: Mapping[int, int], *, label: str) -> Markup:
    """A histogram over a logarithmic axis: the area of a bar is its count, since steps differ in width."""
    widths = [(at, math.log2(following(at) / max(1, at)) or 1.0) for at in span(counts)]
    scale = _WIDTH / (sum(wide for _, wide in widths) or 1.0)
    tallest = max((counts.get(at, 0) / wide for at, wide in widths), default=1.0)
    shapes = []
    left = 0.0
    for at, wide in widths:
        count = counts.get(at, 0)
        height = max(_HEIGHT * count / wide / tallest, 2.0) if count else 0.0
        shapes.append(
            tag(
                "rect",
                x=f"{left + 1:.1f}",
                y=f"{_HEIGHT - height:.1f}",
                width=f"{wide * scale - 2:.1f}",
                height=f"{height:.1f}",
                class_="bar",
            )
        )
        left += wide * scale
    return _svg(_rule(0.0), *shapes, label=label, width=_WIDTH, height=_HEIGHT, class_="plot small")


def span(counts: Mapping[int, int]) -> list[int]:
    """All steps of a histogram, those without a count too."""
    found = [at for at, count in counts.items() if count]
    if not found:
        return []
    steps = [min(found)]
    while steps[-1] < max(found):
        steps.append(following(steps[-1]))
    return steps


def framed(plot: Markup, *, upper: str, lower: str, left: str, middle: str, right: str) -> Markup:
    """A chart with the words at its edges."""
    rise = joined([tag("span", upper), tag("span", lower)])
    run = joined([tag("span", left), tag("span", middle), tag("span", right)])
    return tag(
        "div",
        tag("div", rise, class_="rise", aria_hidden="true"),
        plot,
        tag("div", run, class_="across", aria_hidden="true"),
        class_="chart",
    )
