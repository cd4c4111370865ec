"""`spec.model.engine.args` of the engines that are ours: ``--flag=value``, known by name and type. Pure."""

import argparse
from typing import NoReturn

from typing_extensions import override

from rephrase_api.errors import InvalidSpec


class ArgumentParser(argparse.ArgumentParser):
    """Takes what it knows, leaves out what is not given, and refuses the rest with a list of what there is.

    Args:
        engine: as the spec names it.
    """

    def __init__(self, engine: str) -> None:
        super().__init__(
            add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS, prog=engine
        )

    @override
    def error(self, message: str) -> NoReturn:
        allowed = ", ".join(name for action in self._actions for name in action.option_strings)
        raise InvalidSpec(
            message,
            where="spec.model.engine.args",
            remedy=f"The engine {self.prog} knows {allowed}.",
        )


def not_negative(value: str) -> float:
    """A number from 0 on."""
    try:
        number = float(value)
    except ValueError:
        number = -1
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number from 0 on, got {value}")
    return number


def positive(value: str) -> int:
    """A whole number from 1 on."""
    if not value.isdecimal() or int(value) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 on, got {value}")
    return int(value)


def text(value: str) -> str:
    """A text that is not empty."""
    if not value:
        raise argparse.ArgumentTypeError("must not be empty: every prompt holds the empty text")
    return value
