"""The base of every model of the API: names, strictness, and the two ways of reading.

A file written by a person is read with unknown keys refused, so that a typing error is never
ignored. An object from the API server is read with unknown keys ignored, so that an old operator or
runner can meet the fields of a newer CRD. Both ways take camelCase keys only and convert nothing:
what the API server would refuse ("5" for a number) is refused here too.
"""

import json
from typing import Self

from pydantic import BaseModel, ConfigDict

_INITIALISMS = {"ai": "AI", "gpu": "GPU", "http": "HTTP", "url": "URL"}


def camel(name: str) -> str:
    """The YAML key of a snake_case attribute: ``price_per_gpu_hour`` is ``pricePerGPUHour``."""
    first, *rest = name.split("_")
    return first + "".join(_INITIALISMS.get(word, word.capitalize()) for word in rest)


class Model(BaseModel):
    """An immutable part of the API. In Python the attributes are snake_case, in YAML camelCase."""

    model_config = ConfigDict(
        frozen=True,
        allow_inf_nan=False,
        extra="forbid",
        alias_generator=camel,
        populate_by_name=True,
        use_attribute_docstrings=True,
    )

    @classmethod
    def from_file(cls, data: object) -> Self:
        """Read what a person wrote (parsed YAML); unknown keys are refused.

        Raises: pydantic.ValidationError: with every problem; `rephrase_api.manifest` puts it into
            sentences.
        """
        return cls.model_validate_json(
            json.dumps(data), strict=True, by_alias=True, by_name=False, extra="forbid"
        )

    @classmethod
    def from_api(cls, data: object) -> Self:
        """Read an object of the API server (parsed JSON); unknown keys are ignored.

        Raises:
            pydantic.ValidationError: the object does not fit the schema this version knows.
        """
        return cls.model_validate_json(
            json.dumps(data), strict=True, by_alias=True, by_name=False, extra="ignore"
        )

    def to_api(self) -> dict[str, object]:
        """The object as the API server stores it: camelCase keys, JSON values, nothing that is
        absent."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)
