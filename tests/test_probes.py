"""Spectra, exponents, Jacobians and planes against independent forms; the published exponents on exact pixels."""
import copy
import os
from pathlib import Path
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn
from locallearning.probes import landscapes as L
from locallearning.probes import spectra as P
from locallearning.core import InputError
from locallearning.splits import Split, gaussian_noise
from locallearning.models import SHLP, LpUnit, MLP, Power, prepend
from locallearning.figures.probes import plot_spectrum
from locallearning.state import seeded, stream


def images(n=60, shape=(1, 5, 6), seed=0): return torch.rand(n, *shape, generator=stream(seed, 'images'))


def shlp(width=20, dtype=torch.float64, **kwargs):
    with seeded(0, 'init'): return SHLP(30, width=width, classes=4, **kwargs).to(dtype).eval()


def numpy_spectrum(h): return np.linalg.eigvalsh(np.cov(np.asarray(h, dtype=float).reshape(len(h), -1).T))[::-1]


class Convnet(nn.Module):
    "A network of somebody else: no roles, batch norm, dropout."
    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.drop, self.head = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Dropout(.5), nn.Linear(3*3*4, 4)
    def forward(self, x): return self.head(self.drop(torch.tanh(self.bn(self.conv(x)))).flatten(1))


# Spectra

@pytest.mark.parametrize('n', [60, 31])
def test_spectrum_is_that_of_numpys_covariance(n):
    x = images(n)
    assert np.allclose(P.spectrum(x).values, numpy_spectrum(x), rtol=1e-9, atol=1e-13)
    model = shlp()
    h = x.double().flatten(1) @ model.hidden.weight.detach().T
    assert np.allclose(P.spectrum(model, x, 'hidden').values, numpy_spectrum(h), rtol=1e-9, atol=1e-13)
    assert np.allclose(P.spectrum(model, x).values, numpy_spectrum(h.relu()), rtol=1e-9, atol=1e-13)


def test_gram_side_gives_the_nonzero_eigenvalues():
    x = images(12)
    spec = P.spectrum(x)
    assert (spec.samples, spec.width, len(spec.values)) == (12, 30, 12)
    assert np.allclose(spec.values, numpy_spectrum(x)[:12], rtol=1e-9, atol=1e-14)


def test_wide_layers_go_through_the_gram_matrix_in_blocks():
    h = torch.randn(6, 9001, generator=stream(0))
    z = h.double() - h.double().mean(0)
    assert torch.allclose(P.gram(h), z @ z.T / 5)


@given(st.integers(1, 70))
@settings(max_examples=15, deadline=None)
def test_batch_size_does_not_matter(size):
    x = images()
    assert np.allclose(P.spectrum(x, batch_size=size).values, P.spectrum(x).values, rtol=1e-10, atol=1e-14)


def test_split_tuple_and_tensor_are_one():
    x, y = images(), torch.zeros(60, dtype=torch.long)
    values = P.spectrum(x).values
    for same in ((x, y), Split(x, y), x.flatten(1)): assert torch.equal(P.spectrum(same).values, values)


def test_units_first_or_chosen():
    x = images()
    assert torch.equal(P.spectrum(x, units=7).values, P.spectrum(x.flatten(1)[:, :7]).values)
    assert torch.equal(P.spectrum(x, units=[3, 1, 20]).values, P.spectrum(x.flatten(1)[:, [3, 1, 20]]).values)


def test_float32_activations_are_never_accumulated_in_float32():
    "Defect 22: sums in single precision flatten the tail at 1e-7 of the largest eigenvalue."
    mixing = torch.linalg.qr(torch.randn(30, 30, generator=stream(1)))[0]
    h = torch.randn(4000, 30, generator=stream(0)) * torch.logspace(0, -5, 30) @ mixing + 5
    truth = np.linalg.eigvalsh(np.cov(h.double().numpy().T))[::-1]
    assert np.allclose(P.spectrum(h, batch_size=100).values, truth, rtol=1e-4)
    z = h - h[:100].mean(0)
    single = torch.linalg.eigvalsh((z.T @ z - z.sum(0).outer(z.sum(0))/4000) / 3999).flip(0)
    assert abs(single[-1]) > 10*truth[-1]


def test_large_mean_does_not_eat_the_variance():
    h = images(50).double() + 1e6
    assert np.allclose(P.spectrum(h, batch_size=7).values, numpy_spectrum(h.numpy() - 1e6), rtol=1e-6, atol=1e-9)


def test_eigenvalues_are_real_sorted_and_not_negative():
    values = P.spectrum(images(40).expand(-1, -1, -1, -1).repeat(1, 2, 1, 1)).values
    assert values.dtype == torch.float64 and (values >= 0).all() and (values.diff() <= 0).all()


def test_modules_without_parameters_can_be_probed():
    "Defect 26: the original asked the first parameter of an identity for its device."
    x = images()
    flat = nn.Sequential(nn.Flatten(), nn.Identity())
    assert torch.equal(P.spectrum(flat, x, 'logits').values, P.spectrum(x).values)
    assert torch.equal(P.spectrum(flat, x, '1').values, P.spectrum(x).values)


def test_foreign_layers_by_path_in_eval_mode_and_mode_restored():
    model = Convnet().train()
    model.bn.running_mean.fill_(.3)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    spec = P.spectrum(model, images(), 'conv')
    assert spec.width == 36 and spec.layer == 'conv'
    first, second = P.spectrum(model, images()), P.spectrum(model, images(), batch_size=7)
    assert np.allclose(first.values, second.values, rtol=1e-4, atol=1e-9)  # dropout or batch statistics would differ
    assert model.training and model.drop.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_bad_input_is_named():
    x = images()
    with pytest.raises(InputError, match='two images or more'): P.covariance([x[:1].flatten(1)])
    with pytest.raises(InputError, match='at least two images; got 1'): P.spectrum(x[:1])
    with pytest.raises(InputError, match='NaN or Inf'): P.spectrum(torch.full((4, 3), torch.nan))
    with pytest.raises(InputError, match='no layer .*hiden.*hidden'): P.spectrum(shlp(), x, 'hiden')
    with pytest.raises(InputError, match='needs images'): P.spectrum(shlp())
    with pytest.raises(InputError, match='entropie.*entropy'): P.effective_dimension([1.], 'entropie')
    broken = shlp()
    broken.hidden.weight.data[0, 0] = torch.nan
    with pytest.raises(InputError, match="outputs of 'features' hold NaN"): P.spectrum(broken, x)


def test_sweep_takes_corners_of_one_covariance():
    x = images()
    sweep = P.size_sweep(x, sizes=[5, 10, 500])
    assert list(sweep) == [5, 10, 30]
    for m, spec in sweep.items(): assert np.allclose(spec.values, P.spectrum(x, units=m).values, rtol=1e-9, atol=1e-13)
    drawn = P.size_sweep(x, sizes=[5], generator=stream(0, 'units'))
    order = torch.randperm(30, generator=stream(0, 'units'))
    assert np.allclose(drawn[5].values, P.spectrum(x, units=order[:5]).values, rtol=1e-9, atol=1e-13)
    assert np.allclose(drawn[30].values, sweep[30].values, rtol=1e-9, atol=1e-13)


# Power laws

@given(st.floats(.01, 5), st.floats(1e-6, 1e6), st.integers(30, 900))
@settings(max_examples=50, deadline=None)
def test_exponent_of_an_exact_power_law(a, scale, width):
    fit = P.power_law(scale*np.arange(1., width + 1)**-a, (10, 500))
    assert fit.exponent == pytest.approx(a, rel=1e-6) and fit.r2 == pytest.approx(1)
    assert fit.intercept == pytest.approx(0, abs=1e-6) and fit.window[1] <= min(500, width)


def test_window_is_zero_based_and_open_at_its_end():
    values = np.arange(1., 1001)**-2.
    values[:10] = values[0]
    values[500:] = 1e-9
    fit = P.power_law(values, (10, 500))
    assert fit.exponent == pytest.approx(2) and fit.window == (10, 500)
    assert P.power_law(values, (9, 500)).exponent != pytest.approx(2) and P.power_law(values, (10, 501)).exponent != pytest.approx(2)


def test_zeros_are_left_out_and_said():
    values = np.concatenate([np.arange(1., 41)**-1.5, np.zeros(60)])
    fit = P.power_law(values, (10, 100))
    assert fit.window == (10, 40) and fit.exponent == pytest.approx(1.5)
    with pytest.raises(InputError, match=r'window \(39, 100\): the spectrum has 40 nonzero'): P.power_law(values, (39, 100))
    with pytest.raises(InputError, match='two ranks in order'): P.power_law(values, (20, 10))
    with pytest.raises(InputError, match='0 nonzero'): P.power_law(np.zeros(100))


def test_interval_has_the_width_of_the_scatter_between_samples():
    a = torch.arange(1, 61, dtype=torch.double)**-.75
    def draw(seed): return torch.randn(250, 60, generator=stream(seed, 'sample'), dtype=torch.double)*a
    exponents = [P.power_law(P.spectrum(draw(s)), (5, 40)).exponent for s in range(40)]
    halves = []
    for s in range(6):
        spectra = P.resampled_spectra(draw(s), generator=stream(s, 'bootstrap'), resamples=15)
        fit = P.power_law(P.spectrum(draw(s)), (5, 40), spectra=spectra)
        assert fit.low < fit.exponent < fit.high
        halves.append((fit.high - fit.low) / 2 / 2.145)
    assert np.mean(halves) == pytest.approx(np.std(exponents, ddof=1), rel=.4)


def test_resampling_follows_its_generator_and_counts_images():
    x = images(50)
    one, two = (P.resampled_spectra(x, generator=stream(1), resamples=2) for _ in range(2))
    assert all(torch.equal(a.values, b.values) for a, b in zip(one, two)) and not torch.equal(one[0].values, one[1].values)
    draw = torch.randint(50, (50,), generator=stream(1))
    assert np.allclose(one[0].values, numpy_spectrum(x[draw]), rtol=1e-8, atol=1e-12)


def scattered(r2, width=400):
    "Eigenvalues around n^-1.5 of which a line over ranks 11 to `width` explains the share `r2`."
    n = np.log(np.arange(1., width + 1))
    window = n[10:]
    line = window - window.mean()
    bend = line**2 - (line**2).mean()
    bend -= line * (bend @ line) / (line @ line)
    noise = np.zeros(width)
    noise[10:] = 1.5 * bend * np.sqrt((1 - r2)/r2 * (line @ line)/(bend @ bend))
    return np.exp(-1.5*n + noise)


@pytest.mark.parametrize('r2, holds', [(.999, True), (.9801, True), (.9799, False), (.5, False)])
def test_a_power_law_explains_98_percent_of_the_variance(r2, holds):
    fit = P.power_law(scattered(r2), (10, 400))
    assert fit.r2 == pytest.approx(r2, abs=1e-6) and fit.exponent == pytest.approx(1.5) and P.POWER_LAW_R2 == .98
    assert fit.holds == holds and fit.flags == (() if holds else ('no power law',))


def test_what_has_no_r2_is_no_power_law(): assert not P.PowerLaw(1.5, np.nan, 0., (10, 400)).holds


def test_without_resamples_there_is_no_interval():
    fit = P.power_law(np.arange(1., 100)**-1.)
    assert np.isnan(fit.low) and np.isnan(fit.high)


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=30), st.floats(1e-3, 1e3))
@settings(max_examples=50, deadline=None)
def test_effective_dimension_counts(values, scale):
    for kind in ('participation', 'entropy'):
        d = P.effective_dimension(values, kind)
        assert 1 - 1e-9 <= d <= len(values) + 1e-9
        assert P.effective_dimension([scale*v for v in values], kind) == pytest.approx(d)
        assert P.effective_dimension([values[0]]*7, kind) == pytest.approx(7)
    assert P.effective_dimension(values) <= P.effective_dimension(values, 'entropy') + 1e-9


def test_spectra_are_not_normalised_by_plotting_them():
    "Defect 22, second half."
    spec = P.spectrum(images())
    before = spec.values.clone()
    plot_spectrum(spec, P.power_law(spec, (3, 20)))
    assert torch.equal(spec.values, before)


# Jacobians

class PowerLayer(nn.Module):
    "A Krotov-Hopfield-like model: effective weights sign(W)|W|^(p-1), rectified power, closed form."
    roles = dict(hidden='layer', features='features')
    def __init__(self, p=3, n=4.5):
        super().__init__()
        w = torch.randn(20, 30, generator=stream(3), dtype=torch.double)
        self.layer, self.features, self.readout = nn.Linear(30, 20, bias=False).double(), Power(n), nn.Linear(20, 4).double()
        self.layer.weight.data = w.sign() * w.abs()**(p - 1)
    def effective_weight(self): return self.layer.weight
    def forward(self, x): return self.readout(self.features(self.layer(x.flatten(1))))


@pytest.mark.parametrize('model', [shlp(), shlp(n=2.5), shlp(activation='tanh'), shlp(batch_norm=True), PowerLayer()], ids=['relu', 'relu^2.5', 'tanh', 'bn', 'kh'])
def test_closed_form_equals_autograd(model):
    x = images(7).double()
    closed = L.jacobian_norm(model, x)
    assert torch.allclose(closed, L._autograd_norm(model, x, 'features', 7), rtol=1e-10)
    full = torch.autograd.functional.jacobian(lambda v: P.read(model, v).features.sum(0), x).permute(1, 0, 2, 3, 4).flatten(1)
    assert torch.allclose(closed, full.norm(dim=1), rtol=1e-10)


def test_jacobian_of_any_module_and_any_layer():
    model, x = Convnet().double(), images(4).double()
    model.train()
    norm = L.jacobian_norm(model, x, 'logits', batch_size=3, chunk=3)
    assert model.training and all(p.grad is None for p in model.parameters())
    model.eval()
    full = torch.autograd.functional.jacobian(lambda v: model(v).sum(0), x).permute(1, 0, 2, 3, 4).flatten(1)
    assert torch.allclose(norm, full.norm(dim=1), rtol=1e-10)
    linear = shlp()
    assert torch.allclose(L.jacobian_norm(linear, x, 'hidden'), linear.hidden.weight.norm().expand(4), rtol=1e-10)


def test_half_the_relus_active_gives_half_the_squared_norm():
    model = shlp(2000)
    x = torch.randn(50, 30, generator=stream(0), dtype=torch.double)
    ratio = L.jacobian_norm(model, x).square().mean() / model.hidden.weight.square().sum()
    assert ratio.item() == pytest.approx(.5, rel=.02)


# Planes and landscapes

@given(st.integers(0, 10**6), st.floats(.01, 100))
@settings(max_examples=25, deadline=None)
def test_planes_are_orthonormal_and_centred(seed, extent):
    x0 = images(1).double()[0]
    p = L.plane(x0, stream(seed, 'plane'), extent=extent, size=3)
    u, v = p.u.flatten(), p.v.flatten()
    assert torch.allclose(torch.stack([u @ u, v @ v, u @ v]), torch.tensor([1., 1, 0]).double(), atol=1e-12)
    grid = p.points()
    assert torch.equal(grid[1, 1], x0)
    assert (grid[0, 0] - x0).norm().item() == pytest.approx(extent * 2**.5)
    assert torch.allclose(p.points(slice(2, 3))[0], grid[2])


def test_published_grid_has_no_origin():
    "e and z run over linspace(-20, 20, 100)."
    steps = L.plane(images(1)[0], stream(0)).steps
    assert steps[0] == -20 and steps[-1] == 20 and len(steps) == 100 and steps.abs().min() > .1


def test_plane_through_three_images_holds_them():
    x0, a, b = images(3).double()
    p = L.plane(x0, images=(a, b))
    for image in (a, b):
        d = (image - x0).flatten()
        e, z = d @ p.u.flatten(), d @ p.v.flatten()
        assert torch.allclose(x0 + e*p.u + z*p.v, image, atol=1e-12)
    with pytest.raises(InputError, match='lie on a line'): L.plane(x0, images=(a, (x0 + a)/2))
    with pytest.raises(InputError, match='either a generator'): L.plane(x0)
    with pytest.raises(InputError, match='one image is needed'): L.plane(images(3), stream(0))


@pytest.mark.parametrize('model', [shlp(), shlp(n=2), shlp(activation='tanh'), PowerLayer()], ids=['relu', 'relu^2', 'tanh', 'kh'])
def test_affine_trick_equals_brute_force(model):
    p = L.plane(images(1).double()[0], stream(1), extent=20, size=6)
    fast = L.landscape(model, p)
    assert torch.allclose(fast.norms, L.jacobian_norm(model, p.points().flatten(0, 1)).view(6, 6), rtol=1e-10)
    slow = torch.stack([L._autograd_norm(model, row, 'features', 64) for row in p.points()])
    assert torch.allclose(fast.norms, slow, rtol=1e-9)


@pytest.mark.parametrize('scale', [1e-8, 1., 1e8])
@pytest.mark.parametrize('n', [1, 1.25, 1.5, 2, 4.5, 6])
def test_single_precision_is_enough_for_a_landscape(n, scale):
    "Powers are taken in single precision, where the seventh power of 10^6 would overflow."
    exact = shlp(n=n)
    with torch.no_grad(): exact.hidden.weight *= scale
    single = copy.deepcopy(exact).float()
    exact.load_state_dict(single.state_dict())
    p = L.plane(images(1)[0].float(), stream(1), extent=20, size=12)
    wide = L.jacobian_norm(exact, p.points().flatten(0, 1).double()).view(12, 12)
    assert torch.allclose(L.landscape(single, p).norms, wide, rtol=2e-5, atol=0) and wide.min() > 0
    assert single.hidden.weight.grad is None and torch.equal(single.hidden.weight.double(), exact.hidden.weight)


def test_landscape_of_any_module():
    p = L.plane(images(1)[0], stream(1), size=4)
    for model in (Convnet(), prepend(LpUnit(3), shlp(dtype=torch.float32)), MLP(30, widths=(9, 8), classes=4)):
        land = L.landscape(model, p, batch_size=2)
        assert torch.allclose(land.norms.float(), L.jacobian_norm(model, p.points().flatten(0, 1)).view(4, 4), rtol=1e-4)


def test_landscape_uses_its_arguments_only():
    "Defect 24: the original's plane code read the image and the direction from globals."
    model = shlp()
    one, two = (L.landscape(model, L.plane(images(1, seed=s).double()[0], stream(s), size=4)).norms for s in (0, 1))
    assert not torch.allclose(one, two)


def test_decisions_are_softmax_in_eval_mode():
    model = Convnet().double().train()
    p = L.plane(images(1).double()[0], stream(1), size=5)
    seen = L.decision_map(model, p)
    assert model.training
    softmax = model.eval()(p.points().flatten(0, 1)).softmax(1).view(5, 5, -1)
    assert torch.equal(seen.label, softmax.argmax(2)) and torch.allclose(seen.confidence, softmax.amax(2))


def test_quantiles_over_planes():
    model, x = shlp(), images(3).double()
    q = L.landscape_quantiles(model, x, stream(0, 'planes'), extents=(.1, 20), planes=2, size=4)
    assert q.planes == 6 and q.values.shape == (2, 5)
    generator = stream(0, 'planes')
    cuts = [L.plane(image, generator, extent=20, size=4) for image in x for _ in range(2)]
    norms = torch.cat([L.landscape(model, cut).norms.flatten() for cut in cuts])
    assert np.allclose(q.values[1], np.quantile(norms, [.05, .25, .5, .75, .95]))
    near = L.jacobian_norm(model, x)
    assert near.min()*.9 < q.values[0, 0] and q.values[0, -1] < near.max()*1.1


# Published numbers

def cifar():
    root = Path(os.environ.get('LOCALLEARNING_DATA') or 'no folder given')
    if (root/'cifar10-9k.npz').exists(): raw = np.load(root/'cifar10-9k.npz')['x_train']
    elif (root/'cifar-10-batches-py').exists():
        from torchvision.datasets import CIFAR10
        raw = CIFAR10(root, download=False).data[:8000]
    else: pytest.skip('no exact CIFAR-10 pixels: set LOCALLEARNING_DATA to a folder with cifar10-9k.npz or cifar-10-batches-py')
    x = torch.from_numpy(raw).permute(0, 3, 1, 2).float() / 255
    return x / torch.linalg.vector_norm(x.flatten(1), 3, dim=1).view(-1, 1, 1, 1)


@pytest.fixture(scope='module')
def untrained():
    with seeded(0, 'init'): return SHLP(3072, width=2000)


def test_published_exponents_of_images(untrained):
    x = cifar()
    assert P.power_law(P.spectrum(x), (10, 500)).exponent == pytest.approx(1.47, abs=.015)
    assert P.power_law(P.spectrum(untrained, x, 'hidden'), (10, 500)).exponent == pytest.approx(1.53, abs=.02)


def test_published_exponents_of_noise(untrained):
    "Finite-sample effects of 10,000 draws; they need no data, but as long as the images do."
    if not os.environ.get('LOCALLEARNING_DATA'): pytest.skip('runs with the CIFAR-10 exponents, where LOCALLEARNING_DATA is set')
    x = gaussian_noise(10000, (3, 32, 32))
    assert P.power_law(P.spectrum(x), (10, 100)).exponent == pytest.approx(.05, abs=.006)
    assert P.power_law(P.spectrum(untrained, x, 'hidden'), (10, 100)).exponent == pytest.approx(.11, abs=.006)
