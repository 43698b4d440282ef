"""How much memory a training step takes, counted without computing it: fake tensors know shapes and dtypes alone.

The network is built as training builds it, with its adapter, and run forward under a hook that adds up what autograd
keeps. Kernels that fuse attention are counted as such: they keep queries, keys, values, output and a row of sums.

Shapes: B batch, K codebooks, S columns, L text tokens, D width, V codebook entries.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from transformers import MusicgenForConditionalGeneration

from train.data import CodecShape
from train.icl.adapter import make_trainable
from train.icl.frozen import frozen_bytes
from train.icl.loss import mean_loss
from train.icl.model import IclModel, add_separator_rows
from train.params import TrainParams


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes of one training step, by what they are for."""

    text_encoder: int
    frozen: int
    """Weights of the decoder that are not trained."""
    trained: int
    gradients: int
    optimiser: int
    kept: int
    """What the forward pass keeps for the backward pass, without the layers that are computed again."""
    peak: int
    """What comes on top of `kept` at the worst moment of the backward pass."""

    @property
    def total(self) -> int:
        """All of it, without what the driver takes and what fragmentation wastes."""
        parts = (self.text_encoder, self.frozen, self.trained, self.gradients, self.optimiser, self.kept, self.peak)
        return sum(parts)


MOMENT_BYTES = {"adamw": 8.0, "adamw8bit": 2.0 + 8 / 256, "adafactor": 0.0}
"""Per trained weight; in 8 bits each 256 share a float32 for both moments. Adafactor keeps rows and columns."""
SMALL = 4096
"""Tensors with fewer weights keep their moments in float32 in bitsandbytes."""


def measure(config: Any, params: TrainParams, *, num_columns: int, num_text_tokens: int) -> Footprint:
    """Count the bytes of a step of `params.batch_size` episodes.

    Args:
        config: shape of the base model.
        params: settings of the training.
        num_columns: S, of the longest episode.
        num_text_tokens: L, of its prompts together.
    """
    one, two = (_run(_cut(config, layers), params, num_columns, num_text_tokens) for layers in (1, 2))
    layer_kept = two.kept - one.kept
    rest_kept = one.kept - layer_kept
    num_layers = config.decoder.num_hidden_layers
    whole = _build(config, params)
    text = sum(weight.numel() for weight in whole.model.network.text_encoder.parameters())
    trained = sum(value.numel() for value in whole.trainable.values())
    recomputed = params.gradient_checkpointing
    kept = rest_kept + num_layers * (one.input_bytes if recomputed else layer_kept)
    # Measured on the CPU: a layer's gradients never take more at once than the widest of them.
    in_layer = layer_kept if recomputed else 0
    widest = params.batch_size * num_columns * config.decoder.ffn_dim * whole.model.precision.itemsize
    return Footprint(
        text_encoder=4 * text,
        frozen=whole.frozen_bytes,
        trained=4 * trained,
        gradients=4 * trained,
        optimiser=_moments(whole.trainable, params.optimiser),
        kept=kept,
        peak=max(in_layer + widest + _unpacked_bytes(config, params), one.head_bytes),
    )


def _unpacked_bytes(config: Any, params: TrainParams) -> int:
    """Size of the largest matrix in bfloat16: 4-bit weights are unpacked one by one where they are used."""
    return 2 * config.decoder.ffn_dim * config.decoder.hidden_size if params.base_weights == "nf4" else 0


def _moments(trainable: dict[str, nn.Parameter], optimiser: str) -> int:
    per_weight = MOMENT_BYTES[optimiser]
    total = 0.0
    for value in trainable.values():
        if optimiser == "adafactor":
            total += 4 * sum(value.shape) if value.ndim > 1 else 4 * value.numel()
        else:
            total += (8.0 if value.numel() < SMALL else per_weight) * value.numel()
    return round(total)


@dataclass(frozen=True, slots=True)
class _Built:
    model: IclModel
    trainable: dict[str, nn.Parameter]
    frozen_bytes: int


@dataclass(frozen=True, slots=True)
class _Run:
    kept: int
    input_bytes: int
    """Of one layer's input."""
    head_bytes: int
    """Of the gradients of the scores, in the precision of the loss and of the heads."""


def _cut(config: Any, num_layers: int) -> Any:
    cut = copy.deepcopy(config)
    cut.decoder.num_hidden_layers = num_layers
    return cut


def _build(config: Any, params: TrainParams) -> _Built:
    with torch.device("meta"):
        network: Any = MusicgenForConditionalGeneration(config)
    network.audio_encoder = nn.Identity()
    network.requires_grad_(False)
    num_frozen = 0 if params.method == "full" else frozen_bytes(network, params.base_weights)
    add_separator_rows(network)
    if params.base_weights != "fp32":
        # 4-bit products hand on what bfloat16 ones do; what they keep of the weights is the weights themselves.
        network.decoder.to(torch.bfloat16)
    decoder = config.decoder
    codec = CodecShape(decoder.num_codebooks, decoder.vocab_size, 50.0, 32_000)
    precision = torch.float32 if params.precision == "fp32" else torch.bfloat16
    model = IclModel(network, None, codec, precision=precision)  # pyright: ignore[reportArgumentType]
    return _Built(model, make_trainable(model, params), num_frozen)


def _storage(tensor: Tensor) -> int:
    """What tells one piece of memory from another, while both are held."""
    return StorageWeakRef(tensor.untyped_storage()).cdata


def _make_fake(network: nn.Module) -> None:
    """Put a fake tensor in the place of every weight; only inside a FakeTensorMode."""
    for module in network.modules():
        for name, value in list(module.named_parameters(recurse=False)):
            fake = torch.empty(value.shape, dtype=value.dtype)
            module.register_parameter(name, nn.Parameter(fake, requires_grad=value.requires_grad))
        for name, value in list(module.named_buffers(recurse=False)):
            module.register_buffer(name, torch.empty(value.shape, dtype=value.dtype))


def _run(config: Any, params: TrainParams, num_columns: int, num_text_tokens: int) -> _Run:
    decoder, batch = config.decoder, params.batch_size
    kept: dict[int, int] = {}
    inputs: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        kept[_storage(tensor)] = tensor.untyped_storage().nbytes()
        return tensor

    model = _build(config, params).model
    precision = model.precision

    def note_input(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        inputs.append((args or tuple(kwargs.values()))[0].nbytes)

    model.network.decoder.model.decoder.layers[0].register_forward_pre_hook(note_input, with_kwargs=True)
    model.train()
    with FakeTensorMode():
        _make_fake(model.network)
        # Autograd keeps weights too; they are counted elsewhere.
        own = {_storage(value) for value in model.network.state_dict(keep_vars=True).values()}
        ids_BKS = torch.zeros(batch, decoder.num_codebooks, num_columns, dtype=torch.int64)
        states_BLD = torch.zeros(batch, num_text_tokens, decoder.hidden_size, dtype=precision)
        mask = torch.zeros(batch, 1, num_columns, num_text_tokens, dtype=precision)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            mean_loss(model.decode(ids_BKS, states_BLD, mask), ids_BKS)
    scores = batch * decoder.num_codebooks * num_columns * decoder.vocab_size
    total = sum(size for storage, size in kept.items() if storage not in own)
    return _Run(total, inputs[0], scores * (4 + precision.itemsize))
