"""DeepSpeed's ZeRO-2 as the loop meets it: weights on every card, gradients and moments divided, moments off the card.

DeepSpeed clips and steps in one call and skips what is not finite by itself, so both happen in `clip`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, distributed, nn

from train.icl.model import IclModel
from train.loop import Trainer
from train.optimisers import make_optimiser
from train.params import TrainParams
from train.together import LogitsModule, Together, conditional_names

MOMENTS = ("exp_avg", "exp_avg_sq")


class ZeroTogether(Together):
    """One of several processes, by DeepSpeed."""

    _model: IclModel

    def share_model(self, model: IclModel, trainable: dict[str, nn.Parameter]) -> dict[str, nn.Parameter]:
        """Only make all processes begin alike: DeepSpeed wants model and optimiser at once."""
        for value in trainable.values():
            distributed.broadcast(value.data, 0)
        self._model = model
        return trainable

    def make_optimiser(self, trainable: Mapping[str, nn.Parameter], params: TrainParams) -> Any:
        """Start the engine, and put its hooks on `model.logits`."""
        config = self._accelerator.state.deepspeed_plugin.deepspeed_config
        config["train_micro_batch_size_per_gpu"] = params.batch_size
        config["gradient_clipping"] = params.max_grad_norm
        module = LogitsModule(self._model, conditional_names(trainable))
        self._module, _ = self._accelerator.prepare(module, make_optimiser(trainable, params))
        shared: Any = self._model
        shared.logits = self._module
        return self._module.optimizer

    def one_pass(self, *, is_last: bool) -> AbstractContextManager[Any]:
        """Tell the engine which backward pass completes a gradient."""
        self._module.set_gradient_accumulation_boundary(is_last)
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """The engine divides by the number of processes, which a sum must not."""
        self._module.backward(loss * self.num_processes)

    def clip(self, values: Sequence[Tensor], max_norm: float) -> float:
        """Clip to the norm that the engine was started with, and step; infinite where the engine skipped the step."""
        del values, max_norm
        self._module.step()
        norm = self._module.get_global_grad_norm()
        return float(norm) if self._module.was_step_applied() else torch.inf

    def take_step(self, optimiser: Any) -> None:
        """Done by `clip`."""

    def whole(self, trainer: Trainer) -> Trainer:
        """One with all moments, on the CPU. All must ask for it."""
        from deepspeed.utils import (  # pyright: ignore[reportMissingImports]
            safe_get_full_fp32_param,
            safe_get_full_optimizer_state,
        )

        trainable = {
            name: nn.Parameter(safe_get_full_fp32_param(value).cpu()) for name, value in trainer.trainable.items()
        }
        whole = Trainer(trainer.model, trainable, loss_of=trainer.loss_of, params=trainer.params)
        whole.position = trainer.position
        step = torch.tensor(float(self._counts(trainer)[0]["step"]))
        for name, value in trainer.trainable.items():
            moments = {field: safe_get_full_optimizer_state(value, field).cpu() for field in MOMENTS}
            whole.optimiser.state[trainable[name]] = {"step": step.clone(), **moments}
        return whole

    def take(self, whole: Trainer, trainer: Trainer) -> None:
        """Give every process its part of weights and moments."""
        from deepspeed.utils import (  # pyright: ignore[reportMissingImports]
            safe_set_full_fp32_param,
            safe_set_full_optimizer_state,
        )

        trainer.position = whole.position
        for name, value in trainer.trainable.items():
            plain = whole.trainable[name]
            value.data.copy_(plain.data)
            safe_set_full_fp32_param(value, plain.data)
            state = whole.optimiser.state[plain]
            for field in MOMENTS:
                safe_set_full_optimizer_state(value, state[field], field)
            for counted in self._counts(trainer):
                counted["step"] = int(state["step"])

    def _counts(self, trainer: Trainer) -> list[Any]:
        states = trainer.optimiser.optimizer.state
        return [state for state in states.values() if "step" in state]
