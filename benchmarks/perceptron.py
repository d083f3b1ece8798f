"""A user's own network for the benchmarks of memory: linear layers alone, and none of the project's."""

from torch import nn


def perceptron(channels: int, classes: int, width: int = 512) -> nn.Module:
    """Logits of images `(B, channels, H, W)`, which are pooled to 16 × 16 pixels."""
    hidden = [layer for _ in range(2) for layer in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(16),
        nn.Flatten(),
        nn.Linear(256 * channels, width),
        nn.ReLU(),
        *hidden,
        nn.Linear(width, classes),
    )
