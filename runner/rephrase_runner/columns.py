"""Columns of the source: that they are there, what they hold, and the types of the kept ones.

The types of kept columns are decided once, when the run is planned, so that all parts of the run
have one schema. A value that does not fit its column's type without loss becomes null, and its
samples carry the flag `kept_null`.
"""

import base64
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from difflib import get_close_matches
from typing import Any

import pyarrow as pa

from rephrase_api.errors import InvalidSpec
from rephrase_api.v1alpha1.source import Source

_NAMES_SHOWN = 30


def schema_to_text(schema: pa.Schema) -> str:
    """A schema as one line of text, for the plan; metadata of the source files is dropped."""
    plain = pa.schema([pa.field(field.name, field.type) for field in schema])
    return base64.b64encode(plain.serialize().to_pybytes()).decode()


def schema_from_text(text: str) -> pa.Schema:
    """The schema that `schema_to_text` wrote."""
    return pa.ipc.read_schema(pa.BufferReader(base64.b64decode(text)))


def used_columns(source: Source) -> dict[str, str]:
    """Every column the spec names, with the field that names it first."""
    columns = source.columns
    used = {columns.text: "spec.source.columns.text"}
    if columns.id is not None:
        used.setdefault(columns.id, "spec.source.columns.id")
    for name in columns.keep:
        used.setdefault(name, "spec.source.columns.keep")
    for number, filter_ in enumerate(source.filters):
        used.setdefault(filter_.column, f"spec.source.filters[{number}].column")
    return used


def require_columns(used: Mapping[str, str], found: Collection[str], *, uri: str) -> None:
    """Refuse a file that lacks a column the spec names.

    Args:
        used: columns and the fields that name them, of `used_columns`.
        found: the file's columns.
        uri: the file.

    Raises:
        InvalidSpec: names column and field, lists what the file has, and the nearest name.
    """
    for name, field in used.items():
        if name not in found:
            names = list(found)
            shown = ", ".join(names[:_NAMES_SHOWN])
            more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
            near = get_close_matches(name, names, n=1)
            hint = f' Did you mean "{near[0]}"?' if near else ""
            raise InvalidSpec(
                f'no column "{name}" in {uri}',
                where=field,
                remedy=f"spec.source.uri has these columns there: {shown}{more}.{hint}",
            )


def plain_type(type_: pa.DataType) -> pa.DataType:
    """The type under which values of `type_` are kept: what every Parquet reader understands."""
    if isinstance(type_, pa.BaseExtensionType):
        return plain_type(type_.storage_type)
    if pa.types.is_dictionary(type_):
        return plain_type(type_.value_type)
    if is_text(type_) or pa.types.is_null(type_):
        return pa.string()
    if pa.types.is_large_binary(type_) or pa.types.is_binary_view(type_):
        return pa.binary()
    if pa.types.is_float16(type_):
        return pa.float32()
    # Python's own types end at microseconds
    if pa.types.is_timestamp(type_) and type_.unit == "ns":
        return pa.timestamp("us", type_.tz)
    if pa.types.is_duration(type_) and type_.unit == "ns":
        return pa.duration("us")
    if pa.types.is_time64(type_):
        return pa.time64("us")
    return type_


def is_text(type_: pa.DataType) -> bool:
    """Whether values of this type are strings."""
    if pa.types.is_dictionary(type_):
        return is_text(type_.value_type)
    return bool(
        pa.types.is_string(type_)
        or pa.types.is_large_string(type_)
        or pa.types.is_string_view(type_)
    )


def common_type(first: pa.DataType, second: pa.DataType) -> pa.DataType | None:
    """The plain type that holds the values of both, or None if there is none."""
    if pa.types.is_null(first) or pa.types.is_null(second):
        return second if pa.types.is_null(first) else first
    schemas = [pa.schema([("c", plain_type(type_))]) for type_ in (first, second)]
    try:
        return plain_type(pa.unify_schemas(schemas, promote_options="permissive").field("c").type)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return None


def plain_array(array: pa.Array) -> pa.Array:
    """`array` without dictionary or extension type."""
    if isinstance(array.type, pa.BaseExtensionType):
        return plain_array(array.storage)
    if pa.types.is_dictionary(array.type):
        return plain_array(array.dictionary_decode())
    return array


def values_as(array: pa.Array, type_: pa.DataType) -> tuple[list[Any], Collection[int]]:
    """The values of `array` as `type_` has them, None where one does not fit; and where that is."""
    array = plain_array(array)
    try:
        return array.cast(type_).to_pylist(), ()
    except (pa.ArrowException, ValueError):  # invalid UTF-8 is a ValueError too
        values: list[Any] = []
        misfits = set()
        for index, scalar in enumerate(array):
            try:
                values.append(scalar.cast(type_).as_py())
            except (pa.ArrowException, ValueError):
                values.append(None)
                misfits.add(index)
        return values, misfits


def json_type(kinds: Iterable[type]) -> pa.DataType:
    """The column type for JSON values of these Python types (NoneType left out).

    Whatever is neither all booleans, all numbers nor all strings becomes string: strings as they
    are, everything else as JSON text.
    """
    known = frozenset(kinds)
    if known == {bool}:
        return pa.bool_()
    if known == {int}:
        return pa.int64()
    if known and known <= {int, float}:
        return pa.float64()
    return pa.string()


def json_fit(type_: pa.DataType) -> Callable[[Any], Any]:
    """Takes a JSON value to that of a column whose type `json_type` chose; None = no fit."""
    if pa.types.is_boolean(type_):
        return lambda value: value if isinstance(value, bool) else None
    if pa.types.is_integer(type_):
        return _fit_integer
    if pa.types.is_floating(type_):
        return _fit_float
    return _fit_string


def is_encodable(text: str) -> bool:
    r"""Whether `text` can be written as UTF-8; a lone surrogate (``\ud800`` in JSON) cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _fit_integer(value: Any) -> int | None:  # noqa: ANN401 - any JSON value
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if -(2**63) <= value < 2**63 else None


def _fit_float(value: Any) -> float | None:  # noqa: ANN401 - any JSON value
    if isinstance(value, float):
        return value
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    try:
        return float(value) if float(value) == value else None
    except OverflowError:
        return None


def _fit_string(value: Any) -> str | None:  # noqa: ANN401 - any JSON value
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if text.isascii() or is_encodable(text) else None
