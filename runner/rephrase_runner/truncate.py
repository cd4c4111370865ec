"""How much of a document fits, and cutting it there to the token. Pure.

Only the document is ever cut, never the instruction or the answer, and it is never cut to nothing.
"""

from collections.abc import Sequence

from rephrase_api.errors import InvalidSpec
from rephrase_runner.engines.base import Tokenizer

MARGIN_TOKENS = 32
"""Tokens left out at the end of an encoded piece of a text, because the text's end may have made them.

Tokenizers split a text into words from left to right and then choose tokens inside each word. So a cut
can change tokens of the word it goes through and no others, and `_word_end` lays it between two words if
it can. Only in a stretch without blanks (Chinese, base64, a megabyte of 'a') does it go through a word;
there the choice of tokens before the cut depends on what follows it by a few tokens at most in practice,
and 32 leaves room. A tokenizer that looks further back than that gives other tokens, never too many.
"""
_CHARACTERS_PER_TOKEN = 6
_LONGEST_WORD = 256


def document_budget(
    *,
    context_tokens: int,
    max_tokens: int,
    overhead_tokens: int,
    max_document_tokens: int | None = None,
    prompt: str = "",
) -> int:
    """Tokens that a document may have in a prompt, at least 1.

    Args:
        context_tokens: what prompt and answer share.
        max_tokens: longest answer.
        overhead_tokens: instruction and chat template around the document.
        max_document_tokens: further limit, `spec.source.maxDocumentTokens`.
        prompt: its name, for the message.

    Raises:
        InvalidSpec: no token is left for a document.
    """
    budget = context_tokens - max_tokens - overhead_tokens
    if budget < 1:
        most = context_tokens - overhead_tokens - 1
        lower = f"Lower sampling.maxTokens to {most} or less" if most > 0 else "Shorten the prompt"
        raise InvalidSpec(
            f"no room for a document: of a context of {context_tokens} tokens the answer may take "
            f"{max_tokens} (sampling.maxTokens), and instruction and chat template take "
            f"{overhead_tokens}",
            where=f"spec.prompts[{prompt}]" if prompt else "spec.prompts",
            remedy=f"{lower}, or raise spec.model.maxModelLength if the model allows it.",
        )
    return budget if max_document_tokens is None else max(1, min(budget, max_document_tokens))


def cut(document_tokens: Sequence[int], budget_tokens: int) -> tuple[Sequence[int], bool]:
    """The first `budget_tokens` of a document, and whether any were cut off."""
    if len(document_tokens) <= budget_tokens:
        return document_tokens, False
    return document_tokens[:budget_tokens], True


def encode_head(tokenizer: Tokenizer, text: str, max_tokens: int) -> Sequence[int]:
    """The first `max_tokens` tokens of `text`, or all of them if it has fewer.

    They are those that encoding the whole text would begin with (see `MARGIN_TOKENS`), but of a long text
    only the head is encoded: pieces from the start, each four times as long as the last. Of ordinary text
    the first piece is enough, about six characters for each token asked for; of the strangest (megabytes
    of blanks) all pieces together are less than 7/3 of the text.
    """
    needed = max_tokens + MARGIN_TOKENS
    length = needed * _CHARACTERS_PER_TOKEN
    while length < len(text):
        tokens = tokenizer.encode(text[: _word_end(text, length)])
        if len(tokens) >= needed:
            return tokens[:max_tokens]
        length *= 4
    return tokenizer.encode(text)[:max_tokens]


def _word_end(text: str, length: int) -> int:
    """The last end of a word at or before `length`; `length` itself where none is near."""
    for end in range(length, max(length - _LONGEST_WORD, 1), -1):
        if text[end].isspace() and not text[end - 1].isspace():
            return end
    return length
