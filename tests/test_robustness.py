"Accuracy curves, critical norms and masking checks against closed forms, brute force and each other."
import copy, math
import numpy as np
import pytest, torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch import nn
from locallearning.attacks.gradient import FGSM, PGD, GaussianNoise
from locallearning.attacks.losses import margin
from locallearning.core import COLUMNS, InputError
from locallearning.data import load
from locallearning.splits import Split
from locallearning.models import SHLP
from locallearning.instruments import rows_of, test_images as images_of
from locallearning.robustness.instruments import AccuracyProbe, CriticalProbe
from locallearning.robustness.radii import Radii, RadiiProbe, in_255ths
from locallearning.robustness.target import *
from locallearning.robustness.curves import *
from locallearning.state import seeded, stream
from locallearning.store import closure, store, unstore

INF = (-math.inf, math.inf)


def blobs(n=240, d=36, classes=4, seed=0):
    "Noisy prototypes in [0, 1]."
    g = torch.Generator().manual_seed(seed)
    centres = torch.rand(classes, d, generator=torch.Generator().manual_seed(99))
    y = torch.arange(n) % classes
    x = (centres[y] + .4*torch.randn(n, d, generator=g)).clamp(0, 1)
    return Split(x.view(n, 1, 6, 6), y)


@pytest.fixture(scope='module')
def trained():
    data = blobs(seed=1)
    with seeded(0, 'net'): model = SHLP(36, width=60, classes=4)
    opt = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(120):
        opt.zero_grad(); F.cross_entropy(model(data.x), data.y).backward(); opt.step()
    return model, blobs(seed=2)


def linear(d=12, classes=2, seed=0, n=60):
    with seeded(seed, 'linear'):
        model, x = nn.Linear(d, classes), torch.randn(n, d)
    return model, Split(x, model(x).argmax(1), bounds=INF)


def closed_form(model, split, norm):
    "Distance of each point to the nearest decision boundary of a linear model: margin over dual norm, minimised over the rivals."
    with torch.no_grad():
        z, dual = model(split.x), {2: 2, 'inf': 1}[norm]
        gap = z.gather(1, split.y[:, None]) - z
        size = (model.weight[split.y][:, None] - model.weight[None]).norm(dual, dim=2)
        return (gap/size).scatter(1, split.y[:, None], math.inf).amin(1).numpy()


# critical norms

@pytest.mark.parametrize('norm', [2, 'inf'])
@pytest.mark.parametrize('attack', [PGD, FGSM])
def test_two_class_linear_model_matches_its_closed_form(norm, attack):
    model, split = linear()
    c = critical_norm(model, split, attack(norm=norm), rtol=1e-4)
    np.testing.assert_allclose(c.eps, closed_form(model, split, norm), rtol=3e-4)
    factor = 1 if norm == 2 else math.sqrt(12)
    np.testing.assert_allclose(c.norm, factor*c.eps, rtol=1e-4)
    assert c.never == 0 and c.flags == () and (c.lower < c.eps).all() and np.allclose(c.lower*(1 + 1e-4), c.eps)


def test_many_class_linear_model_is_never_broken_inside_its_certificate():
    model, split = linear(classes=5)
    for norm in (2, 'inf'):
        c = critical_norm(model, split, PGD(norm=norm, loss='margin'))
        exact = closed_form(model, split, norm)
        assert (c.eps >= exact*(1 - 1e-4)).all() and np.median(c.eps/exact) < 1.1


@pytest.mark.parametrize('attack', [FGSM(), FGSM(norm=2), PGD(), PGD(norm=2, steps=10), GaussianNoise('fixed', box=False)], ids=repr)
def test_bisection_rounded_up_is_what_the_grid_finds(trained, attack):
    model, data = trained
    grid = np.geomspace(1e-3, 30, 60)
    scanned = critical_norm(model, data, attack, method='grid', grid=grid, checks=False)
    for bisected in (critical_norm(model, data, attack, rtol=1e-4, checks=False), critical_norm(model, data, attack, grid=grid, checks=False)):
        agreement = compare_protocols(bisected, scanned)
        assert agreement.images == int(scanned.correct.sum()) > 100
        assert agreement.share >= .98 and agreement.non_monotone <= .02*agreement.images
        own = scanned.correct & ~np.isnan(bisected.eps) & (bisected.eps <= 30)
        rounded = grid[np.searchsorted(grid, bisected.eps[own]*(1 - 1e-9))]
        assert (rounded == scanned.eps[own]).mean() >= .98
    assert np.array_equal(np.isnan(scanned.norm), np.isnan(scanned.eps))


def test_disagreement_is_counted():
    "Images broken only between two radii: the scan meets the first window, bisection may not."
    class Window(nn.Module):
        def forward(self, x):
            r = (x[:, 0] - .2)
            hit = ((r > .1) & (r < .15)) | (r > .5)
            return torch.stack([~hit, hit], 1).float() + 0*x.sum()
    class Push:
        ray = True
        def directions(self, model, x, y, *, generator=None): return torch.ones_like(x)
        def along(self, x, d, eps, bounds): return x + torch.as_tensor(eps)[:, None].to(x)*d
        def __repr__(self): return 'Push()'
    split = Split(torch.full((6, 2), .2), torch.zeros(6, dtype=torch.int64))
    grid = np.arange(.005, .8, .01)
    scanned, bisected = (critical_norm(Window(), split, Push(), method=m, grid=grid) for m in ('grid', 'bisect'))
    np.testing.assert_allclose(scanned.eps, .105); np.testing.assert_allclose(bisected.eps, .505)
    assert compare_protocols(bisected, scanned) == (0., 6, 6)


@settings(max_examples=15, deadline=None, derandomize=True, database=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=30), st.integers(1, 40))
def test_both_searches_find_the_first_rung(first, count):
    first, n = torch.tensor(first), len(first)
    images, radii = Split(torch.zeros(n, 2), torch.zeros(n).long()), torch.arange(1., count + 1)**2
    for shape in SHAPES:
        def attack_at(at, eps, key):
            gap = eps.sqrt() - 1 - first[at]
            return gap >= 0, eps, SHAPES[shape](gap)
        for search in (scan, bisect):
            rung, size = search(AttackedImages(torch.arange(n), images, SHAPES[shape](-1. - first), attack_at), fixed_ladder(radii, images))
            assert torch.equal(rung, first.clamp(max=count)), shape
            assert torch.equal(size.isnan(), first >= count) and torch.equal(size[first < count], radii[first[first < count]].float())


SHAPES = dict(straight=lambda gap: gap + 1e-9, bent=lambda gap: (gap + 1e-9).exp() - 1, step=lambda gap: torch.where(gap >= 0, 1., -1.),
              flat=lambda gap: 0*gap, huge=lambda gap: torch.where(gap >= 0, math.inf, -math.inf), lopsided=lambda gap: torch.where(gap >= 0, 1e9, -1e-9),
              wild=lambda gap: torch.where(gap >= 0, 1, -1)*(3 + (99*gap).sin()))


@pytest.mark.parametrize('shape', ['straight', 'step', 'lopsided', 'flat'])
def test_bisection_needs_few_shots_whatever_the_margin(shape):
    "The halving of the far end and the shots at the middle bound the search even where the secant is useless."
    n, shots = 200, []
    images, edge = Split(torch.zeros(n, 2), torch.zeros(n).long()), torch.logspace(-4, -.1, n, dtype=torch.float64)
    def attack_at(at, eps, key):
        shots.append(len(at))
        return eps >= edge[at], eps, SHAPES[shape]((eps - edge[at])/edge[at])
    target = AttackedImages(torch.arange(n), images, SHAPES[shape](-torch.ones(n).double()), attack_at)
    rung, _ = bisect(target, ladder := fine_ladder(torch.ones(n), 1e-6, 1e-3))
    assert torch.equal(rung, ladder.rung(torch.arange(n), edge))
    assert sum(shots)/n < (9 if shape == 'straight' else 40)


def test_the_norm_is_that_of_the_perturbation_really_made(trained):
    "Clipping into the box shortens what a radius allows."
    model, data = trained
    c = critical_norm(model, data, FGSM(), checks=False)
    ok = ~np.isnan(c.eps)
    adv = FGSM()(model, data.x[ok], data.y[ok], torch.tensor(c.eps[ok]))
    np.testing.assert_allclose(c.norm[ok], (adv - data.x[ok]).flatten(1).norm(dim=1), rtol=1e-4)
    assert (model(adv).argmax(1) != data.y[ok]).all() and (c.norm[ok] < 6*c.eps[ok]*.999).any()
    held = FGSM()(model, data.x[ok], data.y[ok], torch.tensor(c.lower[ok]))
    assert (model(held).argmax(1) == data.y[ok]).all()


@pytest.mark.parametrize('attack', [PGD(steps=5), FGSM(), GaussianNoise('fixed')], ids=repr)
def test_results_do_not_depend_on_the_batch(trained, attack):
    model, data = trained
    a, b = (critical_norm(model, data, attack, batch_size=n, checks=False) for n in (1000, 37))
    np.testing.assert_allclose(a.eps, b.eps, rtol=5e-3); np.testing.assert_array_equal(a.correct, b.correct)
    a, b = (accuracy_curve(model, data, attack, [.05, .2], batch_size=n) for n in (1000, 37))
    assert (a.right == b.right).mean() > .99


def test_fresh_noise_does_not_depend_on_the_batch_either(trained):
    model, data = trained
    a, b = (accuracy_curve(model, data, GaussianNoise(), [.2, .5], batch_size=n) for n in (1000, 37))
    assert np.array_equal(a.right, b.right)


def test_fresh_noise_is_refused_by_bisection_and_biased_low_on_the_grid(trained):
    model, data = trained
    with pytest.raises(InputError, match="direction='fixed'"): critical_norm(model, data, GaussianNoise())
    grid = np.geomspace(.01, 30, 150)
    fresh, fixed = (critical_norm(model, data, GaussianNoise(d, box=False), method='grid', grid=grid, checks=False) for d in ('fresh', 'fixed'))
    both = ~np.isnan(fresh.norm) & ~np.isnan(fixed.norm)
    assert np.median(fresh.norm[both]) < .8*np.median(fixed.norm[both])


def test_fixed_noise_keeps_one_direction_per_image_while_others_drop_out(trained):
    "Compaction must not hand an image its neighbour's noise."
    model, data = trained
    split = Split(data.x, data.y)
    attack, target = GaussianNoise('fixed', box=False), prepare_attack(model, split, GaussianNoise('fixed', box=False))
    n = len(target.rows)
    one = torch.full((n,), 1.)
    _, whole, _ = target.attack_at(torch.arange(n), one, (0,))
    _, part, _ = target.attack_at(torch.arange(0, n, 3), one[::3], (7,))
    torch.testing.assert_close(part, whole[::3])
    assert whole.std() > 0


def test_critical_norm_needs_nothing_but_model_images_and_attack(trained):
    model, data = trained
    c = critical_norm(model, data, PGD(norm='inf'))
    assert c.images == int((model(data.x).argmax(1) == data.y).sum()) and c.never == 0 and c.median > 0 and c.flags == ()
    assert np.isnan(c.norm[~c.correct]).all() and len(c.norm) == len(data)
    d = critical_norm(model, (data.x, data.y), PGD(norm='inf'))
    np.testing.assert_array_equal(c.norm, d.norm)
    q1, q3 = c.quartiles
    assert q1 < c.median < q3 and c.median == np.nanmedian(c.norm)


def test_index_says_where_images_stand_in_the_original_set(trained):
    model, data = trained
    part = data[torch.arange(5, 200, 2)]
    assert critical_norm(model, part, FGSM(), checks=False).index.tolist() == list(range(5, 200, 2))
    good = correct_subset(model, part)
    assert torch.equal(data.y[good.index], good.y) and (predict(model, good) == good.y).all()


class Constant(nn.Module):
    def forward(self, x): return x.flatten(1)[:, :1]*0 + torch.eye(4)[1]


def test_a_constant_model_is_never_broken_and_says_so():
    data = blobs(40)
    for method, grid in (('bisect', None), ('bisect', [.1, .2]), ('grid', [.1, .2])):
        c = critical_norm(Constant(), data, PGD(steps=2), method=method, grid=grid)
        assert c.never == c.images == 10 and math.isnan(c.median) and {'survivors', 'zero gradient'} <= set(c.flags)
        rows = {n.quantity: n.value for n in CriticalProbe(PGD()).numbers(c)}
        assert rows['never_broken'] == 10 and math.isnan(rows['median'])


def test_radii_below_the_ladder_are_flagged(trained):
    model, data = trained
    c = critical_norm(model, data, FGSM(), low=.3, high=1.)
    assert 'below the grid' in c.flags and (c.lower[~np.isnan(c.eps)] == 0).any()


def test_boxes_of_their_own_scale_the_ladder():
    split = blobs(40).in_space('lp_unit', p=3)
    high = split.bounds[1].flatten()
    torch.testing.assert_close(widest(FGSM(), split), high)
    torch.testing.assert_close(widest(FGSM(norm=2), split), 6*high)
    torch.testing.assert_close(widest(GaussianNoise(), split), 100*high)
    assert widest(FGSM(), Split(torch.randn(5, 3), torch.zeros(5).long(), INF)).isfinite().all()


def test_space_travels_from_the_split_into_the_rows(trained):
    model, data = trained
    unit = data.in_space('lp_unit', p=3)
    with seeded(0, 'net'): net = SHLP(36, width=60, classes=4)
    c = critical_norm(net, unit, PGD(steps=3))
    assert c.space == unit.space == 'lp_unit(p=3)'
    low, high = (b.flatten() for b in unit.bounds)
    assert np.nanmax(c.eps/high.numpy()) <= 1 + 1e-6


# accuracy curves

def test_curve_counts_by_hand(trained):
    model, data = trained
    eps = [0, .05, .2]
    curve = accuracy_curve(model, data, PGD(steps=5), eps)
    good = model(data.x).argmax(1) == data.y
    x, y = data.x[good], data.y[good]
    by_hand = [(model(PGD(steps=5)(model, x, y, e)).argmax(1) == y).sum().item() for e in eps]
    assert curve.right.sum(1).tolist() == by_hand and by_hand[0] == len(y) > by_hand[2]
    np.testing.assert_allclose(curve.relative, np.array(by_hand)/len(y)); np.testing.assert_allclose(curve.accuracy, np.array(by_hand)/len(data))
    assert curve.clean == curve.accuracy[0] == len(y)/len(data) < 1 and curve.n == len(data) and curve.flags == ()


def test_one_gradient_serves_all_radii(trained):
    model, data = trained
    calls = []
    class Counting(FGSM):
        def directions(self, *args, **kw):
            calls.append(len(args[1]))
            return FGSM.directions(self, *args, **kw)
    many = accuracy_curve(model, data, Counting(), np.linspace(.01, .3, 9), checks=False)
    assert len(calls) == 1
    assert np.array_equal(many.right[4:5], accuracy_curve(model, data, FGSM(), many.eps[4], checks=False).right)


@pytest.mark.parametrize('attack', [PGD(), PGD(norm=2, steps=10, random_start=True, restarts=2), PGD(keep='last')], ids=repr)
def test_a_curve_that_lets_images_leave_early_counts_the_same(trained, attack, monkeypatch):
    model, data = trained[0], trained[1][:120]
    eps, seen = np.geomspace(.01, .8, 6) * (1 if attack.norm == 'inf' else 6), {}
    class Counting(nn.Module):
        def forward(self, x): seen[name] = seen.get(name, 0) + len(x); return model(x)
    name = 'early'; early = accuracy_curve(Counting(), data, attack, eps)
    monkeypatch.setattr('locallearning.robustness.target.until_broken', lambda attack: attack)
    name = 'full'; full = accuracy_curve(Counting(), data, attack, eps)
    assert np.array_equal(early.right, full.right) and early.flags == full.flags and early.attack == full.attack == repr(attack)
    assert seen['early'] < .9*seen['full'] if attack.keep == 'best' else seen['early'] == seen['full']


def test_critical_norms_are_those_of_all_steps(trained):
    "Letting images leave early would report the norm of another point."
    model, data = trained
    c = critical_norm(model, data, PGD(norm=2), checks=False)
    good = data[c.correct]
    adv = PGD(norm=2)(model, good.x, good.y, torch.tensor(c.eps[c.correct]).float())
    np.testing.assert_allclose((adv - good.x).flatten(1).norm(dim=1).numpy(), c.norm[c.correct], rtol=1e-3)


def test_survival_is_the_relative_accuracy_of_a_monotone_attack(trained):
    model, data = trained
    eps = np.geomspace(.01, .8, 12)
    np.testing.assert_allclose(critical_norm(model, data, PGD()).survival(eps), accuracy_curve(model, data, PGD(), eps).relative, atol=.01)


def test_a_measurement_changes_neither_model_nor_random_state_and_repeats(trained):
    model, data = trained
    model.zero_grad(); model.train(); before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    a, b = (accuracy_curve(model, data, PGD(steps=3, random_start=True), [.1, .2]) for _ in range(2))
    critical_norm(model, data, FGSM())
    assert model.training and torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items()) and [p.grad for p in model.parameters()] == [None]*3
    assert np.array_equal(a.right, b.right)


# masking

def test_saturated_logits_are_flagged_and_the_log_odds_see_through_them(trained):
    model, data = trained
    masked = copy.deepcopy(model)
    with torch.no_grad():
        for p in masked.readout.parameters(): p *= 1e5
    plain, fooled, seen = (accuracy_curve(m, data, a, [.1, .3]) for m, a in ((model, PGD()), (masked, PGD()), (masked, PGD(loss='log_odds'))))
    assert {'zero gradient', 'survivors'} <= set(fooled.flags) and plain.flags == seen.flags == ()
    assert fooled.relative[1] > .8 > .3 > plain.relative[1] and abs(seen.relative - plain.relative).max() < .05
    assert {'zero gradient', 'survivors'} <= set(critical_norm(masked, data, PGD()).flags)


def test_an_attack_weaker_than_one_step_is_flagged(trained):
    model, data = trained
    checks = masking_checks(model, data, PGD(steps=2, relative_step=.01, keep='last'))
    assert 'weaker than one step' in checks.flags and checks.weaker > .3
    assert masking_checks(model, data, PGD()).weaker <= .02


def test_a_curve_that_rises_is_flagged(trained):
    model, data = trained
    right = np.ones((3, 200), dtype=bool); right[1, :60] = False
    assert masking_checks(model, data, GaussianNoise(), Curve(np.arange(3), right, 200, '')).flags == ('non-monotone',)
    right[2, :45] = False
    assert masking_checks(model, data, GaussianNoise(), Curve(np.arange(3), right, 200, '')).flags == ()


def test_noise_has_no_gradient_to_be_checked(trained):
    model, data = trained
    checks = masking_checks(model, data, GaussianNoise(), accuracy_curve(model, data, GaussianNoise(), [.1, .3, 1.]))
    assert math.isnan(checks.zero_gradient) and math.isnan(checks.survivors) and checks.flags == ()


def test_a_black_box_has_no_gradient_to_be_checked_and_need_not_beat_one_step(trained):
    model, data = trained
    class Blind(PGD):
        black_box = True
    weak, masked = dict(steps=2, relative_step=.01, keep='last'), copy.deepcopy(model)
    checks = masking_checks(model, data, Blind(**weak))
    assert math.isnan(checks.zero_gradient) and math.isnan(checks.weaker) and 'weaker than one step' not in checks.flags
    assert checks.survivors == masking_checks(model, data, PGD(**weak)).survivors > .05 and 'survivors' in checks.flags
    with torch.no_grad():
        for p in masked.readout.parameters(): p *= 1e5
    assert 'zero gradient' in masking_checks(masked, data, PGD()).flags and 'zero gradient' not in masking_checks(masked, data, Blind()).flags


def test_an_attack_gets_radii_in_the_precision_of_the_images(trained):
    "A search halves radii in double precision; `x + eps` of a user's attack must not become a double that no model takes."
    model, data = trained
    seen = set()
    class Plain:
        norm = 'inf'
        def __call__(self, model, x, y, eps, *, bounds=(0., 1.), generator=None):
            seen.add((eps.dtype, tuple(eps.shape) == (len(x),)))
            return (x + eps.view(-1, 1, 1, 1) * torch.ones_like(x)).clamp(*bounds)
    for measure in (lambda: critical_norm(model, data, Plain()), lambda: accuracy_curve(model, data, Plain(), [0., .1])): measure()
    assert seen == {(torch.float32, True)}
    seen.clear()
    accuracy_curve(copy.deepcopy(model).double(), Split(data.x.double(), data.y), Plain(), [0., .1])
    assert seen == {(torch.float64, True)}


# rows and plain data

def test_rows_have_the_columns_of_every_measurement(trained):
    model, data = trained
    curve, c = accuracy_curve(model, data, PGD(steps=2), [0, .1]), critical_norm(model, data, PGD(steps=2))
    written = lambda probe, result: rows_of(probe, result, 'bp', 'lp_unit(p=3)', 'hebbian', seed=3)
    rows = written(AccuracyProbe(PGD()), curve) + written(CriticalProbe(PGD()), c)
    assert all(tuple(r) == COLUMNS and r['seed'] == 3 and r['family'] == 'hebbian' and r['space'] == 'lp_unit(p=3)' for r in rows)
    assert [r['quantity'] for r in rows[:6]] == ['clean', 'last_relative', *['accuracy', 'relative_accuracy']*2]
    assert [r['value'] for r in rows[2:6]] == [v for pair in zip(curve.accuracy, curve.relative) for v in pair]
    assert rows[4]['setting'] == f'attack=PGD(steps=2);eps=0.1;n={curve.n}'
    assert [r['quantity'] for r in rows[6:]] == ['median', 'q1', 'q3', 'never_broken', 'images']
    assert {r['setting'] for r in rows[6:]} == {f'attack=PGD(steps=2);method=bisect;n={curve.n};norm=2'}


def test_results_survive_a_trip_through_plain_data(trained):
    model, data = trained
    for r in (accuracy_curve(model, data, FGSM(), [0, .1]), critical_norm(model, data, FGSM())):
        again = type(r)(**copy.deepcopy(vars(r)))
        assert repr(again) == repr(r) and all(np.array_equal(v, vars(r)[k], equal_nan=np.asarray(v).dtype.kind == 'f') for k, v in vars(again).items())


# bad input

@pytest.mark.parametrize('call, said', [
    (lambda m, d: accuracy_curve(m, d, PGD(), [.2, .1]), 'ascend'), (lambda m, d: accuracy_curve(m, d, PGD(), [-.1, .1]), '≥ 0'),
    (lambda m, d: accuracy_curve(m, d, PGD(), [.1, math.nan]), 'finite'), (lambda m, d: accuracy_curve(m, d, PGD(), []), 'give a list'),
    (lambda m, d: critical_norm(m, d, PGD(), method='bisct'), "did you mean 'bisect'"), (lambda m, d: critical_norm(m, d, PGD(), method='grid'), 'np.geomspace'),
    (lambda m, d: critical_norm(m, d, PGD(), low=2., high=1.), 'low < high'), (lambda m, d: critical_norm(m, d, PGD(), rtol=0.), 'rtol > 0'),
    (lambda m, d: critical_norm(m, (d.x, (m(d.x).argmax(1) + 1) % 4), PGD()), 'none of the 240 images right'),
    (lambda m, d: accuracy_curve(m, (d.x*255, d.y), PGD(), [.1]), 'divide by 255'), (lambda m, d: accuracy_curve(m, (d.x, d.y + 9), PGD(), [.1]), 'nothing to attack')])
def test_bad_input_names_the_value_and_what_would_be_right(trained, call, said):
    with pytest.raises(InputError, match=said): call(*trained)


def test_protocols_of_different_images_are_not_compared(trained):
    model, data = trained
    a, b = (critical_norm(model, data[torch.arange(n)], FGSM(), method='grid', grid=[.1], checks=False) for n in (100, 120))
    with pytest.raises(InputError, match='different images'): compare_protocols(a, b)


# radii in 255ths of the range of pixels

@pytest.mark.parametrize('p', [2, 3])
def test_a_step_in_a_scaled_space_moves_pixels_by_what_its_radius_is_in_255ths(p):
    data = load('mnist5k(50, test=20)')
    pixels, scaled = data.test, data.in_space('lp_unit', p=p).test
    with seeded(0, 'net'): model = SHLP(784, width=20)
    moved = FGSM()(model, scaled.x, scaled.y, .01, bounds=scaled.bounds)
    in_pixels = moved/scaled.x.flatten(1).norm(dim=1).view(-1, 1, 1, 1)*pixels.x.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    steps = 255*(in_pixels - pixels.x).abs().flatten(1).amax(1)
    np.testing.assert_allclose(.01*in_255ths(scaled), steps.numpy(), rtol=1e-3)


def test_the_median_image_decides_over_the_images_that_are_attacked():
    scaled = load('mnist5k(50, test=60)').in_space('lp_unit', p=3)
    probe = RadiiProbe(n=25)
    found = probe.measure(None, scaled)
    assert found.index.tolist() == images_of(scaled, 25).index.tolist() and len(found.factors) == 25
    [row] = rows_of(probe, found, 'data', scaled.space, 'hebbian')
    assert (row['probe'], row['quantity'], row['setting'], row['space']) == ('images', 'eps_in_255ths', 'n=25', 'lp_unit(p=3)')
    assert row['value'] == np.median(255*torch.as_tensor(images_of(scaled, 25).bounds[1]).double().reciprocal().numpy()) > 255
    assert RadiiProbe().measure(None, load('mnist5k(50, test=60)')).median == 255 and RadiiProbe.needs == ''


def test_radii_are_stored_and_read_back(tmp_path):
    found = Radii(np.array([300., 400.]), np.array([0, 1]))
    store(tmp_path, found, {})
    again = unstore(tmp_path)
    assert type(again) is Radii and again.factors.tolist() == [300, 400] and again.median == 350


@pytest.mark.parametrize('bounds, said', [(None, 'no bounds'), (INF, 'width inf'), ((1., 1.), 'width 0'), ((0., torch.ones(3)), 'bounds of 3 numbers')])
def test_images_without_a_box_have_no_range_of_pixels(bounds, said):
    split = Split(torch.zeros(5, 4), torch.zeros(5, dtype=torch.long), bounds)
    with pytest.raises(InputError, match=said): in_255ths(split)


def test_telling_radii_makes_no_measured_curve_old():
    assert 'locallearning.robustness.radii' not in closure(['locallearning.robustness.instruments', 'locallearning.hebbian.instruments'])
