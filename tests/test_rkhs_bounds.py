"""The bounds of the RKHS norm as an instrument: closed forms, their order, refusals, rows."""
import math

import numpy as np
import pytest
import torch
from torch import nn

from locallearning.convnets import VGG5
from locallearning.core import InputError
from locallearning.instruments import rows_of
from locallearning.models import MLP
from locallearning.recipes import build_recipe
from locallearning.rkhs.bounds import BoundsProbe
from locallearning.state import seeded, stream


def images(n=30, side=28): return torch.rand(n, 1, side, side, generator=stream(0, 'x')), torch.arange(n) % 10


def test_all_bounds_of_a_linear_model_meet():
    with seeded(0, 'init'): model = nn.Sequential(nn.Flatten(), nn.Linear(16, 10))
    found = BoundsProbe(n=20, eps=.3).measure(model, images(20, 4))
    rows = model[1].weight.detach().double().norm(dim=1).numpy()
    np.testing.assert_allclose(found.gradient, rows, rtol=1e-5)
    np.testing.assert_allclose(found.perturbation, rows, rtol=1e-4)
    assert (found.pairs <= rows*(1 + 1e-5)).all()
    assert found.product == pytest.approx(torch.linalg.matrix_norm(model[1].weight.double(), 2).item(), rel=1e-6)


@pytest.mark.parametrize('model', [lambda: MLP(784, widths=(30, 20)), lambda: VGG5(width=4)], ids=['perceptron', 'convnet'])
@pytest.mark.parametrize('seed', range(2))
def test_lower_bounds_lie_below_the_upper_one_for_every_class(model, seed):
    with seeded(seed, 'init'): net = model()
    found = BoundsProbe(n=30).measure(net, images())
    assert found.lower.shape == (10,) and (found.lower > 0).all() and (found.lower <= found.product*(1 + 1e-5)).all()
    assert found.refused == '' and found.flags == ()


def test_a_model_without_a_known_bound_keeps_its_lower_ones():
    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.readout = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(16, 10)
        def forward(self, x):
            z = x.flatten(2).view(len(x), 4, 4)
            return self.readout(self.attention(z, z, z, need_weights=False)[0].flatten(1))
    with seeded(0, 'init'): net = Attends()
    found = BoundsProbe(n=20).measure(net, images(20, 4))
    assert math.isnan(found.product) and math.isnan(found.matrix) and found.refused and found.flags == ('no upper bound',)
    rows = rows_of(BoundsProbe(n=20), found, 'net')
    assert [r['quantity'] for r in rows] == ['gradient', 'perturbation', 'pairs', 'lower'] and {r['flags'] for r in rows} == {'no upper bound'}


def test_it_leaves_the_model_as_it_was():
    net = MLP(784, widths=(30,)).train()
    before = [p.clone() for p in net.parameters()]
    BoundsProbe(n=10).measure(net, images())
    assert all(p.grad is None and p.equal(b) for p, b in zip(net.parameters(), before, strict=True))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_the_setting_is_part_of_the_rows_and_the_recipe():
    rows = rows_of(BoundsProbe(n=10, eps=.25), BoundsProbe(n=10, eps=.25).measure(MLP(784), images()), 'net')
    assert {r['setting'] for r in rows} == {'eps=0.25;n=10'} and {r['probe'] for r in rows} == {'bounds'}
    assert repr(build_recipe('BoundsProbe(eps=.25, n=10)')) == repr(BoundsProbe(n=10, eps=.25))


@pytest.mark.parametrize('given, said', [(dict(n=1), 'n=1'), (dict(eps=0.), 'eps=0'), (dict(steps=0), 'steps=0')])
def test_bad_settings_are_named(given, said):
    with pytest.raises(InputError, match=said): BoundsProbe(**given)
