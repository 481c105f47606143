"""Penalties: exact oracles, statistics of the estimators, and the defects J1–J3, S1–S9 and 17 of the released code."""
import numpy as np
import pytest
import torch
from hypothesis import given,settings,strategies as st
from torch import nn
from torch.func import functional_call
from locallearning import regularizers
from locallearning.core import InputError
from locallearning.recipes import build_recipe
from locallearning.models import evaluating,MLP,SHLP,LpUnit,prepend,read
from locallearning.regularizers import (Jacobian,Lp,Spectral,batch_spectrum,closed_form,covariance,jacobian_sq_norm,
    gated_sq_norm,tail_misfit,unit_vectors)
from locallearning.state import stream


@pytest.fixture
def x(): return torch.randn(6, 1, 4, 4, generator=stream(0, 'x'), dtype=torch.float64).requires_grad_()

def shlp(width=12, classes=5, seed=0, **more):
    torch.manual_seed(seed)
    return SHLP(16, width=width, classes=classes, **more).double()

def conv():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Conv2d(2, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(3, 4)).double()

def value(penalty, model, x): return penalty(model, x, None, read(model, x))

class Bound(nn.Module):
    "A penalty as a function of the weights of its model."
    def __init__(self, model, penalty):
        super().__init__()
        self.model,self.penalty = model,penalty
    def forward(self, x):
        self.penalty.generator = stream(0, 'penalty')
        return value(self.penalty, self.model, x)


# --- gradients

@pytest.mark.parametrize('penalty', [Lp(), Lp(p=3), Jacobian(), Jacobian(n=2, orthogonal=True), Jacobian(n=None), Jacobian(of='hidden'),
    Jacobian(n=None, of='hidden'), Jacobian(of='features'), Jacobian(n=None, of='features'), Jacobian(of='norm')], ids=repr)
@pytest.mark.parametrize('model', [dict(n=3), dict(activation='tanh')], ids=['power', 'tanh'])
def test_gradcheck_of_weight_and_jacobian_penalties(penalty, model, x):
    bound = Bound(shlp(6, 3, **model), penalty)
    names, weights = zip(*((k, w.detach().clone().requires_grad_()) for k, w in bound.named_parameters() if w.ndim > 1))
    torch.autograd.gradcheck(lambda *ws: functional_call(bound, dict(zip(names, ws)), (x,)), weights)

@pytest.mark.parametrize('n', [2, None])
def test_gradcheck_of_the_jacobian_of_a_conv_net_and_of_a_layer_path(n, x):
    for of in ('logits', '2'):
        bound = Bound(conv(), Jacobian(n=n, of=of))
        used = {k: w for k, w in bound.named_parameters() if w.ndim > 1 and not (of == '2' and '5' in k)}
        weights = {k: w.detach().clone().requires_grad_() for k, w in used.items()}
        torch.autograd.gradcheck(lambda *ws: functional_call(bound, dict(zip(weights, ws)), (x,)), tuple(weights.values()))

def test_gradcheck_of_the_spectral_penalty():
    torch.manual_seed(0)
    h, basis = torch.randn(9, 6, dtype=torch.float64, requires_grad=True), torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q
    assert torch.autograd.gradcheck(lambda h: batch_spectrum(h, basis), (h,))
    head, tail = torch.tensor([5., 2.], dtype=torch.float64), torch.tensor([1.9, 1., .3, .2], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: tail_misfit(torch.cat([head, t]), 1.3, 1), (tail,))


# --- Lp

def test_lp_leaves_biases_batch_norm_and_frozen_weights_alone():              # defect 17
    model = shlp(batch_norm=True)
    expected = sum((w**2).sum() for w in (model.hidden.weight, model.readout.weight))
    assert torch.isclose(Lp()(model), expected)
    model.hidden.weight.requires_grad_(False)
    assert torch.isclose(Lp()(model), (model.readout.weight**2).sum())
    with pytest.raises(InputError, match='no trainable weight'): Lp()(nn.ReLU())

@given(p=st.floats(1, 6), scale=st.floats(.1, 3))
@settings(max_examples=20, deadline=None)
def test_lp_is_homogeneous_of_degree_p(p, scale):
    model = shlp()
    before = Lp(p=p)(model)
    with torch.no_grad(): [w.mul_(scale) for w in model.parameters()]
    assert torch.isclose(Lp(p=p)(model), scale**p * before, rtol=1e-9)


# --- Jacobian

def test_directions_are_uniform_unit_vectors():
    v = unit_vectors(4, torch.zeros(20000, 3), generator=stream(0, 'v'))
    assert torch.allclose(v.norm(dim=2), torch.ones(()), atol=1e-6)
    assert torch.allclose(torch.einsum('knc,knd->cd', v, v) / 80000, torch.eye(3) / 3, atol=.01)
    assert torch.allclose(torch.einsum('nc,nc->n', v[0], v[1]).mean(), torch.zeros(()), atol=.02)

def test_orthogonal_directions_are_uniform_too():
    v = unit_vectors(2, torch.zeros(20000, 3), orthogonal=True, generator=stream(0, 'v'))
    assert torch.allclose(torch.einsum('knc,knd->cd', v, v) / 40000, torch.eye(3) / 3, atol=.01)

@pytest.mark.parametrize('n', [1, 2, 3, 5, 10, 40])
@pytest.mark.parametrize('orthogonal', [False, True])
def test_jacobian_estimate_of_a_linear_layer_is_its_squared_weight_for_every_n(n, orthogonal):        # J1
    model, x = shlp(width=40), torch.zeros(4000 // n, 16, dtype=torch.float64, requires_grad=True)
    penalty = Jacobian(n=n, of='hidden', orthogonal=orthogonal)
    penalty.generator = stream(0, 'penalty', n)
    assert torch.isclose(value(penalty, model, x), (model.hidden.weight**2).sum(), rtol=.03)

def test_projected_jacobian_is_right_in_expectation_and_has_the_variance_of_theory(x):       # B2
    model, one = shlp(), x[:1].detach().expand(20000, 1, 4, 4).requires_grad_()
    J = torch.autograd.functional.jacobian(lambda o: model(o)[0], x[:1]).flatten(1)
    C, JJ = len(J), J @ J.T
    variance = 2*C/(C+2) * (JJ @ JJ).trace() - 2/(C+2) * JJ.trace()**2
    draws = jacobian_sq_norm(model(one), one, 1, generator=stream(0, 'penalty')).detach()
    assert torch.isclose(draws.mean(), JJ.trace(), rtol=.02)
    assert torch.isclose(draws.var(), variance, rtol=.05)
    assert variance / JJ.trace()**2 < 2*(C-1)/(C+2)

def test_exact_jacobian_equals_autograd_reference(x):
    for model in (shlp(), conv()):
        reference = [torch.autograd.functional.jacobian(lambda o: model(o[None])[0], o).square().sum() for o in x.detach()]
        assert torch.allclose(jacobian_sq_norm(model(x), x), torch.stack(reference))

def test_orthogonal_projections_are_exact_at_n_equal_to_the_number_of_outputs(x):
    model = shlp(classes=5)
    assert torch.isclose(value(Jacobian(n=5, orthogonal=True), model, x), value(Jacobian(n=None), model, x))
    with pytest.raises(InputError, match='at most 5'): value(Jacobian(n=6, orthogonal=True), model, x)

def test_one_output_is_exact_with_one_projection(x):
    model = shlp(classes=1)
    assert torch.isclose(value(Jacobian(n=1), model, x), value(Jacobian(n=None), model, x))

@pytest.mark.parametrize('of', ['logits', 'hidden', 'features', 'norm'])
def test_jacobian_does_not_depend_on_the_batch_size(of, x):                    # J2
    model = shlp()
    single = [value(Jacobian(n=None, of=of), model, o[None]).detach() for o in x.detach().clone().requires_grad_()]
    assert torch.isclose(value(Jacobian(n=None, of=of), model, x), torch.stack(single).mean())

@pytest.mark.parametrize('model', [dict(), dict(n=4.5), dict(activation='tanh'), dict(batch_norm=True)], ids=str)
@pytest.mark.parametrize('of', ['hidden', 'features'])
def test_closed_forms_equal_autograd(model, of, x):
    model = shlp(**model)
    out = read(model, x)
    assert torch.isclose(closed_form(model, out.hidden, of), jacobian_sq_norm(getattr(out, of), x).mean())

def jacobian_of_logits_by_autograd(model, x):
    "As `Jacobian(n=None)` would take it of a module that nothing is known of."
    with evaluating(model, nn.BatchNorm1d): return jacobian_sq_norm(model(x), x).mean()

@pytest.mark.parametrize('images', [1, 6])             # class by class, or by the quadratic form
@pytest.mark.parametrize('model', [dict(), dict(n=2), dict(n=4.5), dict(activation='tanh'), dict(batch_norm=True), dict(n=3, batch_norm=True)], ids=str)
def test_closed_form_of_the_logits_equals_autograd_with_all_its_gradients(model, images, x, monkeypatch):
    model = shlp(**model).train()
    for _ in range(3 * model.batch_norm): model(3*torch.randn(20, 16).double() + 1)         # running statistics
    x = x[:images].detach().requires_grad_()
    with evaluating(model): out = read(model, x)
    expected = jacobian_of_logits_by_autograd(model, x)
    monkeypatch.setattr('locallearning.regularizers.jacobian_sq_norm', lambda *a: pytest.fail('autograd was used'))
    found = Jacobian(n=None)(model, x, None, out)
    assert torch.isclose(found, expected, rtol=1e-12) and found > 0
    weights = [w for w in model.parameters() if w is not model.readout.bias]
    grads = [torch.autograd.grad(v, [*weights, x], allow_unused=True, materialize_grads=True) for v in (found, expected)]
    for ours, autograd in zip(*grads): assert torch.allclose(ours, autograd, rtol=1e-9, atol=1e-12)

def test_both_ways_to_the_norm_of_the_logits_agree_and_are_differentiable():
    gates, weight, readout = (torch.randn(s, generator=stream(0, 'gates', i), dtype=torch.float64) for i, s in enumerate([(30, 5), (5, 7), (4, 5)]))
    assert torch.isclose(gated_sq_norm(gates, weight, readout), torch.stack([gated_sq_norm(a[None], weight, readout) for a in gates]).mean())
    for n in (1, 30):
        args = [t.clone().requires_grad_() for t in (gates[:n], weight, readout)]
        assert torch.autograd.gradcheck(gated_sq_norm, args) and torch.autograd.gradgradcheck(gated_sq_norm, args)

def test_a_model_whose_readout_is_unknown_is_differentiated(x):
    class Twice(nn.Module):
        "Hidden and features as in an SHLP, then two layers."
        roles = SHLP.roles
        def __init__(self):
            super().__init__()
            inner = shlp()
            self.hidden,self.features,self.readout = inner.hidden,inner.features,nn.Sequential(nn.Linear(12, 4), nn.Tanh(), nn.Linear(4, 3)).double()
        def effective_weight(self): return self.hidden.weight
        def forward(self, x): return self.readout(self.features(self.hidden(x.flatten(1))))
    model = Twice()
    assert torch.isclose(value(Jacobian(n=None), model, x), jacobian_of_logits_by_autograd(model, x))
    assert torch.isclose(value(Jacobian(n=None, of='features'), model, x), jacobian_sq_norm(read(model, x).features, x).mean())

def test_behind_a_scaling_the_jacobian_counts_it(x):
    model = prepend(LpUnit(3), shlp())
    reference = [torch.autograd.functional.jacobian(lambda o: read(model, o[None]).features[0], o).square().sum() for o in x.detach()]
    assert torch.isclose(value(Jacobian(n=None, of='features'), model, x), torch.stack(reference).mean())

def test_jacobian_is_safe_with_batch_norm_in_training_mode(x):
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4), nn.BatchNorm1d(4)).double().train()
    out = read(model, x)
    stats = [b.clone() for b in model.buffers()]
    penalty = Jacobian(n=None)(model, x, None, out)
    assert all(torch.equal(a, b) for a, b in zip(stats, model.buffers()))      # counted once, by the step itself
    assert all(m.training for m in model.modules())
    assert torch.isclose(penalty, value(Jacobian(n=None), model.eval(), x)) and penalty > .01
    assert jacobian_sq_norm(out.logits, x).mean() < 1e-12                      # what the naive derivative says

def test_jacobian_refuses_batch_norm_without_running_statistics(x):
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8, track_running_stats=False)).double()
    with pytest.raises(InputError, match='running statistics'): value(Jacobian(), model, x)

def test_jacobian_works_on_inputs_that_do_not_require_grad(x):
    model = shlp()
    assert torch.isclose(value(Jacobian(n=None), model, x.detach()), value(Jacobian(n=None), model, x))
    assert not Jacobian(n=None, of='hidden').needs_x and Jacobian().needs_x

def test_jacobian_with_a_generator_is_deterministic(x):
    penalty, values = Jacobian(), []
    for _ in range(2):
        penalty.generator = stream(1, 'penalty', 0)
        values.append(value(penalty, shlp(), x))
    assert values[0] == values[1] != value(penalty, shlp(), x)

@pytest.mark.parametrize('n', [0, -1, 1.5])
def test_jacobian_rejects_a_wrong_number_of_projections(n):
    with pytest.raises(InputError, match=f'n={n}'): Jacobian(n=n)

def test_jacobian_of_an_unknown_layer_names_the_nearest(x):
    with pytest.raises(InputError, match="did you mean 'features'"): value(Jacobian(of='feature'), shlp(), x)
    with pytest.raises(InputError, match='hidden'): value(Jacobian(of='hidden'), conv(), x)


# --- spectral

def spectral_reference(h, V, exponent, anchor):
    "The equation as a loop over ranks, in numpy."
    C = np.cov(h, rowvar=False)
    lam = np.array(sorted((v @ C @ v for v in V.T), reverse=True))
    total = 0.
    for n in range(anchor + 1, len(lam)):
        gamma = lam[anchor] * ((anchor + 1) / (n + 1))**exponent
        if lam[n] > 0: total += (lam[n]/gamma - 1)**2 + max(0, lam[n]/gamma - 1)
    return total / len(lam)

def power_law_sample(D=40, B=400, exponent=1.):
    "Representations whose batch covariance is exactly diagonal in a known basis, with a power law on it."
    q = torch.linalg.qr(torch.randn(B, D + 1, generator=stream(0, 'q'), dtype=torch.float64) + 1).Q
    q = torch.linalg.qr(q - q.mean(0)).Q[:, :D]
    V = torch.linalg.qr(torch.randn(D, D, generator=stream(0, 'V'), dtype=torch.float64)).Q
    return (q * (B - 1)**.5 * torch.arange(1., D + 1, dtype=torch.float64)**(-exponent/2)) @ V.T + 3, V

class Frozen(nn.Module):
    "A model that shows the representation it is given."
    roles = dict(features='features')
    def __init__(self):
        super().__init__()
        self.features, self.readout = nn.Identity(), nn.Linear(40, 2).double()
    def forward(self, x): return self.readout(self.features(x))

@pytest.mark.parametrize('exponent', [1., 1.5])
@pytest.mark.parametrize('offset', ['code', 'paper'])
def test_spectral_penalty_is_zero_on_an_exact_power_law(exponent, offset):
    h, V = power_law_sample(exponent=exponent)
    penalty = Spectral(exponent=exponent, tau=5, offset=offset)
    penalty.basis = V
    assert value(penalty, Frozen(), h) < 1e-12
    assert value(penalty, Frozen(), h @ V) > 1e-3

@pytest.mark.parametrize('offset,anchor', [('code', 5), ('paper', 4)])
def test_spectral_penalty_equals_the_sorted_loop(offset, anchor):
    h, V = power_law_sample(exponent=.6)
    h = h[:50] + torch.randn(50, 40, generator=stream(0, 'n'), dtype=torch.float64) * .1
    penalty = Spectral(exponent=1.2, tau=5, offset=offset)
    penalty.basis = V
    assert np.isclose(value(penalty, Frozen(), h).item(), spectral_reference(h.numpy(), V.numpy(), 1.2, anchor), rtol=1e-10)

@given(st.floats(1e-3, 1e3))
@settings(max_examples=20, deadline=None)
def test_spectral_penalty_does_not_depend_on_the_scale(c):                       # S4
    h, V = power_law_sample(exponent=.5)
    penalty = Spectral(tau=3)
    penalty.basis = V
    assert torch.isclose(value(penalty, Frozen(), c*h), value(penalty, Frozen(), h), rtol=1e-8)

def test_spectral_penalty_is_blind_to_the_mean_of_the_batch():                   # S2, S3
    h, V = power_law_sample(exponent=.5)
    penalty = Spectral(tau=3)
    penalty.basis = V
    assert torch.isclose(value(penalty, Frozen(), h + 100), value(penalty, Frozen(), h), rtol=1e-8)

def test_no_gradient_reaches_the_basis_the_anchor_or_the_leading_variances():
    lam = torch.tensor([9., 4, 3, 2, .1, 0], dtype=torch.float64, requires_grad=True)
    grad, = torch.autograd.grad(tail_misfit(lam, 1., 2), lam)
    assert (grad[:3] == 0).all() and (grad[3:5] != 0).all() and grad[5] == 0
    assert not Spectral().basis and not list(Spectral().parameters())
    penalty, model = Spectral(tau=3), shlp()
    penalty.refresh(model, [(torch.randn(30, 16).double(), None)])
    assert not penalty.basis.requires_grad and penalty.basis.grad_fn is None

def test_a_dead_representation_costs_nothing_and_gives_no_nan():
    h = torch.zeros(8, 40, dtype=torch.float64, requires_grad=True)
    penalty = Spectral(tau=3)
    penalty.basis = torch.eye(40).double()
    loss = value(penalty, Frozen(), h)
    loss.backward()
    assert loss == 0 and (h.grad == 0).all()

def test_the_basis_comes_from_all_batches_as_numpy_computes_it():                  # S1
    torch.manual_seed(0)
    model, data = shlp(batch_norm=True).train(), torch.randn(100, 16).double() * torch.arange(1, 17)
    penalty = Spectral(tau=3)
    penalty.refresh(model, [(b, None) for b in data.split(30)], 0)
    C = np.cov(read(model.eval(), data).features.detach().numpy(), rowvar=False)
    lam, V = np.linalg.eigh(C)
    overlap = np.abs(np.sum(V[:, ::-1] * penalty.basis.numpy(), 0))
    assert np.allclose(overlap, 1, atol=1e-8)
    assert np.allclose(covariance(read(model, b).features for b in data.split(30))[0], C)

def test_refresh_leaves_mode_and_statistics_of_the_model():
    model = shlp(batch_norm=True).train()
    model.norm.eval()
    stats = {k: v.clone() for k, v in model.state_dict().items()}
    Spectral(tau=3).refresh(model, [(torch.randn(30, 16).double(), None)])
    assert model.training and not model.norm.training
    assert all(torch.equal(v, stats[k]) for k, v in model.state_dict().items())

def test_covariance_is_exact_far_from_the_origin():
    h = torch.randn(500, 6, generator=stream(0, 'h')).double() + 1e6
    assert torch.allclose(covariance(h.split(77))[0], h.T.cov(), rtol=1e-6)
    with pytest.raises(InputError, match='two images'): covariance([h[:1]])

def test_spectral_penalty_says_what_is_missing():
    model, x = shlp(), torch.randn(30, 16).double()
    with pytest.raises(InputError, match='call refresh'): value(Spectral(tau=3), model, x)
    with pytest.raises(InputError, match='lower tau'): value(Spectral(tau=11), model, x)
    with pytest.raises(InputError, match='larger batch'): value(Spectral(tau=3), model, x[:1])
    with pytest.raises(InputError, match='not finite'): Spectral().refresh(model, [(x * torch.nan, None)])
    with pytest.raises(InputError, match="did you mean 'paper'"): Spectral(offset='papr')
    other = Spectral(tau=3)
    other.refresh(shlp(width=9), [(x, None)])
    with pytest.raises(InputError, match='not 12'): value(other, model, x)

def test_spectral_training_moves_the_exponent_to_its_target_and_the_weights_with_it():        # S1–S9, 4.4
    torch.manual_seed(0)
    images, tau = torch.randn(400, 60) / torch.arange(1., 61), 4
    net, penalty = SHLP(60, width=50), Spectral(tau=tau)
    start, n = net.hidden.weight.detach().clone(), torch.arange(1., 51)[tau:].log()
    opt = torch.optim.Adam(net.parameters(), 1e-2)
    def exponent():
        penalty.refresh(net, [(images, None)])
        s = batch_spectrum(read(net, images).features.detach(), penalty.basis)[tau:].log()
        return -((n - n.mean()) @ s / (n - n.mean()).square().sum()).item()
    before, losses = exponent(), []
    for epoch in range(30):
        penalty.refresh(net, [(images, None)], epoch)
        for b in images.split(100):
            loss = value(penalty, net, b)
            opt.zero_grad(); loss.backward(); opt.step()
            losses.append(loss.item())
    assert np.mean(losses[-4:]) < .3 * np.mean(losses[:4])
    assert abs(exponent() - 1) < .2 * abs(before - 1)
    assert (net.hidden.weight - start).norm() > .5 * start.norm()


# --- pieces

def test_two_penalties_never_share_state():                                       # defect 11, J3, S7
    a, b = Jacobian(1e-3, n=3), Jacobian(1e-2, n=None, of='features')
    assert (a.strength, a.n, a.of) == (1e-3, 3, 'logits') and (b.n, b.of) == (None, 'features')
    c, d = Spectral(exponent=1., tau=3), Spectral(exponent=2.62, tau=2)
    c.refresh(shlp(), [(torch.randn(30, 16).double(), None)])
    assert (c.exponent, c.tau, d.exponent, d.tau, d.basis) == (1., 3, 2.62, 2, None)
    assert 'basis' not in c.state_dict()

@pytest.mark.parametrize('piece', [Lp(), Lp(1e-2, p=3), Jacobian(), Jacobian(.5, n=None, of='hidden'), Jacobian(n=2, orthogonal=True),
    Spectral(), Spectral(2., exponent=1.5, tau=3, of='norm', offset='paper')], ids=repr)
def test_a_penalty_is_rebuilt_from_its_repr(piece):
    again = build_recipe(repr(piece))
    assert type(again) is type(piece) and repr(again) == repr(piece)
    assert all(vars(again)[k] == v for k, v in vars(piece).items() if not k.startswith('_'))

def test_eval_mode_inside_and_every_mode_as_it_was_afterwards():
    model = MLP(16, (8, 8)).train()
    model.readout.eval()
    with pytest.raises(RuntimeError), evaluating(model):
        assert not any(m.training for m in model.modules())
        raise RuntimeError
    assert [m.training for m in model.modules() if m is not model.readout] == [True] * (len(list(model.modules())) - 1)
    assert not model.readout.training


def test_a_basis_is_found_where_the_fastest_solver_gives_up(monkeypatch):  # seen with 979 of 1000 units dead
    cov = torch.zeros(30, 30, dtype=torch.float64)
    cov[:5, :5] = torch.cov(torch.randn(5, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    expected = torch.linalg.eigvalsh(cov)
    def gives_up(a): raise torch.linalg.LinAlgError('failed to converge')
    monkeypatch.setattr(torch.linalg, 'eigh', gives_up)
    u = regularizers._eigenvectors(cov)
    torch.testing.assert_close(u.T @ cov @ u, expected.diag(), rtol=0, atol=1e-12)
    torch.testing.assert_close(u.T @ u, torch.eye(30, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize('make, said', [
    (lambda: Lp(strength='a'), r"Lp\(strength='a'\): must be a number"), (lambda: Lp(p=None), r'Lp\(p=None\): must be a number ≥ 1'), (lambda: Lp(SHLP(4)), r'Lp\(strength\) is a SHLP'),
    (lambda: Jacobian(n='3'), r"Jacobian\(n='3'\): must be a whole number ≥ 1 or None"), (lambda: Jacobian(n=2.5), r'Jacobian\(n=2.5\)'), (lambda: Jacobian('logits'), r"Jacobian\(strength='logits'\)"),
    (lambda: Jacobian(of=3), r'Jacobian\(of=3\): must be the path'), (lambda: Spectral(tau=2.5), r'Spectral\(tau=2.5\): must be a whole number'), (lambda: Spectral(exponent='1'), r"Spectral\(exponent='1'\)"),
    (lambda: Spectral(exponent=0), r'Spectral\(exponent=0\): must be a number > 0'), (lambda: Spectral(of=None), r'Spectral\(of=None\)'), (lambda: Spectral(strength=torch.ones(2)), r'Spectral\(strength\) is a Tensor')])
def test_settings_of_the_wrong_type_are_named(make, said):
    with pytest.raises(InputError, match=said): make()
