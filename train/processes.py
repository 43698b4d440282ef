"""Several processes at one training: who they are, what they cannot do, and what they agree on.

torchrun or `accelerate launch` starts them and tells each through the environment who it is. A run that was started
plainly is `ALONE` and imports nothing. accelerate is imported inside functions alone, here and in train/tracking.py.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeVar

from pipeline.errors import ParamsError, TransientError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from train.icl.batches import Batch
    from train.icl.model import IclModel
    from train.loop import StepResult, Trainer
    from train.params import TrainParams

Made = TypeVar("Made")
Kind = Literal["alone", "ddp", "fsdp", "deepspeed"]
LAYER = "MusicgenDecoderLayer"
"""The unit that FSDP gathers at a time."""
WAIT = timedelta(hours=2)
"""How long a process waits for the others: the first writes whole checkpoints and results meanwhile."""
RANK_NAMES = ("RANK", "LOCAL_RANK", "WORLD_SIZE")


class Launch(NamedTuple):
    """What the environment says of this process."""

    kind: Kind = "alone"
    rank: int = 0
    num_processes: int = 1

    def identity(self) -> dict[str, Any]:
        """What a fingerprint covers of it: nothing where there is one process."""
        return {} if self.kind == "alone" else {"processes": {"kind": self.kind, "number": self.num_processes}}


PLAIN = Launch()


def read_launch(environ: Mapping[str, str]) -> Launch:
    """Read who started this process and how many others.

    Raises:
        ParamsError: an accelerate config that asks to share a model out, and one process.
    """
    asked = {name for name in ("FSDP", "DEEPSPEED") if _is_true(environ, f"ACCELERATE_USE_{name}")}
    if not all(name in environ for name in RANK_NAMES):
        if asked:
            raise ParamsError(
                "accelerate's config shares a model out among processes, but started one; "
                "set num_processes to 2 or more, or start train.run without it"
            )
        return PLAIN
    rank, num_processes = int(environ["RANK"]), int(environ["WORLD_SIZE"])
    if "DEEPSPEED" in asked:
        return Launch("deepspeed", rank, num_processes)
    if "FSDP" in asked:
        return Launch("fsdp", rank, num_processes)
    return Launch("ddp", rank, num_processes) if num_processes > 1 else PLAIN


def hush(launch: Launch) -> None:
    """Keep DDP from logging in every process that all parameters were used; before torch is imported."""
    if launch.kind == "ddp":
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def _is_true(environ: Mapping[str, str], name: str) -> bool:
    return environ.get(name, "false").lower() in ("true", "1")


def refuse_pairs(launch: Launch, params: TrainParams, device: str, environ: Mapping[str, str]) -> None:
    """Refuse what is known not to save, or was never seen to, before anything is loaded.

    Raises:
        ParamsError: names both settings and the way out.
    """
    if launch.kind == "fsdp":
        _refuse_fsdp(params, environ)
    if launch.kind == "deepspeed":
        _refuse_deepspeed(params, device, environ)


def _refuse_fsdp(params: TrainParams, environ: Mapping[str, str]) -> None:
    if params.optimiser != "adamw":
        raise ParamsError(
            f"train.optimiser {params.optimiser} cannot be saved under FSDP: its state is not dealt out as weights "
            "are; set train.optimiser to adamw, or use train/launch/ddp.yaml"
        )
    if params.base_weights == "nf4":
        raise ParamsError(
            "train.base_weights nf4 cannot be dealt out by FSDP: a piece of packed weights has no scales of its own; "
            "set train.base_weights to bf16, or use train/launch/ddp.yaml"
        )
    if params.num_samples or params.compile:
        name = "num_samples" if params.num_samples else "compile"
        raise ParamsError(
            f"train.{name} was never seen to work under FSDP; switch it off, or use train/launch/ddp.yaml"
        )
    needed = {
        "FSDP_VERSION": "2",
        "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        "FSDP_TRANSFORMER_CLS_TO_WRAP": LAYER,
        "FSDP_OFFLOAD_PARAMS": "false",
        "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
        "FSDP_ACTIVATION_CHECKPOINTING": "false",
    }
    for name, value in needed.items():
        found = environ.get(name, "false")
        if found.lower() != value.lower():
            raise ParamsError(
                f"{name.lower()} is {found} in accelerate's config, the trainer needs {value}; "
                "see train/launch/fsdp.yaml"
            )


def _refuse_deepspeed(params: TrainParams, device: str, environ: Mapping[str, str]) -> None:
    if device == "cpu":
        raise ParamsError(
            "accelerate starts DeepSpeed on GPUs alone, models.device gives the CPU; use train/launch/ddp.yaml"
        )
    if importlib.util.find_spec("deepspeed") is None:
        raise ParamsError(
            "package deepspeed is not installed; `uv pip install deepspeed` (it compiles its Adam at the "
            "first step and needs a C++ compiler), or use train/launch/ddp.yaml"
        )
    stage = environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    if stage != "2" or environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none") != "none":
        raise ParamsError(
            "DeepSpeed: the trainer knows zero_stage 2 without a config file of DeepSpeed's own; "
            "see train/launch/deepspeed.yaml"
        )
    known: dict[str, tuple[Any, ...]] = {
        "optimiser": ("adamw",),
        "base_weights": ("fp32", "bf16"),
        "precision": ("auto", "bf16", "fp32"),
        "compile": (False,),
    }
    for name, values in known.items():
        if getattr(params, name) not in values:
            raise ParamsError(
                f"train.{name} {getattr(params, name)} is not known to work under DeepSpeed; set it to "
                f"{' or '.join(map(str, values))}, or use train/launch/ddp.yaml"
            )


class Processes(Protocol):
    """What the loop asks of the processes of its training."""

    rank: int
    num_processes: int

    def device(self, device: str) -> str:
        """The device of this process."""
        ...

    def share_model(self, model: IclModel, trainable: dict[str, nn.Parameter]) -> dict[str, nn.Parameter]:
        """Let all processes train one model; returns what each one's optimiser changes."""
        ...

    def make_optimiser(self, trainable: Mapping[str, nn.Parameter], params: TrainParams) -> Any:
        """Make the optimiser."""
        ...

    def share_counts(self, batches: Sequence[Batch]) -> Sequence[Batch]:
        """Let batches count the codes of all processes' batches of the same number."""
        ...

    def num_passes(self, number: int) -> int:
        """Passes that every process makes in this step."""
        ...

    def one_pass(self, *, is_last: bool) -> AbstractContextManager[Any]:
        """Context of a forward and backward pass; gradients meet in the last one."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Add a loss's gradients."""
        ...

    def clip(self, values: Sequence[Tensor], max_norm: float) -> float:
        """Scale all gradients down to a norm; returns what it was."""
        ...

    def take_step(self, optimiser: Any) -> None:
        """Change the weights."""
        ...

    def agree(self, result: StepResult) -> StepResult:
        """Sum a step's figures over all processes; it is finite where it is for all."""
        ...

    def agree_stop(self, number: int) -> int:
        """A signal that any of them got; 0 for none."""
        ...

    def from_main(self, make: Callable[[], Made]) -> Made:
        """Let the first process make something small, and give it to all."""
        ...

    def whole(self, trainer: Trainer) -> Trainer:
        """The trainer with undivided weights and moments, for a checkpoint."""
        ...

    def take(self, whole: Trainer, trainer: Trainer) -> None:
        """Divide weights and moments of a whole trainer again."""
        ...

    def undivide(self, model: IclModel, trainer: Trainer) -> Trainer:
        """Make the model whole, in place, when training is over; returns its trainer, which trains no more."""
        ...


class Alone:
    """The one process of a plain run."""

    rank = 0
    num_processes = 1

    def device(self, device: str) -> str:
        """As asked for."""
        return device

    def share_model(self, model: IclModel, trainable: dict[str, nn.Parameter]) -> dict[str, nn.Parameter]:  # noqa: ARG002
        """Nothing to share."""
        return trainable

    def make_optimiser(self, trainable: Mapping[str, nn.Parameter], params: TrainParams) -> Any:
        """The one that the settings name."""
        from train.optimisers import make_optimiser

        return make_optimiser(trainable, params)

    def share_counts(self, batches: Sequence[Batch]) -> Sequence[Batch]:
        """They count their own."""
        return batches

    def num_passes(self, number: int) -> int:
        """Its own."""
        return number

    def one_pass(self, *, is_last: bool) -> AbstractContextManager[Any]:  # noqa: ARG002
        """Nothing to do."""
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Torch's own."""
        loss.backward()

    def clip(self, values: Sequence[Tensor], max_norm: float) -> float:
        """Torch's own."""
        from torch import nn

        return nn.utils.clip_grad_norm_(values, max_norm).item()

    def take_step(self, optimiser: Any) -> None:
        """Torch's own."""
        optimiser.step()

    def agree(self, result: StepResult) -> StepResult:
        """Nobody to ask."""
        return result

    def agree_stop(self, number: int) -> int:
        """Nobody to ask."""
        return number

    def from_main(self, make: Callable[[], Made]) -> Made:
        """Make it."""
        return make()

    def whole(self, trainer: Trainer) -> Trainer:
        """It is."""
        return trainer

    def take(self, whole: Trainer, trainer: Trainer) -> None:
        """It has."""

    def undivide(self, model: IclModel, trainer: Trainer) -> Trainer:  # noqa: ARG002
        """It is whole."""
        return trainer


ALONE = Alone()


@contextmanager
def joined(launch: Launch, device: str) -> Generator[Processes]:
    """Meet the other processes, and leave them in the end; only the first one's remarks are shown.

    Args:
        launch: who this process is.
        device: `cpu` or `cuda`.

    Raises:
        TransientError: another process ended before this one.
        ParamsError: more processes than GPUs on this machine.
    """
    if launch.kind == "alone":
        yield ALONE
        return
    with contextlib.ExitStack() as stack:
        if launch.rank:
            stack.enter_context(contextlib.redirect_stderr(stack.enter_context(open(os.devnull, "w"))))  # noqa: PTH123
        try:
            yield _meet(launch, device)
            _leave()
        except SystemExit:
            # Agreed on by all: none may go while another still hears the last word.
            _leave()
            raise
        except RuntimeError as error:
            if not _is_lost(error):
                raise
            raise TransientError("another process of this training ended; what it said last tells why") from error


def _meet(launch: Launch, device: str) -> Processes:
    import torch
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

    from train.together import Together

    num_here, num_cards = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    if device != "cpu" and num_here > num_cards:
        raise ParamsError(
            f"{num_here} processes on a machine with {num_cards} GPU; start as many, or set models.device to cpu"
        )
    # Which parameters an episode uses depends on what it shows, so each pass must look; and buckets that are put in
    # another order after the first step would make a resumed run differ in its last bits.
    accelerator = Accelerator(
        cpu=device == "cpu",
        mixed_precision="no",
        kwargs_handlers=[
            DistributedDataParallelKwargs(broadcast_buffers=False, find_unused_parameters=True),
            InitProcessGroupKwargs(timeout=WAIT),
        ],
    )
    if launch.kind == "deepspeed":
        from train.zero import ZeroTogether

        return ZeroTogether(launch, accelerator)
    return Together(launch, accelerator)


def _leave() -> None:
    import torch

    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def _is_lost(error: RuntimeError) -> bool:
    import torch

    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error).lower()


def divide(accelerator: Any, module: nn.Module) -> nn.Module:
    """Deal a module's weights out by FSDP2, as accelerate's config says.

    Accelerate knows FSDP on GPUs alone; what it calls there works on the CPU as well, where tests run it.
    """
    from accelerate.utils import FullyShardedDataParallelPlugin
    from accelerate.utils.fsdp_utils import fsdp2_prepare_model

    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()
    return fsdp2_prepare_model(accelerator, module)
