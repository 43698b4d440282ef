"""Titles of songs, folded so that covers and editions of one song meet."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping

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


def tag_groups(tags: Mapping[str, str]) -> dict[str, str]:
    """Groups that the tags of a file tell: its song, artist and album.

    A song is known by its title in either script, so that it meets a corpus that knows both; an album by its artist
    too.
    """
    song, artist = fold_title(tags.get("title", "")), fold_title(tags.get("artist", ""))
    album_artist = fold_title(tags.get("albumartist", "")) or artist
    album = fold_title(tags.get("album", ""))
    groups = {"song": f"title:{song}", "song_in_english": f"title:{song}"} if song else {}
    groups |= {"artist": f"name:{artist}"} if artist else {}
    return groups | ({"album": f"name:{album_artist}/{album}"} if album else {})


def _letters(text: str) -> str:
    return "".join(letter for letter in text if letter.isalnum())
