import logging
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from rephrase_runner.engines.fast_tokenizer import Encode, checked, fastest, load, suits
from rephrase_runner.engines.hf_tokenizer import encoded
from support.endpoint import write_tokenizer
from support.engine_suite import DOCUMENT
from support.texts import texts, western_texts

FALLS_BACK = "going on with the model's own, slower tokenizer"


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Any:  # noqa: ANN401
    folder = write_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    return tokenizer


@pytest.fixture(scope="module")
def own(backend: Any) -> Encode:  # noqa: ANN401
    return partial(encoded, backend)


@pytest.fixture(scope="module")
def fast(backend: Any, own: Encode) -> Encode:  # noqa: ANN401
    return fastest(backend, own)


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, Any]]:
    """Message and reason of each warning."""
    return [
        (record.getMessage(), record.__dict__["reason"])
        for record in caplog.records
        if record.levelno >= logging.WARNING
    ]


def wrong_about(is_meant: Callable[[str], bool], own: Encode, *, fails: bool) -> Encode:
    """Gives a token too few for some texts, or fails."""

    def encode(text: str) -> list[int]:
        if not is_meant(text):
            return own(text)
        if fails:
            raise RuntimeError("it panicked")
        return own(text)[:-1]

    return encode


def counting(encode: Encode, counts: Counter[str]) -> Encode:
    def counted(text: str) -> list[int]:
        counts[text] += 1
        return encode(text)

    return counted


@given(text=st.one_of(texts, western_texts))
def test_a_text_has_the_tokens_that_the_model_gives_it(
    fast: Encode, own: Encode, text: str
) -> None:
    assert fast is not own
    assert fast(text) == own(text)


@given(text=western_texts)
def test_western_text_goes_to_tokie(text: str) -> None:
    assert suits(text)


@pytest.mark.parametrize(
    "text",
    [
        "a\tb",
        "end\n\n\fnext",
        "a\0b",
        "\u24c9's",
        "你好",
        "\U0001f600",
        "\ud800",
        "=" * 10_000,
        "a" + " " * 10_000,
        "a word " * 10_000,
    ],
    ids=ascii,
)
def test_what_tokie_does_otherwise_is_left_to_the_models_own(text: str) -> None:
    assert not suits(text)


def test_a_long_text_of_words_goes_to_tokie(fast: Encode, own: Encode) -> None:
    text = f"{DOCUMENT}\n\n   " * 200

    assert len(text) > 50_000
    assert suits(text)
    assert fast(text) == own(text)


def test_special_tokens_in_a_document_are_plain_text(fast: Encode, own: Encode) -> None:
    text = "<|im_end|>\n<|im_start|>system"

    assert suits(text)
    assert {0, 1}.isdisjoint(fast(text))
    assert fast(text) == own(text)


def test_many_threads_get_the_right_tokens(fast: Encode, own: Encode) -> None:
    documents = [DOCUMENT[start:] for start in range(len(DOCUMENT))] * 20

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(fast, documents)) == list(map(own, documents))


def test_other_merges_are_noticed_at_the_start(
    backend: Any,  # noqa: ANN401
    own: Encode,
    caplog: pytest.LogCaptureFixture,
) -> None:
    other = Tokenizer(models.BPE())
    other.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1000, initial_alphabet=alphabet, show_progress=False)
    other.train_from_iterator([DOCUMENT[:200]], trainer)

    assert checked(load(other), own, backend) is own

    assert told(caplog) == [(FALLS_BACK, "other tokens for special tokens")]


@pytest.mark.parametrize("fails", [True, False])
def test_a_difference_on_hard_texts_is_told_by_their_kind(
    backend: Any,  # noqa: ANN401
    own: Encode,
    caplog: pytest.LogCaptureFixture,
    *,
    fails: bool,
) -> None:
    fast = wrong_about(lambda text: "=" * 1500 in text, own, fails=fails)

    assert checked(fast, own, backend) is own

    assert told(caplog) == [(FALLS_BACK, "other tokens for long runs")]


@pytest.mark.parametrize("fails", [True, False])
def test_a_difference_on_a_document_ends_the_use_of_tokie(
    backend: Any,  # noqa: ANN401
    own: Encode,
    caplog: pytest.LogCaptureFixture,
    *,
    fails: bool,
) -> None:
    counts: Counter[str] = Counter()
    wrong = wrong_about(lambda text: text == DOCUMENT, own, fails=fails)
    encode = checked(counting(wrong, counts), own, backend)
    counts.clear()

    assert encode(DOCUMENT) == own(DOCUMENT)
    assert told(caplog) == [(FALLS_BACK, "other tokens for a document")]
    assert encode("Another one.") == own("Another one.")
    assert counts.total() == 1


def test_one_document_in_a_thousand_is_tokenized_by_both(
    backend: Any,  # noqa: ANN401
    own: Encode,
) -> None:
    counts: Counter[str] = Counter()
    encode = checked(load(backend), counting(own, counts), backend)
    counts.clear()

    for number in range(2_001):
        encode(f"Document {number}.")

    assert counts.total() == 3


def test_what_tokie_cannot_load_is_left_to_the_models_own(
    caplog: pytest.LogCaptureFixture,
) -> None:
    words = Tokenizer(models.WordLevel({"the": 0, "?": 1}, "?"))
    own = partial(encoded, words)

    assert fastest(words, own) is own

    ((message, reason),) = told(caplog)
    assert message == FALLS_BACK
    assert reason.startswith("tokie cannot load it: ")


def test_without_the_package_the_models_own_is_used_without_a_word(tmp_path: Path) -> None:
    file = write_tokenizer(tmp_path) / "tokenizer.json"
    program = f"""
import sys
sys.modules["tokie"] = None  # what importing finds where it is not installed
from tokenizers import Tokenizer
from rephrase_runner.engines.fast_tokenizer import fastest
assert fastest(Tokenizer.from_file({str(file)!r}), len) is len
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
