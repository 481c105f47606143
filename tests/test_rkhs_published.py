"""The released behaviour of kernel_reg: each piece against a literal reading, loop by loop, of what its code did."""
import math
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from locallearning.attacks.ascent import perturbation_norm
from locallearning.attacks.gradient import PGD
from locallearning.augmentation import apply_deformations,draw_deformations,tangents
from locallearning.core import InputError
from locallearning.recipes import build_recipe
from locallearning.rkhs import published
from locallearning.rkhs.deform import DeformationStability,TangentGradient
from locallearning.rkhs.published import PublishedDeformationStability,PublishedPGDL2,PublishedTangentGradient
from locallearning.state import stream


def images(n=6, seed=0): return .2 + .6*torch.rand(n, 1, 9, 7, generator=stream(seed, 'images'), dtype=torch.float64)

def labels(n=6): return torch.arange(n) % 4

def conv():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Tanh(), nn.AdaptiveAvgPool2d(3), nn.Flatten(),
                         nn.Dropout(), nn.Linear(27, 4)).double()

def at_margin(m, dtype=torch.float32):
    "Images of the form (1, …) are at distance 1 from the boundary of a model whose logits differ by m there."
    model = nn.Linear(8, 2, bias=False, dtype=dtype)
    with torch.no_grad():
        model.weight.zero_()
        model.weight[:, 0] = torch.tensor([m/2, -m/2])
    return model

def at_distance_one(n, dtype=torch.float32):
    x = torch.randn(n, 8, generator=stream(0, 'x'), dtype=dtype)
    x[:, 0] = 1
    return x, torch.zeros(n, dtype=torch.long)

def drawing(piece, *key):
    piece.generator = stream(3, 'piece', *key)
    return piece


# --- the attack

def by_loop(model, x, y, eps, steps, step_size, floor):
    "The attack of the released code, image by image, from the gradient of the mean loss of the batch."
    delta = torch.zeros_like(x)
    for _ in range(steps):
        z = (x + delta).requires_grad_()
        g, = torch.autograd.grad(F.cross_entropy(model(z), y), z)
        for i in range(len(x)):
            delta[i] += step_size * g[i] / max(g[i].norm().item(), floor)
            if delta[i].norm() > eps: delta[i] *= eps / delta[i].norm()
    return x + delta

@pytest.mark.parametrize('floor', [1e-7, .05])      # the second one binds for every image
def test_published_attack_is_the_loop_and_leaves_the_model_as_it_was(floor):
    model, x, y = conv(), images(), labels()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found = PublishedPGDL2(steps=7, step_size=.2, floor=floor)(model, x, y, .5)
    assert model.training and all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not x.requires_grad and all(p.grad is None for p in model.parameters())
    model.eval()
    assert torch.allclose(found, by_loop(model, x, y, .5, 7, .2, floor), atol=1e-12)

def test_published_attack_takes_a_radius_per_image_and_knows_no_box():
    model, x, y = conv(), images(), labels()
    eps = torch.tensor([0., .1, .5, 1., 2., 9.], dtype=torch.float64)
    moved = perturbation_norm(x, PublishedPGDL2()(model, x, y, eps, bounds=(.2, .8)), 2)
    assert torch.allclose(moved, eps)                # a fixed step of .5 goes to the rim of every ball, at last to that of 9
    assert not (PublishedPGDL2()(model, x, y, 9., bounds=(0., 1.)) <= 1).all()

def test_floor_makes_confident_images_immune_and_the_result_depends_on_the_batch():         # defect 1
    for m, n, breaks in ((15, 256, True), (22, 1, True), (22, 16, True), (22, 256, False), (25, 1, True), (25, 16, False), (50, 1, False)):
        model, (x, y) = at_margin(m), at_distance_one(n)
        wrong = model(PublishedPGDL2()(model, x, y, 1.5, bounds=None)).argmax(1) != y
        assert wrong.all() if breaks else not wrong.any(), (m, n)

@pytest.mark.parametrize('m', [5, 25, 50, 100, 200])
@pytest.mark.parametrize('n', [1, 256])
def test_our_attack_reaches_the_boundary_at_any_margin_and_batch_size(m, n):
    model, (x, y) = at_margin(m), at_distance_one(n)
    for eps, breaks in ((1.05, True), (.95, False)):
        wrong = model(PGD(norm=2, loss='log_odds')(model, x, y, eps, bounds=None)).argmax(1) != y
        assert wrong.all() if breaks else not wrong.any()

def test_first_step_is_as_short_as_the_closed_form_says():
    m, n, dtype = 22., 256, torch.float64
    model, (x, y) = at_margin(m, dtype), at_distance_one(n, dtype)
    moved = perturbation_norm(x, PublishedPGDL2(steps=1)(model, x, y, 1.5, bounds=None), 2)
    length = m / (1 + math.exp(m)) / n                # of the gradient of the mean loss
    assert length < 1e-7 and torch.allclose(moved, torch.full_like(moved, .5*length/1e-7), rtol=1e-6)

def test_zero_gradient_leaves_the_image_instead_of_nan():                                    # defect 2
    model, (x, y) = at_margin(200), at_distance_one(3)
    assert torch.equal(PublishedPGDL2()(model, x, y, 1.5, bounds=None), x)

def test_published_attack_refuses_bad_input():
    model, x, y = conv(), images(), labels()
    for bad in (dict(steps=0), dict(step_size=0), dict(floor=0)):
        with pytest.raises(InputError, match=f'PublishedPGDL2\\({next(iter(bad))}'): PublishedPGDL2(**bad)
    with pytest.raises(InputError, match='eps'): PublishedPGDL2()(model, x, y, -1.)
    with pytest.raises(InputError, match='expected 0…3'): PublishedPGDL2()(model, x, y + 3, 1.)


# --- the selections

def versions_by_loop(x, E, T, generator, **how):
    "A list of E·T images, the original of each example first."
    x = x[torch.randperm(len(x), generator=generator)[:E]]
    noise, by = draw_deformations(x, T - 1, how['shift'], generator)
    out = []
    for i in range(len(x)):
        at = slice(i*(T - 1), (i + 1)*(T - 1))
        out += [x[i], *apply_deformations(x[i:i+1].expand(T - 1, -1, -1, -1), noise[at], by[at], **how)]
    return torch.stack(out)

@pytest.mark.parametrize('E, T', [(5, 4), (4, 6), (6, 2)])
def test_published_stability_indexes_its_references_from_zero_to_e(E, T):                    # defect 4
    model, x, how = conv(), images(), dict(strength=1., smooth=2., shift=1)
    found = drawing(PublishedDeformationStability(examples=E, versions=T, deformation=1., smooth=2., shift=1, chunk=5))(model, x)
    f = model.eval()(versions_by_loop(x, E, T, stream(3, 'piece'), **how))
    expected = 0.
    for k in range(4):
        score = {(i, t): (f[i*T + t, k] - f[i, k])**2 for i in range(E) for t in range(T)}
        i, t = max(score, key=score.get)
        expected = expected + (f[i*T + t, k] - f[i*T, k])**2
    assert torch.allclose(found, expected)

def test_published_stability_choice_by_hand():
    f = torch.tensor([[0.], [1.], [9.], [9.5]])     # two examples with two versions: changes 1 and ½, far from each other
    assert published._far_from_the_first(f, 2).item() == 3

def test_published_tangents_choose_by_the_sum_that_is_not_squared():                         # defect 5
    model, x = conv(), images()
    found = drawing(PublishedTangentGradient(examples=5, tangents=3, smooth=2.))(model, x)
    again, model = stream(3, 'piece'), model.eval()
    few = x[torch.randperm(6, generator=again)[:5]]
    along = tangents(few, 3, 2., again)
    expected = 0.
    for k in range(4):
        products = torch.stack([torch.stack([along[i, j].flatten() @ torch.func.grad(lambda z: model(z[None])[0, k])(few[i]).flatten()
                                             for j in range(3)]) for i in range(5)])
        expected = expected + products[products.sum(1).argmax()].square().sum()
    assert torch.allclose(found, expected)

def test_published_tangents_never_choose_an_example_that_falls():
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 1, bias=False))
    model[1].weight.data = torch.tensor([[1., 0.]])
    along = torch.tensor([[[-5., 0.]], [[1., 0.]]]).view(2, 1, 1, 1, 2)
    assert published._rising_most(model, torch.zeros(2, 1, 1, 2), along).item() == 1

@pytest.mark.parametrize('ran, meant', [
    (PublishedDeformationStability(examples=5, versions=4), DeformationStability(examples=5, versions=3)),
    (PublishedTangentGradient(examples=5, tangents=4), TangentGradient(examples=5, tangents=4))])
def test_published_selection_is_never_above_the_maximum_and_sometimes_below(ran, meant):
    model, x = conv(), images(12)
    ratios = [(drawing(ran, i)(model, x) / drawing(meant, i)(model, x)).item() for i in range(8)]
    assert max(ratios) <= 1 + 1e-9 and min(ratios) < .9

@pytest.mark.parametrize('piece', [PublishedDeformationStability(examples=5, versions=4), PublishedTangentGradient(examples=5, tangents=3)])
def test_published_penalties_have_the_gradient_of_finite_differences_and_leave_the_model(piece):
    model, x = conv(), images()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    w, step = model[0].weight, 1e-6*torch.randn(3, 1, 3, 3, generator=stream(0, 'd'), dtype=torch.float64)
    g, = torch.autograd.grad(drawing(piece)(model, x), w)
    assert model.training and not x.requires_grad and all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    values = []
    for sign in (1, -1):
        with torch.no_grad(): w.copy_(before['0.weight'] + sign*step)
        values.append(drawing(piece)(model, x).item())
    assert math.isclose(values[0] - values[1], 2*(g*step).sum().item(), rel_tol=1e-4)

def test_published_penalties_refuse_what_they_cannot_use():
    model, x = conv(), images()
    with pytest.raises(InputError, match='versions=1.*at least 2'): PublishedDeformationStability(versions=1)(model, x)
    for piece in (PublishedDeformationStability(), PublishedTangentGradient()):
        with pytest.raises(InputError, match=r'x.view\('): piece(model, x.flatten(1))

@pytest.mark.parametrize('piece', [PublishedPGDL2(40, .05), PublishedDeformationStability(.2, versions=3), PublishedTangentGradient(.2, tangents=3)])
def test_recipe_rebuilds_the_piece(piece):
    assert repr(build_recipe(repr(piece), ['locallearning.rkhs.published'])) == repr(piece)
