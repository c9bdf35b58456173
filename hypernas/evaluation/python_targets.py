"""Targets that are Python objects: modules, classes and functions that make them, graphs and architectures."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from hypernas.errors import UsageError, close_matches
from hypernas.evaluation.target import Target, Wanted
from hypernas.evaluation.users_code import guarded, random_numbers
from hypernas.graphs.architecture import Architecture

__all__ = ["CLASSES", "target_of"]

CLASSES = ("num_classes", "n_classes", "num_labels")
CHANNELS = ("in_channels", "in_chans", "num_channels")


def target_of(found: object, name: str, wanted: Wanted) -> Target:
    """The target that an object is.

    Raises:
        UsageError: for an object that is no network and makes none, a call that needs arguments or raises, and a
            module that has no parameters, or whose parameters have no values.
        ArchitectureError: for a networkx graph that is no architecture.
    """
    callable_ = isinstance(found, type) or (callable(found) and not isinstance(found, nn.Module))
    if wanted.kwargs is not None and not callable_:
        raise UsageError(
            f"--kwargs are for a class or a function; {name} is an object of class", value=type(found).__name__
        )
    if isinstance(found, nn.Module):
        return _prepared(found, name, Target(name, "module"))
    if callable_:
        return _called(found, name, wanted)  # type: ignore[arg-type]
    return Target(name, "architecture", architecture=_architecture(found, name))


def _architecture(found: object, name: str) -> Architecture:
    if isinstance(found, Architecture):
        return found
    import networkx as nx

    if isinstance(found, nx.Graph):
        return Architecture.from_networkx(found)  # type: ignore[arg-type]
    state = isinstance(found, Mapping) and any(isinstance(value, Tensor) for value in found.values())
    raise UsageError(
        "A target is an nn.Module, a class or function that returns one, a networkx DiGraph or an Architecture; "
        f"{name} is something else",
        value=type(found).__name__,
        remedy="It is a state dict: name the class that loads it." if state else "Name another.",
    )


def _called(function: Callable[..., Any], name: str, wanted: Wanted) -> Target:
    if isinstance(function, type) and issubclass(function, nn.Module) and _is_abstract(function):
        raise UsageError(
            f"{name} is a whole network: its class has a forward of its own",
            value=function.__name__,
            remedy="Define forward(self, x), which returns logits.",
        )
    kwargs, filled = _arguments(function, name, wanted)
    text = ", ".join(f"{key}={value!r}" for key, value in {**filled, **kwargs}.items())
    remedy = f"Called as {name.rpartition(':')[2]}({text}); arguments are given by --kwargs."

    def call(seed: int) -> Any:
        with random_numbers(seed), guarded(f"{name} can be called", remedy):
            return function(**filled, **kwargs)

    def make(seed: int) -> nn.Module:
        made = call(seed)
        if not isinstance(made, nn.Module):
            raise _no_module(name, made)
        if _is_lazy(made):
            _materialise(made, name, wanted, seed)
        module = _prepared(made, name, Target(name, "factory"), copy_first=False).module
        assert module is not None
        return module

    made = call(wanted.seed)
    if isinstance(made, nn.Module):
        if _is_lazy(made):
            _materialise(made, name, wanted, wanted.seed)
        return _prepared(made, name, Target(name, "factory", make=make, filled=filled), copy_first=False)
    try:
        return Target(name, "architecture", architecture=_architecture(made, name), filled=filled)
    except UsageError:
        raise _no_module(name, made) from None


def _no_module(name: str, made: object) -> UsageError:
    return UsageError(
        f"A class or function that is a target returns an nn.Module, a networkx DiGraph or an Architecture; {name} "
        "returned something else",
        value=type(made).__name__,
        remedy="Name the class or function that makes the network.",
    )


def _is_abstract(cls: type[nn.Module]) -> bool:
    return cls.forward is nn.Module.forward


def _arguments(function: Callable[..., Any], name: str, wanted: Wanted) -> tuple[dict[str, Any], dict[str, Any]]:
    """(those that the user gave, those that the data set gives), checked against the signature."""
    given = dict(wanted.kwargs or {})
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # some builtins have none: the call itself will tell
        return given, {}
    named = {
        key: parameter
        for key, parameter in parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    unknown = sorted(set(given) - set(named))
    if unknown and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        remedy = close_matches(unknown[0], named) if named else "It takes none."
        raise UsageError(f"--kwargs are arguments of {name}", value=unknown[0], remedy=remedy)
    filled: dict[str, Any] = {}
    for known, value in ((CLASSES, wanted.n_classes), (CHANNELS, wanted.input_shape[0])):
        filled |= {key: value for key in known if key in named and key not in given}
    missing = [
        key
        for key, parameter in parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        and key not in given
        and key not in filled
    ]
    if missing:
        example = "{" + ", ".join(f'"{key}": …' for key in missing) + "}"
        raise UsageError(
            f"{name} needs arguments that were not given",
            value=", ".join(missing),
            remedy=f"Give them: --kwargs '{example}'. Where they are no plain JSON values, write a function without "
            "arguments that returns the network, and name it: model.py:make.",
        )
    return given, filled


# --- modules as they are evaluated ---


def _prepared(module: nn.Module, name: str, target: Target, *, copy_first: bool = True) -> Target:
    """The target with its module in float32 on the CPU: a copy where the user's own is not, which stays as it is."""
    tensors = [*module.parameters(), *module.buffers()]
    if not any(True for _ in module.parameters()):
        raise UsageError(
            f"A network has parameters to emit; {name} has none",
            value=type(module).__name__,
            remedy="Layers that are to be found are attributes of the module, or in an nn.ModuleList.",
        )
    if _is_lazy(module):
        raise UsageError(
            f"The parameters of {name} have shapes; lazy ones get theirs when the module is called for the first time",
            value=", ".join(_lazy_names(module)[:5]),
            remedy="Call it once on a batch of images, or name its class: hypernas then calls it.",
        )
    if any(tensor.is_meta for tensor in tensors):
        raise UsageError(
            f"The parameters of {name} have values; those on the meta device have none",
            value="meta",
            remedy="Build it on the CPU.",
        )
    devices = sorted({str(tensor.device) for tensor in tensors if tensor.device.type != "cpu"})
    types = _types(module)
    if not devices and not types:
        return replace(target, module=module)
    if copy_first:
        with guarded(f"{name} can be copied to float32 on the CPU", "Convert it yourself: module.float().cpu()."):
            module = copy.deepcopy(module)
    names = sorted({str(dtype).removeprefix("torch.") for dtype in types.values()})
    was = " and ".join([*names, *(f"on {device}" for device in devices)])
    saved = "; --save writes each tensor in the type that the module has." if types else "."
    note = f"{name} is {was}: a copy in float32 was evaluated{saved}"
    return replace(target, module=module.float().cpu(), types=types, notes=(note,))


def _types(module: nn.Module) -> dict[str, torch.dtype]:
    return {
        name: tensor.dtype
        for name, tensor in module.state_dict().items()
        if isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.dtype != torch.float32
    }


def _lazy_names(module: nn.Module) -> list[str]:
    tensors = [*module.named_parameters(), *module.named_buffers()]
    return [name for name, tensor in tensors if is_lazy(tensor)]


def _is_lazy(module: nn.Module) -> bool:
    return bool(_lazy_names(module))


def _materialise(module: nn.Module, name: str, wanted: Wanted, seed: int) -> None:
    """Let lazy layers find their shapes on two black images."""
    remedy = f"Its lazy layers were to find their shapes on images of shape {wanted.input_shape}."
    with random_numbers(seed), torch.no_grad(), warnings.catch_warnings(), guarded(f"{name} takes the images", remedy):
        warnings.simplefilter("ignore")
        module.eval()(torch.zeros(2, *wanted.input_shape))
        module.train()
