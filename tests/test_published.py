"""The released behaviour: each piece against a literal reading of the original's equations, and against its published numbers."""
import os
from pathlib import Path
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from locallearning.core import InputError
from locallearning.recipes import build_recipe
from locallearning.hebbian.model import prune
from locallearning.models import SHLP,read
from locallearning.hebbian.published import (PublishedJacobian,PublishedLp,PublishedPGD,PublishedSpectral,published_accuracy,published_eps,
    published_mixture,published_prune)
from locallearning.regularizers import Spectral
from locallearning.state import seeded,stream
from locallearning.training import accuracy,fit


def shlp(width=12, seed=0, **more):
    with seeded(seed, 'init'): return SHLP(16, width=width, classes=5, **more).double()

def images(n=6, seed=0): return torch.rand(n, 1, 4, 4, generator=stream(seed, 'x'), dtype=torch.float64)

def value(penalty, model, x): return penalty(model, x, None, read(model, x))


# --- Lp

def test_published_lp_counts_every_parameter():                                # defect 17
    model = shlp(batch_norm=True)
    model.hidden.weight.requires_grad_(False)
    assert torch.isclose(PublishedLp(p=3)(model), sum((w.abs()**3).sum() for w in model.parameters()))


# --- Jacobian

@pytest.mark.parametrize('n', [1, 3, 10])
def test_published_jacobian_counts_only_its_first_projection(n):               # J1
    model, x, B = shlp(width=40), images(20).requires_grad_(), 20
    penalty = PublishedJacobian(n=n)
    penalty.generator = stream(0, 'penalty')
    mean = torch.stack([value(penalty, model, x).detach() for _ in range(150)]).mean()
    assert torch.isclose(mean, (1 + (n-1)/B) / n * (model.hidden.weight**2).sum(), rtol=.04)

def test_published_exact_jacobian_grows_with_the_batch():                      # J2
    model = shlp()
    for B in (2, 6): assert torch.isclose(value(PublishedJacobian(n=None), model, images(B)), B * (model.hidden.weight**2).sum())
    with pytest.raises(InputError, match='n=0'): PublishedJacobian(n=0)

def test_published_jacobian_trains_the_weight():
    model, x = shlp(), images().requires_grad_()
    penalty = PublishedJacobian()
    def loss():
        penalty.generator = stream(0, 'penalty')
        return value(penalty, model, x)
    w, step = model.hidden.weight, torch.randn(12, 16, generator=stream(0, 'd'), dtype=torch.float64) * 1e-6
    grad, = torch.autograd.grad(loss(), w)
    with torch.no_grad():
        w.add_(step); up = loss_without_grad(loss); w.sub_(2*step); down = loss_without_grad(loss)
    assert torch.isclose(up - down, 2 * (grad * step).sum(), rtol=1e-5)

def loss_without_grad(loss):
    with torch.enable_grad(): return loss().detach()


# --- spectral

def literal(h, V, exponent, tau):
    "The original's equations, one after the other."
    B, D = h.shape
    z = h - .02
    s = z.mean(0)
    C = (z.T @ z - np.outer(s, s) / B) / (B - 1)
    lam, total = np.diag(V.T @ C @ V), 0.
    for i in range(tau, D):
        gamma = (i + 1.)**-exponent
        total += (lam[i]/gamma - 1)**2 + max(0, lam[i]/gamma - 1)
    return total / D

@pytest.mark.parametrize('ran,tau', [(None, 0), (2.62, 0), (2.62, 3)])
def test_published_spectral_equals_the_literal_equations(ran, tau):              # S2–S6
    model, x = shlp(), images(30)
    penalty = PublishedSpectral(exponent=1., tau=tau, ran_exponent=ran)
    with pytest.raises(InputError, match='call refresh'): value(penalty, model, x)
    penalty.refresh(model, [(b, None) for b in x.split(10)])
    h = read(model, x).hidden.detach().numpy()
    assert np.isclose(value(penalty, model, x).item(), literal(h, penalty.basis.numpy(), ran or 1., tau), rtol=1e-9)

def test_published_basis_is_that_of_one_random_batch():                          # S1, S9
    model, x = shlp(), images(40)
    penalty = PublishedSpectral()
    penalty.generator = stream(3, 'penalty')
    penalty.refresh(model, [(b, None) for b in x.split(8)])
    assert torch.allclose(penalty.basis @ penalty.basis.T, torch.eye(12).double(), atol=1e-10)
    chosen = torch.randperm(40, generator=stream(3, 'penalty'))[:8].sort().values
    z = read(model, x[chosen]).hidden.detach() - x[chosen].mean()
    assert (penalty.basis[:, 8:].T @ z.T).norm() < 1e-3 * z.norm()               # eight images span eight directions
    first = penalty.basis
    penalty.refresh(model, [(b, None) for b in x.split(8)], 1)
    assert not torch.allclose(penalty.basis, first)

CIFAR = Path(os.environ.get('LOCALLEARNING_DATA', '')) / 'cifar10-9k.npz'

@pytest.mark.skipif(not CIFAR.is_file(), reason='needs exact CIFAR-10 pixels: cifar10-9k.npz under LOCALLEARNING_DATA')
def test_published_spectral_has_the_published_size_at_initialisation():         # 4.4: 49 and 1.423e9 per epoch of 50 batches
    x = torch.from_numpy(np.load(CIFAR)['x_train'][:2000]).flatten(1).float()
    x = x / x.norm(p=3, dim=1, keepdim=True)
    with seeded(0, 'init'): model = SHLP(3072, width=2000)
    named, ran = PublishedSpectral(ran_exponent=None), PublishedSpectral()
    ran.generator = stream(0, 'penalty')
    ran.refresh(model, [(x[:1000], None)])
    named.basis = ran.basis
    with torch.no_grad(): small, large = 50 * value(named, model, x[1000:]), 50 * value(ran, model, x[1000:])
    assert 35 < small < 65
    assert .9e9 < large < 2e9

def test_published_spectral_deafens_the_first_layer_to_the_labels():              # the frozen SpecReg of the figures
    with seeded(0, 'init'): model = SHLP(64, width=300, batch_norm=True)
    x, y = torch.rand(200, 64, generator=stream(0, 'x')), torch.arange(200) % 10
    def share(penalty):
        "Size of the gradient of a penalty, in units of that of the loss."
        penalty.refresh(model, [(b, None) for b in x.split(50)])
        out = read(model, x)
        size = lambda t: torch.autograd.grad(t, model.hidden.weight, retain_graph=True)[0].norm().item()
        return size(penalty(model, x, y, out)) / size(F.cross_entropy(out.logits, y))
    assert share(PublishedSpectral()) > 1e4 > 1e4 * share(Spectral())


# --- pruning

HISTOGRAM = [1,0,2,0,5,3,9,6,13,13,9,21,10,15,16,18,28,32,33,55,73,96,141,176,201,192,164,178,139,97,77,44,26,16,7,12,16,15,12,7,3,2,1]

def paper_layer(seed=0):
    edges, rng = np.linspace(-9, -3, 80), np.random.default_rng(seed)
    return np.concatenate([rng.uniform(edges[i], edges[i+1], n) for i, n in enumerate(HISTOGRAM)])

def with_log_variances(x):
    w = torch.randn(len(x), 60, generator=stream(0, 'w'), dtype=torch.float64)
    return (w - w.mean(1, keepdim=True)) / w.std(1, keepdim=True) * torch.from_numpy(x / 2).exp()[:, None]

def test_published_pruning_of_the_papers_histogram():
    x = paper_layer()
    mixture = published_mixture(x)
    assert mixture.accepted and np.allclose(mixture.means, [-8.01, -7.13, -6.80, -6.15], atol=.02)
    pruned = published_prune(with_log_variances(x))
    assert abs(pruned.cut + 6.476) < .02 and 80 <= (~pruned.mask).sum() <= 92

@pytest.mark.parametrize('noise,expected', [(0, 1883), (60, 1734)])
def test_published_pruning_cuts_nearly_all_of_one_kind(noise, expected):        # defect 18
    rng = np.random.default_rng(0)
    weight = with_log_variances(np.r_[rng.normal(-7.1, .25, 2000 - noise), rng.normal(-6.2, .1, noise)])
    before = weight.clone()
    pruned = published_prune(weight)
    assert not pruned.mixture.accepted
    assert abs((~pruned.mask).sum() - expected) < 200
    assert torch.equal(weight, before) and (pruned.weight[~pruned.mask] == 0).all()
    assert (~prune(weight).mask).sum() <= noise * 1.1

def test_published_pruning_refuses_layers_off_its_window():
    with pytest.raises(InputError, match='log variance'): published_prune(torch.randn(20, 30))


# --- attack

@pytest.mark.parametrize('eps', [0., .004, .03])
def test_published_pgd_equals_the_literal_loop(eps):                              # defect 21
    model, x, y = shlp(), images(), torch.arange(6) % 5
    adv, step = x.clone(), .01 if eps >= .01 else .1 * eps
    for _ in range(20):
        adv.requires_grad_()
        grad, = torch.autograd.grad(F.cross_entropy(model(adv), y), adv)
        adv = x + (adv.detach() + step * grad.sign() - x).clamp(-eps, eps)
    attack = PublishedPGD()
    assert torch.allclose(attack(model, x, y, eps), adv.clamp(0, 1), atol=1e-12)
    assert torch.allclose(attack(model, x, y, torch.full((6,), eps)), adv.clamp(0, 1), atol=1e-9)

def test_published_pgd_ends_in_ball_and_unit_box_but_not_in_the_box_of_the_images():
    model, x, y = shlp().float(), .2 * images().float(), torch.arange(6) % 5
    adv = PublishedPGD()(model, x, y, .15, bounds=(0., .2))
    assert ((adv - x).abs() <= .15 + 1e-6).all() and (adv >= 0).all() and (adv > .2 + 1e-3).any()
    assert model.training
    with pytest.raises(InputError, match='eps'): PublishedPGD()(model, x, y, -1.)
    with pytest.raises(InputError, match='steps=0'): PublishedPGD(steps=0)

def test_published_radii_end_where_the_natural_logarithm_put_them():
    for grid, last in ((published_eps(), 8.2469), (published_eps(high='log10'), 2.5), (published_eps(high=-1.5), .03162)):
        assert len(grid) == 400 and np.isclose(grid[0], 1e-6) and np.isclose(grid[-1], last, rtol=1e-3) and (np.diff(grid) > 0).all()
    with pytest.raises(InputError, match="did you mean 'log10'"): published_eps(high='log1')


# --- accuracy

def test_published_accuracy_depends_on_the_batch_and_leaves_the_model_alone():    # defect 12
    model, x, y = shlp(batch_norm=True), images(60), torch.arange(60) % 5
    state = {k: v.clone() for k, v in model.eval().state_dict().items()}
    values = {published_accuracy(model, (x.float().double(), y), b) for b in (2, 3, 5, 60)}
    assert len(values) > 1 and not model.training
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    plain = shlp()
    assert published_accuracy(plain, (x, y), 7) == accuracy(plain, (x, y))


# --- pieces

@pytest.mark.parametrize('piece', [PublishedLp(), PublishedJacobian(), PublishedJacobian(.1, n=None), PublishedSpectral(),
    PublishedSpectral(1e-3, exponent=2.62, tau=10, ran_exponent=None), PublishedPGD(), PublishedPGD(steps=10)], ids=repr)
def test_a_published_piece_is_rebuilt_from_its_repr(piece):
    again = build_recipe(repr(piece))
    assert type(again) is type(piece) and repr(again) == repr(piece)

def test_published_penalties_go_through_fit_and_never_share_state():                # defect 11
    a, b = PublishedSpectral(exponent=1., tau=0), PublishedSpectral(exponent=2.62, tau=10, ran_exponent=None)
    assert (a.exponent, a.tau, a.ran_exponent) == (1., 0, 2.62) and (b.exponent, b.tau, b.ran_exponent) == (2.62, 10, None)
    model = shlp().float()
    log = fit(model, (images(20).float(), torch.arange(20) % 5), epochs=1, batch_size=10, penalties=[PublishedLp(), PublishedJacobian(), a])
    assert {'PublishedLp', 'PublishedJacobian', 'PublishedSpectral'} <= set(log.frame.quantity) and b.basis is None
