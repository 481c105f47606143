"""The bounds of the RKHS norm as an instrument: closed forms, their order, refusals, rows."""
import math

import numpy as np
import pytest
import torch
from torch import nn

from locallearning.convnets import VGG5
from locallearning.core import InputError
from locallearning.figures.bounds import plot_bounds
from locallearning.figures.style import render
from locallearning.instruments import rows_of
from locallearning.models import MLP
from locallearning.recipes import build_recipe
from locallearning.rkhs.bounds import Bounds, BoundsProbe
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


# --- the figure

def bounds(lower, product, matrix=None, refused=''):
    each = np.array([.5, 1., .7])*lower
    return Bounds(each, each/2, each/3, product, product if matrix is None else matrix, .5, 20, refused)


NAN = math.nan
FOUND = {'chain': bounds(2., 8.), 'convnet': bounds(4., 60., 3.), 'attends': bounds(3., NAN, NAN, 'no Lipschitz bound is known: attention'), 'dead': bounds(0., 0.)}


def dots(figure, filled=True):
    "Markers of the panel as (x, y, colour), the arrows aside."
    found = [o for o in figure.axes[0].lines if o.get_marker() not in ('None', '') and not o.get_marker().startswith('$')]
    return [(*map(float, o.get_xydata()[0]), o.get_color()) for o in found if (o.get_markerfacecolor() != 'white') == filled]


def words(figure): return [t.get_text().replace('\n', ' ') for t in figure.legends[0].get_texts()]


def test_a_model_is_a_point_of_its_largest_lower_and_its_upper_bound():
    figure = plot_bounds(FOUND, {'chain': '#123456'})
    ax = figure.axes[0]
    assert ax.get_xscale() == ax.get_yscale() == 'log'
    assert [d[:2] for d in dots(figure)] == [(2, 8), (4, 60)] and dots(figure)[0][2] == '#123456'
    assert [d[:2] for d in dots(figure, filled=False)] == [(4, 3)], 'only where the readings differ'


def test_the_diagonal_is_where_the_bounds_are_equal_and_no_upper_bound_lies_below():
    figure = plot_bounds(FOUND)
    diagonal = next(o for o in figure.axes[0].lines if len(o.get_xdata()) == 2 and o.get_color() == 'black')
    assert (diagonal.get_xdata() == diagonal.get_ydata()).all()
    (left, right), (low, high) = figure.axes[0].get_xlim(), figure.axes[0].get_ylim()
    assert diagonal.get_xdata()[0] <= left and diagonal.get_xdata()[1] >= right, 'it goes through the whole panel'
    assert all(low < y < high and left < x < right and y >= x for x, y, _ in dots(figure))
    assert words(figure)[-1] == 'lower = upper: no bound lies below'


def test_a_model_without_an_upper_bound_stands_at_the_edge_with_the_reason():
    figure = plot_bounds(FOUND)
    arrow, = [o for o in figure.axes[0].lines if o.get_marker().startswith('$')]
    assert arrow.get_xdata()[0] == 3 and arrow.get_transform().transform((3, .95))[1] > figure.axes[0].transAxes.transform((0, .9))[1]
    assert words(figure)[:3] == ['chain', 'convnet', 'attends: no Lipschitz bound is known: attention']


def test_a_model_that_never_moves_is_named_and_not_drawn():
    figure = plot_bounds(FOUND)
    assert words(figure)[3] == 'dead: its logits do not move' and len(dots(figure)) == 2
    alone = plot_bounds({'dead': FOUND['dead']})
    render(alone, 'png', dpi=50)
    assert not dots(alone) and words(alone)[0] == 'dead: its logits do not move'


def test_models_none_of_which_has_an_upper_bound_are_drawn_all_the_same():
    figure = plot_bounds({'attends': FOUND['attends']})
    render(figure, 'png', dpi=50)
    assert words(figure) == ['attends: no Lipschitz bound is known: attention', 'lower = upper: no bound lies below']


def test_the_instrument_draws_what_it_has_measured():
    probe = BoundsProbe(n=10, steps=2)
    found = {name: probe.measure(net, images()) for name, net in dict(mlp=MLP(784, widths=(20,)), conv=VGG5(width=4)).items()}
    figure, = probe.draw(found, classes=('a', 'b')).values()
    assert [d[:2] for d in dots(figure)] == [(b.lower.max(), b.product) for b in found.values()]
    assert [d[:2] for d in dots(figure, filled=False)] == [(found['conv'].lower.max(), found['conv'].matrix)]
