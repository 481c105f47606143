"""What the released code of the sorting paper did, and that none of it comes back."""
import math

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrize import cached, is_parametrized

from locallearning.lipschitz.layers import GroupSort, LipschitzMLP, MaxMin
from locallearning.lipschitz.orthogonal import Bjorck, bake, bjorck
from locallearning.lipschitz.projections import L1Rows, Projected, project_rows
from locallearning.lipschitz.published import PublishedBjorck, PublishedL1Rows, published_bake
from locallearning.lipschitz.transport import Between, Spheres, WassersteinDual
from locallearning.models import parametrize
from locallearning.optimizers import SGD
from locallearning.recipes import build_recipe
from locallearning.state import seeded, stream
from locallearning.training import fit, train_step


def net(*pieces, **given):
    with seeded(0, 'init'): model = LipschitzMLP(6, (12, 12), 1, **given)
    for piece in pieces: parametrize(model, piece)
    return model


def test_released_pieces_are_recipes():
    for piece in (PublishedBjorck(), PublishedBjorck(7, safe=False), PublishedL1Rows()): assert repr(build_recipe(repr(piece))) == repr(piece)


def test_a_network_begins_with_the_slope_that_it_may_have():
    for size in (16, 312):
        with seeded(0, 'init'): layer = nn.Linear(size, size)
        nn.init.orthogonal_(layer.weight, 1/math.sqrt(size))
        ours, released = (torch.linalg.svdvals(piece(layer.weight)) for piece in (Bjorck(), PublishedBjorck(15)))
        assert (ours - 1).abs().max() < 1e-3 and (size < 100 or released.max() < .2)


def test_baking_takes_the_weights_that_were_used():
    model, x = net(Bjorck()).eval(), torch.rand(20, 6, generator=stream(0, 'x'))
    with torch.no_grad(): model.body[0][0].parametrizations.weight.original.mul_(3)
    assert (published_bake(model)(x) - model(x)).norm() > .05*model(x).norm()
    torch.testing.assert_close(bake(model)(x), model(x), rtol=0, atol=1e-6)
    assert is_parametrized(model.body[0][0]) and not any(map(is_parametrized, published_bake(model).modules()))


def test_rows_within_the_ball_stay():
    rows = torch.tensor([[.1, .2, 0.], [0., 0., 0.]])
    assert project_rows(rows).equal(rows) and L1Rows()(rows).equal(rows)
    assert PublishedL1Rows()(rows)[0].abs().sum() > .7


def test_two_forwards_before_a_backward_share_their_weights():
    "A projection in the forward pass would change the weights between the two, and with them the gradient."
    model, opt = net(), None
    first, second = torch.rand(8, 6, generator=stream(0, 'a')), torch.rand(8, 6, generator=stream(0, 'b'))
    opt = SGD()(model.parameters())
    for group in opt.param_groups: group['lr'] = 0.
    x, y = torch.cat([first, second]), torch.tensor([0]*8 + [1]*8)
    train_step(model, opt, x, y, loss=WassersteinDual(), constraints=[Projected(Bjorck(steps=1, scaling=None))])
    with seeded(0, 'init'): again = LipschitzMLP(6, (12, 12), 1)
    (again(second).mean() - again(first).mean()).backward()
    for a, b in zip(model.parameters(), again.parameters()):
        if b.grad is not None: torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=1e-6)


def test_the_weight_of_a_step_is_computed_once():
    calls = []
    class Counted(nn.Module):
        def forward(self, weight): calls.append(1); return weight
    model = nn.Sequential(nn.Linear(6, 1))
    parametrize(model, Counted())
    calls.clear()
    opt = SGD()(model.parameters())
    train_step(model, opt, torch.rand(4, 6), torch.tensor([0, 0, 1, 1]), loss=WassersteinDual())
    assert len(calls) == 1
    with cached(): model(torch.rand(1, 6)), model(torch.rand(1, 6))
    assert len(calls) == 2


def test_a_batch_of_one_keeps_its_shape():
    for act in ('groupsort', 'maxmin', 'relu'): assert net(activation=act)(torch.rand(1, 6)).shape == (1, 1)


@pytest.mark.parametrize('act', [GroupSort(2), GroupSort(4), MaxMin(2)], ids=repr)
def test_maps_are_sorted_over_channels_place_by_place(act):
    x = torch.randn(2, 8, 3, 5, generator=stream(0, 'x'))
    out = act(x)
    assert out.shape == x.shape
    for i, j in ((0, 0), (2, 4)): assert out[:, :, i, j].equal(act(x[:, :, i, j]))


def test_sorting_asks_for_nothing_on_the_way():
    "No look at values from the host: it runs where there are none."
    x = torch.empty(3, 8, device='meta')
    for act in (GroupSort(2), GroupSort(4), GroupSort(0), MaxMin(2)): assert act(x).shape == x.shape
    assert bjorck(torch.empty(3, 8, device='meta'), 3).shape == (3, 8)


def test_empty_axes_of_a_problem_are_not_regrouped():
    "Samples of another size are refused, rather than cut into rows of the right one."
    from locallearning.core import InputError
    with pytest.raises(InputError, match='does not take images of shape'):
        fit(net(), Between(Spheres(2, 0., extra=1), Spheres(2, extra=1), samples=8), loss=WassersteinDual(), epochs=1)
