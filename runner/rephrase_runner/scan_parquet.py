"""Planning of Parquet: only footers are read, for rows of row groups and types of columns."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

import pyarrow as pa

from rephrase_api.errors import InvalidSpec
from rephrase_api.v1alpha1.source import Source
from rephrase_runner.columns import (
    common_type,
    is_text,
    plain_type,
    require_columns,
    used_columns,
)
from rephrase_runner.filters import check_values
from rephrase_runner.listing import ListedFile, UnreadableFile
from rephrase_runner.source_parquet import DAMAGE, first_line, open_parquet
from rephrase_runner.units import SourceFile


@dataclass(frozen=True, slots=True)
class Footer:
    """What planning needs of a file."""

    row_groups: tuple[int, ...]
    schema: pa.Schema


class ParquetScan:
    """Reads footers, checks the schemas of all files against the spec and each other."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._types: dict[str, tuple[pa.DataType, str]] = {}

    def look(self, raw: io.RawIOBase, name: str, on_chunk: Callable[[], None]) -> Footer:
        """Row groups and schema; reads the footer only.

        Raises:
            UnreadableFile: not Parquet, damaged, or encrypted.
        """
        try:
            file = open_parquet(raw)
        except DAMAGE as error:
            raise UnreadableFile(first_line(error)) from error
        metadata = file.metadata
        groups = tuple(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))
        if sum(groups) != metadata.num_rows or min(groups, default=0) < 0:
            raise UnreadableFile("its row groups do not add up to its rows")
        return Footer(groups, file.schema_arrow)

    def add(self, file: ListedFile, found: Footer) -> SourceFile:
        """Check one more file.

        Raises:
            InvalidSpec: a column is missing, of a wrong type, or of another type than elsewhere.
        """
        self._check(found.schema, file.uri)
        return SourceFile(
            file.uri,
            file.name,
            file.size,
            file.etag,
            rows=sum(found.row_groups),
            row_groups=found.row_groups,
        )

    def kept(self) -> pa.Schema:
        """The types of the kept columns; checks the filters' values against the columns' types.

        Raises:
            InvalidSpec: a filter can never hold.
        """
        types = {name: type_ for name, (type_, _) in self._types.items()}
        if types:
            filters = self._source.filters
            check_values(filters, {f.column: _python_types(types[f.column]) for f in filters})
        keep = self._source.columns.keep
        return pa.schema([(name, plain_type(types.get(name, pa.null()))) for name in keep])

    def _check(self, schema: pa.Schema, uri: str) -> None:
        names = [field.name for field in schema]
        require_columns(used_columns(self._source), names, uri=uri)
        for name, where in used_columns(self._source).items():
            if names.count(name) > 1:
                raise InvalidSpec(
                    f'{uri} has several columns "{name}"', where=where, remedy="Rename them."
                )
            type_ = schema.field(name).type
            known, known_uri = self._types.get(name, (type_, uri))
            both = common_type(known, type_)
            if both is None:
                raise InvalidSpec(
                    f'column "{name}" is {type_} in {uri} but {known} in {known_uri}',
                    where=where,
                    remedy="Convert the files, or choose among them by spec.source.include.",
                )
            self._types[name] = (type_ if known == type_ else both, known_uri)
        self._check_types(schema, uri)

    def _check_types(self, schema: pa.Schema, uri: str) -> None:
        columns = self._source.columns
        text = schema.field(columns.text).type
        if not (is_text(text) or pa.types.is_null(text)):
            strings = [field.name for field in schema if is_text(field.type)]
            raise InvalidSpec(
                f'column "{columns.text}" is {text} in {uri}',
                where="spec.source.columns.text",
                remedy=(
                    "It must hold strings (string, large_string, or a dictionary of strings). "
                    f"Columns of strings there: {', '.join(strings) or 'none'}."
                ),
            )
        for name, where in used_columns(self._source).items():
            type_ = plain_type(schema.field(name).type)
            if pa.types.is_nested(type_) and name not in columns.keep:
                raise InvalidSpec(
                    f'column "{name}" is {type_} in {uri}',
                    where=where,
                    remedy="Only kept columns may be nested; name a column of single values.",
                )


def _python_types(type_: pa.DataType) -> set[type]:
    """What values of a filter column are in Python; empty where all are null."""
    if pa.types.is_null(type_):
        return set()
    if pa.types.is_boolean(type_):
        return {bool}
    if pa.types.is_integer(type_):
        return {int}
    if pa.types.is_floating(type_):
        return {float}
    if pa.types.is_decimal(type_):
        return {Decimal}
    if pa.types.is_date(type_) or pa.types.is_timestamp(type_):
        return {datetime}
    return {str} if is_text(type_) else {bytes}
