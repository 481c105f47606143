"""Augmentation and the penalties for stability to deformations: exact oracles, brute force, and the defects 4, 5 and 9 of the released code."""
import copy
import itertools
import math
import numpy as np
import pytest
import torch
from hypothesis import given,settings,strategies as st
from torch import nn
from torch.func import functional_call
from locallearning.augmentation import (CropFlip,Deformed,apply_deformations,deform,draw_deformations,image_gradient,
    smooth_fields,tangent,tangents)
from locallearning.core import InputError
from locallearning.recipes import build_recipe
from locallearning.rkhs.deform import DeformationStability,TangentGradient,steepest_examples,worst_deformations
from locallearning.state import stream
from locallearning.training import fit


def images(n=6, channels=1, height=9, width=7, dtype=torch.float64, low=.2, high=.8):
    x = torch.rand(n, channels, height, width, generator=stream(0, 'images'), dtype=torch.float64)
    return (low + (high - low)*x).to(dtype)

def conv(channels=1, classes=4, batch_norm=False):
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(3) if batch_norm else nn.Identity()
    return nn.Sequential(nn.Conv2d(channels, 3, 3), norm, nn.Tanh(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(27, classes)).double()

def linear(values=63, classes=4):
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(values, classes)).double()

def drawing(piece, *key):
    piece.generator = stream(3, 'piece', *key)
    return piece

def transformed(piece, x, y=None, bounds=(0., 1.)):
    (moved, labels), = piece(None, x, y, bounds)
    return moved

def shifted_by_loop(image, down, right):
    "A C×H×W array moved by whole pixels, pixel by pixel."
    _, height, width = image.shape
    out = np.zeros_like(image)
    for i, j in itertools.product(range(height), range(width)):
        if 0 <= i - down < height and 0 <= j - right < width: out[:, i, j] = image[:, i - down, j - right]
    return out


# --- crop and flip

@pytest.mark.parametrize('padding, flip', [(0, True), (1, False), (2, True)])
def test_each_crop_is_one_of_those_of_a_loop_in_numpy_and_all_are_equally_frequent(padding, flip):
    image = images(1, channels=3).numpy()[0]
    moves = list(itertools.product(range(-padding, padding + 1), repeat=2))
    valid = {shifted_by_loop(original, *move).tobytes(): (move, mirrored) for move in moves
             for mirrored, original in enumerate([image, image[:, :, ::-1]][:1 + flip])}
    n = 400 * len(valid)
    out = transformed(drawing(CropFlip(padding, flip)), torch.as_tensor(image).expand(n, -1, -1, -1))
    counts = dict.fromkeys(valid.values(), 0)
    for o in out.numpy(): counts[valid[np.ascontiguousarray(o).tobytes()]] += 1
    assert len(counts) == len(moves) * (1 + flip)
    chi_square = sum((c - 400)**2 / 400 for c in counts.values())
    assert chi_square < len(counts) + 5*math.sqrt(2*len(counts))

def test_images_of_a_batch_are_cropped_independently():
    x = images(1, dtype=torch.float32).expand(600, -1, -1, -1)
    assert len(transformed(drawing(CropFlip(2)), x).flatten(1).unique(dim=0)) == 50

def test_labels_stay_with_their_images_and_inputs_as_they_were():
    x, y = images(30), torch.arange(30)
    before = x.clone()
    for piece in (CropFlip(0), Deformed(0., shift=0), Deformed(), CropFlip(4)):
        (moved, labels), = drawing(piece)(None, x, y)
        assert labels is y and torch.equal(x, before) and moved.shape == x.shape and moved.dtype == x.dtype

@pytest.mark.parametrize('piece', [CropFlip(3), Deformed(2., shift=2)], ids=repr)
def test_the_box_of_each_image_is_kept(piece):
    x = images(40, low=.3, high=.8)
    scale = torch.linspace(.5, 2, 40, dtype=torch.float64).view(-1, 1, 1, 1)
    low, high = .25*scale, .85*scale
    moved = transformed(drawing(piece), x*scale, bounds=(low, high))
    assert (moved >= low).all() and (moved <= high).all()
    mixed = transformed(drawing(piece), x, bounds=(.25, torch.full((1, 9, 7), .85)))
    assert mixed.min() == .25 and mixed.max() <= .85
    assert transformed(drawing(piece), x, bounds=None).min() == 0

@pytest.mark.parametrize('piece', [CropFlip(), Deformed(), Deformed(keep=.5)], ids=repr)
def test_a_transform_draws_from_its_generator_alone(piece):
    x, before = images(20), torch.get_rng_state()
    first, second = (transformed(drawing(piece, i), x) for i in range(2))
    assert torch.equal(first, transformed(drawing(piece, 0), x)) and not torch.equal(first, second)
    assert torch.equal(before, torch.get_rng_state())


# --- fields and tangents

@pytest.mark.parametrize('smooth', [1., 2., 5.])
def test_fields_have_variance_one_everywhere_and_a_gaussian_correlation(smooth):
    height, width = 41, 39
    response = smooth_fields(torch.eye(height*width, dtype=torch.float64).view(-1, height, width), smooth).flatten(1)
    covariance = (response.T @ response).view(height, width, height, width)
    assert torch.allclose(torch.einsum('ijij->ij', covariance), torch.ones(height, width, dtype=torch.float64))
    for down, right in ((1, 0), (0, 2), (2, 1)):
        assert math.isclose(covariance[20, 19, 20 + down, 19 + right], math.exp(-(down**2 + right**2) / (4*smooth**2)), abs_tol=2e-3)

def test_a_smoother_field_changes_less_between_neighbours():
    noise = torch.randn(50, 2, 28, 28, generator=stream(0, 'noise'), dtype=torch.float64)
    steps = [smooth_fields(noise, s).diff(dim=-1).square().mean().item() for s in (1., 2., 4.)]
    for s, step in zip((1., 2., 4.), steps): assert math.isclose(step, 2*(1 - math.exp(-1 / (4*s**2))), rel_tol=.15)
    assert steps[0] > steps[1] > steps[2]

def test_derivatives_are_numpys_inside_and_half_a_step_at_the_border():
    x = images(2, channels=3)
    across, down = image_gradient(x)
    rows, columns = np.gradient(x.numpy(), axis=(2, 3))
    assert np.allclose(across[..., 1:-1], columns[..., 1:-1]) and np.allclose(down[..., 1:-1, :], rows[..., 1:-1, :])
    assert torch.allclose(across[..., 0], (x[..., 1] - x[..., 0]) / 2) and torch.allclose(down[..., -1, :], (x[..., -1, :] - x[..., -2, :]) / 2)

def test_a_tangent_of_a_constant_field_is_the_derivative_of_a_shift():
    at = torch.arange(40, dtype=torch.float64)
    def bump(right, down): return (-((at[None, :] - 20 + right)**2 + (at[:, None] - 20 + down)**2) / 200).exp()[None, None]
    field = torch.tensor([.6, -.8], dtype=torch.float64).view(1, 2, 1, 1).expand(1, 2, 40, 40)
    difference = (bump(.6e-4, -.8e-4) - bump(-.6e-4, .8e-4)) / 2e-4
    inside = (..., slice(1, -1), slice(1, -1))
    third = 1.4 * 1.38 / 10**3 / 6                      # what a central difference leaves out of a Gaussian of width 10
    assert torch.allclose(tangent(bump(0, 0), field)[inside], difference[inside], rtol=0, atol=third) and difference.abs().max() > 100*third

def test_tangent_images_follow_one_another_by_image_and_share_a_field_among_channels():
    x = images(3, channels=2)
    along = tangents(x, 4, smooth=1.5, generator=stream(0, 't'))
    noise, _ = draw_deformations(x, 4, 0, stream(0, 't'))
    field = smooth_fields(noise.double(), 1.5)
    across, down = image_gradient(x)
    assert along.shape == (3, 4, 2, 9, 7)
    for i, j, c in itertools.product(range(3), range(4), range(2)):
        assert torch.allclose(along[i, j, c], field[4*i + j, 0]*across[i, c] + field[4*i + j, 1]*down[i, c])


# --- deformed images

def test_a_deformation_depends_on_its_index_and_not_on_the_company():
    x = images(5, channels=2, dtype=torch.float32)
    index = torch.tensor([7, 0, 123456789, 7, 3])
    together = deform(x, index)
    for i in range(5): assert torch.allclose(deform(x[i:i+1], index[i:i+1]), together[i:i+1], atol=1e-6)
    order = torch.tensor([3, 1, 4, 0, 2])
    assert torch.allclose(deform(x[order], index[order]), together[order], atol=1e-6)
    same = deform(x[:1].expand(2, -1, -1, -1), [7, 8])
    assert (same[0] - same[1]).abs().max() > .01
    assert (deform(x, index, seed=1) - together).abs().max() > .01
    assert torch.allclose(deform(x.double(), index).float(), together, atol=1e-6)

def test_a_deformation_leaves_the_global_generator_and_the_image_alone():
    x, before = images(2), torch.get_rng_state()
    copied = x.clone()
    deform(x, [0, 1])
    assert torch.equal(before, torch.get_rng_state()) and torch.equal(x, copied)

def test_a_small_deformation_is_a_tangent_image():
    x = images(4, channels=3)
    noise, by = draw_deformations(x, 1, 0, stream(0, 'small'))
    field = smooth_fields(noise.double(), 3.)
    inside = (x > x.amin((2, 3), keepdim=True)) & (x < x.amax((2, 3), keepdim=True))
    rate = (apply_deformations(x, noise, by, strength=1e-5, shift=0) - x) / 1e-5
    assert torch.allclose(rate[inside], tangent(x, field)[inside], atol=1e-9) and inside.float().mean() > .9

@given(strength=st.floats(0, 50), smooth=st.floats(.1, 30), shift=st.integers(0, 3), channels=st.integers(1, 3))
@settings(max_examples=30)
def test_a_deformed_image_stays_in_its_range_or_zero(strength, smooth, shift, channels):
    x = images(3, channels, low=.4, high=.9)
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    moved = deform(x, range(3), strength, smooth, shift)
    assert (((moved >= low) & (moved <= high)) | (moved == 0)).all()

def test_of_no_strength_a_deformation_is_one_of_nine_shifts_equally_often():
    x = images(1)
    valid = {shifted_by_loop(x.numpy()[0], *move).tobytes(): move for move in itertools.product((-1, 0, 1), repeat=2)}
    moved = deform(x.expand(900, -1, -1, -1), range(900), strength=0.)
    counts = dict.fromkeys(valid.values(), 0)
    for o in moved.numpy(): counts[valid[o.tobytes()]] += 1
    assert len(counts) == 9 and sum((c - 100)**2 / 100 for c in counts.values()) < 9 + 5*math.sqrt(18)

def test_a_shift_goes_down_and_to_the_right():
    x, by = images(3, channels=2), torch.tensor([[1, 2], [-2, 0], [0, -1]])
    moved = apply_deformations(x, torch.zeros(3, 2, 9, 7), by, shift=2).numpy()
    for image, out, move in zip(x.numpy(), moved, by.tolist()): assert (out == shifted_by_loop(image, *move)).all()

def test_displacements_have_the_standard_deviation_that_strength_says():
    ramp = (torch.arange(28, dtype=torch.float64)/27).expand(500, 1, 28, 28)
    moved = deform(ramp, range(500), strength=.5, shift=0)
    pixels = 27 * (moved - ramp)[..., 5:-5]
    assert math.isclose(pixels.std(), .5, rel_tol=.05) and abs(pixels.mean()) < .05

def test_deformed_replaces_the_batch_or_keeps_a_share():
    x = images(2000)
    for keep in (0., .3, 1.):
        same = (transformed(drawing(Deformed(keep=keep)), x) == x).flatten(1).all(1).double().mean().item()
        assert abs(same - keep) < .04
    assert torch.equal(transformed(drawing(Deformed(keep=1.)), x), x)

def test_wrong_index_or_flat_images_are_named():
    x = images(3)
    with pytest.raises(InputError, match='index of shape .2,., torch.int64, for 3 images'): deform(x, [1, 2])
    with pytest.raises(InputError, match='torch.float32'): deform(x, [.5, 1., 2.])
    with pytest.raises(InputError, match=r'x\[:, None\]'): deform(x[:, 0], [0, 1, 2])
    with pytest.raises(InputError, match='strength=-1'): deform(x, [0, 1, 2], strength=-1)
    with pytest.raises(InputError, match='smooth=0'): deform(x, [0, 1, 2], smooth=0)
    with pytest.raises(InputError, match='n=0'): tangents(x, 0)
    flat = torch.rand(3, 784)
    for call in (lambda: deform(flat, [0, 1, 2]), lambda: tangents(flat, 2), lambda: transformed(CropFlip(), flat), lambda: transformed(Deformed(), flat),
                 lambda: DeformationStability()(linear(784), flat), lambda: TangentGradient()(linear(784), flat)):
        with pytest.raises(InputError, match=r'\(3, 784\).*x\.view\(-1, 1, 28, 28\)'): call()


# --- stability

def replayed(piece, x):
    "The examples and deformations that a penalty draws, as it draws them."
    g = stream(3, 'piece')
    few = x[torch.randperm(len(x), generator=g)[:piece.examples]]
    return few, *draw_deformations(few, piece.versions, piece.shift, g)

def stability_by_loop(piece, model, x):
    "Every pair by itself, the maximum of the square for each logit."
    few, noise, by = replayed(piece, x)
    largest = [0.] * model(x[:1]).shape[1]
    with torch.no_grad():
        for pair in range(len(noise)):
            image = few[pair // piece.versions][None]
            moved = apply_deformations(image, noise[pair:pair+1], by[pair:pair+1], piece.deformation, piece.smooth, piece.shift)
            for k, change in enumerate((model(moved) - model(image))[0]): largest[k] = max(largest[k], change.item()**2)
    return sum(largest)

@pytest.mark.parametrize('piece', [DeformationStability(examples=4, versions=5), DeformationStability(examples=1, versions=1),
    DeformationStability(examples=6, versions=3, deformation=.3, smooth=1., shift=0)], ids=repr)
@pytest.mark.parametrize('make', [conv, linear])
def test_stability_is_the_largest_squared_change_over_all_drawn_pairs(piece, make):
    model, x = make(), images(10)
    assert math.isclose(drawing(piece)(model, x).item(), stability_by_loop(piece, model, x), rel_tol=1e-9)

def test_stability_of_a_linear_model_in_closed_form():
    model, x, piece = linear(), images(10), DeformationStability(examples=5, versions=7)
    few, noise, by = replayed(piece, x)
    still = few.repeat_interleave(7, 0)
    change = (apply_deformations(still, noise, by) - still).flatten(1)
    assert torch.isclose(drawing(piece)(model, x), (change @ model[1].weight.T).square().max(0).values.sum())

def test_a_deformed_image_is_compared_with_its_own_original():                       # defect 4
    grey = torch.linspace(.1, .9, 8, dtype=torch.float64).view(-1, 1, 1, 1).expand(-1, 1, 9, 7)
    model = linear()
    assert model(grey).std(0).min() > .01
    assert drawing(DeformationStability(examples=8, versions=4, shift=0))(model, grey).item() < 1e-25
    x, piece = images(8), DeformationStability(examples=8, versions=4)
    few, noise, by = replayed(piece, x)
    worst = worst_deformations(model, few, noise, by)
    changes = (apply_deformations(few.repeat_interleave(4, 0), noise, by) - few.repeat_interleave(4, 0)).flatten(1) @ model[1].weight.T
    assert torch.equal(worst, changes.square().argmax(0)) and len(set((worst // 4).tolist())) > 1

def test_a_fall_counts_as_much_as_a_rise():                                          # defect 7, and 5 in its kind
    model, x = conv(), images(10)
    upside_down = copy.deepcopy(model)
    with torch.no_grad():
        for p in upside_down[-1].parameters(): p.neg_()
    for piece in (DeformationStability(examples=4, versions=5), TangentGradient(examples=4, tangents=5)):
        assert torch.isclose(drawing(piece)(model, x), drawing(piece)(upside_down, x), rtol=1e-12)

@pytest.mark.parametrize('chunk', [1, 3, 19, 20, 1000])
def test_the_chunk_changes_no_result(chunk):
    model, x = conv(), images(10)
    whole = drawing(DeformationStability(examples=4, versions=5))(model, x)
    assert torch.isclose(drawing(DeformationStability(examples=4, versions=5, chunk=chunk))(model, x), whole, rtol=1e-12)

def test_the_search_keeps_no_graph_and_the_last_pass_sees_2k_images():
    seen = []
    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = conv()
        def forward(self, x):
            seen.append((len(x), torch.is_grad_enabled()))
            return self.inner(x)
    drawing(DeformationStability(examples=4, versions=5, chunk=8))(Watched(), images(10))
    assert seen == [(4, False), (8, False), (8, False), (4, False), (8, True)]


# --- tangent gradient

@pytest.mark.parametrize('piece', [TangentGradient(examples=4, tangents=5), TangentGradient(examples=1, tangents=1, smooth=1.)], ids=repr)
@pytest.mark.parametrize('channels', [1, 2])
def test_the_tangent_gradient_equals_finite_differences(piece, channels):
    model, x = conv(channels), images(10, channels)
    g = stream(3, 'piece')
    few = x[torch.randperm(10, generator=g)[:piece.examples]]
    along = tangents(few, piece.tangents, piece.smooth, g)
    norms = torch.zeros(len(few), 4, dtype=torch.float64)
    with torch.no_grad():
        for i, t in itertools.product(range(len(few)), range(piece.tangents)):
            ahead, behind = (model((few[i] + h*along[i, t])[None])[0] for h in (1e-5, -1e-5))
            norms[i] += ((ahead - behind) / 2e-5)**2
    assert math.isclose(drawing(piece)(model, x).item(), norms.max(0).values.sum(), rel_tol=1e-6)

def test_the_tangent_gradient_of_a_linear_model_in_closed_form():
    model, x, piece = linear(), images(10), TangentGradient(examples=5, tangents=7)
    g = stream(3, 'piece')
    along = tangents(x[torch.randperm(10, generator=g)[:5]], 7, 3., g)
    products = torch.einsum('ijd,kd->kij', along.flatten(2), model[1].weight)
    assert torch.isclose(drawing(piece)(model, x), products.square().sum(2).max(1).values.sum())

def test_opposite_tangents_do_not_cancel_in_the_selection():                         # defect 5
    model, x = linear(classes=1), images(2)
    w = model[1].weight.view(1, 9, 7) / model[1].weight.norm()**2
    along = torch.stack([torch.stack([5*w, -5*w]), torch.stack([w, w])]).detach()
    assert steepest_examples(model, x, along).tolist() == [0]
    assert steepest_examples(model, x, along.flip(0)).tolist() == [1]

def test_small_deformations_change_a_logit_by_the_tangent_gradient():
    model, x = conv(), images(1)
    x[..., 0, 0], x[..., -1, -1] = 0., 1.               # away from where it is clipped
    few, noise, by = replayed(DeformationStability(versions=1, shift=0), x)
    along = tangent(few, smooth_fields(noise.double(), 3.))
    along = torch.where((few > 0) & (few < 1), along, torch.where(few == 0, along.clamp(min=0), along.clamp(max=0)))
    at = few.clone().requires_grad_()
    slopes = torch.stack([(torch.autograd.grad(model(at)[0, k], at)[0] * along).sum() for k in range(4)])
    value = drawing(DeformationStability(versions=1, shift=0, deformation=1e-5))(model, x)
    assert torch.isclose(value / 1e-10, slopes.square().sum(), rtol=1e-3)


# --- both penalties

PENALTIES = [DeformationStability(examples=4, versions=3), TangentGradient(examples=4, tangents=3)]

@pytest.mark.parametrize('piece', PENALTIES, ids=repr)
def test_gradcheck_of_the_weights(piece):
    model, x = conv(), images(6)
    weights = {k: w.detach().clone().requires_grad_() for k, w in model.named_parameters()}
    class Bound(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model
        def forward(self): return drawing(piece)(self.model, x)
    def value(*ws): return functional_call(Bound(), {f'model.{k}': w for k, w in zip(weights, ws)}, ())
    assert torch.autograd.gradcheck(value, tuple(weights.values()))

@pytest.mark.parametrize('piece', PENALTIES, ids=repr)
def test_a_penalty_reaches_the_weights_and_leaves_all_else_alone(piece):
    model, x = conv(batch_norm=True).train(), images(6).requires_grad_()
    model[0].bias.grad = torch.ones_like(model[0].bias)
    state, before = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    value = drawing(piece)(model, x)
    assert x.grad is None and torch.equal(model[0].bias.grad, torch.ones(3)) and model[-1].weight.grad is None
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items()) and all(m.training for m in model.modules())
    assert torch.equal(before, torch.get_rng_state())
    *grads, of_images = torch.autograd.grad(value, [model[0].weight, model[-1].weight, x], allow_unused=True)
    assert all(g.abs().max() > 0 for g in grads) and of_images is None

@pytest.mark.parametrize('piece', PENALTIES, ids=repr)
def test_batch_norm_and_dropout_count_as_in_use(piece):
    model, x = nn.Sequential(nn.Dropout(.5), *conv(batch_norm=True)), images(6)
    value = drawing(piece)(model.train(), x)
    assert model.training and value == drawing(piece)(model.eval(), x)
    lost = nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), *conv())
    with pytest.raises(InputError, match='track_running_stats=True'): piece(lost, x)

@pytest.mark.parametrize('piece', PENALTIES, ids=repr)
@pytest.mark.parametrize('make', [
    lambda: nn.Sequential(nn.Flatten(), nn.Linear(63, 4), nn.ReLU(), nn.Linear(4, 3)), lambda: nn.Sequential(nn.Flatten(), nn.Linear(63, 4))])
def test_a_zero_gradient_makes_no_nan(piece, make):
    model = make().double()
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].bias.fill_(-1)
    value = drawing(piece)(model, images(6))
    grads = torch.autograd.grad(value, list(model.parameters()), allow_unused=True, materialize_grads=True)
    assert value == 0 and all((g == 0).all() for g in grads)

@pytest.mark.parametrize('piece', PENALTIES, ids=repr)
def test_logits_that_do_not_look_at_the_image_cost_nothing(piece):
    class Blind(nn.Module):
        def __init__(self):
            super().__init__()
            self.bias = nn.Parameter(torch.ones(3, dtype=torch.float64))
        def forward(self, x): return self.bias.expand(len(x), 3)
    assert drawing(piece)(Blind(), images(6)) == 0

def test_where_a_batch_has_fewer_examples_all_are_used():
    model, x = linear(), images(5)
    for many, all_ in ((DeformationStability(examples=99, versions=3), DeformationStability(examples=5, versions=3)),
                       (TangentGradient(examples=99, tangents=3), TangentGradient(examples=5, tangents=3))):
        assert drawing(many)(model, x) == drawing(all_)(model, x) > 0
    x = torch.full((5, 1, 9, 7), .5, dtype=torch.float64)
    x[3] = images(1)                                    # the only one that has an edge
    assert all(drawing(TangentGradient(examples=5), i)(model, x) > 0 for i in range(10))
    assert not all(drawing(TangentGradient(examples=2), i)(model, x) > 0 for i in range(10))

@pytest.mark.parametrize('piece', PENALTIES, ids=repr)
def test_the_same_state_of_the_generator_gives_the_same_value(piece):
    model, x = conv(), images(10)
    drawing(piece)(model, x)
    state = piece.generator.get_state()
    value = piece(model, x)
    piece.generator = torch.Generator()
    piece.generator.set_state(state)
    assert piece(model, x) == value != piece(model, x)

def test_they_train_on_the_batches_there_are_and_resume_bit_by_bit(tmp_path):        # defect 9
    x, y = images(40, dtype=torch.float32), torch.arange(40) % 4
    def trained(epochs, folder):
        torch.manual_seed(0)
        model = conv().float()
        how = dict(penalties=[DeformationStability(examples=4, versions=3), TangentGradient(examples=4, tangents=3)],
                   transform=[CropFlip(1), Deformed(keep=.5)], batch_size=16)
        history = fit(model, (x, y), epochs=epochs, folder=folder, **how)
        return torch.cat([p.detach().flatten() for p in model.parameters()]), history
    straight, history = trained(3, tmp_path/'straight')
    trained(1, tmp_path/'broken')
    resumed, _ = trained(3, tmp_path/'broken')
    assert torch.equal(straight, resumed)
    assert history.last('DeformationStability', 'train') > 0 and history.last('TangentGradient', 'train') > 0

PIECES = [CropFlip(), CropFlip(2, flip=False), Deformed(), Deformed(.5, smooth=2., shift=0, keep=.25), DeformationStability(),
    DeformationStability(1., examples=8, versions=4, deformation=2., smooth=1.5, shift=2, chunk=64), TangentGradient(), TangentGradient(1e-3, examples=2, tangents=5, smooth=2.)]

@pytest.mark.parametrize('piece', PIECES, ids=repr)
def test_a_piece_is_rebuilt_from_its_repr(piece):
    again = build_recipe(repr(piece), ['locallearning.augmentation', 'locallearning.rkhs.deform'])
    assert type(again) is type(piece) and repr(again) == repr(piece)
    assert all(vars(again)[k] == v for k, v in vars(piece).items() if not k.startswith('_') and k != 'generator')

@pytest.mark.parametrize('make, said', [
    (lambda: CropFlip(-1), r'CropFlip\(padding=-1\): must be a whole number ≥ 0'), (lambda: CropFlip(flip='yes'), r"CropFlip\(flip='yes'\): must be True or False"),
    (lambda: Deformed(-.1), r'Deformed\(strength=-0.1\)'), (lambda: Deformed(smooth=0), r'Deformed\(smooth=0\): must be a number > 0'), (lambda: Deformed(shift=.5), r'Deformed\(shift=0.5\)'),
    (lambda: Deformed(keep=1.5), r'Deformed\(keep=1.5\)'), (lambda: DeformationStability('a'), r"DeformationStability\(strength='a'\)"),
    (lambda: DeformationStability(examples=0), r'DeformationStability\(examples=0\)'), (lambda: DeformationStability(versions=2.5), r'DeformationStability\(versions=2.5\)'),
    (lambda: DeformationStability(chunk=0), r'DeformationStability\(chunk=0\)'), (lambda: DeformationStability(smooth=-1), r'DeformationStability\(smooth=-1\)'),
    (lambda: DeformationStability(deformation=-1), r'DeformationStability\(deformation=-1\)'), (lambda: TangentGradient(tangents=None), r'TangentGradient\(tangents=None\)'),
    (lambda: TangentGradient(examples=True), r'TangentGradient\(examples=True\)'), (lambda: TangentGradient(smooth='3'), r"TangentGradient\(smooth='3'\)")])
def test_wrong_settings_are_named(make, said):
    with pytest.raises(InputError, match=said): make()
