"""Batch normalisation folded into convolutions: the same features, in another arithmetic."""

import pytest
import torch
from torch import nn

from cace.encoders.audio import audio_encoder
from cace.encoders.folding import fold_norms
from cace.encoders.visual import visual_encoder
from cace.system.errors import UserError


def varied(network):
    """With statistics as of a trained network: random weights come with means of 0."""
    some = torch.Generator().manual_seed(0)
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_(0, 0.1, generator=some)
            norm.running_var.uniform_(0.5, 1.5, generator=some)
            norm.weight.data.uniform_(0.5, 1.5, generator=some)
            norm.bias.data.normal_(0, 0.1, generator=some)
    return network


def picture(side, seed=0):
    some = torch.Generator().manual_seed(seed)
    return torch.randint(256, (2, side, side, 3), dtype=torch.uint8, generator=some)


def sound(seed=0):
    return torch.rand((1, 32_000), generator=torch.Generator().manual_seed(seed)) - 0.5


@pytest.mark.parametrize(
    ("encoder", "example", "other", "norms"),
    [
        (lambda: visual_encoder("efficientnet_lite0", "imagenet"), picture(64), picture(96, 1), 49),
        (lambda: visual_encoder("resnet50", "none"), picture(64), picture(96, 1), 53),
        (lambda: audio_encoder("cnn14", "none"), sound(), sound(1), 12),
        (lambda: audio_encoder("logmel", "none"), sound(), sound(1), 0),
    ],
    ids=["efficientnet_lite0", "resnet50", "cnn14", "logmel"],
)
@torch.inference_mode()
def test_every_encoder_gives_the_same_features_without_its_norms(encoder, example, other, norms):
    network = varied(encoder())
    expected = network(other).double()
    assert fold_norms(network, example) == norms
    found = network(other).double()
    assert (found * expected).sum() / found.norm() / expected.norm() > 1 - 1e-9
    left = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(left) == (norms == 12)  # Cnn14's of the spectrogram follows no convolution


def test_a_norm_that_follows_no_convolution_stays():
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.BatchNorm2d(3)).eval()
    assert fold_norms(network, torch.rand(1, 3, 4, 4)) == 0
    assert isinstance(network[2], nn.BatchNorm2d)


def test_a_norm_that_does_more_stays():
    class NormWithReLU(nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(x).relu()

    network = nn.Sequential(nn.Conv2d(3, 3, 1), NormWithReLU(3)).eval()
    x = torch.rand(1, 3, 4, 4)
    expected = network(x)
    assert fold_norms(network, x) == 0
    torch.testing.assert_close(network(x), expected)


def test_a_network_that_reads_a_convolution_also_elsewhere_is_refused():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 1), varied(nn.BatchNorm2d(3))

        def forward(self, x):
            y = self.conv(x)
            return y + self.norm(y)

    with pytest.raises(UserError, match="extract.fold: Both computes other features"):
        fold_norms(Both().eval(), torch.rand(1, 3, 4, 4))
