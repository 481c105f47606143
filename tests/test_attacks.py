"Attacks stay in ball and box, leave the model alone, and agree with oracles."
import copy, math
import pytest, torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch import nn
from locallearning.attacks.ascent import *
from locallearning.attacks.losses import *
from locallearning.attacks.gradient import *
from locallearning.core import InputError
from locallearning.recipes import build_recipe
from locallearning.models import SHLP
from locallearning.state import stream

NORMS = [1, 1.5, 2, 3, 'inf']
norms, seeds = st.sampled_from(NORMS), st.integers(0, 10**6)
radii = st.just(0.) | st.floats(1e-9, 3)
quick = settings(max_examples=40, deadline=None, derandomize=True, database=None)


def net(width=30, seed=0, d=16, classes=4, **kw):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return SHLP(d, width=width, classes=classes, **kw)


def images(n=12, d=16, seed=0, classes=4, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(n, 1, 4, d//4, generator=g, dtype=dtype), torch.randint(classes, (n,), generator=g)


def dual(norm):
    p = norm_order(norm)
    return math.inf if p == 1 else 1. if p == math.inf else p/(p - 1)


# balls, boxes, projections

@quick
@given(norms, seeds, radii)
def test_projection_is_inside_idempotent_and_leaves_the_inside_alone(norm, seed, eps):
    d = torch.randn(7, 3, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    d[0] = 0
    p = project(d, eps, norm)
    assert (lengths(p, norm) <= eps*(1 + 1e-12)).all() and p.isfinite().all()
    torch.testing.assert_close(project(p, eps, norm), p, rtol=1e-12, atol=1e-300)
    inside = lengths(d, norm) <= eps
    assert torch.equal(p[inside], d[inside])


@pytest.mark.parametrize('norm', [2, 'inf'])
def test_projection_is_the_nearest_point(norm):
    g = torch.Generator().manual_seed(1)
    d = 2*torch.randn(5, 2, generator=g, dtype=torch.float64)
    many = random_start(torch.zeros(200_000, 2, dtype=torch.float64), 1., norm, g)
    for v, p in zip(d, project(d, 1., norm)):
        nearest = (many - v).norm(dim=1).min()
        assert (p - v).norm() <= nearest + 1e-12 and nearest - (p - v).norm() < .03


def test_projection_takes_one_radius_per_image():
    d, eps = torch.full((3, 1, 2, 2), 5.), torch.tensor([0., .5, 100.])
    for norm in NORMS: assert torch.allclose(lengths(project(d, eps, norm), norm), torch.minimum(eps, lengths(d, norm)))


def test_high_orders_neither_under_nor_overflow():
    assert torch.allclose(lengths(torch.full((1, 9), 1e-3), 80), torch.tensor(1e-3*9**(1/80)))
    assert torch.allclose(lengths(project(torch.full((1, 9), 1e-2), 1e-3, 80), 80), torch.tensor(1e-3))


@quick
@given(norms, seeds)
def test_steepest_step_attains_the_dual_norm(norm, seed):
    g = torch.randn(6, 11, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    d = steepest(g, norm)
    torch.testing.assert_close((g*d).sum(1), lengths(g, dual(norm)))
    torch.testing.assert_close(lengths(d, norm), torch.ones(6, dtype=torch.float64))


@quick
@given(st.sampled_from([1, 1.01, 1.1, 1.5, 2, 3, 8]), seeds, st.floats(.01, 3))
def test_steepest_step_in_a_box_meets_the_conditions_of_an_optimum(norm, seed, size):
    "Feasible, as long as room and length allow, and no gain from moving length between two entries (the multiplier is one number)."
    g = torch.Generator().manual_seed(seed)
    slope, room = (torch.rand(5, 13, generator=g, dtype=torch.float64) for _ in range(2))
    slope[:, 0], room[:, 1] = 0, 0
    signs = torch.randn(5, 13, generator=g).sign().double()
    d = steepest_in_box(slope * signs, room, size, norm) * signs
    assert (d >= 0).all() and (d <= room*(1 + 1e-9)).all() and (d[:, 0] == 0).all()
    longest = lengths(torch.where(slope > 0, room, 0), norm).clamp(max=size)
    torch.testing.assert_close(lengths(d, norm), longest, rtol=1e-8, atol=1e-12)
    price = slope.log() - (norm - 1)*d.log()  # log of gain per length; -inf to inf
    full, none, usable = d >= room*(1 - 1e-9), d < 1e-9, (slope > 0) & (room > 0)
    inner = usable & ~full & ~none
    if norm == 1: price = slope.log()
    for row in range(5):
        low = price[row][usable[row] & full[row]].amin() if (usable[row] & full[row]).any() else math.inf
        if inner[row].any():
            spread = price[row][inner[row]]
            assert spread.amax() - spread.amin() < 1e-6 and low >= spread.amax() - 1e-6


def test_a_step_in_a_box_takes_one_length_per_image_and_bad_gradients():
    g = torch.tensor([[math.nan, math.inf, 1., 2.], [0., 0., 0., 0.], [1., 2., 3., 4.]])
    for norm in (1, 1.5, 3):
        d = steepest_in_box(g, torch.full_like(g, .5), torch.tensor([[.5], [.5], [0.]]), norm)
        assert d.isfinite().all() and (d[:, :2] == 0).all() and (d[1:] == 0).all() and d[0, 2:].max() > 0
        tiny = steepest_in_box(torch.full((1, 4), 1e-30), torch.ones(1, 4), .5, norm)
        torch.testing.assert_close(lengths(tiny, norm), torch.tensor([.5]))


@quick
@given(norms, seeds, radii)
def test_random_start_is_in_the_ball(norm, seed, eps):
    x = torch.zeros(9, 2, 3, dtype=torch.float64)
    z = random_start(x, eps, norm, torch.Generator().manual_seed(seed))
    assert (perturbation_norm(x, z, norm) <= eps*(1 + 1e-12)).all()
    assert eps == 0 or z.abs().max() > 0


def test_into_box_takes_numbers_tensors_and_nothing():
    x = torch.tensor([[-1., 2.], [.5, 3.]])
    assert into_box(x, None) is x
    assert into_box(x, (0, 1)).tolist() == [[0, 1], [.5, 1]]
    high = torch.tensor([[1.], [2.]], dtype=torch.float64)
    out = into_box(x, (0., high))
    assert out.tolist() == [[0, 1], [.5, 2]] and out.dtype == x.dtype
    assert x.tolist() == [[-1, 2], [.5, 3]]


# the inner loop

@quick
@given(norms, seeds, radii, st.integers(1, 6), st.booleans(), st.sampled_from(['best', 'last']), st.sampled_from([None, .4]))
def test_ball_and_box_hold_at_every_step(norm, seed, eps, steps, random, keep, step_size):
    "Regression: the released PGD entered the box only after the last step, and used [0, 1] for images with a box of their own."
    g = torch.Generator().manual_seed(seed)
    high = .2 + torch.rand(5, 1, 1, 1, generator=g, dtype=torch.float64)
    x = high*torch.rand(5, 1, 3, 4, generator=g, dtype=torch.float64)
    weight = torch.randn(12, generator=g, dtype=torch.float64)
    radii, seen = eps*torch.rand(5, generator=g, dtype=torch.float64), []
    def fn(z):
        seen.append(z.detach().clone())
        return (z.flatten(1) @ weight).sin()
    end = maximise(fn, x, radii, norm, steps, step_size, (0., high), 'random' if random else None, g, keep)
    assert len(seen) == steps + (keep == 'best')
    for z in [*seen, end]:
        assert (z >= 0).all() and (z <= high).all()
        assert (perturbation_norm(x, z, norm) <= radii*(1 + 1e-9) + 1e-15).all()


def test_a_box_entered_only_at_the_end_gives_another_answer():
    "The walk inside the box goes on along the coordinates that are still free."
    model, (x, y) = net(200, seed=3), images(60, seed=4)
    kw = dict(eps=.6, steps=10, step_size=.15, keep='last')
    fn = objective(model, y)
    late = into_box(maximise(fn, x, bounds=None, **kw), (0., 1.))
    ours = maximise(fn, x, bounds=(0., 1.), **kw)
    assert (late - ours).abs().max() > .1
    assert F.cross_entropy(model(ours), y) > F.cross_entropy(model(late), y)


@quick
@given(norms, seeds)
def test_best_is_never_below_any_iterate(norm, seed):
    g = torch.Generator().manual_seed(seed)
    x, w = torch.rand(4, 6, generator=g, dtype=torch.float64), 9*torch.randn(6, generator=g, dtype=torch.float64)
    values = []
    def fn(z):
        v = (z @ w).sin()
        values.append(v.detach())
        return v
    best = maximise(fn, x, .7, norm, 5, bounds=None)
    assert torch.equal(fn(best), torch.stack(values).amax(0))


def test_an_iterate_that_has_won_beats_a_higher_value():
    def fn(z): return z[:, 0], z[:, 0] < .25
    end = maximise(fn, torch.tensor([[.2], [.5]]), .3, steps=3, step_size=.1)
    assert end.flatten().tolist() == pytest.approx([.2, .8])


@pytest.mark.parametrize('norm', NORMS)
def test_zero_and_missing_gradients_give_no_nan(norm):
    "Regression: the released Lp step divided by the norm of a zero gradient."
    x = torch.rand(4, 5)
    for fn in (lambda z: (z*0).sum(1), lambda z: z.new_ones(len(z)), lambda z: torch.where(torch.arange(4) < 2, 0*z[:, 0], z.sum(1))):
        z = maximise(fn, x, .2, norm, 3)
        assert z.isfinite().all()
    assert torch.equal(z[:2], x[:2]) and (z[2:] > x[2:]).any()
    assert torch.equal(steepest(torch.zeros(2, 3), norm), torch.zeros(2, 3))
    assert steepest(torch.tensor([[math.nan, math.inf, 1.]]), norm).tolist() == [[0, 0, 1]]
    tiny = torch.full((1, 4), 1e-30)
    torch.testing.assert_close(lengths(steepest(tiny, norm), norm), torch.ones(1))


def test_no_gradient_is_changed_in_place():
    "Regression: the released Lp step normalised the caller's gradient."
    g = torch.randn(3, 4); kept = g.clone()
    for norm in NORMS: steepest(g, norm)
    assert torch.equal(g, kept)


def test_maximise_works_under_no_grad_and_leaves_x_alone():
    x = torch.rand(3, 4, requires_grad=True); kept = x.detach().clone()
    with torch.no_grad(): z = maximise(lambda z: z.sum(1), x, .1)
    assert (z > x).any() and torch.equal(x, kept) and x.grad is None and not z.requires_grad


def test_bad_loop_settings_are_refused():
    x = torch.rand(1, 2)
    with pytest.raises(InputError, match='steps=0'): maximise(lambda z: z.sum(1), x, .1, steps=0)
    with pytest.raises(InputError, match="did you mean 'best'"): maximise(lambda z: z.sum(1), x, .1, keep='bets')
    with pytest.raises(InputError, match='not a norm'): maximise(lambda z: z.sum(1), x, .1, norm='two')


# images that leave early

EARLY = [dict(norm='inf'), dict(norm=2, restarts=3, random_start=True), dict(norm='inf', random_start=True), dict(norm=3, loss='margin'), dict(norm=2, step_size=.05)]


@pytest.mark.parametrize('every', [1, 3])
@pytest.mark.parametrize('fields', EARLY, ids=str)
def test_images_that_leave_early_change_nothing_for_the_others(fields, every):
    model, (x, y) = net(100, seed=5).double(), images(80, seed=6, dtype=torch.float64)
    y = model(x).argmax(1); y[:8] = (y[:8] + 1) % 4                           # eight are wrong from the start
    high = .5 + x.flatten(1).amax(1).view(-1, 1, 1, 1)/2
    eps = torch.linspace(.005, .3, 80, dtype=torch.float64)[torch.randperm(80, generator=stream(0, 'order'))] * (1 if fields['norm'] == 'inf' else 4)
    full, early = (PGD(steps=12, early_exit=e, **fields)(model, x, y, eps, bounds=(0., high), generator=stream(0, 'start')) for e in (0, every))
    broken, too = (model(z).argmax(1) != y for z in (full, early))
    assert torch.equal(broken, too) and 20 < broken.sum() < 75
    torch.testing.assert_close(early[~broken], full[~broken], rtol=0, atol=1e-12)
    assert (early >= 0).all() and (early <= high).all() and (perturbation_norm(x, early, fields['norm']) <= eps*(1 + 1e-9)).all()
    if not fields.get('random_start'): assert torch.equal(early[:8], x[:8]) or every > 1


def test_work_ends_with_the_last_image():
    model, (x, y), sizes = net(100, seed=5), images(80, seed=6), []
    class Counting(nn.Module):
        def forward(self, z): sizes.append(len(z)); return model(z)
    PGD(steps=50, early_exit=2)(Counting(), x, (model(x).argmax(1) + 1) % 4, .1)
    assert sizes == [1, 80, 80]                                               # one for the check, two steps, and everyone has left
    sizes.clear(); PGD(steps=6, early_exit=2)(Counting(), x, model(x).argmax(1), .02)
    assert len(sizes) == 8 and sizes[1:] == sorted(sizes[1:], reverse=True) and sizes[1] == sizes[2] and sizes[-1] < 80


def test_early_exit_needs_a_function_of_some_images_and_best_points():
    with pytest.raises(InputError, match=r'needs fn\[i\]'): maximise(lambda z: z.sum(1), torch.rand(2, 3), .1, early_exit=1)
    with pytest.raises(InputError, match="with keep='best'"): PGD(keep='last', early_exit=1)
    with pytest.raises(InputError, match='early_exit=-1'): PGD(early_exit=-1)


# attacks

ATTACKS = [GaussianNoise(), GaussianNoise('fixed'), FGSM(), FGSM(norm=2), PGD(steps=4), PGD(norm=2, steps=4, random_start=True, restarts=2),
           PGD(norm=1.5, steps=3, loss='margin', keep='last'), PGD(steps=3, loss='dlr'), PGD(steps=5, early_exit=2)]


@pytest.mark.parametrize('attack', ATTACKS, ids=repr)
def test_attack_leaves_model_inputs_and_global_generator_as_found(attack):
    model, (x, y) = nn.Sequential(nn.Dropout(.5), net(batch_norm=True)), images()
    model[1].norm.eval(); model[1].hidden.weight.requires_grad_(False)
    model[1].readout.weight.grad = torch.ones_like(model[1].readout.weight)
    before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    kept, state = x.clone(), torch.get_rng_state()
    adv = attack(model, x, y, .1, generator=stream(0, 'a'))
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values()))
    assert [m.training for m in model.modules()] == modes and model.training
    assert [p.requires_grad for p in model.parameters()] == [False, True, True, True, True]
    assert [None if p.grad is None else p.grad.mean().item() for p in model.parameters()] == [None, None, None, 1., None]
    assert torch.equal(x, kept) and torch.equal(torch.get_rng_state(), state)
    assert adv.min() >= 0 and adv.max() <= 1 and not torch.equal(adv, x)
    assert torch.equal(adv, attack(model, x, y, .1, generator=stream(0, 'a')))


@pytest.mark.parametrize('attack', ATTACKS[2:], ids=repr)
def test_mode_is_restored_when_the_model_fails(attack):
    model, (x, y) = net(), images()
    with pytest.raises(Exception): attack(model, x[..., :2], y, .1)
    assert model.training


@pytest.mark.parametrize('attack', [a for a in ATTACKS if 'random' not in repr(a)], ids=repr)
def test_results_do_not_depend_on_the_batch(attack):
    "A mean-reduced loss scales an image's gradient with the number of its neighbours."
    model, (x, y) = net(), images(24)
    eps = torch.linspace(0, .3, 24)
    whole = attack(model, x, y, eps, generator=stream(0, 'a'))
    if getattr(attack, 'direction', '') == 'fixed':
        g = stream(0, 'a')
        parts = [attack.along(a, attack.directions(model, a, generator=g), e) for a, e in zip(x.split(7), eps.split(7))]
    else:
        g = stream(0, 'a')
        parts = [attack(model, a, b, e, generator=g) for a, b, e in zip(x.split(7), y.split(7), eps.split(7))]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-6)


def test_noise_rows_do_not_depend_on_the_batch_for_odd_sizes():
    x = torch.zeros(10, 3, 5)
    g = stream(0, 'n')
    parts = [GaussianNoise().directions(None, a, generator=g) for a in x.split(3)]
    assert torch.equal(torch.cat(parts), GaussianNoise().directions(None, x, generator=stream(0, 'n')))


@pytest.mark.parametrize('norm', NORMS)
def test_pgd_raises_the_loss_at_least_as_far_as_one_step(norm):
    model, (x, y) = net(100, seed=5), images(80, seed=6)
    def loss(z): return ce(model(z), y).detach()
    for eps in (.02, .1, .3):
        single = FGSM(norm=norm) if norm != 1 else PGD(norm=1, steps=1, relative_step=1.)
        one, many = single(model, x, y, eps), PGD(norm=norm, steps=20)(model, x, y, eps)
        assert loss(many).mean() >= loss(one).mean() >= loss(x).mean()
        assert (perturbation_norm(x, many, norm) <= eps*(1 + 1e-5) + 1e-7).all()


def test_restarts_keep_the_best_of_each_image():
    model, (x, y) = net(100, seed=7), images(60, seed=8)
    def loss(z): return ce(model(z), y).detach()
    one = PGD(steps=3, random_start=True)(model, x, y, .3, generator=stream(0, 'r'))
    five = PGD(steps=3, random_start=True, restarts=5)(model, x, y, .3, generator=stream(0, 'r'))
    wrong = lambda z: model(z).argmax(1) != y
    assert (wrong(five) | ~wrong(one)).all()
    still = wrong(one) == wrong(five)
    assert (loss(five)[still] >= loss(one)[still]).all() and loss(five).mean() > loss(one).mean()


@pytest.mark.parametrize('steps, size', [(1, .1), (10, .02), (20, .01)])
def test_foolbox_takes_the_same_path(steps, size):
    fb = pytest.importorskip('foolbox', reason='the oracle foolbox is not installed (extra "peers")')
    model, (x, y) = net(50, seed=9).eval(), images(40, seed=10)
    theirs = fb.attacks.LinfPGD(abs_stepsize=size, steps=steps, random_start=False)
    _, adv, _ = theirs(fb.PyTorchModel(model, bounds=(0, 1), device='cpu'), x, y, epsilons=.08)
    ours = PGD(steps=steps, step_size=size, keep='last')(model, x, y, .08)
    assert (ours - adv).abs().max() <= 1e-5 and (ours - x).abs().max() > .07


def test_pgd_with_one_relative_step_is_fgsm():
    model, (x, y) = net(), images()
    torch.testing.assert_close(PGD(steps=1, relative_step=1., keep='last')(model, x, y, .1), FGSM()(model, x, y, .1))


def test_fixed_noise_is_one_ray_and_does_not_advance_its_generator():
    (x, y), noise, g = images(), GaussianNoise('fixed', box=False), stream(0, 'n')
    a, b, c = (noise(None, x, y, e, generator=g) - x for e in (.1, .2, .1))
    torch.testing.assert_close(b, 2*a, rtol=1e-4, atol=1e-6); assert torch.equal(a, c)
    assert not torch.equal(GaussianNoise()(None, x, y, .1, generator=g), GaussianNoise()(None, x, y, .1, generator=g))


def test_noise_leaves_the_box_only_when_told_to():
    "Regression: the released random perturbation was never clipped."
    (x, y), high = images(), torch.linspace(1, 2, 12).view(-1, 1, 1, 1)
    boxed = GaussianNoise()(None, x, y, 2., bounds=(0., high), generator=stream(0, 'n'))
    free = GaussianNoise(box=False)(None, x, y, 2., bounds=(0., high), generator=stream(0, 'n'))
    assert (boxed >= 0).all() and (boxed <= high).all() and free.min() < -1
    assert torch.equal(into_box(free, (0., high)), boxed)
    g = torch.zeros(500, 1, 28, 28), torch.zeros(500, dtype=torch.int64)
    assert GaussianNoise(box=False)(None, *g, .3).std().item() == pytest.approx(.3, rel=.01)


def test_margin_and_dlr_are_positive_exactly_where_misclassified():
    g = torch.Generator().manual_seed(0)
    z, y = torch.randn(200, 5, generator=g), torch.randint(5, (200,), generator=g)
    wrong = z.argmax(1) != y
    assert torch.equal(margin(z, y) > 0, wrong) and torch.equal(dlr(z, y) > 0, wrong)
    torch.testing.assert_close(dlr(z*100 + 7, y), dlr(z, y), rtol=1e-4, atol=1e-5)
    assert dlr(z, y).min() >= -1 - 1e-6
    with pytest.raises(InputError, match="use 'margin'"): dlr(z[:, :2], y.clamp(max=1))


def test_margin_still_has_a_gradient_where_cross_entropy_is_flat():
    model, (x, y) = net(), images()
    with torch.no_grad(): model.readout.weight *= 1e6
    y = model(x).argmax(1)
    assert torch.equal(FGSM()(model, x, y, .1), x)
    assert not torch.equal(FGSM(loss='margin')(model, x, y, .1), x)


@pytest.mark.parametrize('norm', [2, 'inf'])
def test_log_odds_is_the_attack_on_cross_entropy_without_its_saturation(norm):
    model, (x, y) = net(60, seed=11).double(), images(40, seed=12, dtype=torch.float64)
    for attack in (FGSM(norm=norm, loss='log_odds'), PGD(norm=norm, steps=10, loss='log_odds')):
        plain = type(attack)(**{**vars(attack), 'loss': 'ce'})
        torch.testing.assert_close(attack(model, x, y, .1), plain(model, x, y, .1), rtol=0, atol=1e-9)
    z = torch.tensor([[200., 0, 1]], requires_grad=True)
    assert torch.autograd.grad(ce(z, torch.tensor([0])).sum(), z)[0].abs().max() == 0
    assert torch.autograd.grad(log_odds(z, torch.tensor([0])).sum(), z)[0].tolist()[0][0] == -1


# bad input

@pytest.mark.parametrize('change, said', [
    (dict(x=lambda x: (x*255).to(torch.uint8)), r'torch.uint8.*divide by 255'),
    (dict(x=lambda x: x*255), r'lie in \[.*outside their bounds \[0, 1\].*divide by 255'),
    (dict(x=lambda x: (x - .5)/.5), 'put Normalize'), (dict(x=lambda x: x + .01), r'1\.01\], outside'),
    (dict(x=lambda x: x/0), 'NaN or Inf'), (dict(y=lambda y: y.float()), 'expected integers'), (dict(y=lambda y: y[:3]), '12 images but 3 labels'),
    (dict(y=lambda y: y + 3), 'expected 0'), (dict(y=lambda y: -1 - y), 'expected 0'),
    (dict(eps=-.1), r'-0\.1.*≥ 0'), (dict(eps=math.nan), 'nan'), (dict(eps=math.inf), 'inf'), (dict(eps=torch.ones(5)), r'\(5,\).*\(12,\)'),
    (dict(bounds=(1., 0.)), 'above the upper'), (dict(bounds=(0., torch.ones(5, 1, 1, 1))), 'do not broadcast')])
def test_bad_input_names_the_value_and_what_would_be_right(change, said):
    (x, y), model = images(), net()
    x[0, 0, 0, 0] = 1.
    kw = dict(eps=.1, bounds=(0., 1.)) | {k: v for k, v in change.items() if k in ('eps', 'bounds')}
    x, y = change.get('x', lambda o: o)(x), change.get('y', lambda o: o)(y)
    for attack in (PGD(steps=2), FGSM()):
        with pytest.raises(InputError, match=said): attack(model, x, y, kw['eps'], bounds=kw['bounds'])


def test_rounding_errors_of_the_range_are_forgiven():
    (x, y), model = images(), net()
    adv = PGD(steps=2)(model, x*(1 + 1e-7) - 5e-7, y, .1)
    assert adv.min() >= 0 and adv.max() <= 1


@pytest.mark.parametrize('make, said', [
    (lambda: PGD(norm=.5), 'number ≥ 1'), (lambda: PGD(loss='cd'), 'loss='), (lambda: PGD(steps=0), 'steps=0'), (lambda: PGD(keep='first'), 'keep='),
    (lambda: PGD(step_size=.1, relative_step=.1), 'both given'), (lambda: PGD(restarts=2), 'random_start=True'), (lambda: GaussianNoise('fixde'), "'fixed'"),
    (lambda: Adversarial(PGD(), -1.), 'eps=-1'), (lambda: Adversarial(PGD(), math.inf), 'finite')])
def test_bad_fields_are_refused(make, said):
    with pytest.raises(InputError, match=said): make()


# recipes, adversarial training

@pytest.mark.parametrize('attack', [*ATTACKS, Adversarial(PGD(steps=3), .1, clean=True), PGD(norm=math.inf)], ids=repr)
def test_repr_rebuilds_the_piece(attack):
    assert repr(build_recipe(repr(attack), modules=['locallearning.attacks.gradient'])) == repr(attack)


def test_the_second_attack_sees_the_updated_weights():
    model, (x, y) = net(), images()
    opt = torch.optim.SGD(model.parameters(), .5)
    stale = PGD(steps=3)(model, x, y, .1)
    pairs = []
    for a, b in Adversarial(PGD(steps=3), .1, clean=True)(model, x, y):
        pairs.append(a)
        opt.zero_grad(); F.cross_entropy(model(a), b).backward(); opt.step()
        if len(pairs) == 1: fresh = PGD(steps=3)(model, x, y, .1)
    assert pairs[0] is x and len(pairs) == 2
    assert torch.equal(pairs[1], fresh) and not torch.equal(pairs[1], stale)


def test_adversarial_training_draws_from_its_own_generator():
    model, (x, y) = net(), images()
    t = Adversarial(PGD(steps=2, random_start=True), .2)
    def draw():
        t.generator = stream(3, 'adv')
        return next(t(model, x, y))[0]
    assert torch.equal(draw(), draw()) and model.training


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
def test_an_attack_never_waits_for_the_device_between_steps():
    model, (x, y) = net().cuda().eval(), images()
    fn, x = objective(model, y.cuda()), x.cuda()
    torch.cuda.set_sync_debug_mode('error')
    try: maximise(fn, x, .1, steps=5); maximise(fn, x, torch.full((12,), .1, device='cuda'), 2, steps=5, start='random')
    finally: torch.cuda.set_sync_debug_mode('default')
