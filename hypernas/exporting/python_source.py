"""An architecture as a Python file of its own: named modules, an explicit forward, and torch alone to run it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from hypernas.errors import UsageError
from hypernas.exporting.arrays import Arrays
from hypernas.exporting.naming import is_plain
from hypernas.exporting.places import arrange
from hypernas.exporting.rendering import render_class
from hypernas.exporting.templates import Template, make_templates
from hypernas.graphs.architecture import Architecture

__all__ = ["Preprocessing", "python_source"]


@dataclass(frozen=True)
class Preprocessing:
    """What was done to the images that the network was trained on.

    Attributes:
        mean, std: of each channel, for pixels in 0..1.
        data: the name of the data set.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    data: str = ""

    def to_json(self) -> dict[str, object]:
        return {"mean": list(self.mean), "std": list(self.std), "data": self.data}


RENAME = '''def accept_hypernas_names(module, state_dict, prefix, *args):
    """hypernas calls the weight and bias of a norm `scale` and `shift`; files with either names can be loaded."""
    own = {prefix + name for name in module.state_dict()}
    for name in [name for name in state_dict if name not in own]:
        owner, _, leaf = name.rpartition(".")
        if leaf in ("scale", "slope", "shift"):
            state_dict[f"{owner}.{'bias' if leaf == 'shift' else 'weight'}"] = state_dict.pop(name)'''
HOOK = "self.register_load_state_dict_pre_hook(accept_hypernas_names)"


def python_source(
    architecture: Architecture,
    *,
    class_name: str = "Network",
    title: str = "",
    doc: Sequence[str] = (),
    preprocessing: Preprocessing | None = None,
    weights: str = "weights.safetensors",
) -> str:
    """The text of a Python file with the class ``class_name``, and ``load()``, which reads ``weights`` beside it.

    ``load_state_dict`` of the class takes what ``networks.network.Network.save`` writes, strictly, and computes the
    same, in evaluation and in training mode, for any batch.

    Args:
        title: first line of the file's docstring.
        doc: further paragraphs of it.
        preprocessing: for the docstring.

    Raises:
        ArchitectureError: for an operation that no primitive represents.
        UsageError: where the class cannot be called so.
    """
    if not is_plain(class_name):
        raise UsageError("The name of a class is a Python identifier in ASCII", value=class_name)
    arrangement = arrange(architecture)
    arrays = Arrays()
    templates = make_templates(architecture, arrangement, arrays.text)
    _name_root(templates, class_name)
    classes = {template.key_name: template.name for template in templates}
    renamed = any(layer.renamed for layer in arrangement.layers.values())
    parts = [_header(architecture, title, doc, preprocessing), _imports(arrays)]
    parts += [arrays.source()] if arrays.large else []
    for template in templates[:-1]:
        parts.append(render_class(architecture, template, classes, _about(template)))
    about = [f"Images {_sizes(architecture.input_shape)} to {_sizes(architecture.output_shape)}; any batch size."]
    parts.append(render_class(architecture, templates[-1], classes, about, [HOOK] if renamed else []))
    if renamed:
        parts.insert(len(parts) - 1, RENAME)
    parts.append(_usage(architecture, class_name, weights))
    return "\n\n\n".join(parts) + "\n"


def _name_root(templates: Sequence[Template], class_name: str) -> None:
    """Give the last class the name asked for, and any other that has it another."""
    for template in templates[:-1]:
        if template.name in (class_name, "accept_hypernas_names", "load"):
            template.name += "Part"
    templates[-1].name = class_name


def _sizes(shape: Sequence[int]) -> str:
    return f"({', '.join(map(str, ('batch', *shape)))})"


def _safe(text: str) -> str:
    """Text for a docstring or comment: one line, nothing that ends it."""
    return "".join(c for c in text.replace("\\", "/").replace('"', "'") if c.isprintable())


def _about(template: Template) -> list[str]:
    paths = [_safe(".".join(body.place.path))[:60] for body in template.bodies]
    if len(paths) == 1:
        return [f"`{paths[0]}`."]
    more = f" and {len(paths) - 2} more" if len(paths) > 2 else ""
    return [f"`{paths[0]}`{',' if more else ' and'} `{paths[1]}`{more}; shapes are those of the first."]


def _header(architecture: Architecture, title: str, doc: Sequence[str], preprocessing: Preprocessing | None) -> str:
    first = _safe(title) or f"Network {architecture.digest[:8]}, found by hypernas"
    lines = [f'"""{first}.' if not first.endswith(".") else f'"""{first}', ""]
    for paragraph in doc:
        lines += [_safe(paragraph)]
    n, flops = architecture.n_parameters, architecture.flops
    lines += [
        f"{n:,} parameters, {flops / 1e6:,.1f} million multiply-accumulates an image.",
        f"Digest of the architecture: {architecture.digest}.",
        "Shapes in comments leave out the batch; in [brackets] they have all axes. Needs torch, load() safetensors.",
        "",
        f"Input: float images {_sizes(architecture.input_shape)}, normalised as in training:",
    ]
    if preprocessing is None:
        lines.append("(pixels / 255 - mean) / std, each channel with its mean and std over the training images.")
    else:
        numbers = [", ".join(f"{value:.6f}" for value in values) for values in (preprocessing.mean, preprocessing.std)]
        of = f" of {_safe(preprocessing.data)}" if preprocessing.data else ""
        lines.append(f"(pixels / 255 - mean) / std, with the channels' mean ({numbers[0]})")
        lines.append(f"and std ({numbers[1]}){of}.")
    side = architecture.input_shape[-2:] if len(architecture.input_shape) == 3 else None
    if side is not None:
        lines.append(f"Larger images are average-pooled to {side[0]}x{side[1]} pixels before that.")
    return "\n".join([*lines, '"""'])


def _imports(arrays: Arrays) -> str:
    lines = ["import base64", "import zlib"] if arrays.large else []
    lines += ["from pathlib import Path", ""]
    lines += ["import numpy as np"] if arrays.large else []
    return "\n".join([*lines, "import torch", "import torch.nn.functional as F", "from torch import nn"])


def _usage(architecture: Architecture, class_name: str, weights: str) -> str:
    shape = ", ".join(map(str, (1, *architecture.input_shape)))
    return "\n".join(
        [
            f"def load(weights=Path(__file__).with_name({json.dumps(weights, ensure_ascii=False)})):",
            '    """The network with the weights of a safetensors file, in evaluation mode."""',
            "    from safetensors.torch import load_file",
            "",
            f"    network = {class_name}()",
            "    network.load_state_dict(load_file(weights))",
            "    return network.eval()",
            "",
            "",
            'if __name__ == "__main__":',
            f"    images = torch.zeros({shape})  # normalised as above",
            "    with torch.inference_mode():",
            "        print(load()(images))",
        ]
    )
