"""Titles of songs, folded so that covers and editions of one song meet.

What a title looks like is a guess, so `title_folds` gives every song that it may name, the likeliest first. Joining two
songs by mistake costs a little variety; parting a song from its cover leaks it from train into test. Hence:

- 「…」 and 『…』 hold the song, unless they hold the film or series that it comes from.
- Of `A / B` the first side that can be a song is one: Japanese uploads write `song / artist`. The other side would join
  all covers of an artist.
- Of `A - B` either side may be the song: both spellings are usual, and Western ones put the artist first.
- A side that the tags or the channel name is the artist, and drops out.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence, Set

MAX_FOLDS = 3
"""Songs that one title may name: as many as `song`, `song_2`, `song_3` are levels."""

QUOTED = re.compile(r"[「『]([^」』]*)[」』]")
WORK = re.compile(
    r"(?:アニメ|映画|ドラマ|劇場版|ゲーム)\s*[「『][^」』]*[」』]"
    r"|[「『][^」』]*[」』]\s*(?:の?(?:主題歌|挿入歌|テーマ|オープニング|エンディング)|op\b|ed\b|より)"
)
# "(cover)", "【歌ってみた】", "[Official Video]": what stands in brackets is about the recording, not the song.
BRACKETED = re.compile(r"[(\[{【〈《〔]([^)\]}】〉》〕]*)[)\]}】〉》〕]")
TILDES = re.compile(r"[~〜][^~〜]*[~〜]")
CREDIT = re.compile(r"\s(?:feat|ft|featuring)\b.*$|\s(?:covered|cover|sung|performed|arranged)\s+by\b.*$")
# Without spaces a dash or a slash parts Japanese only: AC/DC and A-ha are names.
DASH = re.compile(r"\s[-–—―:]\s|\s[–—―]|[–—―]\s|(?<=[^\x00-\x7f])[-–—]|[-–—](?=[^\x00-\x7f])")
SLASH = re.compile(r"\s[/|｜]\s*|[/|｜]\s|(?<=[^\x00-\x7f])[/|｜]|[/|｜](?=[^\x00-\x7f])")
JAPANESE_NOTE = (
    r"(?:歌|うた|唄|弾|叩|演奏|踊|ハモ)\S{0,3}ってみた|(?:弾|叩)いてみた|演奏してみた|ハモってみた|カラオケ|インスト(?:ゥルメンタル)?"
    r"|オフボーカル|ピアノ|弾き語り|生歌|公式|カバー|カヴァー|フル|歌詞付き?|ライブ"
)
ENGLISH_NOTE = (
    r"official|music|lyrics?|video|audio|movie|mv|m/v|pv|hd|hq|4k|full|short|size|ver|version|cover|covers|covered|live|remix|"
    r"karaoke|instrumental|inst|off|vocal|acoustic|piano|guitar|english|japanese|original|visualizer|remaster"
    r"|remastered|edit|mix|demo|the first take"
)
WORDS = rf"(?:{JAPANESE_NOTE}|(?<!\w)(?:{ENGLISH_NOTE})(?!\w)|(?<!\w)\d{{4}}(?!\w))"
# A side that says nothing but such words, or begins as a place and time of playing do.
NOTE = re.compile(rf"(?:[\W_]*{WORDS})+[\W_]*|[\W_]*live\s+(?:(?:at|in|from|on|ver|version|session)\b|@).*")
TRAILING = re.compile(
    rf"(?:\s+(?:{JAPANESE_NOTE}|official\s+(?:music\s+|lyric\s+)?(?:video|audio|mv)|music\s+video|lyrics?\s+video|mv|pv|m/v))+[\W_]*$"
)
OF_CHANNELS = re.compile(r"公式|チャンネル|\b(?:official|channel|youtube|ch|topic|music)\b|vevo$")
LEADING = re.compile(rf"^(?:(?:{JAPANESE_NOTE})\s+)+")
EDITION = re.compile(
    r"\s+(?:(?:piano|guitar|acoustic|live|full|short)\s+)?(?:cover|live|remix|ver|version|karaoke|instrumental|acoustic)[\W_]*$"
)


def fold_title(title: str) -> str:
    """Fold a title to what its covers share: the likeliest of `title_folds`.

    Returns:
        Letters and digits only; empty for a title without any.
    """
    return next(iter(title_folds(title)), "")


def title_folds(title: str, names: Iterable[str] = ()) -> tuple[str, ...]:
    """Fold every song that a title may name.

    Letter case, width, accents of form (NFKC), punctuation and spaces go, and so does what is about the recording; a
    title that would vanish keeps its letters.

    Args:
        title: of a file, a video, a row.
        names: of those who play, from tags or the channel; a side of the title that is one of them is no song.

    Returns:
        Letters and digits only, the likeliest song first; none for a title without any.
    """
    plain = _plain(title)
    players = {letters for name in names for letters in _name_letters(_plain(name))}
    sides = _sides(plain, players) or _sides(plain, set())
    folds = [fold for side in sides for fold in _editions(side)] or [_letters(plain)]
    return tuple(dict.fromkeys(fold for fold in folds if fold))[:MAX_FOLDS]


def tag_groups(tags: Mapping[str, str], names: Sequence[str] = ()) -> dict[str, str]:
    """Groups that the tags of a file tell: its songs, artist and album.

    A song is known by its title in either script, so that it meets a corpus that knows both; an album by its artist
    too.

    Args:
        tags: `title`, `artist`, `albumartist`, `album`, as far as there are any.
        names: further names of those who play, such as the channel.
    """
    artist = fold_title(tags.get("artist", ""))
    players = [name for name in (tags.get("artist", ""), tags.get("albumartist", ""), *names) if name]
    album_artist = fold_title(tags.get("albumartist", "")) or artist
    album = fold_title(tags.get("album", ""))
    groups = song_groups(title_folds(tags.get("title", ""), players))
    groups |= {"artist": f"name:{artist}"} if artist else {}
    return groups | ({"album": f"name:{album_artist}/{album}"} if album else {})


def song_groups(folds: Sequence[str]) -> dict[str, str]:
    """Groups of a title's folds: levels `song` and `song_in_english` of the likeliest, `song_2`, `song_3` of others."""
    if not folds:
        return {}
    others = {f"song_{number}": f"title:{fold}" for number, fold in enumerate(folds[1:], 2)}
    return {"song": f"title:{folds[0]}", "song_in_english": f"title:{folds[0]}"} | others


def _sides(plain: str, players: Set[str]) -> list[str]:
    """Parts of a title that can each be the song, the likeliest first; empty where there is none."""
    without_work = WORK.sub(" ", plain)
    core = QUOTED.sub(" ", TILDES.sub(" ", BRACKETED.sub(" ", without_work)))
    # 【song】歌ってみた: where nothing is left outside, brackets hold the song after all.
    return (
        _songs(QUOTED.findall(without_work), players)
        or _split(core, players)
        or _songs(BRACKETED.findall(plain), players)
        or _songs(QUOTED.findall(plain), players)
    )


def _split(core: str, players: Set[str]) -> list[str]:
    for part in SLASH.split(f" {_uncredited(core)} "):
        if sides := _songs(map(_uncredited, DASH.split(f" {part.strip()} ")), players):
            # `artist - song` is the more usual of the two.
            return sides[1:] + sides[:1]
    return []


def _songs(sides: Iterable[str], players: Set[str]) -> list[str]:
    return [side for side in sides if _letters(side) not in {"", *players} and not NOTE.fullmatch(side)]


def _name_letters(name: str) -> tuple[str, str]:
    return _letters(name), _letters(OF_CHANNELS.sub("", name))


def _uncredited(text: str) -> str:
    return LEADING.sub("", TRAILING.sub("", CREDIT.sub("", f" {text.strip()}")).strip())


def _editions(side: str) -> list[str]:
    """A side as it stands, and without a last word that may be about the recording: `Under Cover` may be a song."""
    core = _uncredited(BRACKETED.sub(" ", side)) or side
    return [fold for text in (core, EDITION.sub("", core)) if (fold := _letters(text))]


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).strip()


def _letters(text: str) -> str:
    return unicodedata.normalize("NFKC", "".join(letter for letter in text if letter.isalnum()))
