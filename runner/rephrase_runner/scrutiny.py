"""What a rewrite shows beside its document: flags, and notes that are only counted. Pure.

Some hundred microseconds each, so they run beside generation (`checking.py`); nothing here changes or drops a
rewrite. Definitions are those of the analysis in arXiv 2604.13977 where it has one.
"""

import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from rephrase_runner.formats import arithmetic, keeps

COPIED = 0.8
"""Share of the distinct word 8-grams that stand in the document."""
REPEATED = 0.5
"""1 - distinct / all word 4-grams."""
SQUEEZED = 0.2
"""Compressed by raw size, for texts that have no words to speak of."""
FOREIGN = 0.5
"""Share of the letters in the document's main script."""
_COPY_WORDS, _REPEAT_WORDS = 8, 4
_SQUEEZED_BYTES = 400
_LONG_WORD = 24
"""Where words are longer on average, they are no words: scripts without blanks."""
_CONTENT_LETTERS = 4
_WORD = re.compile(r"\w+")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_ASCII = [chr(code) for code in range(128)]
# most text is ASCII, and to cut it by a table takes a tenth of the time that patterns take
_NO_WORD = str.maketrans({one: " " for one in _ASCII if not (one.isalnum() or one == "_")})
_NO_NUMBER = str.maketrans({one: " " for one in _ASCII if not (one.isdigit() or one in ".,")})
_ONE_SCRIPT = {"HIRAGANA": "CJK", "KATAKANA": "CJK", "KATAKANA-HIRAGANA": "CJK", "BOPOMOFO": "CJK"}
"""Languages that are written in several scripts at once."""


class Original:
    """A document, with what its rewrites are compared with: made once for all of them.

    Args:
        text: the document.
    """

    def __init__(self, text: str) -> None:
        self._text = text

    @cached_property
    def words(self) -> Sequence[str]:
        """Case-folded, in order."""
        return words_of(self._text)

    @cached_property
    def known(self) -> frozenset[str]:
        """All different words."""
        return frozenset(self.words)

    @cached_property
    def content(self) -> frozenset[str]:
        """Words of four letters and more."""
        return content_words(self.known)

    @cached_property
    def phrases(self) -> frozenset[tuple[str, ...]]:
        """Word 8-grams."""
        return frozenset(ngrams(self.words, _COPY_WORDS))

    @cached_property
    def numbers(self) -> frozenset[str]:
        """Without thousands commas."""
        return numbers(self._text)

    @cached_property
    def script(self) -> str:
        """What most of its letters are written in; empty if it has none."""
        found = scripts(self._text)
        return max(found, key=lambda name: (found[name], name)) if found else ""


@dataclass(frozen=True, slots=True)
class Seen:
    """What was noticed: flags of the rewrite, and notes, counts that add up over samples."""

    flags: tuple[str, ...]
    notes: dict[str, int]


def scrutinize(text: str, original: Original, built_in: str) -> Seen:
    """Compare a rewrite with its document and the form it was to have.

    Flags: `copy`, `repetition`, `script`. Notes: `compared`, always 1; `grounded`, if a number of it stands
    in the document; `overlap`, thousandths of the content words of both that both have; `form`, if its prompt
    asks for one, and `formed`, if it has it; for math one of `formats.arithmetic` as `math_right` and so on.

    Args:
        text: the rewrite.
        original: its document.
        built_in: name of the built-in prompt; empty for others.
    """
    flags = []
    words = words_of(text)
    distinct = set(words)
    if _is_copy(words, len(distinct), original):
        flags.append("copy")
    if _repeats(text, words, len(distinct)):
        flags.append("repetition")
    if _is_foreign(text, original):
        flags.append("script")
    notes = {"compared": 1}
    mine = content_words(distinct)
    both = len(mine & original.content)
    either = len(mine) + len(original.content) - both
    notes["overlap"] = round(1000 * both / either) if either else 0
    if not original.numbers.isdisjoint(numbers(text)):
        notes["grounded"] = 1
    form = keeps(built_in, text)
    if form is not None:
        notes["form"] = 1
        if form:
            notes["formed"] = 1
    if built_in == "math":
        notes[f"math_{arithmetic(text)}"] = 1
    return Seen(tuple(flags), notes)


def words_of(text: str) -> list[str]:
    """Case-folded words: runs of letters, digits and underscores."""
    folded = text.casefold()
    return folded.translate(_NO_WORD).split() if folded.isascii() else _WORD.findall(folded)


def ngrams(words: Sequence[str], length: int) -> "zip[tuple[str, ...]]":
    """All runs of so many words, in order."""
    return zip(*(words[first:] for first in range(length)), strict=False)


def _is_copy(words: Sequence[str], distinct: int, original: Original) -> bool:
    """Whether most 8-grams are the document's. `distinct`: different words."""
    if len(words) < _COPY_WORDS:
        return False
    # a run of words that the document does not even know cannot stand in it: nearly always that settles it,
    # since each different word but the last ones begins an 8-gram of its own
    runs = bytes(map(original.known.__contains__, words)).split(b"\0")
    most = sum(max(0, len(run) - _COPY_WORDS + 1) for run in runs)
    if most <= COPIED * (distinct - _COPY_WORDS + 1):
        return False
    phrases = set(ngrams(words, _COPY_WORDS))
    return len(phrases & original.phrases) > COPIED * len(phrases)


def _repeats(text: str, words: Sequence[str], distinct: int) -> bool:
    """Whether most 4-grams have been there before. `distinct`: different words."""
    if len(text) > _LONG_WORD * len(words):
        raw = text.encode("utf-8", "surrogatepass")
        if len(raw) >= _SQUEEZED_BYTES:
            return len(zlib.compress(raw, 1)) < SQUEEZED * len(raw)
    total = len(words) - _REPEAT_WORDS + 1
    if (
        total <= 0 or distinct - _REPEAT_WORDS + 1 >= (1 - REPEATED) * total
    ):  # as above: there are so many 4-grams
        return False
    return 1 - len(set(ngrams(words, _REPEAT_WORDS))) / total > REPEATED


def _is_foreign(text: str, original: Original) -> bool:
    script = original.script
    if not script or (script == "LATIN" and text.isascii()):
        return False
    found = scripts(text)
    total = sum(found.values())
    return total > 0 and found.get(script, 0) < FOREIGN * total


def scripts(text: str) -> dict[str, int]:
    """Letters by the script they belong to."""
    if text.isascii():
        return {"LATIN": len(text)} if text.upper() != text.lower() else {}
    found: dict[str, int] = {}
    for character, count in Counter(text).items():
        name = _script(character)
        if name:
            found[name] = found.get(name, 0) + count
    return found


@lru_cache(maxsize=65_536)
def _script(character: str) -> str:
    """The script a letter's name in Unicode begins with; empty for all that is no letter."""
    if not character.isalpha():
        return ""
    first, _, rest = unicodedata.name(character, "").partition(" ")
    if first in {"FULLWIDTH", "HALFWIDTH"}:
        first = rest.partition(" ")[0]
    return _ONE_SCRIPT.get(first, first)


def content_words(words: frozenset[str] | set[str]) -> frozenset[str]:
    """Those of four letters and more."""
    return frozenset(word for word in words if len(word) >= _CONTENT_LETTERS and word.isalpha())


def numbers(text: str) -> frozenset[str]:
    """Numbers as they are written, without commas."""
    if text.isascii():
        text = " ".join(text.translate(_NO_NUMBER).split())
    return frozenset(found.replace(",", "") for found in _NUMBER.findall(text))
