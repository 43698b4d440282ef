"""Keys of clips: made from upstream ids by a rule that never maps two ids to one key.

Rule: `<corpus>-<id>-<number of the clip, 4 digits or more>`. In the id, `a-z`, `0-9` and `-` stay; a capital letter
becomes `_` and the small letter; `_` becomes `__`; any other character becomes `_1` and two hex digits per UTF-8 byte.
Ids that would exceed 96 characters are cut there and end in `_2` and 16 hex digits of their SHA-256.
"""

from __future__ import annotations

import hashlib
import re

MAX_ID_LETTERS = 96
CORPUS_PATTERN = re.compile(r"[a-z0-9_]+")
KEY_PATTERN = re.compile(r"[a-z0-9_-]+")


def clip_key(corpus: str, upstream_id: str, clip: int) -> str:
    """Make the key of a clip.

    Args:
        corpus: `[a-z0-9_]+`; holds no dash, so the first dash of a key ends it.
        upstream_id: the id of the recording in the corpus, any text.
        clip: number of the clip within the recording, from 0.

    Raises:
        ValueError: a corpus name of another form, or a negative number.
    """
    if not CORPUS_PATTERN.fullmatch(corpus) or clip < 0:
        raise ValueError(f"corpus {corpus!r} must be [a-z0-9_]+, clip {clip} at least 0")
    return f"{corpus}-{_escape(upstream_id)}-{clip:04d}"


def _escape(upstream_id: str) -> str:
    escaped = "".join(_escape_letter(letter) for letter in upstream_id)
    if len(escaped) <= MAX_ID_LETTERS:
        return escaped
    # `_2` is not produced otherwise, so a cut id never equals a whole one.
    return (
        f"{escaped[:MAX_ID_LETTERS]}_2{hashlib.sha256(upstream_id.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}"
    )


def _escape_letter(letter: str) -> str:
    if re.fullmatch(r"[a-z0-9-]", letter):
        return letter
    if re.fullmatch(r"[A-Z]", letter):
        return "_" + letter.lower()
    if letter == "_":
        return "__"
    return "".join(f"_1{byte:02x}" for byte in letter.encode("utf-8", "surrogateescape"))
