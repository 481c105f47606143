"""Random streams that do not disturb each other, devices, checkpoints that are one safe file."""
import ast
import functools
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

import locallearning as ll
from locallearning.core import InputError
from locallearning.models import SHLP, LpUnit, prepend
from locallearning.state import describe, device_of, load_checkpoint, load_model, load_tree, model_key, pick_device, save_checkpoint, save_tree, seeded, stream

PACKAGE = Path(ll.__file__).parent
draw = lambda *key: torch.randint(2**62, (2,), generator=stream(*key)).tolist()

# --- streams

keys = st.lists(st.text(max_size=3) | st.integers(-5, 5), max_size=3)


@given(st.integers(0, 5), keys, st.integers(0, 5), keys)
@settings(max_examples=300)
def test_streams_are_equal_exactly_where_seed_and_key_are(seed_a, a, seed_b, b):
    assert (draw(seed_a, *a) == draw(seed_b, *b)) == (seed_a == seed_b and a == b)


def test_streams_of_joined_numbers_and_turned_keys_differ():
    different = [(0, 'a', 'b'), (0, 'ab'), (0, 'b', 'a'), (0, 'a,b'), (0, 1, 2), (0, 12), (0, 2, 1), (0, '1', 2), (1, 2), (12,), (0, 'a', ''), (0, 'a'), (0,)]
    assert len({tuple(draw(*k)) for k in different}) == len(different)


def test_a_stream_is_the_same_everywhere_and_forever():
    assert stream(0, 'shuffle', 7).initial_seed() == 8910956129452851933
    assert draw(np.int64(3), 'x') == draw(3, 'x'), 'seeds that come out of a table count as numbers'


def test_drawing_from_one_stream_changes_no_other():
    a, b = stream(0, 'a'), stream(0, 'b')
    torch.rand(1000, generator=a)
    assert torch.rand(3, generator=b).equal(torch.rand(3, generator=stream(0, 'b')))


def test_seeded_lends_the_global_generator_and_gives_it_back():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with seeded(0, 'init'): a = torch.rand(3)
    assert torch.get_rng_state().equal(before)
    with pytest.raises(ZeroDivisionError):
        with seeded(0, 'init'): torch.rand(9); 1 / 0
    assert torch.get_rng_state().equal(before), 'also when something goes wrong inside'
    with seeded(0, 'init'):
        with seeded(0, 'other'): torch.rand(3)
        assert torch.rand(3).equal(a), 'the inner one does not disturb the outer'


# --- devices

def test_devices_that_are_not_there_are_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(torch.backends.mps, 'is_available', lambda: False)
    assert pick_device() == 'cpu'
    with pytest.raises(InputError, match="'cuda:1' was asked for, but this machine has no cuda; use auto or cpu"): pick_device('cuda:1')
    with pytest.raises(InputError, match="unknown device 'tensor'; valid: auto, cpu, cuda, mps"): pick_device('tensor')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    assert (pick_device(), pick_device('cuda:1')) == ('cuda', 'cuda:1')


def test_device_of_a_model_without_weights_is_the_cpu():
    assert device_of(nn.Flatten()) == torch.device('cpu') == device_of(nn.Linear(1, 1))


# --- trees

dtypes = st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool])
tensors = st.builds(lambda shape, dtype: torch.arange(int(np.prod(shape))).reshape(shape).to(dtype), st.lists(st.integers(0, 3), max_size=3).map(tuple), dtypes)
plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6)
dict_keys = st.sampled_from(['a', 'b', 'a.b', 'a.a', '', '.', 'tensor', '$tensor', '$dict', '0']) | st.integers(-1, 2) | st.booleans() | st.none() | st.floats(allow_nan=False)
trees = st.recursive(tensors | plain, lambda t: st.lists(t, max_size=3) | st.lists(t, max_size=3).map(tuple) | st.dictionaries(dict_keys, t, max_size=4), max_leaves=12)


def same(a, b):
    if isinstance(a, torch.Tensor): return isinstance(b, torch.Tensor) and a.dtype == b.dtype and a.shape == b.shape and a.equal(b)
    if type(a) is not type(b): return False
    if isinstance(a, dict): return [*map(repr, a)] == [*map(repr, b)] and same([*a.values()], [*b.values()])
    return len(a) == len(b) and all(map(same, a, b)) if isinstance(a, (list, tuple)) else a == b


@given(trees)
@settings(max_examples=150)
def test_a_tree_survives_being_saved(tmp_path_factory, tree):
    path = tmp_path_factory.getbasetemp()/'tree.safetensors'
    assert same(load_tree(save_tree(path, tree)), tree)


def test_keys_that_look_alike_stay_apart(tmp_path):
    tree = {'a.b': torch.zeros(2), 'a': {'b': torch.ones(2), 0: torch.full((2,), 2.), '0': torch.full((2,), 3.)}}
    assert same(load_tree(save_tree(tmp_path/'t', tree)), tree)


def test_tied_tensors_are_saved_once_and_come_back_tied(tmp_path):
    big = torch.rand(1000)
    one, two = save_tree(tmp_path/'one', dict(a=big)), save_tree(tmp_path/'two', dict(a=big, b=big, c=[big.view(1000)]))
    assert two.stat().st_size - one.stat().st_size < 500
    back = load_tree(two)
    assert back['a'] is back['b'] is back['c'][0]
    parts = load_tree(save_tree(tmp_path/'views', dict(a=big, b=big[:10], c=big.view(10, 100), d=big[::2])))
    assert parts['b'].equal(big[:10]) and parts['c'].shape == (10, 100) and parts['d'].equal(big[::2]), 'parts of a tensor are not taken for it'


def test_saving_leaves_the_tensors_as_they_are_and_loading_gives_free_ones(tmp_path):
    w = torch.rand(3, requires_grad=True)
    path = save_tree(tmp_path/'t', dict(w=w))
    assert w.requires_grad and not (back := load_tree(path)['w']).requires_grad
    path.write_bytes(b'\0' * path.stat().st_size)
    assert back.equal(w), 'a loaded tensor does not live in the file'


@pytest.mark.parametrize('value', [print, {1, 2}, np.zeros(2), object(), b'x', 1j, {(1, 2): 3}, Path('.')])
def test_what_is_no_plain_data_is_not_saved(tmp_path, value):
    with pytest.raises(InputError, match='cannot be saved; use tensors and plain data'): save_tree(tmp_path/'t', dict(a=[value]))
    assert not list(tmp_path.iterdir())


# --- damaged and foreign files

def corrupt(path, how):
    data = path.read_bytes()
    n = struct.unpack('<Q', data[:8])[0]
    path.write_bytes({'empty': b'', 'truncated header': data[:20], 'truncated data': data[:-5], 'zeros': bytes(len(data)), 'text': b'hello, I am no checkpoint',
                      'pickle': b'PK\x03\x04' + data[4:], 'header cut short': struct.pack('<Q', n - 3) + data[8:], 'longer': data + b'x'}[how])


@pytest.mark.parametrize('how', ['empty', 'truncated header', 'truncated data', 'zeros', 'text', 'pickle', 'header cut short', 'longer'])
def test_a_damaged_checkpoint_is_an_input_error(tmp_path, how):
    path = save_checkpoint(tmp_path/'last.safetensors', nn.Linear(3, 2))
    corrupt(path, how)
    for read in (load_tree, load_checkpoint, load_model):
        with pytest.raises(InputError, match=r'checkpoint .*last.safetensors is damaged or no safetensors file .*make it again'): read(path)


def test_a_description_that_does_not_fit_is_an_input_error(tmp_path):
    from safetensors.torch import save_file
    for head in ('{', '{"$tensor": "b"}', '{"$set": []}', '{"a": 1, "b": 2}'):
        save_file(dict(a=torch.zeros(2)), tmp_path/'t', {'locallearning': head})
        with pytest.raises(InputError, match='its description does not fit its tensors'): load_tree(tmp_path/'t')


def test_a_file_of_others_is_an_input_error(tmp_path):
    from safetensors.torch import save_file
    save_file(dict(a=torch.zeros(2)), tmp_path/'theirs.safetensors')
    with pytest.raises(InputError, match='no description by locallearning; load it as a state dict'): load_tree(tmp_path/'theirs.safetensors')
    for tree in ({}, [1], 3, {'about': 1}):
        with pytest.raises(InputError, match='is not the checkpoint of a model'): load_checkpoint(save_tree(tmp_path/'t', tree))


def test_a_missing_checkpoint_is_an_input_error(tmp_path):
    for path in (tmp_path/'no.safetensors', tmp_path):
        with pytest.raises(InputError, match='no checkpoint at .*; train a model first'): load_model(path)


# --- models

class Net(nn.Module):
    "Of a user: no recipe."
    def __init__(self, n=3): super().__init__(); self.body = nn.Linear(n, 2)
    def forward(self, x): return self.body(x)


class Other(Net): pass


def test_a_checkpoint_of_another_class_or_other_sizes_is_an_input_error(tmp_path):
    path = save_checkpoint(tmp_path/'net.safetensors', Net())
    model = Net(4)
    before = model.body.weight.clone()
    with pytest.raises(InputError, match=r"'body.weight' has shape \(2, 3\), the model has \(2, 4\); build test_state.Net"): load_checkpoint(path, model)
    assert model.body.weight.equal(before)
    with pytest.raises(InputError, match='holds a test_state.Net, not a Other'): load_checkpoint(path, Other())
    wider = Net(); wider.extra = nn.Linear(2, 2)
    with pytest.raises(InputError, match="'extra.weight' is only in the model"): load_checkpoint(path, wider)
    with pytest.raises(InputError, match="'extra.weight' is only in the file"): load_checkpoint(save_checkpoint(tmp_path/'wider', wider), Net())


def test_a_class_inside_a_function_is_recognised(tmp_path):
    class Inner(Net): pass
    a, b = Inner(), Inner()
    load_checkpoint(save_checkpoint(tmp_path/'inner', a), b)
    assert b.body.weight.equal(a.body.weight)


def test_a_foreign_model_is_not_rebuilt_but_filled(tmp_path):
    path = save_checkpoint(tmp_path/'net.safetensors', net := Net())
    with pytest.raises(InputError, match='holds a foreign model, test_state.Net; build it and pass it to load_checkpoint'): load_model(path)
    load_checkpoint(path, again := Net())
    assert again.body.weight.equal(net.body.weight)


def test_our_models_are_rebuilt_with_space_weights_and_mode(tmp_path):
    model = SHLP(5, width=4, classes=3, n=2, batch_norm=True)
    model.train(); model(torch.rand(8, 5))
    before = torch.get_rng_state()
    back = load_model(save_checkpoint(tmp_path/'m', model, 'lp_unit(p=3)', epoch=4, scores=[1., None]))
    assert torch.get_rng_state().equal(before), 'rebuilding draws nothing from the global generator'
    assert repr(back) == repr(model) and back.space == 'lp_unit(p=3)' and not back.training
    assert all(a.equal(b) for a, b in zip(model.state_dict().values(), back.state_dict().values()))
    assert load_checkpoint(tmp_path/'m')['more'] == dict(epoch=4, scores=[1., None])
    assert json.loads((tmp_path/'m.json').read_text()) == dict(recipe=repr(model), class_='locallearning.models.SHLP', space='lp_unit(p=3)', epoch=4)


def test_a_model_with_a_scaling_in_front_is_rebuilt(tmp_path):
    model = prepend(LpUnit(2.), SHLP(5, width=4))
    x = torch.rand(3, 5)
    assert load_model(save_checkpoint(tmp_path/'m', model))(x).equal(model.eval()(x))


def test_a_piece_of_a_user_is_rebuilt_by_module(tmp_path):
    path = save_checkpoint(tmp_path/'m', Mine(7))
    assert load_model(path, [__name__]).n == 7
    with pytest.raises(InputError, match="unknown piece 'Mine'"): load_model(path)


class Mine(ll.Piece, nn.Module):
    def __init__(self, n=1): super().__init__(); self.n = n


class Talkative(Net):
    def __repr__(self): return 'a net (of 3)'


def test_foreign_pieces_are_described_by_their_import_path():
    assert describe(nn.Linear(3, 2)) == 'torch.nn.modules.linear.Linear' and describe(nn.ModuleList([nn.ReLU()])) == 'torch.nn.modules.container.ModuleList'
    assert describe(Talkative()) == 'test_state.Talkative', 'a text that is no recipe rebuilds nothing'
    assert describe(draw) == 'test_state.<lambda>' and '0x' not in describe(functools.partial(print)) and describe(None) == 'builtins.NoneType'
    assert describe(ll.Jacobian(1e-3)) == repr(ll.Jacobian(1e-3))


# --- nothing is unpickled

PICKLERS = {'pickle', 'cPickle', '_pickle', 'dill', 'cloudpickle', 'joblib', 'marshal', 'shelve'}

def pickling(tree):
    "Uses of modules that run what they read; all that is allowed is to catch `pickle.UnpicklingError`, which torch raises."
    caught = {n.value for n in ast.walk(tree) if isinstance(n, ast.Attribute) and n.attr == 'UnpicklingError'}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import): yield from (a.name for a in node.names if a.name.split('.')[0] in PICKLERS and (a.name, a.asname) != ('pickle', None))
        if isinstance(node, ast.ImportFrom) and not node.level and node.module.split('.')[0] in PICKLERS: yield node.module
        if isinstance(node, ast.Name) and node.id in PICKLERS and node not in caught: yield node.id


@pytest.mark.parametrize('code', ['import dill', 'import pickle as p', 'from pickle import loads', 'import pickle\npickle.load(f)', 'import pickle\nf = pickle',
    'import pickle\ngetattr(pickle, "loads")(b)', 'import pickle.loads', 'import joblib, sys', 'def f():\n    import pickle\n    return pickle.Unpickler'])
def test_any_use_of_a_pickle_is_found(code):
    assert [*pickling(ast.parse(code))]
    assert [*pickling(ast.parse('import pickle\ntry: f()\nexcept pickle.UnpicklingError: pass'))] == []


def test_nothing_of_ours_is_ever_unpickled():
    for path in sorted(PACKAGE.rglob('*.py')):
        tree = ast.parse(path.read_text(encoding='utf-8'))
        assert [*pickling(tree)] == [], path.name
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call): continue
            called, words = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
            if called in ('torch.load', 'torch.save'): assert words.get('weights_only') == 'True', f'{path.name}: {called}'
            if called in ('np.load', 'numpy.load'): assert words.get('allow_pickle', 'False') == 'False', f'{path.name}: {called}'
            assert called.rpartition('.')[2] not in ('read_pickle', 'to_pickle', 'eval', 'exec') or called in ('model.eval', 'net.eval') or called.endswith(').eval'), f'{path.name}: {called}'


@pytest.mark.parametrize('make, said', [
    (lambda: stream('a'), "seed='a': must be a whole number"), (lambda: stream(nn.ReLU()), 'seed is a ReLU'), (lambda: stream(1.5, 'x'), 'seed=1.5'), (lambda: seeded(None).__enter__(), 'seed=None'),
    (lambda: save_checkpoint('a.safetensors', 'SHLP(4)'), r"model='SHLP\(4\)': must be a torch.nn.Module"), (lambda: load_checkpoint(3), 'path=3: must be the path of a checkpoint'), (lambda: load_model(nn.ReLU()), 'path is a ReLU'),
    (lambda: load_checkpoint('a.safetensors', 'net'), "model='net'"), (lambda: model_key('net'), "model='net'"), (lambda: pick_device(3), "unknown device 3")])
def test_settings_of_the_wrong_type_are_named(make, said):
    with pytest.raises(InputError, match=said): make()
