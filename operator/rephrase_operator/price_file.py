"""The price list in its file, read again when the file changes: a mounted ConfigMap is updated in place."""

import logging
from pathlib import Path

from rephrase_api.errors import InvalidSpec, RephraseError
from rephrase_api.prices import PriceList, parse_prices

logger = logging.getLogger(__name__)
_Version = tuple[int, int, int]


class PriceFile:
    """A file with a price list, or none.

    Args:
        path: of the file; empty = there is no list.

    Raises:
        InvalidSpec: it cannot be used. Later on that ends nothing: the last good list stays.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path) if path else None
        self._version = self._seen()
        self._list = self._read() if self._path is not None else None
        self.refused = False
        """Whether the file as it is now cannot be used."""

    def current(self) -> PriceList | None:
        """The last good list; looks at the file and reads it only if it is another one."""
        version = self._seen()
        if version != self._version:
            self._version = version
            try:
                self._list = self._read()
            except RephraseError as error:
                self.refused = True
                logger.error("price list refused, the last one stays", extra={"error": str(error)})
            else:
                self.refused = False
                logger.info("price list read", extra={"path": str(self._path)})
        return self._list

    def _seen(self) -> _Version | None:
        """Which version of the file is there; None if none is."""
        if self._path is None:
            return None
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def _read(self) -> PriceList:
        try:
            text = Path(self._path or "").read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidSpec(
                f"cannot be read: {error}",
                where=str(self._path),
                remedy="It is the price list of REPHRASE_OPERATOR_PRICES; the chart mounts it.",
            ) from error
        return parse_prices(text, where=str(self._path))
