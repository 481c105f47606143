"""Spectral norms as penalty and as constraint, against singular value decompositions; defects of kernel_reg that must not recur."""
import copy
import math

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from locallearning.core import InputError
from locallearning.models import MLP, SHLP
from locallearning.probes.norms import linear_maps, weighted_layers
from locallearning.recipes import build_recipe
from locallearning.rkhs import spectral
from locallearning.rkhs.spectral import (
    SpectralNormPenalty, SpectralProjection, clip_singular_values, top_direction)
from locallearning.state import seeded, stream
from locallearning.training import fit

SHAPES = [(20, 50), (50, 20), (30, 30), (8, 4, 3, 3), (64, 3, 3, 3), (1, 5), (5, 1)]


def matrix(shape, seed=0, dtype=torch.float32): return torch.randn(shape, generator=stream(seed, 'W'), dtype=dtype)
def norms(model): return [torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() for layer in weighted_layers(model).values()]


def conv():
    with seeded(0, 'init'):
        return nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(32, 5))


def images(n=20): return torch.rand(n, 1, 6, 6, generator=stream(0, 'x')), torch.arange(n) % 5


# --- the projection

@pytest.mark.parametrize('tau', [.5, 2., 5.])
@pytest.mark.parametrize('shape', SHAPES)
def test_the_projection_is_the_clipped_decomposition(shape, tau):
    W = matrix(shape)
    U, S, Vh = torch.linalg.svd(W.double().flatten(1), full_matrices=False)
    clipped = clip_singular_values(W, tau)
    torch.testing.assert_close(clipped.double().flatten(1), U @ S.clamp_max(tau).diag() @ Vh, rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(clip_singular_values(clipped, tau), clipped, rtol=1e-4, atol=2e-5)
    assert clipped.shape == W.shape and clipped.is_contiguous() and W.equal(matrix(shape))


def test_a_matrix_below_the_limit_is_left_alone():
    W = matrix((20, 50))
    assert clip_singular_values(W, 1.01*torch.linalg.matrix_norm(W, 2).item()) is W
    assert clip_singular_values(torch.zeros(3, 4), 1.).equal(torch.zeros(3, 4))


def test_equal_singular_values_are_all_clipped():
    Q = torch.linalg.qr(matrix((6, 6))).Q
    torch.testing.assert_close(clip_singular_values(3*Q, 1.), Q, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('shape', SHAPES)
def test_a_bound_is_not_below_the_norm_nor_above_the_limit(shape):
    W = matrix(shape).flatten(1)
    norm = torch.linalg.matrix_norm(W.double(), 2).item()
    for factor in (.5, .99, .9999): assert spectral._norm_bound(spectral._gram(W), factor*norm) == math.inf
    for factor in (1.0001, 1.01, 2., 1e3): assert norm < spectral._norm_bound(spectral._gram(W), factor*norm) <= factor*norm


def test_a_bound_holds_where_the_power_iteration_is_misled():
    "It starts with the longest row, which may be an eigenvector of a smaller eigenvalue."
    W = torch.block_diag(torch.tensor([[2.]]), torch.ones(3, 3))           # norms 2 and 3, rows of length 2 and 1.7
    assert spectral._norm_bound(W @ W.T, 2.9) == math.inf and 3 < spectral._norm_bound(W @ W.T, 3.1) <= 3.1
    torch.testing.assert_close(torch.linalg.matrix_norm(clip_singular_values(W, 2.5), 2), torch.tensor(2.5))


def products(monkeypatch):
    "Count Gram matrices and decompositions."
    seen, gram, eigh = dict(gram=0, eigh=0), spectral._gram, torch.linalg.eigh
    def counted(name, f): return lambda *a: (seen.update({name: seen[name] + 1}), f(*a))[1]
    monkeypatch.setattr(spectral, '_gram', counted('gram', gram))
    monkeypatch.setattr(torch.linalg, 'eigh', counted('eigh', eigh))
    return seen


def test_a_weight_that_has_moved_too_little_is_not_multiplied(monkeypatch):
    model, seen = nn.Linear(50, 20), products(monkeypatch)
    norm = norms(model)[0]
    piece = SpectralProjection(2*norm, kappa=None)
    for _ in range(10):
        with torch.no_grad(): model.weight += .02*norm*matrix((20, 50))/matrix((20, 50)).norm()
        piece(model)
    assert seen == dict(gram=1, eigh=0)
    piece.refresh(model, (), 1)
    piece(model)
    assert seen == dict(gram=2, eigh=0), 'an epoch begins as after an interruption'


@pytest.mark.parametrize('step', [.003, .03, .3])
def test_a_growing_weight_is_caught_in_the_step_in_which_it_passes_the_limit(step, monkeypatch):
    "Along its own top direction, where the length of the change is all that the norm grows by."
    model = nn.Linear(50, 20, bias=False)
    U, S, Vh = torch.linalg.svd(model.weight.detach(), full_matrices=False)
    limit, top, seen = S[0].item() + .6, torch.outer(U[:, 0], Vh[0]), products(monkeypatch)
    piece = SpectralProjection(limit, kappa=None)
    steps = int(.7/step) + 2
    for t in range(1, steps):
        with torch.no_grad(): model.weight += step*top
        expected = S[0].item() + t*step
        piece(model)
        assert norms(model)[0] == pytest.approx(min(expected, limit), abs=1e-5)
        if expected > limit + step: break
    assert seen['eigh'] >= 1 and seen['gram'] <= seen['eigh'] + 12


def test_what_is_known_changes_no_weight():
    "As against a projection that looks at every weight anew at each step."
    def trained(forgetful):
        model, piece = conv(), SpectralProjection(.6, kappa=None)
        def forget(net): forgetful and piece._below.clear()
        fit(model, images(), lr=.05, epochs=6, batch_size=5, constraints=[forget, piece])
        return model
    assert all(a.equal(b) for a, b in zip(trained(False).parameters(), trained(True).parameters(), strict=True))


def test_what_is_known_of_one_model_is_not_believed_of_another():
    small, large, other = nn.Linear(5, 4), nn.Linear(5, 4), nn.Linear(6, 4)
    with torch.no_grad(): large.weight.mul_(100); other.weight.mul_(100)
    piece = SpectralProjection(2., kappa=None)
    for model in (small, large, other, small): piece(model)
    assert norms(large) == pytest.approx([2.], rel=1e-4) == norms(other) and norms(small)[0] < 2


def test_the_limit_comes_down():
    piece = SpectralProjection(.8, kappa=50.)
    assert [piece.at(t)/.8 for t in (0, 5, 50, 200)] == pytest.approx([5, 4.62, 2.47, 1.07], abs=.01)
    assert piece.limit == piece.at(0)
    piece.refresh(None, (), 50)
    assert piece.limit == piece.at(50)
    assert SpectralProjection(.8, kappa=None).at(0) == .8


def test_biases_are_left_and_every_weight_is_limited():
    model = conv()
    biases = [m.bias.clone() for m in weighted_layers(model).values()]
    with torch.no_grad(): [m.weight.mul_(9) for m in weighted_layers(model).values()]
    piece = SpectralProjection(.7, kappa=None)
    piece(model)
    assert max(norms(model)) <= .7*(1 + 1e-4) and all(m.bias.equal(b) for m, b in zip(weighted_layers(model).values(), biases, strict=True))
    assert all(p.is_contiguous() and p.grad is None and p.requires_grad for p in model.parameters())


def test_the_loop_projects_after_every_step_and_lowers_the_limit():
    seen, model = [], conv()
    piece = SpectralProjection(.3, kappa=1.)
    def look(net): seen.append((piece.limit, max(norms(net))))
    fit(model, images(), lr=.05, epochs=4, batch_size=10, constraints=[piece, look])
    assert len(seen) == 8 and all(norm <= limit*(1 + 1e-4) for limit, norm in seen)
    assert [limit for limit, _ in seen[::2]] == pytest.approx([piece.at(t) for t in range(4)])


def test_an_interrupted_training_has_the_same_limits(tmp_path):
    def run(epochs, folder):
        model = conv()
        pieces = dict(constraints=[SpectralProjection(.5, kappa=2.)], penalties=[SpectralNormPenalty(.1)])
        fit(model, images(), lr=.02, epochs=epochs, batch_size=10, folder=tmp_path/folder, **pieces)
        return model
    whole = run(4, 'whole')
    run(2, 'parts')
    assert all(a.equal(b) for a, b in zip(whole.parameters(), run(4, 'parts').parameters(), strict=True))


def test_the_map_between_images_can_be_limited_instead():
    model, (x, _) = conv(), images()
    with torch.no_grad(): [m.weight.mul_(5) for m in weighted_layers(model).values()]
    piece = SpectralProjection(.6, kappa=None, reading='operator')
    piece.generator = stream(0, 'v')
    with pytest.raises(InputError, match='has not seen an image'): piece(model)
    piece.refresh(model, [(x, None)])
    for _ in range(5): piece(model)
    found = {m.path: m.norm('power') for m in linear_maps(model, x)}
    assert max(found.values()) <= .6*1.01 and min(found.values()) >= .55
    assert max(norms(model)[:2]) < .6, 'a kernel as a matrix has a smaller norm than the map'


def test_the_loop_keeps_the_map_between_images_limited():
    model, seen = conv(), []
    piece = SpectralProjection(.5, kappa=None, reading='operator')
    def look(net): seen.append(max(m.norm('power') for m in linear_maps(net, images(1)[0])))
    fit(model, images(), lr=.01, epochs=3, batch_size=10, constraints=[piece, look])
    assert max(seen) <= .5*1.03 and len(seen) == 6


# --- the penalty

@pytest.mark.parametrize('shape', SHAPES)
def test_the_exact_direction_is_the_singular_vector(shape):
    W = matrix(shape).flatten(1)
    v = top_direction(matrix(shape))
    assert v.norm().item() == pytest.approx(1, rel=1e-5) and (W @ v).norm().item() == pytest.approx(torch.linalg.matrix_norm(W, 2).item(), rel=1e-5)


def test_the_penalty_is_the_sum_of_squares_and_its_gradient_that_of_the_top_pair():
    model = conv().double()
    exact = SpectralNormPenalty(exact=True)(model)
    assert exact.item() == pytest.approx(sum(n**2 for n in norms(model)))
    layer = model[2]
    g, = torch.autograd.grad(exact, layer.weight)
    U, S, Vh = torch.linalg.svd(layer.weight.detach().flatten(1), full_matrices=False)
    torch.testing.assert_close(g.flatten(1), 2*S[0]*torch.outer(U[:, 0], Vh[0]))


def test_a_warm_start_keeps_up_with_the_training():
    "As against two rounds from a random start at each step."
    model, warm, cold = conv(), [], []
    piece = SpectralNormPenalty(.05)
    def compare(net):
        exact = SpectralNormPenalty(exact=True)(net).item()
        warm.append(piece(net).item() / exact)
        start = {path: torch.randn(layer.weight.flatten(1).shape[1], generator=stream(len(cold), path)) for path, layer in weighted_layers(net).items()}
        fresh = copy.deepcopy(piece)
        fresh._directions = start
        cold.append(fresh(net).item() / exact)
    fit(model, images(), lr=2e-3, epochs=6, batch_size=5, penalties=[piece], constraints=[compare])
    assert min(warm) > .95 > sum(cold)/len(cold) and max(warm) <= 1 + 1e-4


def test_the_estimate_never_exceeds_the_norm():
    for seed in range(5):
        with seeded(seed, 'init'): model = MLP(16, widths=(30,), classes=5)
        piece = SpectralNormPenalty(iterations=1)
        piece.generator = stream(seed, 'v')
        assert piece(model) <= SpectralNormPenalty(exact=True)(model)*(1 + 1e-5)


@pytest.mark.parametrize('exact', [False, True])
def test_zero_weights_are_no_nan(exact):
    model = MLP(16, widths=(8,), classes=5)
    with torch.no_grad(): [p.zero_() for p in model.parameters()]
    value = SpectralNormPenalty(exact=exact)(model)
    value.backward()
    assert value == 0 and all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize('piece', [SpectralNormPenalty(.02), SpectralNormPenalty(exact=True), SpectralProjection(.7, kappa=50.), SpectralProjection(kappa=None), SpectralProjection(reading='operator')], ids=repr)
def test_recipes_rebuild_the_piece(piece): assert repr(build_recipe(repr(piece))) == repr(piece)


# --- which weights

def test_frozen_weights_are_no_part_of_it():
    model = SHLP(16, width=8, classes=5)
    model.hidden.weight.requires_grad_(False)
    before = model.hidden.weight.clone()
    assert list(weighted_layers(model)) == ['readout']
    SpectralProjection(.01, kappa=None)(model)
    assert model.hidden.weight.equal(before) and norms(model) == pytest.approx([.01], rel=1e-3)


@pytest.mark.parametrize('make, said', [
    (lambda: weighted_layers(nn.Sequential(nn.Flatten(), nn.ReLU())), 'Sequential has no linear or convolutional layer'),
    (lambda: weighted_layers(nn.Sequential(spectral_norm(nn.Linear(3, 3)))), 'the weights of 0 are made by a parametrization'),
    (lambda: SpectralNormPenalty(0.), 'strength=0'), (lambda: SpectralNormPenalty(iterations=0), 'iterations=0'), (lambda: SpectralProjection(0.), 'tau=0'),
    (lambda: SpectralProjection(-1.), 'tau=-1'), (lambda: SpectralProjection(reading='operater'), "did you mean 'operator'"), (lambda: SpectralProjection(kappa=0.), 'kappa=0')])
def test_bad_input_is_named(make, said):
    with pytest.raises(InputError, match=said): make()


def test_pieces_are_told_before_the_first_step_that_there_is_nothing_to_limit():
    class Fixed(nn.Module):
        def __init__(self): super().__init__(); self.scale = nn.Parameter(torch.ones(5))
        def forward(self, x): return x.flatten(1)[:, :5]*self.scale
    for given in (dict(penalties=[SpectralNormPenalty()]), dict(constraints=[SpectralProjection()])):
        with pytest.raises(InputError, match='Fixed has no linear or convolutional layer'): fit(Fixed(), images(), epochs=1, **copy.deepcopy(given))
