"""DOOR to model folders and the Hugging Face hub: what a model is, before anything loads it."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rephrase_api.errors import AccessRefused, InvalidModel
from rephrase_runner.store import Store, is_local, local_path


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What is known of a model without loading it.

    Attributes:
        revision: the commit on the hub; None for a folder.
        context_tokens: the longest context it was made for; None if its config does not say.
        generation: its generation_config.json; empty if it has none.
    """

    revision: str | None = None
    context_tokens: int | None = None
    generation: dict[str, Any] = field(default_factory=dict)


async def folder(uri: str) -> ModelInfo:
    """Look at a model in a folder or bucket.

    Raises:
        InvalidModel: there is no such folder, or no config.json in it.
    """
    where = f"spec.model.uri {uri}"
    if is_local(uri) and not local_path(uri).is_dir():
        raise InvalidModel("no such folder", where=where, remedy=_FOLDER_REMEDY)
    store = Store(uri)
    config = await store.get("config.json")
    if config is None:
        raise InvalidModel("no config.json in it", where=where, remedy=_FOLDER_REMEDY)
    generation = await store.get("generation_config.json")
    return _info(
        _parse(config.data, f"{uri}/config.json"),
        _parse(generation.data, f"{uri}/generation_config.json") if generation else {},
        None,
    )


def repository(name: str, revision: str | None) -> ModelInfo:
    """Look at a model on the hub, or in its local cache if the hub is switched off. Blocking.

    Raises:
        InvalidModel: no such model or revision, or it is not a language model's repository.
        AccessRefused: the hub refuses us or cannot be reached.
    """
    # half a second, of which runs without a model on the hub need nothing
    import httpx2
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where = f"spec.model.name {name}"
    try:
        try:
            commit = HfApi().model_info(name, revision=revision).sha
        except OfflineModeIsEnabled:
            commit = None
        config = Path(hf_hub_download(name, "config.json", revision=commit or revision))
        commit = commit or config.parent.name  # the cache names a snapshot's folder by its commit
        generation = _generation(name, commit)
    except GatedRepoError as error:
        raise AccessRefused(
            "the model is gated and this account may not read it",
            where=where,
            remedy="Accept its terms on the hub and set HF_TOKEN (spec.model.secretRef).",
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        what = f"no revision {revision}" if isinstance(error, RevisionNotFoundError) else "no such"
        raise InvalidModel(
            f"{what} model on the hub, or it is private",
            where=where,
            remedy="Correct the name; for a folder use spec.model.uri; for a private one HF_TOKEN.",
        ) from error
    except LocalEntryNotFoundError as error:
        raise AccessRefused(
            "the hub cannot be reached and the model is not in the local cache",
            where=where,
            remedy="Check the network and HF_ENDPOINT, or name a folder in spec.model.uri.",
        ) from error
    except EntryNotFoundError as error:
        raise InvalidModel(
            "the repository has no config.json", where=where, remedy="Name a language model."
        ) from error
    except (HfHubHTTPError, httpx2.HTTPError, OSError) as error:
        raise AccessRefused(
            f"the hub does not answer: {str(error).splitlines()[0]}",
            where=where,
            remedy="Check the network and HF_ENDPOINT, or name a folder in spec.model.uri.",
        ) from error
    return _info(_parse(config.read_bytes(), str(config)), generation, commit)


_FOLDER_REMEDY = (
    "Name a folder with config.json, tokenizer and weights, or a hub model in spec.model.name."
)


def _generation(name: str, commit: str) -> dict[str, Any]:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        path = Path(hf_hub_download(name, "generation_config.json", revision=commit))
    except EntryNotFoundError:  # also what an offline cache says of a file it does not have
        return {}
    return _parse(path.read_bytes(), str(path))


def _parse(data: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError as error:
        raise InvalidModel(
            f"not JSON: {error}", where=where, remedy="Get the model again."
        ) from error
    return value if isinstance(value, dict) else {}


def _info(config: dict[str, Any], generation: dict[str, Any], revision: str | None) -> ModelInfo:
    text = config.get("text_config", config)  # multimodal models nest the language model
    return ModelInfo(revision, text.get("max_position_embeddings"), generation)
