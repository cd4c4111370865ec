"""What is said to an endpoint of the OpenAI API, and what its answers mean. Pure.

An answer means one of five things: a completion; this request failed; the endpoint takes nothing now (wait);
it refuses us (a person must act); it does not have what the spec names.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from rephrase_runner.engines.base import Completion, Request, RequestFailed

PATH = "/chat/completions"
_AWAY = {408, 425, 429, 502, 503, 504, 521, 522, 523, 529}
"""Statuses that say nothing about the request: too many of them, or nobody is at home (52x: Cloudflare's)."""
_GATEWAY = {502, 504}
"""Of these, what a gateway also says of a request that it passed on and that broke or took too long."""
_REFUSED = {401, 402, 403}
_MISSING = {301, 302, 307, 308, 404, 405, 410}
_NO_MONEY = "insufficient_quota"
_BROKEN_OFF = ("abort", "error")
"""Ends of answers (SGLang, routers) that are neither the model's nor its limit's: half a rewrite is none."""
_MOST_TOKENS = 2**31 - 1
"""As parts count them."""
_SHOWN_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Away:
    """The endpoint takes nothing now.

    Attributes:
        why: what it says.
        seconds: how long it asks to be left alone, if it does.
        unsure: the request may have been passed on, and be what is wrong.
    """

    why: str
    seconds: float | None = None
    unsure: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """The endpoint refuses whoever holds this key."""

    why: str


@dataclass(frozen=True, slots=True)
class Missing:
    """There is no such model, or no such API at this address."""

    why: str


Meaning = Completion | RequestFailed | Away | Refused | Missing


def asked(model: str, messages: Sequence[Mapping[str, str]], request: Request) -> dict[str, Any]:
    """The body of a request.

    Parameters that are not of OpenAI's own API (top_k, min_p, repetition_penalty) are sent only where they do
    something, since it refuses them; vLLM, SGLang and llama.cpp know them.
    """
    sampling = request.sampling
    body: dict[str, Any] = {
        "model": model,
        "messages": list(messages),
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
    }
    if sampling.presence_penalty:
        body["presence_penalty"] = sampling.presence_penalty
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if request.seed is not None:
        body["seed"] = request.seed
    if sampling.top_k:
        body["top_k"] = sampling.top_k
    if sampling.min_p:
        body["min_p"] = sampling.min_p
    if sampling.repetition_penalty != 1:
        body["repetition_penalty"] = sampling.repetition_penalty
    return body


def meaning(status: int, headers: Mapping[str, str], data: bytes, *, key: str = "") -> Meaning:
    """What an answer means. Token counts that it does not tell are -1.

    Args:
        status: of HTTP.
        headers: by name, in any case.
        data: the body.
        key: is never told on, should the endpoint repeat it.
    """
    if status == 200:
        return _completion(data)
    code, said = _error(data)
    if key:  # before anything is cut off, or the beginning of the key might stay
        said = said.replace(key, "***")
    said = f"{status}: {said[:_SHOWN_CHARACTERS]}" if said else f"status {status}"
    if status in _REFUSED or code == _NO_MONEY:
        # what is said of a key repeats parts of it
        return Refused(said if status not in _REFUSED else f"status {status}")
    if status in _MISSING:
        return Missing(said)
    if status in _AWAY:
        return Away(said, retry_after(headers), unsure=status in _GATEWAY)
    if status >= 500:
        return RequestFailed("endpoint_error", f"the endpoint answers {said}")
    return RequestFailed("engine_refused", f"the endpoint answers {said}", retryable=False)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the endpoint asks to be left alone (RFC 9110, 10.2.3), by its own clock, if it does."""
    found = {name.lower(): value.strip() for name, value in headers.items()}
    value = found.get("retry-after", "")
    if value.replace(".", "", 1).isdecimal():
        return float(value)
    then, now = _date(value), _date(found.get("date", ""))
    return max(0.0, (then - now).total_seconds()) if then and now else None


def _date(value: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(value)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _completion(data: bytes) -> Completion | RequestFailed:
    try:
        body = json.loads(data)
        choice = body["choices"][0]
        text = choice["message"].get("content") or ""
        finish_reason = choice.get("finish_reason") or "stop"
        usage = body.get("usage")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return RequestFailed("endpoint_error", "the endpoint's answer is not one of the OpenAI API")
    if not isinstance(text, str):
        return RequestFailed("endpoint_error", "the endpoint's answer is not text")
    if finish_reason == "content_filter":
        return RequestFailed("content_filter", "the endpoint held it back", retryable=False)
    if finish_reason in _BROKEN_OFF:
        return RequestFailed("endpoint_error", f"the endpoint broke off: {finish_reason}")
    usage = usage if isinstance(usage, dict) else {}
    return Completion(
        text=_valid(text),
        finish_reason="length" if finish_reason == "length" else "stop",
        prompt_tokens=_count(usage, "prompt_tokens"),
        completion_tokens=_count(usage, "completion_tokens"),
    )


def _count(usage: Mapping[str, Any], name: str) -> int:
    value = usage.get(name)
    return value if isinstance(value, int) and 0 <= value <= _MOST_TOKENS else -1


def _valid(text: str) -> str:
    """Text that UTF-8 can say: JSON may hold half a character, cut off by whoever made it."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _error(data: bytes) -> tuple[str, str]:
    """Code and sentence of an error's body: OpenAI's form, or whatever it is."""
    try:
        body = json.loads(data)
        error = body.get("error", body)
        code, message = error.get("code"), error.get("message") or error.get("detail")
    except (ValueError, AttributeError, RecursionError):
        code, message = "", data.decode("utf-8", "replace")
    words = " ".join(str(message or "").split())
    return str(code or ""), _valid(words)
