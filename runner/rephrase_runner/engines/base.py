"""The interface of an engine: a list of requests in, an outcome for each as it finishes.

An engine knows two kinds of trouble. A *request* failed: that is delivered as a value, the others are
not touched. The *engine* died: `generate` raises `EngineDead`, for every call in flight. A third,
that a person must act (an endpoint refuses the key), is a `RephraseError`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Protocol, overload

from typing_extensions import override


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling parameters of one request, all of them resolved (names and meaning as in vLLM)."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class PromptTokens(Sequence[int]):
    """The tokens of a prompt: what stands around a document, and the document, which its prompts share.

    They are joined only when an engine reads them: a worker holds thousands of prompts.
    """

    before: Sequence[int]
    document: Sequence[int]
    after: Sequence[int]

    @override
    def __len__(self) -> int:
        return len(self.before) + len(self.document) + len(self.after)

    @override
    def __iter__(self) -> Iterator[int]:
        return chain(self.before, self.document, self.after)

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> list[int]: ...
    @override
    def __getitem__(self, index: int | slice) -> int | list[int]:
        return [*self][index]


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt for the engine.

    Attributes:
        prompt_token_ids: the whole prompt; its length plus ``sampling.max_tokens`` fits the context.
        seed: per-request seed, or None for none (cheaper: vLLM then samples the batch at once).
    """

    prompt_token_ids: Sequence[int]
    sampling: Sampling
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """What the engine made of one request. `finish_reason` is ``stop`` or ``length``."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class RequestFailed:
    """This request failed, the engine lives. `retryable` says whether the same request may succeed later."""

    reason: str
    message: str
    retryable: bool = True


Deliver = Callable[[int, Completion | RequestFailed], None]


class EngineDead(Exception):
    """The engine process is gone or hangs; all requests in flight are lost.

    Attributes:
        cause: ``exit``, ``hang`` or ``oom``.
    """

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause


class Tokenizer(Protocol):
    """Text to tokens and back; thread-safe."""

    def encode(self, text: str) -> Sequence[int]:
        """Tokens of `text`, without special tokens added; special tokens *inside* the text are plain text."""

    def encode_template(self, text: str) -> Sequence[int]:
        """Tokens of a piece of the rendered chat template, in which special tokens keep their meaning."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of `token_ids`."""

    def chat(self, system: str | None, user: str) -> str:
        """The model's chat template around one user message, up to where the answer begins."""


class Engine(Protocol):
    """A model ready to answer. Built in a thread, used from one event loop."""

    tokenizer: Tokenizer
    context_tokens: int
    """Prompt plus completion must fit in this many tokens."""

    @property
    def max_in_flight(self) -> int:
        """Requests to keep submitted so that the engine is never idle; it may change with every answer."""

    @property
    def steps(self) -> int:
        """Grows with every sign of life; standing still with requests in flight, the engine hangs."""

    async def generate(self, requests: Sequence[Request], deliver: Deliver) -> None:
        """Answer all `requests`, submitted together and in their order; return when all are answered.

        Args:
            requests: what to answer; one document's prompts, so that they can share its prefix.
            deliver: called with (index into `requests`, outcome) as each one finishes, so that a drain
                (which cancels this call) loses nothing that was finished.

        Raises:
            EngineDead: the engine is gone; what was delivered before stands, the rest is lost.
            RephraseError: a person must act; likewise, and no document is to blame.
        """

    def close(self) -> None:
        """Free the engine; kills its processes if need be. May be called twice, or after death."""
