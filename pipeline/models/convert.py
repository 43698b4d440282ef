"""Convert a checkpoint between the libraries that can read it.

musicgen   audiocraft's folder <-> transformers' (whichever the source is not)
encodec    `encodec_24khz-*.th` of the encodec package, or audiocraft's compression_state_dict.bin -> transformers
clap       a `.pt` of laion_clap -> transformers
whisper    a `.pt` of openai-whisper -> faster-whisper, or transformers

Every weight of the source is printed with what it became; one that is left over, missing or of another size is an
error, and nothing is written. Files are read as weights alone: nothing in them runs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import SetlistError

if TYPE_CHECKING:
    from pipeline.models.weights import Conversion


def convert_musicgen(args: argparse.Namespace) -> Conversion:
    """Convert to audiocraft what is transformers', and the other way round."""
    from pipeline.models.convert_musicgen import LM_FILE, musicgen_to_audiocraft, musicgen_to_transformers

    source = Path(args.source)
    if source.is_file() or (source / LM_FILE).is_file():
        return musicgen_to_transformers(source, args.out, text_encoder=args.text_encoder, codec=args.codec)
    return musicgen_to_audiocraft(args.source, args.out, text_encoder=args.text_encoder or "t5-base")


def convert_encodec(args: argparse.Namespace) -> Conversion:
    """Convert EnCodec to transformers."""
    from pipeline.models.convert_encodec import encodec_to_transformers

    return encodec_to_transformers(Path(args.source), args.out)


def convert_clap(args: argparse.Namespace) -> Conversion:
    """Convert CLAP to transformers."""
    from pipeline.models.convert_clap import TOKENIZER, clap_to_transformers

    return clap_to_transformers(Path(args.source), args.out, tokenizer=args.tokenizer or TOKENIZER)


def convert_whisper(args: argparse.Namespace) -> Conversion:
    """Convert Whisper to the library that `--to` names."""
    if args.to == "transformers":
        from pipeline.models.convert_whisper import whisper_to_transformers

        return whisper_to_transformers(Path(args.source), args.out)
    from pipeline.models.asr_openai import load_whisper
    from pipeline.models.weights import Conversion
    from pipeline.models.whisper_ct2 import convert_whisper as to_faster_whisper

    to_faster_whisper(Path(args.source), args.out, quantisation=args.quantisation)
    # CTranslate2 joins layers and casts them: its file has no names to compare with.
    return Conversion(mapped=dict.fromkeys(load_whisper(Path(args.source)).state_dict(), "model.bin"))


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.models.convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kinds = parser.add_subparsers(dest="kind", required=True)
    convertors: dict[str, Callable[[argparse.Namespace], Conversion]] = {
        "musicgen": convert_musicgen,
        "encodec": convert_encodec,
        "clap": convert_clap,
        "whisper": convert_whisper,
    }
    for kind, convert in convertors.items():
        command = kinds.add_parser(kind, help=convert.__doc__)
        command.set_defaults(convert=convert)
        command.add_argument("source", help="file or folder")
        command.add_argument("out", type=Path, help="folder to write; must not exist")
    musicgen = kinds.choices["musicgen"]
    musicgen.add_argument("--text-encoder", help="T5: folder or hub id; to audiocraft, a name that it knows (t5-base)")
    musicgen.add_argument("--codec", help="EnCodec, if not that beside audiocraft's language model")
    kinds.choices["clap"].add_argument("--tokenizer", help="folder or hub id of RoBERTa's tokenizer")
    whisper = kinds.choices["whisper"]
    whisper.add_argument("--to", choices=("faster-whisper", "transformers"), default="faster-whisper")
    whisper.add_argument(
        "--quantisation", choices=("float32", "float16", "int8", "int8_float16"), default="float16",
        help="how faster-whisper's weights are stored",
    )  # fmt: skip
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Convert from the command line."""
    parser = build_parser()
    args = parser.parse_args(argv)
    try:
        conversion = args.convert(args)
    except SetlistError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    for name, became in conversion.mapped.items():
        print(f"{name} -> {became}")
    for name in conversion.left_out:
        print(f"{name}: not needed there")
    for note in conversion.notes:
        print(f"note: {note}")
    print(f"{args.out}: {len(conversion.mapped)} weights mapped, {len(conversion.left_out)} not needed, none left over")


if __name__ == "__main__":
    from pipeline.models.convert import main

    main()
