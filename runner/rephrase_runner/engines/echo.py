"""The echo engine: no model, answers made of the prompt's own words. For tests, dry runs and measuring.

Same prompt, sampling and seed give the same answer on any machine. Everything an engine can do wrong it
does on demand, at a text in the prompt, so that a fault follows a document and not a moment.
"""

import asyncio
import re
import threading
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from xxhash import xxh3_64_intdigest, xxh3_128_digest

from rephrase_runner.engines import EngineSettings
from rephrase_runner.engines.arguments import ArgumentParser, not_negative, positive, text
from rephrase_runner.engines.base import (
    Completion,
    Deliver,
    EngineDead,
    PromptTokens,
    Request,
    RequestFailed,
    Tokenizer,
)
from rephrase_runner.engines.fan_out import fan_out

_SPECIAL = ("<|system|>", "<|user|>", "<|assistant|>")
_SPLIT = re.compile(f"({'|'.join(map(re.escape, _SPECIAL))})")
_TOKEN_BYTES = 4
_WORD_BYTES = 6
"""About; with the blank after it."""
_SHORT_WORD_BYTES = 3
_MOST_IN_A_ROW = 64
_FIRST_SPECIAL = 0xFFFFFFFC
_NO_TEXT = b"\0\xfc\xfd\xfe\xff"
"""Filling, and the bytes of special tokens: none is in the UTF-8 of any text."""


@dataclass(frozen=True, slots=True)
class Arguments:
    """`spec.model.engine.args` of an echo engine: ``--latency-seconds=0.05`` and so on.

    Attributes:
        latency_seconds: mean time until a request is answered; each takes half to one and a half of it.
        concurrency: requests that are worked on at once.
        start_seconds: time to start.
        output_tokens: mean length of an answer; each is half to one and a half of it.
        context_tokens: context, where the spec does not say.
        fail_on: a request with this text in its prompt fails.
        fail_times: so many times for each prompt, then it is answered; None for ever.
        die_on: a request with this text in its prompt ends the engine.
        hang_on: a request with this text in its prompt is never answered.
    """

    latency_seconds: float = 0
    concurrency: int = 256
    start_seconds: float = 0
    output_tokens: int = 64
    context_tokens: int = 8192
    fail_on: str | None = None
    fail_times: int | None = None
    die_on: str | None = None
    hang_on: str | None = None


def _parse(args: Sequence[str]) -> Arguments:
    parser = ArgumentParser("Echo")
    parser.add_argument("--latency-seconds", type=not_negative)
    parser.add_argument("--concurrency", type=positive)
    parser.add_argument("--start-seconds", type=not_negative)
    parser.add_argument("--output-tokens", type=positive)
    parser.add_argument("--context-tokens", type=positive)
    parser.add_argument("--fail-on", type=text)
    parser.add_argument("--fail-times", type=positive)
    parser.add_argument("--die-on", type=text)
    parser.add_argument("--hang-on", type=text)
    return Arguments(**vars(parser.parse_args(args)))


def check(settings: EngineSettings) -> None:
    """Refuse arguments that `build` would refuse.

    Raises:
        InvalidSpec: names the argument and lists the allowed ones.
    """
    _parse(settings.args)


def build(settings: EngineSettings) -> "EchoEngine":
    """Start an echo engine; takes `--start-seconds`.

    Raises:
        InvalidSpec: as `check`.
    """
    arguments = _parse(settings.args)
    threading.Event().wait(arguments.start_seconds)
    return EchoEngine(arguments, settings.max_model_length or arguments.context_tokens)


class EchoTokenizer:
    """Tokens are the 4-byte words of the UTF-8 text, about as long as a model's tokens.

    The last word of a text is filled up with zero bytes; `decode` drops these, and characters cut in two.
    A special token of the chat template is a word that no text has.
    """

    def encode(self, text: str) -> Sequence[int]:
        """Tokens of plain text."""
        data = text.encode("utf-8", "replace")
        return array("I", data + bytes(-len(data) % _TOKEN_BYTES))

    def encode_template(self, text: str) -> Sequence[int]:
        """Tokens of a piece of the rendered chat template."""
        ids: list[int] = []
        for piece in _SPLIT.split(text):
            if piece in _SPECIAL:
                ids.append(_FIRST_SPECIAL + _SPECIAL.index(piece))
            else:
                ids += self.encode(piece)
        return ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of tokens; special ones have none."""
        return _plain(token_ids).decode("utf-8", "ignore")

    def chat(self, system: str | None, user: str) -> str:
        """A chat template that people can read."""
        head = f"<|system|>\n{system}\n" if system else ""
        return f"{head}<|user|>\n{user}\n<|assistant|>\n"


class EchoEngine:
    """Answers at once, or after a delay if asked to; see `base.Engine`."""

    def __init__(self, arguments: Arguments, context_tokens: int) -> None:
        self.tokenizer: Tokenizer = EchoTokenizer()
        self.context_tokens = context_tokens
        self.max_in_flight = arguments.concurrency
        self._arguments = arguments
        self.steps = 0
        self._slots = asyncio.Semaphore(arguments.concurrency)
        self._dead = asyncio.Event()
        self._failures: Counter[int] = Counter()
        self._around: dict[int, tuple[Sequence[int], bytes]] = {}
        self._document: tuple[Sequence[int], bytes, list[bytes]] = ((), b"", [])
        self._in_a_row = 0

    async def generate(self, requests: Sequence[Request], deliver: Deliver) -> None:
        """See `base.Engine`."""
        if self._arguments.latency_seconds:
            await fan_out(requests, deliver, self._answer_later)
            return
        answered = 0
        for index, request in enumerate(requests):
            outcome = self._answer(request)
            if outcome is not None:
                answered += 1
                deliver(index, outcome)
        self._in_a_row += answered
        if self._in_a_row >= _MOST_IN_A_ROW:
            self._in_a_row = 0
            await asyncio.sleep(0)  # or a caller in a loop would keep everything else from running
        if answered < len(requests):
            await self._die()

    def close(self) -> None:
        """Nothing to free."""

    async def _answer_later(self, request: Request) -> Completion | RequestFailed:
        async with self._slots:
            outcome = self._answer(request)
            if outcome is None:
                await self._die()
            try:
                async with asyncio.timeout(self._delay_seconds(request)):
                    await self._die()
            except TimeoutError:
                return outcome

    async def _die(self) -> NoReturn:
        """Wait until some request has ended the engine; for ever if none does."""
        await self._dead.wait()
        raise EngineDead("exit", f"a prompt holds {self._arguments.die_on!r} (--die-on)")

    def _delay_seconds(self, request: Request) -> float:
        identity, _ = self._read(request.prompt_token_ids)
        spread = xxh3_64_intdigest(identity, request.seed or 0)
        return self._arguments.latency_seconds * (0.5 + spread / 2**64)

    def _read(self, prompt: Sequence[int]) -> tuple[bytes, Sequence[bytes]]:
        """What no other prompt has, and the words for answers: its document's, if it says which part that is.

        What prompts share is read once.
        """
        if not isinstance(prompt, PromptTokens):
            text = _plain(prompt)
            return text, text.split()
        if prompt.document is not self._document[0]:
            text = _plain(prompt.document)
            self._document = prompt.document, xxh3_128_digest(text), text.split()
        _, digest, words = self._document
        return self._text_around(prompt.before) + digest + self._text_around(prompt.after), words

    def _text_around(self, token_ids: Sequence[int]) -> bytes:
        known = self._around.get(id(token_ids))
        if known is None or known[0] is not token_ids:
            known = self._around[id(token_ids)] = token_ids, _plain(token_ids)
        return known[1]

    def _answer(self, request: Request) -> Completion | RequestFailed | None:
        """The outcome of a request; None for one that gets none."""
        length = len(request.prompt_token_ids)
        if self._is_told(request, self._arguments.die_on):
            self._dead.set()
        if self._dead.is_set() or self._is_told(request, self._arguments.hang_on):
            return None
        if length >= self.context_tokens:
            message = f"a prompt of {length} tokens fills the context"
            return RequestFailed("engine_refused", message, retryable=False)
        if self._is_told(request, self._arguments.fail_on):
            key = xxh3_64_intdigest(_plain(request.prompt_token_ids))
            self._failures[key] += 1
            most = self._arguments.fail_times
            if most is None or self._failures[key] <= most:
                message = f"the prompt holds {self._arguments.fail_on!r}"
                return RequestFailed("echo_failed", message)
        return self._complete(request, length)

    def _is_told(self, request: Request, text: str | None) -> bool:
        """Whether a prompt holds the text that such an argument names."""
        return text is not None and text.encode() in _plain(request.prompt_token_ids)

    def _complete(self, request: Request, length: int) -> Completion:
        self.steps += 1
        sampling = request.sampling
        # as in a model, the seed does not matter where the likeliest token is always taken
        seed = request.seed if request.seed and sampling.temperature > 0 else 0
        identity, words = self._read(request.prompt_token_ids)
        key = xxh3_64_intdigest(identity, seed)
        mean = self._arguments.output_tokens
        wanted = mean - mean // 2 + key % (mean + 1)
        tokens = min(wanted, sampling.max_tokens)
        finish_reason = "stop" if tokens == wanted else "length"
        text = _pick(words, key, tokens * _TOKEN_BYTES).decode("utf-8", "ignore")
        for stop in sampling.stop:
            if stop in text:
                text = text.partition(stop)[0]
                tokens, finish_reason = len(self.tokenizer.encode(text)), "stop"
        return Completion(text, finish_reason, length, tokens)


def _plain(token_ids: Sequence[int]) -> bytes:
    """UTF-8 of tokens, in which special tokens and filling are nothing."""
    return array("I", token_ids).tobytes().translate(None, _NO_TEXT)


def _pick(words: Sequence[bytes], key: int, size: int) -> bytes:
    """`size` bytes of these words, from a place and in steps chosen by `key`.

    It takes every second to fifth word, so that the answer is not a copy of the document.
    """
    count, step = len(words), 2 + key % 4
    room = count - step * size // _WORD_BYTES
    if room > 0:
        start = key // 4 % room
        chosen = words[start : start + step * (size // _SHORT_WORD_BYTES) : step]
    else:  # of a short document all is within reach: beyond its end it begins again
        start = key // 4 % max(1, count)
        beyond = (start - count) % step
        chosen = [*words[start::step], *words[beyond:start:step]]
    answer = b" ".join(chosen or [b"-"]) + b"\n"
    return (answer * (size // len(answer) + 1))[:size]
