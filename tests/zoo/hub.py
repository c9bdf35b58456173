"""Families of image classifiers from transformers, at small sizes and with random weights: nothing is downloaded.

A family is a name, its classes' prefix in transformers, and the settings of its ``*Config`` that make it small. Those
with ``ForImageClassification`` that cannot be had are in ``NOT_HAD``, each with its reason.
"""

from __future__ import annotations

import functools
import os
from typing import Any

from torch import nn

from zoo.family import N_CLASSES, Family, Unavailable

__all__ = ["HUB", "NOT_HAD"]

# Read when transformers is imported: no look-up, no telemetry and no advice on standard error.
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}


def make(model: str, config: str, settings: dict[str, Any]) -> nn.Module:
    """The classifier ``model`` of transformers with ``config(**settings)``."""
    os.environ.update(OFFLINE)
    try:
        import transformers
    except ImportError as error:
        raise Unavailable(f"transformers is not installed: pip install -e .[dev] ({error})") from None
    if not hasattr(transformers, model):
        raise Unavailable(f"transformers {transformers.__version__} has no {model}")
    module = getattr(transformers, model)(getattr(transformers, config)(num_labels=N_CLASSES, **settings))
    assert isinstance(module, nn.Module)
    return module


def family(name: str, prefix: str, size: int, *, suffix: str = "", quick: bool = False, **settings: Any) -> Family:
    """``prefix`` + ForImageClassification + ``suffix`` on (3, size, size)."""
    build = functools.partial(make, f"{prefix}ForImageClassification{suffix}", f"{prefix}Config", settings)
    return Family(name, build, (3, size, size), quick)


# The sizes of every plain vision transformer.
VIT: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "image_size": 32,
    "patch_size": 8,
}
DINO: dict[str, Any] = {key: value for key, value in VIT.items() if key != "intermediate_size"} | {"mlp_ratio": 2}
# BEiT and its like add a bias for each pair of positions to the attention.
RELATIVE: dict[str, Any] = {"use_relative_position_bias": True, "use_absolute_position_embeddings": True}
# Two towers of which the classifier keeps one: sizes go to the configuration of the images' tower.
TOWER: dict[str, Any] = {"vision_config": VIT}
# Four stages of two convolutions each.
STAGES: dict[str, Any] = {"embedding_size": 8, "hidden_sizes": [16, 16, 24, 32], "depths": [1, 2, 1, 1]}
# Three stages of attention in windows, the second block of a stage in shifted ones. No stage is smaller than a window:
# the classes of transformers fail there.
WINDOWS: dict[str, Any] = {
    "image_size": 64,
    "patch_size": 4,
    "embed_dim": 16,
    "depths": [2, 2, 1],
    "num_heads": [1, 2, 4],
    "window_size": 4,
}
# Four stages whose attention reads keys and values at a lower resolution.
PYRAMID: dict[str, Any] = {
    "depths": [1, 1, 1, 1],
    "hidden_sizes": [8, 16, 24, 32],
    "num_attention_heads": [1, 2, 2, 4],
    "mlp_ratios": [2, 2, 2, 2],
}

LEVIT: dict[str, Any] = {
    "image_size": 64,
    "hidden_sizes": [16, 24, 32],
    "num_attention_heads": [2, 2, 4],
    "depths": [1, 1, 1],
    "key_dim": [4, 4, 4],
    "down_ops": [["Subsample", 4, 4, 4, 2, 2], ["Subsample", 4, 6, 4, 2, 2]],
}
PERCEIVER: dict[str, Any] = {
    "image_size": 32,
    "num_latents": 6,
    "d_latents": 16,
    "num_self_attends_per_block": 2,
    "num_self_attention_heads": 2,
    "num_cross_attention_heads": 1,
}

ALL = (
    family("beit", "Beit", 32, **VIT, **RELATIVE),
    family("bit", "Bit", 32, **STAGES, num_groups=4),
    family("clip", "CLIP", 32, **TOWER),
    family("convnext", "ConvNext", 32, hidden_sizes=[8, 16, 16, 24], depths=[1, 1, 2, 1], quick=True),
    family("convnext-v2", "ConvNextV2", 32, hidden_sizes=[8, 16, 16, 24], depths=[1, 1, 2, 1]),
    family("cvt", "Cvt", 32, embed_dim=[8, 16, 24], num_heads=[1, 2, 3], depth=[1, 2, 3]),
    family("data2vec-vision", "Data2VecVision", 32, **VIT, **RELATIVE),
    family("deit", "DeiT", 32, **VIT),
    family("deit-teacher", "DeiT", 32, suffix="WithTeacher", **VIT),
    family("dinov2", "Dinov2", 32, **DINO),
    family("dinov2-registers", "Dinov2WithRegisters", 32, **DINO, use_swiglu_ffn=True),
    family("donut-swin", "DonutSwin", 64, **WINDOWS),
    family(
        "efficientnet", "EfficientNet", 64, image_size=64, width_coefficient=0.25, depth_coefficient=0.5, hidden_dim=320
    ),
    family("focalnet", "FocalNet", 32, image_size=32, embed_dim=8, depths=[1, 1, 2, 1], focal_windows=[3, 3, 3, 3]),
    family(
        "hgnet-v2",
        "HGNetV2",
        64,
        embedding_size=8,
        stem_channels=[3, 8, 12],
        hidden_sizes=[16, 24, 32, 40],
        stage_in_channels=[12, 16, 24, 32],
        stage_mid_channels=[8, 8, 12, 16],
        stage_out_channels=[16, 24, 32, 40],
        stage_numb_of_layers=[2, 2, 2, 2],
        stage_num_blocks=[1, 1, 2, 1],
        use_learnable_affine_block=True,
    ),
    family("hiera", "Hiera", 64, image_size=[64, 64], embed_dim=8, depths=[1, 1, 2, 1], num_heads=[1, 2, 2, 4]),
    family("ijepa", "IJepa", 32, **VIT),
    family("levit", "Levit", 64, **LEVIT),
    family("levit-teacher", "Levit", 64, suffix="WithTeacher", **LEVIT),
    family("metaclip-2", "MetaClip2", 32, **TOWER),
    family("mobilenet-v1", "MobileNetV1", 32, depth_multiplier=0.25),
    family("mobilenet-v2", "MobileNetV2", 32, depth_multiplier=0.25),
    family(
        "mobilevit",
        "MobileViT",
        64,
        image_size=64,
        hidden_sizes=[24, 32, 40],
        neck_hidden_sizes=[8, 8, 12, 16, 24, 24, 40],
        num_attention_heads=2,
    ),
    family(
        "mobilevit-v2",
        "MobileViTV2",
        64,
        image_size=64,
        width_multiplier=0.25,
        n_attn_blocks=[1, 1, 1],
        base_attn_unit_dims=[64, 96, 128],
    ),
    family("perceiver", "Perceiver", 32, suffix="Learned", **PERCEIVER),
    family("perceiver-fourier", "Perceiver", 32, suffix="Fourier", **PERCEIVER),
    family("perceiver-conv", "Perceiver", 32, suffix="ConvProcessing", **PERCEIVER),
    family("poolformer", "PoolFormer", 32, depths=[1, 1, 2, 1], hidden_sizes=[8, 16, 24, 32]),
    family("pp-lcnet", "PPLCNet", 64, scale=0.25, class_expand=64),
    family("pvt", "Pvt", 32, image_size=32, **PYRAMID, sequence_reduction_ratios=[4, 2, 1, 1]),
    family("pvt-v2", "PvtV2", 32, image_size=[32, 32], **PYRAMID, sr_ratios=[4, 2, 1, 1]),
    family("regnet", "RegNet", 32, **STAGES, groups_width=8),
    family("resnet-hub", "ResNet", 32, **STAGES),
    family("segformer", "Segformer", 32, **PYRAMID, sr_ratios=[4, 2, 1, 1]),
    family("siglip", "Siglip", 32, **TOWER),
    family(
        "swiftformer", "SwiftFormer", 32, image_size=32, depths=[1, 1, 2, 1], embed_dims=[8, 16, 24, 32], mlp_ratio=2
    ),
    family("swin", "Swin", 64, **WINDOWS, quick=True),
    family("swin-v2", "Swinv2", 64, **WINDOWS),
    family("textnet", "TextNet", 32, stem_out_channels=8, hidden_sizes=[8, 8, 16, 24, 32]),
    family("vit", "ViT", 32, **VIT, quick=True),
    family("vit-msn", "ViTMSN", 32, **VIT),
)
HUB = {entry.name: entry for entry in ALL}

NOT_HAD = {
    "DinatForImageClassification": "needs the package natten, whose kernels are for a GPU",
    "ImageGPTForImageClassification": "reads tokens (clusters of colours), not images",
    "ShieldGemma2ForImageClassification": "a language model that answers about an image: it reads text too",
    "Siglip2ForImageClassification": "reads patches that a processor cut out, with their mask and sizes, not images",
    "TimmWrapperForImageClassification": "needs timm, so torchvision, which cannot be imported beside a CPU torch",
}
