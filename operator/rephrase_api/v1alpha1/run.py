"""The `RephraseRun` object as a whole."""

from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, Field

from rephrase_api.v1alpha1.base import Model
from rephrase_api.v1alpha1.fields import LabelValue
from rephrase_api.v1alpha1.spec import RephraseRunSpec

MAX_NAME_CHARACTERS = 45
"""So that the name of a worker's pod, made from it, is still a DNS label."""


class Metadata(Model):
    """What identifies a run. The API server's own fields are taken as they come."""

    name: Annotated[str, Field(min_length=1, max_length=253)]
    """Name of the run, at most 45 characters, since names of Jobs and pods are made from it."""
    namespace: Annotated[str, Field(min_length=1, max_length=63)] | None = None
    """Namespace of the run. Absent: the client's own; a laptop has none."""
    labels: dict[str, LabelValue] = Field(default={})
    """Labels of the run object. Default: none."""
    annotations: dict[str, str] = Field(default={})
    """Annotations of the run object. Default: none."""
    generate_name: str | None = None
    """The API server's. Absent: the name was written out."""
    uid: str | None = None
    """The API server's: identity of this very object. Absent in files."""
    generation: int | None = None
    """The API server's: counts changes of the spec. Absent in files."""
    resource_version: str | None = None
    """The API server's: changes with every write. Absent in files."""
    creation_timestamp: AwareDatetime | None = None
    """The API server's: when the object was created. Absent in files."""
    deletion_timestamp: AwareDatetime | None = None
    """The API server's: when deletion was asked for. Absent: it was not."""
    deletion_grace_period_seconds: int | None = None
    """The API server's, with the deletion timestamp. Absent: not being deleted."""
    finalizers: tuple[str, ...] = ()
    """The API server's: who must let go before the object is deleted. Default: none."""
    owner_references: tuple[dict[str, Any], ...] = ()
    """The API server's: objects that this one goes away with. Default: none."""
    managed_fields: tuple[dict[str, Any], ...] = ()
    """The API server's: who wrote which field. Default: none."""
    self_link: str | None = None
    """The API server's, of old. Absent since Kubernetes 1.20."""


class RephraseRun(Model):
    """A run: a source of documents, prompts, a model, and the dataset that comes of them."""

    api_version: Literal["rephrase.io/v1alpha1"] = "rephrase.io/v1alpha1"
    """Group and version of the API."""
    kind: Literal["RephraseRun"] = "RephraseRun"
    """Kind of the object."""
    metadata: Metadata
    """What identifies the run."""
    spec: RephraseRunSpec
    """What is asked for."""
