"""Titles of songs, folded so that covers and editions of one song meet."""

from __future__ import annotations

import re
import unicodedata

# "(cover)", "【歌ってみた】", "[Official Video]": what stands in brackets is about the recording, not the song.
BRACKETED = re.compile(r"[(\[{【〈《「『〔][^)\]}】〉》」』〕]*[)\]}】〉》」』〕]")
# "feat. X", "ft X", "cover by X", "- Live at X", "/ X": what follows is about who plays.
TAIL = re.compile(r"\s(?:feat|ft|covered|cover|remix|live|ver|version)\b.*$|\s[-–—/|／].*$")


def fold_title(title: str) -> str:
    """Fold a title to what its covers share.

    Letter case, width, accents of form (NFKC), punctuation, spaces, brackets and what follows a dash go; a title that
    would vanish keeps its letters.

    Returns:
        Letters and digits only; empty for a title without any.
    """
    plain = unicodedata.normalize("NFKC", title).casefold().strip()
    core = TAIL.sub("", BRACKETED.sub(" ", plain))
    return _letters(core) or _letters(plain)


def _letters(text: str) -> str:
    return "".join(letter for letter in text if letter.isalnum())
