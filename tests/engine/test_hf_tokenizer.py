from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rephrase_api.errors import InvalidModel
from rephrase_runner.engines.hf_tokenizer import HFTokenizer
from rephrase_runner.truncate import encode_head
from support.engine_suite import TokenizerSuite
from support.texts import long_texts, texts

pytestmark = pytest.mark.filterwarnings("default")  # of transformers, at import


@pytest.fixture(scope="module")
def transformers_tokenizer(model: Path) -> Any:  # noqa: ANN401
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model)


@pytest.fixture(scope="module")
def tokenizer(transformers_tokenizer: Any) -> HFTokenizer:  # noqa: ANN401
    return HFTokenizer(transformers_tokenizer)


class TestSmolLM2(TokenizerSuite):
    pass


@given(text=texts)
def test_a_text_has_the_tokens_that_transformers_gives_it(
    tokenizer: HFTokenizer,
    transformers_tokenizer: Any,  # noqa: ANN401
    text: str,
) -> None:
    assert tokenizer.encode(text) == transformers_tokenizer.encode(
        text, add_special_tokens=False, split_special_tokens=True
    )


@given(text=st.one_of(texts, long_texts), max_tokens=st.integers(1, 40))
def test_the_head_of_a_text_has_the_tokens_that_the_whole_text_begins_with(
    tokenizer: HFTokenizer, text: str, max_tokens: int
) -> None:
    assert encode_head(tokenizer, text, max_tokens) == tokenizer.encode(text)[:max_tokens]


def test_no_special_token_can_be_written_in_a_document(
    tokenizer: HFTokenizer,
    transformers_tokenizer: Any,  # noqa: ANN401
) -> None:
    added = transformers_tokenizer.backend_tokenizer.get_added_tokens_decoder()
    special = {number for number, token in added.items() if token.special}
    everything = "".join(f"{token.content} {token.content}" for token in added.values())

    assert len(special) == 17
    assert special.isdisjoint(tokenizer.encode(everything))
    assert tokenizer.decode(tokenizer.encode(everything)) == everything
    assert special == set(tokenizer.encode_template(everything)) & special


def test_the_chat_template_is_the_models_own_up_to_the_answer(tokenizer: HFTokenizer) -> None:
    assert tokenizer.chat("Be brief.", "What is a glacier?") == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nWhat is a glacier?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_a_chat_template_that_asks_for_the_date_always_gets_the_same(
    transformers_tokenizer: Any,  # noqa: ANN401
) -> None:
    template = "Today is {{ strftime_now('%d %b %Y') }}.\n{{ messages[0]['content'] }}"

    rendered = HFTokenizer(transformers_tokenizer, template).chat(None, "Hello.")

    assert rendered == "Today is 26 Jul 2024.\nHello."


@pytest.mark.parametrize(
    "template", ["{{ raise_exception('System role not supported') }}", "{% for %}"]
)
def test_a_chat_template_that_fails_is_an_invalid_model(
    transformers_tokenizer: Any,  # noqa: ANN401
    template: str,
) -> None:
    with pytest.raises(InvalidModel, match=r"spec\.model\.chatTemplate: the chat template fails: "):
        HFTokenizer(transformers_tokenizer, template).chat("Be brief.", "Hello.")


def test_a_tokenizer_without_a_chat_template_is_refused(model: Path) -> None:
    from transformers import AutoTokenizer

    bare = AutoTokenizer.from_pretrained(model)
    bare.chat_template = None

    with pytest.raises(InvalidModel, match="no chat template"):
        HFTokenizer(bare)


def test_a_slow_tokenizer_is_refused() -> None:
    with pytest.raises(InvalidModel, match=r"\(object\) is not a fast one"):
        HFTokenizer(object())
