"""The processes of one training as the loop meets them: each has its part of a batch; gradients are those of the whole.

By DDP every process holds the whole model; by FSDP2 a part of every weight, which it gathers layer by layer.
Losses are shares of the whole batch's: they are summed over processes, never averaged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from pipeline.errors import ParamsError
from train.icl.batches import Batch
from train.icl.model import IclModel
from train.loop import StepResult, Trainer
from train.optimisers import make_optimiser
from train.params import TrainParams
from train.processes import LAYER, Launch, divide

Made = TypeVar("Made")


class LogitsModule(nn.Module):
    """A model's logits as a module's forward pass, which DDP and FSDP put their hooks on.

    Args:
        model: the model; only its network is registered.
        used: parameters that some episodes use and others do not. They take part in every pass with weight 0, since
            FSDP sums gradients of the same parameters in every process.
    """

    def __init__(self, model: IclModel, used: Sequence[str] = ()) -> None:
        super().__init__()
        self.network = model.network
        self._logits = model.logits
        self._used = list(used)

    def forward(self, batch: Batch) -> Tensor:
        """Scores of the next column's codes, [B, K, S, V]."""
        logits_BKSV = self._logits(batch)
        if not (self._used and torch.is_grad_enabled()):
            return logits_BKSV
        return logits_BKSV + 0.0 * sum(self.network.get_parameter(name).sum() for name in self._used)


def conditional_names(names: Iterable[str]) -> list[str]:
    """Of what is trained, the names that not every episode uses: all that lies outside the decoder's layers."""
    return [name for name in names if ".layers." not in name]


class Together:
    """One of several processes, by DDP or FSDP2.

    Args:
        launch: who it is.
        accelerator: accelerate's.
    """

    def __init__(self, launch: Launch, accelerator: Any) -> None:
        self.rank = launch.rank
        self.num_processes = launch.num_processes
        self.is_sharded = launch.kind == "fsdp"
        self.meets_in_every_pass = launch.kind != "ddp"
        self._accelerator = accelerator
        self._module: Any = None

    def device(self, device: str) -> str:
        """The card of this process."""
        # Accelerate numbers the CPU too.
        return device if device == "cpu" else str(self._accelerator.device)

    def share_model(self, model: IclModel, trainable: dict[str, nn.Parameter]) -> dict[str, nn.Parameter]:
        """Put DDP's or FSDP's hooks on `model.logits`; all that computes logits passes through them from here on.

        Raises:
            ParamsError: the network has no layer that FSDP could gather by itself.
        """
        for value in trainable.values():
            distributed.broadcast(value.data, 0)
        if self.is_sharded:
            self._divide(model, list(trainable))
        else:
            self._module = self._accelerator.prepare(LogitsModule(model))
        shared: Any = model
        shared.logits = self._module
        return {name: model.network.get_parameter(name) for name in trainable}

    def _divide(self, model: IclModel, names: Sequence[str]) -> None:
        self._module = divide(self._accelerator, LogitsModule(model, conditional_names(names)))
        units = {type(part).__name__ for part in _units(self._module) if part is not self._module}
        if units != {f"FSDP{LAYER}"}:
            raise ParamsError(
                f"FSDP: {', '.join(sorted(units)) or 'no layer'} would be gathered, must be {LAYER}; "
                "see train/launch/fsdp.yaml"
            )

    def make_optimiser(self, trainable: Mapping[str, nn.Parameter], params: TrainParams) -> Any:
        """The one that the settings name, of this process's part of the weights."""
        return make_optimiser(trainable, params)

    def share_counts(self, batches: Sequence[Batch]) -> Sequence[Batch]:
        """Sum the codes that the loss divides by, so that losses of processes add up to that of the whole batch."""
        counts_AK = torch.stack([batch.counts_K for batch in batches]).to(self._accelerator.device)
        distributed.all_reduce(counts_AK)
        return [replace(batch, counts_K=counts_K) for batch, counts_K in zip(batches, counts_AK.cpu(), strict=True)]

    def num_passes(self, number: int) -> int:
        """The most that any process makes, where all must be there in every pass, as FSDP needs to gather weights."""
        return int(self._reduced([number], distributed.ReduceOp.MAX)[0]) if self.meets_in_every_pass else number

    def one_pass(self, *, is_last: bool) -> AbstractContextManager[Any]:
        """DDP sums gradients in the last pass only: processes may differ in how many they make before."""
        return nullcontext() if is_last or self.is_sharded else self._module.no_sync()

    def backward(self, loss: Tensor) -> None:
        """Both divide by the number of processes, which a sum must not."""
        (loss * self.num_processes).backward()

    def clip(self, values: Sequence[Tensor], max_norm: float) -> float:
        """Torch's own, over the parts of all processes."""
        return float(_full(nn.utils.clip_grad_norm_(values, max_norm)).item())

    def take_step(self, optimiser: Any) -> None:
        """Change this process's part of the weights."""
        optimiser.step()

    def agree(self, result: StepResult) -> StepResult:
        """Sum a step's figures over all processes; it is finite where it is for all."""
        figures = [result.loss, result.num_columns, result.num_codes, float(not result.finite)]
        loss, num_columns, num_codes, num_bad = self._reduced(figures, distributed.ReduceOp.SUM)
        return StepResult(loss, math.nan if num_bad else result.grad_norm, int(num_columns), int(num_codes))

    def agree_stop(self, number: int) -> int:
        """The highest signal that any process got."""
        return int(self._reduced([number], distributed.ReduceOp.MAX)[0])

    def _reduced(self, values: Sequence[float], how: Any) -> list[float]:
        reduced = torch.tensor(values, dtype=torch.float64, device=self._accelerator.device)
        distributed.all_reduce(reduced, how)
        return reduced.tolist()

    def from_main(self, make: Callable[[], Made]) -> Made:
        """Let the first process make something small, and give it to all; the others wait."""
        made: list[Any] = [make() if self.rank == 0 else None]
        distributed.broadcast_object_list(made, 0)
        return made[0]

    def whole(self, trainer: Trainer) -> Trainer:
        """The trainer itself by DDP; by FSDP one of undivided weights and moments on the CPU. All must ask for it."""
        if not self.is_sharded:
            return trainer
        trainable = {name: nn.Parameter(_full(value.detach()).cpu()) for name, value in trainer.trainable.items()}
        whole = Trainer(trainer.model, trainable, loss_of=trainer.loss_of, params=trainer.params)
        whole.position = trainer.position
        for name, value in trainer.trainable.items():
            state = trainer.optimiser.state.get(value, {})
            whole.optimiser.state[trainable[name]] = {field: _full(moment).cpu() for field, moment in state.items()}
        return whole

    def take(self, whole: Trainer, trainer: Trainer) -> None:
        """Divide weights and moments of a whole trainer again."""
        if whole is trainer:
            return
        trainer.position = whole.position
        for name, value in trainer.trainable.items():
            plain = whole.trainable[name]
            with torch.no_grad():
                value.copy_(_divided(plain.detach(), value))
            state = whole.optimiser.state[plain]
            trainer.optimiser.state[value] = {
                field: _divided(moment, value) if moment.shape == plain.shape else moment
                for field, moment in state.items()
            }

    def undivide(self, model: IclModel, trainer: Trainer) -> Trainer:
        """Gather all weights, one after another; they stay with the first process, on the CPU."""
        if not self.is_sharded:
            return trainer
        for unit in _units(self._module):
            unit.reshard()
        for owner in model.network.modules():
            for name, value in list(owner.named_parameters(recurse=False)):
                full = _full(value.detach())
                kept = full.cpu() if self.rank == 0 else torch.empty(0)
                owner.register_parameter(name, nn.Parameter(kept, requires_grad=value.requires_grad))
        trainable = {name: model.network.get_parameter(name) for name in trainer.trainable}
        whole = Trainer(model, trainable, loss_of=trainer.loss_of, params=trainer.params)
        whole.position = trainer.position
        return whole


def _units(module: nn.Module) -> list[Any]:
    from torch.distributed.fsdp import FSDPModule

    return [part for part in module.modules() if isinstance(part, FSDPModule)]


def _full(value: Tensor) -> Tensor:
    gather = getattr(value, "full_tensor", None)
    return value if gather is None else gather()


def _divided(full: Tensor, like: Any) -> Tensor:
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(full.to(like.device), like.device_mesh, like.placements)
