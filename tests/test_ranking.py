"The winners that half precision finds are those of all currents in full, whatever the weights, and whichever way they were found."
import math
import warnings

import pytest
import torch
from hypothesis import given, settings, strategies as st

from locallearning.data import Data
from locallearning.splits import Split
from locallearning.hebbian.layer import effective_weight, kh_step_, ranking_for, train_layer, KHLayer
from locallearning.hebbian.ranking import CertifiedRanking, Ranking, ranked
from locallearning.state import stream

RUNGS = ('_half', '_single', '_all')


def images(n, d, seed=0, smooth=8):
    "Images like photographs: mostly bright, neighbouring pixels alike."
    x = torch.rand(n, d + smooth, generator=stream(seed, 'images')).unfold(1, smooth, 1).mean(2)[:, :d]
    return x / x.norm(3, dim=1, keepdim=True)


def certified(S, V, most=16, rest=0):
    found = CertifiedRanking(S, V.mean(0), most)
    found.rest = rest
    return found


def in_full(S, V, k):
    "Every current as the sum that `CertifiedRanking` computes for its candidates."
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        everywhere = torch.ones(len(V), len(S)).to_sparse_csr()
    h = torch.sparse.sampled_addmm(everywhere, V, S.T, beta=0.).values().view(len(V), len(S))
    units = h.sort(dim=1, descending=True, stable=True).indices[:, :k]
    return units, h.gather(1, units)


def weights(kind, H, D, seed=0):
    rng = stream(seed, kind)
    if kind == 'prototypes': return images(H, D, seed + 1)**2
    if kind == 'noise': return torch.randn(H, D, generator=rng)
    if kind == 'some large': return images(H, D, seed + 1)**2 * (1 + 30*(torch.rand(H, 1, generator=rng) < .05))
    if kind == 'alike': return images(1, D, seed + 1) + 1e-5*torch.randn(H, D, generator=rng)
    if kind == 'copies': return (images(H, D, seed + 1)**2)[torch.randint(H//4, (H,), generator=rng)]
    if kind == 'zero': return torch.zeros(H, D)
    if kind == 'tiny': return images(H, D, seed + 1)**2 * 1e-18
    if kind == 'signs': return images(H, D, seed + 1)**2 * torch.randn(H, D, generator=rng).sign()


KINDS = ('prototypes', 'noise', 'some large', 'alike', 'copies', 'zero', 'tiny', 'signs')


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('k', [2, 7])
def test_the_winners_are_those_of_all_currents_in_full(kind, k):
    S, V = weights(kind, 200, 300), images(60, 300)
    expected = in_full(S, V, k)
    for rest in (0, math.inf):
        for a, b in zip(certified(S, V, rest=rest).top(V, k), expected): assert torch.equal(a, b)


@pytest.mark.parametrize('kind', KINDS)
def test_bounds_hold_for_every_unit_and_image(kind):
    S, V = weights(kind, 150, 400), images(40, 400)
    found, true = certified(S, V), (V.double() @ S.double().T)
    found._round(slice(None), S)
    rough, rates = found._by_half(V)
    bounds = torch.cat([found.bounds, torch.ones(1, 150)])
    middle, reach = rough.double() + bounds[:1].double(), (rates[:, 1:] @ bounds[1:]).double()
    assert ((middle - (true - (V.double() @ found.reference.double())[:, None])).abs() <= reach).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 40), st.integers(1, 60), st.integers(1, 20), st.integers(0, 10**6), st.sampled_from(KINDS), st.integers(1, 16))
def test_any_size(H, D, B, seed, kind, most):
    if kind == 'copies' and H < 4: kind = 'alike'
    k = min(2, H)
    S, V = weights(kind, H, D, seed), images(B, D, seed)
    for a, b in zip(certified(S, V, max(most, k)).top(V, k), in_full(S, V, k)): assert torch.equal(a, b)


def test_each_way_is_taken_and_all_lead_to_the_same_end(monkeypatch):
    S, V = weights('prototypes', 200, 300), torch.cat([images(30, 300), torch.zeros(2, 300)])
    expected, taken = in_full(S, V, 2), {}
    for rung in RUNGS:
        def counting(self, v, k, way=getattr(CertifiedRanking, rung), rung=rung):
            taken[rung] = len(v)
            return way(self, v, k)
        monkeypatch.setattr(CertifiedRanking, rung, counting)
    for a, b in zip(certified(S, V, most=4).top(V, 2), expected): assert torch.equal(a, b)
    assert taken['_half'] == 32 > taken['_single'] >= taken['_all'] == 2


def test_it_rests_while_the_weights_are_noise_and_tries_again():
    S, V = weights('alike', 200, 300), images(20, 300)
    found = certified(S, V)
    found.top(V, 2)
    assert found.rest == 64
    for _ in range(64): found.top(V, 2)
    assert found.rest == 0
    found.renew(S := weights('prototypes', 200, 300))
    for a, b in zip(found.top(V, 2), in_full(S, V, 2)): assert torch.equal(a, b)
    assert found.rest == 0


def test_what_a_step_changed_while_it_rested_is_known_when_it_wakes():
    S, V = weights('prototypes', 200, 300), images(20, 300)
    found = certified(S.clone(), V)
    for rest in (2, 0):
        found.rest = rest
        rows = torch.tensor([3, 7 + rest])
        S[rows] = weights('prototypes', 2, 300, rest)
        found.update(rows, S[rows])
        for a, b in zip(found.top(V, 2), in_full(S, V, 2)): assert torch.equal(a, b)


def test_a_training_is_the_same_whichever_way_the_winners_are_found():
    V = images(50, 100)
    ends = []
    for rest in (0, math.inf):
        W = images(80, 100, 5).clone()
        found = certified(effective_weight(W), V, rest=rest)
        for _ in range(30): kh_step_(W, V, .01, ranking=found)
        ends.append(W)
    assert torch.equal(*ends)
    W = images(80, 100, 5).clone()
    for _ in range(30): kh_step_(W, V, .01)
    torch.testing.assert_close(ends[0], W, rtol=0, atol=1e-5)


def test_sizes_alone_decide_which_ranking_learns():
    split = Split(images(8, 3072).view(8, 3, 32, 32), torch.zeros(8, dtype=torch.long))
    assert type(ranking_for(KHLayer(3072, 100), split, 100)) is Ranking
    assert type(ranking_for(KHLayer(3072, 1000), split, 1000)) is CertifiedRanking
    assert type(ranking_for(KHLayer(3072, 1000).double(), split, 1000)) is Ranking
    assert ranking_for(KHLayer(3072, 1000, k=9), split, 1000).most == 36


def test_a_few_large_units_do_not_open_every_row(monkeypatch):
    S, V = weights('prototypes', 300, 300), images(50, 300)
    S[::30] = 100*torch.randn(10, 300, generator=stream(0, 'large'))/300
    monkeypatch.setattr(CertifiedRanking, '_all', None)
    for a, b in zip(certified(S, V, rest=math.inf).top(V, 2), in_full(S, V, 2)): assert torch.equal(a, b)
