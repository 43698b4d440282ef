"""Codes that a training sampled, as audio: python -m train.generate --codes runs/<name>/samples.

It takes the codec that made the shards, which the trainer itself never loads.
"""

from __future__ import annotations

import argparse
import html
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.data.layout import Layout
from pipeline.data.provenance import file_digest, package_versions
from pipeline.data.shards import decode_npy
from pipeline.errors import ContractError
from pipeline.models.base import choose_device, find_checkpoint
from pipeline.models.places import ModelsParams, place
from train import checkpoint
from train.data import CodecShape
from train.inputs import BYTE_PACKAGES, label_digest, model_label

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pipeline.models.base import Codec

MADE_BY = "train.generate"
STEP_FOLDER = re.compile(r"step-\d+")
SAMPLE_AGAIN = "delete it with its json, or train again with train.num_samples"
"""What to do about damaged codes."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """Codes that a training wrote."""

    step: str
    """Folder of its step; empty where the codes lie in no such folder."""
    path: Path
    told: dict[str, Any]
    """The json beside it."""

    def read(self) -> NDArray[np.uint16]:
        """The codes.

        Raises:
            ContractError: the file holds no codes of the shape that the json tells.
        """
        try:
            codes_KT = decode_npy(self.path.read_bytes())
        except ContractError as error:
            raise ContractError(f"{self.path}: no array of codes ({error}); {SAMPLE_AGAIN}") from error
        if codes_KT.size == 0:
            raise ContractError(f"{self.path}: holds not one code; {SAMPLE_AGAIN}")
        size = self.told["codec"]["codebook_size"]
        if codes_KT.ndim != 2 or len(codes_KT) != self.told["codec"]["num_codebooks"] or codes_KT.max() >= size:
            raise ContractError(f"{self.path}: not the codes that the json beside it tells of; {SAMPLE_AGAIN}")
        return codes_KT


def find_codes(folder: Path) -> list[Sampled]:
    """Find all codes below a folder: of a step, or of all steps.

    Raises:
        ContractError: there are none, or one lacks its json.
    """
    steps = sorted(path for path in folder.glob("step-*") if STEP_FOLDER.fullmatch(path.name))
    found = list(_codes_in(folder, "")) + [one for step in steps for one in _codes_in(step, step.name)]
    if not found:
        raise ContractError(
            f"{folder}: no codes there; a training with train.num_samples and --val writes them to runs/NAME/samples"
        )
    return found


def _codes_in(folder: Path, step: str) -> Iterator[Sampled]:
    for path in sorted(folder.glob("*.npy")):
        try:
            told = json.loads(path.with_suffix(".json").read_text("utf-8"))
            if not {"prompt", "codec"} <= set(told) or not {*CodecShape._fields} <= set(told["codec"]):
                raise ValueError("it lacks prompt or codec")
        except (OSError, ValueError, TypeError) as error:
            raise ContractError(f"{path}: needs the json that training writes beside it ({error})") from error
        yield Sampled(step, path, told)


def check_codec(found: Sequence[Sampled], codec: Codec, label: str) -> None:
    """Refuse to render codes of another codec.

    Args:
        found: the codes.
        codec: what is to decode them.
        label: its name and digest.

    Raises:
        ContractError: its shape or weights differ; where pack did not say which it was, nothing is known against it.
    """
    shape = [getattr(codec, name) for name in CodecShape._fields]
    for one in found:
        stamp = one.told["codec"]
        made_by = stamp.get("weights_sha256")
        said = [stamp[name] for name in CodecShape._fields]
        if said != shape or made_by not in (None, label_digest(label)):
            raise ContractError(
                f"{one.path}: codes of {made_by or 'a codec'} with {said}, models.codec is "
                f"{label} with {shape}; set models.codec to the codec of stages.encode"
            )


def render_codes(args: argparse.Namespace, models: ModelsParams) -> None:
    """Render a folder of codes and publish, or put a finished result in place again.

    Args:
        args: flags `root`, `codes`, `name`, `limit` and `dry_run`.
        models: where the codec is.
    """
    folder = args.codes if args.codes.is_dir() else args.root / args.codes
    found = find_codes(folder)[: args.limit]
    layout = Layout(args.root)
    work, final = checkpoint.open_place(layout, args.name or _default_name(folder), made_by=MADE_BY)
    if args.dry_run:
        print(f"would render {len(found)} samples into {final}")
        return
    source = place(models, args.root, "codec")
    label, device = model_label(find_checkpoint(source, role="codec")), choose_device(models.device)
    packages = package_versions(BYTE_PACKAGES)
    identity = {"codes": codes_identity(found), "codec": label, "device": device, "packages": packages}

    def build(part: Path) -> None:
        from pipeline.models.codec import load_codec

        codec = load_codec(source, device=device)
        check_codec(found, codec, label)
        render(part, found=found, codec=codec)
        checkpoint.write_settings(part, MADE_BY, identity)

    with checkpoint.claim(work):
        fingerprint_folder = work / checkpoint.fingerprint(MADE_BY, identity)
        if not checkpoint.publish_again(fingerprint_folder, final):
            checkpoint.finish(fingerprint_folder, final, build)
            print(f"{final}: done", file=sys.stderr)


def _default_name(folder: Path) -> str:
    return f"generate/{folder.resolve().parent.name}-{folder.resolve().name}"


def codes_identity(found: Sequence[Sampled]) -> list[list[str]]:
    """What tells codes from all others, as JSON."""
    return [[one.step, one.path.stem, file_digest(one.path)] for one in found]


def render(folder: Path, *, found: Sequence[Sampled], codec: Codec) -> None:
    """Turn codes into wavs of 16 bit, with a page to listen to them.

    Args:
        folder: gets [step-<number>/]<key>.wav, samples.jsonl and index.html.
        found: the codes.
        codec: theirs.
    """
    import soundfile

    from pipeline.engine.progress import progress
    from pipeline.music.audio import quantise

    lines: list[dict[str, Any]] = []
    for one in progress(found, total=len(found), desc="render", unit="sample"):
        wav = Path(one.step) / f"{one.path.stem}.wav"
        (folder / wav).parent.mkdir(exist_ok=True)
        soundfile.write(folder / wav, quantise(codec.decode(one.read())), codec.sample_rate_hz, subtype="PCM_16")
        lines.append({"wav": wav.as_posix(), "step": one.step, **one.told})
    (folder / "samples.jsonl").write_text("".join(json.dumps(line, sort_keys=True) + "\n" for line in lines), "utf-8")
    (folder / "index.html").write_text(page(lines), "utf-8")
    print(f"{len(lines)} samples; open index.html to listen", file=sys.stderr)


def page(lines: Sequence[Mapping[str, Any]]) -> str:
    """A page with a row per prompt and a player per step.

    Args:
        lines: `wav`, `step`, `key`, `prompt`.
    """
    steps = sorted({line["step"] for line in lines})
    rows: dict[str, dict[str, Mapping[str, Any]]] = {}
    for line in lines:
        rows.setdefault(Path(line["wav"]).stem, {})[line["step"]] = line
    head = "".join(f"<th>{html.escape(step)}</th>" for step in steps)
    body = "".join(
        f"<tr><td>{html.escape(str(next(iter(row.values()))['prompt']))}</td>"
        + "".join(f"<td>{_player(row.get(step))}</td>" for step in steps)
        + "</tr>\n"
        for row in rows.values()
    )
    return (
        '<!doctype html>\n<meta charset="utf-8">\n<title>samples</title>\n'
        f"<table>\n<tr><th>prompt</th>{head}</tr>\n{body}</table>\n"
    )


def _player(line: Mapping[str, Any] | None) -> str:
    return f'<audio controls preload="none" src="{html.escape(line["wav"])}"></audio>' if line else ""
