"""Decoder layers that run compiled: one compiled form for all layers, whatever the length."""

from __future__ import annotations

import os
import shutil
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from pipeline.errors import ParamsError

COMPILERS = ("g++", "clang++", "c++")


def uncompiled(is_compiled: bool) -> AbstractContextManager[Any]:
    """Context in which layers run as if they were not compiled: column by column they would compile anew each time.

    Args:
        is_compiled: False changes nothing.
    """
    if not is_compiled:
        return nullcontext()
    from torch.compiler import set_stance

    return set_stance("force_eager")


def compile_layers(network: Any, is_on: bool) -> None:
    """Compile each layer of the decoder at its first call.

    Layer by layer, so that 48 layers take no longer to compile than one; with free sizes, so that a batch of another
    length does not compile again. In place: names of weights stay as they are. Recomputing wraps around a layer, so
    both go together.

    Args:
        network: transformers' MusicGen, with its adapter if it has one.
        is_on: False leaves it as it is.

    Raises:
        ParamsError: no C++ compiler.
    """
    if not is_on:
        return
    if not any(shutil.which(name) for name in (os.environ.get("CXX", ""), *COMPILERS)):
        raise ParamsError("train.compile: needs a C++ compiler; install g++, or set train.compile to false")
    for layer in network.decoder.model.decoder.layers:
        layer.compile(dynamic=True)
