"""Running a user's module so that nothing of it, nor of torch's settings, is changed afterwards."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout

import torch
from torch import nn

__all__ = ["isolated", "quiet"]


@contextmanager
def _untouched(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards every attribute of every sub-module is what it was.

    Flags are set directly: some modules override ``train`` and ``eval`` with side effects.
    """
    attributes = [(part, dict(part.__dict__)) for part in module.modules()]
    containers = [
        (value, value.copy())
        for _, values in attributes
        for value in values.values()
        if type(value) in (dict, list, set)
    ]
    try:
        for part in module.modules():
            part.training = False
        yield
    finally:
        for part, values in attributes:
            part.__dict__.clear()
            part.__dict__.update(values)
        for container, content in containers:
            container.clear()
            (container.extend if isinstance(container, list) else container.update)(content)


@contextmanager
def _no_fast_path() -> Iterator[None]:
    """nn.TransformerEncoder's fused kernel hides the operations that it is made of."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def quiet() -> Iterator[None]:
    """torch logs, warns and prints at length about what is then raised as one error."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        silent = io.StringIO()
        with warnings.catch_warnings(), redirect_stdout(silent), redirect_stderr(silent):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextmanager
def isolated(module: nn.Module) -> Iterator[None]:
    """No gradients, no warnings, and a module left as it was."""
    with ExitStack() as stack:
        for context in (_untouched(module), _no_fast_path(), quiet(), torch.random.fork_rng(devices=[])):
            stack.enter_context(context)
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        yield
