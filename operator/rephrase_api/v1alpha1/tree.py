"""Walks over model classes: which model a field holds, and the paths of all leaf fields."""

import types
from collections.abc import Iterator
from typing import Annotated, Any, Union, get_args, get_origin

from rephrase_api.v1alpha1.base import Model, camel


def model_of(annotation: Any) -> type[Model] | None:  # noqa: ANN401 - any annotation
    """The model that a field holds, itself, optionally or as a list's items; None for a leaf."""
    if get_origin(annotation) is Annotated:
        return model_of(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType, tuple):
        found = [model_of(part) for part in get_args(annotation) if part is not Ellipsis]
        return next((model for model in found if model is not None), None)
    return annotation if isinstance(annotation, type) and issubclass(annotation, Model) else None


def is_list(annotation: Any) -> bool:  # noqa: ANN401 - any annotation
    """Whether a field holds a list."""
    if get_origin(annotation) in (Annotated, Union, types.UnionType):
        return any(is_list(part) for part in get_args(annotation))
    return get_origin(annotation) is tuple


def leaves(model: type[Model], path: str = "") -> Iterator[str]:
    """Paths of all fields below `model` that hold no model, as in ``prompts[].template``."""
    for name, field in model.model_fields.items():
        here = f"{path}.{camel(name)}".removeprefix(".")
        below = model_of(field.annotation)
        if below is None:
            yield here
        else:
            yield from leaves(below, f"{here}[]" if is_list(field.annotation) else here)
