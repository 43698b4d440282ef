"""Where the checkpoints lie: section `models` of params.yaml."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Port = Literal["codec", "embedder", "recogniser", "aligner", "separator", "generator"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelsParams:
    """Section `models` of params.yaml.

    Each model is a folder or file below `root`, any other local path, or a hub id such as `facebook/encodec_32khz`.
    """

    root: str = "checkpoints"
    """Folder with local checkpoints."""
    codec: str = "facebook/encodec_32khz"
    """EnCodec that turns audio into codes; must be the one inside the generator."""
    embedder: str = "laion/larger_clap_music"
    """CLAP that chooses examples."""
    recogniser: str = "small.pt"
    """Whisper: a `.pt` file or a name of openai-whisper's, or a CTranslate2 folder or hub id for faster-whisper."""
    compute_type: str | None = None
    """Arithmetic of faster-whisper, such as int8 or float16; null for what suits the device."""
    aligner: str | None = None
    """CTC model that finds when known lyrics are sung; null leaves lyrics without times as they are."""
    separator: str | None = None
    """Demucs folder; null listens to the mix."""
    generator: str = "facebook/musicgen-small"
    """MusicGen that is adapted."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where models run; `auto` takes the GPU if there is one."""


def checkpoint_stamp(source: str, name: str) -> dict[str, str]:
    """Say which weights a model has, without loading them.

    Args:
        source: what `place` gave.
        name: the name in the settings, which unlike the path is the same on every machine.

    Raises:
        ContractError: no such checkpoint here, and no hub to take it from.
    """
    from pipeline.models.base import weights_digest

    # A name of Whisper's own list, such as `small`: whisper checks the digest of what it downloads under it.
    released = re.fullmatch(r"[\w.-]+", source) and not Path(source).exists() and not source.endswith(".pt")
    return {"name": name, "weights_sha256": f"released as {source}" if released else weights_digest(source)}


def place(models: ModelsParams, root: Path, port: Port) -> str:
    """Find out where to load a model from.

    Args:
        models: the settings.
        root: the project's folder; relative paths start there.
        port: which model.

    Returns:
        An existing local path, or else the name as it is, for a hub to resolve.
    """
    name: str = getattr(models, port)
    places = [root / models.root / name, root / name]
    return next((str(path) for path in places if path.exists()), name)
