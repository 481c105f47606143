"A stack of layers learns what each of them would learn alone."
import pytest
import torch

from locallearning.hebbian import seeds as kh_seeds
from locallearning.core import InputError
from locallearning.data import load
from locallearning.hebbian.layer import kh_step, train_layer
from locallearning.hebbian.seeds import kh_steps_, stacking_pays, train_layers
from locallearning.state import stream


def small(): return load('mnist5k').in_space('lp_unit', p=3)


@pytest.mark.parametrize('mode', ['rank_k', 'all_ranks'])
@pytest.mark.parametrize('p, k', [(2, 2), (3, 4), (4, 2)])
def test_every_layer_of_a_stack_steps_as_it_would_alone(mode, p, k):
    rng = stream(0, 'test')
    W, V = torch.randn(4, 11, 15, generator=rng, dtype=torch.float64), torch.rand(4, 7, 15, generator=rng, dtype=torch.float64)
    V[2] = 0
    alone = torch.stack([kh_step(w, v, .02, p, k, .3, 1.2, mode) for w, v in zip(W, V)])
    torch.testing.assert_close(kh_steps_(W.clone(), V, .02, p, k, .3, 1.2, mode), alone, rtol=0, atol=1e-13)
    assert torch.equal(alone[2], W[2])


def test_a_stack_trains_the_layers_of_its_seeds():
    how = dict(width=12, epochs=2, batch_size=500, lr=.04, k=3)
    made = train_layers(small(), [5, 0, 7], **how)
    for seed, m in zip((5, 0, 7), made):
        alone = train_layer(small(), seed=seed, **how)
        torch.testing.assert_close(m['weight'], alone['weight'], rtol=0, atol=1e-5)
        torch.testing.assert_close(m['norms'], alone['norms'], rtol=0, atol=1e-4)
        assert m['report']['units'] == 12


def test_an_interrupted_stack_goes_on_where_it_was(tmp_path, monkeypatch):
    how = dict(width=12, epochs=3, batch_size=500)
    whole = train_layers(small(), [0, 1], **how)
    steps, calls = kh_seeds.kh_steps_, []
    def dies(*args):
        calls.append(1)
        if len(calls) > 10: raise KeyboardInterrupt
        return steps(*args)
    monkeypatch.setattr(kh_seeds, 'kh_steps_', dies)
    with pytest.raises(KeyboardInterrupt): train_layers(small(), [0, 1], tmp_path, **how)
    monkeypatch.undo()
    for a, b in zip(train_layers(small(), [0, 1], tmp_path, **how), whole): assert torch.equal(a['weight'], b['weight'])


def test_large_layers_are_trained_one_after_the_other(monkeypatch):
    assert stacking_pays(50, 784, 50) and not stacking_pays(2000, 3072, 1000)
    monkeypatch.setattr(kh_seeds, 'stacking_pays', lambda *a: False)
    monkeypatch.setattr(kh_seeds, '_train_stack', None)
    how = dict(width=8, epochs=1, batch_size=1000)
    made = train_layers(small(), [0, 1], **how)
    assert torch.equal(made[1]['weight'], train_layer(small(), seed=1, **how)['weight'])


@pytest.mark.parametrize('seeds', [[], [0, 0]])
def test_seeds_that_make_no_sense(seeds):
    with pytest.raises(InputError, match='seeds='): train_layers(small(), seeds, width=8, epochs=1)


def test_wrong_settings_are_named():
    with pytest.raises(InputError, match='k=9 with width=8'): train_layers(small(), [0, 1], width=8, k=9, batch_size=10)
