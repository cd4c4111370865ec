"""DOOR to datasets on the Hugging Face hub: which commit, which files, and where their bytes are.

A source ``hf://datasets/OWNER/NAME@REVISION/path`` is pinned to a commit when it is listed: the uris of its
files name the commit, so that what was planned is what is read, however the repository goes on.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import quote, unquote

from rephrase_api.errors import AccessRefused, InvalidSpec

SCHEME = "hf://datasets/"
_FIELD = "spec.source.uri"


@dataclass(frozen=True, slots=True)
class Repository:
    """A dataset. `revision`: branch, tag or commit; None for the newest."""

    name: str
    revision: str | None

    @property
    def uri(self) -> str:
        """What a source calls it."""
        at = f"@{quote(self.revision, safe='')}" if self.revision is not None else ""
        return f"{SCHEME}{self.name}{at}"


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a repository. `etag`: the hash of its content."""

    size: int
    etag: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a path means in one commit: a file, by its name, or all files of a folder, by path below it."""

    repository: Repository
    files: Mapping[str, HubFile]
    is_file: bool


def is_hub(uri: str) -> bool:
    """Whether `uri` is in a dataset on the hub."""
    return uri.startswith(SCHEME)


def split(uri: str) -> tuple[Repository, str]:
    """The dataset of a uri, and the path in it."""
    owner, _, rest = uri.removeprefix(SCHEME).partition("/")
    head, _, path = rest.partition("/")
    name, at, revision = head.partition("@")
    return Repository(f"{owner}/{name}", unquote(revision) if at else None), path


def snapshot(
    repository: Repository, path: str, *, endpoint: str = "", token: str = ""
) -> Snapshot | None:
    """Pin a dataset to its commit and list what `path` means; None if it means nothing. Blocking.

    Args:
        repository: the dataset.
        path: a file or folder, without slashes at its ends; empty for all of it.
        endpoint: of the hub; empty = HF_ENDPOINT or the hub itself.
        token: of an account; empty = HF_TOKEN, or who is logged in.

    Raises:
        InvalidSpec: there is no such dataset or revision.
        AccessRefused: the hub refuses us or cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import EntryNotFoundError
    from huggingface_hub.hf_api import RepoFile

    api = HfApi(endpoint=endpoint or None, token=token or None)
    name, kind = repository.name, "dataset"
    with _told(repository):
        found = api.dataset_info(name, revision=repository.revision, expand=["sha"])
        commit = Repository(name, found.sha)
        if path:
            about = api.get_paths_info(name, path, revision=found.sha, repo_type=kind)
            files = [one for one in about if isinstance(one, RepoFile)]
            if files:
                return Snapshot(commit, {path.rpartition("/")[2]: _file(files[0])}, is_file=True)
        try:
            tree = api.list_repo_tree(
                name, path or None, recursive=True, revision=found.sha, repo_type=kind
            )
            below = {
                one.path.removeprefix(f"{path}/"): _file(one)
                for one in tree
                if isinstance(one, RepoFile)
            }
        except EntryNotFoundError:
            return None
    return Snapshot(commit, below, is_file=False)


def address(
    repository: Repository, *, endpoint: str = "", token: str = ""
) -> tuple[str, dict[str, str]]:
    """The URL below which the files of a pinned dataset are, and the headers to ask it with.

    The hub sends a reader on to where the bytes are; what it is asked with does not go along to another host.
    """
    from huggingface_hub import constants, get_token

    base = (endpoint or constants.ENDPOINT).rstrip("/")
    revision = quote(repository.revision or constants.DEFAULT_REVISION, safe="")
    token = token or get_token() or ""
    url = f"{base}/datasets/{repository.name}/resolve/{revision}"
    return url, {"Authorization": f"Bearer {token}"} if token else {}


def _file(found: object) -> HubFile:
    from huggingface_hub.hf_api import RepoFile

    if not isinstance(found, RepoFile):
        raise TypeError(found)
    return HubFile(found.size, found.lfs.sha256 if found.lfs is not None else found.blob_id)


@contextmanager
def _told(repository: Repository) -> Iterator[None]:
    """The hub's errors as ours."""
    import httpx2
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where = f"{_FIELD} {repository.uri}"
    try:
        yield
    except GatedRepoError as error:
        raise AccessRefused(
            "the dataset is gated and this account may not read it",
            where=where,
            remedy="Accept its terms on the hub and set HF_TOKEN (a key of spec.source.secretRef).",
        ) from error
    except RevisionNotFoundError as error:
        raise InvalidSpec(
            f"no revision {repository.revision} of it on the hub",
            where=where,
            remedy="Name a branch, tag or commit, a slash in it written as %2F.",
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise InvalidSpec(
            "no such dataset on the hub, or it is private",
            where=where,
            remedy="Correct the name; for a private one set HF_TOKEN (a key of spec.source.secretRef).",
        ) from error
    except (HfHubHTTPError, OfflineModeIsEnabled, httpx2.HTTPError, OSError) as error:
        raise AccessRefused(
            f"the hub does not answer: {str(error).splitlines()[0]}",
            where=where,
            remedy="Check the network, HF_ENDPOINT and HF_HUB_OFFLINE.",
        ) from error
