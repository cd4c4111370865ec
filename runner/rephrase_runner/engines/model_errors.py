"""What is wrong with a model, told by the class of what was raised while it was looked up or loaded."""

import os
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from rephrase_api.errors import (
    AccessRefused,
    EngineFailed,
    InvalidModel,
    InvalidSpec,
    RephraseError,
)

_WHERE = "spec.model"
_OF_THE_MODEL = ("ModelConfig", "VllmConfig")
"""vLLM's configurations that are about the model; all others are about speed."""


def check_folder(model: str) -> None:
    """Say that a folder is wrong before vLLM takes its path for a name on the hub.

    Raises:
        InvalidModel: `model` is an absolute path, and no model is there.
    """
    if os.path.isabs(model) and not Path(model, "config.json").is_file():
        raise InvalidModel(
            f"there is no model in {model} (no config.json)",
            where=_WHERE,
            remedy="Give a folder that holds config.json, the tokenizer and safetensors files.",
        )


def model_error(error: Exception, model: str) -> RephraseError:
    """The error of ours that says what `error` means for a user; to be raised from it.

    Returns:
        InvalidSpec: an engine argument does not fit.
        InvalidModel: the model does not exist, cannot be read, or cannot do what is asked.
        AccessRefused: its hub refuses us or cannot be reached.
        EngineFailed: anything that is not about the model.
    """
    import httpx
    from huggingface_hub import errors as hub

    causes = list(_chain(error))
    for cause in causes:
        if isinstance(cause, ValidationError):
            return _misfit(cause, model)
        if isinstance(cause, hub.GatedRepoError):
            return AccessRefused(
                f"{model} is gated and this account may not read it",
                where=_WHERE,
                remedy="Accept its license on the hub, and give a token in spec.model.secretRef (on a "
                "laptop: HF_TOKEN).",
            )
        if isinstance(cause, hub.RepositoryNotFoundError | hub.RevisionNotFoundError):
            return InvalidModel(
                f"the hub has no {model}, or no such revision of it",
                where=_WHERE,
                remedy="Check name and revision; a private model needs a token in spec.model.secretRef "
                "(on a laptop: HF_TOKEN).",
            )
    unreachable = (
        hub.LocalEntryNotFoundError,
        hub.OfflineModeIsEnabled,
        hub.HfHubHTTPError,
        httpx.TransportError,
        ConnectionError,
        TimeoutError,
    )
    if any(isinstance(cause, unreachable) for cause in causes):
        return AccessRefused(
            f"the hub cannot be reached, and {model} is not in the cache: {error}",
            where=_WHERE,
            remedy="Allow access to the hub, or give a folder in spec.model.uri.",
        )
    if any(isinstance(cause, ValueError | OSError | ImportError) for cause in causes):
        return InvalidModel(
            f"{model} cannot be used: {error}",
            where=_WHERE,
            remedy="Name a model that vLLM supports.",
        )
    return EngineFailed(f"vLLM did not start with {model}: {error}", remedy="See its log above.")


def tokenizer_error(error: Exception, name: str) -> RephraseError:
    """The error of ours for a tokenizer of `name` that cannot be had or read; to be raised from it."""
    kind = AccessRefused if isinstance(model_error(error, name), AccessRefused) else InvalidModel
    return kind(
        f"no tokenizer from {name}: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
        where="spec.model.tokenizer",
        remedy="Name the hub's repository of the model that the endpoint serves, or a folder with its "
        "tokenizer.json: documents are cut by its tokens.",
    )


def _misfit(error: ValidationError, model: str) -> RephraseError:
    details = "; ".join(
        ": ".join(filter(None, (".".join(map(str, problem["loc"])), problem["msg"])))
        for problem in error.errors(include_url=False, include_input=False)
    )
    if error.title in _OF_THE_MODEL:
        return InvalidModel(
            f"{model} does not go with these settings: {details}",
            where=_WHERE,
            remedy="Change the setting, or take another model.",
        )
    return InvalidSpec(
        f"vLLM refuses the arguments: {details}",
        where="spec.model.engine.args",
        remedy="See `vllm serve --help=all` for what is allowed.",
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
