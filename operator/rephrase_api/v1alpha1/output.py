"""`spec.output`: where the dataset is written, and in what form."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from rephrase_api.v1alpha1.base import Model
from rephrase_api.v1alpha1.fields import CLUSTER_ONLY, MAX_INTEGER, OutputUri
from rephrase_api.v1alpha1.shared import SecretRef, Storage

MEBIBYTE = 2**20


class Compression(StrEnum):
    """Parquet's compression of the output, as Parquet names it."""

    ZSTD = "zstd"
    SNAPPY = "snappy"
    GZIP = "gzip"
    NONE = "none"


class Output(Model):
    """Where the dataset is written. The folder belongs to this run alone."""

    uri: OutputUri
    """Folder of the dataset and of the run's ledger: `s3://`, `gs://`, `az://`, or a local path
    (`file:///` or a plain path) that driver and workers share. Must not lie inside the source."""
    storage: Storage = Storage()
    """How to reach the store. Default: as the cloud's own client would."""
    include_source_text: bool = False
    """Add the column `source_text` with the document beside each rewrite. Default: false."""
    secret_ref: Annotated[SecretRef | None, CLUSTER_ONLY] = None
    """Secret with the credentials to write the output; its keys are named like the environment
    variables of the cloud's client. Absent: the service account's identity; on a laptop: the
    environment."""
    target_file_bytes: Annotated[int, Field(ge=1024, le=MAX_INTEGER)] = 256 * MEBIBYTE
    """Size a finished Parquet file should have, in bytes. Default: 268435456, 256 MiB."""
    compression: Compression = Compression.ZSTD
    """zstd, snappy, gzip or none. Default: zstd."""
