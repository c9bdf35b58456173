"""Five networks as people write them for their own projects, habits and all, for a walk through hypernas as a user.

Nothing here is written to be easy to trace: functional calls between modules, hard-coded sizes, layers that are never
called, outputs in dictionaries and tuples, blocks that are used twice. Do not tidy them up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

# --- 1: a first CNN, grown over time ----------------------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self, num_classes: int = 10, p: float = 0.25):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1)
        self.conv2 = nn.Conv2d(16, 32, 3, 1, padding="same")
        self.bn = nn.BatchNorm2d(32)
        self.dropout1 = nn.Dropout(p)
        self.dropout2 = nn.Dropout2d(p)
        self.fc1 = nn.Linear(32 * 15 * 15, 64)
        self.fc1_old = nn.Linear(32 * 14 * 14, 128)  # before the padding was changed
        self.fc2 = nn.Linear(64, num_classes)
        self.prelu = nn.PReLU()

    def forward(self, x):
        x = self.conv1(x)
        x = F.relu(x)
        x = self.conv2(x)
        x = F.max_pool2d(self.bn(x), 2)
        x = self.dropout2(F.leaky_relu(x, 0.1))
        x = x.view(-1, 32 * 15 * 15)
        x = self.dropout1(self.prelu(self.fc1(x)))
        return self.fc2(x)


# --- 2: a config, a helper that makes layers, features of several scales, a dictionary --------------------------------


@dataclass
class ModelConfig:
    channels: list[int] = field(default_factory=lambda: [16, 24, 32])
    num_classes: int = 10
    use_bn: bool = True
    activation: str = "silu"
    extra: dict[str, Any] = field(default_factory=dict)


ACTIVATIONS = {"relu": nn.ReLU, "silu": nn.SiLU, "mish": nn.Mish}


class ConvBlock(nn.Module):
    def __init__(self, cin, cout, k=3, s=1, cfg=None):
        super().__init__()
        cfg = cfg or ModelConfig()
        self.conv = nn.Conv2d(cin, cout, k, s, k // 2, bias=not cfg.use_bn)
        self.norm = nn.BatchNorm2d(cout) if cfg.use_bn else nn.Identity()
        self.act = ACTIVATIONS[cfg.activation]()

    def forward(self, x):
        return self.act(self.norm(self.conv(x)))


class PyramidNet(nn.Module):
    def __init__(self, cfg: ModelConfig | None = None, num_classes: int = 10):
        super().__init__()
        self.cfg = cfg = cfg or ModelConfig(num_classes=num_classes)
        self.register_buffer("pixel_mean", torch.tensor([0.49, 0.48, 0.44]).view(1, 3, 1, 1))
        self.register_buffer("pixel_std", torch.tensor([0.25, 0.24, 0.26]).view(1, 3, 1, 1))
        self.stages = nn.ModuleList()
        cin = 3
        for c in cfg.channels:
            self.stages.append(nn.Sequential(ConvBlock(cin, c, s=2, cfg=cfg), ConvBlock(c, c, cfg=cfg)))
            cin = c
        self.laterals = nn.ModuleList([nn.Conv2d(c, 24, 1) for c in cfg.channels])
        self.smooth = nn.Conv2d(24, 24, 3, padding=1, groups=24)
        self.gn = nn.GroupNorm(4, 24)
        self.mask_head = nn.ConvTranspose2d(24, 1, 2, 2)  # for the segmentation task, not used here
        self.fc = nn.Linear(24 * 3, cfg.num_classes)

    def forward(self, x):
        x = (x - self.pixel_mean) / self.pixel_std
        feats = []
        for stage in self.stages:
            x = stage(x)
            feats.append(x)
        ps = [lateral(f) for lateral, f in zip(self.laterals, feats)]  # noqa: B905
        for i in range(len(ps) - 1, 0, -1):
            ps[i - 1] = ps[i - 1] + F.interpolate(ps[i], scale_factor=2, mode="nearest")
        pooled = [F.adaptive_avg_pool2d(self.gn(self.smooth(p)), 1).squeeze(-1).squeeze(-1) for p in ps]
        return {"features": feats, "logits": self.fc(torch.cat(pooled, dim=1))}


# --- 3: inception-like branches in a Sequential, in-place ops, a learnable pooling ------------------------------------


class GeM(nn.Module):
    """Generalised mean pooling (Radenovic et al. 2019)."""

    def __init__(self, p=3, eps=1e-6):
        super().__init__()
        self.p = nn.Parameter(torch.ones(1) * p)
        self.eps = eps

    def forward(self, x):
        x = x.clamp(min=self.eps).pow(self.p)
        return F.avg_pool2d(x, (x.size(-2), x.size(-1))).pow(1.0 / self.p)


class Branches(nn.Module):
    def __init__(self, cin, c):
        super().__init__()
        self.b1 = nn.Conv2d(cin, c, 1)
        self.b3 = nn.Sequential(nn.Conv2d(cin, c, 1), nn.ReLU(), nn.Conv2d(c, c, (1, 3), padding=(0, 1)))
        self.b5 = nn.Sequential(nn.Conv2d(cin, c, 1), nn.ELU(), nn.Conv2d(c, c, 3, padding=2, dilation=2))
        self.pool_proj = nn.Conv2d(cin, c, 1)
        self.skip_scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, x):
        outs = [b(x) for b in (self.b1, self.b3, self.b5)]
        outs += [self.pool_proj(F.max_pool2d(x, 3, stride=1, padding=1))]
        y = torch.cat(outs, 1)
        if y.shape[1] == x.shape[1]:
            y += self.skip_scale * x
        return F.relu_(y)


class BranchNet(nn.Sequential):
    def __init__(self, num_classes=10):
        super().__init__(
            nn.Conv2d(3, 16, 5, stride=2, padding=2),
            nn.LocalResponseNorm(5) if False else nn.InstanceNorm2d(16, affine=True),
            Branches(16, 4),
            nn.AvgPool2d(3, 2, 1),
            Branches(16, 8),
            Branches(32, 8),
            GeM(),
        )
        self.head = nn.Linear(32, num_classes)

    def forward(self, x):
        for i, layer in enumerate(self):
            if layer is self.head:
                break
            x = layer(x)
            if i == 0:
                x = torch.tanh(x) * 2.0
        return self.head(x.reshape(x.size(0), 32))


# --- 4: a transformer on patches, all sizes by hand ------------------------------------------------------------------


class PositionalEncoding(nn.Module):
    def __init__(self, d_model, max_len=100):
        super().__init__()
        position = torch.arange(max_len).unsqueeze(1)
        div_term = torch.exp(torch.arange(0, d_model, 2) * (-math.log(10000.0) / d_model))
        pe = torch.zeros(1, max_len, d_model)
        pe[0, :, 0::2] = torch.sin(position * div_term)
        pe[0, :, 1::2] = torch.cos(position * div_term)
        self.register_buffer("pe", pe, persistent=False)

    def forward(self, x):
        return x + self.pe[:, : x.size(1)]


class PatchTransformer(nn.Module):
    def __init__(self, num_classes=10, dim=32, heads=4, layers=2):
        super().__init__()
        self.to_embedding = nn.Linear(48, dim)
        self.cls = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos = PositionalEncoding(dim)
        layer = nn.TransformerEncoderLayer(dim, heads, 64, dropout=0.1, activation="gelu", batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers)
        self.qk = nn.Linear(dim, 2 * dim, bias=False)
        self.final = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, num_classes))

    def forward(self, img):
        n = img.shape[0]
        x = img.unfold(2, 4, 4).unfold(3, 4, 4)  # n, 3, 8, 8, 4, 4
        x = x.permute(0, 2, 3, 1, 4, 5).contiguous().view(n, 64, 48)
        x = self.to_embedding(x)
        x = torch.cat((self.cls.repeat(n, 1, 1), x), dim=1)
        x = self.encoder(self.pos(x))
        q, k = self.qk(x).chunk(2, dim=-1)
        a = torch.softmax(torch.bmm(q, k.transpose(1, 2)) / math.sqrt(32), dim=-1)
        x = torch.einsum("bij,bjd->bid", a, x)
        return self.final(x[:, 0]), a


# --- 5: one block applied again and again, gates, an auxiliary head --------------------------------------------------


class SepConv(nn.Module):
    def __init__(self, cin, cout, stride=1):
        super().__init__()
        self.op = nn.Sequential(
            nn.Conv2d(cin, cin, 3, stride, 1, groups=cin, bias=False),
            nn.Conv2d(cin, cout, 1, bias=False),
            nn.BatchNorm2d(cout, momentum=0.01, eps=1e-3),
        )

    def forward(self, x):
        return self.op(x)


class LoopNet(nn.Module):
    def __init__(self, num_classes=10, width=24, steps=3):
        super().__init__()
        self.steps = steps
        self.inp = SepConv(3, width, 2)
        self.block = SepConv(width, width)
        self.gate = nn.Conv2d(width, width, 1)
        self.gate.bias.data.fill_(-1.0)
        self.down = SepConv(width, 2 * width, 2)
        self.aux_head = nn.Linear(width, num_classes)
        self.fc = nn.Linear(2 * width, num_classes, bias=False)
        self.temperature = nn.Parameter(torch.ones([]))
        self.layer_weights = nn.Parameter(torch.zeros(steps))

    def forward(self, x):
        x = self.inp(x)
        states = []
        for _ in range(self.steps):
            g = torch.sigmoid(self.gate(x))
            x = g * F.relu(self.block(x)) + (1 - g) * x
            states.append(x)
        w = F.softmax(self.layer_weights, dim=0)
        x = (torch.stack(states, 0) * w.view(-1, 1, 1, 1, 1)).sum(0)
        aux = self.aux_head(x.mean([2, 3])) if self.training else None
        x = F.hardtanh(self.down(x), -3, 3)
        x = F.adaptive_max_pool2d(x, 1)[..., 0, 0]
        x = F.normalize(x, dim=-1)
        logits = F.linear(x, F.normalize(self.fc.weight)) * self.temperature.exp()
        return logits, aux
