import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from rephrase_runner.engines.fast_tokenizer import Encode, fastest, suits
from rephrase_runner.engines.hf_tokenizer import copied, encoded
from support.texts import long_texts, texts, western_texts


@pytest.fixture(scope="module")
def backend(model: Path) -> Any:  # noqa: ANN401
    plain = copied(Tokenizer.from_file(str(model / "tokenizer.json")))
    plain.encode_special_tokens = True
    return plain


@pytest.fixture(scope="module")
def own(backend: Any) -> Encode:  # noqa: ANN401
    return partial(encoded, backend)


@pytest.fixture(scope="module")
def fast(backend: Any, own: Encode) -> Encode:  # noqa: ANN401
    return fastest(backend, own)


@given(text=st.one_of(western_texts, long_texts, texts))
def test_any_text_has_the_tokens_of_the_models_own(fast: Encode, own: Encode, text: str) -> None:
    assert fast is not own
    assert fast(text) == own(text)


def test_each_token_of_the_vocabulary_comes_back_as_the_models_own_has_it(
    backend: Any,  # noqa: ANN401
    fast: Encode,
    own: Encode,
) -> None:
    written = [backend.decode([number]) for number in range(backend.get_vocab_size())]
    western = [text for text in written if suits(text)]

    assert len(western) > 45_000
    assert [text for text in western if fast(text) != own(text)] == []


def test_memory_does_not_grow_with_what_was_tokenized(fast: Encode) -> None:
    documents = [f"Document {number} about the river {number % 97}. " * 20 for number in range(500)]

    def megabytes_after(times: int) -> int:
        for _ in range(times):
            for document in documents:
                fast(document)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") >> 20

    before = megabytes_after(4)

    assert megabytes_after(40) - before < 8
