"""What is examined: checkpoints of ours, foreign models and their weights, and what can be wrong with them."""
import pickle

import pytest
import torch
from torch import nn

from locallearning.core import InputError
from locallearning.data import load
from locallearning.models import LpUnit, Normalize, SHLP, prepend
from locallearning.state import save_checkpoint, seeded
from locallearning.state import model_key
from locallearning.instruments import Subject, find_layer
from locallearning.training import build_model
from locallearning.examine.subjects import check_logits, find_checkpoint, first_outputs, fit_space, foreign_subject, load_subject, load_weights, name_apart, read_at, read_weights

FACTORY = '''
import torch
from torch import nn
class SHLP(nn.Module):
    "Its name is that of a public one."
    def __init__(self, in_features, hidden=3, classes=2):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(in_features, hidden, bias=False), nn.Linear(hidden, classes)
    def forward(self, x): return self.fc2(self.fc1(x.flatten(1)).relu())
def make(**kwargs): return SHLP(4, **kwargs)
def nothing(): return {}
ready = SHLP(4)
number = 3
'''


def net(width=3, seed=0):
    with seeded(seed, 'net'): return SHLP(4, width=width, classes=2).eval()


@pytest.fixture
def factory(tmp_path, monkeypatch):
    "A module of a stranger in the current folder."
    (tmp_path/'subjects_factory.py').write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return 'subjects_factory'


# --- keys

def test_a_key_changes_with_weights_architecture_and_nothing_else():
    a, b = net(), net()
    assert model_key(a) == model_key(b) != model_key(net(seed=1))
    b.readout.bias.data[0] += 1e-6
    assert model_key(a) != model_key(b)
    assert len({model_key(nn.Dropout(p)) for p in (.1, .2)}) == 2, 'what has no weights counts too'
    assert len({model_key(prepend(Normalize((m,), (1.,)), a)) for m in (0., .5)}) == 2, 'buffers that are not saved count too'
    assert model_key(nn.BatchNorm1d(2)) == model_key(nn.BatchNorm1d(2)), 'tensors without dimensions are hashed too'


def test_a_key_changes_with_the_code_of_a_users_module(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    keys = set()
    for i, body in enumerate(('x.flatten(1)', '2*x.flatten(1)')):
        (tmp_path/f'coded{i}.py').write_text(f'from torch import nn\nclass Net(nn.Module):\n    def forward(self, x): return {body}\n')
        keys.add(model_key(build_model(f'coded{i}:Net'), (f'coded{i}',)))
    assert len(keys) == 2


# --- checkpoints

def test_a_folder_stands_for_its_best_model_and_names_it(tmp_path):
    best = save_checkpoint(tmp_path/'jreg'/'models'/'best.safetensors', net(), 'lp_unit(p=3)')
    save_checkpoint(tmp_path/'jreg'/'models'/'last.safetensors', net(seed=1))
    assert find_checkpoint(tmp_path/'jreg') == best
    found = load_subject(tmp_path/'jreg')
    assert (found.name, found.space) == ('jreg', 'lp_unit(p=3)') and not found.model.training and found.key == model_key(net())
    best.unlink()
    with pytest.raises(InputError, match='has no models/best.safetensors; name one of its files: models/last.safetensors'): load_subject(tmp_path/'jreg')


def test_names_tell_models_apart(tmp_path):
    assert name_apart(['x/a/models/best.safetensors', 'y/b.safetensors']) == ['a', 'b']
    assert name_apart(['x/a/models/best.safetensors', 'y/a/models/best.safetensors', 'c.pth']) == ['x/a/models/best', 'y/a/models/best', 'c']
    with pytest.raises(InputError, match='is given 2 times'): name_apart(['a.pth', './a.pth'])


def test_what_is_no_checkpoint_is_told_from_one(tmp_path):
    torch.save(net().state_dict(), tmp_path/'w.pth')
    for path in (tmp_path/'w.pth', tmp_path/'cut.safetensors', tmp_path/'empty.safetensors'):
        if path.suffix != '.pth': path.write_bytes(save_checkpoint(tmp_path/'c.safetensors', net()).read_bytes()[:4] if 'cut' in path.name else b'')
        with pytest.raises(InputError, match='is no checkpoint of locallearning; if it holds weights, name the model'): load_subject(path)
    whole = (tmp_path/'c.safetensors').read_bytes()
    (tmp_path/'short.safetensors').write_bytes(whole[:-5])
    with pytest.raises(InputError, match='short.safetensors'): load_subject(tmp_path/'short.safetensors')


def test_the_checkpoint_of_a_foreign_model_says_how_to_build_it(tmp_path, factory):
    save_checkpoint(tmp_path/'f.safetensors', build_model(f'{factory}:make'))
    with pytest.raises(InputError, match=rf'build it: --model {factory}:SHLP --weights .*f.safetensors'): load_subject(tmp_path/'f.safetensors')
    found = foreign_subject(f'{factory}:SHLP', tmp_path/'f.safetensors', in_features=4)
    assert found.space == 'pixel' and found.name == 'f', 'weights of ours bring their space along'


# --- weights

WRAPPED = dict(plain=lambda s: s, lightning=lambda s: {'state_dict': s, 'epoch': 3}, originals=lambda s: {'model_state_dict': s, 'in_size': 4}, twice=lambda s: {'model': {'net': s}},
               parallel=lambda s: {f'module.{k}': v for k, v in s.items()}, compiled=lambda s: {'weights': {f'_orig_mod.module.{k}': v for k, v in s.items()}})


@pytest.mark.parametrize('wrap', WRAPPED)
@pytest.mark.parametrize('suffix', ['.pth', '.pty', '.bin'])
def test_state_dicts_are_read_however_they_are_wrapped(tmp_path, wrap, suffix):
    torch.save(WRAPPED[wrap](net().state_dict()), tmp_path/f'w{suffix}')
    load_weights(other := net(seed=1), tmp_path/f'w{suffix}')
    assert all(torch.equal(a, b) for a, b in zip(other.state_dict().values(), net().state_dict().values()))


def test_safetensors_of_others_and_checkpoints_of_ours_are_read_too(tmp_path):
    from safetensors.torch import save_file
    save_file({f'module.{k}': v for k, v in net().state_dict().items()}, tmp_path/'hub.safetensors')
    save_checkpoint(tmp_path/'ours.safetensors', net())
    for name in ('hub', 'ours'): assert model_key(foreign_subject('SHLP(width=3)', tmp_path/f'{name}.safetensors', in_features=4, classes=2).model) == model_key(net())


class Evil:
    def __reduce__(self): return (open, ('opened', 'w'))


@pytest.mark.parametrize('content', [Evil(), {'state_dict': Evil()}, net()], ids=['code', 'code inside', 'whole model'])
def test_a_pickle_that_could_run_code_is_refused_and_runs_none(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    torch.save(content, 'evil.pth')
    with pytest.raises(InputError, match='could run code, so it is not read'): read_weights('evil.pth')
    (tmp_path/'plain.pth').write_bytes(pickle.dumps(content))
    with pytest.raises(InputError, match='plain.pth'): read_weights('plain.pth')
    assert not (tmp_path/'opened').exists()


@pytest.mark.parametrize('content, message', [([1, 2], 'holds a list, no state dict'), ({}, 'holds a dict'), ({'a': 3}, "holds a dict of 'a', no state dict"), (torch.ones(2), 'holds a Tensor')], ids=range(4))
def test_what_is_no_state_dict_is_named(tmp_path, content, message):
    torch.save(content, tmp_path/'x.pth')
    with pytest.raises(InputError, match=message): read_weights(tmp_path/'x.pth')


def test_damaged_weights_are_named(tmp_path):
    torch.save(net().state_dict(), tmp_path/'w.pth')
    whole = (tmp_path/'w.pth').read_bytes()
    for i, part in enumerate((whole[:len(whole)//2], b'', b'hello', b'\x00'*8 + b'{')):
        (tmp_path/f'{i}.pth').write_bytes(part)
        with pytest.raises(InputError, match=f'{i}.pth'): read_weights(tmp_path/f'{i}.pth')
    with pytest.raises(InputError, match='no file of weights'): load_weights(net(), tmp_path/'none.pth')


def test_weights_that_do_not_fit_are_named_and_the_model_stays_as_it_was(tmp_path):
    for change, message in {lambda s: s | {'extra': torch.ones(1)}: "has a tensor 'extra' that SHLP does not know", lambda s: {k: v for k, v in s.items() if k != 'readout.bias'}: "has no tensor 'readout.bias', which SHLP needs",
                            lambda s: s | {'hidden.weight': torch.ones(5, 4)}: r"'hidden.weight' has shape \(5, 4\), in SHLP it is \(3, 4\)"}.items():
        torch.save(change(net().state_dict()), tmp_path/'w.pth')
        other = net(seed=1)
        with pytest.raises(InputError, match=message): load_weights(other, tmp_path/'w.pth')
        assert model_key(other) == model_key(net(seed=1))


def test_batch_norms_of_old_files_lack_a_counter(tmp_path):
    norm = nn.BatchNorm1d(2)
    torch.save({k: v for k, v in norm.state_dict().items() if 'num_batches' not in k}, tmp_path/'old.pth')
    load_weights(nn.BatchNorm1d(2), tmp_path/'old.pth')


# --- foreign models

def test_a_factory_is_a_class_a_function_or_a_model_and_wins_over_a_public_name(factory):
    for text in ('SHLP', 'SHLP()', 'make', 'make(hidden=5)', 'ready'):
        made = build_model(f'{factory}:{text}', in_features=4, classes=2)
        assert hasattr(made, 'fc1') and not foreign_subject(f'{factory}:{text}', in_features=4, classes=2).model.training
    assert build_model(f'{factory}:make(hidden=5)').fc1.weight.shape == (5, 4)
    assert build_model(f'{factory}:SHLP(3)', in_features=4).fc1.weight.shape == (3, 3), 'what is given wins over what the data say'


@pytest.mark.parametrize('text, message', [('SLHP', "no 'SLHP'; did you mean 'SHLP'"), ('nothing', 'is a dict, not a model'), ('number', 'is a int, not a model'), ('SHLP(hiden=3)', "SHLP has no field 'hiden'; did you mean 'hidden'"),
                                           ('SHLP', 'missing a required argument'), ('make(1)', 'too many positional arguments'), ('SHLP(x)', 'not a literal')])
def test_a_factory_that_does_not_make_a_model_is_named(factory, text, message):
    with pytest.raises(InputError, match=message): build_model(f'{factory}:{text}')


def test_a_factory_that_is_not_there_is_named(factory):
    with pytest.raises(InputError, match="no module 'subjects_facory'"): build_model('subjects_facory:SHLP')
    with pytest.raises(InputError, match="unknown piece 'SLHP'"): build_model('SLHP()')


def test_an_untrained_model_is_the_same_every_time(factory):
    torch.manual_seed(0)
    first = model_key(build_model('SHLP(width=3)', in_features=4, classes=2))
    assert first == model_key(build_model('SHLP(width=3)', in_features=4, classes=2)) != model_key(build_model('SHLP(width=3)', seed=1, in_features=4, classes=2))


def test_a_scaling_goes_in_front(tmp_path):
    torch.save(net().state_dict(), tmp_path/'w.pth')
    found = foreign_subject('SHLP(width=3)', tmp_path/'w.pth', normalize=([.5], [.25]), in_features=4, classes=2)
    x = torch.rand(3, 1, 2, 2)
    assert torch.equal(found.model(x), net()((x - .5)/.25)) and found.name == 'w'
    load_weights(behind := build_model('prepend(LpUnit(3), SHLP(width=3))', in_features=4, classes=2), tmp_path/'w.pth')
    assert torch.equal(behind(x), net()(LpUnit(3)(x))), 'weights belong to the model behind the scaling'


# --- logits

@pytest.fixture(scope='module')
def images(): return load('mnist5k(1000, test=120)').test


def subject(*last): return Subject('net', nn.Sequential(nn.Flatten(), nn.Linear(784, 10), *last).eval(), '')


class Pair(nn.Module):
    def forward(self, x): return x, x


@pytest.mark.parametrize('last, message', [(nn.Softmax(1), 'returns probabilities'), (nn.Linear(10, 9), r'returns shape \(100, 9\) for 100 images of 10 classes'), (nn.Unflatten(1, (5, 2)), 'logits of shape'),
                                           (Pair(), 'returns a tuple'), (nn.LayerNorm(10, eps=float('nan')), 'returns NaN or Inf'), (nn.Linear(3, 10), r'does not take images of shape \(1, 28, 28\)')], ids=range(6))
def test_what_is_not_logits_is_named(images, last, message):
    with pytest.raises(InputError, match=message): check_logits(subject(last), images, 10)


@pytest.mark.parametrize('last', [(), (nn.LogSoftmax(1),), (nn.Sigmoid(),), (nn.Linear(10, 1000),)], ids=['plain', 'log-softmax', 'sigmoid', 'more classes'])
def test_logits_pass(images, last): check_logits(subject(*last), images, 10)


def test_a_softmax_is_left_out_by_naming_the_layer_before_it(images):
    cut = read_at(subject(nn.Softmax(1)), '1')
    check_logits(cut, images, 10)
    assert first_outputs(cut, images)[1] == 100 and cut.key != subject(nn.Softmax(1)).key
    with pytest.raises(InputError, match="no layer '11' in Sequential"): read_at(subject(), '11')


def test_layers_are_named_as_if_nothing_stood_in_front():
    behind = prepend(Normalize(), prepend(LpUnit(3), net()))
    assert find_layer(behind, 'hidden') == 'hidden' and find_layer(behind, '.features') == 'model.model.features'
    with pytest.raises(InputError, match="no layer 'redout' in SHLP; did you mean 'readout'"): find_layer(behind, 'redout')


# --- spaces

def test_a_model_of_unit_images_sees_pixels_through_its_scaling():
    kh, x = Subject('kh', net(), '', 'lp_unit(p=2)'), torch.rand(3, 1, 2, 2)
    seen = fit_space(kh, 'pixel')
    assert seen.space == 'pixel' and torch.allclose(seen.model(x), net()(x / x.flatten(1).norm(2, 1).view(-1, 1, 1, 1)))
    assert fit_space(kh, 'lp_unit(p=2)') is kh and not isinstance(kh.model, type(seen.model)), 'the subject stays as it was'
    foreign = Subject('f', net(), '')
    assert fit_space(foreign, 'lp_unit(p=3)') is foreign, 'a foreign model takes images as they come'
    with pytest.raises(InputError, match=r"trained on images in space 'lp_unit\(p=2\)', these are in 'lp_unit\(p=3\)'"): fit_space(kh, 'lp_unit(p=3)')
    with pytest.raises(InputError, match="in space 'pixel', these are in 'lp_unit.*use --space pixel$"): fit_space(Subject('bp', net(), '', 'pixel'), 'lp_unit(p=2)')
