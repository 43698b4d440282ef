"""EnCodec between the `encodec` package or audiocraft, and transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from transformers import EncodecFeatureExtractor
from transformers.models.encodec.modeling_encodec import EncodecConv1d, EncodecConvTranspose1d

from pipeline.errors import ContractError
from pipeline.models.codec import load_encodec
from pipeline.models.codec_audiocraft import FILE_NAME, find_audiocraft
from pipeline.models.codec_encodec import ENCODEC_RULES, find_released
from pipeline.models.weights import Conversion, Rules, new_folder, new_name, read_pickle

# transformers' names, with the kind of convolution written out -> those that both packages share.
_BACK: Rules = (
    (r"\.layers\.", ".model."),
    (r"^quantizer\.model\.(\d+)\.codebook\.", r"quantizer.vq.layers.\1._codebook."),
    (r"\.parametrizations\.weight\.original0$", ".weight_g"),
    (r"\.parametrizations\.weight\.original1$", ".weight_v"),
)
VERSION = "1.3.0"
"""Version of audiocraft whose format is written."""


def encodec_to_transformers(source: Path, out: Path) -> Conversion:
    """Write a transformers folder from `encodec_24khz-*.th` or audiocraft's `compression_state_dict.bin`.

    Raises:
        ContractError: no such checkpoint, one with weights left over or missing, or the folder exists.
    """
    new_folder(out)
    model, checkpoint = load_encodec(str(source))
    file = find_released(source) or find_audiocraft(source)
    package = read_pickle(file, role="codec") if file else {}
    if file is None or "pretrained" in package:
        raise ContractError(f"convert: {source} is or names {checkpoint.name}, which is transformers' own; use that")
    names = package.get("best_state", package)
    model.save_pretrained(out)
    EncodecFeatureExtractor(feature_size=1, sampling_rate=model.config.sampling_rate).save_pretrained(out)
    return Conversion(mapped={name: new_name(name, ENCODEC_RULES) for name in names})


def codec_for_audiocraft(model: Any, folder: Path) -> dict[str, str]:
    """Write transformers' EnCodec as audiocraft's `compression_state_dict.bin`.

    Args:
        model: the codec.
        folder: where to write; exists.

    Returns:
        Name here -> name there, of all weights.
    """
    mapped = {name: _back(model, name) for name in model.state_dict()}
    state: dict[str, Tensor] = {mapped[name]: tensor.clone() for name, tensor in model.state_dict().items()}
    package = {"best_state": state, "xp.cfg": yaml.safe_dump(_settings(model)), "version": VERSION, "exported": True}
    torch.save(package, folder / FILE_NAME)
    return mapped


def _back(model: Any, name: str) -> str:
    """Name of a weight in both packages, which nest the convolution itself once more."""
    owner, _, _ = name.partition(".conv.")
    renamed = new_name(name, _BACK)
    if owner != name:
        module = model.get_submodule(owner)
        if isinstance(module, EncodecConvTranspose1d):
            return renamed.replace(".conv.", ".convtr.convtr.", 1)
        if isinstance(module, EncodecConv1d):
            return renamed.replace(".conv.", ".conv.conv.", 1)
    return renamed


def _settings(model: Any) -> dict[str, Any]:
    config = model.config
    return {
        "compression_model": "encodec",
        "device": "cpu",
        "dtype": "float32",
        "sample_rate": config.sampling_rate,
        "channels": config.audio_channels,
        "encodec": {
            "autoencoder": "seanet", "quantizer": "rvq", "sample_rate": config.sampling_rate,
            "channels": config.audio_channels, "causal": config.use_causal_conv, "renormalize": config.normalize,
        },
        "seanet": {
            "dimension": config.hidden_size, "channels": config.audio_channels, "causal": config.use_causal_conv,
            "n_filters": config.num_filters, "n_residual_layers": config.num_residual_layers,
            "ratios": list(config.upsampling_ratios), "activation": "ELU", "activation_params": {"alpha": 1.0},
            "norm": "weight_norm", "norm_params": {}, "kernel_size": config.kernel_size,
            "residual_kernel_size": config.residual_kernel_size, "last_kernel_size": config.last_kernel_size,
            "dilation_base": config.dilation_growth_rate, "pad_mode": config.pad_mode,
            "true_skip": not config.use_conv_shortcut, "compress": config.compress, "lstm": config.num_lstm_layers,
            "disable_norm_outer_blocks": 0, "encoder": {},
            "decoder": {"trim_right_ratio": config.trim_right_ratio, "final_activation": None},
        },
        "rvq": {"n_q": len(model.quantizer.layers), "q_dropout": False, "bins": config.codebook_size},
    }  # fmt: skip
