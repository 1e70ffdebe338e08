"""The segmentation head: a light fully convolutional network on diffusion features."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import interpolate


class Head(nn.Module):
    """Features of several decoder blocks to class logits at twice the finest block's resolution.

    Each block is projected by a 1x1 convolution at its own resolution and then upsampled and
    added. A 1x1 convolution commutes with bilinear upsampling and splits over concatenated
    channels, so this equals upsampling and concatenating everything first (Baranchuk et al.
    2022) at a fraction of the memory. The layers after it are our choice.
    """

    def __init__(self, feature_channels: Sequence[int], classes: int, width: int) -> None:
        super().__init__()
        self.feature_channels, self.width = tuple(feature_channels), width
        self.norms = nn.ModuleList(nn.BatchNorm2d(c, affine=False) for c in feature_channels)
        self.projections = nn.ModuleList(nn.Conv2d(c, width, 1) for c in feature_channels)
        self.context = nn.Sequential(
            nn.ReLU(),
            _conv(width, width, dilation=1),
            _conv(width, width, dilation=2),
            _conv(width, width, dilation=4),
        )
        self.refine = _conv(width, width // 2, dilation=1)
        self.classify = nn.Conv2d(width // 2, classes, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return logits float [B, K, 2h, 2w], h x w being the finest block's resolution."""
        hidden = self.context(self.project(features))
        hidden = interpolate(hidden, scale_factor=2, mode="bilinear", align_corners=False)
        return self.classify(self.refine(hidden))

    def project(self, features: Sequence[Tensor]) -> Tensor:
        """Return the blocks' sum, float [B, width, h, w], at the finest block's resolution."""
        size = max((f.shape[-2:] for f in features), key=lambda hw: hw[0] * hw[1])
        projected = [
            project(norm(feature))
            for feature, norm, project in zip(features, self.norms, self.projections, strict=True)
        ]
        return sum(
            (
                interpolate(p, size=size, mode="bilinear", align_corners=False)
                for p in projected[1:]
            ),
            start=interpolate(projected[0], size=size, mode="bilinear", align_corners=False),
        )


def _conv(channels_in: int, channels_out: int, dilation: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=dilation, dilation=dilation, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    )
