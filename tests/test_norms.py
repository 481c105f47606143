"""Norms of layers against dense matrices in float64, bounds of networks against what images show; defects 14, 15 and 21 of kernel_reg."""
import copy
import itertools
import math
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.nn.utils import parametrizations
from locallearning.convnets import VGG5, VGG11, ResNet
from locallearning.core import InputError
from locallearning.models import MLP, SHLP, LpUnit, Normalize, parametrize, prepend
from locallearning.probes.norms import (Windows, adjoint_of, apply_linear, linear_maps, matrix_norm, operator_bound, operator_norm,
    pooling_norm, power_iteration, random_start_factor, torus_bound)
from locallearning.probes.slopes import measured_slope, product_bound
from locallearning.state import seeded, stream


def images(n=6, shape=(2, 6, 6), seed=0): return torch.rand(n, *shape, generator=stream(seed, 'images'), dtype=torch.float64)

def made(make):
    with seeded(0, 'init'): return make().double()

def dense(layer, shape):
    "The matrix of a layer without its bias, column by column."
    size = math.prod(shape)
    unit = torch.eye(size, dtype=torch.float64).view(size, *shape)
    with torch.no_grad(): columns = [(layer(e[None]) - layer(torch.zeros(1, *shape).double())).flatten() for e in unit]
    return torch.stack(columns, 1)

def norm_of(layer, shape): return torch.linalg.matrix_norm(dense(layer, shape), 2).item()


CONVS = [(dict(stride=s, padding=p, padding_mode=m, groups=g, dilation=d), (4, 6, 7))
         for s, p, m, g, d in itertools.product((1, 2), (0, 1, 2), ('zeros', 'circular'), (1, 2), (1, 2)) if p or m == 'zeros']
CONVS += [(dict(padding='same', padding_mode=m, dilation=d), (4, 5, 6)) for m in ('zeros', 'circular') for d in (1, 2)]
CONVS += [(dict(kernel_size=k, stride=s, padding=p), (4, 7, 5)) for k, s, p in (
    (2, 2, 0), (2, 3, 1), ((3, 2), (1, 2), (2, 0)), (4, 1, 'same'), (1, 2, 0), (5, 1, 4), (2, 1, 3))]
CONVS += [(dict(kernel_size=(5, 3), padding=(4, 3), padding_mode='circular', stride=s), (4, 4, 3)) for s in (1, 2)]  # wider than the image

def conv(options): return made(lambda: nn.Conv2d(4, 6, **{'kernel_size': 3, **options}))

@pytest.mark.filterwarnings('ignore:Using padding')
@pytest.mark.parametrize('options, shape', CONVS, ids=str)
def test_norms_of_a_convolution_are_those_of_its_dense_matrix(options, shape):
    layer = conv(options)
    truth = norm_of(layer, shape)
    found, all_values = operator_norm(layer, shape, steps=400, tol=1e-6), torch.linalg.svdvals(dense(layer, shape))
    assert truth*(1 - 2e-3) <= found.value <= truth*(1 + 1e-12) <= found.value * random_start_factor(math.prod(shape), found.steps)
    assert (all_values - found.value).abs().min() <= found.residual and not any(o.requires_grad for o in found[:3])
    assert math.isclose(operator_bound(layer, shape), truth, rel_tol=1e-10)
    for bound in (operator_bound(layer, shape, dense=0), torus_bound(layer, shape)): assert truth*(1 - 1e-12) <= bound <= 3*truth
    assert found.value*(1 - 1e-12) <= apply_linear(layer, found.vector[None]).norm() <= truth*(1 + 1e-12)

@pytest.mark.parametrize('options, shape', [(dict(padding=1), (4, 6, 7)), (dict(padding=1, stride=2), (4, 6, 8)),
    (dict(padding='same', dilation=2, groups=2), (4, 6, 6)), (dict(kernel_size=(3, 5), padding=(1, 2), stride=(1, 2)), (4, 5, 6))], ids=str)
def test_the_torus_is_exact_for_circular_padding_that_keeps_the_size(options, shape):
    layer = conv({**options, 'padding_mode': 'circular'})
    assert math.isclose(torus_bound(layer, shape), norm_of(layer, shape), rel_tol=1e-12)

@pytest.mark.parametrize('stride', [1, 2])
def test_the_torus_is_nearly_exact_for_zero_padding_on_large_images(stride):
    layer = conv(dict(padding=1, stride=stride))
    below = operator_norm(layer, (4, 40, 40), steps=3000, tol=1e-5).value.item()
    assert below <= torus_bound(layer, (4, 40, 40)) < 1.01*below

def test_a_torus_that_is_as_small_as_the_image_would_be_no_bound():
    "A derivative on two pixels: around a circle of two its parts cancel."
    layer = nn.Conv2d(1, 1, (1, 3), padding=(0, 1)).double()
    with torch.no_grad(): layer.weight.copy_(torch.tensor([-1., 0, 1]))
    assert norm_of(layer, (1, 1, 2)) == 1 <= torus_bound(layer, (1, 1, 2))

def test_same_padding_of_an_even_kernel_has_its_odd_pixel_at_the_end():
    layer = made(lambda: nn.Conv2d(1, 1, 2, padding='same'))
    assert math.isclose(operator_norm(layer, (1, 1, 1)).value, layer.weight[0, 0, 0, 0].abs().item(), rel_tol=1e-12)

@pytest.mark.parametrize('options', [dict(), dict(stride=2, padding=1), dict(padding=2, padding_mode='circular'), dict(padding='same', dilation=2), dict(groups=3)], ids=str)
def test_one_dimension(options):
    layer = made(lambda: nn.Conv1d(3, 6, 3, **options))
    truth = norm_of(layer, (3, 11))
    assert math.isclose(operator_norm(layer, (3, 11), steps=3000, tol=1e-7).value, truth, rel_tol=1e-7)
    assert truth*(1 - 1e-12) <= operator_bound(layer, (3, 11), dense=0) <= 1.5*truth

def test_other_padding_modes_have_an_estimate_and_where_the_input_is_small_a_bound():
    layer = conv(dict(padding=1, padding_mode='reflect'))
    truth = norm_of(layer, (4, 6, 6))
    assert math.isclose(operator_norm(layer, (4, 6, 6), steps=3000, tol=1e-7).value, truth, rel_tol=1e-7)
    assert math.isclose(operator_bound(layer, (4, 6, 6)), truth, rel_tol=1e-10)
    for bound in (torus_bound, lambda *a: operator_bound(*a, dense=0)):
        with pytest.raises(InputError, match="'reflect'"): bound(layer, (4, 6, 6))

@pytest.mark.parametrize('options', [dict(stride=2, padding=1, groups=2), dict(padding=2, padding_mode='circular', dilation=2), dict(padding=1, padding_mode='reflect')], ids=str)
def test_adjoint_identity(options):
    layer, x = conv(options), images(3, (4, 6, 7))
    y = apply_linear(layer, x).detach()
    u = torch.randn(y.shape, generator=stream(0, 'u'), dtype=torch.float64)
    adjoint = adjoint_of(lambda v: apply_linear(layer, v), x)
    assert math.isclose((y*u).sum(), (x*adjoint(u)).sum().item(), rel_tol=1e-12)
    if options['padding_mode' if 'padding_mode' in options else 'groups'] == 2:
        back = F.conv_transpose2d(u, layer.weight, None, 2, 1, output_padding=(1, 0), groups=2)
        assert torch.allclose(adjoint(u), back)

def test_a_dense_layer_is_exact_and_its_vector_is_the_top_one():
    layer = made(lambda: nn.Linear(9, 5))
    found = operator_norm(layer, (9,))
    assert math.isclose(found.value, torch.linalg.matrix_norm(layer.weight, 2).item(), rel_tol=1e-14)
    assert math.isclose((layer.weight @ found.vector).norm().item(), found.value, rel_tol=1e-12) and (found.steps, found.residual) == (0, 0)
    assert operator_bound(layer, (9,)) == pytest.approx(found.value.item(), rel=1e-14)

@pytest.mark.parametrize('shape', [(3, 7), (7, 3), (5, 5), (4, 3, 2, 2), (2, 1, 3)])
def test_matrix_norm_and_its_gradient_are_those_of_the_svd(shape):
    weight = torch.randn(shape, generator=stream(0, 'w'), dtype=torch.float64, requires_grad=True)
    U, S, Vh = torch.linalg.svd(weight.detach().flatten(1), full_matrices=False)
    assert math.isclose(matrix_norm(weight.detach()), S[0], rel_tol=1e-14)
    assert torch.allclose(torch.autograd.grad(matrix_norm(weight), weight)[0].flatten(1), S.new_tensor(1)*torch.outer(U[:, 0], Vh[0]), atol=1e-10)

def test_float32_weights_lose_nothing_in_the_gram_matrix():
    weight = torch.diag(torch.tensor([1., 1 - 1e-6, 1e-5]))
    assert matrix_norm(weight) == 1 and matrix_norm(weight).dtype == torch.float32

def test_reshaped_weight_below_operator_below_its_unfolding():                        # defect 21
    layer = conv(dict(padding=1))
    matrix, truth = matrix_norm(layer.weight).item(), norm_of(layer, (4, 8, 8))
    assert 1.2*matrix < truth < 3*matrix

def test_zero_weights_give_zero_and_no_nan():
    for layer, shape in ((conv(dict(padding=1)), (4, 5, 5)), (made(lambda: nn.Linear(6, 3)), (6,))):
        nn.init.zeros_(layer.weight)
        for dtype in (torch.float32, torch.float64):
            found = operator_norm(layer, shape, dtype=dtype)
            assert found.value == 0 and found.residual == 0 and math.isclose(found.vector.norm(), 1, rel_tol=1e-6)
        assert operator_bound(layer, shape) == operator_bound(layer, shape, dense=0) == matrix_norm(layer.weight) == 0
        grad, = torch.autograd.grad(matrix_norm(layer.weight), layer.weight)
        assert (grad == 0).all()
    net = nn.Sequential(conv(dict(padding=1)), nn.ReLU(), nn.Flatten(), nn.Linear(150, 3)).double()
    nn.init.zeros_(net[0].weight)
    assert product_bound(net, images(1, (4, 5, 5))).value == 0

def test_weights_of_any_size_neither_overflow_nor_vanish():
    layer = conv(dict(padding=1))
    truth = norm_of(layer, (4, 5, 5))
    for scale in (1e-140, 1e140):
        big = copy.deepcopy(layer)
        with torch.no_grad(): big.weight.mul_(scale)
        assert math.isclose(operator_norm(big, (4, 5, 5), steps=3000, tol=1e-7).value, truth*scale, rel_tol=1e-6)
    norms = [lambda o: operator_bound(o, (4, 5, 5)), lambda o: torus_bound(o, (4, 5, 5)), lambda o: matrix_norm(o.weight.detach()).item()]
    for scale, norm in itertools.product((1e-180, 1e180), norms):
        big = copy.deepcopy(layer)
        with torch.no_grad(): big.weight.mul_(scale)
        assert math.isclose(norm(big), norm(layer)*scale, rel_tol=1e-12)


# --- power iteration

@given(st.integers(0, 2**31), st.integers(1, 30))
@settings(max_examples=40)
def test_the_estimate_never_exceeds_the_norm_and_the_residual_holds_a_singular_value(seed, steps):
    g = torch.Generator().manual_seed(seed)
    A, start = (torch.randn(s, generator=g, dtype=torch.float64) for s in ((5, 7), (7,)))
    found = power_iteration(lambda v: A @ v, lambda u: A.T @ u, start, steps, tol=0)
    S = torch.cat([torch.linalg.svdvals(A), torch.zeros(1).double()])
    assert found.value <= S[0]*(1 + 1e-12) and (S - found.value).abs().min() <= found.residual + 1e-12 and found.steps == steps
    assert math.isclose(found.vector.norm(), 1, rel_tol=1e-12)

def test_the_tolerance_stops_and_the_limit_too():
    A = torch.diag(torch.tensor([2., 1, 1, .5])).double()
    start = torch.ones(4, dtype=torch.float64)
    runs = [power_iteration(lambda v: A @ v, lambda u: A @ u, start, 100, tol) for tol in (1e-2, 1e-6)]
    assert runs[0].steps < runs[1].steps < 100 and all(r.residual <= t*r.value for r, t in zip(runs, (1e-2, 1e-6)))
    assert power_iteration(lambda v: A @ v, lambda u: A @ u, start, 3, 1e-12).steps == 3

def test_a_warm_start_goes_on_where_the_last_call_ended():
    layer, shape = conv(dict(padding=1)), (4, 6, 6)
    whole = operator_norm(layer, shape, steps=12, tol=0)
    half = operator_norm(layer, shape, steps=6, tol=0)
    rest = operator_norm(layer, shape, steps=6, tol=0, start=half.vector)
    assert half.value < rest.value and math.isclose(rest.value, whole.value, rel_tol=1e-12)

def test_random_starts_repeat_with_their_generator_and_leave_the_global_one():
    layer, shape = conv(dict(padding=1)), (4, 6, 6)
    state = torch.get_rng_state()
    a, b, c = (operator_norm(layer, shape, steps=2, generator=g).value for g in (stream(1, 'n'), stream(1, 'n'), stream(2, 'n')))
    assert a == b != c and operator_norm(layer, shape, steps=2).value == operator_norm(layer, shape, steps=2).value
    product_bound(nn.Sequential(layer, nn.Flatten()), images(1, shape))
    assert torch.equal(state, torch.get_rng_state())

def test_float32_agrees_with_float64():
    layer, shape = conv(dict(padding=1, stride=2)), (4, 6, 6)
    single = operator_norm(layer, shape, dtype=torch.float32, steps=1000, tol=1e-5)
    assert single.value.dtype == torch.float32 and math.isclose(single.value, norm_of(layer, shape), rel_tol=1e-4)

def test_the_random_start_factor_fails_as_seldom_as_it_says():
    values = torch.tensor([1., .999] + [.99]*48).double()                              # hardly a gap
    starts = torch.randn(4000, 50, generator=stream(0, 'starts'), dtype=torch.float64)
    for steps in (1, 5, 20):
        found = torch.stack([power_iteration(lambda v: values*v, lambda u: values*u, s, steps, 0).value for s in starts[:500]])
        assert (found * random_start_factor(50, steps, .05) < 1).double().mean() <= .05
    unlucky = starts[:, 0].abs() / starts.norm(dim=1) < .2 * math.sqrt(math.pi/100)
    assert .1 < unlucky.double().mean() <= .2                                          # the bound on the start is not wasteful

def test_the_differentiable_norm_of_a_convolution():
    "‖A v‖ at the vector that was found has the gradient of the norm itself."
    layer, shape = conv(dict(padding=1)), (4, 5, 5)
    vector = operator_norm(layer, shape, steps=5000, tol=1e-9).vector
    grad, = torch.autograd.grad(apply_linear(layer, vector[None]).norm(), layer.weight)
    for i in ((0, 0, 0, 0), (3, 2, 1, 1), (5, 3, 2, 0)):
        ends = []
        for h in (1e-5, -1e-5):
            moved = copy.deepcopy(layer)
            with torch.no_grad(): moved.weight[i] += h
            ends.append(norm_of(moved, shape))
        assert math.isclose(grad[i], (ends[0] - ends[1])/2e-5, rel_tol=1e-4, abs_tol=1e-7)


# --- pooling

POOLS = [nn.AvgPool2d(2), nn.AvgPool2d(3), nn.AvgPool2d(3, 1, 1), nn.AvgPool2d(3, 2, 1, count_include_pad=False), nn.AvgPool2d((2, 3), (1, 2)),
    nn.AvgPool2d(3, 2, ceil_mode=True), nn.AvgPool2d(3, 2, 1, ceil_mode=True), nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
    nn.AdaptiveAvgPool2d(1), nn.AdaptiveAvgPool2d((3, None)), nn.AdaptiveAvgPool2d((2, 4)), nn.AdaptiveAvgPool2d(5)]

@pytest.mark.parametrize('pool', POOLS, ids=repr)
@pytest.mark.parametrize('size', [(6, 7), (8, 5)], ids=str)
def test_pooling_norm_is_that_of_the_dense_matrix(pool, size):
    assert math.isclose(pooling_norm(pool, (3, *size)), norm_of(pool, (1, *size)), rel_tol=1e-12)

@pytest.mark.parametrize('pool', [nn.AvgPool1d(3, 2, 1), nn.AdaptiveAvgPool1d(4)], ids=repr)
def test_pooling_in_one_dimension(pool): assert math.isclose(pooling_norm(pool, (2, 9)), norm_of(pool, (1, 9)), rel_tol=1e-12)

def test_pooling_with_another_divisor_is_refused():
    with pytest.raises(InputError, match='divisor_override'): pooling_norm(nn.AvgPool2d(2, divisor_override=1), (1, 4, 4))

@pytest.mark.parametrize('pool', [nn.MaxPool2d(2), nn.MaxPool2d(3, 2), nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(3, 1, 1), nn.MaxPool2d(2, 1, dilation=2),
    nn.MaxPool2d(3, 2, ceil_mode=True), nn.MaxPool2d((2, 3), (2, 1)), nn.MaxPool2d(1, 2)], ids=repr)
def test_the_constant_of_max_pooling_holds_and_is_attained(pool):
    "One pixel that is the largest of all windows that hold it moves all their maxima."
    constant, dark = product_bound(pool, images(1, (1, 6, 7))).value, torch.zeros(1, 1, 6, 7).double()
    bright = torch.eye(42, dtype=torch.float64).view(42, 1, 6, 7)
    moved = (pool(bright) - pool(dark)).flatten(1).norm(dim=1)
    assert math.isclose(moved.max(), constant, rel_tol=1e-12)
    a, b = images(200, (1, 6, 7), 1), images(200, (1, 6, 7), 2)
    assert ((pool(a) - pool(b)).flatten(1).norm(dim=1) <= constant * (a - b).flatten(1).norm(dim=1)).all()

def test_windows_count_as_unfold_does():
    for k, s, p, d in itertools.product((1, 2, 3), (1, 2, 3), (0, 1), (1, 2)):
        if 9 + 2*p < d*(k - 1) + 1: continue
        copies = F.fold(F.unfold(torch.ones(1, 1, 9, 1), (k, 1), (d, 1), (p, 0), (s, 1)), (9, 1), (k, 1), (d, 1), (p, 0), (s, 1))
        windows = Windows(9, k, s, d, p, p)
        assert windows.overlap() == copies.max() and windows.count == (9 + 2*p - d*(k - 1) - 1)//s + 1


# --- networks

class Block(nn.Module):
    "A residual block that writes in place, as torchvision's do."
    def __init__(self, channels, shortcut=None):
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in 'ab')
        self.relu, self.shortcut = nn.ReLU(inplace=True), shortcut
    def forward(self, x):
        out = self.conv2(self.relu(self.conv1(x)))
        out += x if self.shortcut is None else self.shortcut(x)
        return self.relu(out)

class Functional(nn.Module):
    "A network whose layers cannot be seen, only its functions."
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(2, 3, 3), nn.Linear(12, 4)
    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv((x - .5)/.25)), 2, stride=2)
        x = torch.flatten(torch.tanh(x), 1)
        return F.linear(F.dropout(x, .5, self.training), 2*self.fc.weight, self.fc.bias)

NETS = dict(
    mlp=lambda: MLP(72, (20, 10), classes=4),
    conv=lambda: nn.Sequential(nn.Conv2d(2, 5, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Conv2d(5, 4, 3, stride=2), nn.Tanh(), nn.Flatten(), nn.Dropout(), nn.Linear(4, 4)),
    average=lambda: nn.Sequential(nn.Conv2d(2, 5, 3, padding=1, padding_mode='circular'), nn.LeakyReLU(.3), nn.AvgPool2d(2), nn.Conv2d(5, 6, 2, groups=1), nn.ELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)),
    residual=lambda: nn.Sequential(Block(2), nn.Conv2d(2, 4, 1, stride=2), Block(4, nn.Conv2d(4, 4, 1)), nn.Flatten(), nn.Linear(36, 4)),
    functional=Functional,
    normed=lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 4)),
    scaled=lambda: prepend(Normalize((.5, .4), (.2, .3)), SHLP(72, width=15, classes=4)),
    tanh=lambda: SHLP(72, width=15, classes=4, activation='tanh', batch_norm=True),
    resnet=lambda: ResNet(2, 6, classes=4, width=3, blocks=(1, 2), norm='batch', mean=None),
    same=lambda: ResNet(2, 6, classes=4, width=3, blocks=(1, 1), norm='debiased', padding='same', mean=(.1, .2), std=(.5, .4)))

@pytest.mark.parametrize('name', NETS)
@pytest.mark.parametrize('gain', [1, 4])
def test_bound_above_slopes(name, gain):
    net, x = made(NETS[name]), images(20)
    with torch.no_grad():
        for w in net.parameters(): w.mul_(gain)
        for m in net.modules():
            if isinstance(m, nn.modules.batchnorm._BatchNorm): m.running_var.uniform_(.05, .3, generator=stream(0, 'var'))
    bound, slope = product_bound(net, x), measured_slope(net, x)
    near = measured_slope(net, x, x + 1e-2*torch.randn(x.shape, generator=stream(0, 'step'), dtype=torch.float64))
    assert bound.value >= slope.value >= slope.gradient > 0 and bound.value >= near.pairs > 0 and slope.value >= slope.pairs > 0
    assert (bound.classes >= slope.classes).all() and (bound.classes <= bound.value + 1e-12).all() and (slope.classes >= slope.class_gradients).all()
    assert gain > 1 or bound.value < 1e4 * slope.gradient                              # of a size that means something

def test_the_resnet_of_the_package_adds_its_shortcuts():
    net, x = made(lambda: ResNet(2, 6, classes=4, width=3, blocks=(1, 1), mean=None)), images(1)
    norms = {m.path: m.norm() for m in linear_maps(net, x)}
    paths, total = [*norms], norms['stages.0.0'] if 'stages.0.0' in norms else norms['stages.0']
    bodies = [[p for p in paths if '.body.' in p and p.startswith(f'stages.{i}.')] for i in (1, 2)]
    shortcuts = [[p for p in paths if '.shortcut.' in p and p.startswith(f'stages.{i}.')] for i in (1, 2)]
    assert [len(b) for b in bodies] == [2, 2] and [len(s) for s in shortcuts] == [0, 1]
    for body, shortcut in zip(bodies, shortcuts): total *= math.prod(norms[p] for p in body) + math.prod(norms[p] for p in shortcut)
    assert math.isclose(product_bound(net, x).value, total * norms['features.0'] * norms['readout'], rel_tol=1e-10)

def test_the_published_product_of_norms_is_the_matrix_reading():                       # 24.5 at the start, the scaling left out
    with seeded(0, 'init'): net = VGG11(mean=None, std=None)
    assert product_bound(net, torch.zeros(1, 3, 32, 32), 'matrix').value == pytest.approx(24.5, rel=.1)

@pytest.mark.parametrize('net, shape', [(lambda: VGG5(width=3), (1, 28, 28)), (lambda: VGG11(width=2), (3, 32, 32))], ids=['vgg5', 'vgg11'])
def test_the_convnets_of_the_package_have_bounds(net, shape):
    net, x = made(net), images(5, shape)
    bound, slope = product_bound(net, x), measured_slope(net, x)
    assert bound.value >= slope.value > 0 and (bound.classes >= slope.classes).all()
    assert bound.value >= product_bound(net, x, 'power').value > product_bound(net, x, 'matrix').value

def test_the_product_of_a_chain():
    net, x = made(NETS['conv']), images()
    first, second, last = (norm_of(net[i], s) for i, s in ((0, (2, 6, 6)), (3, (5, 3, 3)), (7, (4,))))
    bound = product_bound(net, x)
    assert math.isclose(bound.value, first * 2 * second * last, rel_tol=1e-10)         # 3×3 windows of stride 2: √4
    assert [(p.path, p.kind) for p in bound.parts] == [('0', 'Conv2d'), ('2', 'MaxPool2d'), ('3', 'Conv2d'), ('7', 'Linear')]
    assert bound.parts[-1].so_far == bound.value and math.isclose(math.prod(p.factor for p in bound.parts), bound.value)
    assert torch.allclose(bound.classes, first * 2 * second * net[7].weight.norm(dim=1))

def test_residual_blocks_add():
    net, x = made(NETS['residual']), images()
    a = norm_of(net[0].conv1, (2, 6, 6)) * norm_of(net[0].conv2, (2, 6, 6))
    b = norm_of(net[2].conv1, (4, 3, 3)) * norm_of(net[2].conv2, (4, 3, 3))
    expected = (1 + a) * norm_of(net[1], (2, 6, 6)) * (norm_of(net[2].shortcut, (4, 3, 3)) + b) * norm_of(net[4], (36,))
    assert math.isclose(product_bound(net, x).value, expected, rel_tol=1e-10)

@pytest.mark.parametrize('branch, expected', [
    (lambda x: x + x, 2), (lambda x: torch.cat([x, x], 1), 2**.5), (lambda x: torch.stack([x, 3*x]), 10**.5), (lambda x: 1 - x/4, .25),
    (lambda x: x - torch.tensor([.1, .2]).view(-1, 1, 1), 1), (lambda x: x * torch.tensor([.5, -3]).view(-1, 1, 1), 3), (lambda x: x.mean((2, 3)), 1/6),
    (lambda x: x.sum(1), 2**.5), (lambda x: x[:, 0], 1), (lambda x: x[:, :1] + torch.zeros(1, 5, 6, 6), 5**.5), (lambda x: x.expand(3, -1, -1, -1), 3**.5),
    (lambda x: x.chunk(2, 1)[0] + x.chunk(2, 1)[1], 2), (lambda x: torch.sigmoid(x), .25), (lambda x: F.avg_pool2d(x, 2), .5),
    (lambda x: F.max_pool2d(x, 3, 1, 1), 3), (lambda x: F.adaptive_avg_pool2d(x, 1), 1/6), (lambda x: F.pad(x, (1, 2)), 1), (lambda x: torch.cat([x, torch.zeros_like(x)], 1), 1), (lambda x: F.linear(x, weight=3*torch.eye(6).double()), 3), (lambda x: F.conv2d(x, torch.full((1, 2, 2, 2), .5).double(), stride=2), 2**.5), (lambda x: x.flatten(1).T, 1), (lambda x: x.clamp(min=0).abs(), 1)])
def test_functions_by_hand(branch, expected):
    class Net(nn.Module):
        def forward(self, x): return branch(x)
    assert math.isclose(product_bound(Net(), images(1)).value, expected, rel_tol=1e-12)

@pytest.mark.parametrize('body', [
    lambda x: x * x, lambda x: x.softmax(1), lambda x: x / (1 + x), lambda x: 1 / (1 + x), lambda x: x @ x.mT, lambda x: x ** 2, lambda x: x.exp(),
    lambda x: x[:, [0, 0]], lambda x: x * x.mean(), lambda x: x if x.mean() > 0 else -x, lambda x: x * x.max().item(), lambda x: torch.as_tensor(x.detach().numpy())*x,
    lambda x: x.long().double(), lambda x: x[:, torch.tensor([1, 1])], lambda x: torch.zeros(x.shape[0], 3).index_add_(1, torch.tensor([0]), x[:, :1, 0, 0].float()),
    lambda x: torch.add(x, x, alpha=3), lambda x: torch.where(x > .5, x, 0*x), lambda x: F.dropout(x, .5), lambda x: x.norm(dim=1), lambda x: F.pad(x, (1, 1, 1, 1), mode='reflect'), lambda x: F.conv2d(x, x), lambda x: x.view(torch.float32), lambda x: torch.rand_like(x) * x,
    lambda x: F.batch_norm(x, None, None, training=True)])
def test_what_has_no_known_constant_is_refused_and_never_taken_for_a_constant(body):
    class Inner(nn.Module):
        def forward(self, x): return body(x)
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.odd = Inner()
        def forward(self, x): return self.odd(x)
    with pytest.raises(InputError, match=r"'odd' \(Inner\) .*lipschitz\(shape\)"): product_bound(Net(), images(1))

def test_a_number_written_into_a_buffer_is_not_lost():
    class Written(nn.Module):
        def forward(self, x):
            out = torch.zeros_like(x)
            out[:, 0] = 5*x[:, 0]
            return out
    class WrittenBehind(nn.Module):
        "The buffer itself never meets the image, only a view of it."
        def forward(self, x):
            out = torch.zeros_like(x)
            out[:, :1].add_(x[:, :1])
            return x + 5*out
    for net in (Written(), WrittenBehind()):
        with pytest.raises(InputError, match='Written'): product_bound(net, images(1))

def test_logits_that_are_changed_in_place_have_no_rows_any_more():
    class Scaled(nn.Module):
        def __init__(self, factor, behind):
            super().__init__()
            self.fc, self.factor, self.behind = nn.Linear(72, 3), factor, behind
        def forward(self, x):
            z = self.fc(x.flatten(1))
            if self.behind: z.view(-1).mul_(self.factor)
            else: z *= self.factor
            return z
    for factor, behind in ((7, False), (7, True), (.1, False)):
        net, x = made(lambda: Scaled(factor, behind)), images(3)
        bound, slope = product_bound(net, x), measured_slope(net, x)
        assert (bound.classes >= slope.classes).all() and (bound.classes <= bound.value).all()
        meets = slope.gradient * (math.hypot(1, 1/factor) if behind else 1)            # a linear network; of a view the old entries count too
        assert math.isclose(bound.value, meets, rel_tol=1e-12)

def test_a_model_that_returns_something_else_is_refused():
    class Dict(nn.Module):
        def forward(self, x): return dict(x=x)
    class Constant(nn.Module):
        def forward(self, x): return torch.zeros(1, 3)
    for net in (Dict(), Constant()):
        with pytest.raises(InputError, match='returns what could not be followed'): product_bound(net, images(1))

def test_logits_that_are_not_finite_have_no_slope():
    net = nn.Sequential(nn.Flatten(), made(lambda: nn.Linear(72, 3)))
    with torch.no_grad(): net[1].weight[0, 0] = torch.nan
    with pytest.raises(InputError, match='not finite'): measured_slope(net, images(3))

def test_views_of_what_was_changed_in_place_count_the_change():
    class Aliased(nn.Module):
        def forward(self, x):
            x = 1*x
            half = x[:, :1]
            half *= 7
            return x
    bound, a, b = product_bound(Aliased(), images(1)), images(1), images(1, seed=1)
    b[:, 1:] = a[:, 1:]
    assert bound.value >= ((Aliased()(a) - Aliased()(b)).norm() / (a - b).norm()).item() - 1e-9 and bound.value <= 8

def test_a_part_that_hides_its_functions_is_not_taken_for_a_constant():
    class Hidden(nn.Module):
        def forward(self, x):
            with torch._C.DisableTorchFunction(): return 5*x
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = Hidden()
        def forward(self, x): return x + self.hidden(x)
    with pytest.raises(InputError, match=r"'hidden' \(Hidden\) returns what could not be followed"): product_bound(Net(), images(1))

def test_functions_with_a_backward_of_their_own_are_followed():
    class Thrice(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x): return 3*x
        @staticmethod
        def backward(ctx, grad): return 3*grad
    class Net(nn.Module):
        def forward(self, x): return x + Thrice.apply(x)
    assert product_bound(Net(), images(1)).value == 4

def test_unknown_modules_are_named_with_their_path():
    class Attended(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.ModuleDict(dict(attention=nn.MultiheadAttention(6, 2, batch_first=True)))
        def forward(self, x): return self.body['attention'](x[:, 0], x[:, 0], x[:, 0])[0]
    with pytest.raises(InputError, match=r"'body\.attention' \(MultiheadAttention\)"): product_bound(made(Attended), images(1))
    batch = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(72, track_running_stats=False)).double()
    with pytest.raises(InputError, match=r"'1' \(BatchNorm1d\) normalises by the statistics of its batch"): product_bound(batch, images(1))
    with pytest.raises(InputError, match=r"'features' \(Power\) calls (__)?pow"): product_bound(made(lambda: SHLP(72, width=5, n=3)), images(1))
    with pytest.raises(InputError, match="'first' .LpUnit"): product_bound(prepend(LpUnit(2), made(lambda: SHLP(72, width=5))), images(1))

def test_a_layer_with_a_forward_of_its_own_is_not_taken_for_a_plain_one():
    class Doubled(nn.Linear):
        def forward(self, x): return 2*super().forward(x)
    layer = made(lambda: Doubled(72, 3))
    bound = product_bound(nn.Sequential(nn.Flatten(), layer), images(1))
    assert math.isclose(bound.value, 2*matrix_norm(layer.weight).item(), rel_tol=1e-12)
    with pytest.raises(InputError, match='Doubled'): operator_norm(layer, (72,))
    assert linear_maps(nn.Sequential(nn.Flatten(), layer), images(1)) == []

@pytest.mark.filterwarnings('ignore:.*torch.jit.script:FutureWarning')
def test_a_scripted_part_is_refused():
    net = nn.Sequential(nn.Flatten(), torch.jit.script(nn.Linear(72, 3).double()))
    with pytest.raises(InputError, match="'1' is a ScriptModule"): product_bound(net, images(1))

def test_a_module_that_knows_is_believed_and_checked():
    class Sort(nn.Module):
        def __init__(self, constant): super().__init__(); self.constant = constant
        def forward(self, x): return x.sort(1).values
        def lipschitz(self, shape): return self.constant*len(shape)
    assert product_bound(Sort(2), images(1)).value == 6
    with pytest.raises(InputError, match=r'Sort\.lipschitz=-3'): product_bound(Sort(-1), images(1))

def test_parametrized_weights_count_as_what_they_make():
    class Half(nn.Module):
        def forward(self, V): return V/2
    net = made(lambda: MLP(72, (20,), classes=4))
    plain, x = product_bound(net, images()).value, images()
    assert math.isclose(product_bound(parametrize(net, Half()), x).value, plain/4, rel_tol=1e-10)
    spectral = made(lambda: nn.Sequential(parametrizations.spectral_norm(nn.Conv2d(2, 3, 3)), nn.Flatten(), parametrizations.orthogonal(nn.Linear(48, 4)))).train()
    before = copy.deepcopy(spectral.state_dict())
    maps = linear_maps(spectral, x)
    assert maps[0].norm('matrix') == pytest.approx(matrix_norm(spectral.eval()[0].weight).item()) and maps[1].norm() == pytest.approx(1)
    assert all(torch.equal(v, spectral.state_dict()[k]) for k, v in before.items())     # no step of its power iteration

@pytest.mark.parametrize('reading', ['operator', 'power', 'matrix'])
def test_readings(reading):
    net, x = made(NETS['conv']), images()
    norms = {r: [m.norm(r) for m in linear_maps(net, x)] for r in ('operator', 'power', 'matrix')}
    assert math.isclose(product_bound(net, x, reading).value, 2*math.prod(norms[reading]), rel_tol=1e-9)
    assert all(m < p <= o*(1 + 1e-12) for m, p, o in list(zip(*(norms[r] for r in ('matrix', 'power', 'operator'))))[:1])
    with pytest.raises(InputError, match="did you mean 'operator'"): product_bound(net, x, 'operators')

def test_linear_maps_in_running_order_with_their_shapes():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.first, self.unused = nn.Linear(4, 4), nn.Conv2d(2, 4, 3), nn.Linear(2, 2)
            self.pool = nn.AdaptiveAvgPool2d(1)
        def forward(self, x): return self.last(self.last(self.pool(self.first(input=x)).flatten(1)))
    maps = linear_maps(made(Net), images())
    assert [(m.path, m.shape) for m in maps] == [('first', (2, 6, 6)), ('pool', (4, 4, 4)), ('last', (4,)), ('last', (4,))]

def test_nothing_is_left_behind():
    net, x = made(NETS['normed']).train(), images().requires_grad_()
    net[3].eval()
    kept = x.detach().clone()
    for w in net.parameters(): w.grad = torch.ones_like(w)
    net[0].weight.requires_grad_(False)
    before = copy.deepcopy(net.state_dict())
    for act in (linear_maps, product_bound, measured_slope, lambda n, _: operator_norm(n[0], (2, 6, 6)), lambda n, _: operator_bound(n[0], (2, 6, 6))): act(net, x)
    with pytest.raises(InputError): product_bound(nn.Sequential(net, nn.Softmax(1)), x)
    with pytest.raises(RuntimeError): linear_maps(net, images(1, (3, 6, 6)))
    assert [m.training for m in net] == [True, True, True, False, True] and net.training
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in before.items())
    assert all((w.grad == 1).all() for w in net.parameters() if w is not net[0].weight) and not net[0].weight.requires_grad and net[4].weight.requires_grad
    assert x.grad is None and x.requires_grad and torch.equal(x.detach(), kept)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


# --- slopes

def test_slopes_against_loops():
    net, x = made(NETS['conv']), images(5)
    net.eval()
    z, slope = net(x).detach(), measured_slope(net, x, batch_size=2)
    pairs = [(z[i] - z[j], (x[i] - x[j]).norm()) for i, j in itertools.combinations(range(5), 2)]
    jacobians = [torch.autograd.functional.jacobian(lambda o: net(o[None])[0], o).flatten(1) for o in x]
    assert math.isclose(slope.pairs, max((d.norm()/r).item() for d, r in pairs), rel_tol=1e-12)
    assert torch.allclose(slope.class_pairs, torch.stack([d.abs()/r for d, r in pairs]).amax(0), rtol=1e-12)
    assert math.isclose(slope.gradient, max(torch.linalg.matrix_norm(J, 2).item() for J in jacobians), rel_tol=1e-10)
    assert torch.allclose(slope.class_gradients, torch.stack([J.norm(dim=1) for J in jacobians]).amax(0), rtol=1e-10)

def test_a_linear_network_meets_its_bound():
    net, x = nn.Sequential(nn.Flatten(), made(lambda: nn.Linear(72, 4))), images(4)
    slope, bound = measured_slope(net, x), product_bound(net, x)
    assert math.isclose(slope.gradient, bound.value, rel_tol=1e-12) and torch.allclose(slope.class_gradients, bound.classes, rtol=1e-12)
    top = operator_norm(net[1], (72,)).vector.view(1, 2, 6, 6)
    assert math.isclose(measured_slope(net, x, x + .1*top).pairs, bound.value, rel_tol=1e-10)

def test_images_that_are_nearly_the_same_do_not_measure_rounding():
    net = made(NETS['mlp']).float()
    x = images(1).float().expand(4, -1, -1, -1) + 1e-6*torch.arange(4.)[:, None, None, None]
    assert measured_slope(net, x).pairs == 0 and measured_slope(net, x[:1]).pairs == 0
    assert measured_slope(net, x, least=1e-9).pairs > 0

def test_slopes_do_not_depend_on_the_size_of_batches():
    net, x = made(NETS['functional']), images(70)
    a, b = (measured_slope(net, x, batch_size=n) for n in (7, 100))
    assert math.isclose(a.value, b.value, rel_tol=1e-10) and torch.allclose(a.classes, b.classes, rtol=1e-10)


# --- bad input

@pytest.mark.parametrize('call, said', [
    (lambda: operator_norm(nn.Conv2d(2, 3, 3), (3, 6, 6)), r'give the shape of one input, \(2, H, W\)'), (lambda: operator_norm(nn.Conv2d(2, 3, 3), (2, 6)), r'\(2, H, W\)'),
    (lambda: operator_norm(nn.Conv1d(2, 3, 3), (2, 6, 6)), r'\(2, L\)'), (lambda: operator_bound(nn.Linear(5, 2), (6,)), r'\(…, 5\)'),
    (lambda: operator_norm(nn.ReLU(), (6,)), 'a ReLU is not known to be linear'),
    (lambda: operator_norm(nn.Conv2d(2, 3, 3), (2, 6, 6), start=torch.ones(3)), r'start has shape \(3,\)'), (lambda: operator_norm(nn.Conv2d(2, 3, 3), (2, 6, 6), steps=0), r'steps=0\)'),
    (lambda: operator_norm(nn.Conv2d(2, 3, 3), (2, 2, 6)), 'smaller than the kernel'), (lambda: matrix_norm(torch.ones(3)), 'two or more axes'), (lambda: matrix_norm(torch.full((2, 2), torch.nan)), 'NaN or Inf'),
    (lambda: power_iteration(lambda v: v, lambda v: v, torch.zeros(3)), 'start'), (lambda: linear_maps(nn.Linear(2, 2), torch.ones(0, 2)), 'at least one image'), (lambda: product_bound(3, images()), 'must be a torch.nn.Module'),
    (lambda: measured_slope(nn.Flatten(), images(), images(2)), 'a partner for each'), (lambda: measured_slope(nn.Flatten(), images(), least=0), r'least=0\)'), (lambda: random_start_factor(0, 3), r'size=0\)'),
    (lambda: random_start_factor(3, 3, 2), r'failure=2\)'), (lambda: pooling_norm(nn.ReLU(), (1, 2, 2)), 'no average pooling')])
def test_bad_input_is_named(call, said):
    with pytest.raises(InputError, match=said): call()

def test_weights_that_are_not_finite_are_refused():
    layer = conv(dict(padding=1))
    with torch.no_grad(): layer.weight[0, 0, 0, 0] = torch.inf
    for norm in (operator_norm, operator_bound, torus_bound):
        with pytest.raises(InputError, match='NaN or Inf'): norm(layer, (4, 6, 6))
