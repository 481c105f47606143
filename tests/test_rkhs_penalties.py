"""Penalties that bound an RKHS norm from below, against closed forms, finite differences and brute force; defects of kernel_reg that must not recur."""
import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from locallearning.core import InputError
from locallearning.models import MLP, SHLP, read
from locallearning.recipes import build_recipe
from locallearning.regularizers import Jacobian, Lp
from locallearning.rkhs.penalties import VAT, ClassGradient, ClassPerturbation, LossGradient, class_slopes, steepest_divergence
from locallearning.state import seeded, stream
from locallearning.training import fit, train_step

PIECES = [LossGradient(.1), LossGradient(.1, norm=1), ClassGradient(.1), ClassPerturbation(.5), ClassPerturbation(.5, top=3), VAT(eps=.5)]
NAMES = [repr(p) for p in PIECES]


def images(n=12, seed=0): return torch.rand(n, 1, 4, 4, generator=stream(seed, 'x')), torch.arange(n) % 5


def linear(scale=1.):
    with seeded(0, 'init'): model = nn.Sequential(nn.Flatten(), nn.Linear(16, 5))
    with torch.no_grad(): model[1].weight *= scale
    return model


def net(seed=0):
    with seeded(seed, 'init'): return MLP(16, widths=(30, 20), classes=5)


def value(piece, model, x, y):
    piece = copy.deepcopy(piece)
    if hasattr(piece, 'generator'): piece.generator = stream(0, 'piece')
    return piece(model, x, y)


# --- closed forms and oracles

@pytest.mark.parametrize('scale', [.1, 1., 30.])
def test_linear_models_have_closed_forms(scale):
    model, (x, y) = linear(scale), images()
    W = model[1].weight
    g = (model(x).softmax(1) - F.one_hot(y, 5)) @ W
    torch.testing.assert_close(LossGradient()(model, x, y), g.square().sum(1).mean())
    torch.testing.assert_close(LossGradient(norm=1)(model, x, y), g.abs().sum(1).mean())
    torch.testing.assert_close(ClassGradient()(model, x), W.square().sum())
    torch.testing.assert_close(ClassPerturbation(.7)(model, x), .49*W.square().sum(), rtol=1e-4, atol=0)


@pytest.mark.parametrize('piece', PIECES[:4], ids=NAMES[:4])
def test_gradients_agree_with_finite_differences(piece):
    "In double precision, with respect to some weights; what was selected and searched is held fixed by small steps."
    model, (x, y) = net().double(), images()
    x = x.double()
    weight = model.readout.weight
    g, = torch.autograd.grad(value(piece, model, x, y), weight)
    i, j, h = 2, 3, 1e-6
    values = []
    for s in (1, -1):
        with torch.no_grad(): weight[i, j] += s*h
        values.append(value(piece, model, x, y).item())
        with torch.no_grad(): weight[i, j] -= s*h
    if isinstance(piece, ClassPerturbation): assert (values[0] - values[1])/(2*h) == pytest.approx(g[i, j].item(), rel=.05)
    else: assert (values[0] - values[1])/(2*h) == pytest.approx(g[i, j].item(), rel=1e-4)


def test_slopes_are_those_of_each_image_alone():
    model, (x, _) = net(), images()
    z = x.clone().requires_grad_()
    slopes = class_slopes(model(z), z)
    for k, i in [(0, 0), (3, 7), (4, 11)]:
        one = x[i:i + 1].clone().requires_grad_()
        g, = torch.autograd.grad(model(one)[0, k], one)
        torch.testing.assert_close(slopes[k, i], g.square().sum())


def test_every_class_takes_its_own_image_and_the_worst_one():
    model, (x, _) = net(3), images(20)
    z = x.clone().requires_grad_()
    chosen, points = ClassPerturbation(.8).search(model, z, model(z))
    with torch.no_grad(): found = (model(points) - model(x[chosen])).diagonal()
    for k in range(5):
        for i in range(20):
            _, alone = ClassPerturbation(.8).search(model, z[i:i + 1], model(z[i:i + 1]))
            with torch.no_grad(): assert (model(alone[k:k + 1]) - model(x[i:i + 1]))[0, k] <= found[k] + 1e-6
    assert (points - x[chosen]).flatten(1).norm(dim=1).max() <= .8 + 1e-6
    assert len(set(chosen.tolist())) > 1


def test_the_preselection_of_all_images_is_the_exact_search():
    model, (x, y) = net(1), images()
    assert value(ClassPerturbation(.5, top=12), model, x, y) == value(ClassPerturbation(.5), model, x, y) == value(ClassPerturbation(.5, top=99), model, x, y)
    assert value(ClassPerturbation(.5, top=2), model, x, y) <= value(ClassPerturbation(.5), model, x, y)


def test_vat_follows_the_largest_eigenvector():
    "The Hessian of the divergence of a linear model is Wᵀ(diag p − ppᵀ)W; many steps of the power iteration end at its first eigenvector."
    model, (x, _) = linear().double(), images(3)
    x = x.double()
    with torch.no_grad(): log_p = model(x).log_softmax(1)
    d = steepest_divergence(model, x, log_p, 1e-4, stream(0, 'd'), iterations=60).flatten(1)
    for p, found in zip(log_p.exp(), d):
        W = model[1].weight.detach()
        top = torch.linalg.eigh(W.T @ (p.diag() - torch.outer(p, p)) @ W).eigenvectors[:, -1]
        assert abs(found @ top) > .999


def test_vat_is_the_divergence_at_that_perturbation():
    model, (x, y) = net(), images()
    piece = VAT(eps=.5)
    piece.generator = stream(0, 'piece')
    with torch.no_grad(): p = model(x).softmax(1)
    r = .5*steepest_divergence(model, x, p.log(), piece.xi, stream(0, 'piece'))
    with torch.no_grad(): kl = (p*(p.log() - model(x + r).log_softmax(1))).sum(1).mean()
    torch.testing.assert_close(piece(model, x, y).detach(), kl)


# --- what holds for all

@pytest.mark.parametrize('piece', PIECES, ids=NAMES)
def test_a_penalty_leaves_everything_as_it_was(piece):
    model, (x, y) = net().train(), images()
    before, given = copy.deepcopy(model.state_dict()), x.clone()
    total = value(piece, model, x, y)
    assert model.training and not x.requires_grad and x.equal(given) and all(p.grad is None for p in model.parameters())
    assert all(a.equal(b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))
    assert total.ndim == 0 and total > 0 and total.requires_grad


@pytest.mark.parametrize('piece', PIECES, ids=NAMES)
def test_the_forward_pass_of_the_step_gives_the_same(piece):
    model, (x, y) = net(), images()
    z = x.clone().requires_grad_()
    fresh = copy.deepcopy(piece)
    if hasattr(fresh, 'generator'): fresh.generator = stream(0, 'piece')
    torch.testing.assert_close(fresh(model, z, y, read(model, z)), value(piece, model, x, y))


@pytest.mark.parametrize('piece', PIECES, ids=NAMES)
def test_batch_norm_and_dropout_do_not_mix_images(piece):
    with seeded(0, 'init'): model = nn.Sequential(nn.Flatten(), nn.Linear(16, 30), nn.BatchNorm1d(30), nn.ReLU(), nn.Dropout(.5), nn.Linear(30, 5))
    model(torch.rand(50, 1, 4, 4))
    (x, y), state = images(), copy.deepcopy(model.state_dict())
    trained, evaluated = value(piece, model.train(), x, y), value(piece, copy.deepcopy(model).eval(), x, y)
    torch.testing.assert_close(trained, evaluated)
    assert model.training and all(a.equal(b) for a, b in zip(state.values(), model.state_dict().values(), strict=True))


@pytest.mark.parametrize('piece', PIECES, ids=NAMES)
def test_a_batch_norm_that_always_mixes_images_is_refused(piece):
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 30), nn.BatchNorm1d(30, track_running_stats=False), nn.ReLU(), nn.Linear(30, 5))
    with pytest.raises(InputError, match='track_running_stats=True'): value(piece, model, *images())


@pytest.mark.parametrize('piece', PIECES, ids=NAMES)
def test_recipes_rebuild_the_piece(piece): assert repr(build_recipe(repr(piece))) == repr(piece)


def test_all_compose_as_a_list():
    model, (x, y) = net(), images()
    terms = train_step(model, torch.optim.SGD(model.parameters(), .1), x, y, penalties=[*copy.deepcopy(PIECES), Lp(1e-3), Jacobian(1e-3)])
    assert {'LossGradient_0', 'LossGradient_1', 'ClassGradient', 'ClassPerturbation_0', 'ClassPerturbation_1', 'VAT', 'Lp', 'Jacobian'} <= set(terms)
    assert all(v.isfinite().all() for v in terms.values())


def test_an_interrupted_training_draws_the_same_directions(tmp_path):
    x, y = images(40)
    def run(epochs, folder, model): return fit(model, (x, y), epochs=epochs, batch_size=10, penalties=[VAT(eps=.5), ClassPerturbation(.5, top=2)], folder=folder)
    whole, parts = net(), net()
    run(4, tmp_path/'whole', whole)
    run(2, tmp_path/'parts', parts)
    parts = net()
    run(4, tmp_path/'parts', parts)
    assert all(a.equal(b) for a, b in zip(whole.parameters(), parts.parameters(), strict=True))


# --- defects of the released code

@pytest.mark.parametrize('piece', PIECES, ids=NAMES)
def test_a_zero_gradient_is_no_nan(piece): # its defects 2 and 3
    with seeded(0, 'init'): model = SHLP(16, width=8, classes=5)
    with torch.no_grad(): model.hidden.weight.zero_()
    x, y = images()
    total = value(piece, model, x, y)
    total.backward()
    assert total == 0 and all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize('margin', [5., 50., 200.])
def test_tiny_gradients_are_normalised_at_any_batch_size(margin): # its defect 1: a floor of 1e-7 on gradients of a mean
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
    with torch.no_grad(): model[1].weight.copy_(margin*1e-6*torch.tensor([[1., 0, 0, 0], [-1., 0, 0, 0]]))
    for n in (1, 256):
        x = torch.zeros(n, 1, 2, 2)
        found = ClassPerturbation(1.)(model, x)
        torch.testing.assert_close(found/(margin*1e-6)**2, torch.tensor(2.), rtol=1e-3, atol=0)


@pytest.mark.parametrize('piece', [LossGradient(), LossGradient(norm=1)], ids=repr)
def test_images_count_alike_in_batches_of_any_size(piece): # likewise: a loss that is a mean
    model, (x, y) = net(), images(12)
    parts = [piece(model, x[i:i + 4], y[i:i + 4]) for i in (0, 4, 8)]
    torch.testing.assert_close(torch.stack(parts).mean(), piece(model, x, y))


def test_the_search_does_not_reach_the_weights(): # its defect 18
    model, (x, y) = net(), images()
    z = x.clone().requires_grad_()
    chosen, points = ClassPerturbation(.5, top=3).search(model, z, model(z))
    assert not points.requires_grad and not chosen.requires_grad and all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize('chunk', [1, 7, 1000])
def test_chunks_do_not_matter(chunk):
    model, (x, y) = net(), images()
    torch.testing.assert_close(value(ClassPerturbation(.5, chunk=chunk), model, x, y), value(ClassPerturbation(.5), model, x, y))


def test_the_customary_xi_is_noise_in_single_precision():
    model, (x, _) = net(), images(30)
    def direction(xi, dtype):
        own, z = copy.deepcopy(model).to(dtype), x.to(dtype)
        with torch.no_grad(): log_p = own(z).log_softmax(1)
        return steepest_divergence(own, z, log_p, xi, stream(0, 'd')).double().flatten(1)
    exact = direction(1e-6, torch.float64)
    cosine = {xi: (direction(xi, torch.float32)*exact).sum(1).median().item() for xi in (1e-6, VAT().xi)}
    assert cosine[VAT().xi] > .99 > .9 > cosine[1e-6]


# --- bad input

@pytest.mark.parametrize('make, said', [
    (lambda: LossGradient(0), r'LossGradient\(strength=0\)'), (lambda: LossGradient(-1.), r'strength=-1'), (lambda: LossGradient(norm='inf'), "norm='inf'"),
    (lambda: ClassGradient(math.nan), 'strength'), (lambda: ClassPerturbation(0.), r'eps=0'), (lambda: ClassPerturbation(steps=0), 'steps=0'),
    (lambda: ClassPerturbation(top=0), 'top=0'), (lambda: ClassPerturbation(chunk=0), 'chunk=0'), (lambda: VAT(eps=-1.), 'eps=-1'), (lambda: VAT(xi=0.), 'xi=0'),
    (lambda: VAT(iterations=0), 'iterations=0'), (lambda: VAT(strength=0.), 'strength=0')])
def test_bad_settings_are_named(make, said):
    with pytest.raises(InputError, match=said): make()


def test_a_penalty_that_is_not_finite_stops_the_training_at_its_step(tmp_path):
    model, (x, y) = net(), images(20)
    class Breaks(ClassGradient):
        calls = 0
        def forward(self, model, x, y=None, out=None):
            self.calls += 1
            return super().forward(model, x, y, out) * (math.nan if self.calls == 4 else 1)
    with pytest.raises(FloatingPointError, match='Breaks was not finite in step 1 of epoch 1'):
        fit(model, (x, y), epochs=5, batch_size=10, penalties=[Breaks(.1)], folder=tmp_path)
