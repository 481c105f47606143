"""Layers that stretch nothing: orthonormal weights, rows of bounded length, sorting, and what is left when they are baked."""
import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

import locallearning as ll
from locallearning.core import InputError
from locallearning.data import load
from locallearning.lipschitz.layers import ACTIVATIONS, GroupSort, LipschitzMLP, MaxMin, MaxOut, activation
from locallearning.lipschitz.orthogonal import SCALINGS, Bjorck, SpectralNormalized, bake, bjorck, bjorck_limit, patch_factor, upper_norm
from locallearning.lipschitz.projections import L1Rows, L1Scaled, Projected, project_rows
from locallearning.models import parametrize
from locallearning.optimizers import SGD
from locallearning.probes.norms import linear_maps, weighted_layers
from locallearning.probes.slopes import measured_slope, product_bound
from locallearning.recipes import build_recipe
from locallearning.state import load_model, seeded, stream
from locallearning.training import fit, train_model

SHAPES = [(20, 50), (50, 20), (30, 30), (8, 4, 3, 3), (64, 3, 3, 3), (1, 5), (5, 1)]
sized = pytest.mark.parametrize('shape', SHAPES, ids=lambda s: 'x'.join(map(str, s)))


def draw(*shape, dtype=torch.float64, seed=0): return torch.randn(shape, generator=stream(seed, 'draw', *shape), dtype=dtype)


def polar(W):
    U, S, Q = torch.linalg.svd(W.flatten(1), full_matrices=False)
    return (U * (S > 1e-9*S[0])) @ Q


@sized
@pytest.mark.parametrize('order', [1, 2, 3, 4])
def test_bjorck_ends_at_the_nearest_orthonormal_matrix(shape, order):
    W = draw(*shape)
    W = W/torch.linalg.matrix_norm(W.flatten(1), 2)
    torch.testing.assert_close(bjorck(W, 60, order).flatten(1), polar(W), rtol=0, atol=1e-9)


@pytest.mark.parametrize('shape', [s for s in SHAPES if 1 not in s], ids=lambda s: 'x'.join(map(str, s)))
def test_a_singular_value_of_zero_stays_so(shape):
    W = draw(*shape).flatten(1)
    W = W - (W @ (v := draw(W.shape[1])))[:, None] * v / v.square().sum()
    found = bjorck(W/torch.linalg.matrix_norm(W, 2), 30) # so few that rounding does not grow
    S = torch.linalg.svdvals(found)
    assert ((S - 1).abs().minimum(S) < 1e-6).all() and (found @ v).norm() < 1e-6


@pytest.mark.parametrize('order', [1, 2, 3, 4])
def test_from_at_most_one_no_step_leads_beyond(order):
    W = draw(40, 60)
    W = W/torch.linalg.matrix_norm(W, 2)
    for steps in range(1, 12): assert torch.linalg.svdvals(bjorck(W, steps, order))[0] <= 1 + 1e-12


@pytest.mark.parametrize('order, beta', [(1, .5), (1, .3), (2, .5), (3, .5), (4, .5)])
def test_it_diverges_above_the_limit_and_not_below(order, beta):
    def after(s, steps=60): return bjorck(torch.tensor([[s]], dtype=torch.float64), steps, order, beta).abs().item()
    limit = bjorck_limit(order, beta)
    assert after(.999*limit) == pytest.approx(1, abs=1e-3) and not after(1.001*limit, 400) < 10


def test_a_tolerance_ends_it_after_the_step_that_began_near():
    W, calls = draw(10, 30)/100, []
    class Counted(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            calls.append(getattr(func, '__name__', '') == 'addmm')
            return func(*args, **(kwargs or {}))
    with Counted(): near = bjorck(W, 200, tol=1e-3)
    steps = sum(calls)
    before, after = (bjorck(W, n) for n in (steps - 1, steps - 2))
    def far(W): return (W @ W.T - torch.eye(10)).abs().sum(1).max()
    assert steps < 30 and near.equal(bjorck(W, steps)) and far(before) <= 1e-3 < far(after) and far(near) < 1e-5


@sized
def test_the_gradient_at_an_orthonormal_matrix_is_that_of_the_nearest_one(shape):
    "Against the decomposition, for one step and for forty."
    W, way = polar(draw(*shape)), draw(*shape, seed=1).flatten(1)
    few = W.clone().requires_grad_()
    one, = torch.autograd.grad(bjorck(few, 40, tol=1e-3), few, way)
    all_of_them, = torch.autograd.grad(bjorck(few, 40), few, way)
    torch.testing.assert_close(one, all_of_them, rtol=0, atol=1e-9)
    if min(W.shape) > 1:
        eps, direction = 1e-5, draw(*W.shape, seed=2)
        moved = ((polar(W + eps*direction) - polar(W - eps*direction))*way).sum()/(2*eps)
        assert (one*direction).sum().item() == pytest.approx(moved.item(), rel=1e-4)


@sized
def test_upper_norms_are_upper(shape):
    W = draw(*shape).clamp(-1, 1)
    found = [upper_norm(W, kind) for kind in ('gram', 'norms', 'safe')]
    assert torch.linalg.matrix_norm(W.flatten(1), 2) <= found[0]*(1 + 1e-12) and found[0] <= found[1]*(1 + 1e-12) and found[1] <= found[2]*(1 + 1e-12)


@sized
def test_the_first_gram_matrix_scales_as_its_bound_does(shape):
    W = draw(*shape)
    torch.testing.assert_close(bjorck(W, 9, scaled=True), bjorck(W/upper_norm(W), 9), rtol=0, atol=1e-12)


@pytest.mark.parametrize('scaling', SCALINGS)
def test_every_scaling_gives_orthonormal_rows_and_a_gradient(scaling):
    layer = parametrize(nn.Sequential(nn.Linear(6, 4).double()), Bjorck(steps=40, scaling=scaling)).eval()[0]
    torch.testing.assert_close(layer.weight @ layer.weight.T, torch.eye(4, dtype=torch.float64), rtol=0, atol=1e-6)
    few = parametrize(nn.Sequential(nn.Linear(6, 4).double()), Bjorck(steps=3, scaling=scaling)).eval()[0]
    assert torch.autograd.gradcheck(few.parametrizations.weight[0], few.parametrizations.weight.original)


def test_the_estimate_of_power_iteration_follows_the_weight():
    layer = parametrize(nn.Sequential(nn.Linear(30, 20)), Bjorck(scaling='power'))[0]
    original, piece = layer.parametrizations.weight.original, layer.parametrizations.weight[0]
    with torch.no_grad(): original.copy_(draw(20, 30, dtype=torch.float32))
    for _ in range(40): layer.weight
    direction = piece.direction.clone()
    assert torch.linalg.svdvals(original @ direction[:, None])[0] > .98*torch.linalg.matrix_norm(original, 2)
    layer.eval()
    layer.weight
    assert piece.direction.equal(direction)


def test_without_scaling_divergence_is_named_before_it_happens():
    layer = parametrize(nn.Sequential(nn.Linear(6, 4)), Bjorck(scaling=None))[0]
    with torch.no_grad(): layer.parametrizations.weight.original.copy_(3*torch.eye(4, 6))
    with pytest.raises(InputError, match=r"largest singular value of the weight, shape \(4, 6\), is 3; above 2.24 .* diverges; use scaling='gram'"): layer.weight
    with torch.no_grad(): layer.parametrizations.weight.original.copy_(2.2*torch.eye(4, 6))
    assert layer.weight.isfinite().all()


def test_a_weight_of_zeros_or_nan_is_no_crash():
    piece = Bjorck()
    assert piece(torch.zeros(3, 5)).equal(torch.zeros(3, 5)) and piece(torch.full((3, 5), math.nan)).isnan().all()
    assert Bjorck(scaling=None)(torch.full((3, 5), math.nan)).isnan().all()


@pytest.mark.parametrize('given, said', [
    (dict(steps=0), 'steps'), (dict(order=5), 'order'), (dict(order=2, beta=.4), 'series for beta .5'), (dict(beta=0), 'beta'), (dict(tol=-1), 'tol'), (dict(scaling='powr'), 'power')])
def test_settings_that_make_no_sense_are_refused(given, said):
    with pytest.raises(InputError, match=said): Bjorck(**given)


CONVS = {f'{k}{o}': (k, o) for k in (1, 2, 3, 5) for o in ('', 'stride', 'dilation', 'both', 'groups', 'circular')}
OPTIONS = {'': {}, 'stride': dict(stride=2), 'dilation': dict(dilation=2), 'both': dict(stride=2, dilation=2), 'groups': dict(groups=2, padding=1), 'circular': dict(padding='same', padding_mode='circular')}


@pytest.mark.parametrize('k, option', CONVS.values(), ids=CONVS)
@pytest.mark.parametrize('piece', [Bjorck(), L1Rows()], ids=['euclidean', 'largest'])
def test_no_convolution_stretches(k, option, piece):
    "Against the dense matrix of the convolution."
    with seeded(0, 'init'): layer = parametrize(nn.Sequential(nn.Conv2d(2, 4, k, bias=False, **OPTIONS[option]).double()), piece).eval()
    inputs = torch.eye(2*9*9, dtype=torch.float64).view(-1, 2, 9, 9)
    matrix = layer(inputs).flatten(1).T.detach()
    norm = torch.linalg.matrix_norm(matrix, 2) if isinstance(piece, Bjorck) else matrix.abs().sum(1).max()
    assert norm <= 1 + 1e-9
    assert norm > .15


def test_the_factor_of_patches_is_reached():
    "By a constant image and a constant kernel, far from the border."
    layer = nn.Conv2d(1, 1, 5, bias=False)
    with torch.no_grad(): layer.weight.fill_(1/5)
    x = torch.ones(1, 1, 200, 200)
    assert patch_factor(layer) == 5 and (layer(x).norm()/x.norm()).item() == pytest.approx(5, rel=.05)


def test_layers_without_a_known_bound_are_refused():
    for layer, said in [(nn.ConvTranspose2d(1, 2, 3), 'ConvTranspose2d'), (nn.Conv2d(1, 2, 3, padding=1, padding_mode='replicate'), 'replicate'),
                        (nn.Conv2d(1, 2, 3, padding=2, padding_mode='circular'), 'more is wrapped around')]:
        for piece in (Bjorck(), SpectralNormalized()):
            with pytest.raises(InputError, match=said): parametrize(nn.Sequential(layer), piece)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.floats(-10, 10, width=32), min_size=4, max_size=4), min_size=1, max_size=4), st.floats(.1, 20))
def test_projected_rows_are_the_nearest_in_the_ball(rows, radius):
    "The amount by which entries shrink, searched by bisection."
    W = torch.tensor(rows, dtype=torch.float64)
    P = project_rows(W, radius)
    for w, p in zip(W, P):
        low, high = 0., w.abs().max().item()
        if w.abs().sum() > radius:
            for _ in range(100):
                middle = (low + high)/2
                low, high = (middle, high) if (w.abs() - middle).clamp_min(0).sum() > radius else (low, middle)
        torch.testing.assert_close(p, w.sign()*(w.abs() - low).clamp_min(0), rtol=0, atol=1e-6)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(-1, 1, width=32), min_size=3, max_size=6), st.floats(.5, 20))
def test_rows_on_the_sphere_have_its_length(row, radius):
    P = project_rows(torch.tensor([row], dtype=torch.float64), radius, onto='sphere')
    assert P.abs().sum().item() == pytest.approx(radius, rel=1e-9)


@settings(deadline=None, max_examples=40)
@given(st.sampled_from([2, 3, 4, 0]), st.integers(1, 5), st.booleans())
def test_groups_are_sorted_upwards_one_by_one(size, groups, image):
    width = (size or 3)*groups
    x = draw(5, width, *((3, 2) if image else ()), seed=groups).mul(4).round() # with ties
    expected = x.unflatten(1, (-1, size or width)).sort(dim=2).values.flatten(1, 2)
    assert GroupSort(size)(x).equal(expected)


@pytest.mark.parametrize('size', [2, 3, 0])
def test_a_gradient_keeps_its_length_through_ties(size):
    x, way = torch.zeros(4, 6, requires_grad=True), draw(4, 6, dtype=torch.float32)
    g, = torch.autograd.grad(GroupSort(size)(x), x, way)
    torch.testing.assert_close(g.sort(dim=1).values, way.sort(dim=1).values)


def test_nan_passes_through():
    for act in (GroupSort(2), GroupSort(3), MaxMin(), MaxOut()): assert act(torch.full((1, 6), math.nan)).isnan().all()


def test_maxmin_of_pairs_is_groupsort_in_another_order():
    x = draw(7, 10)
    order = [*range(1, 10, 2), *range(0, 10, 2)]
    assert MaxMin()(x).equal(GroupSort()(x)[:, order])


@pytest.mark.parametrize('name', ACTIVATIONS)
def test_no_activation_stretches_and_each_counts_its_features(name):
    act, x, y = activation(name, 3), draw(50, 12), draw(50, 12, seed=1)
    assert ((act(x) - act(y)).norm(dim=1) <= (x - y).norm(dim=1)*(1 + 1e-12)).all()
    assert act(x).shape[1] == (act.outputs(12) if hasattr(act, 'outputs') else 12)


@pytest.mark.parametrize('name, sizes', [('groupsort', (2, 3)), ('maxmin', (2, 3)), ('maxout', (2, 3)), ('fullsort', (2,)), ('relu', (2,)), ('abs', (2,))])
@pytest.mark.parametrize('slope', [1., 7.])
def test_no_network_is_steeper_than_its_slope(name, sizes, slope):
    for size in sizes:
        with seeded(0, 'init'): model = parametrize(LipschitzMLP(9, (12, 24), 3, name, size, slope), Bjorck(steps=25)).eval()
        x = torch.rand(30, 9, generator=stream(0, 'x'))
        bound = product_bound(model, x[:1]).value
        assert bound <= slope*(1 + 1e-4)
        assert measured_slope(model, x).value <= slope*(1 + 1e-4)


def test_dropout_and_bias_are_fields():
    model = LipschitzMLP(9, (12, 24), 3, dropout=True, bias=False)
    assert [type(m).__name__ for m in model.modules() if isinstance(m, nn.Dropout)] == ['Dropout']*3
    assert all(m.bias is None for m in model.modules() if isinstance(m, nn.Linear))
    assert repr(model) == 'LipschitzMLP(in_features=9, widths=(12, 24), classes=3, dropout=True, bias=False)'


DATA = load('mnist5k(per_class=5)')


def trained(tmp_path, *parametrizations, model='LipschitzMLP(784, widths=(32, 32))', **given):
    return train_model(model, DATA, parametrizations=parametrizations, epochs=2, batch_size=10, folder=tmp_path, seed=3, **given)


@pytest.mark.parametrize('recipe', ['Bjorck()', "Bjorck(scaling='power')", 'Bjorck(order=2, steps=8)', 'SpectralNormalized()', 'L1Rows()', "L1Rows(onto='sphere')", 'L1Scaled()'])
def test_a_trained_network_comes_back_from_its_checkpoint(tmp_path, recipe):
    found = trained(tmp_path, recipe)
    model = load_model(found['checkpoint'])
    x = DATA.test.x[:50]
    again = load_model(found['checkpoint'])
    assert model(x).equal(again(x)) and ll.accuracy(model, DATA.test) == found['test_accuracy']
    torch.testing.assert_close(bake(model)(x), model(x), rtol=0, atol=1e-5)
    for layer in (m for m in model.modules() if isinstance(m, nn.Linear)):
        if recipe.startswith('Bjorck'): assert torch.linalg.svdvals(layer.weight)[0] <= 1 + 1e-4
        if recipe.startswith('L1'): assert layer.weight.abs().sum(1).max() <= 1 + 1e-5


def test_a_training_that_was_interrupted_ends_at_the_same_weights(tmp_path):
    def run(folder, epochs):
        with seeded(0, 'init'): model = parametrize(LipschitzMLP(784, (16, 16)), Bjorck(scaling='power'))
        fit(model, DATA, epochs=epochs, batch_size=10, folder=folder)
        return model.state_dict()
    whole = run(tmp_path/'a', 3)
    run(tmp_path/'b', 2)
    assert all(v.equal(w) for v, w in zip(whole.values(), run(tmp_path/'b', 3).values(), strict=True))


def test_baking_leaves_the_model_and_finds_layers_anywhere():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.ModuleDict(dict(a=nn.Conv2d(1, 4, 3, bias=False), b=nn.ModuleList([nn.Linear(4, 2)])))
        def forward(self, x): return self.parts['b'][0](self.parts['a'](x).amax((2, 3)))
    with seeded(0, 'init'): model = parametrize(Odd().double(), Bjorck())
    x = draw(3, 1, 8, 8)
    before, plain = model(x), bake(model)
    torch.testing.assert_close(plain(x), before, rtol=0, atol=1e-9)
    assert model(x).equal(before) and is_parametrized(model.parts['a']) and not any(map(is_parametrized, plain.modules()))
    assert plain.parts['a'].weight.dtype == torch.float64 and sorted(plain.state_dict()) == ['parts.a.weight', 'parts.b.0.bias', 'parts.b.0.weight']
    assert type(plain.parts['a']) is nn.Conv2d and plain.parts['a'].weight.requires_grad
    deeper = bake(bake(model))
    torch.testing.assert_close(deeper(x), before, rtol=0, atol=1e-9)


@pytest.mark.parametrize('recipe', ["Projected(Bjorck(steps=1, scaling=None))", 'Projected(L1Rows())', "Projected(L1Rows(onto='sphere'), every=2, reset=True)", 'Projected(L1Scaled(everywhere=True), every=3)'])
def test_a_projection_after_the_step_is_a_recipe(recipe):
    piece = build_recipe(recipe)
    assert build_recipe(repr(piece)).__repr__() == repr(piece)
    with seeded(0, 'init'): model = LipschitzMLP(784, (16,))
    fit(model, DATA, constraints=[piece], epochs=4, batch_size=10, lr=.01)
    rows = [layer.weight.abs().sum(1) for layer in weighted_layers(model).values()]
    if recipe == 'Projected(L1Rows())': assert max(r.max() for r in rows) <= 1 + 1e-5
    if 'Bjorck' in recipe: assert all(((torch.linalg.svdvals(layer.weight) - 1).abs() < .05).all() for layer in weighted_layers(model).values())
    if 'every' in recipe: assert max(r.max() for r in rows) > 1 + 1e-5, 'the last epoch is not projected'


def test_a_projection_between_epochs_comes_when_it_is_due_and_the_optimizer_forgets():
    def run(reset):
        with seeded(0, 'init'): model = LipschitzMLP(784, (16,))
        seen = []
        piece = Projected(L1Rows(), every=2, reset=reset)
        whole = piece.project
        piece.project = lambda m: (seen.append(1), whole(m))
        fit(model, DATA, constraints=[piece], epochs=4, batch_size=10, opt=SGD(momentum=.9), lr=.1)
        return model.readout.weight.detach(), len(seen)
    (kept, times), (forgotten, again) = run(False), run(True)
    assert times == again == 1 and not kept.equal(forgotten)


def test_reset_starts_momentum_at_nothing():
    "After a restart the first step is that of a new optimizer."
    states = []
    class Watched(SGD):
        def __call__(self, parameters):
            opt = super().__call__(parameters)
            step = opt.step
            opt.step = lambda: (states.append(len(opt.state)), step())
            return opt
    with seeded(0, 'init'): model = LipschitzMLP(784, (16,))
    fit(model, DATA, constraints=[Projected(L1Rows(), every=2, reset=True)], epochs=5, batch_size=50, opt=Watched(momentum=.9), lr=.1)
    assert [i for i, n in enumerate(states) if n == 0] == [0, 2, 4]


def test_weights_that_are_made_cannot_be_projected():
    with pytest.raises(InputError, match='made by a parametrization'): Projected(L1Rows())(parametrize(LipschitzMLP(9, (4,)), Bjorck()))


def test_the_factor_of_a_layer_is_its_own():
    model = parametrize(nn.Sequential(nn.Conv2d(1, 2, 5), nn.Conv2d(2, 2, 2, stride=2), nn.Flatten(), nn.Linear(2, 2)), Bjorck())
    assert [m.parametrizations.weight[0].factor for m in model if hasattr(m, 'weight')] == [5, 1, 1]
    assert [m.path for m in linear_maps(parametrize(nn.Sequential(nn.Conv2d(1, 2, 3)), Bjorck()), torch.zeros(1, 1, 5, 5))] == ['0']


def test_every_name_of_an_activation_means_another():
    assert len({repr(activation(n)) for n in ACTIVATIONS}) == len(ACTIVATIONS) == 9


def test_a_convolution_read_from_a_checkpoint_knows_its_stride(tmp_path):
    found = trained(tmp_path, 'Bjorck()', model='VGG5(width=2)')
    model = load_model(found['checkpoint'])
    assert [m.parametrizations.weight[0].factor for m in model.modules() if is_parametrized(m)] == [3, 3, 3, 3, 1]
    assert product_bound(model, DATA.test.x[:1]).value <= 1/.3081 + 1e-3 and ll.accuracy(model, DATA.test) == found['test_accuracy']


@sized
def test_bjorck_is_that_of_torchlip(shape):
    normalizers = pytest.importorskip('deel.torchlip.normalizers', reason='deel-torchlip, of the extra peers, is not installed')
    W = draw(*shape)
    W = W/torch.linalg.matrix_norm(W.flatten(1), 2)
    for steps in (1, 3, 12):
        theirs = normalizers.bjorck_normalization(W, eps=0., beta=.5, maxiter=steps)
        torch.testing.assert_close(bjorck(W, steps), theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize('size', [2, 4])
def test_sorted_groups_are_those_of_torchlip(size):
    torchlip = pytest.importorskip('deel.torchlip', reason='deel-torchlip, of the extra peers, is not installed')
    x = draw(6, 16)
    assert GroupSort(size)(x).equal(torchlip.GroupSort(size)(x))


def test_binding_a_piece_leaves_the_global_generator_as_it_was():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    for piece in (Bjorck(scaling='power'), SpectralNormalized()): parametrize(nn.Sequential(seeded_layer()), piece)
    assert torch.rand(1).equal(expected)


def seeded_layer():
    with seeded(0, 'init'): return nn.Linear(3, 2)
