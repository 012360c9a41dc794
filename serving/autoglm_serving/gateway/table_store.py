"""The last good routing table on disk, so that a gateway serves without its operator."""

import logging
import os
from pathlib import Path

from pydantic import ValidationError

from autoglm_serving.routing_table import RoutingTable, SignedTable, TableRefused, verify

_log = logging.getLogger(__name__)

FILE_NAME = "routing-table.json"


class StaleTable(TableRefused):
    """The table is older than, or contradicts, the one in use."""


def read_key(token_file: Path) -> bytes:
    """The key shared with the operator. Read at each use: a rotated file counts at once."""
    return token_file.read_bytes().strip()


class TableStore:
    """Takes tables from the operator, refuses old and foreign ones, keeps the last good one."""

    def __init__(self, state_dir: Path, token_file: Path) -> None:
        self._path = state_dir / FILE_NAME
        self._token_file = token_file
        self._current: tuple[RoutingTable, str] | None = None

    def load(self) -> RoutingTable | None:
        """The table on disk, if there is a good one. A bad file is reported and left alone."""
        try:
            signed = SignedTable.model_validate_json(self._path.read_bytes())
            table = verify(signed, read_key(self._token_file))
        except FileNotFoundError:
            return None
        except (OSError, ValidationError, TableRefused) as error:
            _log.error("the routing table on disk cannot be used, waiting for the operator: %s", error)
            return None
        self._current = (table, signed.payload)
        return table

    def take(self, signed: SignedTable) -> RoutingTable:
        """Check a table and keep it. Raises TableRefused, or StaleTable when it is older than the current one."""
        table = verify(signed, read_key(self._token_file))
        if self._current is not None:
            current, payload = self._current
            if table.generation < current.generation:
                raise StaleTable(f"table {table.generation} is older than {current.generation}, which is in use")
            if table.generation == current.generation and signed.payload != payload:
                raise StaleTable(f"another table with the number {table.generation} is in use: raise the version")
        _write(self._path, signed.model_dump_json(by_alias=True).encode())
        self._current = (table, signed.payload)
        return table


def _write(path: Path, content: bytes) -> None:
    """Replace a file in one step: after a crash there is the old one or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
