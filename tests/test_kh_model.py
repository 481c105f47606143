"Mixtures, pruning, prototypes and the KH classifier."
import numpy as np
import pytest
import torch

from locallearning.core import InputError
from locallearning.recipes import build_recipe
from locallearning.data import load
from locallearning.hebbian.model import KHModel, fit_mixtures, log_variances, noise_cut, prototypes, prune
from locallearning.models import feature_jacobian_norm, read
from locallearning.lab.runs import Run
from locallearning.state import load_model, save_checkpoint, stream
from locallearning.training import fit

COUNTS = [1, 0, 2, 0, 5, 3, 9, 6, 13, 13, 9, 21, 10, 15, 16, 18, 28, 32, 33, 55, 73, 96, 141, 176, 201, 192, 164, 178, 139, 97, 77, 44, 26,
          16, 7, 12, 16, 15, 12, 7, 3, 2, 1]  # histogram of a real run, bins linspace(-9, -3, 80)


def histogram(seed):
    rng, edges = np.random.default_rng(seed), np.linspace(-9, -3, 80)
    return np.concatenate([rng.uniform(a, b, n) for n, a, b in zip(COUNTS, edges, edges[1:])])


def layer_of(x, D=400, seed=0):
    "Random units with exactly these log variances and a p-norm scale of D inputs."
    w = torch.randn(len(x), D, generator=stream(seed, 'layer'), dtype=torch.float64)
    return (w/w.std(1, keepdim=True)*torch.from_numpy(np.exp(x/2))[:, None]).float()


shift = 2/3*np.log(3072/400)  # the same histogram for layers with 400 inputs


def test_the_cut_of_a_real_histogram():  # spec 1.10
    x = histogram(0)
    mixtures = fit_mixtures(x)
    cut = noise_cut([m for m in mixtures if m.accepted][-1])
    assert cut == pytest.approx(-6.48, abs=.03) and 80 <= (x >= cut).sum() <= 95
    assert not mixtures[-1].accepted and mixtures[-1].p_value > .01


def test_pruning_the_layer_of_that_histogram():
    x = np.concatenate([histogram(1) + shift, [0., .05]])  # two units that never learnt
    W = layer_of(x)
    before = W.clone()
    out = prune(W)
    assert out.cut == pytest.approx(-6.48 + shift, abs=.03) and W.equal(before)
    assert out.mixture.accepted and len(out.mixture.means) == 3  # defect 18: the released code goes by the mixture that it rejected
    np.testing.assert_allclose(log_variances(W), x, atol=1e-5)
    assert out.mask.tolist() == (x < out.cut).tolist() and not out.mask[-2:].any()
    assert out.weight[out.mask].equal(W[out.mask]) and not out.weight[~out.mask].any()
    assert out.variance == pytest.approx(np.exp(out.cut))


@pytest.mark.parametrize('wild, cut', [(8, True), (150, True), (800, False)])
def test_units_that_never_moved_are_cut_where_no_component_stands_apart(wild, cut):  # eight of a thousand made features of 10^11
    x = np.random.default_rng(0).normal(-7.1 + shift, .25, 1000)
    x[:wild] = 0
    out = prune(layer_of(x))
    assert out.mask.tolist() == [not cut]*wild + [True]*(1000 - wild) and (out.cut is not None) == cut


@pytest.mark.parametrize('seed', range(3))
def test_one_kind_of_units_is_not_pruned(seed):  # defect 18: the released code deletes 1883 of 2000 units of such a layer
    x = np.random.default_rng(seed).normal(-7.1 + shift, .25, 2000)
    out = prune(layer_of(x, seed=seed))
    assert out.cut is None and out.mask.all() and out.variance is None


def test_planted_noise_is_found_and_nothing_else():  # the released code deletes 1734 units here
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(-7.1, .25, 1940), rng.normal(-6.1, .08, 60)])
    out = prune(layer_of(x + shift))
    assert (~out.mask[1940:]).sum() >= 57 and (~out.mask[:1940]).sum() <= 10


def test_a_large_group_is_not_noise():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(-7.1, .1, 300), rng.normal(-6.1, .1, 300)])
    mixture = [m for m in fit_mixtures(x) if m.accepted][-1]
    assert noise_cut(mixture) is None and noise_cut(mixture, top_weight=.6) == pytest.approx(-6.6, abs=.1)


def test_groups_that_overlap_are_not_cut():
    mixture = fit_mixtures(np.random.default_rng(0).standard_t(2, 600))[-1]
    assert noise_cut(mixture, gap=1e9) is None


def test_the_fit_is_repeatable_and_the_sequence_ends_with_the_rejected():
    x = histogram(2)[::8]
    a, b = fit_mixtures(x), fit_mixtures(x)
    assert [m.log_likelihood for m in a] == [m.log_likelihood for m in b]
    assert all(m.accepted for m in a[:-1])
    assert len(fit_mixtures(x, most=1)) == 1
    with pytest.raises(InputError, match='1 of them not finite'): fit_mixtures(np.array([1., np.inf, 2.]))


def test_pruning_input_is_looked_at():
    with pytest.raises(InputError, match='finite'): prune(torch.full((3, 4), float('nan')))
    assert prune(torch.zeros(3, 4)).mask.all()


# --- prototypes -------------------------------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def digits(): return load('mnist5k(per_class=40)').in_space('lp_unit', p=3)


def test_prototypes_are_images_with_classes_in_turn(digits):
    W = prototypes(digits.train, 20, radius=2., generator=stream(0, 'order'))
    x = digits.train.x.flatten(1)
    nearest = torch.cdist(W/2, x, compute_mode='donot_use_mm_for_euclid_dist').min(1)
    assert nearest.values.max() < 1e-5 and nearest.indices.unique().numel() == 20
    assert digits.train.y[nearest.indices].bincount().tolist() == [2]*10
    assert not W.equal(prototypes(digits.train, 20, radius=2., generator=stream(1, 'order')))


# --- the model --------------------------------------------------------------------------------------------------------------------

small = dict(in_features=784, width=20, kh_epochs=3, kh_lr=.04, kh_batch_size=100)


def test_only_the_readout_learns_from_gradients(digits):
    model = KHModel(**small, k=3)
    report = model.pretrain(digits, generator=stream(5, 'pretrain'))
    assert set(report) >= {'converged', 'fraction_off', 'cut', 'pruned'}
    hidden, readout = model.hidden.weight.clone(), model.readout.weight.clone()
    log = fit(model, digits, epochs=2, lr=1e-2)
    assert model.hidden.weight.equal(hidden) and not model.readout.weight.equal(readout)
    assert not model.hidden.weight.requires_grad and len(log.frame)


def test_the_model_is_readable_and_its_jacobian_known(digits):
    model = KHModel(**small).eval()
    model.hidden.weight.data.copy_(prototypes(digits.train, 20))
    x = digits.test.x[:5]
    out = read(model, x)
    torch.testing.assert_close(out.features, out.hidden.relu()**4.5)
    jac = torch.func.vmap(torch.func.jacrev(lambda v: (v @ model.effective_weight().T).relu()**4.5))(x.flatten(1))
    torch.testing.assert_close(feature_jacobian_norm(model, x), jac.flatten(1).norm(dim=1))


def test_data_of_another_space_are_refused(digits):
    model = KHModel(**small)
    with pytest.raises(InputError, match="space 'pixel', the layer needs 'lp_unit\\(p=3\\)'"): model.pretrain(digits.in_space('pixel'))
    with pytest.raises(InputError, match='lp_unit\\(p=2\\)'): KHModel(784, 20, p=2).pretrain(digits)
    with pytest.raises(InputError, match="layer='prototype'; did you mean 'prototypes'"): KHModel(784, 20, layer='prototype')
    with pytest.raises(InputError, match='width=500, but there are only 400'): KHModel(784, 500, layer='prototypes').pretrain(digits)


def test_the_seed_comes_from_the_generator(digits):
    def trained(seed):
        model = KHModel(**small); model.pretrain(digits, generator=stream(seed, 'pretrain')); return model.hidden.weight
    assert trained(0).equal(trained(0)) and not trained(0).equal(trained(1))


def test_a_run_keeps_the_layer_whatever_is_done_with_it(digits, tmp_path):
    run, weights = Run(tmp_path), []
    for n in (1, 4.5):
        model = KHModel(**small, n=n, prune=n > 2)
        model.pretrain(digits, run, stream(0, 'pretrain'))
        weights.append(model.hidden.weight)
    assert len(run.used) == 1 and weights[0].equal(weights[1])
    direct = KHModel(**small)
    direct.pretrain(digits, generator=stream(0, 'pretrain'))
    assert direct.hidden.weight.equal(weights[0])


def test_pruning_is_a_field_of_the_model(digits, monkeypatch):
    import locallearning.hebbian.model as module
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(-7.1, .1, 190), rng.normal(-6., .05, 10)]) + 2/3*np.log(3072/784)
    monkeypatch.setattr(module, 'train_layer', lambda **_: dict(weight=layer_of(x, D=784), report=dict(converged=True)))
    for flag, gone in ((True, 10), (False, 0)):
        model = KHModel(784, 200, prune=flag)
        report = model.pretrain(digits)
        assert report['pruned'] == gone == (model.hidden.weight == 0).all(1).sum() and (report['cut'] is None) == (not flag)


def test_two_models_never_share_state():  # defect 10
    a = KHModel(784, 20, n=4.5, k=3)
    text = repr(a)
    KHModel(100, 7, n=1, p=2)
    assert repr(a) == text == 'KHModel(in_features=784, width=20, k=3)'


def test_a_model_survives_saving(tmp_path, digits):
    model = KHModel(**small, layer='prototypes', prune=False).eval()
    model.pretrain(digits)
    save_checkpoint(tmp_path/'kh.safetensors', model, digits.space)
    other = load_model(tmp_path/'kh.safetensors')
    x = digits.test.x[:3]
    assert repr(other) == repr(model) and other(x).equal(model(x)) and other.space == 'lp_unit(p=3)'
    assert repr(build_recipe(repr(model))) == repr(model)
