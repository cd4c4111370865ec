"""Types that several fields share, each with the same bounds in Python and in the CRD's schema.

A bound lives in one place here and has two readers: pydantic, for files, and `rephrase_api.crd`,
for the API server. `Matches` carries the sentence that a person reads when a pattern does not fit.
"""

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

if TYPE_CHECKING:
    from collections.abc import Hashable

INT32 = 2**31 - 1
MAX_INTEGER = 2**53 - 1
"""Largest integer that JSON keeps exactly; the API server reads bounds as floating-point
numbers."""
WORDS = "x-rephrase-words"
"""Key of a pattern's words in the JSON schema; never part of the CRD."""


@dataclass(frozen=True, slots=True)
class Matches:
    """A string that fits a regular expression (RE2 syntax, anchored), told to people in `words`."""

    pattern: str
    words: str

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:  # noqa: ANN401
        """Check as RE2 does: ASCII classes, and no newline slips past the ``$``."""
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """The same pattern for the API server, and the words for `rephrase_api.sentences`."""
        return {**handler(schema), "pattern": self.pattern, WORDS: self.words}

    def _check(self, value: str) -> str:
        if re.fullmatch(self.pattern, value, re.ASCII) is None:
            raise PydanticCustomError("pattern", "{words}", {"words": self.words})
        return value


@dataclass(frozen=True, slots=True)
class IntOrString:
    """A string that may be written as a bare whole number (`x-kubernetes-int-or-string`).

    The bounds hold for the bare number only; the pattern holds for the string.
    """

    minimum: int | None = None
    maximum: int | None = None

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """A schema without a type: the extension stands for it."""
        bounds = {"minimum": self.minimum, "maximum": self.maximum}
        return {
            "x-kubernetes-int-or-string": True,
            **{key: value for key, value in handler(schema).items() if key != "type"},
            **{key: value for key, value in bounds.items() if value is not None},
        }


@dataclass(frozen=True, slots=True)
class ClusterOnly:
    """Marks a field that only a cluster can honor; `rephrase run` says so when it is set."""


CLUSTER_ONLY = ClusterOnly()


def number_as_text(value: object) -> object:
    """A bare YAML number as the decimal string it stands for; anything else unchanged."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return format(Decimal(str(value)), "f")


@dataclass(frozen=True, slots=True)
class Unique:
    """A list without duplicates: of scalars, or of objects that differ in the field `key`."""

    key: str | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:  # noqa: ANN401
        """Refuse duplicates, which the API server does by the list's type."""
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """A set, or a map by `key`: server-side apply then merges item by item."""
        if self.key is None:
            return {**handler(schema), "x-kubernetes-list-type": "set"}
        return {
            **handler(schema),
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": [self.key],
        }

    def _check(self, items: tuple[Any, ...]) -> tuple[Any, ...]:
        seen: set[Hashable] = set()
        for item in items:
            identity = item if self.key is None else getattr(item, self.key)
            if identity in seen:
                what = "values" if self.key is None else f"a {self.key}"
                raise PydanticCustomError(
                    "duplicate",
                    "must not have {what} twice, got {value} twice",
                    {"what": what, "value": repr(identity)},
                )
            seen.add(identity)
        return items


def _preserve_unknown_fields(schema: dict[str, Any]) -> None:
    schema.clear()
    schema.update({"type": "object", "x-kubernetes-preserve-unknown-fields": True})


DNS_LABEL = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
DNS_SUBDOMAIN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
MONEY = r"^[0-9]{1,12}(\.[0-9]{1,6})?$"
LABEL_VALUE = r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"

DnsLabel = Annotated[
    str,
    Field(max_length=63),
    Matches(DNS_LABEL, "must be lower-case letters, digits and '-', as in 'spot-l4'"),
]
ObjectName = Annotated[
    str,
    Field(max_length=253),
    Matches(DNS_SUBDOMAIN, "must be the name of a Kubernetes object, as in 'hub-token'"),
]
LabelValue = Annotated[
    str,
    Field(max_length=63),
    Matches(LABEL_VALUE, "must be letters, digits, '-', '_' and '.', at most 63 of them"),
]
DataKey = Annotated[
    str,
    Field(max_length=253),
    Matches(r"^[-._a-zA-Z0-9]+$", "must be a key of a Secret or ConfigMap, as in 'token'"),
]
ColumnName = Annotated[str, Field(min_length=1, max_length=256)]
ImageName = Annotated[
    str,
    Field(max_length=512),
    Matches(
        r"^[a-zA-Z0-9][-a-zA-Z0-9._:/@]*$", "must be an image, as in 'registry.io/app@sha256:...'"
    ),
]

Money = Annotated[
    str,
    BeforeValidator(number_as_text),
    Field(max_length=20),
    Matches(MONEY, "must be an amount, as in '500' or '1.95'"),
    IntOrString(minimum=0, maximum=999_999_999_999),
]
Fraction = Annotated[
    str,
    BeforeValidator(number_as_text),
    Field(max_length=20),
    Matches(
        r"^(0?\.[0-9]*[1-9][0-9]*|1(\.0+)?)$",
        "must be a decimal above 0 and at most 1, as in '0.01'",
    ),
    IntOrString(minimum=1, maximum=1),
]
Percentage = Annotated[
    str,
    Field(max_length=20),
    Matches(r"^(100(\.0+)?|[0-9]{1,2}(\.[0-9]+)?)%$", "must be from '0%' to '100%', as in '1%'"),
]
Quantity = Annotated[
    str,
    BeforeValidator(number_as_text),
    Field(max_length=32),
    Matches(
        r"^([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][-+]?[0-9]+)?$",
        "must be a Kubernetes quantity, as in '6', '500m' or '24Gi'",
    ),
    IntOrString(minimum=0),
]
Port = Annotated[int, Field(ge=1024, le=65535)]

_BUCKET = r"[A-Za-z0-9][-A-Za-z0-9._]*(/[^\x00-\x1f]*)?"
_NAME = r"[A-Za-z0-9][-A-Za-z0-9._]*"
_HUB = rf"hf://datasets/{_NAME}/{_NAME}(@[^/\x00-\x1f]+)?(/[^\x00-\x1f]*)?"
_LOCAL = r"file:///[^\x00-\x1f]+|[^:\s]([^:\x00-\x1f]*[^:\s])?"

SourceUri = Annotated[
    str,
    Field(max_length=1024),
    Matches(
        rf"^((s3|gs|az)://{_BUCKET}|{_HUB}|https?://[^\s/@]+/[^\s]+|{_LOCAL})$",
        "must be an s3://, gs://, az://, hf://datasets/ or https:// location, or a local file "
        "or folder (a path, or file:/// with an absolute one)",
    ),
]
OutputUri = Annotated[
    str,
    Field(max_length=1024),
    Matches(
        rf"^((s3|gs|az)://{_BUCKET}|{_LOCAL})$",
        "must be an s3://, gs:// or az:// location, or a local folder "
        "(a path, or file:/// with an absolute one)",
    ),
]
ModelUri = OutputUri

Labels = Annotated[dict[str, LabelValue], Field(max_length=64)]
Quantities = Annotated[dict[str, Quantity], Field(max_length=16)]
Overlay = Annotated[dict[str, Any], Field(json_schema_extra=_preserve_unknown_fields)]
