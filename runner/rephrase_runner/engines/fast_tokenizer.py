"""Tokenizes Western text many times faster than the model's own tokenizer, where it gives the same tokens.

DOOR: the only module that imports tokie, an optional package. It is asked only about texts of a kind in which
no difference was found, is compared with the model's own tokenizer on hard texts at the start and on one
document in a thousand later, and is left for good at the first difference, which the log tells. What is known
of its differences is in docs/performance.md. Checked against tokie 0.1.4.
"""

import itertools
import json
import logging
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from rephrase_runner.engines.hard_texts import hard_texts, texts_with

logger = logging.getLogger(__name__)

Encode = Callable[[str], list[int]]
"""Text to tokens; thread-safe."""

_EACH = 1000
"""One document in so many is tokenized by both."""
_CHARACTERS = "cp1252"
"""English and its neighbors. Of others tokie takes some for letters that are none, and the reverse."""
_CONTROLS = bytes({*range(0x20), 0x7F} - set(b"\n\r"))
"""The tab and the form feed, too, are blanks that it misjudges."""
_WORD_BYTES = 10_000
"""A word of this size it cuts in as many pieces as there are cores, so that its tokens are others."""
_TEXT_BYTES = 64 * 1024
"""So it does with a text of this size, if need be in the middle of blanks or of a character."""
_SHORT_WORDS = re.compile(r"\s{0,1599}+(?:\S{1,1599}+\s{1,1599}+)*+\S{0,1599}+")
"""A text without words of `_WORD_BYTES`: one is at most a run of each kind, of three bytes a character."""
_VOCABULARY_STEP = 256


def fastest(backend: Any, own: Encode) -> Encode:  # noqa: ANN401
    """`own`, or what gives the same tokens in a fraction of the time.

    Args:
        backend: a tokenizer of the package tokenizers that takes special tokens for plain text.
        own: tokenizes by it, nothing added.
    """
    try:
        return checked(load(backend), own, backend)
    except ImportError:
        return own
    except Exception as error:  # noqa: BLE001 - a matter of speed must not end a run
        _warn(f"tokie cannot load it: {error}")
        return own


def load(backend: Any) -> Encode:  # noqa: ANN401
    """The same tokenizer in tokie.

    Other threads run while it works, but for the making of the list (20 of 35 us for 370 tokens). Its
    `encode_bytes` knows no words, and lets nobody run.

    Raises:
        ImportError: tokie is not installed.
        Exception: tokie cannot read it.
    """
    import tokie

    described = json.loads(backend.to_str())
    for token in described["added_tokens"]:
        if token["special"]:  # tokie has no switch that makes them plain text
            token["content"] = f"\ue000{token['id']}"
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".json") as file:
        json.dump(described, file)
        file.flush()
        tokenizer = _called(tokie.Tokenizer.from_json, file.name)

    def encode(text: str) -> list[int]:
        ids: list[int] = _called(tokenizer.encode, text, False).ids  # noqa: FBT003 - nothing added
        return ids

    return encode


def checked(fast: Encode, own: Encode, backend: Any) -> Encode:  # noqa: ANN401
    """What is as fast as `fast` and has the tokens of `own`, if they agree on hard texts; else `own`."""
    started = time.perf_counter()
    if kind := _difference(fast, own, _texts(backend)):
        _warn(f"other tokens for {kind}")
        return own
    seconds = round(time.perf_counter() - started, 2)
    logger.info("tokie tokenizes Western text", extra={"seconds": seconds})
    return _Compared(fast, own)


def suits(text: str) -> bool:
    """Whether tokie may be asked about a text."""
    is_ascii = text.isascii()
    try:
        data = text.encode("ascii" if is_ascii else _CHARACTERS)
    except UnicodeEncodeError:
        return False
    if len(data.translate(None, _CONTROLS)) < len(data):
        return False
    size = len(data) if is_ascii else len(text.encode())
    return size < _WORD_BYTES or (size < _TEXT_BYTES and bool(_SHORT_WORDS.fullmatch(text)))


class _Compared:
    """An `Encode` that is `fast` until it is seen to differ from `own`."""

    def __init__(self, fast: Encode, own: Encode) -> None:
        self._fast, self._own = fast, own
        self._turn = itertools.cycle(range(_EACH))

    def __call__(self, text: str) -> list[int]:
        fast = self._fast
        if fast is self._own or not suits(text):
            return self._own(text)
        compare = next(self._turn) == 0
        try:
            ids = fast(text)
        except Exception:  # noqa: BLE001 - the model's own has no trouble with it
            ids, compare = [], True
        if not compare:
            return ids
        right = self._own(text)
        if ids != right and self._fast is fast:
            self._fast = self._own
            _warn("other tokens for a document")
        return right


def _difference(fast: Encode, own: Encode, texts: Iterable[tuple[str, str]]) -> str:
    """The kind of the first text that the two tokenize differently; empty if there is none."""
    for kind, text in texts:
        if not suits(text):
            continue
        right = own(text)
        try:
            # twice, since tokie keeps the tokens of words that it has seen
            if not fast(text) == right == fast(text):
                return kind
        except Exception:  # noqa: BLE001 - whatever it is, it is a difference
            return kind
    return ""


def _texts(backend: Any) -> Iterator[tuple[str, str]]:  # noqa: ANN401
    """(kind, text): those of this tokenizer, then those that are hard for any."""
    added = backend.get_added_tokens_decoder().values()
    for text in texts_with([token.content for token in added]):
        yield "special tokens", text
    numbers = range(backend.get_vocab_size())
    written = [backend.decode([number], skip_special_tokens=False) for number in numbers]
    vocabulary = list(filter(suits, written))
    for first in range(0, len(vocabulary), _VOCABULARY_STEP):
        yield "its vocabulary", "".join(vocabulary[first : first + _VOCABULARY_STEP])
    yield from hard_texts()


def _called(call: Callable[..., Any], *arguments: object) -> Any:  # noqa: ANN401
    """The result. A panic of Rust, which is no Exception, becomes one, without its text: it may quote.

    Rust itself has written it to standard error by then; of the texts that are known to make it panic `suits`
    lets none come here.
    """
    try:
        return call(*arguments)
    except BaseException as error:
        if type(error).__name__ == "PanicException":
            raise RuntimeError("it panicked") from None
        raise


def _warn(reason: str) -> None:
    logger.warning("going on with the model's own, slower tokenizer", extra={"reason": reason})
