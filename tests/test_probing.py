"""One look into several models."""
import math

import numpy as np
import pytest
import torch
from torch import nn

from locallearning.examine import probing
from locallearning.probes import landscapes as probes
from locallearning.core import COLUMNS, InputError
from locallearning.data import load
from locallearning.hebbian.model import KHModel
from locallearning.models import MLP, SHLP, LpUnit, Normalize, feature_jacobian_norm, prepend, read
from locallearning.probes.landscapes import jacobian_norm
from locallearning.probes.spectra import power_law, spectrum
from locallearning.examine.probing import KINDS, image_weights, measure_landscape, probe_models
from locallearning.regularizers import Jacobian
from locallearning.lab.runs import Run
from locallearning.state import seeded, stream
from locallearning.examine.studies import test_images as studied
from locallearning.examine.subjects import Subject, fit_space


class Conv(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 5, stride=3), nn.ReLU(), nn.Flatten())
        self.fc = nn.Linear(4*64, 10)
    def forward(self, x): return self.fc(self.body(x))


@pytest.fixture(scope='module')
def data(): return load('mnist5k(300, test=60)')


@pytest.fixture(scope='module')
def subjects():
    with seeded(0, 'init'):
        nets = dict(shlp=SHLP(784, 30), conv=Conv(), scaled=prepend(Normalize((.1,), (.3,)), MLP(784, (20, 15))))
        kh = Subject('kh', KHModel(784, 20).eval(), '', 'lp_unit(p=3)')
    return [*(Subject(k, v.eval(), k) for k, v in nets.items()), fit_space(kh, 'pixel')]


OPTIONS = dict(spectrum={}, jacobian=dict(n=5), landscape=dict(n=2, size=4), weights=dict(n=4))


@pytest.mark.parametrize('kind', KINDS)
def test_every_kind_takes_models_of_every_kind_side_by_side(kind, data, subjects):
    found = probe_models(kind, subjects, data, **OPTIONS[kind])
    assert all(tuple(r) == COLUMNS for r in found.rows) and [*dict.fromkeys(r['model'] for r in found.rows)] == ['shlp', 'conv', 'scaled', 'kh']
    assert found.kind == kind and [*found.found] == ['shlp', 'conv', 'scaled', 'kh'] and all(math.isfinite(r['value']) for r in found.rows) and {r['space'] for r in found.rows} == {'pixel'}


@pytest.mark.parametrize('kind', KINDS)
def test_numbers_are_kept_and_found_again(kind, data, subjects, tmp_path, monkeypatch):
    first = probe_models(kind, subjects, data, run=Run(tmp_path), **OPTIONS[kind])
    for name in ('spectrum', 'jacobian_norm', 'landscape', 'decision_map'): monkeypatch.setattr(probing, name, lambda *a, **k: pytest.fail('measured again'))
    assert probe_models(kind, subjects, data, run=Run(tmp_path), **OPTIONS[kind]).rows == first.rows


def test_the_numbers_are_those_of_the_library(data, subjects):
    shlp, images = subjects[0], studied(data, 60)
    spec = spectrum(shlp.model, images, 'hidden')
    values = {r['quantity']: r['value'] for r in probe_models('spectrum', [shlp], data, layer='hidden').rows}
    assert values['exponent'] == power_law(spec).exponent and values['largest'] == spec.values[0] and values['units'] == 30
    norms = jacobian_norm(shlp.model, studied(data, 7), 'logits').numpy()
    assert {r['quantity']: r['value'] for r in probe_models('jacobian', [shlp], data, layer='logits', n=7).rows}['median'] == pytest.approx(np.median(norms))


@pytest.mark.parametrize('p', [1, 1.5, 2, 3])
@pytest.mark.parametrize('make', [lambda: KHModel(12, 9, n=4.5), lambda: SHLP(12, 9, n=2), lambda: SHLP(12, 9, activation='tanh')], ids=['kh', 'power', 'tanh'])
def test_the_closed_form_behind_unit_norm_equals_autograd(make, p):
    with seeded(0, 'init'): model = prepend(LpUnit(p), make().double().eval())
    x = torch.randn(6, 1, 3, 4, generator=stream(0, 'x'), dtype=torch.double)
    x[0, 0, 0] = 0
    expected = probes._autograd_norm(model, x, 'features', 7)
    assert torch.allclose(feature_jacobian_norm(model, x), expected, rtol=1e-10, atol=0) and (expected > 0).any()
    assert torch.equal(jacobian_norm(model, x), feature_jacobian_norm(model, x))


def test_a_black_image_behind_unit_norm_and_a_unit_that_is_the_image_are_no_division_by_zero():
    with seeded(0, 'init'): model = prepend(LpUnit(3), KHModel(12, 9).eval())
    assert feature_jacobian_norm(model, torch.zeros(2, 1, 3, 4)).tolist() == [0, 0]
    x = torch.rand(1, 1, 3, 4, generator=stream(0, 'x'))
    model.model.hidden.weight.data[:] = model.first(x).flatten()
    assert feature_jacobian_norm(model, x).isfinite().all() and feature_jacobian_norm(model, x) < 1e-2, 'a longer image of the same direction is the same'


def test_what_has_a_closed_form_in_front_or_not_needs_no_backward_pass(data, subjects, monkeypatch):
    kh = subjects[3]
    with_autograd = jacobian_norm(kh.model, studied(data, 4).x, 'model.features')
    assert torch.allclose(jacobian_norm(kh.model, studied(data, 4).x), with_autograd, rtol=1e-4)
    monkeypatch.setattr(probes, '_autograd_norm', lambda *a, **k: pytest.fail('a backward pass'))
    for kind in ('jacobian', 'landscape'): probe_models(kind, [subjects[0], kh], data, **OPTIONS[kind])


def test_a_penalty_on_a_model_behind_a_scaling_is_what_autograd_says(subjects):
    "There, `hidden` is no linear map of the image."
    x = torch.rand(3, 1, 28, 28, generator=stream(0, 'x')).requires_grad_()
    model = prepend(LpUnit(3), subjects[0].model)
    value = Jacobian(n=None, of='features')(model, x, None, read(model, x))
    assert torch.allclose(value, feature_jacobian_norm(model, x).square().mean(), rtol=1e-4)


def test_a_layer_of_few_units_has_no_exponent_unless_one_was_asked_for(data, subjects):
    rows = probe_models('spectrum', subjects, data, layer='logits').rows
    assert all(math.isnan(r['value']) == (r['quantity'] in ('exponent', 'r2', 'first_rank', 'last_rank')) for r in rows)
    with pytest.raises(InputError, match='at least 3 must lie in the window'): probe_models('spectrum', subjects, data, layer='logits', window=[8, 20])
    assert math.isfinite(probe_models('spectrum', subjects[:1], data, layer='logits', window=[0, 6]).rows[0]['value'])


def test_a_layer_is_named_as_if_nothing_stood_in_front(data, subjects):
    for kind in ('spectrum', 'jacobian'): assert probe_models(kind, subjects[2:3], data, layer='body.0.1', n=5).rows[0]['setting'].startswith('layer=body.0.1')
    with pytest.raises(InputError, match="no layer 'body.0.2' in MLP"): probe_models('jacobian', subjects[2:3], data, layer='body.0.2')


def test_the_plane_is_the_same_for_every_model(data, subjects):
    a, b = (measure_landscape(s, data, n=1, size=3) for s in subjects[:2])
    assert all(torch.equal(a['plane'][k], b['plane'][k]) for k in ('x0', 'u', 'v')) and a['plane']['extent'] == 20
    other = measure_landscape(subjects[0], data, n=1, size=3, seed=1)
    assert not torch.equal(a['plane']['u'], other['plane']['u'])


def test_weights_are_found_as_they_are(data, subjects):
    found = {s.name: image_weights(s.model, data.shape) for s in subjects}
    assert {k: (path, tuple(w.shape)) for k, (path, w) in found.items()} == dict(shlp=('hidden', (30, 1, 28, 28)), conv=('body.0', (4, 1, 5, 5)), scaled=('body.0.0', (20, 1, 28, 28)), kh=('hidden', (20, 1, 28, 28)))
    few = probe_models('weights', subjects, data, n=3)
    assert {k: len(w) for k, (_, w) in few.found.items()} == dict(shlp=3, conv=3, scaled=3, kh=3) and few.rows[0]['value'] == 30
    dead = SHLP(784, 5).eval()
    dead.hidden.weight.data[:2] = 0
    rows = {r['quantity']: r['value'] for r in probe_models('weights', [Subject('dead', dead, '')], data).rows}
    assert (rows['units'], rows['zero_units'], rows['norm_q1']) == (5, 2, 0)
    assert image_weights(nn.Conv2d(3, 2, 3), (3, 8, 8))[1].shape == (2, 3, 3, 3)


@pytest.mark.parametrize('layer, message', [('fc', "layer 'fc' of Conv has no weights of the size of an image"), ('bdy.0', "no layer 'bdy.0' in Conv; did you mean 'body.0'"), ('body.1', 'has no weights of the size')])
def test_weights_that_are_no_images_are_named(data, subjects, layer, message):
    with pytest.raises(InputError, match=message): probe_models('weights', subjects[1:2], data, layer=layer)
    with pytest.raises(InputError, match='Linear has no layer with weights of the size of an image'): image_weights(nn.Linear(3, 2), data.shape)


def test_a_deep_mlp_shows_its_first_layer(data):
    "The hidden layer that it names is its last, whose weights are no images."
    assert image_weights(MLP(784, (20, 15)), data.shape)[0] == 'body.0.0'


@pytest.mark.parametrize('kind, options, message', [('spektrum', {}, "no probe 'spektrum'; did you mean 'spectrum'"), ('jacobian', dict(n=0), 'n=0'), ('landscape', dict(extent=-1.), 'extent=-1'), ('spectrum', dict(layer='hiden'), "did you mean 'hidden'")])
def test_wrong_words_are_named(kind, options, message, data, subjects):
    with pytest.raises(InputError, match=message): probe_models(kind, subjects[:1], data, **options)


def test_a_model_without_a_known_hidden_layer_says_which_layers_it_has(data, subjects):
    with pytest.raises(InputError, match='does not say what its hidden layer is; ask for a layer path: body, '): probe_models('spectrum', subjects[1:2], data, layer='hidden')
