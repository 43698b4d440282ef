"""EnCodec's weights as the `encodec` package and audiocraft name them, for transformers' EnCodec.

Neither package is needed: whatever file the weights come from, one implementation computes the codes.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import EncodecConfig, EncodecModel

from pipeline.errors import ContractError
from pipeline.models.weights import Rules, as_state, fill_model, read_pickle, rename_keys

# What both packages call a weight -> what transformers calls it.
ENCODEC_RULES: Rules = (
    (r"\.model\.(\d+)\.convtr\.convtr\.", r".layers.\1.conv."),
    (r"\.model\.(\d+)\.", r".layers.\1."),
    (r"\.conv\.conv\.", ".conv."),
    (r"\.weight_g$", ".parametrizations.weight.original0"),
    (r"\.weight_v$", ".parametrizations.weight.original1"),
    (r"quantizer\.vq\.layers\.(\d+)\._codebook\.", r"quantizer.layers.\1.codebook."),
)
_CONV = re.compile(r"encoder\.layers\.(\d+)\.conv\.parametrizations\.weight\.original1")
_BLOCK = re.compile(r"encoder\.layers\.\d+\.block\.1\.conv\.parametrizations\.weight\.original1")
_LSTM = re.compile(r"encoder\.layers\.\d+\.lstm\.weight_ih_l\d+")
_CODEBOOK = re.compile(r"quantizer\.layers\.\d+\.codebook\.embed")

_RELEASED = re.compile(r"encodec_(24|48)khz-([0-9a-f]{8})\.th")
"""Files of the package: the second part begins the SHA-256 of the file."""
_RELEASED_24_KBPS = (1.5, 3.0, 6.0, 12.0, 24.0)


def find_released(path: Path) -> Path | None:
    """Find a checkpoint of the `encodec` package: the path itself, or the only one in that folder."""
    files = [path] if path.is_file() else sorted(path.glob("encodec_*.th"))
    return next((file for file in files if _RELEASED.fullmatch(file.name)), None)


def load_released(path: Path) -> EncodecModel:
    """Load the 24 kHz model as the `encodec` package publishes it (`encodec_24khz-d7cc33bc.th`).

    Raises:
        ContractError: the file is damaged, by the digest in its name too, or it is the 48 kHz model.
    """
    found = _RELEASED.fullmatch(path.name)
    if found is None or found[1] != "24":
        raise refuse_chunks(path.name)
    with path.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    if not digest.startswith(found[2]):
        raise ContractError(f"codec: {path} has the digest {digest[:8]}, not that of its name; fetch it again")
    state = as_state(read_pickle(path, role="codec"), source=path, role="codec")
    return build_encodec(state, source=path, settings={"sampling_rate": 24_000, "use_causal_conv": True})


def refuse_chunks(name: str) -> ContractError:
    """Why EnCodec's 48 kHz model makes no codes of ours."""
    return ContractError(
        f"codec: {name} works in stereo or normalised chunks, as the 48 kHz EnCodec does: each overlapping second is "
        "divided by its own level, which its codes do not hold, so that codes alone neither decode nor join. "
        "Only whole mono clips are supported (facebook/encodec_32khz, facebook/encodec_24khz)"
    )


def build_encodec(state: Mapping[str, Tensor], *, source: Path, settings: Mapping[str, Any]) -> EncodecModel:
    """Build transformers' EnCodec from weights under the packages' names.

    Args:
        state: weights as `encodec` or audiocraft name them.
        source: where they come from, for the error's text.
        settings: what no weight tells: rate, causality, padding, dilation.

    Raises:
        ContractError: they are not an EnCodec's, or one is left over or missing.
    """
    renamed = rename_keys(state, ENCODEC_RULES)
    try:
        config = EncodecConfig(**(_sizes(renamed) | dict(settings)))
    except (IndexError, ValueError, ZeroDivisionError) as error:
        raise ContractError(f"codec: {source} holds no EnCodec with weight norm; fetch it again") from error
    config.target_bandwidths = _bandwidths(config, num_codebooks=_num_codebooks(renamed))
    model = EncodecModel(config)
    fill_model(model, renamed, source=source)
    return model.eval()


def _sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read the sizes off the weights' shapes."""
    convs = sorted((int(found[1]), tensor.shape) for name, tensor in state.items() if (found := _CONV.fullmatch(name)))
    blocks = [tensor.shape for name, tensor in state.items() if _BLOCK.fullmatch(name)]
    codebooks = [tensor.shape for name, tensor in state.items() if _CODEBOOK.fullmatch(name)]
    first, *strided, last = (shape for _, shape in convs)
    return {
        "num_filters": first[0],
        "audio_channels": first[1],
        "kernel_size": first[2],
        # Twice the stride is the rule of the architecture; the decoder's order is the other way round.
        "upsampling_ratios": [shape[2] // 2 for shape in reversed(strided)],
        "hidden_size": last[0],
        "last_kernel_size": last[2],
        "num_residual_layers": len(blocks) // len(strided),
        "residual_kernel_size": blocks[0][2],
        "compress": blocks[0][1] // blocks[0][0],
        "use_conv_shortcut": any(".shortcut." in name for name in state),
        "num_lstm_layers": sum(_LSTM.fullmatch(name) is not None for name in state),
        "codebook_size": codebooks[0][0],
        "codebook_dim": codebooks[0][1],
    }


def _num_codebooks(state: Mapping[str, Tensor]) -> int:
    return sum(_CODEBOOK.fullmatch(name) is not None for name in state)


def _bandwidths(config: EncodecConfig, *, num_codebooks: int) -> list[float]:
    """The published bandwidths where these are the published sizes, else the one of all codebooks."""
    per_codebook_kbps = config.frame_rate * math.log2(config.codebook_size) / 1000
    if num_codebooks * per_codebook_kbps == _RELEASED_24_KBPS[-1]:
        return list(_RELEASED_24_KBPS)
    full_kbps = num_codebooks * per_codebook_kbps
    # transformers counts codebooks back from it, rounding down.
    while int(1000 * full_kbps // (1000 * per_codebook_kbps)) < num_codebooks:
        full_kbps = math.nextafter(full_kbps, math.inf)
    return [full_kbps]
