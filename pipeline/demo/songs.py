"""Ten Japanese songs whose words and tunes are out of copyright, in our own transcription.

Every author died more than 70 years ago; children's and folk songs have no known author. The years:

- Sakura sakura: traditional, printed in 1888 (Sokyokushu), with the words of that book.
- Chouchou: German folk tune; words by Nomura Akitari (1819-1902), printed in 1881.
- Hotaru no hikari: Scottish folk tune; words by Inagaki Chikai (1845-1913), printed in 1881.
- Kasumi ka kumo ka: German folk tune; words by Kabe Izuo (1849-1922), printed in 1883.
- Koujou no tsuki: tune by Taki Rentaro (1879-1903), words by Doi Bansui (1871-1952), printed in 1901.
- Hotaru koi, Hiraita hiraita, Kagome kagome: children's songs (warabeuta), authors unknown.
- Edo komoriuta: lullaby of the Edo period, author unknown.
- Furusato: tune by Okano Teiichi (1878-1941), words by Takano Tatsuyuki (1876-1947), printed in 1914.

Notes are `pitch/quarters`, one quarter where no length is given; `r` is a rest, `~` ties a note to the one before.
Words are written mora by mora, one group per note: `_` prolongs, `は>わ` is spelt one way and sung another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

End = Literal["rest", "breath", "fermata", "end-line", "end-paragraph", "none"]
Melisma = Literal["blank", "dash", "space", "extend"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A phrase of the tune with the words of each verse, or a rest of a bar."""

    notes: str
    verses: tuple[str, ...] = ()
    written: tuple[str, ...] = ()
    """The words of each verse as they are usually written."""
    end: End = "rest"
    """What ends the phrase; a rest stands in the notes themselves; `none`: it goes on in the next line."""
    kind: Literal["words", "scat"] = "words"
    rehearsal: str = ""
    """Mark above the first bar."""
    double_bar: bool = False
    """Before the first bar."""
    repeat: Literal["", "start", "end", "both"] = ""
    """Signs at the first and the last bar."""
    volta: int = 0
    """Ending that these bars belong to; 0 for none."""
    bpm: float = 0.0
    """Tempo from here on; 0 leaves it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Song:
    """A song."""

    title: str
    """In Latin letters; also the name of its folder."""
    title_ja: str
    lyricist: str
    composer: str
    """Both with their years, or `traditional`."""
    subset: str
    """Style of the arrangement, by jaCappella's names."""
    bpm: float
    """Quarters a minute."""
    metre: str
    fifths: int
    """Sharps of the signature; flats are negative."""
    mode: Literal["major", "minor"]
    lines: tuple[Line, ...]
    melisma: Melisma = "blank"
    """How the score shows a prolonged syllable."""
    pickup_q: float = 0.0
    """Quarters before the first full bar."""


TRADITIONAL = "traditional"

SAKURA = Song(
    title="sakurasakura", title_ja="さくらさくら", lyricist=TRADITIONAL, composer=TRADITIONAL, subset="neutral",
    bpm=112, metre="4/4", fifths=0, mode="minor", melisma="dash",
    lines=(
        Line(notes="A4 A4 B4/2 A4 A4 B4/2", verses=("さ く ら さ く ら",), written=("桜 桜",), end="breath",
             rehearsal="A"),
        Line(notes="A4 B4 C5 B4 A4 B4/.5 A4/.5 F4/2", verses=("や よ い の そ ら _ は>わ",), written=("弥生の空は",),
             end="breath", rehearsal="B"),
        Line(notes="E4 C4 E4 F4 E4 E4/.5 C4/.5 B3/2", verses=("み わ た す か ぎ _ り",), written=("見渡す限り",),
             end="breath"),
        Line(notes="A4 B4 C5 B4 A4 B4/.5 A4/.5 F4/2", verses=("か す み か く も _ か",), written=("霞か雲か",),
             end="breath"),
        Line(notes="E4 C4 E4 F4 E4 E4/.5 C4/.5 B3/2", verses=("に お い ぞ い ず _ る",), written=("匂いぞ出ずる",),
             end="breath"),
        Line(notes="A4 A4 B4/2 A4 A4 B4/2", verses=("い ざ や い ざ や",), written=("いざや いざや",), end="breath",
             rehearsal="C"),
        Line(notes="E4 F4 B4/.5 A4/.5 F4 E4/3 r", verses=("み に ゆ _ か ん",), written=("見に行かん",)),
    ),
)  # fmt: skip

CHOUCHOU = Song(
    title="chouchou", title_ja="ちょうちょう", lyricist="野村秋足 (1819-1902)", composer=TRADITIONAL, subset="jazz",
    bpm=112, metre="2/4", fifths=0, mode="major",
    lines=(
        Line(notes="G4/.5 E4/.5 E4 F4/.5 D4/.5 D4", verses=("ちょ う ちょう ちょ う ちょう",), written=("蝶々 蝶々",),
             end="end-line"),
        Line(notes="C4/.5 D4/.5 E4/.5 F4/.5 G4/.5 G4/.5 G4", verses=("な の は に と ま れ",),
             written=("菜の葉にとまれ",), end="end-line"),
        Line(notes="G4/.5 E4/.5 E4/.5 E4/.5 F4/.5 D4/.5 D4/.5 D4/.5", verses=("な の は に あ い た ら",),
             written=("菜の葉に飽いたら",), end="end-line"),
        Line(notes="C4/.5 E4/.5 G4/.5 G4/.5 E4/.5 E4/.5 E4", verses=("さ く ら に と ま れ",),
             written=("桜にとまれ",), end="end-paragraph"),
        Line(notes="D4/.5 D4/.5 D4/.5 D4/.5 D4/.5 E4/.5 F4", verses=("さ く ら の は な の",), written=("桜の花の",),
             end="end-line"),
        Line(notes="E4/.5 E4/.5 E4/.5 E4/.5 E4/.5 F4/.5 G4", verses=("さ か ゆ る み よ に",),
             written=("栄ゆる御代に",), end="end-line"),
        Line(notes="G4/.5 E4/.5 E4/.5 E4/.5 F4/.5 D4/.5 D4", verses=("と ま れ よ あ そ べ",),
             written=("とまれよ遊べ",), end="end-line"),
        Line(notes="C4/.5 E4/.5 G4/.5 G4/.5 E4/.5 E4/.5 E4", verses=("あ そ べ よ と ま れ",),
             written=("遊べよとまれ",)),
        Line(notes="r/2"),
        Line(notes="G4/.5 E4/.5 E4 F4/.5 D4/.5 D4 C4/.5 E4/.5 G4/.5 G4/.5 C4 r",
             verses=("ラ バ ダ ラ バ ダ ラ バ ダ バ ダ",), written=("ラバダラバダラバダバダ",), kind="scat"),
    ),
)  # fmt: skip

HOTARU_NO_HIKARI = Song(
    title="hotarunohikari", title_ja="蛍の光", lyricist="稲垣千頴 (1845-1913)", composer=TRADITIONAL, subset="ballad",
    bpm=120, metre="4/4", fifths=-1, mode="major", melisma="extend", pickup_q=1,
    lines=(
        Line(notes="C4 F4/1.5 F4/.5 F4 A4 G4/1.5 F4/.5 G4 A4 F4/1.5 F4/.5 A4 C5 D5/3",
             verses=("ほ た る の ひ か _ り _ ま ど の ゆ き",), written=("蛍の光 窓の雪",), end="breath"),
        Line(notes="D5 C5/1.5 A4/.5 A4 F4 G4/1.5 F4/.5 G4 A4 F4/1.5 D4/.5 D4 C4 F4/3",
             verses=("ふ み よ む つ き _ ひ _ か さ ね つ つ",), written=("書読む月日 重ねつつ",), end="breath"),
        Line(notes="D5 C5/1.5 A4/.5 A4 F4 G4/1.5 F4/.5 G4 D5 C5/1.5 A4/.5 A4 C5 D5/3",
             verses=("い つ し か と し _ も _ す ぎ の と を>お",), written=("いつしか年も すぎの戸を",),
             end="breath"),
        Line(notes="D5 C5/1.5 A4/.5 A4 F4 G4/1.5 F4/.5 G4 A4 F4/1.5 D4/.5 D4 C4 F4/3",
             verses=("あ け て ぞ け さ _ は>わ _ わ か れ ゆ く",), written=("開けてぞ今朝は 別れゆく",)),
    ),
)  # fmt: skip

KASUMI = Song(
    title="kasumikakumoka", title_ja="霞か雲か", lyricist="加部厳夫 (1849-1922)", composer=TRADITIONAL,
    subset="popular", bpm=112, metre="4/4", fifths=0, mode="major", melisma="blank",
    lines=(
        Line(notes="C4/1.5 E4/.5 G4 C5 A4 C5/.5 A4/.5 G4/2", verses=("か す み か く も _ か",), written=("霞か雲か",),
             end="breath"),
        Line(notes="F4/1.5 G4/.5 E4 C4 D4/2 C4 r", verses=("は た ゆ き か _",), written=("はた雪か",)),
        Line(notes="G4 G4 F4 F4 E4 G4/.5 E4/.5 D4/2", verses=("と ば か り に お _ う",), written=("とばかり匂う",),
             end="breath", double_bar=True),
        Line(notes="G4 G4 F4 F4 E4 G4/.5 E4/.5 D4/2", verses=("そ の は な ざ か _ り",), written=("その花盛り",)),
        Line(notes="C4/1.5 E4/.5 G4 C5 A4 C5/.5 A4/.5 G4/2", verses=("も も と り さ え _ も",),
             written=("百鳥さえも",), end="breath", double_bar=True),
        Line(notes="F4/1.5 G4/.5 E4 C4 D4/2 C4 r", verses=("う た う な り _",), written=("歌うなり",)),
    ),
)  # fmt: skip

KOUJOU = Song(
    title="koujounotsuki", title_ja="荒城の月", lyricist="土井晩翠 (1871-1952)", composer="滝廉太郎 (1879-1903)",
    subset="enka", bpm=96, metre="4/4", fifths=0, mode="minor",
    lines=(
        Line(notes="E4/.5 E4/.5 A4/.5 B4/.5 C5/.5 B4/.5 A4 F4/.5 F4/.5 E4/.5 D4/.5 E4 r",
             verses=("は る こ う ろ う の は な の え ん", "あ き じ ん え い の し も の い ろ"),
             written=("春高楼の花の宴", "秋陣営の霜の色"), rehearsal="A", repeat="start"),
        Line(notes="E4/.5 E4/.5 A4/.5 B4/.5 C5/.5 B4/.5 A4 F4/.5 D4/.5 E4/.75 E4/.25 A3 r",
             verses=("め ぐ る さ か ず き か げ さ し て", "な き ゆ く か り の か ず み せ て"),
             written=("めぐる盃影さして", "鳴きゆく雁の数見せて")),
        Line(notes="C4/.5 C4/.5 B3/.5 A3/.5 F4/.75 F4/.25 E4 D4/.5 E4/.5 F4/.75 F4/.25 E4 r",
             verses=("ち よ の ま つ が え わ け い で し", "う う る つ る ぎ に て り そ い し"),
             written=("千代の松が枝わけ出でし", "植うる剣に照りそいし")),
        Line(notes="E4/.5 E4/.5 A4/.5 B4/.5 C5/.5 B4/.5 A4 F4/.5 D4/.5 E4/.75 E4/.25 A3/2",
             verses=("む か し の ひ か り い ま い ず こ",) * 2, written=("昔の光いまいずこ",) * 2,
             end="fermata", repeat="end"),
    ),
)  # fmt: skip

HOTARU_KOI = Song(
    title="hotarukoi", title_ja="ほたるこい", lyricist=TRADITIONAL, composer=TRADITIONAL, subset="bossa_nova", bpm=84,
    metre="2/4", fifths=0, mode="minor",
    lines=(
        Line(notes="r/2", repeat="start"),
        Line(notes="A4/.5 r/.5 A4/.5 r/.5 A4/.5 G4/.25 G4/.25 A4/.5 r/.5", verses=("ほ ほ ほ た る こい",) * 2,
             written=("ほ ほ 蛍来い",) * 2, end="breath"),
        Line(notes="A4/.5 A4/.25 A4/.25 A4/.5 B4/.25 B4/.25 A4/.5 A4/.25 G4/.25 E4/.5 r/.5",
             verses=("あっ ち の み ず は>わ に が い ぞ", "ほ た る の おと さん か ね も ちだ"),
             written=("あっちの水は苦いぞ", "蛍のおとさん金持ちだ"), end="breath"),
        Line(notes="A4/.5 A4/.25 A4/.25 A4/.5 B4/.25 B4/.25 A4/.5 A4/.25 G4/.25 E4/.5 r/.5",
             verses=("こっ ち の み ず は>わ あ ま い ぞ", "どう り で お し りが ぴ か ぴ かだ"),
             written=("こっちの水は甘いぞ", "道理でお尻がぴかぴかだ"), end="breath"),
        Line(notes="A4/.5 r/.5 A4/.5 r/.5 A4/.5 G4/.25 G4/.25 A4/.5 r/.5", verses=("ほ ほ ほ た る こい",) * 2,
             written=("ほ ほ 蛍来い",) * 2, repeat="end", end="breath"),
    ),
)  # fmt: skip

HIRAITA = Song(
    title="hiraitahiraita", title_ja="ひらいたひらいた", lyricist=TRADITIONAL, composer=TRADITIONAL, subset="reggae",
    bpm=80, metre="2/4", fifths=0, mode="minor", melisma="space",
    lines=(
        Line(notes="A4 A4/.5 G4/.5 A4/.5 A4/.25 G4/.25 E4/.5 r/.5",
             verses=("ひ らい た ひ ら い た", "つ ぼん だ つ ぼ ん だ"),
             written=("開いた開いた", "つぼんだつぼんだ"), end="breath", rehearsal="A", repeat="start"),
        Line(notes="A4/.5 G4/.5 A4/.5 B4/.5 A4/.5 A4/.25 G4/.25 E4/.5 r/.5",
             verses=("なん の は なが ひ ら い た", "なん の は なが つ ぼ ん だ"),
             written=("何の花が開いた", "何の花がつぼんだ"), end="breath"),
        Line(notes="A4/.5 A4/.25 A4/.25 A4/.5 B4/.25 B4/.25 A4/.5 A4/.25 G4/.25 E4/.5 r/.5",
             verses=("れん げ の は な が ひ ら い た", "れん げ の は な が つ ぼ ん だ"),
             written=("蓮華の花が開いた", "蓮華の花がつぼんだ"), end="breath"),
        Line(notes="A4/.5 A4/.5 G4/.5 G4/.5 G4/.5 G4/.5 G4/.5 G4/.5",
             verses=("ひ らい た と お もっ た ら", "つ ぼん だ と お もっ た ら"),
             written=("開いたと思ったら", "つぼんだと思ったら"), end="breath"),
        Line(notes="B4/.5 B4/.5 D5/.5 B4/.5 A4 B4/.5 A4/.5", verses=("い つ の ま に か _",) * 2,
             written=("いつの間にか",) * 2, end="none"),
        Line(notes="G4 G4 A4 r", verses=("つ ぼん だ",), written=("つぼんだ",), volta=1, repeat="end"),
        Line(notes="G4 G4 A4 r", verses=("ひ らい た",), written=("開いた",), volta=2),
    ),
)  # fmt: skip

KAGOME = Song(
    title="kagomekagome", title_ja="かごめかごめ", lyricist=TRADITIONAL, composer=TRADITIONAL, subset="edm", bpm=132,
    metre="4/4", fifths=0, mode="minor", melisma="dash",
    lines=(
        Line(notes="A4/2 A4 B4 A4 A4 A4 r", verses=("か ご め か ご め",), written=("籠目籠目",)),
        Line(notes="A4 A4/.5 A4/.5 A4 G4/.5 G4/.5 A4 A4/.5 G4/.5 E4 r", verses=("か ご の な か の と り _ は>わ",),
             written=("籠の中の鳥は",)),
        Line(notes="A4 G4 A4 G4 A4 A4/.5 G4/.5 E4 r", verses=("い つ い つ で や _ る",), written=("いついつ出やる",)),
        Line(notes="A4 A4 A4 B4 A4 A4 A4 r", verses=("よ あ け の ば ん に",), written=("夜明けの晩に",)),
        Line(notes="A4 G4/.5 G4/.5 A4 G4/.5 G4/.5 A4 A4/.5 G4/.5 E4 r", verses=("つ る と か め が す べ っ た",),
             written=("鶴と亀が滑った",)),
        Line(notes="r/4"),
        Line(notes="A4/.5 A4/.5 A4/.5 A4/.5 A4 B4 A4/1.5 G4/.5 A4 r", verses=("う し ろ の しょう めん だ あ れ",),
             written=("後ろの正面だあれ",), double_bar=True),
    ),
)  # fmt: skip

KOMORIUTA = Song(
    title="edokomoriuta", title_ja="江戸子守唄", lyricist=TRADITIONAL, composer=TRADITIONAL, subset="soulfunk", bpm=66,
    metre="2/4", fifths=0, mode="minor", melisma="extend",
    lines=(
        Line(notes="F4 F4/.5 E4/.5 F4/.5 A4/.5 F4/.5 E4/.5 C4/.5 E4/.25 F4/.25 A4/.5 F4/.5 E4/1.5 r/.5",
             verses=("ねん ね ん こ ろ り よ お こ ろ り よ _", "ぼう や の お も り は>わ ど こ へ>え いっ た _"),
             written=("ねんねんころりよおころりよ", "坊やのお守りはどこへ行った"), repeat="start", bpm=66),
        Line(notes="A3/.5 A3/.5 B3/.5 B3/.5 C4/.5 E4/.5 F4/.5 E4/.5 A3/.5 B3/.5 C4/.5 A3/.5 B3/2",
             verses=("ぼ う や は>わ よ い こ だ ね ん ね し な", "あ の や ま こ え て _ さ と へ>え いっ た"),
             written=("坊やは良い子だねんねしな", "あの山越えて里へ行った"), end="end-paragraph", repeat="end", bpm=58),
    ),
)  # fmt: skip

FURUSATO = Song(
    title="furusato", title_ja="故郷", lyricist="高野辰之 (1876-1947)", composer="岡野貞一 (1878-1941)",
    subset="punk_rock", bpm=108, metre="3/4", fifths=2, mode="major", melisma="blank",
    lines=(
        Line(notes="D4 D4 D4 E4/1.5 F#4/.5 E4 F#4 F#4 G4 A4/2 r", verses=("う さ ぎ お い し か の や ま",),
             written=("兎追いしかの山",)),
        Line(notes="G4 A4 B4 F#4/1.5 G4/.5 F#4 E4 E4 C#4 D4/2 r", verses=("こ ぶ な つ り し か の か わ",),
             written=("小鮒釣りしかの川",)),
        Line(notes="E4/.5 D4/.5 E4 A3 D4/.5 E4/.5 F#4 F#4 G4/.5 F#4/.5 G4/1.5 B4/.5 A4/.5 G4/.5 F#4 r",
             verses=("ゆ _ め は>わ い _ ま も め _ ぐ り て _ _",), written=("夢は今もめぐりて",)),
        Line(notes="A4 A4 A4 D4/1.5 E4/.5 F#4 G4 G4 E4 D4/3 ~D4/2 r", verses=("わ す れ が た き ふ る さ と",),
             written=("忘れがたき故郷",)),
    ),
)  # fmt: skip

SONGS = (
    SAKURA, CHOUCHOU, HOTARU_NO_HIKARI, KASUMI, KOUJOU, HOTARU_KOI, HIRAITA, KAGOME, KOMORIUTA, FURUSATO,
)  # fmt: skip
"""One for each of jaCappella's ten subsets."""
