"""Texts as they come from the web, for property tests."""

from hypothesis import strategies as st

words = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12
)
"""Anything that UTF-8 can spell, blanks included; no zero byte, which no text file has."""

pieces = st.one_of(
    words,
    st.sampled_from(
        ["the", "and", " river", "ü", "你好", "👩‍🚀", "e\u0301", "\r\n", "  ", "\t", "don't"]
    ),
    st.sampled_from(["a", "=", "-", " ", "ab", "12", "\n", "的"]).flatmap(
        lambda piece: st.integers(1, 60).map(lambda times: piece * times)
    ),
    st.integers(0, 10**12).map(str),
)
texts = st.lists(pieces, max_size=200).map(" ".join)
"""Short and long ones, with giant words, runs of one character, and all scripts."""

long_texts = st.tuples(
    st.lists(st.one_of(pieces, st.just(" ")), min_size=20, max_size=60).map("".join),
    st.integers(5, 25),
).map(lambda drawn: drawn[0] * drawn[1])
"""Long enough that only their head is encoded; pieces run into each other."""

_western = st.one_of(
    st.text(st.characters(codec="cp1252", exclude_categories=["Cc"]), min_size=1, max_size=12),
    st.sampled_from(
        ["the", " river", "don't", "I'LL", "\u2019s", "  ", "\n\n", "\r\n", " \n", "12"]
    ),
    st.sampled_from(["a", "=", "-", " ", "ab", "12", "\n", "é"]).flatmap(
        lambda piece: st.integers(1, 60).map(lambda times: piece * times)
    ),
)
western_texts = st.lists(_western, max_size=60).map("".join)
"""Of the characters of English and its neighbors; pieces run into each other."""
