"""Rows of a corpus' CSV, by column name."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pipeline.errors import ContractError, ParamsError


def read_rows(path: Path, columns: Sequence[str], *, corpus: str) -> Iterator[tuple[int, Mapping[str, str]]]:
    """Read a CSV whatever its line ends, byte order mark or further columns.

    Args:
        path: the file.
        columns: names that it must have.
        corpus: whose settings to mend when the file is not there.

    Yields:
        Number of the row, from 1, and its fields by column name.

    Raises:
        ParamsError: no such file.
        ContractError: a column is missing, or it is no UTF-8 CSV.
    """
    try:
        # newline="": of MusicCaps three byte variants circulate, with line breaks of either kind inside quotes.
        with path.open(encoding="utf-8-sig", newline="") as file:
            # strict: a quote that is never closed would swallow the rows below it in silence.
            reader = csv.DictReader(file, strict=True)
            lacking = [name for name in columns if name not in (reader.fieldnames or ())]
            if lacking:
                raise ContractError(f"{path}: no column {', '.join(lacking)}; is it the CSV of {corpus}?")
            for number, row in enumerate(reader, 1):
                # A row that is cut short lacks its last fields: the source finds them empty, and faults that row.
                yield number, {name: row[name] or "" for name in row if name is not None}
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise ParamsError(f"{path}: no such file; set sources.{corpus}.root to the folder that holds the CSV") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ContractError(f"{path}: not a readable UTF-8 CSV ({error}); mend it, or take a fresh copy") from error
