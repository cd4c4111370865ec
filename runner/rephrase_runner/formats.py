"""Whether a rewrite has the form that its built-in prompt asks for. Pure; a look at the text, no parser.

Reported and never filtered by: the model whose training data was best kept its formats worst (arXiv
2604.13977, analysis chapter). Patterns see a line or a few characters at a time, so that no text makes them
slow.
"""

import re
from collections.abc import Callable, Iterator, Mapping

_DIGIT = re.compile("[0-9]")
_QUESTION = re.compile(r"[\s#>*_\d.)-]{0,20}(?:q\d{0,4}|question\b)[^\n]{0,4}[:.)]", re.IGNORECASE)
_ALIGNMENT = re.compile(r"[|:\-\s]*-[|:\-\s]*")
_STEP = re.compile(r"\d{1,4}[.):]|[-*+•][ \t]|step\s+\d", re.IGNORECASE)
_HEADING = re.compile(r"#{1,6}[ \t]")
_MINUS, _TIMES = "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"
_NUMBER = r"(\d{1,15}(?:,\d{3})*(?:\.\d{1,15})?)"
_OPERATION = re.compile(rf"[0-9]%?[-+*/÷=x{_TIMES}{_MINUS}][0-9]")
_LEFT = re.compile(rf"(?<![\d.,]){_NUMBER} ?([-+*/÷x{_TIMES}{_MINUS}]) ?[$€£]?{_NUMBER}[ \t]*$")
_RIGHT = re.compile(rf"[ \t]*[$€£]?([-{_MINUS}]?){_NUMBER}")
_SIDE = 60
"""Characters beside an equals sign that are looked at."""
_ROUNDING = 0.01


def keeps(built_in: str, text: str) -> bool | None:
    """Whether the text has the form of this built-in prompt; None if nobody wrote down what that is."""
    check = _CHECKS.get(built_in)
    return None if check is None else check(text)


def _faq(text: str) -> bool:
    """At least two questions, each with text after it."""
    stripped = (line.strip().rstrip("*_") for line in text.split("\n"))
    asks = [_asks(line) for line in stripped if line]
    following = [*asks[1:], "asks"]  # at the end there is no text either
    answered = sum(
        ask == "both" or (ask == "asks" and after == "")
        for ask, after in zip(asks, following, strict=False)
    )
    return answered >= 2 and answered == sum(ask != "" for ask in asks)


def _asks(line: str) -> str:
    """`asks`, `both` where the answer stands on the same line, or nothing."""
    if line.endswith("?"):
        return "asks"
    if _QUESTION.match(line):
        return "both" if "?" in line else "asks"
    return ""


def _math(text: str) -> bool:
    """A digit, a question, and an operator between numbers or the word answer."""
    return (
        _DIGIT.search(text) is not None
        and "?" in text
        and ("answer" in text.casefold() or _operates(text))
    )


def _table(text: str) -> bool:
    """A header of cells, a line that aligns them, a row, and a question after the table."""
    lines = text.split("\n")
    for number in range(len(lines) - 2):
        if (
            "|" in lines[number]
            and "|" in lines[number + 2]
            and "|" in lines[number + 1]
            and _ALIGNMENT.fullmatch(lines[number + 1])
        ):
            after = number + 2
            while after < len(lines) and "|" in lines[after]:
                after += 1
            return any("?" in line for line in lines[after:])
    return False


def _tutorial(text: str) -> bool:
    """Two steps or bullets, or two headings."""
    lines = [line.lstrip() for line in text.split("\n")]
    steps = sum(
        _STEP.match(line.lstrip("*_") if line[:2] != "* " else line) is not None for line in lines
    )
    return steps >= 2 or sum(_HEADING.match(line) is not None for line in lines) >= 2


_CHECKS: Mapping[str, Callable[[str], bool]] = {
    "faq": _faq,
    "math": _math,
    "table": _table,
    "tutorial": _tutorial,
}


def arithmetic(text: str) -> str:
    """Which of the paper's classes the calculations of a math problem are in.

    `right`: at least one equation of two numbers is; `wrong`: all are not; `open`: operators, and no
    equation that is closed; `numbers`: only these; `none`: no digit.
    """
    if _DIGIT.search(text) is None:
        return "none"
    closed = list(_equations(text))
    if closed:
        return "right" if any(closed) else "wrong"
    return "open" if _operates(text) else "numbers"


def _operates(text: str) -> bool:
    """Whether an operator stands between numbers, blanks and currencies aside."""
    return _OPERATION.search(text.replace(" ", "").replace("$", "")) is not None


def _equations(text: str) -> Iterator[bool]:
    """Of each equation `N operator N = N`, whether it is right."""
    at = text.find("=")
    while at >= 0:
        left = _LEFT.search(text[max(0, at - _SIDE) : at])
        right = _RIGHT.match(text[at + 1 : at + 1 + _SIDE])
        if left is not None and right is not None:
            one, operator, other = left.groups()
            sign, told = right.groups()
            result = _value(told) * (-1 if sign else 1)
            yield _is_right(_value(one), operator, _value(other), result)
        at = text.find("=", at + 1)


def _value(number: str) -> float:
    return float(number.replace(",", ""))


def _is_right(one: float, operator: str, other: float, told: float) -> bool:
    if operator == "+":
        value = one + other
    elif operator in {"-", _MINUS}:
        value = one - other
    elif operator in {"/", "÷"}:
        if not other:
            return False
        value = one / other
    else:
        value = one * other
    return abs(value - told) <= _ROUNDING
