"""How alike rewrites begin: the share of the most common opening, of the last ones only."""

from rephrase_runner.recent_openings import RecentOpenings


def seen(*texts: str) -> float | None:
    openings = RecentOpenings()
    for text in texts:
        openings.add(text)
    return openings.commonest_share


def test_the_share_is_of_the_first_ten_characters_after_white_space() -> None:
    alike = ["\n Problem: A train leaves"] * 60 + ["Problem: A bag holds"] * 15
    others = [f"{number} apples" for number in range(25)]

    assert seen(*alike, *others) == 0.75


def test_nothing_is_said_of_a_few() -> None:
    assert seen(*["the same text"] * 99) is None


def test_what_was_long_ago_counts_no_more() -> None:
    assert seen(*["the same text"] * 500, *(f"{number} others" for number in range(1000))) == 0.001
