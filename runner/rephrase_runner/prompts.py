"""From the prompts of a spec to the tokens around a document. Pure.

Twice: the driver resolves each prompt to a text with the placeholder in it, which is frozen for the run;
each worker compiles these texts once with the engine's tokenizer into the tokens before and after the
document. A sample's prompt is then prefix + document + suffix: the document is tokenized once for all
prompts, cut to the token, and nothing written in it can act as a special token of the chat template.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rephrase_api.errors import InvalidModel, InvalidSpec
from rephrase_api.presets import presets
from rephrase_api.v1alpha1.generation import PLACEHOLDER, Prompt, PromptLayout
from rephrase_runner.engines.base import PromptTokens, Sampling, Tokenizer
from rephrase_runner.records import ResolvedPrompt
from rephrase_runner.truncate import cut, document_budget

_LABEL = "Document:"
_SENTINEL = "@@Rephrase/Document/3f6b1c@@"
"""Stands for the document while the chat template is rendered. Begins and ends with characters that no
template trims, has capitals so that one that changes case is noticed, and no brackets that Jinja reads."""


def compose(instruction: str, layout: PromptLayout) -> str:
    """An instruction and the placeholder, in the order of `layout`.

    DocumentFirst begins with the document, so that all prompts of a document have everything up to its
    last token in common, the chat template's head and the system message included.
    """
    document = f"{_LABEL}\n{PLACEHOLDER}"
    if layout is PromptLayout.DOCUMENT_FIRST:
        return f"{document}\n\n{instruction}"
    return f"{instruction}\n\n{document}"


def resolve_prompts(
    prompts: Iterable[Prompt],
    layout: PromptLayout,
    mounted: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """The text of each prompt by name, with the placeholder where the document goes.

    Args:
        prompts: of the spec.
        layout: of the built-in ones; an own template is taken as written.
        mounted: texts of prompts with `templateFrom`, by name of the prompt.

    Raises:
        InvalidSpec: a template is missing, or does not have the placeholder exactly once.
    """
    texts = {}
    for prompt in prompts:
        if prompt.built_in is not None:
            texts[prompt.name] = compose(presets()[prompt.built_in].instruction, layout)
        elif prompt.template is not None:
            texts[prompt.name] = _checked(prompt.template, f"spec.prompts[{prompt.name}].template")
        else:
            where = f"spec.prompts[{prompt.name}].templateFrom"
            if mounted is None or prompt.name not in mounted:
                raise InvalidSpec(
                    "the template is not there",
                    where=where,
                    remedy="Create the ConfigMap with this key, or write the text into `template`.",
                )
            texts[prompt.name] = _checked(mounted[prompt.name], where)
    return texts


def _checked(template: str, where: str) -> str:
    found = template.count(PLACEHOLDER)
    if found != 1:
        raise InvalidSpec(
            f"{PLACEHOLDER} occurs {found} times",
            where=where,
            remedy=f"Write {PLACEHOLDER} exactly once, where the document goes.",
        )
    return template


@dataclass(frozen=True, slots=True)
class CompiledPrompt:
    """A prompt for one tokenizer, made once per worker.

    Attributes:
        prefix_token_ids: everything before the document.
        suffix_token_ids: everything after it, up to where the answer begins.
    """

    name: str
    rollouts: int
    sampling: Sampling
    prefix_token_ids: tuple[int, ...]
    suffix_token_ids: tuple[int, ...]

    def document_tokens(self, context_tokens: int, max_document_tokens: int | None = None) -> int:
        """Tokens that a document may have in this prompt, at least 1.

        Raises:
            InvalidSpec: no token is left for a document.
        """
        return document_budget(
            context_tokens=context_tokens,
            max_tokens=self.sampling.max_tokens,
            overhead_tokens=len(self.prefix_token_ids) + len(self.suffix_token_ids),
            max_document_tokens=max_document_tokens,
            prompt=self.name,
        )

    def around(
        self, document_tokens: Sequence[int], budget_tokens: int
    ) -> tuple[PromptTokens, bool]:
        """The whole prompt around a document, and whether the document had to be cut for it."""
        kept, truncated = cut(document_tokens, budget_tokens)
        return PromptTokens(self.prefix_token_ids, kept, self.suffix_token_ids), truncated


def compile_prompts(
    prompts: Iterable[ResolvedPrompt], tokenizer: Tokenizer, *, system_message: str | None
) -> tuple[CompiledPrompt, ...]:
    """Tokens before and after the document, for each prompt, in their order.

    Raises:
        InvalidModel: the chat template loses the user's message or repeats it, or there is none.
    """
    compiled = []
    for prompt in prompts:
        before, after = split_chat(tokenizer, system_message, prompt.text)
        stop = tuple(prompt.sampling.get("stop", ()))
        compiled.append(
            CompiledPrompt(
                name=prompt.name,
                rollouts=prompt.rollouts,
                sampling=Sampling(**{**prompt.sampling, "stop": stop}),
                prefix_token_ids=tuple(tokenizer.encode_template(before)),
                suffix_token_ids=tuple(tokenizer.encode_template(after)),
            )
        )
    return tuple(compiled)


def split_chat(tokenizer: Tokenizer, system_message: str | None, text: str) -> tuple[str, str]:
    """What the chat template puts before and after the document, instruction included.

    Raises:
        InvalidModel: the chat template loses the user's message or repeats it, or there is none.
    """
    rendered = tokenizer.chat(system_message, text.replace(PLACEHOLDER, _SENTINEL))
    before, *after = rendered.split(_SENTINEL)
    if len(after) != 1:
        raise InvalidModel(
            f"the chat template holds the document {len(after)} times instead of once",
            where="spec.model.chatTemplate",
            remedy="Use an instruct model, or give a chat template that passes the user's message on "
            "as it is.",
        )
    return before, after[0]
