"""Documents to engine requests, completions to samples. Pure; runs in the reading thread.

A document is tokenized once for all its prompts and cut token-exactly for each; a document that cannot
be rewritten gets a problem for every key, so that nothing is dropped in silence.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rephrase_api.v1alpha1.generation import Quality
from rephrase_runner.checks import assess
from rephrase_runner.engines.base import Completion, Request, Tokenizer
from rephrase_runner.prompts import CompiledPrompt
from rephrase_runner.rows import Document, Key, Problem, Sample, Status
from rephrase_runner.seeds import sample_seed
from rephrase_runner.truncate import encode_head

EMPTY_TOKENS = Problem(Status.SKIPPED, "no_tokens", "the document has no tokens for this model")


@dataclass(frozen=True, slots=True)
class Asked:
    """A request and what it is for. `truncated`: the document was cut to fit."""

    key: Key
    request: Request
    truncated: bool


@dataclass(frozen=True, slots=True)
class Prepared:
    """A document ready for the engine: requests for some of its keys, problems for the others."""

    document: Document
    requests: Sequence[Asked]
    problems: Sequence[tuple[Key, Problem]]


class Preparer:
    """Prepares the documents of a run.

    Args:
        prompts: compiled for the engine's tokenizer.
        tokenizer: the engine's.
        context_tokens: of the engine.
        max_document_tokens: further limit of the spec, or None.
        seed: of the run; None = no seed per sample.
        quality: what becomes of faulty answers.
    """

    def __init__(
        self,
        prompts: Sequence[CompiledPrompt],
        tokenizer: Tokenizer,
        *,
        context_tokens: int,
        max_document_tokens: int | None,
        seed: int | None,
        quality: Quality,
    ) -> None:
        self._prompts = {prompt.name: prompt for prompt in prompts}
        self._tokenizer = tokenizer
        self._seed = seed
        self._quality = quality
        self._room = {
            prompt.name: prompt.document_tokens(context_tokens, max_document_tokens)
            for prompt in prompts
        }
        self._head = max(self._room.values()) + 1

    def prepare(self, document: Document, keys: Sequence[Key]) -> Prepared:
        """Requests for `keys` of a document, in their order."""
        if document.problem is not None or not keys:
            return Prepared(
                document, (), [(key, document.problem) for key in keys if document.problem]
            )
        # one token more than fits, to see whether anything is cut off
        tokens = encode_head(self._tokenizer, document.text, self._head)
        if not tokens:
            return Prepared(document, (), [(key, EMPTY_TOKENS) for key in keys])
        return Prepared(document, [self._ask(document, key, tokens) for key in keys], ())

    def _ask(self, document: Document, key: Key, tokens: Sequence[int]) -> Asked:
        prompt = self._prompts[key.prompt]
        seed = None
        if self._seed is not None:
            seed = sample_seed(self._seed, document.source_id, key.prompt, key.rollout)
        ids, truncated = prompt.around(tokens, self._room[key.prompt])
        return Asked(key, Request(ids, prompt.sampling, seed), truncated=truncated)

    def sample(
        self,
        document: Document,
        asked: Asked,
        completion: Completion,
        *,
        attempts: int,
        source_text: str | None,
    ) -> Sample:
        """The sample that a completion makes, after the checks."""
        found = assess(
            completion.text, completion.finish_reason, completion.completion_tokens, self._quality
        )
        problem = found.problem
        return Sample(
            key=asked.key,
            source_id=document.source_id,
            status=problem.status if problem is not None else Status.WRITTEN,
            text=found.text,
            finish_reason=completion.finish_reason,
            prompt_tokens=completion.prompt_tokens,
            completion_tokens=completion.completion_tokens,
            truncated=asked.truncated,
            flags=(*document.flags, *found.flags),
            attempt_seed=asked.request.seed,
            reason=problem.reason if problem is not None else "",
            message=problem.message if problem is not None else "",
            attempts=attempts,
            kept=document.kept,
            source_text=source_text,
        )
