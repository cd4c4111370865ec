"""A manifest's text → `RephraseRun`, or every problem it has, in sentences. Pure.

The laptop's way in; the API server checks the same by the CRD.
"""

from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from rephrase_api import names
from rephrase_api.documents import NotOneDocument, load_one
from rephrase_api.errors import Problems
from rephrase_api.sentences import Location, dotted, sentences, shown
from rephrase_api.v1alpha1.base import Model, camel
from rephrase_api.v1alpha1.fields import ClusterOnly
from rephrase_api.v1alpha1.rule import broken
from rephrase_api.v1alpha1.rules import RULES
from rephrase_api.v1alpha1.run import RephraseRun
from rephrase_api.v1alpha1.spec import RephraseRunSpec
from rephrase_api.v1alpha1.tree import model_of


def parse_run(text: str, *, where: str) -> RephraseRun:
    """Read a manifest.

    Args: text: YAML with one `RephraseRun`. A `status` in it is ignored, and so are fields set to
        null. where: name of the file, for messages.

    Raises:
        Problems: with all problems of the manifest, one a line.
    """
    try:
        data = load_one(text)
    except NotOneDocument as error:
        raise Problems([str(error)], where=where) from error
    if not isinstance(data, dict):
        raise Problems([f"must be a mapping, got {shown(data)}"], where=where)
    if foreign := list(_foreign(data)):
        raise Problems(foreign, where=where)
    found = _without_nulls({key: value for key, value in data.items() if key != "status"})
    try:
        run = RephraseRun.from_file(found)
    except ValidationError as error:
        problems = [*_missing_envelope(found), *sentences(error), *_broken_in_part(found, error)]
        raise Problems(list(dict.fromkeys(problems)), where=where) from error
    if problems := [*_missing_envelope(found), *broken(RULES, run)]:
        raise Problems(problems, where=where)
    return run


def problems_of(run: RephraseRun) -> list[str]:
    """Which rules an object of the API server breaks, one a line; empty if it is sound.

    The API server checks most of them itself, but sees nothing below `podTemplate`, and an object
    may be older than a rule.
    """
    return list(broken(RULES, run))


def cluster_only_fields(spec: RephraseRunSpec) -> list[str]:
    """Paths of the fields set to something that only a cluster can honor, as in
    ``spec.scaling.budget``.

    Fields are marked where they are declared (`ClusterOnly`). A field that is set to its default is
    not named, so that a manifest fetched from a cluster does not name them all.
    """
    return list(_cluster_only(spec, "spec"))


def _cluster_only(model: Model, path: str) -> Iterator[str]:
    for name, field in type(model).model_fields.items():
        value, here = getattr(model, name), f"{path}.{camel(name)}"
        if any(isinstance(mark, ClusterOnly) for mark in field.metadata):
            if name in model.model_fields_set and value != field.default:
                yield here
        elif isinstance(value, Model):
            yield from _cluster_only(value, here)
        elif isinstance(value, tuple):
            for index, item in enumerate(value):
                if isinstance(item, Model):
                    yield from _cluster_only(item, f"{here}[{index}]")


def _foreign(data: dict[str, Any]) -> Iterator[str]:
    """Says that the manifest is of another kind; its fields are then not worth a word."""
    for key, expected in (("apiVersion", names.API_VERSION), ("kind", names.KIND)):
        if data.get(key) not in (None, expected):
            yield f"{key}: must be {expected}, got {shown(data[key])}"


def _missing_envelope(data: dict[str, Any]) -> Iterator[str]:
    for key, expected in (("apiVersion", names.API_VERSION), ("kind", names.KIND)):
        if key not in data:
            yield f"{key}: must be set; write {key}: {expected}"


def _without_nulls(value: Any) -> Any:  # noqa: ANN401 - JSON
    """As the API server does: null in a field is absence."""
    if isinstance(value, dict):
        return {key: _without_nulls(below) for key, below in value.items() if below is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value


def _broken_in_part(data: dict[str, Any], error: ValidationError) -> Iterator[str]:
    """Rules broken in those parts of an invalid manifest that can be read by themselves.

    An object with an unknown key is read without it, but its own rules are not applied: the key may
    be the misspelled one that they miss.
    """
    unknown = {
        dotted(details["loc"][:-1])
        for details in error.errors(include_url=False)
        if details["type"] == "extra_forbidden"
    }
    for line in _readable(RephraseRun, data, ()):
        path, _, _ = line.partition(": ")
        if path not in unknown and path.rpartition(".")[0] not in unknown:
            yield line


def _readable(model: type[Model], data: object, location: Location) -> Iterator[str]:
    try:
        yield from broken(RULES, model.from_api(data), dotted(location))
    except ValidationError:
        if not isinstance(data, dict):
            return
        for name, field in model.model_fields.items():
            below = model_of(field.annotation)
            value = data.get(camel(name))
            if below is None or value is None:
                continue
            if isinstance(value, list):
                for index, item in enumerate(value):
                    yield from _readable(below, item, (*location, camel(name), index))
            else:
                yield from _readable(below, value, (*location, camel(name)))
