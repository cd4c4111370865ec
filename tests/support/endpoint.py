"""An endpoint of the OpenAI API for tests: it answers as the engine Echo does, or wrongly as it is told.

And a tokenizer that needs no download.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from rephrase_runner.engines import EngineSettings, build
from rephrase_runner.engines.base import Completion, Request, RequestFailed, Sampling
from rephrase_runner.engines.message_tokenizer import MessageTokenizer
from support.engine_suite import DOCUMENT
from support.loopback import served

MODEL = "the-model"
Fault = Callable[[web.Request], Any]
"""Makes an answer instead of the right one; may be a coroutine."""


def write_tokenizer(folder: Path) -> Path:
    """A folder with a tokenizer.json for English, bytes for all else, and two special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|im_start|>", "<|im_end|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator([DOCUMENT], trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def says(status: int, message: str = "", *, code: str = "", **headers: str) -> Fault:
    """An error in the API's own form."""
    body = {"error": {"message": message, "code": code}}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _: web.json_response(body, status=status, headers=named)


def says_plainly(data: bytes) -> Fault:
    """These bytes, as if they were a good answer."""
    return lambda _: web.Response(body=data, content_type="application/json")


async def cuts(request: web.Request) -> web.StreamResponse:
    """Half an answer, then the end of the connection."""
    answer = web.StreamResponse(headers={"Content-Length": "1000"})
    await answer.prepare(request)
    await answer.write(b'{"choices": [{"message": {"content": "The')
    if request.transport is not None:
        request.transport.close()
    return answer


async def hangs(_: web.Request) -> web.StreamResponse:
    """No answer."""
    await asyncio.Event().wait()
    raise AssertionError("never")


class Endpoint:
    """What it was asked, and how it is to answer.

    Attributes:
        faults: answers of the next requests, first to last; then all is well.
        always: instead of that, the answer of every request in whose body a text is.
        bodies: of all requests, as they came.
        headers: the same.
        at_once: most requests that it had at one time.
        changed: notified after every request.
        tells_usage: whether it counts tokens.
    """

    def __init__(self, tokenizer: MessageTokenizer, context_tokens: int, model: str) -> None:
        self.url = ""
        self.faults: list[Fault] = []
        self.always: tuple[str, Fault] | None = None
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.at_once = 0
        self.tells_usage = True
        self.open = asyncio.Event()
        self.open.set()
        self.key = ""
        self._now = 0
        self._model = model
        self._tokenizer = tokenizer
        self._engine = build(EngineSettings("Echo", max_model_length=context_tokens))

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/chat/completions."""
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        self._now += 1
        self.at_once = max(self.at_once, self._now)
        try:
            await self.open.wait()
            return await self._answer(request, body)
        finally:
            self._now -= 1

    async def _answer(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        fault = None
        if self.faults:
            fault = self.faults.pop(0)
        elif self.always is not None and self.always[0] in json.dumps(body, ensure_ascii=False):
            fault = self.always[1]
        elif self.key and request.headers.get("Authorization") != f"Bearer {self.key}":
            fault = says(401, f"Incorrect API key: {request.headers.get('Authorization')}")
        elif body["model"] != self._model:
            fault = says(404, f"The model `{body['model']}` does not exist.")
        if fault is not None:
            found = fault(request)
            if asyncio.iscoroutine(found):
                found = await found
            assert isinstance(found, web.StreamResponse)
            return found
        outcome = await self._complete(body)
        if isinstance(outcome, RequestFailed):
            return web.json_response({"error": {"message": outcome.message}}, status=400)
        usage = {
            "prompt_tokens": outcome.prompt_tokens,
            "completion_tokens": outcome.completion_tokens,
        }
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": outcome.text},
            "finish_reason": outcome.finish_reason,
        }
        return web.json_response(
            {"choices": [choice], **({"usage": usage} if self.tells_usage else {})}
        )

    async def _complete(self, body: dict[str, Any]) -> Completion | RequestFailed:
        contents = [one["content"] for one in body["messages"]]
        size = sum(1 + len(self._tokenizer.encode(content)) for content in contents)
        if size > self._engine.context_tokens:
            return RequestFailed("", "This model's maximum context length is exceeded.")
        sampling = Sampling(
            max_tokens=body["max_tokens"],
            temperature=body["temperature"],
            stop=tuple(body.get("stop", ())),
        )
        ids = self._engine.tokenizer.encode("\n".join(contents))
        found: list[Completion | RequestFailed] = []
        await self._engine.generate(
            [Request(ids, sampling, body.get("seed"))], lambda _, outcome: found.append(outcome)
        )
        (outcome,) = found
        if isinstance(outcome, Completion):
            return Completion(outcome.text, outcome.finish_reason, size, outcome.completion_tokens)
        return outcome


@asynccontextmanager
async def endpoint(
    tokenizer: Path, *, context_tokens: int = 1 << 20, model: str = MODEL
) -> AsyncIterator[Endpoint]:
    """Serve an endpoint on a free port of this machine."""
    loaded = MessageTokenizer(Tokenizer.from_file(str(tokenizer / "tokenizer.json")))
    found = Endpoint(loaded, context_tokens, model)
    app = web.Application(client_max_size=1 << 26)
    app.router.add_post("/v1/chat/completions", found.answer)
    async with served(app) as (host, port):
        found.url = f"http://{host}:{port}/v1"
        yield found
