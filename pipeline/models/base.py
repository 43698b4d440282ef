"""What a model is to the rest of the code: small protocols with numpy at their border.

Shape letters: B batch, C channels, N samples, K codebooks, T frames, D embedding, V vocabulary, L tokens of a text.
Waves are float32 mono, full scale 1.0, at the model's `sample_rate_hz`; texts are plain strings.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import re
import warnings
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.data.records import Heard
from pipeline.errors import ContractError, ParamsError

Precision = Literal["fp32", "bf16"]

_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".th")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_HUB_FILES = ("*.json", "*.txt", "*.model", "*.yaml")


class Codec(Protocol):
    """Turns sound into tokens and back."""

    sample_rate_hz: int
    frame_rate_hz: float
    hop_samples: int
    num_codebooks: int
    codebook_size: int
    stamp: dict[str, Any]
    """What the codes depend on: model, weights' digest, rates, sizes, precision, library versions; JSON."""

    @property
    def batch_size(self) -> int:
        """Waves encoded together; less than was asked for where memory did not suffice."""
        ...

    def encode(self, waves_N: Sequence[NDArray[np.float32]]) -> list[NDArray[np.uint16]]:
        """Codes [K, T] of each wave, T = its whole hops; the company it is encoded in changes nothing."""
        ...

    def decode(self, codes_KT: NDArray[np.uint16]) -> NDArray[np.float32]:
        """Samples [T * hop_samples] of codes; K may be smaller than `num_codebooks`."""
        ...


class Embedder(Protocol):
    """Places sound and text in one space, at unit length."""

    sample_rate_hz: int
    dim: int
    stamp: dict[str, Any]

    @property
    def batch_size(self) -> int:
        """Windows or texts embedded together; less than was asked for where memory did not suffice."""
        ...

    def embed_audio(self, waves_N: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Embeddings [B, D]; a wave longer than the model's window is the mean of its windows."""
        ...

    def embed_text(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embeddings [B, D]."""
        ...


class Recogniser(Protocol):
    """Writes down what is sung or said."""

    sample_rate_hz: int
    stamp: dict[str, Any]

    def transcribe(self, wave_N: NDArray[np.float32]) -> list[Heard]:
        """Phrases in order of time; the same wave gives the same phrases."""
        ...


class SpeechDetector(Protocol):
    """Says where somebody speaks or sings."""

    sample_rate_hz: int
    hop_s: float
    """Time from one probability to the next; the first stands for the time from 0 to `hop_s`."""
    stamp: dict[str, Any]

    def speech_probabilities(self, wave_N: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probabilities [T], 0 to 1; T = N / (hop_s * sample_rate_hz), rounded up."""
        ...

    def stream_probabilities(self, blocks_N: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        """The same, in the same bytes, for a recording that comes in blocks of any length."""
        ...


class Aligner(Protocol):
    """Finds when each sound of a known text is sung."""

    sample_rate_hz: int
    frame_s: float
    """Length of a frame; the first covers the time from 0 to `frame_s`."""
    vocabulary: tuple[str, ...]
    """The sounds that it knows, by id; 0 is the blank of CTC."""
    stamp: dict[str, Any]

    def log_posteriors(self, wave_N: NDArray[np.float32]) -> NDArray[np.float32]:
        """Log-probabilities of the sounds [T, V], T = N / (frame_s * sample_rate_hz), rounded up."""
        ...

    def align(self, wave_N: NDArray[np.float32], tokens: Sequence[int]) -> NDArray[np.float64]:
        """Start and end in seconds and confidence, 0 to 1, of every token [L, 3], in the order of the text.

        Args:
            wave_N: a recording in which all of it is sung.
            tokens: ids of the vocabulary; -1 stands for some sound of which nothing is known.

        Raises:
            ValueError: the wave is too short for the text.
        """
        ...


class Separator(Protocol):
    """Takes the voices out of a mix."""

    stamp: dict[str, Any]

    def separate(self, wave_CN: NDArray[np.float32], sample_rate_hz: int) -> NDArray[np.float32]:
        """Vocals [N], mono, of a mix [C, N] or [N], at the mix's own rate and level."""
        ...


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where a model lies on this machine, and what to call it on every machine."""

    path: Path
    name: str
    """Hub id, or the last part of a local path."""
    revision: str | None
    """Commit of the hub's repository; None for a local path."""


def find_checkpoint(source: str, *, role: str) -> Checkpoint:
    """Find a model's folder: a local one, or a hub's repository, downloaded unless it is there already.

    Safetensors are taken where the repository has them, else the `.bin` weights.

    Args:
        source: a local folder, or a hub id such as "facebook/encodec_32khz".
        role: what the model is for, as section `models` calls it; for the error's text.

    Raises:
        ContractError: it is neither here nor to be had from the hub.
    """
    path = Path(source)
    if source and path.is_dir():
        return Checkpoint(path, path.name or path.resolve().name, None)
    if not _HUB_ID.fullmatch(source):
        raise ContractError(f"{role}: no folder {source!r}; name a checkpoint's folder or a hub id in section models")
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(source, allow_patterns=[*_HUB_FILES, "*.safetensors"]))
        if not any(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(source, allow_patterns=[*_HUB_FILES, "*.bin"]))
    except (OSError, ValueError) as error:
        raise ContractError(
            f"{role}: {source} is neither a folder here nor in the hub's cache, and the hub does not give it "
            f"({type(error).__name__}); go online once, or name a checkpoint's folder in section models"
        ) from error
    return Checkpoint(folder, source, folder.name)


def load_pretrained(model_class: Any, checkpoint: Checkpoint, *, role: str) -> Any:
    """Load a transformers model in float32 for inference; never unpickles objects, never runs remote code.

    Raises:
        ContractError: files are missing or damaged, or weights are: the library would fill those at random.
    """
    has_safetensors = any(checkpoint.path.glob("*.safetensors"))
    try:
        with _quiet_transformers():
            model, info = model_class.from_pretrained(
                checkpoint.path,
                use_safetensors=has_safetensors,
                local_files_only=True,
                output_loading_info=True,
                dtype="float32",
            )
    except Exception as error:  # damaged files raise whatever their parser raises
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ContractError(
            f"{role}: {checkpoint.path} does not load ({reason}); fetch the checkpoint again"
        ) from error
    # Integer buffers (positions, counters) follow from the configuration; older checkpoints lack some of them.
    state = model.state_dict()
    missing = sorted(key for key in info["missing_keys"] if key not in state or state[key].is_floating_point())
    if missing:
        raise ContractError(
            f"{role}: {checkpoint.path} lacks {len(missing)} weights ({missing[0]} ...); it is another model's or "
            "incomplete, fetch the checkpoint again"
        )
    return model.eval()


@contextlib.contextmanager
def _quiet_transformers() -> Generator[None]:
    """Keep bars, load reports and torch's remarks on old pickles off stderr; a failure becomes one error."""
    from transformers.utils import logging

    verbosity, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if has_bars:
            logging.enable_progress_bar()


def weights_digest(source: str | Path) -> str:
    """SHA-256 over all files that a checkpoint is loaded from: weights, configuration, tokenizer; in order of name.

    Args:
        source: a folder, a single file, or a hub id.

    Raises:
        ContractError: no such checkpoint, or no weight file in it.
    """
    path = Path(source)
    if not path.exists():
        path = find_checkpoint(str(source), role="checkpoint").path
    files = [path] if path.is_file() else _weight_files(path)
    if files and path.is_dir():
        files += sorted(file for pattern in _HUB_FILES for file in path.glob(pattern))
    if not files:
        raise ContractError(f"{path} holds no weights ({', '.join(_WEIGHT_SUFFIXES)}); fetch the checkpoint again")
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()


def _weight_files(folder: Path) -> list[Path]:
    """The files of the best format there: where safetensors lie beside older files, only they are read."""
    by_suffix = (sorted(folder.glob(f"*{suffix}")) for suffix in _WEIGHT_SUFFIXES)
    return next((files for files in by_suffix if files), [])


def make_stamp(checkpoint: Checkpoint, packages: Sequence[str], **sizes: Any) -> dict[str, Any]:
    """What a model's output depends on, the same on every machine."""
    return {
        "model": checkpoint.name,
        "revision": checkpoint.revision,
        "weights_sha256": weights_digest(checkpoint.path),
        **sizes,
        "versions": {package: importlib.metadata.version(package) for package in packages},
    }


def choose_device(device: str) -> str:
    """Resolve "auto" to "cuda" where there is one, else "cpu".

    Raises:
        ParamsError: another word, or "cuda" on a machine without.
    """
    if device not in {"auto", "cpu", "cuda"}:
        raise ParamsError(f"models.device is {device!r}; set it to auto, cpu or cuda")
    if device == "cpu":
        return device
    import torch

    has_cuda = torch.cuda.is_available()
    if device == "cuda" and not has_cuda:
        raise ParamsError("models.device is cuda, but torch finds no CUDA device; set it to auto or cpu")
    return "cuda" if has_cuda else "cpu"


@contextlib.contextmanager
def exact_inference() -> Generator[None]:
    """Inference in true float32: convolutions on a GPU otherwise round to TensorFloat-32 and change codes."""
    import torch

    with torch.inference_mode(), torch.backends.cudnn.flags(deterministic=True, allow_tf32=False):
        yield


def same_length_groups(lengths: Sequence[int]) -> list[tuple[int, list[int]]]:
    """Group items by exact length, so that no item is ever padded because of another.

    Returns:
        Lengths in the order in which they come up, each with the indices of its items; all items once.
    """
    by_length: dict[int, list[int]] = {}
    for index, length in enumerate(lengths):
        by_length.setdefault(length, []).append(index)
    return list(by_length.items())
