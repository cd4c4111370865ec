"""A Hugging Face tokenizer behind the interface of `base.Tokenizer`.

Imports neither transformers nor tokenizers: it works with the objects that an engine hands in.
"""

import datetime
from collections.abc import Sequence
from functools import partial
from typing import Any

from rephrase_api.errors import InvalidModel
from rephrase_runner.engines.fast_tokenizer import fastest

_DATE = datetime.date(2024, 7, 26)
"""What chat templates are told when they ask for today's date (those of Llama 3 and Granite write it into
the system message; this is the date that Llama's own falls back to). The prompts of a run must not change
at midnight, nor between a run and its repetition."""


class HFTokenizer:
    """Tokenizes documents and chat templates; thread-safe, and without the interpreter's lock meanwhile.

    Documents go through a copy of the tokenizer that takes special tokens for plain text, or through one
    that is faster and gives the same tokens (`fast_tokenizer`). A few tokenizers
    have merges that make one from plain text all the same; such tokens are left out of the document.

    A tokenizer that puts a blank before every text (those of Llama 2) does so before document and suffix
    too, since both are tokenized alone: one token more than in one piece.

    Args:
        tokenizer: a fast tokenizer of transformers.
        chat_template: Jinja text instead of the tokenizer's own.

    Raises:
        InvalidModel: it is not a fast tokenizer, or there is no chat template.
    """

    def __init__(self, tokenizer: Any, chat_template: str | None = None) -> None:  # noqa: ANN401
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise InvalidModel(
                f"its tokenizer ({type(tokenizer).__name__}) is not a fast one",
                where="spec.model",
                remedy="Use a model with a tokenizer.json, or name another in spec.model.tokenizer.",
            )
        if chat_template is None and not getattr(tokenizer, "chat_template", None):
            raise InvalidModel(
                "it has no chat template, so nothing says how to ask it",
                where="spec.model",
                remedy="Use an instruct model, or give a template in spec.model.chatTemplate.",
            )
        self._tokenizer = tokenizer
        self._chat_template = chat_template
        self._template = copied(backend)
        plain = copied(backend)
        plain.encode_special_tokens = True
        self._encode = fastest(plain, partial(encoded, plain))
        self._special = special_tokens(backend)

    def encode(self, text: str) -> list[int]:
        """Tokens of a document, none of them special."""
        ids = self._encode(text)
        if self._special.isdisjoint(ids):
            return ids
        return [number for number in ids if number not in self._special]

    def encode_template(self, text: str) -> list[int]:
        """Tokens of a piece of the rendered chat template."""
        return encoded(self._template, text)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of tokens; special ones have none."""
        text: str = self._template.decode(list(token_ids), skip_special_tokens=True)
        return text

    def chat(self, system: str | None, user: str) -> str:
        """One user message in the chat template, up to where the answer begins.

        Raises:
            InvalidModel: the template refuses these messages (some know no system message).
        """
        messages = [{"role": "user", "content": user}]
        if system:
            messages.insert(0, {"role": "system", "content": system})
        from jinja2 import TemplateError

        try:
            rendered: str = self._tokenizer.apply_chat_template(
                messages,
                chat_template=self._chat_template,
                tokenize=False,
                add_generation_prompt=True,
                strftime_now=_DATE.strftime,
            )
        except TemplateError as error:
            raise InvalidModel(
                f"the chat template fails: {error}",
                where="spec.model.chatTemplate",
                remedy="Leave spec.systemMessage out if the model knows none, or give a template.",
            ) from error
        return rendered


def copied(backend: Any) -> Any:  # noqa: ANN401
    """A tokenizer of the package tokenizers once more, that neither cuts nor fills."""
    copy = type(backend).from_str(backend.to_str())
    # a tokenizer.json may ask for cutting or filling, which is not for the tokenizer to decide
    copy.no_truncation()
    copy.no_padding()
    return copy


def special_tokens(backend: Any) -> frozenset[int]:  # noqa: ANN401
    """Those that mean something to the model beside their text."""
    added = backend.get_added_tokens_decoder()
    return frozenset(number for number, token in added.items() if token.special)


def encoded(backend: Any, text: str) -> list[int]:  # noqa: ANN401
    """Tokens of a text, nothing added."""
    # the batch call leaves out character offsets, and with them a third of the time
    encode = backend.encode_batch_fast
    try:
        (encoding,) = encode([text], add_special_tokens=False)
    except TypeError:  # a lone surrogate, which JSON can spell and UTF-8 cannot
        clean = text.encode("utf-8", "replace").decode()
        (encoding,) = encode([clean], add_special_tokens=False)
    ids: list[int] = encoding.ids
    return ids
