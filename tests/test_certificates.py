"""What a bounded slope guarantees, against attacks; slopes between two numbers; units that are never off."""
import math

import numpy as np
import pytest
import torch
from torch import nn

import locallearning as ll
from locallearning.convnets import VGG5
from locallearning.core import InputError
from locallearning.data import load
from locallearning.instruments import image_rows_of, rows_of
from locallearning.lipschitz.certificates import (
    ActivityProbe, Certified, CertifiedProbe, LipschitzBoundsProbe, attacked_against_certified, certified_radii)
from locallearning.lipschitz.layers import LipschitzMLP
from locallearning.lipschitz.orthogonal import Bjorck
from locallearning.lipschitz.projections import L1Rows
from locallearning.models import MLP, parametrize
from locallearning.optimizers import MultiMargin
from locallearning.probes.slopes import product_bound
from locallearning.recipes import build_recipe
from locallearning.robustness.worst import standard_attacks, worst_case
from locallearning.state import seeded, stream
from locallearning.training import fit

DATA = load('mnist5k(per_class=30)')


def trained(piece=None, **given):
    with seeded(0, 'init'): model = LipschitzMLP(784, widths=(32, 32), **given)
    if piece is not None: parametrize(model, piece)
    fit(model, DATA, loss=MultiMargin(.5), epochs=4, batch_size=30, lr=.01)
    return model


NETS = {'orthonormal': (lambda: trained(Bjorck(steps=12)), 2), 'steep': (lambda: trained(Bjorck(steps=12), slope=4.), 2), 'free': (lambda: trained(), 2),
        'rows': (lambda: trained(L1Rows()), 'inf'), 'relu': (lambda: trained(Bjorck(steps=12), activation='relu'), 2)}


@pytest.mark.parametrize('make, norm', NETS.values(), ids=NETS)
def test_attacks_leave_no_less_than_is_certified(make, norm):
    model = make()
    eps = [.05, .2, 1.] if norm == 2 else [.002, .01, .05]
    certified = CertifiedProbe(eps, norm, n=60).measure(model, DATA)
    images = DATA.test[torch.as_tensor(certified.index)]
    worst = worst_case(model, images, standard_attacks(norm, None, 10, 1, 30, 2), eps)
    table = attacked_against_certified(worst, certified)
    assert list(table.eps) == eps and (table.clean >= table.attacked).all() and (table.attacked >= table.certified).all()
    assert table.certified.iloc[0] > 0 and certified.accuracy.tolist() == pytest.approx(table.certified.tolist())


def test_a_certificate_of_another_norm_is_found_out():
    model = trained(Bjorck(steps=12))
    certified = CertifiedProbe([.3], n=60).measure(model, DATA)
    worst = worst_case(model, DATA.test[torch.as_tensor(certified.index)], standard_attacks(2, None, 10, 1, 30, 2), [3.])
    with pytest.raises(InputError, match=r'no radius in common: \[3.0\] and \[0.3\]'): attacked_against_certified(worst, certified)
    lying = certified._replace(radii=np.full_like(certified.radii, 9.), eps=np.array([3.]))
    with pytest.raises(ArithmeticError, match='was broken at 3 and is certified up to 9'): attacked_against_certified(worst, lying)
    with pytest.raises(InputError, match='other images'): attacked_against_certified(worst, certified._replace(index=certified.index + 1))


def test_radii_of_two_opposite_rows_are_distances_to_the_boundary():
    w = torch.randn(5, generator=stream(0, 'w')).double()
    x = torch.randn(40, 5, generator=stream(0, 'x')).double()
    logits, y = x @ torch.stack([w, -w]).T, torch.zeros(40, dtype=torch.long)
    truth = (x @ w).clamp_min(0).numpy()
    np.testing.assert_allclose(certified_radii(logits, y, math.sqrt(2)*w.norm().item()), truth/w.norm().item(), rtol=1e-9)
    np.testing.assert_allclose(certified_radii(logits, y, w.abs().sum().item(), 'inf'), truth/w.abs().sum().item(), rtol=1e-9)


@pytest.mark.parametrize('given, said', [(dict(slope=0), 'slope'), (dict(norm=1), "must be 2 or 'inf'"), (dict(logits=torch.zeros(3, 1)), 'C ≥ 2')])
def test_what_has_no_radius_is_refused(given, said):
    with pytest.raises(InputError, match=said): certified_radii(**dict(logits=torch.zeros(3, 2), y=torch.zeros(3, dtype=torch.long), slope=1.) | given)


def test_a_logit_that_only_ties_has_no_radius():
    assert certified_radii(torch.tensor([[1., 1.]]), torch.tensor([0]), 1.).tolist() == [0.]
    c = Certified(np.array([0., .2]), np.array([True, False]), np.array([0., .1]), 1., 2, np.arange(2))
    assert c.accuracy.tolist() == [.5, 0.]


def test_rows_of_a_certificate():
    probe = build_recipe("CertifiedProbe(eps=[0.1, 0.5], norm='inf', n=20)")
    found = probe.measure(trained(L1Rows()), DATA)
    rows = rows_of(probe, found, 'net')
    assert [(r['quantity'], r['setting']) for r in rows] == [('slope', 'n=20;norm=inf'), ('clean', 'n=20;norm=inf'), ('accuracy', 'eps=0.1;n=20;norm=inf'), ('accuracy', 'eps=0.5;n=20;norm=inf')]
    assert len(image_rows_of(probe, found, 'net')) == 20


def test_a_model_without_a_known_slope_has_no_certificate():
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10), nn.Softmax(1))
    for probe in (CertifiedProbe(n=5), LipschitzBoundsProbe(n=5)):
        with pytest.raises(InputError, match='no Lipschitz bound is known'): probe.measure(model, DATA)


@pytest.mark.parametrize('make', [lambda: MLP(784, widths=(30, 20)), lambda: VGG5(width=2), lambda: trained(Bjorck(steps=12)), lambda: trained(L1Rows())], ids=['perceptron', 'convnet', 'orthonormal', 'rows'])
@pytest.mark.parametrize('norm', [2, 'inf'])
def test_the_slope_lies_between_what_was_seen_and_what_the_layers_allow(make, norm):
    with seeded(0, 'init'): model = make()
    b = LipschitzBoundsProbe(norm, n=20).measure(model, DATA)
    assert 0 < b.measured <= b.claimed*(1 + 1e-5) and (b.least <= b.largest).all() and len(b.layers) == len(b.largest)
    if norm == 2: assert b.claimed == pytest.approx(product_bound(model, DATA.test.x[:1]).value)


class Gate(nn.Module):
    "One unit that is always on, one that never is, one on half of the images."
    def __init__(self):
        super().__init__()
        self.hidden, self.out = nn.Linear(1, 3), nn.Linear(3, 2)
        with torch.no_grad():
            self.hidden.weight.copy_(torch.tensor([[0.], [0.], [1.]]))
            self.hidden.bias.copy_(torch.tensor([1., -1., -.5]))
    def forward(self, x): return self.out(self.hidden(x.flatten(1)).relu())


def test_dead_and_always_on_units_are_counted():
    x = torch.linspace(0, 1, 100)[:, None]
    probe = ActivityProbe(None)
    found = probe.measure(Gate(), (x, torch.zeros(100, dtype=torch.long)))
    assert found.layers == ('hidden',) and found.shares[0].tolist() == [1., 0., .5]
    numbers = {(r['quantity'], r['setting']): r['value'] for r in rows_of(probe, found, 'gate')}
    assert numbers['dead', 'n=100'] == numbers['always_on', 'n=100'] == numbers['dead_in_layer', 'layer=hidden;n=100'] == pytest.approx(1/3)


def test_maps_count_at_each_place_and_the_model_stays_as_it_was():
    with seeded(0, 'init'): model = VGG5(width=2).train()
    found = ActivityProbe(30).measure(model, DATA)
    assert [s.shape for s in found.shares] == [(2,), (4,), (8,), (16,)] and not any(m._forward_hooks for m in model.modules())
    with pytest.raises(InputError, match='no hidden layer'): ActivityProbe(30).measure(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), DATA)


@pytest.mark.parametrize('given', ["CertifiedProbe(norm=3)", 'LipschitzBoundsProbe(norm=1)', 'CertifiedProbe(n=0)', 'LipschitzBoundsProbe(n=1)', 'ActivityProbe(n=0)', 'CertifiedProbe(eps=[.2, .1])'])
def test_settings_that_make_no_sense_are_refused(given):
    with pytest.raises(InputError): build_recipe(given)


@pytest.mark.parametrize('word', ['certified', 'lipschitzbounds', 'activity'])
def test_the_command_knows_them_by_a_word(word):
    from locallearning.recipes import probe_recipe
    assert hasattr(ll, probe_recipe(word).name)
