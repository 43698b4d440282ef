"""The error tree: every error that a user can meet is one of these, with one line of text."""

from __future__ import annotations

from typing import ClassVar


class SetlistError(Exception):
    """Base of all errors that Setlist raises on purpose.

    The message says what went wrong, with which key or file, and what to do about it.
    """

    exit_code: ClassVar[int] = 1


class ParamsError(SetlistError):
    """The settings are wrong; the user can mend them."""

    exit_code: ClassVar[int] = 2


class ContractError(SetlistError):
    """Data or code broke a promise of DESIGN.md: a damaged shard, a missing checkpoint, a leak."""


class TransientError(SetlistError):
    """Something that may well work the next time: a worker that was killed, a full disk, a network."""
