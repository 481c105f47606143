"""Distances of distributions: known ones against samples, the dual as a loss, laws in place of images."""
import math

import pytest
import torch
from torch import nn

import locallearning as ll
from locallearning.core import InputError
from locallearning.lipschitz.layers import LipschitzMLP
from locallearning.lipschitz.orthogonal import Bjorck
from locallearning.lipschitz.transport import (
    Between, Gaussian, Moved, Samples, Spheres, Uniform, WassersteinDual, assignment_distance, dual_estimate, exact_distance)
from locallearning.models import parametrize
from locallearning.recipes import build_recipe
from locallearning.splits import Law
from locallearning.state import seeded, stream
from locallearning.training import fit

CENTERS = (-2., 0., 2.)
KNOWN = {
    'absolute value': (Spheres(1, 0.), Spheres(1), 1.), 'three cones': (Spheres(2, 0., CENTERS), Spheres(2, 1., CENTERS), 1.),
    'two shells': (Spheres(3, .5), Spheres(3, 2.), 1.5), 'high': (Spheres(16, 0.), Spheres(16), 1.), 'empty axes': (Spheres(2, 0., extra=3), Spheres(2, extra=3), 1.),
    'point and normal': (Spheres(1, 0.), Gaussian(), math.sqrt(2/math.pi)), 'moved': (Gaussian(2, .5), Moved(Gaussian(2, .5), -1.5), 1.5),
    'moved spheres': (Spheres(2), Moved(Spheres(2), .7), .7), 'nothing': (Gaussian(2), Moved(Gaussian(2), 0.), 0.),
    'intervals': (Uniform(0, 1), Uniform(0, 3), 1.), 'normals on a line': (Gaussian(1, 1.), Gaussian(1, 3.), 2*math.sqrt(2/math.pi)), 'point and interval': (Spheres(1, 0., (.5,)), Uniform(), .25)}


@pytest.mark.parametrize('p, q, truth', KNOWN.values(), ids=KNOWN)
def test_known_distances_are_those_of_samples(p, q, truth):
    "An assignment between samples is too large on average, by what two samples of one distribution are apart."
    assert exact_distance(p, q) == pytest.approx(truth, abs=1e-3) == exact_distance(q, p)
    n = 600
    x, y, again = (law.sample(n, stream(0, name)) for law, name in ((p, 'x'), (q, 'y'), (q, 'z')))
    found, bias = assignment_distance(x, y), assignment_distance(y, again)
    spread = 4/math.sqrt(n)*(1 + truth)
    assert truth - spread <= found <= truth + bias + spread


@pytest.mark.parametrize('p, q', [
    (Gaussian(2), Gaussian(2, 2.)), (Spheres(2, 0., (0., 1.)), Spheres(2, 1., (0., 1.))), (Spheres(2, 0., (1.,)), Gaussian(2)), (Spheres(2, 0.), Spheres(2, 1., (3.,))),
    (Samples(torch.zeros(3, 2)), Gaussian(2)), (Samples(torch.zeros(3, 2)), Moved(Samples(torch.ones(3, 2))))])
def test_unknown_distances_are_refused_with_what_is_known(p, q):
    with pytest.raises(InputError, match='is not known: it is for spheres around the same centres'): exact_distance(p, q)


def test_assignments_are_those_of_sorted_samples_on_a_line():
    x, y = torch.randn(50, 1, generator=stream(0, 'x')), torch.randn(50, 1, generator=stream(0, 'y'))
    assert assignment_distance(x, y) == pytest.approx((x.sort(0).values - y.sort(0).values).abs().double().mean().item(), abs=1e-6)
    assert assignment_distance(x, x) == 0
    with pytest.raises(InputError, match='as many of the same size'): assignment_distance(x, y[:20])


def test_an_assignment_is_what_pot_finds():
    ot = pytest.importorskip('ot', reason='POT, of the extra peers, is not installed')
    x, y = torch.randn(40, 3, generator=stream(0, 'x')).double(), torch.randn(40, 3, generator=stream(0, 'y')).double()
    assert assignment_distance(x, y) == pytest.approx(float(ot.emd2([], [], torch.cdist(x, y).numpy())), rel=1e-9)


@pytest.mark.parametrize('law', [Spheres(3, 2., CENTERS, extra=2), Spheres(2, grid=(1, 2)), Gaussian(3, 2.), Uniform(-1, 4), Moved(Spheres(2), 3.)], ids=repr)
def test_distributions_are_recipes_and_draw_what_the_stream_says(law):
    assert repr(build_recipe(repr(law))) == repr(law)
    x = law.sample(7, stream(0, 'x'))
    assert x.shape == (7, *law.shape) and x.equal(law.sample(7, stream(0, 'x'))) and not x.equal(law.sample(7, stream(1, 'x')))


def test_mean_distances_are_those_of_samples():
    for law in (Spheres(3, 2.), Gaussian(4, 1.5), Uniform(-1, 4)):
        far = (law.sample(200_000, stream(0, 'x')) - law.center()).norm(dim=1)
        assert far.mean().item() == pytest.approx(law.mean_distance(), rel=.01)


@pytest.mark.parametrize('make, said', [
    (lambda: Spheres(0), 'dim'), (lambda: Spheres(2, -1.), 'radius'), (lambda: Spheres(2, centers=()), 'centers'), (lambda: Spheres(2, grid=(2, 2)), '4 pixels for 2 coordinates'),
    (lambda: Gaussian(scale=0), 'scale'), (lambda: Uniform(1, 1), 'lower end'), (lambda: Moved(3), 'must be a distribution'), (lambda: Samples(torch.tensor([[math.nan]])), 'NaN'),
    (lambda: Samples(torch.zeros(3)), 'N×D'), (lambda: Between(Gaussian(2), Gaussian(3)), 'a distance needs the same'), (lambda: Between(Gaussian(2), 3), 'must be a distribution')])
def test_what_cannot_be_drawn_is_refused(make, said):
    with pytest.raises(InputError, match=said): make()


def test_the_dual_is_minus_the_difference_of_the_means():
    out, y = torch.randn(9, 1, generator=stream(0, 'out')), torch.tensor([0, 1, 1, 0, 0, 0, 1, 0, 1])
    assert WassersteinDual()(out, y).item() == pytest.approx((out[y == 1].mean() - out[y == 0].mean()).item(), abs=1e-6)
    with pytest.raises(InputError, match=r'outputs of shape \(3,\); one number'): WassersteinDual()(torch.zeros(9, 3), y)


def critic(problem, act='groupsort', **given):
    with seeded(0, 'init'): model = parametrize(LipschitzMLP(math.prod(problem.first_law.shape), (16, 16), 1, act), Bjorck(steps=8))
    fit(model, problem, loss=WassersteinDual(), **dict(epochs=6, batch_size=64, lr=.02) | given)
    return model


@pytest.mark.parametrize('name', ['absolute value', 'high', 'empty axes', 'moved'])
def test_no_estimate_is_above_the_distance_and_sorting_comes_near(name):
    problem = Between(*KNOWN[name][:2])
    e = dual_estimate(critic(problem, 'fullsort' if name == 'high' else 'groupsort'), problem, 5000)
    assert .85*e.truth < e.value <= e.truth + 3*e.error


def test_relu_does_not():
    problem = Between(*KNOWN['absolute value'][:2])
    assert dual_estimate(critic(problem, 'relu'), problem, 5000).value < .65


def test_samples_of_two_arrays_of_unequal_size_are_a_problem_without_a_truth():
    problem = Between(Samples(torch.zeros(5, 2)), Samples(torch.tensor([[3., 4.]])), samples=256)
    e = dual_estimate(critic(problem), problem, 1000)
    assert math.isnan(e.truth) and 4.5 < e.value <= 5 + 1e-3


def test_samples_may_be_images_and_no_accuracy_is_written_down():
    problem = Between(Spheres(9, 0., grid=(3, 3)), Spheres(9, grid=(3, 3)), samples=64)
    with seeded(0, 'init'): model = nn.Sequential(nn.Conv2d(1, 2, 2), nn.Flatten(), nn.Linear(8, 1))
    log = fit(model, problem, loss=WassersteinDual(), epochs=1, batch_size=32)
    assert math.isfinite(log.last('loss')) and 'accuracy' not in set(log.frame.quantity)


def test_an_epoch_of_a_law_is_the_same_samples_and_the_next_are_others():
    problem = Between(*KNOWN['three cones'][:2], samples=100)
    def epoch(seed, e): return [t for b in problem.batches(32, stream(seed, 'shuffle', e)) for t in b[:2]]
    assert isinstance(problem, Law) and len(problem) == 100 and [len(x) for x in epoch(0, 0)[::2]] == [32, 32, 32, 4]
    assert all(a.equal(b) for a, b in zip(epoch(0, 0), epoch(0, 0))) and not epoch(0, 0)[0].equal(epoch(0, 1)[0])


def test_a_training_on_a_law_goes_on_where_it_was(tmp_path):
    problem = Between(*KNOWN['three cones'][:2], samples=256)
    whole = critic(problem, epochs=3, folder=tmp_path/'a')
    critic(problem, epochs=2, folder=tmp_path/'b')
    again = critic(problem, epochs=3, folder=tmp_path/'b')
    assert all(a.equal(b) for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True))
    with pytest.raises(InputError, match='three|Spheres'): critic(Between(*KNOWN['high'][:2], samples=256), epochs=4, folder=tmp_path/'b')


def test_a_network_for_other_samples_is_refused():
    with pytest.raises(InputError, match='does not take images of shape'): fit(ll.SHLP(3, 4), Between(Gaussian(2), Gaussian(2)), loss=WassersteinDual())


def test_a_dual_that_is_not_finite_stops_and_keeps_the_last_state(tmp_path):
    problem = Between(Samples(torch.full((4, 2), 1e38)), Samples(torch.full((4, 2), -1e38)), samples=64)
    model = nn.Linear(2, 1)
    with torch.no_grad(): model.weight.fill_(100.)
    with pytest.raises(FloatingPointError, match='loss'): fit(model, problem, loss=WassersteinDual(), epochs=1, batch_size=32, folder=tmp_path)
