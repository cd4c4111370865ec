"""What a rule is, and how the rules are applied to a parsed object.

A rule is one sentence with two checks: a CEL expression for the API server and a Python function
for files and for the operator. The list of them is `rephrase_api.v1alpha1.rules`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from rephrase_api.v1alpha1.base import Model, camel

M = TypeVar("M", bound=Model)


@dataclass(frozen=True, slots=True)
class Finding:
    """One place where a rule is broken.

    Attributes:
        field: path below the rule's object, as in ``.args[2]``; empty for the object itself.
        sentence: what is wrong, what was found, and what to do.
    """

    field: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Rule(Generic[M]):
    """What must hold for every object of a class.

    Attributes: on: the class; `self` of the expression is an object of it (or of a subclass). The
        API server shows
            the metadata to rules of the whole run only, so for `Metadata` it is the run.
        cel: true if the rule holds; None where the API server cannot see the fields.
        holds: the same in Python.
        message: what must be, in words.
        field: path of the field to blame, below the object, as in ``.min``; empty for the object.
        got: what was found, for people; the API server cannot say it.
        remedy: what to do.
        findings: the places where the rule is broken, for a rule that can be broken in several.
    """

    on: type[M]
    cel: str | None
    holds: Callable[[M], bool]
    message: str
    field: str = ""
    got: Callable[[M], str] | None = None
    remedy: str = ""
    findings: Callable[[M], Iterator[Finding]] | None = None

    @property
    def sentence(self) -> str:
        """What the API server says when the rule is broken."""
        return f"{self.message}; {self.remedy}" if self.remedy else self.message

    def broken(self, model: M) -> Iterator[Finding]:
        """Where `model` breaks the rule; nothing if it holds."""
        if self.holds(model):
            return
        if self.findings is not None:
            yield from self.findings(model)
            return
        got = f", got {self.got(model)}" if self.got is not None else ""
        remedy = f"; {self.remedy}" if self.remedy else ""
        yield Finding(self.field, f"{self.message}{got}{remedy}")


def broken(rules: Sequence[Rule[Any]], model: Model, path: str = "") -> Iterator[str]:
    """Where `model`, and what it holds, breaks `rules`: one line each, ``<path>: <sentence>``.

    Args:
        rules: what must hold.
        model: a parsed object.
        path: where it stands in its file, as in ``spec.workers``; empty for the whole run.
    """
    for rule in rules:
        if isinstance(model, rule.on):
            for finding in rule.broken(model):
                yield f"{(path + finding.field).removeprefix('.')}: {finding.sentence}"
    for name in type(model).model_fields:
        below = f"{path}.{camel(name)}".removeprefix(".")
        value = getattr(model, name)
        if isinstance(value, Model):
            yield from broken(rules, value, below)
        elif isinstance(value, tuple):
            for index, item in enumerate(value):
                if isinstance(item, Model):
                    yield from broken(rules, item, f"{below}[{index}]")
