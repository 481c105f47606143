"""One look into several models."""
import math

import numpy as np
import pytest
import torch
from torch import nn

from locallearning.probes import landscapes as probes
from locallearning.core import COLUMNS, InputError
from locallearning.data import load
from locallearning.hebbian.model import KHModel
from locallearning.models import MLP, SHLP, LpUnit, Normalize, feature_jacobian_norm, prepend, read
from locallearning.probes.landscapes import jacobian_norm
from locallearning.probes.spectra import power_law, spectrum
from locallearning.examine.probing import probe_models
from locallearning.instruments import Subject
from locallearning.instruments import test_images as studied
from locallearning.probes import instruments
from locallearning.probes.instruments import LandscapeProbe, image_weights
from locallearning.regularizers import Jacobian
from locallearning.lab.runs import Run
from locallearning.state import seeded, stream
from locallearning.examine.subjects import fit_space


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


PROBES = ['spectrum', 'jacobian(n=5)', 'landscape(n=2, size=4)', 'weights(n=4)']


@pytest.mark.parametrize('probe', PROBES)
def test_every_instrument_takes_models_of_every_kind_side_by_side(probe, data, subjects):
    found = probe_models(probe, subjects, data)
    assert all(tuple(r) == COLUMNS for r in found.rows) and [*dict.fromkeys(r['model'] for r in found.rows)] == ['shlp', 'conv', 'scaled', 'kh']
    assert found.instrument.probe == probe.partition('(')[0] and [*found.found] == ['shlp', 'conv', 'scaled', 'kh'] and all(math.isfinite(r['value']) for r in found.rows) and {r['space'] for r in found.rows} == {'pixel'}


@pytest.mark.parametrize('probe', PROBES)
def test_numbers_are_kept_and_found_again(probe, data, subjects, tmp_path, monkeypatch):
    first = probe_models(probe, subjects, data, run=Run(tmp_path))
    for name in ('size_sweep', 'jacobian_norm', 'landscape', 'decision_map', 'image_weights'):
        monkeypatch.setattr(instruments, name, lambda *a, **k: pytest.fail('measured again'))
    again = probe_models(probe, subjects, data, run=Run(tmp_path))
    assert again.rows == first.rows and again.figures().keys() == first.figures().keys()


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
    for probe in PROBES[1:3]: probe_models(probe, [subjects[0], kh], data)


def test_a_penalty_on_a_model_behind_a_scaling_is_what_autograd_says(subjects):
    "There, `hidden` is no linear map of the image."
    x = torch.rand(3, 1, 28, 28, generator=stream(0, 'x')).requires_grad_()
    model = prepend(LpUnit(3), subjects[0].model)
    value = Jacobian(n=None, of='features')(model, x, None, read(model, x))
    assert torch.allclose(value, feature_jacobian_norm(model, x).square().mean(), rtol=1e-4)


def test_a_layer_of_few_units_has_no_exponent_unless_one_was_asked_for(data, subjects):
    rows = probe_models('spectrum', subjects, data, layer='logits').rows
    assert not {'exponent', 'r2', 'first_rank', 'last_rank'} & {r['quantity'] for r in rows}
    with pytest.raises(InputError, match='at least 3 must lie in the window'): probe_models('spectrum(window=[8, 20])', subjects, data, layer='logits')
    assert probe_models('spectrum(window=[0, 6])', subjects[:1], data, layer='logits').rows[0]['quantity'] == 'exponent'


def test_the_slope_of_what_is_no_power_law_is_flagged(data, subjects):
    found = probe_models('spectrum(window=[0, 30])', subjects[:1], data, layer='hidden')
    straight = probe_models('spectrum(window=[5, 19])', subjects[:1], data, layer='hidden')
    told = lambda found: {r['quantity']: r['flags'] for r in found.rows if r['quantity'] in ('exponent', 'r2', 'intercept', 'dimension')}
    for each, flag in ((found, 'no power law'), (straight, '')):
        result = each.found['shlp']
        assert result.fit.holds == (not flag) and result.flags == ((flag,) if flag else ())
        assert told(each) == dict(exponent=flag, r2='', intercept=flag, dimension='')
        assert len(each.figures()['spectrum'].axes[0].lines) == 1 + (not flag)


def test_a_layer_is_named_as_if_nothing_stood_in_front(data, subjects):
    for probe in ('spectrum', 'jacobian'): assert 'layer=body.0.1' in probe_models(probe, subjects[2:3], data, layer='body.0.1', n=5).rows[0]['setting']
    with pytest.raises(InputError, match="no layer 'body.0.2' in MLP"): probe_models('jacobian', subjects[2:3], data, layer='body.0.2')


def test_the_plane_is_the_same_for_every_model(data, subjects):
    plane = lambda s, seed=0: LandscapeProbe(n=1, size=3).measure(s, data, seed=seed).landscape.plane
    a, b = map(plane, subjects[:2])
    assert all(torch.equal(getattr(a, k), getattr(b, k)) for k in ('x0', 'u', 'v')) and a.extent == 20
    assert not torch.equal(a.u, plane(subjects[0], seed=1).u)


def test_weights_are_found_as_they_are(data, subjects):
    found = {s.name: image_weights(s.model, data.shape) for s in subjects}
    assert {k: (path, tuple(w.shape)) for k, (path, w) in found.items()} == dict(shlp=('hidden', (30, 1, 28, 28)), conv=('body.0', (4, 1, 5, 5)), scaled=('body.0.0', (20, 1, 28, 28)), kh=('hidden', (20, 1, 28, 28)))
    few = probe_models('weights', subjects, data, n=3)
    assert {k: len(r.weight) for k, r in few.found.items()} == dict(shlp=3, conv=3, scaled=3, kh=3) and few.rows[0]['value'] == 30
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


@pytest.mark.parametrize('kind, options, message', [('spektrum', {}, "'spektrum' is not a probe; did you mean 'spectrum'"), ('jacobian', dict(n=0), 'n=0'), ('landscape(extents=[-1.])', {}, r'extents=\[-1.0\]'), ('spectrum', dict(layer='hiden'), "did you mean 'hidden'"), ('jacobian(window=[1, 9])', {}, "no field 'window'"), ('spectrum(window=[5])', {}, 'two ranks are needed')])
def test_wrong_words_are_named(kind, options, message, data, subjects):
    with pytest.raises(InputError, match=message): probe_models(kind, subjects[:1], data, **options)


def test_a_model_without_a_known_hidden_layer_says_which_layers_it_has(data, subjects):
    with pytest.raises(InputError, match='does not say what its hidden layer is; ask for a layer path: body, '): probe_models('spectrum', subjects[1:2], data, layer='hidden')


OWN = '''
from typing import NamedTuple
from locallearning import Instrument, Number, as_subject, test_images
class Named(NamedTuple): mean:float
class Bright(Instrument):
    "Mean of the logits."
    probe = 'bright'
    def __init__(self, n=5, named=False): self.n, self.named = n, named
    def measure(self, subject, data, *, seed=0):
        mean = as_subject(subject).model(test_images(data, self.n).x).mean().item()
        return Named(mean) if self.named else dict(mean=mean)
    def setting(self, result): return dict(n=self.n)
    def numbers(self, result): yield Number('mean', result['mean'])
'''


def test_an_instrument_of_ones_own_is_kept_and_found_again(tmp_path, monkeypatch, data, subjects):
    (tmp_path/'lamps.py').write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    look = lambda text: probe_models(text, subjects[:1], data, run=Run(tmp_path/'run'), modules=('lamps',), n=7).rows
    first = look('Bright()')
    assert (first[0]['probe'], first[0]['setting']) == ('bright', 'n=7') and look('Bright') == first
    assert len([*(tmp_path/'run'/'artefacts').glob('bright-*/value.json')]) == 1
    with pytest.raises(InputError, match='Named, which Bright.* returns, is not a public name; return a dict'): look('Bright(named=True)')
