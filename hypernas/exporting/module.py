"""The standalone source of an architecture, run: an ordinary module with named layers."""

from __future__ import annotations

import linecache
import types
from collections.abc import Mapping
from typing import TYPE_CHECKING

from hypernas.errors import CheckpointError
from hypernas.exporting.python_source import python_source
from hypernas.graphs.architecture import Architecture

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["build_module"]


def build_module(architecture: Architecture, tensors: Mapping[str, Tensor] | None = None) -> nn.Module:
    """The module that ``python_source`` describes, in evaluation mode.

    Args:
        tensors: parameters and running statistics by name, all of them; None for those of a fresh module.

    Raises:
        ArchitectureError: as ``python_source``.
        CheckpointError: where tensors are missing, left over, or of the wrong shape.
    """
    source = python_source(architecture)
    name = f"hypernas_network_{architecture.network_digest[:16]}"
    file = f"<{name}>"
    linecache.cache[file] = (len(source), None, source.splitlines(True), file)  # so that tracebacks show the lines
    module = types.ModuleType(name)
    module.__file__ = file
    # Running it is safe: the text is our own. Of the architecture it has numbers, names that are identifiers, and
    # quoted strings alone.
    exec(compile(source, file, "exec"), module.__dict__)
    network: nn.Module = module.__dict__["Network"]()
    if tensors is not None:
        try:
            network.load_state_dict(dict(tensors), strict=True)
        except RuntimeError as error:
            raise CheckpointError(f"Weights fit the architecture ({error})", value=architecture.digest[:8]) from None
    return network.eval()
