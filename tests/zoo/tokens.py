"""Networks over tokens in plain torch: an MLP-Mixer, and convolutions followed by attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["attention_hybrid", "mlp_mixer"]


class MixerBlock(nn.Module):
    """Tolstikhin et al. 2021."""

    def __init__(self, tokens: int, width: int, expansion: int = 2) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.token_mix = nn.Sequential(
            nn.Linear(tokens, expansion * tokens), nn.GELU(), nn.Linear(expansion * tokens, tokens)
        )
        self.norm2 = nn.LayerNorm(width)
        self.channel_mix = nn.Sequential(
            nn.Linear(width, expansion * width), nn.GELU(), nn.Linear(expansion * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.token_mix(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channel_mix(self.norm2(x))


class MLPMixer(nn.Module):
    def __init__(self, num_classes: int, width: int, depth: int, image: int, patch: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, width, kernel_size=patch, stride=patch)
        tokens = (image // patch) ** 2
        self.blocks = nn.ModuleList([MixerBlock(tokens, width) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).permute(0, 2, 1)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(dim=1))


def mlp_mixer(num_classes: int = 1000, width: int = 512, depth: int = 8, image: int = 32, patch: int = 4) -> nn.Module:
    return MLPMixer(num_classes, width, depth, image, patch)


class AttentionBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, dropout=0.1, batch_first=True)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.SiLU(), nn.Dropout(0.1), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        y, _ = self.attention(y, y, y)
        x = x + y
        return x + self.mlp(x)


class AttentionHybrid(nn.Module):
    """A convolutional stem, then attention over its positions and a class token."""

    def __init__(self, num_classes: int, width: int, depth: int, heads: int, image: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width // 2, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width // 2),
            nn.Hardswish(),
            nn.Conv2d(width // 2, width, 3, stride=4, padding=1),
        )
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.randn(1, (image // 8) ** 2 + 1, width) * 0.02)
        self.blocks = nn.Sequential(*[AttentionBlock(width, heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        b, c, h, w = x.shape
        x = x.reshape(b, c, h * w).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(b, -1, -1), x], dim=1) + self.pos_embed
        return self.head(self.norm(self.blocks(x))[:, 0])


def attention_hybrid(
    num_classes: int = 1000, width: int = 192, depth: int = 6, heads: int = 4, image: int = 32
) -> nn.Module:
    return AttentionHybrid(num_classes, width, depth, heads, image)
