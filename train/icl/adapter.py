"""What is trained: a LoRA adapter with the separator rows and parts, or the whole decoder; and how each is kept."""

from __future__ import annotations

import copy
import logging
import shutil
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn
from transformers import AutoTokenizer

from pipeline.errors import ContractError, ParamsError
from pipeline.models.base import find_checkpoint
from pipeline.music.sequence import pad_id, separator_id
from train.checkpoint import MODEL_FOLDER
from train.icl.model import PARTS_FILE, SEPARATOR_NAME, IclModel, load_model, load_network, separator_rows
from train.inputs import Run
from train.params import TrainParams

PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
"""What transformers' MusicgenProcessor reads beside a tokenizer."""

# peft imports bitsandbytes, which asks users for a package that only speeds up its 4 bits on a CPU.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict  # noqa: E402


def make_trainable(model: IclModel, params: TrainParams) -> dict[str, nn.Parameter]:
    """Prepare a model for training by `params.method`.

    LoRA's first weights come from `params.seed`. The text encoder stays frozen either way.

    Returns:
        What the optimiser changes, by name, always in the same order.

    Raises:
        ParamsError: `lora_targets` names no module.
    """
    if params.method == "lora":
        torch.manual_seed(params.seed)
        _attach_lora(model, params)
    else:
        _unfreeze(model)
    return {name: value for name, value in model.network.named_parameters() if value.requires_grad}


def _unfreeze(model: IclModel) -> None:
    network = model.network
    for name in ("decoder", "enc_to_dec_proj", "parts"):
        if hasattr(network, name):
            getattr(network, name).requires_grad_(True)
    if model.params.text_placement == "inline":
        # Not used, so without gradient: weight decay alone would change it.
        for name, part in network.named_modules():
            if name.rpartition(".")[2] in ("encoder_attn", "encoder_attn_layer_norm", "enc_to_dec_proj"):
                part.requires_grad_(False)


def _attach_lora(model: IclModel, params: TrainParams) -> None:
    separator = separator_id(model.codec.codebook_size)
    # Keyed by full name: a plain list of indices would silently attach to the text encoder's embedding.
    tables = [f"decoder.model.decoder.embed_tokens.{k}" for k in range(model.codec.num_codebooks)]
    config = LoraConfig(
        r=params.lora_rank,
        lora_alpha=params.lora_alpha,  # pyright: ignore[reportArgumentType]
        lora_dropout=params.lora_dropout,
        target_modules=params.lora_pattern,
        trainable_token_indices={name: [separator] for name in tables} if params.trains_separator else None,
        modules_to_save=list(model.parts) or None,
    )
    try:
        with _peft_behind_transformers():
            model.adapter = get_peft_model(model.network, config)
    except ValueError as error:
        raise ParamsError(f"train.lora_targets: {params.lora_pattern!r} fits no module ({error})") from None


@contextmanager
def _peft_behind_transformers() -> Generator[None]:
    """Hide one warning: peft asks transformers by a name that transformers has renamed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield


def save_adapter(model: IclModel, folder: Path, *, base_label: str, revision: str | None = None) -> None:
    """Write the adapter in peft's format, without any path of this machine.

    Args:
        model: a model with an adapter.
        folder: where adapter_config.json and adapter_model.safetensors go.
        base_label: name and digest of the base model, written in place of its path.
        revision: its commit, if it came from a hub; peft then finds it by the name alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = copy.copy(model.adapter.peft_config["default"])
    config.base_model_name_or_path = base_label.partition("@")[0] if revision else base_label
    config.revision = revision
    config.inference_mode = True
    config.save_pretrained(folder)
    state = get_peft_model_state_dict(model.adapter, save_embedding_layers=False)
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def load_adapter(model: IclModel, folder: Path) -> None:
    """Put a saved adapter on a freshly loaded base model, frozen.

    `load_model` has added the separator's row, without which peft would refuse the adapter.

    Raises:
        ContractError: the folder holds no adapter, or one for another model.
    """
    try:
        with _peft_behind_transformers():
            model.adapter = PeftModel.from_pretrained(model.network, folder)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise ContractError(f"{folder}: no adapter for this base model ({reason}); run train.run first") from error
    model.train(on=False)


def merge_adapter(model: IclModel) -> None:
    """Add the adapter to the weights that it stands beside, in place; the model then has none."""
    model.adapter.merge_and_unload()
    model.adapter = None
    model.train(on=False)


def save_full(model: IclModel, folder: Path, *, source: str) -> None:
    """Write a network without adapter as a whole checkpoint that stock transformers loads, codec and all.

    The separator's rows and the parts lie in a file of their own beside it: transformers has no place for them.

    Args:
        model: a model trained with `method: full`, or one that its adapter was merged into.
        folder: where the checkpoint goes.
        source: the base checkpoint, from which the codec, the tokenizer and the processor come.
    """
    whole = load_network(source)
    ours = ("audio_", "parts.")
    state = {name: value for name, value in model.network.state_dict().items() if not name.startswith(ours)}
    rows = pad_id(model.codec.codebook_size) + 1
    for name in [name for name in state if ".embed_tokens." in name and name.startswith("decoder.")]:
        state[name] = state[name][:rows]
    whole.load_state_dict(state, strict=False)
    whole.save_pretrained(folder)
    base = find_checkpoint(source, role="generator").path
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    for path in [base / name for name in PROCESSOR_FILES if (base / name).is_file()]:
        shutil.copyfile(path, folder / path.name)
    parts = model.parts.state_dict() if len(model.parts) else {}
    rows = {SEPARATOR_NAME: separator_rows(model.network)}
    save_file(rows | {name: value.detach().cpu().contiguous() for name, value in parts.items()}, folder / PARTS_FILE)


def load_trained(run: Run, source: str, *, device: str = "cpu") -> IclModel:
    """Load the result of a finished run, whichever method made it.

    Args:
        run: the run.
        source: the base model; read only for an adapter.
        device: torch device.
    """
    if run.weights.name == MODEL_FOLDER:
        return load_model(str(run.weights), params=run.params, device=device)
    model = load_model(source, params=run.params, device=device)
    load_adapter(model, run.weights)
    return model
