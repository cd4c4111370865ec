"""vLLM in process: its client lives here, the model in child processes (EngineCore and its workers).

DOOR: the only module that imports vllm, and only inside functions: the import takes 15 s or more.
Checked against vLLM 0.32.
"""

import argparse
import itertools
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from rephrase_api.errors import EngineFailed, InvalidSpec
from rephrase_api.names import label_value
from rephrase_runner.engines import EngineSettings, vllm_leash
from rephrase_runner.engines.admission import Load, requests_to_keep
from rephrase_runner.engines.base import (
    Completion,
    Deliver,
    EngineDead,
    Request,
    RequestFailed,
    Tokenizer,
)
from rephrase_runner.engines.fan_out import fan_out
from rephrase_runner.engines.hf_tokenizer import HFTokenizer
from rephrase_runner.engines.model_errors import check_folder, model_error
from rephrase_runner.engines.process_tree import ProcessTree, oom_kills

logger = logging.getLogger(__name__)

_ARGS = "spec.model.engine.args"
_LEASH = f"{vllm_leash.__name__}.{vllm_leash.Leash.__name__}"
_CPU_CACHE_BYTES = 4 << 30
"""KV cache on a CPU where nothing else is said: vLLM would take nine tenths of the machine's memory."""
_CLOSE_SECONDS = 2
"""What EngineCore gets to end by itself. More than 5 s were seen, and nothing is lost by killing it."""


def check(settings: EngineSettings) -> None:
    """Let vLLM's own parser look at the arguments; loads no model.

    Raises:
        InvalidSpec: an unknown flag, a bad value, or arguments that contradict the spec.
    """
    _arguments(settings)


def build(settings: EngineSettings) -> "VLLMEngine":
    """Load the model. May be called in any thread.

    Raises:
        InvalidSpec, InvalidModel, AccessRefused: vLLM refuses arguments or model, before loading anything.
        EngineFailed: it did not start.
    """
    arguments = _arguments(settings)
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.tokenizers import cached_tokenizer_from_config
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.async_llm import AsyncLLM

    check_folder(settings.model)
    if reason := _cannot_speculate(arguments.speculative_config, uses_min_p=settings.uses_min_p):
        logger.warning("going on without speculation", extra={"reason": reason})
        arguments.speculative_config = None
    # Of the contexts vLLM knows this one has batches for offline use (on an H100 16384 tokens and 1024
    # sequences); the default one stops at 2048 and 128.
    context = UsageContext.LLM_CLASS
    kills = oom_kills()
    try:
        config = AsyncEngineArgs.from_cli_args(arguments).create_engine_config(context)
        tokenizer = cached_tokenizer_from_config(config.model_config)
    except Exception as error:
        raise model_error(error, settings.model) from error
    # before the long wait for the weights
    tokenizer = HFTokenizer(tokenizer, settings.chat_template)
    try:
        engine = AsyncLLM.from_vllm_config(
            config,
            usage_context=context,
            stat_loggers=[_statistics()],  # which also makes the core say how full it is
            disable_log_stats=True,
        )
    except Exception as error:
        memory = " (the kernel ended a process for want of memory)" if oom_kills() > kills else ""
        raise EngineFailed(
            f"vLLM did not start with {settings.model}{memory}: {error}",
            remedy="See its log above.",
        ) from error
    return VLLMEngine(engine, tokenizer, kills)


def _statistics() -> Any:  # noqa: ANN401 - a class of vLLM
    """What keeps vLLM's metrics in the process' registry, for `vllm_metrics` to pass on."""
    from vllm.v1.metrics.loggers import PrometheusStatLogger

    class Statistics(PrometheusStatLogger):  # type: ignore[misc]
        """Without the times between tokens: an observation for each token, which nobody asks for."""

        def record(self, scheduler: Any, steps: Any, *others: Any, **named: Any) -> None:  # noqa: ANN401
            if steps is not None:
                steps.inter_token_latencies_iter.clear()
            super().record(scheduler, steps, *others, **named)

    return Statistics


def _arguments(settings: EngineSettings) -> argparse.Namespace:
    """vLLM's arguments: what `args` and the spec say, and what suits a worker."""
    _prepare_environment()
    from vllm.platforms import current_platform

    values = _parse(settings.args)
    values.model = settings.model
    values.served_model_name = [label_value(settings.model)]  # as its pod's label llm-d.ai/model
    values.revision = settings.revision
    if settings.tokenizer is None:
        values.tokenizer_revision = settings.revision
    values.tokenizer = settings.tokenizer
    values.dtype = settings.dtype
    values.quantization = settings.quantization
    values.max_model_len = settings.max_model_length
    values.use_tqdm_on_load = False
    values.worker_extension_cls = values.worker_extension_cls or _LEASH
    on_cpu = current_platform.is_cpu()
    _spread(values, 0 if on_cpu else settings.gpu_count)
    if on_cpu:
        _suit_cpu(values, uses_seeds=settings.uses_seeds)
    return values


def _prepare_environment() -> None:
    """Variables that vLLM reads while it is imported, and that its processes inherit."""
    for name, value in {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_LOGGING_STREAM": "ext://sys.stderr",  # standard output is for our JSON lines
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # a worker has threads; a fork of them may hang
        "TOKENIZERS_PARALLELISM": "false",  # one text at a time: threads would only cost
    }.items():
        os.environ.setdefault(name, value)
    os.environ[vllm_leash.OWNER] = str(os.getpid())


def _parse(args: Sequence[str]) -> argparse.Namespace:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    def refuse(_: object, message: str) -> NoReturn:
        raise InvalidSpec(
            message, where=_ARGS, remedy="See `vllm serve --help=all` for what is allowed."
        )

    # argparse would end the process; and no short form of a flag may slip past the list of owned ones
    raising = type("Parser", (FlexibleArgumentParser,), {"error": refuse})
    parser = AsyncEngineArgs.add_cli_args(raising(add_help=False, allow_abbrev=False))
    parser.set_defaults(tensor_parallel_size=None)
    values: argparse.Namespace = parser.parse_args(list(args))
    return values


def _spread(values: argparse.Namespace, gpu_count: int) -> None:
    """One engine on all GPUs of the worker: tensor parallel unless the arguments say otherwise."""
    others = values.pipeline_parallel_size * values.data_parallel_size
    if values.tensor_parallel_size is None:
        values.tensor_parallel_size = max(1, gpu_count // others)
    used = values.tensor_parallel_size * others
    if gpu_count and used != gpu_count:
        raise InvalidSpec(
            f"the worker has {gpu_count} GPUs, but tensor, pipeline and data parallel size make {used}",
            where=_ARGS,
            remedy="Make them equal, or change gpu.count of the worker pool.",
        )


def _suit_cpu(values: argparse.Namespace, *, uses_seeds: bool) -> None:
    # gpu_memory_utilization is a number by default, so "nobody said anything" cannot be told from it
    if values.kv_cache_memory_bytes is None and not os.environ.get("VLLM_CPU_KVCACHE_SPACE"):
        values.kv_cache_memory_bytes = _CPU_CACHE_BYTES
    if uses_seeds:
        # After a part of a prefill vLLM rewinds the request's generator, which torch's generator for the
        # CPU cannot do: "CPU Generator does not use offset", and the engine is dead (gpu_model_runner.py,
        # _bookkeeping_sync). Without chunked prefill a prompt is never done in parts.
        if values.enable_chunked_prefill or values.long_prefill_token_threshold:
            raise InvalidSpec(
                "vLLM on a CPU cannot use seeds together with chunked prefill",
                where="spec.sampling.seed",
                remedy="Leave the seed out, or --enable-chunked-prefill and "
                "--long-prefill-token-threshold.",
            )
        values.enable_chunked_prefill = False


def _cannot_speculate(config: Mapping[str, Any] | None, *, uses_min_p: bool) -> str:
    """Why this vLLM cannot do what is asked; empty if it can, or nothing is asked.

    A setting for speed must not end a run, and with min_p vLLM would refuse every request.
    """
    from vllm.utils.import_utils import has_arctic_inference

    if config is None:
        return ""
    if uses_min_p:
        return "vLLM does not speculate with min_p"
    if config.get("method") == "suffix" and not has_arctic_inference():
        return "the package arctic-inference is not installed"
    return ""


class VLLMEngine:
    """See `base.Engine`. Belongs to the event loop of its first `generate`.

    Args:
        engine: vLLM's AsyncLLM, loaded.
        tokenizer: of its model.
        oom_kills_before: `oom_kills()` before it was loaded.
    """

    def __init__(self, engine: Any, tokenizer: Tokenizer, oom_kills_before: int) -> None:  # noqa: ANN401
        self.tokenizer = tokenizer
        config = engine.vllm_config
        self.context_tokens: int = config.model_config.max_model_len
        ranks = config.parallel_config.data_parallel_size
        self._most_running: int = config.scheduler_config.max_num_seqs * ranks
        self._loads = dict.fromkeys(range(ranks), Load(running=0, cache_used=0.0))
        self._engine: Any = engine
        self._cores = list(engine.engine_core.resources.engine_manager.processes)
        self._processes = ProcessTree(core.pid for core in self._cores)
        self._oom_kills_before = oom_kills_before
        self._ids = itertools.count()
        self.steps = 0
        self._listen(engine.engine_core)

    @property
    def max_in_flight(self) -> int:
        """See `base.Engine`."""
        return requests_to_keep(self._most_running, self._loads.values())

    async def generate(self, requests: Sequence[Request], deliver: Deliver) -> None:
        """See `base.Engine`."""
        if self._engine is None:
            raise EngineDead("exit", "the engine was closed")
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            # vLLM asks its core for this once. Later on, each request is sent before its task first waits,
            # so that they arrive in order and the first of a document fills the cache for the others.
            await self._engine.get_supported_tasks()
        except EngineDeadError as error:
            raise self._death() from error
        await fan_out(requests, deliver, self._answer)

    def close(self) -> None:
        """End the engine's processes within 5 seconds, whatever they are doing."""
        engine, self._engine = self._engine, None
        if engine is None:
            return
        log = logging.getLogger("vllm")
        level = log.level
        log.setLevel(logging.ERROR)  # it warns of what is meant to happen
        try:
            engine.shutdown(timeout=_CLOSE_SECONDS)
        finally:
            log.setLevel(level)
            self._processes.kill(timeout_seconds=_CLOSE_SECONDS)

    def _listen(self, client: Any) -> None:  # noqa: ANN401 - EngineCoreClient
        """Hear what EngineCore sends: something after each step, with how full it is.

        A step in which nothing runs is no sign of life: EngineCore goes on with them while requests wait.
        """
        receive = client.get_output_async

        async def heard() -> object:
            outputs = await receive()
            found = outputs.scheduler_stats
            if found is not None:
                load = Load(found.num_running_reqs, found.kv_cache_usage)
                self._loads[outputs.engine_index] = load
            if outputs.outputs or (found is not None and found.num_running_reqs):
                self.steps += 1
            return outputs

        client.get_output_async = heard

    async def _answer(self, request: Request) -> Completion | RequestFailed:
        from vllm.exceptions import GracefulHTTPError, VLLMClientError
        from vllm.inputs.engine import tokens_input
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        engine = self._engine
        prompt = tokens_input(list(request.prompt_token_ids))
        result = None
        try:
            parameters = _sampling_params(request)
            async for output in engine.generate(prompt, parameters, str(next(self._ids))):
                result = output
        except EngineDeadError as error:
            raise self._death() from error
        except GracefulHTTPError as error:
            return RequestFailed("engine_busy", str(error))
        except (VLLMClientError, ValueError) as error:
            return RequestFailed("engine_refused", str(error), retryable=False)
        except EngineGenerateError as error:  # any other exception on this side of the engine
            if engine.errored:
                raise self._death() from error
            cause = error.__cause__
            retryable = not isinstance(cause, ValueError)
            return RequestFailed("engine_error", type(cause).__name__, retryable=retryable)
        answer = result.outputs[0] if result is not None else None
        if answer is None or answer.finish_reason not in ("stop", "length"):
            reason = answer.finish_reason if answer else "no output"
            return RequestFailed("engine_error", f"vLLM ended the request: {reason}")
        return Completion(
            text=answer.text,
            finish_reason=answer.finish_reason,
            prompt_tokens=len(request.prompt_token_ids),
            completion_tokens=len(answer.token_ids),
        )

    def _death(self) -> EngineDead:
        """EngineCore tells no reason, so ask the kernel. Out of GPU memory is an exit like any other."""
        if oom_kills() > self._oom_kills_before:
            return EngineDead("oom", "the kernel ended a process of vLLM for want of memory")
        statuses = ", ".join(str(core.exitcode) for core in self._cores)
        return EngineDead("exit", f"EngineCore is gone (exit status {statuses}); see vLLM's log")


def _sampling_params(request: Request) -> Any:  # noqa: ANN401 - SamplingParams
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    sampling = request.sampling
    return SamplingParams(
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
        presence_penalty=sampling.presence_penalty,
        stop=list(sampling.stop),
        seed=request.seed,
        output_kind=RequestOutputKind.FINAL_ONLY,
        skip_clone=True,
    )
