"Every row about probes and attacks, at a size at which only its checks of equality mean anything."
import importlib.util
import numpy as np
import pytest, torch
from torch import nn
from locallearning.bench import probes as B
from locallearning.attacks.gradient import PGD
from locallearning.probes.landscapes import landscape, plane
from locallearning.state import stream
from locallearning.training import accuracy
from locallearning.bench.timing import Row, synthetic_images

ROWS = {name: getattr(B, name) for name in B.__all__ if name.endswith('_row')}
SMALL = dict(fgsm_curve_row=dict(radii=40), critical_norm_row=dict(radii=60, n=10))
PEERS = [k for k in ('foolbox', 'torchattacks') if importlib.util.find_spec(k)]
need_peers = pytest.mark.skipif(len(PEERS) < 2, reason='the opponents foolbox and torchattacks are not installed (extra "peers")')


@pytest.fixture(scope='module')
def made(): return {name: row(.02, 'synthetic', **SMALL.get(name, {})) for name, row in ROWS.items()}


@pytest.mark.parametrize('name', ROWS)
def test_a_row_times_what_its_target_speaks_of(made, name):
    r = made[name]
    assert isinstance(r, Row) and r.ours > 0 and 'synthetic images' in r.note
    if r.against == 'peer' and not PEERS: assert r.peer is None and r.reached is None
    else: assert getattr(r, r.against) > 0 and r.reached in (True, False)


def test_rows_have_names_of_their_own(made):
    assert len({r.name for r in made.values()}) == len(ROWS) == 9


def test_ours_is_exact_where_the_textbook_is_not(made):
    off = made['spectrum_row'].more['off']
    assert off['ours'] < 1e-12 < 1e-9 < off['textbook']


def test_both_searches_find_the_same(made):
    assert 'for 100.0% of the images' in made['critical_norm_row'].note
    assert 'differ by 0 points' in made['fgsm_curve_row'].note


@need_peers
@pytest.mark.parametrize('name', [n for n in ROWS if 'pgd' in n])
def test_equal_steps_break_equal_numbers_of_images(made, name):
    found = made[name].more['accuracy']
    assert set(found) == {'ours', 'foolbox', 'torchattacks'} == {'ours', *made[name].more['peers']}
    assert abs(found['foolbox'] - found['torchattacks']) <= .03 and abs(found['ours'] - found['torchattacks']) <= .03


@need_peers
def test_peers_take_the_path_that_ours_takes():
    x = synthetic_images(40, 8)
    y = B.patterns(x)
    model = B.fitted(B.bench_model(x, .05), x, y)
    ours = PGD(keep='last')(model, x, y, .03)
    for attack in B.peers(model, x, y, .03).values():
        far = (ours - attack()).abs()
        assert (far < 1e-5).float().mean() > .99, 'but for the sign of gradients that are nearly zero'
    assert accuracy(model, (ours, y)) < accuracy(model, (x, y))


def test_a_missing_peer_is_left_out(monkeypatch):
    import sys
    for name in ('foolbox', 'torchattacks'): monkeypatch.setitem(sys.modules, name, None)
    r = B.pgd_shlp_row(.01, 'synthetic')
    assert r.peer is None and r.reached is None and r.floor > 0 and r.more['peers'] == {}


def test_the_readout_is_the_ridge_regression():
    x = synthetic_images(60, 8)
    y = B.patterns(x)
    assert set(y.tolist()) <= set(range(10)) and (y[:10] == torch.arange(10)).all()
    model = B.fitted(B.bench_model(x, .02), x, y, ridge=.1).double()
    weight = torch.cat([model.readout.weight, model.readout.bias[:, None]], 1).requires_grad_()
    f = torch.cat([model.features(model.hidden(x.double().flatten(1))), torch.ones(60, 1)], 1)
    t = 20.*nn.functional.one_hot(y, 10) - 10
    loss = (f @ weight.T - t).square().sum() + .1*f.square().sum(0).mean()*weight.square().sum()
    slope, = torch.autograd.grad(loss, weight)
    assert slope.abs().max() < 1e-3*torch.autograd.grad((f @ weight.T - 2*t).square().sum(), weight)[0].abs().max()


def test_unit_gradients_are_the_jacobian():
    x = synthetic_images(1, 8)
    model, p = B.bench_model(x, .01), plane(x[0], stream(0, 'p'), size=4)
    slow = B.unit_gradients(model, p.points().flatten(0, 1), model.width).sqrt()
    np.testing.assert_allclose(landscape(model, p).norms.flatten(), slow.detach(), rtol=1e-5)
