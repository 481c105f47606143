"""Convolutional networks of bounded slope, and convolutions that keep every length: against dense operators, witnesses and another package."""
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import locallearning as ll
from locallearning.attacks.ascent import maximise
from locallearning.convnets import ResNet
from locallearning.core import InputError
from locallearning.data import load
from locallearning.lipschitz.layers import GroupSort
from locallearning.lipschitz.networks import BlendedBlock, BlockOrthogonal, LeNet, LipschitzConvNet, LipschitzResNet, MeanPool, widened
from locallearning.lipschitz.orthogonal import Bjorck, SpectralNormalized, bake
from locallearning.lipschitz.projections import L1Rows
from locallearning.models import evaluating, parametrize, read
from locallearning.probes.norms import linear_maps, operator_bound, operator_norm
from locallearning.probes.slopes import measured_slope, product_bound
from locallearning.recipes import build_recipe
from locallearning.state import load_model, model_key, seeded, stream
from locallearning.training import build_model, fit, train_model

HERE = ['locallearning.lipschitz.networks']
DATA = load('mnist5k(per_class=3, test=50)')

# name → how it is built, for small images of one channel
NETWORKS = {
    'conv': lambda **k: LipschitzConvNet(1, 8, 4, channels=(8, 12), kernels=3, strides=(2, 1, 1), **k),
    'conv, even kernels': lambda **k: LipschitzConvNet(1, 8, 4, channels=(8, 12), kernels=(4, 4, 1), strides=(2, 2, 1), padding=1, **k),
    'LeNet': lambda **k: LeNet(1, 16, 4, channels=(4, 6), width=12, **k),
    'LeNet, mean': lambda **k: LeNet(1, 16, 4, channels=(4, 6), width=12, pool='mean', **k),
    'ResNet': lambda **k: LipschitzResNet(1, 8, 4, blocks=(1, 2), width=4, **k),
    'ResNet, wide': lambda **k: LipschitzResNet(1, 8, 4, blocks=(1, 1), width=4, widen=2, share=.2, **k)}
each = pytest.mark.parametrize('make', NETWORKS.values(), ids=NETWORKS)
pieces = pytest.mark.parametrize('piece', [Bjorck(), BlockOrthogonal()], ids=repr)


def images(n=8, seed=0, side=8, channels=1): return torch.rand(n, channels, side, side, generator=stream(seed, 'x'))


def shown(model, n=8, seed=0): return images(n, seed, model.image_size, model.in_channels)


def net(make, piece=None, **k):
    with seeded(0, 'init'): model = make(**k)
    return (parametrize(model, piece) if piece else model).eval()


def apart(model, x, norm):
    "Partners of the images that an ascent has moved as far apart in the logits as it could."
    with torch.no_grad(): at = model(x)
    order = 2 if norm == 2 else math.inf
    start = x + .01*torch.randn(x.shape, generator=stream(1, 'start'))
    return maximise(lambda z: (model(z) - at).norm(order, dim=1), x, .5, norm, steps=10, bounds=None, start=start)


# --- the bound

@each
@pieces
def test_no_network_is_steeper_than_its_slope(make, piece, slope=7.):
    model = net(make, piece, slope=slope)
    x = shown(model)
    bound = product_bound(model, x).value
    assert bound <= slope*(1 + 1e-4)
    slopes = measured_slope(model, x), measured_slope(model, x, apart(model, x, 2))
    assert all(0 < s.value <= bound*(1 + 1e-5) for s in slopes)


@each
def test_what_an_ascent_finds_is_steeper_than_random_pairs(make):
    "Or the test above would say little."
    model = net(make, BlockOrthogonal())
    x = shown(model)
    assert measured_slope(model, x, apart(model, x, 2)).pairs > measured_slope(model, x, shown(model, seed=5)).pairs


@each
def test_for_largest_changes_the_slope_is_that_of_rows(make, slope=7.):
    model = net(make, L1Rows(), slope=slope, norm='inf')
    x = shown(model)
    bound = product_bound(model, x, norm='inf').value
    assert bound <= slope*(1 + 1e-4)
    for s in (measured_slope(model, x, norm='inf'), measured_slope(model, x, apart(model, x, 'inf'), norm='inf')): assert 0 < s.value <= bound*(1 + 1e-5)


@each
def test_the_slope_is_spread_over_the_layers_without_loss(make):
    "Fifty times the slope is fifty times the bound; and where each layer has norm one but for its border, that is nearly the slope itself."
    bounds = {slope: product_bound(model := net(make, BlockOrthogonal(), slope=slope), shown(model)).value for slope in (1., 50.)}
    assert bounds[50.] == pytest.approx(50*bounds[1.], rel=1e-5) and bounds[1.] > .95
    model = net(make, L1Rows(onto='sphere'), slope=50., norm='inf')
    assert product_bound(model, shown(model), norm='inf').value == pytest.approx(50, rel=1e-4)


@each
def test_a_spectral_norm_comes_from_below_and_nearly_bounds(make):
    "Its power iteration has arrived within some percent after thirty rounds."
    model = net(make, SpectralNormalized()).train()
    for _ in range(30): model(shown(model, 2))
    assert product_bound(model, shown(model)).value <= 1.1


@pytest.mark.parametrize('make', [NETWORKS[k] for k in ('conv', 'LeNet', 'ResNet')], ids=['conv', 'LeNet', 'ResNet'])
@pytest.mark.parametrize('name, size', [ ('maxmin', 2), ('maxout', 2), ('fullsort', 2), ('relu', 2), ('abs', 2), ('tanh', 2)])
def test_any_activation_fits_and_keeps_the_bound(make, name, size):
    model = net(make, Bjorck(), activation=name, size=size)
    out = read(model, shown(model))
    assert out.logits.shape == (8, 4) and product_bound(model, shown(model)).value <= 1 + 1e-4


@pytest.mark.parametrize('name', ['maxmin', 'maxout'])
@pytest.mark.parametrize('make', [LipschitzConvNet, LeNet, LipschitzResNet])
def test_layers_after_an_activation_that_leaves_fewer_features_are_narrower(make, name):
    sizes = {LipschitzConvNet: dict(channels=(12, 8)), LeNet: dict(in_channels=3, image_size=32, channels=(12, 8), width=8), LipschitzResNet: dict(blocks=(1, 1), width=8)}[make]
    model, left = make(activation=name, size=4, **sizes), {'maxmin': 2, 'maxout': 4}[name]
    assert model(shown(model, 2)).shape == (2, 10)
    inner = [m for m in model.modules() if isinstance(m, nn.Conv2d)][1]
    assert inner.in_channels == (8 if make is LipschitzResNet else 12)//left


@pytest.mark.parametrize('piece, strides', [(Bjorck(), (2, 1, 1)), (BlockOrthogonal(), 1)])
def test_a_circular_border_is_bounded_too(piece, strides):
    model = net(lambda: LipschitzConvNet(1, 8, 4, channels=(4, 4), kernels=3, strides=strides, padding_mode='circular'), piece)
    assert 0 < measured_slope(model, images()).value <= product_bound(model, images()).value <= 1 + 1e-4


@pytest.mark.parametrize('given, said', [
    (dict(padding_mode='reflect'), "padding_mode='reflect'"), (dict(padding_mode='replicate'), "padding_mode='replicate'"),
    (dict(kernels=2, strides=2, padding=1, padding_mode='circular'), 'more is wrapped around'), (dict(norm=1), 'norm=1'), (dict(slope=0), 'slope=0'),
    (dict(strides=(2, 2)), 'or 4, one for each convolution'), (dict(kernels=0), 'kernels'), (dict(channels=()), 'must be a tuple'),
    (dict(activation='grupsort'), 'groupsort'), (dict(size=5), 'groups of 5'), (dict(image_size=3, kernels=5, padding=0), 'leaves no position')])
def test_a_network_that_cannot_be_bounded_or_built_says_why(given, said):
    with pytest.raises(InputError, match=said): LipschitzConvNet(**given)


@pytest.mark.parametrize('make, said', [
    (lambda: LeNet(image_size=15), 'image_size=15'), (lambda: LeNet(channels=(10,)), 'two numbers'), (lambda: LeNet(pool='avg'), 'pool'),
    (lambda: LipschitzResNet(share=0), 'share'), (lambda: LipschitzResNet(share=1.), 'below 1'), (lambda: LipschitzResNet(widen=0), 'widen'),
    (lambda: LipschitzResNet(blocks=()), 'must be a tuple'), (lambda: MeanPool(-1), 'size'), (lambda: MeanPool(norm='2'), 'Euclidean'),
    (lambda: LeNet()(torch.rand(1, 1, 32, 32)), 'made for N×1×28×28')])
def test_settings_that_make_no_sense_are_refused(make, said):
    with pytest.raises(InputError, match=said): make()


# --- sizes

def weights(model): return sum(w.numel() for w in model.parameters() if w.ndim > 1)
def parameters(model): return sum(w.numel() for w in model.parameters())


def test_lenet_has_its_published_size():
    "260 + 5020 + 16050 + 510."
    assert parameters(LeNet()) == 21_840 and parameters(LeNet(activation='maxmin')) == 21_840
    assert [tuple(m.shape) for m in linear_maps(LeNet(), torch.zeros(1, 1, 28, 28))] == [(1, 28, 28), (10, 12, 12), (320,), (50,)]


def test_resnet_32_has_the_weights_of_the_plain_one():
    with torch.device('meta'): ours, plain = LipschitzResNet(), ResNet(width=16, blocks=(5, 5, 5), norm='batch')
    assert weights(ours) == weights(plain) == 464_432
    assert parameters(ours) - weights(ours) == 16 + 10*16 + 10*32 + 32 + 10*64 + 64 + 10 + 15, 'biases, and fifteen shares'


@pytest.mark.parametrize('depth, widen, millions', [(28, 10, 36.5), (16, 8, 11.0), (40, 4, 8.9)])
def test_wide_networks_are_as_wide_as_published(depth, widen, millions):
    "Zagoruyko & Komodakis 2016, table 4 and 5, to the digit that they print."
    with torch.device('meta'): model = LipschitzResNet(blocks=((depth - 4)//6,)*3, widen=widen)
    assert round(weights(model)/1e6, 1) == millions


def test_fully_convolutional_sizes():
    model = LipschitzConvNet(1, 28, channels=(64, 128), kernels=(4, 4, 7), strides=(2, 2, 1), padding=1)
    assert parameters(model) == (16*64 + 64) + (16*64*128 + 128) + (49*128*10 + 10)
    assert [m.shape for m in linear_maps(model, torch.zeros(1, 1, 28, 28))] == [(1, 28, 28), (64, 14, 14), (128, 7, 7)]


@each
def test_groups_lie_along_the_channels_and_roles_are_what_they_say(make):
    model = net(make)
    x = shown(model)
    out = read(model, x)
    torch.testing.assert_close(model.scale(model.readout(out.features)), out.logits)
    if 'hidden' in model.roles: assert GroupSort(2)(out.hidden).equal(out.features)
    first = read(model, x, next(path for path, m in model.named_modules() if isinstance(m, GroupSort))).layer
    assert (first[:, ::2] <= first[:, 1::2]).all() and not (first[:, 1:-1:2] <= first[:, 2::2]).all()


def test_dropout_and_bias_are_fields():
    model = LeNet(dropout=True, bias=False)
    assert [type(m).__name__ for m in model.modules() if 'Dropout' in type(m).__name__] == ['Dropout2d', 'Dropout']
    for make in NETWORKS.values(): assert all(m.bias is None for m in make(bias=False).modules() if isinstance(m, (nn.Conv2d, nn.Linear)))


# --- poolings and shortcuts

def dense(module, channels, side):
    return module(torch.eye(channels*side**2, dtype=torch.float64).view(-1, channels, side, side)).flatten(1).T.detach()


@pytest.mark.parametrize('size', [0, 1, 2, 3])
def test_scaled_means_are_orthonormal_rows(size):
    for side in (6, 7):
        A = dense(MeanPool(size), 2, side)
        torch.testing.assert_close(A @ A.T, torch.eye(len(A), dtype=torch.float64), rtol=0, atol=1e-12)
        plain = dense(MeanPool(size, norm='inf'), 2, side)
        torch.testing.assert_close(plain.abs().sum(1), torch.ones(len(plain), dtype=torch.float64), rtol=0, atol=1e-12)


def test_windows_that_share_a_pixel_stretch_and_others_do_not():
    "A single bright pixel, which four windows of 3×3 hold and one of 2×2."
    x = torch.zeros(2, 1, 9, 9)
    x[1, 0, 4, 4] = 1
    def quotient(pool, order): return ((pool(x)[1] - pool(x)[0]).flatten().norm(order)/(x[1] - x[0]).flatten().norm(order)).item()
    assert [quotient(pool, o) for pool in (nn.MaxPool2d(2), nn.MaxPool2d(3, 2)) for o in (2, math.inf)] == [1, 1, 2, 1]
    z, w = images(200, side=8), images(200, 1, side=8)
    for order in (2, math.inf):
        moved = (F.max_pool2d(z, 2) - F.max_pool2d(w, 2)).flatten(1).norm(order, dim=1)
        assert (moved <= (z - w).flatten(1).norm(order, dim=1)).all()


@pytest.mark.parametrize('share', [-40., -1., 0., 3., 40.])
@pytest.mark.parametrize('norm, piece', [(2, BlockOrthogonal()), ('inf', L1Rows(onto='sphere'))])
def test_a_blend_has_slope_one_whatever_is_learnt(share, norm, piece):
    with seeded(0, 'init'): block = parametrize(BlendedBlock(4, 4, 1, 'groupsort', 2, 3., .5, True), piece).eval()
    with torch.no_grad(): block.share.fill_(share)
    x = images(4, channels=4, side=6)
    assert product_bound(block, x, norm=norm).value == pytest.approx(3, rel=1e-3)


def test_the_share_is_learnt():
    model = net(NETWORKS['ResNet'], BlockOrthogonal()).train()
    F.cross_entropy(model(images()), torch.arange(8) % 4).backward()
    assert all(b.share.grad.abs() > 0 for b in model.modules() if isinstance(b, BlendedBlock))


# --- convolutions that keep every length

def on_torus(kernel, side, stride):
    "The dense matrix of a kernel on images that wrap around, the stride dividing their sides."
    h, w = kernel.shape[2:]
    unit = torch.eye(kernel.shape[1]*side**2, dtype=kernel.dtype).view(-1, kernel.shape[1], side, side)
    return F.conv2d(F.pad(unit, [0, w - stride[1], 0, h - stride[0]], mode='circular'), kernel, stride=stride).flatten(1).T


def made(layer, piece=BlockOrthogonal()):
    return parametrize(nn.Sequential(layer), piece)[0]


SIZES = [(4, 8, (3, 3), (1, 1)), (8, 4, (3, 3), (1, 1)), (5, 5, (5, 5), (1, 1)), (1, 10, (5, 5), (1, 1)), (1, 1, (3, 3), (1, 1)), (3, 4, (1, 5), (1, 1)),
         (4, 8, (3, 3), (2, 2)), (4, 8, (4, 4), (2, 2)), (3, 13, (3, 3), (2, 2)), (4, 20, (4, 4), (2, 2)), (16, 4, (3, 3), (2, 2)), (2, 7, (2, 2), (2, 2)),
         (2, 9, (2, 2), (2, 2)), (2, 3, (5, 3), (1, 2)), (4, 2, (1, 1), (1, 1))]


@pytest.mark.parametrize('size', SIZES, ids=str)
def test_every_singular_value_of_the_map_is_one(size):
    inputs, outputs, kernel, stride = size
    with seeded(0, 'init'): layer = made(nn.Conv2d(inputs, outputs, kernel, stride).double())
    assert layer.weight.shape == (outputs, inputs, *kernel)
    S = torch.linalg.svdvals(on_torus(layer.weight.detach(), 6, stride))
    torch.testing.assert_close(S, torch.ones_like(S), rtol=0, atol=1e-6)


@pytest.mark.parametrize('size', SIZES, ids=str)
@pytest.mark.parametrize('steps', [1, 3, 20])
def test_far_from_orthonormal_matrices_still_stretch_nothing(size, steps):
    "Free matrices of singular values down to a thousandth, and too few steps."
    inputs, outputs, kernel, stride = size
    with seeded(0, 'init'): layer = made(nn.Conv2d(inputs, outputs, kernel, stride, padding=1).double(), BlockOrthogonal(steps))
    with torch.no_grad():
        for w in layer.parametrizations.weight.parameters():
            w.copy_(w * torch.logspace(-3, 1, w.shape[-1], dtype=torch.float64))
    for A in (on_torus(layer.weight.detach(), 6, stride), layer._conv_forward(torch.eye(inputs*36).double().view(-1, inputs, 6, 6), layer.weight, None).flatten(1).T.detach()):
        assert torch.linalg.matrix_norm(A, 2) <= 1 + 1e-9


@pytest.mark.parametrize('options', [dict(padding=1), dict(padding='same'), dict(padding=2), dict(padding='same', padding_mode='circular'), dict(dilation=2, padding=2),
                                     dict(dilation=2, padding='same', padding_mode='circular'), dict(stride=2, padding=1), dict(stride=3)], ids=str)
def test_no_border_stretches(options):
    with seeded(0, 'init'): layer = made(nn.Conv2d(4, 6, 3, bias=False, **options).double())
    S = torch.linalg.svdvals(dense(layer, 4, 7))
    assert .9 < S[0] <= 1 + 1e-6
    if options.get('padding_mode'): torch.testing.assert_close(S, torch.ones_like(S), rtol=0, atol=1e-6)
    assert operator_bound(layer, (4, 7, 7)) <= 1 + 1e-6


def test_signals_and_dense_layers_are_covered():
    with seeded(0, 'init'): layer = made(nn.Conv1d(3, 5, 4, padding=3, bias=False).double())
    A = layer(torch.eye(30).double().view(-1, 3, 10)).flatten(1).T.detach()
    torch.testing.assert_close(A.T @ A, torch.eye(30, dtype=torch.float64), rtol=0, atol=1e-6, msg='with as much padding as this no border is lost')
    for shape in ((6, 4), (4, 6), (5, 5)):
        S = torch.linalg.svdvals(made(nn.Linear(*shape)).weight)
        torch.testing.assert_close(S, torch.ones_like(S), rtol=0, atol=1e-5)


@pytest.mark.parametrize('size', [(2, 3, (3, 3), (1, 1)), (3, 2, (3, 3), (2, 2))], ids=str)
def test_the_gradient_passes_through_the_construction(size):
    inputs, outputs, kernel, stride = size
    with seeded(0, 'init'): layer = made(nn.Conv2d(inputs, outputs, kernel, stride).double(), BlockOrthogonal(steps=4, tol=0))
    free = [w.detach().clone().mul_(1.3).requires_grad_() for w in layer.parametrizations.weight.parameters()]
    assert torch.autograd.gradcheck(layer.parametrizations.weight[0], free)


@pytest.mark.parametrize('layer, said', [
    (nn.Conv2d(4, 8, 3, groups=2), 'groups=2'), (nn.Conv2d(4, 8, 3, stride=2, dilation=2), r'dilation=\(2, 2\)'), (nn.ConvTranspose2d(4, 8, 3), 'ConvTranspose2d'),
    (nn.Conv2d(4, 8, 3, stride=2, padding=1, padding_mode='circular'), r"stride=\(2, 2\), padding=\(1, 1\), padding_mode='circular'"), (nn.Conv3d(1, 2, 3), 'Conv3d'),
    (nn.Conv2d(4, 8, 3, padding=1, padding_mode='reflect'), 'reflect'), (nn.Conv2d(4, 8, 2, padding=1, padding_mode='circular'), 'more is wrapped around')])
def test_layers_that_it_cannot_make_are_refused(layer, said):
    with pytest.raises(InputError, match=said): made(layer)


def test_a_wrapped_image_that_the_stride_does_not_divide_does_stretch():
    "Why it is refused: the same kernel on a torus of 7, whose last patch overlaps the first."
    with seeded(0, 'init'): kernel = made(nn.Conv2d(2, 8, 3, 2)).weight.detach().double()
    unit = torch.eye(2*49, dtype=torch.float64).view(-1, 2, 7, 7)
    A = F.conv2d(F.pad(unit, [1, 1, 1, 1], mode='circular'), kernel, stride=2).flatten(1)
    assert torch.linalg.matrix_norm(A, 2) > 1.05


def test_it_begins_by_the_weight_alone_and_draws_nothing_from_outside():
    def start(seed, before):
        with seeded(seed, 'init'): layer = nn.Conv2d(3, 4, 3)
        torch.manual_seed(before)
        expected = torch.rand(1, generator=torch.Generator().manual_seed(before))
        kernel = made(layer).weight.detach()
        assert torch.rand(1).equal(expected)
        return kernel
    assert start(0, 1).equal(start(0, 2)) and not start(0, 1).allclose(start(1, 1))


def test_looking_at_it_changes_nothing():
    model = net(NETWORKS['LeNet'], BlockOrthogonal())
    x = shown(model)
    key, before = model_key(model), model(x)
    assert model(x).equal(before) and model.train()(x).equal(before) and model_key(model) == key
    with evaluating(model): torch.testing.assert_close(bake(model)(x), before, rtol=0, atol=1e-5)


@pytest.mark.parametrize('model, piece', [
    ('LipschitzConvNet(channels=(4, 6))', 'BlockOrthogonal()'), ('LeNet(channels=(4, 6), width=8)', 'BlockOrthogonal(steps=15)'),
    ("LeNet(channels=(4, 6), width=8, pool='mean')", 'Bjorck()'), ('LipschitzResNet(blocks=(1, 1), width=4)', 'BlockOrthogonal()')])
def test_recipes_take_sizes_from_the_data_and_a_trained_network_comes_back(tmp_path, model, piece):
    net = build_model(model, [piece], HERE, seed=3, in_channels=1, image_size=28, classes=10)
    found = train_model(repr(net), DATA, parametrizations=[piece], epochs=2, batch_size=15, lr=.01, folder=tmp_path, seed=3, modules=HERE, net=net)
    back, x = load_model(found['checkpoint'], modules=HERE), DATA.test.x
    assert ll.accuracy(back, DATA.test) == found['test_accuracy'] and product_bound(back, x).value <= 1 + 1e-4
    assert repr(build_recipe(repr(back), HERE)) == repr(back) and back.image_size == 28


def test_a_training_that_was_interrupted_ends_at_the_same_weights(tmp_path):
    def run(folder, epochs):
        model = net(lambda: LeNet(channels=(4, 6), width=8), BlockOrthogonal())
        fit(model, DATA, epochs=epochs, batch_size=10, folder=folder, evals=dict(test=DATA.test) if epochs == 3 else None)
        return model.state_dict()
    whole = run(tmp_path/'a', 3)
    run(tmp_path/'b', 2)
    assert all(v.equal(w) for v, w in zip(whole.values(), run(tmp_path/'b', 3).values(), strict=True))


def test_it_keeps_more_of_the_slope_than_a_matrix_does():
    "Thirty-two convolutions in a row: gradient attenuation, Li et al. 2019."
    x = images(4, side=32, channels=3)
    steep = {type(p).__name__: measured_slope(net(LipschitzResNet, p), x).gradient for p in (Bjorck(), BlockOrthogonal())}
    assert steep['Bjorck'] < 1e-4 and steep['BlockOrthogonal'] > 50*steep['Bjorck']


# --- another package

REASON = 'orthogonium, of the extra peers, is not installed'


def test_compositions_are_those_of_orthogonium():
    theirs = pytest.importorskip('orthogonium.layers.conv.AOC.fast_block_ortho_conv', reason=REASON)
    V = [torch.linalg.qr(torch.randn(6, 3, generator=stream(i, 'V'), dtype=torch.float64)).Q for i in range(4)]
    kernel = expected = torch.eye(6, dtype=torch.float64).view(6, 6, 1, 1)
    for i, v in enumerate(V):
        kernel, near = widened(kernel, v, i % 2, False), v @ v.T
        taps = torch.stack([near, torch.eye(6) - near], -1)
        expected = theirs.fast_matrix_conv(expected, taps[:, :, :, None] if i % 2 == 0 else taps[:, :, None, :])
    torch.testing.assert_close(kernel, expected, rtol=0, atol=1e-12)
    pairs = theirs.block_orth(*(v.matmul(v.T)[None, None] for v in (V[1], V[0])))
    two = widened(widened(torch.eye(6, dtype=torch.float64).view(6, 6, 1, 1), V[0], 0, False), V[1], 1, False)
    torch.testing.assert_close(two, pairs[0].transpose(-1, -2), rtol=0, atol=1e-12)


@pytest.mark.parametrize('size', [(4, 8, 3, 1), (8, 4, 3, 1), (4, 8, 3, 2), (16, 4, 3, 2)], ids=str)
@pytest.mark.parametrize('mode', ['circular', 'zeros'])
def test_layers_of_orthogonium_pass_the_same_probes(size, mode):
    AOC = pytest.importorskip('orthogonium.layers.conv.AOC', reason=REASON)
    inputs, outputs, kernel, stride = size
    with seeded(0, 'init'): layer = AOC.AdaptiveOrthoConv2d(inputs, outputs, kernel, stride=stride, padding=1, padding_mode=mode, bias=False).eval()
    S = torch.linalg.svdvals(layer(torch.eye(inputs*64).view(-1, inputs, 8, 8)).flatten(1).detach())
    assert .99 < operator_norm(layer, (inputs, 8, 8)).value <= operator_bound(layer, (inputs, 8, 8))*(1 + 1e-5) and S[0] <= 1 + 1e-5
    if mode == 'circular': torch.testing.assert_close(S, torch.ones_like(S), rtol=0, atol=1e-5)


def test_a_network_of_such_layers_is_bounded_and_baked():
    AOC = pytest.importorskip('orthogonium.layers.conv.AOC', reason=REASON)
    def conv(*size, **k): return AOC.AdaptiveOrthoConv2d(*size, padding=1, padding_mode='zeros', **k)
    with seeded(0, 'init'): model = nn.Sequential(conv(1, 4, 3), GroupSort(2), conv(4, 8, 4, stride=2), GroupSort(2), MeanPool(0)).eval()
    x = images()
    assert product_bound(model, x).value == pytest.approx(1, abs=1e-3) and measured_slope(model, x).value <= 1 + 1e-4
    torch.testing.assert_close(bake(model)(x), model(x), rtol=0, atol=1e-4)
