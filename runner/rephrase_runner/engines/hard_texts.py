"""Texts in which tokenizers differ, if they differ anywhere in Western text. Pure.

Where a tokenizer divides words depends on a few neighbors, so all of these are tried; what it makes of a word
depends on its letters, so there are many words. Nothing here comes from a document.
"""

import hashlib
from collections.abc import Iterator, Sequence
from itertools import product

_CHARACTERS = bytes([0x0A, 0x0D, *range(0x20, 0x7F), *range(0x80, 0x100)]).decode(
    "cp1252", "ignore"
)
_KINDS = "asT1'.-(_ \n\ré\u2019\u2014\u00a0²ª½™\u201c"
"""Of each kind of character those that the rules of dividing words tell apart."""
_FEW_KINDS = "asL1'. \né"
_CHUNK = 4000

_REPEATED = (
    *("a", "A", "7", "=", "-", ".", "*", "#", "~", "_", " ", "\n", "\r\n", "ab", "é", "\u2019", "{[", " -"),
)  # fmt: skip
_RUNS = (*range(2, 20), 31, 32, 33, 63, 64, 65, 127, 128, 129, 250, 1500)
_SAMPLES = (
    *("", " ", "\n", "a", " a", "a ", "\n\na\n", "The end. \n\n  A 2nd edition\r\n\r\nwith\r\n lines"),
    "don't can't I'll we've you're he'd I'm it's DON'T I'LL WE'VE 'tis rock 'n' roll o'clock l'été",
    "don\u2019t \u2019s \u2019t \u2019re \u201cso\u201d \u2018and\u2019 «quoted» a\u2014b a\u2013b a…b",
    "0 12 123 1234 12345 1234567890123 1,234,567.89 -0.5e-10 +3% $4.50 €5 ½ x² 10³ 0x1F 1_000 12:00:00Z",
    "!?.,;:'\"()[]{}<>/\\|@#$%^&*-_=+`~ ...!!!???---===*** (a) [b] {c} <d> a.b,c;d:e!f?g ^_^ :-)",
    "def f(x, *, y=1):\n    return {k: v**2 for k, v in x.items() if k != '_'}\n\n\nclass A(B): pass\n",
    '<p class="a">A &amp; B<br/></p><!-- c -->\n| a | b |\n| --- | --- |\n# A\n\n- a\n  - b\n```py\nx\n```\n',
    '{"a": [1, 2.5, null]} \\frac{a}{b} $x_i^2 \\leq \\sum_{j=1}^n y_j$ if(a&&b||!c){a->b::c();}',
    "https://example.org/a/b.html?q=1&r=a%20b#c user.name+tag@example.co.uk C:\\Users\\a ../../a 192.168.0.1",
    "QWxhZGRpbjpvcGVuIHNlc2FtZQ== e3b0c44298fc1c149afbf4c8996fb924 camelCaseWord snake_case_word SCREAMING",
    "Größe, cœur, señor, Ångström, façade, naïve, Straße Œuvre ÀÉÎÕÜ ÿ ß µ º ª © ® ™ § ¶ · \u00d7 ÷",
)  # fmt: skip
_ORDINARY = (
    *("The", "of", "don't", "I'LL", "é", "12", "3456", "(", ")", ",", ".", "--", "=", "'", '"', "/", "_"),
    *("s", "\u2014", "\u2019s", " ", " ", " ", "  ", "\n", "\r\n"),
)  # fmt: skip
_LONG_CHARACTERS = 30_000


def hard_texts() -> Iterator[tuple[str, str]]:
    """(kind, text), some hundred of them."""
    for alphabet, length in ((_CHARACTERS, 2), (_KINDS, 3), (_FEW_KINDS, 4)):
        everything = "".join(map("".join, product(alphabet, repeat=length)))
        for start in range(0, len(everything), _CHUNK):
            yield "neighbors", everything[start : start + _CHUNK]
    for text in _SAMPLES:
        yield "ordinary text", text
    for piece in _REPEATED:
        yield "long runs", " x".join(piece * times for times in _RUNS)
    for number in range(100):
        yield "words, blanks and marks", _jumble(number, 150)
    for blank in (" ", "   ", "\n  ", " \n", ", "):
        yield "long texts", blank.join(_words(_LONG_CHARACTERS // (5 + len(blank))))


def texts_with(tokens: Sequence[str]) -> Iterator[str]:
    """Texts in which these tokens (a tokenizer's special ones) are written, whole and nearly so."""
    for token in tokens:
        yield f"{token}a{token}{token} {token}\n{token[:-1]} {token[1:]} {token.upper()}.{token}1"
    yield "".join(tokens)


def _words(count: int) -> list[str]:
    """Of one to eight letters."""
    drawn = hashlib.shake_256(b"words").digest(8 * count)
    places = range(0, len(drawn), 8)
    return ["".join(chr(97 + n % 26) for n in drawn[at : at + 1 + drawn[at] % 8]) for at in places]


def _jumble(number: int, count: int) -> str:
    """Pieces of ordinary text in an order that nobody would write; another for each number."""
    pieces = (*_words(60), *_ORDINARY)
    drawn = hashlib.shake_256(b"jumble %d" % number).digest(count)
    return "".join(pieces[byte % len(pieces)] for byte in drawn)
