"""Small objects that several parts of the spec refer to."""

from typing import Annotated

from pydantic import Field

from rephrase_api.v1alpha1.base import Model
from rephrase_api.v1alpha1.fields import DataKey, Matches, ObjectName


class SecretRef(Model):
    """Names a Secret of the run's namespace. Its keys are mounted as read-only files."""

    name: ObjectName
    """Name of the Secret."""


class SecretKeyRef(Model):
    """Names one key of a Secret of the run's namespace. It is mounted as a read-only file."""

    name: ObjectName
    """Name of the Secret."""
    key: DataKey = "api-key"
    """Key in the Secret whose value is taken. Default: `api-key`."""


class Storage(Model):
    """How to reach an object store that is not the cloud's own. Not part of the run's identity."""

    endpoint: (
        Annotated[
            str,
            Field(max_length=512),
            Matches(r"^https?://[^\s@]+$", "must be an http:// or https:// URL"),
        ]
        | None
    ) = None
    """URL of an S3-compatible store, as in `http://127.0.0.1:9000`. Absent: the cloud's own."""
    region: (
        Annotated[
            str,
            Field(max_length=64),
            Matches(r"^[a-z0-9-]+$", "must be a region, as in 'us-east-1'"),
        ]
        | None
    ) = None
    """Region of the bucket. Absent: what the environment says, or what the store answers."""
    allow_http: bool = False
    """Allow an endpoint without TLS. Default: false."""
