"""audiocraft's compression model (`compression_state_dict.bin`), without audiocraft."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from transformers import EncodecModel

from pipeline.errors import ContractError
from pipeline.models.codec_encodec import build_encodec, refuse_chunks
from pipeline.models.weights import as_state, read_pickle

FILE_NAME = "compression_state_dict.bin"
_REFERENCE = re.compile(r"\$\{([\w.]+)\}")
# Settings that change what is computed but no weight's name or size; transformers knows only these values.
_FIXED = {"activation": "ELU", "norm": "weight_norm", "final_activation": None, "disable_norm_outer_blocks": 0}


def find_audiocraft(path: Path) -> Path | None:
    """Find audiocraft's codec: the path itself, or the file of that name in the folder."""
    file = path / FILE_NAME if path.is_dir() else path
    return file if file.is_file() and file.name == FILE_NAME else None


def load_audiocraft(path: Path) -> EncodecModel | str:
    """Load what audiocraft exported.

    Returns:
        The model; or the hub id of a transformers EnCodec that the file only names, as MusicGen's does.

    Raises:
        ContractError: a damaged file, or a codec that works in stereo, renormalises, or is no EnCodec.
    """
    package = read_pickle(path, role="codec")
    if isinstance(package, Mapping) and isinstance(package.get("pretrained"), str):
        return str(package["pretrained"])
    if not isinstance(package, Mapping) or not isinstance(package.get("xp.cfg"), str):
        raise ContractError(f"codec: {path} is no export of audiocraft's: it lacks xp.cfg; export it again")
    settings = read_settings(package["xp.cfg"], source=path)
    state = as_state(package.get("best_state"), source=path, role="codec")
    return build_encodec(state, source=path, settings=_encodec_settings(settings, source=path))


def read_settings(text: str, *, source: Path) -> dict[str, Any]:
    """Read the settings that audiocraft saves with its weights.

    Raises:
        ContractError: they are no mapping.
    """
    try:
        settings = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ContractError(f"{source}: its xp.cfg is no YAML; export the model again") from error
    if not isinstance(settings, dict):
        raise ContractError(f"{source}: its xp.cfg holds no settings; export the model again")
    return settings


def setting(settings: Mapping[str, Any], name: str, default: Any = None) -> Any:
    """Look a setting up by its dotted name; `${other.name}` stands for another."""
    value: Any = settings
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return default
        value = value[part]
    reference = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
    return setting(settings, reference[1], default) if reference and reference[1] != name else value


def _encodec_settings(settings: Mapping[str, Any], *, source: Path) -> dict[str, Any]:
    kind, autoencoder = setting(settings, "compression_model"), setting(settings, "encodec.autoencoder")
    if (kind, autoencoder, setting(settings, "encodec.quantizer")) != ("encodec", "seanet", "rvq"):
        raise ContractError(f"codec: {source} is a {kind} of {autoencoder}, not an EnCodec; name another codec")
    if setting(settings, "encodec.renormalize", False) or setting(settings, "encodec.channels") != 1:
        raise refuse_chunks(source.name)
    for name, value in _FIXED.items():
        found = setting(settings, f"seanet.{name}", setting(settings, f"seanet.decoder.{name}", value))
        if found != value:
            raise ContractError(f"codec: {source} has seanet.{name} {found}; only {value} is supported")
    return {
        "sampling_rate": setting(settings, "encodec.sample_rate"),
        "use_causal_conv": setting(settings, "encodec.causal"),
        "dilation_growth_rate": setting(settings, "seanet.dilation_base", 2),
        "pad_mode": setting(settings, "seanet.pad_mode", "reflect"),
        "trim_right_ratio": setting(settings, "seanet.decoder.trim_right_ratio", 1.0),
    }
