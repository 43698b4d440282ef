"""How much memory a training step takes, counted without computing it: fake tensors know shapes and dtypes alone.

The network is built as training builds it, with its adapter, and run forward under a hook that adds up what autograd
keeps; with one layer and with two, since all further ones are like the second. Kernels that fuse attention are counted
as such: they keep queries, keys, values, output and a row of sums.

Shapes: B batch, K codebooks, S columns, L text tokens, D width, V codebook entries.
"""

from __future__ import annotations

import copy
import json
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from transformers import EncodecConfig, MusicgenConfig, MusicgenForConditionalGeneration

from train.data import CodecShape
from train.icl.adapter import make_trainable
from train.icl.frozen import frozen_bytes
from train.icl.loss import mean_loss
from train.icl.model import IclModel, add_separator_rows
from train.params import LORA_TARGETS, NO_EFFECT, TrainParams


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
NO_BYTES = (
    *NO_EFFECT,
    *("seed", "steps", "learning_rate", "warmup_steps", "accumulate", "log_every_steps", "publish", "caption"),
    *("validate_every_steps", "order", "schedule", "max_bad_steps"),
)
"""Settings that take no memory: plans are counted once for all of their values."""
LAYER = re.compile(r"decoder\.layers\.(\d+)\.")
"""Number of a decoder layer in a weight's name."""
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
    alike = replace(params, **{name: getattr(TrainParams(), name) for name in NO_BYTES})
    return _measure(config.to_json_string(), alike, num_columns, num_text_tokens)


@lru_cache(maxsize=64)
def _measure(config_json: str, params: TrainParams, num_columns: int, num_text_tokens: int) -> Footprint:
    config = _read_config(config_json)
    num_layers = config.decoder.num_hidden_layers
    weights = None
    if params.method == "lora" and params.lora_targets not in LORA_TARGETS:
        # A pattern of one's own may name some layers alone: its weights are counted in the whole network, and what is
        # kept as if every linear layer had an adapter.
        whole = _build(config, params)
        weights = _weigh(whole, params)
        if 0 < len({found[1] for name in whole.trainable if (found := LAYER.search(name))}) < num_layers:
            params = replace(params, lora_targets="all")
    one, two = (_run(_cut(config, layers), params, num_columns, num_text_tokens) for layers in (1, 2))
    weights = weights or _grown(one.weights, two.weights, (config.text_encoder.num_layers, num_layers))
    layer_kept = two.kept - one.kept
    recomputed = params.gradient_checkpointing
    # Measured on the CPU: a layer's gradients never take more at once than the widest of them.
    in_layer = layer_kept if recomputed else 0
    widest = params.batch_size * num_columns * config.decoder.ffn_dim * one.itemsize
    return Footprint(
        text_encoder=weights.text_encoder,
        frozen=weights.frozen,
        trained=weights.trained,
        gradients=weights.trained,
        optimiser=weights.optimiser,
        kept=one.kept - layer_kept + num_layers * (one.input_bytes if recomputed else layer_kept),
        peak=max(in_layer + widest + _unpacked_bytes(config, params), one.head_bytes),
    )


class _Weights(NamedTuple):
    """Bytes of what does not depend on the batch."""

    text_encoder: int
    frozen: int
    trained: int
    optimiser: int


def _weigh(built: _Built, params: TrainParams) -> _Weights:
    text = sum(weight.numel() for weight in built.model.network.text_encoder.parameters())
    trained = sum(value.numel() for value in built.trainable.values())
    return _Weights(4 * text, built.frozen_bytes, 4 * trained, _moments(built.trainable, params.optimiser))


def _grown(one: _Weights, two: _Weights, num_layers: tuple[int, int]) -> _Weights:
    """What more layers weigh, each as much as the second: the text encoder's, and the decoder's."""
    times = (num_layers[0] - 1, *[num_layers[1] - 1] * 3)
    return _Weights(*(first + n * (second - first) for first, second, n in zip(one, two, times, strict=True)))


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
    weights: _Weights
    kept: int
    input_bytes: int
    """Of one layer's input."""
    head_bytes: int
    """Of the gradients of the scores, in the precision of the loss and of the heads."""
    itemsize: int
    """Bytes of a number in the precision of the products."""


def _read_config(config_json: str) -> Any:
    config: Any = MusicgenConfig.from_dict(json.loads(config_json))
    # transformers wants a codec, which is thrown away: the smallest one is built fastest.
    config.audio_encoder = EncodecConfig(num_filters=2, hidden_size=2, upsampling_ratios=[2], num_lstm_layers=1)
    return config


def _cut(config: Any, num_layers: int) -> Any:
    cut = copy.deepcopy(config)
    cut.decoder.num_hidden_layers = cut.text_encoder.num_layers = num_layers
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

    built = _build(config, params)
    model, precision, weights = built.model, built.model.precision, _weigh(built, params)

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
    heads = scores * (4 + precision.itemsize)
    return _Run(weights, total, inputs[0], heads, precision.itemsize)
