from collections.abc import Sequence
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rephrase_api.errors import InvalidSpec
from rephrase_runner.engines.echo import EchoTokenizer
from rephrase_runner.truncate import MARGIN_TOKENS, cut, document_budget, encode_head
from support.texts import long_texts, texts

ECHO = EchoTokenizer()


class CountingTokenizer(EchoTokenizer):
    """Remembers how long the texts were that it was given."""

    def __init__(self) -> None:
        self.lengths: list[int] = []

    def encode(self, text: str) -> Sequence[int]:
        self.lengths.append(len(text))
        return super().encode(text)


def test_a_document_gets_what_answer_and_template_leave_of_the_context() -> None:
    assert document_budget(context_tokens=8192, max_tokens=2048, overhead_tokens=144) == 6000


def test_a_limit_of_the_spec_counts_if_it_is_lower() -> None:
    budget = partial(document_budget, context_tokens=8192, max_tokens=2048, overhead_tokens=144)

    assert budget(max_document_tokens=500) == 500
    assert budget(max_document_tokens=7000) == 6000


def test_one_token_for_the_document_is_enough() -> None:
    assert document_budget(context_tokens=100, max_tokens=80, overhead_tokens=19) == 1


def test_no_token_for_the_document_is_refused_with_the_numbers_and_the_remedy() -> None:
    with pytest.raises(InvalidSpec) as refused:
        document_budget(context_tokens=100, max_tokens=80, overhead_tokens=20, prompt="faq")

    assert str(refused.value) == (
        "spec.prompts[faq]: no room for a document: of a context of 100 tokens the answer may take 80 "
        "(sampling.maxTokens), and instruction and chat template take 20. Lower sampling.maxTokens to "
        "79 or less, or raise spec.model.maxModelLength if the model allows it."
    )


def test_an_instruction_that_fills_the_context_is_to_be_shortened() -> None:
    with pytest.raises(InvalidSpec, match=r"Shorten the prompt, or raise spec\.model"):
        document_budget(context_tokens=100, max_tokens=8, overhead_tokens=100)


@given(
    st.integers(1, 10_000), st.integers(1, 10_000), st.integers(0, 10_000), st.integers(1, 9_999)
)
def test_a_prompt_with_its_answer_always_fits_the_context(
    context: int, answer: int, overhead: int, limit: int
) -> None:
    try:
        budget = document_budget(
            context_tokens=context,
            max_tokens=answer,
            overhead_tokens=overhead,
            max_document_tokens=limit,
        )
    except InvalidSpec:
        assert answer + overhead >= context
    else:
        assert 1 <= budget <= limit
        assert budget + answer + overhead <= context


@given(st.lists(st.integers(0, 9)), st.integers(1, 20))
def test_a_cut_takes_from_the_end_only_and_says_so(tokens: list[int], budget: int) -> None:
    kept, truncated = cut(tokens, budget)

    assert kept == tokens[:budget]
    assert truncated == (len(tokens) > budget)


@given(st.one_of(texts, long_texts), st.integers(1, 40))
def test_the_head_of_a_text_has_the_tokens_that_the_whole_text_begins_with(
    text: str, max_tokens: int
) -> None:
    assert encode_head(ECHO, text, max_tokens) == ECHO.encode(text)[:max_tokens]


def test_only_the_head_of_a_long_text_is_encoded() -> None:
    tokenizer = CountingTokenizer()

    tokens = encode_head(tokenizer, "river " * 1_000_000, 6000)

    assert len(tokens) == 6000
    assert sum(tokenizer.lengths) < 12 * (6000 + MARGIN_TOKENS)


def test_the_strangest_text_costs_less_than_encoding_it_three_times() -> None:
    class Blanks(CountingTokenizer):
        """A tokenizer that makes one token of a thousand blanks."""

        def encode(self, text: str) -> Sequence[int]:
            super().encode(text)
            return [0] * (len(text) // 1000)

    tokenizer, text = Blanks(), " " * 3_000_000

    assert len(encode_head(tokenizer, text, 6000)) == 3000
    assert sum(tokenizer.lengths) < len(text) * 7 / 3


def test_a_cut_is_laid_between_two_words() -> None:
    seen: list[str] = []

    class Seeing(EchoTokenizer):
        def encode(self, text: str) -> Sequence[int]:
            seen.append(text)
            return super().encode(text)

    encode_head(Seeing(), "the quick brown fox jumps  over\n\nthe lazy dog " * 100, 20)

    assert seen[0][-1] != " "
    assert seen[0].split()[-1] in {"the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog"}


def test_an_empty_text_has_no_tokens() -> None:
    assert not encode_head(ECHO, "", 10)
