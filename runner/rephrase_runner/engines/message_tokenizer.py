"""The tokenizer for an endpoint: it counts and cuts as the endpoint's model does, and ends in messages.

An endpoint takes text, puts it into its model's chat template and tokenizes it itself. So the "chat template"
here is only marks of where a message begins; `messages` turns the tokens of a prompt back into the text that
is sent.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rephrase_api.errors import InvalidModel
from rephrase_runner.engines.hf_tokenizer import copied, encoded, special_tokens
from rephrase_runner.engines.model_errors import tokenizer_error

_ROLES = ("system", "user")
_MARKS = {role: f"\0{role}\0" for role in _ROLES}
_SPLIT = re.compile(f"({'|'.join(map(re.escape, _MARKS.values()))})")
_FIRST_MARK = 1 << 32
"""Beyond the tokens of any model."""
_AFTER = _FIRST_MARK + len(_ROLES)
"""Mark of the end of the document, after which its message goes on."""
_PROBE = "Größe: 6,650 km\n\n\t- 你好, 👩‍🚀!  \r\nEnd"


def load(name: str, revision: str | None) -> "MessageTokenizer":
    """The tokenizer in a folder, or of a repository on the hub. Blocking.

    Raises:
        InvalidModel: there is none, or it loses characters.
        AccessRefused: the hub refuses us or cannot be reached.
    """
    from tokenizers import Tokenizer

    file = Path(name).expanduser() / "tokenizer.json"
    try:
        if file.is_file():
            return MessageTokenizer(Tokenizer.from_file(str(file)))
        return MessageTokenizer(Tokenizer.from_pretrained(name, revision=revision or "main"))
    except InvalidModel:
        raise
    except Exception as error:  # tokenizers raises nothing more precise for a broken file
        raise tokenizer_error(error, name) from error


class MessageTokenizer:
    """See `base.Tokenizer`.

    Args:
        backend: a tokenizer of the package tokenizers.

    Raises:
        InvalidModel: text does not come back from its tokens as it was.
    """

    def __init__(self, backend: Any) -> None:  # noqa: ANN401
        self._plain = copied(backend)
        self._plain.encode_special_tokens = True
        self._special = special_tokens(backend)
        if self.decode(self.encode(_PROBE)) != _PROBE:
            raise InvalidModel(
                "its tokenizer changes text (case, accents or blanks)",
                where="spec.model.tokenizer",
                remedy="Name that of a generative model: an endpoint is sent text, cut by its tokens.",
            )

    def encode(self, text: str) -> list[int]:
        """Tokens of a document, none of them special."""
        return [number for number in encoded(self._plain, text) if number not in self._special]

    def encode_template(self, text: str) -> list[int]:
        """Tokens of a piece of `chat`, the one before the document or the one after it."""
        before, *messages = _SPLIT.split(text)
        if not messages:
            return [_AFTER, *self.encode(before)]
        ids = []
        for mark, content in zip(messages[::2], messages[1::2], strict=True):
            ids += [_FIRST_MARK + list(_MARKS.values()).index(mark), *self.encode(content)]
        return ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of tokens; marks have none."""
        ids = [number for number in token_ids if number < _FIRST_MARK]
        text: str = self._plain.decode(ids, skip_special_tokens=False)
        return text

    def chat(self, system: str | None, user: str) -> str:
        """Both messages, marked."""
        head = f"{_MARKS['system']}{system}" if system else ""
        return f"{head}{_MARKS['user']}{user}"

    def messages(self, token_ids: Sequence[int]) -> list[dict[str, str]]:
        """The messages of a prompt, as the API takes them.

        A document that was cut in the middle of a character ends before it.
        """
        found: list[dict[str, str]] = []
        ids = list(token_ids)
        starts = [at for at, number in enumerate(ids) if number >= _FIRST_MARK]
        for start, end in zip(starts, [*starts[1:], len(ids)], strict=True):
            content = self.decode(ids[start + 1 : end])
            if ids[start] == _AFTER:
                found[-1]["content"] = found[-1]["content"].rstrip("\ufffd") + content
            else:
                found.append({"role": _ROLES[ids[start] - _FIRST_MARK], "content": content})
        return found
