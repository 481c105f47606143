"""Slopes where lengths are largest changes: bounds from above and witnesses from below."""
import math

import pytest
import torch
from torch import nn

from locallearning.convnets import VGG5, ResNet
from locallearning.core import InputError
from locallearning.lipschitz.layers import LipschitzMLP
from locallearning.lipschitz.projections import L1Rows
from locallearning.models import MLP, Normalize, parametrize, prepend
from locallearning.probes.norms import LINEAR
from locallearning.probes.slopes import largest_row, measured_slope, product_bound
from locallearning.state import seeded, stream


def images(n=12, channels=1, side=16): return torch.rand(n, channels, side, side, generator=stream(0, 'x'))


class Joined(nn.Module):
    "A skip connection, a concatenation, a mean and a pooling."
    def __init__(self):
        super().__init__()
        self.a, self.b, self.out = nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 2, 3, stride=2), nn.Linear(3, 4)
    def forward(self, x):
        x = x + self.a(x).relu()
        y = torch.cat([nn.functional.max_pool2d(x, 3, 2), self.b(x)], 1)
        return self.out(y.mean((2, 3)))


MODELS = {'perceptron': lambda: MLP(256, widths=(20, 10), classes=4), 'convnet': lambda: VGG5(image_size=16, width=2, classes=4), 'scaled': lambda: prepend(Normalize([.3], [.2]), MLP(256, (10,), 4)),
          'joined': Joined, 'sorting': lambda: LipschitzMLP(256, (12, 12), 4, slope=3.), 'pooled': lambda: nn.Sequential(nn.Conv2d(1, 3, 5), nn.AvgPool2d(3, 2), nn.Flatten(), nn.Linear(75, 4)),
          'residual': lambda: ResNet(in_channels=1, image_size=32, width=2, classes=4, mean=None)}


@pytest.mark.parametrize('make', MODELS.values(), ids=MODELS)
def test_what_was_seen_lies_below_the_bound(make):
    with seeded(0, 'init'): model = make().eval()
    x = images(side=32 if isinstance(model, ResNet) else 16)
    bound, slope = product_bound(model, x, norm='inf'), measured_slope(model, x, norm='inf')
    assert bound.norm == 'inf' and 0 < slope.value <= bound.value*(1 + 1e-5)
    assert (slope.classes <= bound.classes*(1 + 1e-5)).all()
    way = (torch.rand(len(x), 1, *x.shape[2:], generator=stream(0, 'way')) - .5).sign()*.01
    with torch.no_grad(): moved = (model(x + way) - model(x)).abs().amax(1).max()/.01
    assert moved <= bound.value*(1 + 1e-3)


def test_bounds_of_a_linear_model_are_reached():
    with seeded(0, 'init'): model = nn.Sequential(nn.Flatten(), nn.Linear(9, 5).double())
    x = images(6, side=3).double()
    rows = model[1].weight.detach().abs().sum(1)
    bound, slope = product_bound(model, x, norm='inf'), measured_slope(model, x, norm='inf')
    assert bound.value == pytest.approx(rows.max().item()) == slope.gradient
    torch.testing.assert_close(bound.classes, rows)
    torch.testing.assert_close(slope.class_gradients, rows)


LAYERS = {'dense': nn.Linear(18, 4, bias=False), 'conv': nn.Conv2d(2, 3, 2, bias=False), 'stride': nn.Conv2d(2, 3, 2, stride=2, padding=1, bias=False), 'groups': nn.Conv2d(2, 4, 3, groups=2, bias=False),
          'average': nn.AvgPool2d(2, 1), 'divided': nn.AvgPool2d(2, 1, divisor_override=3), 'adaptive': nn.AdaptiveAvgPool2d(2)}


@pytest.mark.parametrize('layer', LAYERS.values(), ids=LAYERS)
def test_the_largest_row_is_that_of_the_dense_matrix(layer):
    x = torch.eye(18) if isinstance(layer, nn.Linear) else torch.eye(18).view(-1, 2, 3, 3)
    with torch.no_grad(): matrix = layer(x).flatten(1).T
    assert isinstance(layer, LINEAR) and largest_row(layer) == pytest.approx(matrix.abs().sum(1).max().item(), rel=1e-5)


def test_rows_in_the_ball_bound_the_network():
    with seeded(0, 'init'): model = parametrize(LipschitzMLP(256, (12, 12), 4, slope=2.), L1Rows()).eval()
    assert product_bound(model, images(), norm='inf').value <= 2 + 1e-4


def test_what_is_known_for_the_euclidean_norm_alone_is_refused():
    class Own(nn.Module):
        def forward(self, x): return x.flip(1)
        def lipschitz(self, shape): return 1.
    model = nn.Sequential(nn.Flatten(), Own(), nn.Linear(256, 4))
    assert math.isfinite(product_bound(model, images()).value)
    with pytest.raises(InputError, match=r'Own.lipschitz\(shape\) is for L2; for the largest change it has to take norm'): product_bound(model, images(), norm='inf')
    for call in (lambda: product_bound(model, images(), norm=3), lambda: measured_slope(model, images(), norm=1)):
        with pytest.raises(InputError, match="must be 2 or 'inf'"): call()
    with pytest.raises(InputError, match='known exactly'): product_bound(model, images(), 'matrix', norm='inf')
