"""A network whose weights are emitted by a hypernetwork, as one ``nn.Module``: no search, no meta-training needed.

``HyperDNN`` is the name of Chauhan et al. 2023 (*A Brief Review of Hypernetworks in Deep Learning*) for a target
network together with the hypernetwork that generates its weights; training it end to end, through the emitted weights,
is Ha et al. 2016 (*HyperNetworks*, section 3.1).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from hypernas.errors import NonFiniteError, UsageError
from hypernas.graphs.architecture import Architecture
from hypernas.graphs.primitives import Shape
from hypernas.hypernet.conditions import Given
from hypernas.hypernet.conditions.input import modulating
from hypernas.hypernet.ghn import GHN, IMAGE, Emission
from hypernas.hypernet.modules import on_cpu
from hypernas.networks.interpreter import Program, compile_program
from hypernas.networks.network import Network
from hypernas.networks.scales import MAX_STRETCH, N_PROBES, divisors, longest_stretch

__all__ = ["HyperDNN"]


@dataclass(frozen=True)
class _Place:
    """A parameter of the target.

    Attributes:
        path, leaf: the sub-module that holds it, and its name there.
        name: that the architecture has it under; several places of one name are tied.
        is_emitted: else it keeps the target's own value.
        requires_grad: in the target.
    """

    path: str
    leaf: str
    name: str
    is_emitted: bool
    requires_grad: bool

    @property
    def key(self) -> str:
        return f"{self.path}.{self.leaf}" if self.path else self.leaf


class HyperDNN(nn.Module):
    """A hypernetwork and its target; behaves as the target network, and trains as the hypernetwork.

    >>> dnn = hypernas.HyperDNN(hypernas.GHN(), module, input_shape=(1, 8, 8))  # doctest: +SKIP
    >>> logits = dnn(images)  # emits weights, with gradients, and runs the target on them  # doctest: +SKIP
    >>> network = dnn.materialize()  # the target with these weights as its own parameters  # doctest: +SKIP

    ``parameters()`` are those of the hypernetwork, so that an optimiser changes nothing else; the target has running
    statistics and dropout of its own, and ``train()``, ``eval()`` and ``to(device)`` reach them. ``state_dict()`` holds
    the hypernetwork and what the target has besides emitted weights: buffers, parameters that its forward never uses
    or that could not be emitted (``allow_uncovered``). These keep their values, and do not train.

    Weights are emitted in each call: for one set of weights and many images, use ``materialize``. A hypernetwork with
    the condition ``noise`` emits the centre of its distribution unless noise is given. One with the condition
    ``input`` emits weights for each image: the target then runs from its graph and returns the logits; a module's
    dropout is left out, and its batch norms all follow ``target.training``.

    Where norms are far apart, constant factors keep the scale of activations (``hypernas.networks.scales``): they are
    found once, here, on what the hypernetwork then emits for the conditions that it is bound to.

    Args:
        hypernetwork: bound to values of its conditions by ``GHN.given``, where it has any. It is shared, not copied.
        target: an architecture, or a module, which is copied and never changed.
        input_shape: of one image that a module takes, (channels, height, width); an architecture has its own.
        allow_uncovered: leave parameters that cannot be emitted at the module's own values, instead of raising.

    Raises:
        UsageError: for anything else than a GHN and a network.
        TraceError: where the module cannot be traced.
        ArchitectureError: for an operation that the hypernetwork does not know.
    """

    factors: Tensor | None

    def __init__(
        self,
        hypernetwork: GHN,
        target: Architecture | nn.Module,
        *,
        input_shape: Shape = IMAGE,
        allow_uncovered: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(hypernetwork, GHN):
            raise UsageError(
                "The hypernetwork of a HyperDNN is a GHN",
                value=type(hypernetwork).__name__,
                remedy="Make one with hypernas.GHN(), or load one with hypernas.load_ghn(...).",
            )
        tied: Mapping[str, str] = {}
        without: set[str] = set()
        runnable = True
        if isinstance(target, Architecture):
            target = Network(target, {spec.name: torch.zeros(spec.shape) for spec in target.parameters})
        if isinstance(target, Network):
            self.architecture = target.architecture
        elif isinstance(target, nn.Module):
            from hypernas.graphs.tracing import trace

            traced = trace(on_cpu(target), tuple(input_shape), allow_uncovered=allow_uncovered)
            self.architecture, tied, runnable = traced.architecture, traced.tied, traced.runnable
            without = {name for operation in traced.uncovered for name in operation.parameters}
        else:
            raise UsageError(
                "The target of a HyperDNN is an architecture or an nn.Module",
                value=target,
                remedy="hypernas.load_space(...).sample(...) gives an architecture.",
            )
        body = copy.deepcopy(target).to(hypernetwork.device).float()
        self.hypernetwork = hypernetwork
        self._names = tuple(spec.name for spec in self.architecture.parameters if spec.name not in without)
        if self._by_image and not runnable:
            raise UsageError(
                "A target whose weights differ from image to image runs from its graph, which has all its operations",
                value=sorted({operation.op for operation in traced.uncovered}),
                remedy="Rewrite them with other operations, or use a GHN without --condition input.",
            )
        from_graph = isinstance(target, Network) or self._by_image
        self._program = compile_program(self.architecture) if from_graph else None
        self._places = _strip(body, set(self._names), tied)
        self.target = body
        self._batch = hypernetwork.batch([self.architecture])
        self.register_buffer("factors", None)
        if runnable and longest_stretch(self.architecture) > MAX_STRETCH:
            self.factors = self._find_factors()

    @property
    def _by_image(self) -> bool:
        return "input" in self.hypernetwork.config.conditions

    def forward(self, x: Tensor, given: Given | None = None) -> Any:
        """What the target returns for a batch of images: (batch, classes) from an architecture.

        Args:
            x: (batch, *input_shape), on the device of the hypernetwork.
            given: values of the conditions, in the place of those that the hypernetwork is bound to; the images of
                the condition ``input`` are always x.

        Raises:
            UsageError: where a condition has no value, or for images of another shape than an architecture takes.
        """
        if self._program is not None and tuple(x.shape[1:]) != self.architecture.input_shape:
            raise UsageError(
                f"The target takes images (batch, {', '.join(map(str, self.architecture.input_shape))})",
                value=tuple(x.shape),
            )
        emission = self._emit(given, x)
        weights = self._weights(emission)
        if self._program is not None:
            return self._run(self._program, x, weights, emission.modulations_of(0))
        placed = {place.key: weights[place.name] for place in self._places if place.is_emitted}
        # ties are resolved in the names already; torch's own way leaves a module that is used twice changed
        return torch.func.functional_call(self.target, placed, (x,), tie_weights=False)

    @torch.inference_mode(False)
    @torch.no_grad()
    def materialize(self, given: Given | None = None) -> nn.Module:
        """The target with the emitted weights as parameters of its own, and running statistics as they are here.

        Of an architecture it is a ``Network``; of a module, a module of its class. In float32, on this device.

        Raises:
            UsageError: where the weights depend on the image: there is no one network then.
            NonFiniteError: where an emitted tensor has NaN or infinity.
        """
        if self._by_image:
            raise UsageError(
                "A hypernetwork conditioned on the input emits other weights for each image, and no one set of weights "
                "makes its network",
                remedy="Call the HyperDNN itself, or use a GHN without --condition input.",
            )
        weights = self._weights(self._emit(given, None))
        for name, tensor in weights.items():
            if not torch.isfinite(tensor.sum()):
                raise NonFiniteError(
                    f"Emitted weights are finite; those of {name!r}, of shape {tuple(tensor.shape)}, are not",
                    remedy="The training diverged: use a lower learning rate.",
                )
        body = copy.deepcopy(self.target)
        _fill(body, self._places, weights)
        return body.to(self.hypernetwork.device)  # recurrent layers keep a list of their parameters, made anew here

    def _emit(self, given: Given | None, images: Tensor | None) -> Emission:
        ghn = self.hypernetwork
        dtype = next(ghn.parameters()).dtype
        if dtype != torch.float32:
            raise UsageError(
                "A hypernetwork emits in float32",
                value=dtype,
                remedy="Leave the HyperDNN as it is, and change the precision of what materialize() gives.",
            )
        if given is not None:
            ghn = ghn.given(**vars(given))  # which checks them
        values = replace(ghn.values, images=images) if self._by_image else ghn.values
        if self._batch.op.device != ghn.device:
            self._batch = ghn.batch([self.architecture])
        emission: Emission = ghn(self._batch, values)
        return emission

    def _weights(self, emission: Emission) -> dict[str, Tensor]:
        """By the architecture's names."""
        emitted = emission[0]
        weights = {name: emitted[name] for name in self._names}
        if self.factors is not None:
            weights = {name: weights[name] * factor for name, factor in zip(self._names, self.factors, strict=True)}
        return weights

    def _run(
        self, program: Program, x: Tensor, weights: Mapping[str, Tensor], modulations: Mapping[str, Tensor]
    ) -> Tensor:
        training = self.target.training
        buffers = dict(self.target.named_buffers(remove_duplicate=False))
        running = {name: buffers[name] for step in program.steps for name in step.statistics or ()}
        call = None
        if modulations:
            call = modulating(program, modulations, training=training, shapes=self.architecture.shapes)
        return program.run(x, weights, training=training, running=running, call=call)

    @torch.no_grad()
    def _find_factors(self) -> Tensor:
        """(n,) constants that keep the scale of activations where no norm does."""
        probes = torch.randn(N_PROBES, *self.architecture.input_shape, generator=torch.Generator().manual_seed(0))
        probes = probes.to(self.hypernetwork.device)
        weights = self._weights(self._emit(None, probes))
        found = divisors(self.architecture, weights, probes) if weights else {}
        return torch.tensor([1 / found.get(name, 1.0) for name in self._names], device=probes.device)


def _strip(body: nn.Module, emitted: Set[str], tied: Mapping[str, str]) -> tuple[_Place, ...]:
    """Turn the parameters of a network into buffers: emptied where they are emitted, and then in no state dict."""
    places = []
    for path, module in body.named_modules():
        for leaf, parameter in list(module._parameters.items()):
            if parameter is None:
                continue
            key = f"{path}.{leaf}" if path else leaf
            name = tied.get(key, key)
            places.append(_Place(path, leaf, name, name in emitted, parameter.requires_grad))
            # not register_buffer: it refuses names that nn.Module uses itself, which a user's space may use too
            del module._parameters[leaf]
            module._buffers[leaf] = parameter.new_empty(0) if name in emitted else parameter.detach()
            if name in emitted:
                module._non_persistent_buffers_set.add(leaf)
    return tuple(places)


def _fill(body: nn.Module, places: Sequence[_Place], weights: Mapping[str, Tensor]) -> None:
    """The reverse: buffers become parameters, one for all places of a name."""
    made: dict[str, nn.Parameter] = {}
    for place in places:
        module = body.get_submodule(place.path)
        value = module._buffers.pop(place.leaf)
        module._non_persistent_buffers_set.discard(place.leaf)
        if place.name not in made:
            if place.is_emitted:  # emitted ones are views of the buffer of many
                value = weights[place.name].clone(memory_format=torch.contiguous_format)
            assert value is not None
            made[place.name] = nn.Parameter(value, requires_grad=place.requires_grad)
        module._parameters[place.leaf] = made[place.name]
