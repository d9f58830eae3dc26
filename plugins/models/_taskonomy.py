"""Build the Taskonomy encoder: untrained under a seed of its own, or with the published weights of a task.

A ResNet-50 that keeps more of the image: a stage shrinks it in its last block, not its first, and only the first two
stages do. Two more convolution steps squeeze 2048 channels into the 8 of the latent space.
"""

from __future__ import annotations

import torch
from torch import nn
from torchvision import transforms

from mousebench import TorchModel
from mousebench.checkpoints import fill, read_state_dict
from mousebench_plugins.models._weights import published_file
from mousebench_plugins.models.taskonomy import ENCODERS, RANDOM, weights_file

URL = "https://github.com/alexsax/visual-prior/raw/networks/assets/pytorch"
LATENT = "groupnorm"
_EXPANSION = 4


class Bottleneck(nn.Module):
    """A residual block: 1 x 1, 3 x 3 and 1 x 1 convolutions beside a shortcut.

    Parameters
    ----------
    incoming, planes : int
        Channels that come in, and of the 3 x 3 convolution; four times as many come out.
    stride : int
        Of the 3 x 3 convolution.
    downsample : torch.nn.Module, optional
        The shortcut where it is more than the input itself; under this name its weights were published.
    """

    def __init__(self, incoming: int, planes: int, stride: int = 1, downsample: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(incoming, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, _EXPANSION * planes, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(_EXPANSION * planes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (image, channel, height, width) to the same with other channels, smaller by the stride."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        y += x if self.downsample is None else self.downsample(x)
        out: torch.Tensor = self.relu(y)
        return out


def _stage(incoming: int, planes: int, blocks: int, stride: int = 1) -> nn.Sequential:
    """Return blocks of which the first widens and the last, where there is a stride, shrinks."""
    outgoing = _EXPANSION * planes
    widen = nn.Sequential(nn.Conv2d(incoming, outgoing, 1, bias=False), nn.BatchNorm2d(outgoing))
    shrink = nn.Sequential(nn.MaxPool2d(1, stride)) if stride > 1 else None
    return nn.Sequential(
        Bottleneck(incoming, planes, downsample=widen),
        *(Bottleneck(outgoing, planes) for _ in range(blocks - 2)),
        Bottleneck(outgoing, planes, stride, shrink),
    )


class Encoder(nn.Module):
    """The encoder; its modules are named as in the published state dicts.

    Parameters
    ----------
    channels : int
        Of the input: 3, or 1 where the task is colorization.
    """

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.layer1 = _stage(64, 64, 3, stride=2)
        self.layer2 = _stage(256, 128, 4, stride=2)
        self.layer3 = _stage(512, 256, 6)
        self.layer4 = _stage(1024, 512, 3)
        self.compress1 = nn.Conv2d(2048, 8, 3, padding=1, bias=False)
        self.compress_bn = nn.BatchNorm2d(8)
        self.relu1 = nn.ReLU(inplace=True)
        self.groupnorm = nn.GroupNorm(8, 8, affine=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (image, channel, 256, 256) to the latent space (image, 8, 16, 16)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        x = self.relu1(self.compress_bn(self.compress1(x)))
        latent: torch.Tensor = self.groupnorm(x)
        return latent


def lightness(rgb: torch.Tensor) -> torch.Tensor:
    """Map sRGB in 0..1, (3, height, width), to CIELAB's L under D65 in [-1, 1], (1, height, width)."""
    linear = torch.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    luminance = torch.einsum("c,chw->hw", torch.tensor([0.212671, 0.715160, 0.072169]), linear)
    root = torch.where(luminance > 216 / 24389, luminance ** (1 / 3), (24389 / 27 * luminance + 16) / 116)
    return ((116 * root - 16) / 50 - 1)[None]


def preprocess(channels: int = 3) -> transforms.Compose:
    """Return the networks' own preprocessing: a square squash to 256 x 256, values in [-1, 1]."""
    squash = [transforms.Resize((256, 256), antialias=True), transforms.ToTensor()]
    if channels == 1:
        return transforms.Compose([*squash, lightness])
    return transforms.Compose([*squash, transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))])


def trained(task: str, *, latent: bool, imagenet: bool) -> TorchModel:
    """Return the encoder of a task with its published weights."""
    channels, sha256 = ENCODERS[task].channels, ENCODERS[task].sha256
    path = published_file(f"taskonomy/{task}", f"{URL}/{weights_file(task)}", sha256, f"taskonomy/{RANDOM}")
    net = Encoder(channels)
    fill(net, read_state_dict(path), path.name)
    return _model(net, latent, imagenet, channels)


def untrained(seed: int, *, latent: bool, imagenet: bool, channels: int = 3) -> TorchModel:
    """Return the encoder with the weights that its constructor draws under a seed; the same in every process."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _model(Encoder(channels), latent, imagenet, channels)


def _model(net: nn.Module, latent: bool, imagenet: bool, channels: int = 3) -> TorchModel:
    """Return a net as a model; None is the preprocessing of Conwell et al. (2020), 224 x 224 as for ImageNet."""
    return TorchModel(net, None if imagenet else preprocess(channels), [LATENT] if latent else None)
