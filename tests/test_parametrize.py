"Weights that are made of other weights: trained, computed once a step, saved and rebuilt."
import json

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

import locallearning as ll
from locallearning.core import InputError
from locallearning.recipes import Piece
from locallearning.models import MLP, SHLP, LpUnit, Normalize, Power, feature_jacobian_norm, parametrize, prepend, read
from locallearning.state import load_checkpoint, load_model, parametrizations, save_checkpoint, seeded, user_modules
from locallearning.optimizers import SGD
from locallearning.training import fit, train_model, train_step

calls = []


class Bounded(Piece, nn.Module):
    "Counts how often it is asked, and has a state of its own."
    def __init__(self, b=.1): super().__init__(); self.b = b; self.register_buffer('seen', torch.tensor(0.))
    def forward(self, weight): calls.append(1); return self.b * weight.tanh()


class Plain(nn.Module):
    "Of a user: its text is no recipe."
    def __init__(self, factor=2.): super().__init__(); self.factor = factor
    def forward(self, weight): return self.factor * weight


class Net(nn.Module):
    def __init__(self, classes=3): super().__init__(); self.conv, self.out = nn.Conv2d(1, 2, 3), nn.Linear(8, classes)
    def forward(self, x): return self.out(self.conv(x).relu().flatten(1))


def net(**kwargs):
    with seeded(0, 'init'): return SHLP(16, width=5, classes=3, **kwargs)


DATA = torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3
same = lambda a, b: all(x.equal(y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))


def test_linear_and_convolutional_layers_get_a_copy_each():
    model = parametrize(Net(), piece := Bounded())
    assert list(parametrizations(model)) == ['conv.weight', 'out.weight'] and model.conv.weight.abs().max() <= .1
    a, b = model.conv.parametrizations.weight[0], model.out.parametrizations.weight[0]
    assert len({id(piece), id(a), id(b)}) == 3 and a.seen is not b.seen
    only = parametrize(net(batch_norm=True), Bounded(), layers=['hidden'])
    assert is_parametrized(only.hidden) and not is_parametrized(only.readout) and only.effective_weight().abs().max() <= .1


def test_several_are_applied_one_after_the_other():
    model = net()
    before = model.hidden.weight.detach().clone()
    parametrize(parametrize(model, Plain(3.), ['hidden']), Bounded(), ['hidden'])
    torch.testing.assert_close(model.hidden.weight, .1 * (3 * before).tanh())
    assert parametrizations(model) == {'hidden.weight': ['test_parametrize.Plain', 'Bounded()']}


def test_weights_are_computed_once_a_step():
    model = parametrize(net(), Bounded())
    opt = torch.optim.SGD(model.parameters(), lr=.1)
    calls.clear()
    train_step(model, opt, *DATA, penalties=[ll.Jacobian(1e-2, n=None, of='features'), lambda model, x, y, out: model.hidden.weight.square().sum()])
    assert len(calls) == 2, 'one for each of the two layers'
    assert model.hidden.parametrizations.weight.original.grad.abs().max() > 0


def test_the_weight_follows_what_is_trained():
    model = parametrize(net(), Bounded())
    before = model.hidden.weight.detach().clone()
    fit(model, DATA, epochs=2, batch_size=4, opt=SGD(), lr=1.)
    assert not model.hidden.weight.equal(before) and model.hidden.weight.abs().max() <= .1, 'nothing of the step before is kept'


class Transposed(nn.Module):
    def forward(self, weight): return weight.T


@pytest.mark.parametrize('wrong, message', [
    (lambda: parametrize(net(), Transposed()), r"Transposed does not fit the weight of 'hidden', shape \(5, 16\)"), (lambda: parametrize(net(), ll.Lp(1.)), 'Lp does not fit the weight'),
    (lambda: parametrize(net(), ll.Adam()), r'Adam\(\) is no nn.Module'), (lambda: parametrize(net(), Bounded(), ['hiden']), "did you mean 'hidden'"),
    (lambda: parametrize(net(), Bounded(), ['flatten']), "layer 'flatten' is a Flatten and has no weight"), (lambda: parametrize(nn.Flatten(), Bounded()), 'Flatten has no linear or convolutional layer')])
def test_what_cannot_be_is_named(wrong, message):
    with pytest.raises(InputError, match=message): wrong()


# --- in a checkpoint

def test_a_checkpoint_rebuilds_them_before_the_weights_are_loaded(tmp_path):
    model = parametrize(parametrize(net(n=2), Bounded(b=.2)), Bounded(b=.05), ['readout'])
    model.hidden.parametrizations.weight[0].seen.fill_(7)
    path = save_checkpoint(tmp_path/'m.safetensors', model, 'lp_unit(p=3)', modules=[__name__])
    back = load_model(path, [__name__])
    assert same(model, back) and parametrizations(back) == parametrizations(model) == {'hidden.weight': ['Bounded(b=0.2)'], 'readout.weight': ['Bounded(b=0.2)', 'Bounded(b=0.05)']}
    assert back.hidden.weight.equal(model.hidden.weight) and back.hidden.parametrizations.weight[0].seen == 7
    assert json.loads((tmp_path/'m.json').read_text())['parametrizations'] == parametrizations(model)
    with pytest.raises(InputError, match=r"original' is only in the file; build SHLP\(.*\) and parametrize it by Bounded\(b=0.2\), Bounded\(b=0.05\)|is only in the model"): load_checkpoint(path, net(n=2))


def test_a_foreign_piece_is_recorded_by_the_recipe_that_made_it(tmp_path):
    model = parametrize(net(), Plain(.5), recipe='Plain(0.5)')
    path = save_checkpoint(tmp_path/'m.safetensors', model, modules=[__name__])
    back = load_model(path, [__name__])
    assert back.hidden.weight.equal(model.hidden.weight)
    assert parametrizations(load_model(save_checkpoint(tmp_path/'again.safetensors', back, modules=[__name__]), [__name__])) == parametrizations(model)
    with pytest.raises(InputError, match='holds a foreign parametrization, test_parametrize.Plain; build it'): load_model(save_checkpoint(tmp_path/'n.safetensors', parametrize(net(), Plain())))


def test_a_foreign_model_is_recorded_by_the_recipe_that_made_it(tmp_path):
    path = save_checkpoint(tmp_path/'m.safetensors', model := Net(classes=4), recipe='Net(classes=4)', modules=[__name__])
    assert same(load_model(path, [__name__]), model)
    with pytest.raises(InputError, match=r'uses test_parametrize; pass --import test_parametrize \(modules=\[.test_parametrize.\] in Python\) to let that code run'): load_model(path)


def test_nothing_is_imported_that_was_not_named(tmp_path, monkeypatch):
    (tmp_path/'hostile.py').write_text('raise SystemExit("it ran")')
    monkeypatch.syspath_prepend(str(tmp_path))
    path = save_checkpoint(tmp_path/'m.safetensors', Net(), recipe='Net()', modules=['hostile'])
    with pytest.raises(InputError, match='uses hostile'): load_model(path)


def test_a_layer_that_is_a_model_itself_keeps_its_class(tmp_path):
    path = save_checkpoint(tmp_path/'m.safetensors', parametrize(nn.Linear(3, 2), Bounded()))
    load_checkpoint(path, again := parametrize(nn.Linear(3, 2), Bounded()))
    assert load_checkpoint(path)['about']['class_'] == 'torch.nn.modules.linear.Linear' and same(again, again)


def test_a_checkpoint_names_only_the_modules_that_it_needs():
    assert user_modules(['SHLP(3)', 'Adversarial(PGD(), eps=.1)'], [__name__]) == []
    assert user_modules(['Net()', 'SHLP(3)'], ['json', __name__]) == [__name__]


def test_from_recipes_best_and_last_and_after_a_resume(tmp_path):
    data, request = ll.load('mnist5k(per_class=4, test=20, val=20)').in_space('lp_unit', p=3), dict(model='SHLP(784, width=6)', parametrizations=['Bounded(b=.2)'], modules=[__name__], snapshots=[0])
    through = train_model(data=data, epochs=3, folder=tmp_path/'a', **request)
    train_model(data=data, epochs=1, folder=tmp_path/'b', **request)
    resumed = train_model(data=data, epochs=3, folder=tmp_path/'b', **request)
    assert (through['checkpoint']).read_bytes() == resumed['checkpoint'].read_bytes()
    for name in ('best', 'last', 'snapshot-0'):
        back = load_model(tmp_path/'a'/f'{name}.safetensors', [__name__])
        assert back.space == 'lp_unit(p=3)' and back.hidden.weight.abs().max() <= .2, 'best says its space as last does'


@pytest.mark.parametrize('make, said', [
    (lambda: SHLP('784'), r"SHLP\(in_features='784'\): must be a whole number ≥ 1"), (lambda: SHLP(784, width=50.), r'SHLP\(width=50.0\)'), (lambda: SHLP(784, classes=('a', 'b')), r"SHLP\(classes=\('a', 'b'\)\)"),
    (lambda: SHLP(784, n='2'), r"SHLP\(n='2'\)"), (lambda: SHLP(nn.ReLU()), r'SHLP\(in_features\) is a ReLU'), (lambda: MLP(4, 500), r'MLP\(widths=500\): must be a tuple'), (lambda: MLP(4, ('a',)), r"MLP\(widths='a'\)"),
    (lambda: Power('2'), r"Power\(n='2'\)"), (lambda: LpUnit('inf'), r"LpUnit\(p='inf'\): must be a number ≥ 1"), (lambda: Normalize(.5, .5), r'Normalize\(mean=0.5\): must be a tuple'), (lambda: Normalize(('a',), (1,)), r"Normalize\(mean='a'\)"),
    (lambda: read('net', torch.rand(1, 4)), "model='net': must be a torch.nn.Module"), (lambda: read(nn.Linear(4, 2), torch.rand(1, 4), layer=0), 'layer=0: must be the path'), (lambda: prepend('LpUnit(3)', nn.ReLU()), r"first='LpUnit\(3\)'"),
    (lambda: prepend(LpUnit(3), 'SHLP'), "model='SHLP'"), (lambda: parametrize('net', nn.ReLU()), "model='net'"), (lambda: feature_jacobian_norm(torch.rand(1), torch.rand(1)), 'model is a Tensor')])
def test_models_name_settings_of_the_wrong_type(make, said):
    with pytest.raises(InputError, match=said): make()
