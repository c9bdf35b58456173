"""An architecture as a plain ``nn.Module`` whose parameters have the architecture's names: what is trained in full."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hypernas.errors import ArchitectureError, CheckpointError, StoreError
from hypernas.graphs.architecture import Architecture
from hypernas.graphs.primitives import Layout, Shape
from hypernas.networks.interpreter import compile_program

__all__ = ["Network", "load_network", "random_weights"]


def random_weights(architecture: Architecture, seed: int) -> dict[str, Tensor]:
    """A usual random start: normal with He's variance 2 / fan-in (He et al. 2015), 1 / fan-in for the last layer."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for spec in architecture.parameters:
        if spec.role == "weight":
            std = math.sqrt((1 if spec.is_head else 2) / spec.fan_in)
            weights[spec.name] = torch.randn(spec.shape, generator=generator) * std
        else:
            weights[spec.name] = torch.full(spec.shape, 1.0 if spec.role == "scale" else 0.0)
    return weights


class Network(nn.Module):
    """The trainable network of an architecture.

    Args:
        weights: name -> tensor for every parameter; copied.
    """

    def __init__(self, architecture: Architecture, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.architecture = architecture
        self.program = compile_program(architecture)
        for spec in architecture.parameters:
            owner, leaf = self._owner(spec.name)
            # not register_parameter: it refuses names that nn.Module uses itself, which a user's space may use too
            owner._parameters[leaf] = nn.Parameter(weights[spec.name].detach().clone().float())
        self._statistics: list[tuple[str, nn.Module, str]] = []
        channels = {s.statistics: architecture.shapes[s.name] for s in self.program.steps if s.statistics}
        for names, shape in channels.items():
            for name, fill in zip(names, (0.0, 1.0), strict=True):
                owner, leaf = self._owner(name)
                owner.register_buffer(leaf, torch.full((_n_channels(shape),), fill))
                self._statistics.append((name, owner, leaf))
        self._read = [self._owner(name) for name in self.program.parameter_names]

    def _owner(self, name: str) -> tuple[nn.Module, str]:
        """The (new) sub-module that holds ``a.b.c``, and ``c``: a state dict's names may not be flat."""
        *path, leaf = name.split(".")
        module: nn.Module = self
        for part in path:
            child = module._modules.get(part)
            if child is None:
                child = nn.Module()
                module._modules[part] = child
            module = child
        return module, leaf

    def forward(self, x: Tensor) -> Tensor:
        weights = [module._parameters[leaf] for module, leaf in self._read]
        running = {name: module._buffers[leaf] for name, module, leaf in self._statistics}
        return self.program.run(x, weights, training=self.training, running=running)  # type: ignore[arg-type]

    def save(self, folder: Path, extra: Mapping[str, object] | None = None) -> Path:
        """Write ``architecture.json`` and ``weights.safetensors``; returns the latter's path.

        Raises:
            StoreError: where the folder cannot be written.
        """
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        path = folder / "weights.safetensors"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "architecture.json").write_text(self.architecture.to_json() + "\n")
            save_file(tensors, path, metadata={"hypernas": json.dumps(dict(extra or {}))})
        except (OSError, SafetensorError) as error:
            raise StoreError(
                f"The network can be saved ({error})", value=str(folder), remedy="Free the disk."
            ) from None
        return path


def _n_channels(shape: Shape) -> int:
    return shape[1] if type(shape) is Layout else shape[0]


def load_network(folder: str | Path) -> Network:
    """The network that ``Network.save`` wrote, in evaluation mode.

    Raises:
        CheckpointError: where files are missing, damaged, or do not fit each other.
    """
    folder = Path(folder)
    try:
        architecture = Architecture.from_json((folder / "architecture.json").read_text())
        tensors = load_file(folder / "weights.safetensors")
        network = Network(architecture, tensors)
        network.load_state_dict(tensors)
    except (OSError, SafetensorError, KeyError, RuntimeError, ValueError, ArchitectureError) as error:
        raise CheckpointError(
            f"A saved network is architecture.json and weights.safetensors that fit ({error})", value=str(folder)
        ) from None
    return network.eval()
