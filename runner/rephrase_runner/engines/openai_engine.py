"""Any endpoint that speaks the OpenAI API, as an engine: the GPUs are somebody else's.

DOOR: the only module that asks an endpoint. What its answers mean is decided in `openai_api.py`.

An endpoint that takes nothing now (no connection, 429, 503 ...) is no fault of a request: it is waited out,
for all requests at once where it says how long. A request that got in and broke (500, a cut answer, no answer
in time) has used up one of its attempts. A key that is refused ends the worker, and no sample fails for it.
"""

import asyncio
import itertools
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random  # noqa: TID251 - jitter of retries; nothing that is written depends on it

import aiohttp

from rephrase_api.errors import AccessRefused, InvalidModel, InvalidSpec
from rephrase_runner.engines import EngineSettings, message_tokenizer
from rephrase_runner.engines.arguments import ArgumentParser, not_negative, positive
from rephrase_runner.engines.base import Completion, Deliver, Request, RequestFailed, Tokenizer
from rephrase_runner.engines.fan_out import fan_out
from rephrase_runner.engines.message_tokenizer import MessageTokenizer
from rephrase_runner.engines.openai_api import PATH, Away, Meaning, Missing, Refused, asked, meaning

_ENDPOINT = "spec.model.engine.openAI"
_KEY_VARIABLE = "OPENAI_API_KEY"
_TEMPLATE_TOKENS = 64
"""Room for the chat template that the endpoint puts around the messages; SmolLM2's, with a system message of
its own, takes 31."""
_CONNECT_SECONDS = 10
_KEPT_SECONDS = 4
"""An idle connection is used again only for so long: uvicorn, under vLLM and others, closes it after 5."""
_CLOSE_SECONDS = 2
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Arguments:
    """`spec.model.engine.args` of this engine.

    Attributes:
        concurrency: requests that the endpoint has at once.
        timeout_seconds: for one answer.
        patience_seconds: how long an endpoint that takes nothing is waited for.
    """

    concurrency: int = 64
    timeout_seconds: float = 600
    patience_seconds: float = 120


def _parse(args: Sequence[str]) -> Arguments:
    parser = ArgumentParser("OpenAI")
    parser.add_argument("--concurrency", type=positive)
    parser.add_argument("--timeout-seconds", type=positive)
    parser.add_argument("--patience-seconds", type=not_negative)
    return Arguments(**vars(parser.parse_args(args)))


def check(settings: EngineSettings) -> None:
    """Refuse what `build` would refuse, without asking anybody.

    Raises:
        InvalidSpec: a wrong argument, or a field that only an engine of one's own can honor.
    """
    _parse(settings.args)
    if settings.chat_template is not None:
        raise InvalidSpec(
            "cannot be given to an endpoint, which has its own",
            where="spec.model.chatTemplate",
            remedy="Leave it out, or give it to the server (vllm serve --chat-template).",
        )
    if settings.max_model_length is None:
        raise InvalidSpec(
            "must be set: an endpoint does not say how long its context is",
            where="spec.model.maxModelLength",
            remedy="Set it to what the endpoint's model allows, in tokens.",
        )


def build(settings: EngineSettings) -> "OpenAIEngine":
    """Get the tokenizer; the endpoint is asked by the first request.

    Raises:
        InvalidSpec: as `check`.
        InvalidModel, AccessRefused: the tokenizer cannot be had.
    """
    check(settings)
    name, revision = settings.tokenizer, None
    if name is None:
        name, revision = settings.model, settings.revision
    return OpenAIEngine(settings, _parse(settings.args), message_tokenizer.load(name, revision))


class OpenAIEngine:
    """See `base.Engine`. Belongs to the event loop of its first `generate`."""

    def __init__(
        self, settings: EngineSettings, arguments: Arguments, tokenizer: MessageTokenizer
    ) -> None:
        self.tokenizer: Tokenizer = tokenizer
        self._messages = tokenizer.messages
        self.context_tokens = (settings.max_model_length or 0) - _TEMPLATE_TOKENS
        self.max_in_flight = arguments.concurrency
        self._settings = settings
        self._arguments = arguments
        self._key = api_key(settings.api_key_file)
        self._places = asyncio.Semaphore(arguments.concurrency)
        self._random = Random()  # noqa: S311 - jitter is no secret
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._signs = itertools.count()
        self._answered = False
        self._heard = 0.0  # when the endpoint took a request for the last time, by the loop's clock
        self._closed_until = 0.0  # it asked to be left alone until then

    @property
    def steps(self) -> int:
        """Grows by being looked at: an endpoint never hangs, since each request has a time-out of its own."""
        return next(self._signs)

    async def generate(self, requests: Sequence[Request], deliver: Deliver) -> None:
        """See `base.Engine`.

        Raises:
            AccessRefused: the key is refused, or the endpoint took nothing for `--patience-seconds`.
            InvalidModel: it has no such model, or there is no such API.
        """
        await fan_out(requests, deliver, self._answer)

    def close(self) -> None:
        """Close connections. In a thread, as all that may block."""
        session, self._session = self._session, None
        if session is not None and self._loop is not None and self._loop.is_running():
            closing = asyncio.run_coroutine_threadsafe(session.close(), self._loop)
            with suppress(TimeoutError):  # it must not hide what the worker ends with
                closing.result(_CLOSE_SECONDS)

    async def _answer(self, request: Request) -> Completion | RequestFailed:
        """Ask until the endpoint takes the request."""
        clock = asyncio.get_running_loop().time
        async with self._places:
            key, begun, pauses = self._key, clock(), 0
            while True:
                await asyncio.sleep(self._closed_until - clock())
                found = await self._ask(request, key)
                if isinstance(found, Missing) and self._answered:
                    # it was there: the server behind the address is starting, say
                    found = Away(found.why)
                match found:
                    case Completion() | RequestFailed():
                        self._heard = clock()
                        self._answered |= isinstance(found, Completion)
                        return found
                    case Missing():
                        raise self._missing(found.why)
                    case Refused():
                        fresh = api_key(self._settings.api_key_file)
                        if fresh == key:
                            raise self._refused(found.why)
                        key = self._key = fresh  # the Secret was changed
                    case Away():
                        pause = self._pause_seconds(found, pauses)
                        last = max(begun, self._heard) + self._arguments.patience_seconds
                        if clock() + (found.seconds or 0) > last:
                            raise self._gone(found.why)
                        if found.unsure and clock() > begun + self._arguments.patience_seconds:
                            # others were answered all the while, or it were gone
                            return RequestFailed(
                                "endpoint_error", f"the endpoint answers {found.why}"
                            )
                        if found.seconds is not None:
                            self._closed_until = max(self._closed_until, clock() + found.seconds)
                        pauses += 1
                        await asyncio.sleep(pause)

    async def _ask(self, request: Request, key: str) -> Meaning:
        if self._session is None:
            self._loop = asyncio.get_running_loop()
            self._session = _session(self._arguments)
        messages = self._messages(request.prompt_token_ids)
        try:
            async with self._session.post(
                self._settings.base_url.rstrip("/") + PATH,
                json=asked(self._settings.model, messages, request),
                headers={"Authorization": f"Bearer {key}"} if key else {},
                allow_redirects=False,
            ) as answer:
                found = meaning(answer.status, answer.headers, await answer.read(), key=key)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            return Away(str(error))
        except aiohttp.ClientHttpProxyError as error:
            return Away(f"the proxy answers {error.status}")
        except aiohttp.InvalidURL:
            return Missing("it is not an address")
        except TimeoutError:
            seconds = self._arguments.timeout_seconds
            return RequestFailed("endpoint_timeout", f"no answer within {seconds:g} s")
        except aiohttp.ClientError as error:
            return RequestFailed("endpoint_error", f"the answer was cut: {type(error).__name__}")
        return self._counted(request, found) if isinstance(found, Completion) else found

    def _counted(self, request: Request, found: Completion) -> Completion:
        """With our own counts of tokens where the endpoint does not tell its."""
        return replace(
            found,
            prompt_tokens=(
                len(request.prompt_token_ids) if found.prompt_tokens < 0 else found.prompt_tokens
            ),
            completion_tokens=(
                len(self.tokenizer.encode(found.text))
                if found.completion_tokens < 0
                else found.completion_tokens
            ),
        )

    def _pause_seconds(self, found: Away, pauses: int) -> float:
        """What the endpoint asks for and a little more, else doubled each time; never the same for all."""
        if found.seconds is not None:
            return found.seconds + self._random.random()
        doubled = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2.0 ** min(pauses, 10))
        return doubled * (0.5 + self._random.random())

    @property
    def _where(self) -> str:
        return f"{_ENDPOINT}.baseURL {self._settings.base_url}"

    def _missing(self, why: str) -> InvalidModel:
        return InvalidModel(
            f"there is no model {self._settings.model}, or no {PATH} below this address ({why})",
            where=self._where,
            remedy="Correct spec.model.name (GET /models lists what there is) or the address.",
        )

    def _refused(self, why: str) -> AccessRefused:
        name = "refused the key" if self._key else "refuses requests without a key"
        return AccessRefused(
            f"the endpoint {name} ({why})",
            where=self._where,
            remedy="Correct the Secret of apiKeySecretRef (on a laptop: OPENAI_API_KEY), or the account; "
            "running again continues.",
        )

    def _gone(self, why: str) -> AccessRefused:
        patience = self._arguments.patience_seconds
        return AccessRefused(
            f"the endpoint takes no requests, and was waited for {patience:g} s: {why}",
            where=self._where,
            remedy="Check address and server; running again continues. --patience-seconds in "
            "spec.model.engine.args waits longer.",
        )


def _session(arguments: Arguments) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            limit=arguments.concurrency, keepalive_timeout=_KEPT_SECONDS
        ),
        timeout=aiohttp.ClientTimeout(
            total=arguments.timeout_seconds, sock_connect=_CONNECT_SECONDS
        ),
        trust_env=True,  # proxies
    )


def api_key(file: str) -> str:
    """The key in a mounted Secret, or of the environment where there is no file; empty for none.

    Raises:
        AccessRefused: the file cannot be read.
        InvalidSpec: it is no key.
    """
    if not file:
        key = os.environ.get(_KEY_VARIABLE, "").strip()
    else:
        try:
            key = Path(file).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise AccessRefused(
                f"the API key cannot be read: {error.strerror}",
                where=f"{_ENDPOINT}.apiKeySecretRef",
                remedy="The Secret must hold the key that is named there.",
            ) from error
    if not key.isascii() or any(not " " < letter < "\x7f" for letter in key):
        raise InvalidSpec(
            "the API key holds blanks or characters that no header can",
            where=f"{_ENDPOINT}.apiKeySecretRef" if file else _KEY_VARIABLE,
            remedy="It is one word in one line.",
        )
    return key
