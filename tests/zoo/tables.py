"""The networks in plain torch, at small sizes, by name."""

from __future__ import annotations

import functools

from zoo.classics import densenet121, shufflenet, vgg16
from zoo.family import N_CLASSES, Family
from zoo.ordinary import BranchNet, LoopNet, Net, PatchTransformer, PyramidNet
from zoo.residual import norm_free, resnet18, resnet50, se_resnet
from zoo.tokens import attention_hybrid, mlp_mixer

__all__ = ["CLASSICS", "ORDINARY"]

SMALL = (
    Family("resnet18", functools.partial(resnet18, N_CLASSES, width=8, stem="cifar"), quick=True),
    Family("resnet18-imagenet", functools.partial(resnet18, N_CLASSES, width=8), (3, 64, 64)),
    Family("resnet50", functools.partial(resnet50, N_CLASSES, width=8), (3, 64, 64)),
    Family("vgg16", functools.partial(vgg16, N_CLASSES, width=4, bn=False, hidden=32)),
    Family("vgg16-bn", functools.partial(vgg16, N_CLASSES, width=4, hidden=32)),
    Family("densenet121", functools.partial(densenet121, N_CLASSES, growth=4)),
    Family("se-resnet", functools.partial(se_resnet, N_CLASSES, width=8)),
    Family("norm-free", functools.partial(norm_free, N_CLASSES, width=8), quick=True),
    Family("shufflenet", functools.partial(shufflenet, N_CLASSES, width=16), quick=True),
    Family("mlp-mixer", functools.partial(mlp_mixer, N_CLASSES, width=24, depth=3)),
    Family("attention-hybrid", functools.partial(attention_hybrid, N_CLASSES, width=24, depth=2), quick=True),
)
FIVE = (
    Family("net", functools.partial(Net, num_classes=N_CLASSES), quick=True),
    Family("pyramid-net", functools.partial(PyramidNet, num_classes=N_CLASSES)),
    Family("branch-net", functools.partial(BranchNet, num_classes=N_CLASSES)),
    Family("patch-transformer", functools.partial(PatchTransformer, num_classes=N_CLASSES)),
    Family("loop-net", functools.partial(LoopNet, num_classes=N_CLASSES), quick=True),
)
CLASSICS = {family.name: family for family in SMALL}
ORDINARY = {family.name: family for family in FIVE}
