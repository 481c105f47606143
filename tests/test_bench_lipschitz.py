"The rows about Lipschitz layers: that ours and the textbook's are the same thing. No test asks how fast anything is."
import pytest
import torch

from locallearning.bench import lipschitz as B
from locallearning.bench.rows import all_rows
from locallearning.lipschitz.orthogonal import bjorck
from locallearning.state import stream

TARGETS = dict(bjorck_square=('floor', 1.1), bjorck_tall=('textbook', 1/3), bjorck_wide=('textbook', 1.), dual_step=('textbook', 1.), baked=('floor', 1.05), lipschitz_step=('peer', 1.))


@pytest.fixture(scope='module')
def made(): return {name: all_rows()[name](.03, 'synthetic') for name in TARGETS}


@pytest.mark.parametrize('name', TARGETS)
def test_a_row_has_its_target(made, name):
    r, (against, at_most) = made[name], TARGETS[name]
    assert r.ours > 0 and r.floor > 0 and r.note
    if name == 'lipschitz_step' and not r.peer: assert not r.against and 'not installed' in r.note
    else: assert (r.against, r.at_most) == (against, at_most) and getattr(r, against) > 0


def test_rows_have_names_of_their_own(made): assert len({r.name for r in made.values()}) == len(TARGETS)


@pytest.mark.parametrize('shape', [(12, 30), (30, 12), (20, 20)])
def test_the_textbook_is_the_iteration(shape):
    W = torch.randn(shape, generator=stream(0, 'w'), dtype=torch.float64)
    W = W/torch.linalg.matrix_norm(W, 2)
    torch.testing.assert_close(bjorck(W, 9), B.textbook_bjorck(W, 9))
    assert B.iteration_products(W, 2).shape == tuple(sorted(shape))


def test_a_row_without_the_peer_says_so(monkeypatch):
    monkeypatch.setattr(B, 'torchlip_network', lambda *shape: None)
    r = B.lipschitz_step_row(.02)
    assert r.peer is None and r.reached is None and 'not installed' in r.note


def test_the_peer_has_the_same_layers():
    pytest.importorskip('deel.torchlip', reason='deel-torchlip, of the extra peers, is not installed')
    ours, theirs = B._network(20, (8, 8), 3)[0], B.torchlip_network(20, (8, 8), 3)
    sizes = lambda model: [tuple(m.weight.shape) for m in model.modules() if isinstance(m, torch.nn.Linear)]
    assert sizes(ours) == sizes(theirs) == [(8, 20), (8, 8), (3, 8)]
