"""The Jacobian spectral penalty: against decompositions, forward-mode Jacobians and finite differences, through epochs, modes and batch norms."""
import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from locallearning.core import InputError
from locallearning.data import load
from locallearning.lipschitz.layers import GroupSort, LipschitzMLP
from locallearning.lipschitz.networks import BlockOrthogonal, LeNet
from locallearning.lipschitz.orthogonal import Bjorck
from locallearning.lipschitz.penalties import JacobianSpectral, local_slopes
from locallearning.models import MLP, SHLP, parametrize, read
from locallearning.optimizers import SGD
from locallearning.probes.slopes import measured_slope
from locallearning.recipes import build_recipe
from locallearning.state import seeded, stream
from locallearning.training import fit, train_step

HERE = ['locallearning.lipschitz.penalties']
DATA = load('mnist5k(per_class=4, test=40)')


def images(n=12, seed=0): return torch.rand(n, 1, 4, 4, generator=stream(seed, 'x')), torch.arange(n) % 5


def linear(classes=5):
    with seeded(0, 'init'): model = nn.Sequential(nn.Flatten(), nn.Linear(16, classes))
    with torch.no_grad(): model[1].weight[0] *= 3
    return model


def net(seed=0):
    with seeded(seed, 'init'): return MLP(16, widths=(30, 20), classes=5)


def drawn(piece, seed=0):
    piece.generator = stream(seed, 'piece')
    return piece


def oracle(model, x):
    "Each image's Jacobian by itself, and its decomposition."
    J = torch.stack([torch.func.jacrev(lambda z: model(z[None])[0])(one).flatten(1) for one in x])
    return torch.linalg.svdvals(J)[:, 0].detach()


# --- the value

@pytest.mark.parametrize('classes', [1, 2, 5, 30])
def test_a_linear_network_ends_at_the_largest_singular_value_of_its_weight(classes):
    "Any number of outputs, also more than pixels."
    model, piece = linear(classes).double(), drawn(JacobianSpectral())
    x, top = images()[0].double(), torch.linalg.svdvals(model[1].weight)[0]
    for _ in range(60): value = piece(model, x)
    torch.testing.assert_close(value, top, rtol=1e-9, atol=0)
    torch.testing.assert_close(JacobianSpectral(iterations=None)(model, x), top, rtol=1e-9, atol=0)


def models():
    with seeded(0, 'init'):
        yield 'MLP', MLP(16, widths=(30, 20), classes=5)
        yield 'tanh', SHLP(16, width=20, classes=5, activation='tanh')
        yield 'sorted', parametrize(LipschitzMLP(16, (12, 12), 5), Bjorck())
        yield 'convolution', nn.Sequential(nn.Conv2d(1, 6, 3), GroupSort(2), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(6, 5))


@pytest.mark.parametrize('name, model', [*models()], ids=lambda o: o if isinstance(o, str) else '')
def test_each_image_has_its_own_slope(name, model):
    "By C passes, by many rounds and by a decomposition of the Jacobian in reverse mode."
    model, (x, _) = model.double().eval(), images(n=7)
    x = x.double()
    S = oracle(model, x)
    torch.testing.assert_close(local_slopes(model, x), S, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(JacobianSpectral(iterations=None)(model, x).detach(), S.mean(), rtol=1e-9, atol=0)
    torch.testing.assert_close(drawn(JacobianSpectral(iterations=300))(model, x).detach(), S.mean(), rtol=1e-4, atol=0)
    assert S.std() < 1e-9 and S[0] == pytest.approx(1) if name == 'sorted' else S.std() > 1e-6


def test_power_iteration_comes_from_below_and_grows_with_its_rounds():
    model, (x, _) = net(), images()
    values = [drawn(JacobianSpectral(iterations=n))(model, x).item() for n in (1, 2, 4, 8, 16)]
    assert values == sorted(values) and values[-1] <= local_slopes(model, x).mean().item()*(1 + 1e-5)


def test_the_direction_of_one_step_is_where_the_next_begins():
    model, piece = net(), drawn(JacobianSpectral())
    values = [piece(model, images(seed=i)[0]).item()/local_slopes(model, images(seed=i)[0]).mean().item() for i in range(30)]
    cold = [drawn(JacobianSpectral(), i)(model, images(seed=i)[0]).item()/local_slopes(model, images(seed=i)[0]).mean().item() for i in range(30)]
    assert sum(values[10:])/20 > sum(cold)/30 + .02 and not piece.direction.requires_grad


@pytest.mark.parametrize('of', ['logits', 'hidden', 'features', 'body.0'])
def test_any_layer_can_be_made_flat(of):
    model, (x, _) = net().double(), images()
    x = x.double()
    J = torch.stack([torch.func.jacrev(lambda z: read(model, z[None], of).layer[0])(one).flatten(1) for one in x])
    expected = torch.linalg.svdvals(J)[:, 0].detach()
    torch.testing.assert_close(JacobianSpectral(of=of, iterations=None)(model, x).detach(), expected.mean(), rtol=1e-9, atol=0)
    torch.testing.assert_close(local_slopes(model, x, of), expected, rtol=1e-9, atol=0)


def test_the_largest_slope_is_that_of_the_probe():
    model, (x, _) = net(), images()
    assert local_slopes(model, (x, torch.zeros(12, dtype=torch.long)), batch_size=5).max().item() == pytest.approx(measured_slope(model, x).gradient, rel=1e-6)


# --- the gradient

@pytest.mark.parametrize('iterations', [None, 200])
def test_the_gradient_is_that_of_finite_differences(iterations):
    model, (x, _) = net().double(), images()
    x = x.double()
    def value(): return drawn(JacobianSpectral(iterations=iterations))(model, x)
    weights = [model.readout.weight, model.body[0][0].weight]
    for weight, g in zip(weights, torch.autograd.grad(value(), weights)):
        way = torch.randn(weight.shape, generator=stream(0, 'way'), dtype=torch.float64)
        values = []
        for s in (1, -1):
            with torch.no_grad(): weight.add_(s*1e-6*way)
            values.append(value().item())
            with torch.no_grad(): weight.sub_(s*1e-6*way)
        assert (values[0] - values[1])/2e-6 == pytest.approx((g*way).sum().item(), rel=1e-4)


def test_a_dead_image_has_slope_and_gradient_zero():
    model = SHLP(16, width=8, classes=5)
    with torch.no_grad(): model.hidden.weight.copy_(-model.hidden.weight.abs())
    piece = drawn(JacobianSpectral())
    value = piece(model, images()[0])
    value.backward()
    assert value == 0 and all(p.grad is None or p.grad.isfinite().all() and (p.grad == 0).all() for p in model.parameters())
    with torch.no_grad(): model.hidden.weight.neg_()
    assert piece(model, images()[0]) > 0, 'the direction has not been lost'


# --- a piece of a training

def test_it_is_a_recipe_and_says_what_it_needs():
    for text in ('JacobianSpectral(0.05)', "JacobianSpectral(0.1, iterations=None, of='features')"):
        piece = build_recipe(text, HERE)
        assert repr(piece) == text and piece.needs_x and piece.generator is None
    assert JacobianSpectral(.3).strength == .3


@pytest.mark.parametrize('given, said', [(dict(strength=0), 'strength'), (dict(iterations=0), 'None is the exact norm'), (dict(iterations=1.5), 'iterations'), (dict(of=3), 'path')])
def test_settings_that_make_no_sense_are_refused(given, said):
    with pytest.raises(InputError, match=said): JacobianSpectral(**given)


def test_logits_that_are_there_are_used():
    model, (x, y) = net(), images()
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    x.requires_grad_()
    out = read(model, x)
    value = JacobianSpectral(iterations=None)(model, x, y, out)
    assert len(calls) == 1 and value.item() == pytest.approx(local_slopes(model, x).mean().item(), rel=1e-5)


def test_it_works_in_evaluation_without_a_graph():
    model, (x, y) = net().eval(), images()
    with torch.no_grad(): value = JacobianSpectral(iterations=None)(model, x, y, read(model, x))
    assert value.item() == pytest.approx(local_slopes(model, x).mean().item(), rel=1e-5) and not x.requires_grad


@pytest.mark.parametrize('layer', [nn.BatchNorm1d(8), nn.Dropout(.5)], ids=['batch norm', 'dropout'])
def test_an_image_does_not_depend_on_its_company_or_on_chance(layer):
    with seeded(0, 'init'): model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), copy.deepcopy(layer), nn.Tanh(), nn.Linear(8, 5)).train()
    x, y = images()
    for _ in range(3): model(2*x)
    state = copy.deepcopy(model.state_dict())
    z = x.clone().requires_grad_()
    out = read(model, z)
    moved = {k: v.clone() for k, v in model.state_dict().items()}
    value = JacobianSpectral(iterations=None)(model, z, y, out)
    assert all(v.equal(moved[k]) for k, v in model.state_dict().items()) and model[2].training
    model.load_state_dict(moved)
    assert value.item() == pytest.approx(oracle(copy.deepcopy(model).eval(), x).mean().item(), rel=1e-5)
    model.load_state_dict(state)


def test_a_batch_norm_without_statistics_is_refused():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.Linear(8, 5))
    with pytest.raises(InputError, match='track_running_stats=True'): JacobianSpectral()(model, images()[0])


def test_a_step_makes_the_network_flatter_and_leaves_the_images():
    model, (x, y) = net(), images()
    before, kept = local_slopes(model, x).mean(), x.clone()
    opt = SGD()(list(model.parameters()))
    for group in opt.param_groups: group['lr'] = .05
    piece = drawn(JacobianSpectral(5.))
    for _ in range(20): terms = train_step(model.train(), opt, x, y, penalties=[piece])
    assert local_slopes(model, x).mean() < .5*before and x.equal(kept) and not x.requires_grad and 'JacobianSpectral' in terms


def test_a_training_that_was_interrupted_ends_at_the_same_weights(tmp_path):
    def run(folder, epochs):
        with seeded(0, 'init'): model = LeNet(channels=(4, 6), width=8)
        fit(model, DATA, epochs=epochs, batch_size=10, folder=folder, penalties=[JacobianSpectral(.1)])
        return model.state_dict()
    whole = run(tmp_path/'a', 3)
    run(tmp_path/'b', 2)
    assert all(v.equal(w) for v, w in zip(whole.values(), run(tmp_path/'b', 3).values(), strict=True))


def test_draws_come_from_its_generator_alone_and_each_epoch_starts_anew():
    model, (x, _) = net(), images()
    piece = drawn(JacobianSpectral())
    torch.manual_seed(3)
    first = piece(model, x)
    assert torch.rand(1).equal(torch.rand(1, generator=torch.Generator().manual_seed(3)))
    second = piece(model, x)
    piece.generator = stream(0, 'piece')
    piece.refresh(model, [], 1)
    assert piece(model, x).equal(first) and not first.equal(second) and not piece.state_dict()


def test_another_number_of_outputs_draws_anew():
    piece = drawn(JacobianSpectral())
    piece(net(), images()[0])
    assert piece(linear(7), images()[0]) > 0 and piece.direction.shape == (7,)


@pytest.mark.parametrize('iterations', [1, None])
def test_what_is_not_finite_shows_in_the_value(iterations):
    model = net()
    with torch.no_grad(): model.readout.weight[0, 0] = float('nan')
    assert drawn(JacobianSpectral(iterations=iterations))(model, images()[0]).isnan()


@pytest.mark.parametrize('iterations', [1, None])
def test_weights_that_are_made_once_a_step_get_its_gradient(iterations):
    with seeded(0, 'init'): model = parametrize(LeNet(1, 16, 5, channels=(4, 6), width=8), BlockOrthogonal())
    x, y = torch.rand(6, 1, 16, 16, generator=stream(0, 'x')), torch.arange(6) % 5
    opt = SGD()(list(model.parameters()))
    for group in opt.param_groups: group['lr'] = 0.
    train_step(model, opt, x, y, loss=lambda z, y: 0*z.sum(), penalties=[drawn(JacobianSpectral(iterations=iterations))])
    free = [p for name, p in model.named_parameters() if 'original' in name]
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in free)
