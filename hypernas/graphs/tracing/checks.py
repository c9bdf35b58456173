"""What is refused before a module is run: what can be said from its parameters and its signature."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from hypernas.errors import TraceError

__all__ = ["check"]


def check(module: Any) -> None:
    """Raise ``TraceError`` for what can be said without running the module."""
    if not isinstance(module, nn.Module) or isinstance(module, torch.jit.ScriptModule):
        raise TraceError(
            "What is traced is an nn.Module",
            value=type(module).__name__,
            remedy="Give the module that defines forward, not a class, a function or a scripted module.",
        )
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    for name, tensor in tensors.items():
        if nn.parameter.is_lazy(tensor):
            raise TraceError(
                f"All parameters have shapes; {name!r} is lazy and has none yet",
                remedy="Run one batch through the module first.",
            )
        if tensor.device.type != "cpu":
            raise TraceError(
                f"The module is on the CPU; {name!r} is not",
                value=str(tensor.device),
                remedy="Build it with values." if tensor.is_meta else "Call module.cpu() first.",
            )
        if tensor.is_complex() or (isinstance(tensor, nn.Parameter) and _is_other_float(tensor)):
            raise TraceError(
                f"Parameters are float32; {name!r} is not",
                value=str(tensor.dtype),
                remedy="Rewrite it with real numbers." if tensor.is_complex() else "Call module.float() first.",
            )
        if isinstance(tensor, nn.Parameter) and not tensor.is_floating_point():
            raise TraceError(
                f"Parameters are float32; {name!r} is not",
                value=str(tensor.dtype),
                remedy="Make it a buffer: whole numbers are neither emitted nor trained.",
            )
    _check_signature(module)


def _is_other_float(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.dtype != torch.float32


def _check_signature(module: nn.Module) -> None:
    try:
        parameters = inspect.signature(module.forward).parameters.values()
    except (TypeError, ValueError):
        return
    required = [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if len(required) > 1:
        raise TraceError(
            "The module's forward takes one input, the images",
            value=f"forward({', '.join(required)})",
            remedy="Wrap it in a module whose forward(x) supplies the others.",
        )
