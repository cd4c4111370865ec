"""Rewrites beside their documents: copies, repetition, other scripts, numbers, forms of prompts."""

# ruff: noqa: RUF001 - letters of other scripts are the matter here

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rephrase_runner.formats import arithmetic, keeps
from rephrase_runner.scrutiny import Original, Seen, numbers, scripts, scrutinize, words_of
from support.corpora import a_text
from support.texts import texts

DOCUMENT = " ".join(a_text(number) for number in range(8))
OWN_WORDS = (
    "Ships are repaired by the people of the harbor; the market trades copper. Both began their work "
    "long ago, about 1701, and went on with it in the years that followed."
)


def seen(text: str, document: str = DOCUMENT, built_in: str = "") -> Seen:
    return scrutinize(text, Original(document), built_in)


def test_a_rewrite_in_its_own_words_has_no_flag() -> None:
    found = seen(OWN_WORDS)

    assert found.flags == ()
    assert found.notes["grounded"] == 1  # 1701
    assert 0 < found.notes["overlap"] < 500


@pytest.mark.parametrize(
    "text",
    [
        DOCUMENT,
        DOCUMENT[200:900],
        DOCUMENT[:700].upper(),
        DOCUMENT[:700].replace(" ", "  \n"),
        f"{DOCUMENT[:800]} That is all.",
    ],
)
def test_a_copy_is_flagged_whatever_its_case_and_blanks(text: str) -> None:
    assert "copy" in seen(text).flags


@pytest.mark.parametrize("share", [0.7, 0.9])
def test_a_copy_is_more_than_four_fifths_of_the_phrases(share: float) -> None:
    words = words_of(DOCUMENT)[:100]
    cut = int(share * 93) + 7  # so many of the 93 phrases are the document's
    text = " ".join([*words[:cut], *(f"new{number}" for number in range(100 - cut))])

    assert ("copy" in seen(text).flags) is (share > 0.8)


@given(texts, st.integers(0, 400), st.integers(0, 400))
def test_the_quick_way_to_see_no_copy_is_never_wrong(text: str, first: int, length: int) -> None:
    """The share of distinct word 8-grams that are the document's, counted plainly."""
    words = words_of(text)
    piece = words[first % (len(words) + 1) :][: length + 8]
    rewrite = " ".join([*piece, "a", *piece[: length // 3], "of", "the"])
    mine = words_of(rewrite)
    phrases = {tuple(mine[at : at + 8]) for at in range(len(mine) - 7)}
    theirs = {tuple(words[at : at + 8]) for at in range(len(words) - 7)}

    expected = bool(phrases) and len(phrases & theirs) / len(phrases) > 0.8
    assert ("copy" in seen(rewrite, text).flags) is expected


@given(texts, st.integers(1, 30), st.integers(0, 60))
def test_the_quick_way_to_see_no_repetition_is_never_wrong(
    text: str, length: int, times: int
) -> None:
    """1 - distinct / all word 4-grams, counted plainly."""
    words = words_of(text)
    rewrite = " ".join([*words, *(words[:length] * times)])
    mine = words_of(rewrite)
    if len(rewrite) > 24 * len(mine):
        return  # no words to speak of: it is compressed instead
    phrases = [tuple(mine[at : at + 4]) for at in range(len(mine) - 3)]

    expected = bool(phrases) and 1 - len(set(phrases)) / len(phrases) > 0.5
    assert ("repetition" in seen(rewrite, text).flags) is expected


@pytest.mark.parametrize(
    ("text", "flagged"),
    [
        ("step by step we go and " * 20, True),
        ("港口修理船只。" * 60, True),
        (OWN_WORDS, False),
        ("no no no", False),
        ("港口修理船只，市场出售铜和粮食，图书馆收藏地图与信件。", False),
    ],
)
def test_repetition_is_flagged_with_and_without_blanks_between_words(
    text: str, *, flagged: bool
) -> None:
    assert ("repetition" in seen(text).flags) is flagged


CHINESE = "港口修理船只，市场出售铜和粮食。" * 3
JAPANESE = "港では船を修理し、市場では銅と穀物を売っています。"
RUSSIAN = "В гавани чинят корабли, а на рынке продают медь и зерно."


@pytest.mark.parametrize(
    ("document", "text", "flagged"),
    [
        (DOCUMENT, RUSSIAN, True),
        (DOCUMENT, "The harbor repairs ships – naïvely, as «always».", False),
        (RUSSIAN, "The harbor repairs ships.", True),
        (RUSSIAN, f"{RUSSIAN} (harbor)", False),
        (CHINESE, CHINESE[3:20], False),
        (JAPANESE, CHINESE, False),  # the same letters are written in both
        (CHINESE, "The harbor repairs ships.", True),
        ("1701, 1702", "The harbor repairs ships.", False),
        (DOCUMENT, "1701 + 1 = 1702", False),
    ],
)
def test_another_script_than_the_documents_is_flagged(
    document: str,
    text: str,
    *,
    flagged: bool,
) -> None:
    assert ("script" in seen(text, document).flags) is flagged


def test_full_width_letters_are_latin() -> None:
    assert scripts("ＡＢＣ é") == {"LATIN": 4}


@pytest.mark.parametrize(
    ("text", "grounded"),
    [("12,345 ships", True), ("It has 12345.", True), ("123 45", False), ("none", False)],
)
def test_a_number_is_the_documents_with_or_without_its_commas(text: str, *, grounded: bool) -> None:
    assert seen(text, "There were 12,345 ships in 1701.").notes.get("grounded", 0) == grounded


def test_numbers_are_found_alike_in_ascii_and_in_other_text() -> None:
    text = "In 1701, 12,345.50 ships; 3.14 (7). v2 1..2 a3.b5"

    assert numbers(text) == numbers(f"{text} é") == {
        "1701", "12345.50", "3.14", "7", "2", "1", "3", "5",
    }  # fmt: skip


@given(texts)
def test_words_are_found_alike_in_ascii_and_in_other_text(text: str) -> None:
    plain = text.encode("ascii", "ignore").decode()

    assert words_of(plain) == words_of(f"{plain} é")[:-1]


def test_overlap_is_the_share_of_the_content_words_of_both() -> None:
    assert seen("Harbor ships the old", "The harbor repairs ships").notes["overlap"] == 667


# -- forms --

FAQ = "**Q: What is repaired?**\n\nShips.\n\n**Q: Where?**\n\nIn the harbor.\n"
PLAIN_FAQ = "What is repaired?\nShips.\nWhere?\nIn the harbor."
MATH = "Problem: 12 ships a month. How many in a year?\n\nSolution: 12 * 12 = 144 ships."
TABLE = "| Place | Since |\n| --- | ---: |\n| harbor | 1700 |\n\nWhich is the oldest?\nThe harbor."
TUTORIAL = "1. Go to the harbor.\n2. Ask for the book.\n"
HEADINGS = "## Before you go\nLook at the map.\n## At the harbor\nAsk for the book.\n"


@pytest.mark.parametrize(
    ("built_in", "text", "form"),
    [
        ("faq", FAQ, True),
        ("faq", PLAIN_FAQ, True),
        ("faq", "Question 1: What? Ships.\nQuestion 2: Where? There.", True),
        ("faq", "What is repaired?\nWhere?\nShips, in the harbor.", False),
        ("faq", f"{FAQ}**Q: When?**", False),
        ("faq", DOCUMENT, False),
        ("math", MATH, True),
        ("math", "How many ships?\n12, the answer is 12.", True),
        ("math", "How many ships? Twelve.", False),
        ("math", "12 + 12 = 24", False),
        ("table", TABLE, True),
        ("table", TABLE.replace("?", "."), False),
        ("table", TABLE.replace("| --- | ---: |\n", ""), False),
        ("table", "Which?\n| a | b |\n|---|---|\n| c | d |", False),
        ("tutorial", TUTORIAL, True),
        ("tutorial", HEADINGS, True),
        ("tutorial", "- Go.\n* Ask.", True),
        ("tutorial", "**Step 1:** Go.\n**Step 2:** Ask.", True),
        ("tutorial", OWN_WORDS, False),
    ],
)
def test_the_form_of_a_built_in_prompt(built_in: str, text: str, *, form: bool) -> None:
    assert keeps(built_in, text) is form
    assert seen(text, built_in=built_in).notes.get("formed", 0) == form
    assert seen(text, built_in=built_in).notes["form"] == 1


def test_another_prompt_has_no_form() -> None:
    assert keeps("", TABLE) is None
    assert "form" not in seen(TABLE).notes


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("12 * 12 = 144", "right"),
        ("12 x 12 = 100, then $1,200.50 + $0.50 = $1,201", "right"),
        ("7 / 3 = 2.33", "right"),
        ("3 - 5 = -2", "right"),
        ("12 × 12 = 144", "right"),
        ("12 * 12 = 100", "wrong"),
        ("5 / 0 = 0", "wrong"),
        ("12 * x, and 5 + 5 makes ten", "open"),
        ("ships = 12 + 12", "open"),
        ("12 ships in 1701", "numbers"),
        ("twelve ships", "none"),
    ],
)
def test_the_classes_of_the_paper_for_the_arithmetic_of_math(text: str, kind: str) -> None:
    assert arithmetic(text) == kind
    assert seen(text, built_in="math").notes[f"math_{kind}"] == 1


# -- any text --


@given(texts, texts, st.sampled_from(["", "faq", "math", "table", "tutorial"]))
def test_any_text_can_be_looked_at(text: str, document: str, built_in: str) -> None:
    found = seen(text, document, built_in)

    assert set(found.flags) <= {"copy", "repetition", "script"}
    assert 0 <= found.notes["overlap"] <= 1000


@pytest.mark.parametrize(
    "piece",
    [
        "=",
        "1",
        "1,",
        "|",
        "|-",
        "-",
        "* ",
        "?\n",
        "#",
        "1=",
        "1+1=",
        "  1",
        "Q: ",
        " \n",
        "é",
        "港",
    ],
)
@pytest.mark.parametrize("built_in", ["faq", "math", "table", "tutorial"])
def test_no_text_makes_the_checks_slow(piece: str, built_in: str) -> None:
    text = (piece * 40_000)[:40_000]
    begun = time.process_time()

    seen(text, text, built_in)

    assert time.process_time() - begun < 2  # what grows with the square takes ten


def test_every_letter_has_a_script() -> None:
    letters = [chr(code) for code in range(0x250) if chr(code).isalpha()]
    unnamed = [letter for letter in letters if not scripts(f"{letter}é")]

    assert unnamed == []
