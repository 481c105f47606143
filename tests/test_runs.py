"""What has been computed is found again exactly if nothing changed that could have changed it."""
import functools
import importlib
import io
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

import locallearning as ll
from locallearning.core import COLUMNS, InputError, measure
from locallearning.recipes import Recipe, parse_recipe
from locallearning.store import HARMLESS, Artefact, Store, closure, locked, plain, read_table, request_key, store, syntax, unstore
from locallearning.lab.runs import Run, gather_measurements


# --- the key: code

SOURCES = dict(
    made='import helpers_of_toy\nfrom locallearning import fit\nimport locallearning as ll\n\ndef double(x):\n    return helpers_of_toy.times(x, 2)\n\ndef uses(recipe, modules=()):\n    return 1\n\nclass Own(ll.Piece):\n    def __init__(self, n=1): self.n = n\n',
    helpers_of_toy='from further_toy import zero\n\ndef times(a, b):\n    return a * b + zero()\n',
    further_toy='def zero(): return 0\n',
    cli='def f(): return 1\n',
    unrelated_toy='def g(): return 1\n')


@pytest.fixture
def toy(tmp_path, monkeypatch):
    "User modules in a folder on the path; `toy(name, text)` rewrites one as an editor would."
    def write(name, text):
        (tmp_path/f'{name}.py').write_text(text)
        importlib.invalidate_caches()
        return importlib.reload(sys.modules[name]) if name in sys.modules else None
    for name, text in SOURCES.items(): write(name, text)
    monkeypatch.syspath_prepend(tmp_path)
    yield write
    for name in SOURCES: sys.modules.pop(name, None)


def key(name='double', **recipe): return request_key(getattr(importlib.import_module('made'), name), recipe)[0]


def test_key_stays_with_comments_docstrings_and_layout(toy):
    before = key(x=1)
    toy('made', SOURCES['made'].replace('def double(x):\n', 'def double( x ):\n    "Twice."\n    # because\n\n').replace('import helpers', '"""Doc."""\nimport helpers'))
    assert key(x=1) == before


def test_key_changes_with_code_of_the_module_and_of_what_it_imports(toy):
    seen = {key(x=1)}
    for name in ('made', 'helpers_of_toy', 'further_toy'):
        toy(name, SOURCES[name] + '\nextra = 1\n')
        seen.add(key(x=1))
    assert len(seen) == 4
    toy('unrelated_toy', 'def g(): return 2\n')
    assert key(x=1) in seen


def test_key_follows_names_of_the_package_to_their_modules(toy):
    importlib.import_module('made')
    modules = closure(['made'])
    assert {'made', 'helpers_of_toy', 'further_toy', 'locallearning.training', 'locallearning.core'} <= set(modules), '`from locallearning import fit` means its module'
    assert not {m for m in modules if m.startswith(('torch', 'numpy', 'json', 'pandas'))}, 'what is installed counts by its version'


def test_pieces_in_recipes_count_with_their_modules(toy):
    about = lambda **k: set(request_key(importlib.import_module('made').uses, k)[1]['code'])
    assert 'locallearning.attacks.gradient' not in closure(['locallearning.core'])
    toy('made', 'def uses(recipe, modules=()): return 1\n')
    assert about(recipe='text') == {'made'}
    for recipe in ('Adversarial(PGD())', 'PGD', ['PGD()'], dict(a=['PGD()']), Recipe('Adversarial', (Recipe('PGD'),)), ll.PGD()):
        assert 'locallearning.attacks.gradient' in about(recipe=recipe), recipe
    assert 'unrelated_toy' in about(recipe='Own()', modules=['unrelated_toy']), 'so do the modules in which names are looked up'


def test_a_piece_of_a_user_inside_ours_counts(toy):
    made = importlib.import_module('made')
    piece = ll.Adversarial(made.Own(3), eps=.1)
    assert {'made', 'locallearning.attacks.gradient'} <= set(request_key(parse_recipe, dict(text=piece))[1]['code'])


def test_shelves_that_only_draw_or_start_things_do_not_count(toy):
    found = closure(['locallearning.figures.layers', 'locallearning.command.app', 'locallearning.lab.reproduction', 'locallearning.examine.pictures'])
    assert not any(f'{m}.'.startswith(f'{shelf}.') for m in found for shelf in HARMLESS)
    assert 'cli' in closure(['cli']), "a user's module may have the name of one of ours"


def test_a_package_without_an_init_file_is_followed(tmp_path, monkeypatch):
    (tmp_path/'spacepkg'/'sub').mkdir(parents=True)
    (tmp_path/'spacepkg'/'a.py').write_text('from . import b\nfrom .sub import c\n')
    (tmp_path/'spacepkg'/'b.py').write_text('x = 1\n')
    (tmp_path/'spacepkg'/'sub'/'c.py').write_text('from .. import b\n')
    monkeypatch.syspath_prepend(tmp_path)
    assert list(closure(['spacepkg.a'])) == ['spacepkg.a', 'spacepkg.b', 'spacepkg.sub.c']


def test_syntax_sees_code_only():
    assert syntax('class A:\n    "doc"\n    x = 1') == syntax('class A:\n\n    x = 1  # one')
    assert syntax('def f():\n    "doc"') == syntax('def f(): pass')
    for a, b in itertools.combinations(('x = 1', 'x = 1.', 'x = "1"', 'x = -1', 'y = 1', 'x: int = 1', 'def f():\n    return "doc"', 'async def f():\n    return "doc"'), 2):
        assert syntax(a) != syntax(b)


# --- the key: arguments

args = st.recursive(st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False) | st.text(max_size=3),
                    lambda a: st.lists(a, max_size=3) | st.dictionaries(st.text(max_size=2) | st.integers(0, 2), a, max_size=3), max_leaves=6)
canonical = lambda v: json.dumps(plain(v))


@given(args, args)
def test_different_arguments_have_different_keys(a, b):
    strict = lambda v: [type(v).__name__, [strict(o) for o in v]] if isinstance(v, list) else [[strict(k), strict(o)] for k, o in v.items()] if isinstance(v, dict) else [type(v).__name__, repr(v)]
    assert (canonical(a) == canonical(b)) == (strict(a) == strict(b))


def test_arguments_are_told_apart():
    different = [1, 1., True, '1', None, 'None', [1], [[1]], {'1': 1}, {1: 1}, {'$key': 'x'}, Recipe('Lp'), 'Lp()', [], {}]
    assert len({canonical(v) for v in different}) == len(different)
    assert canonical((1, 2)) == canonical([1, 2]) and canonical(np.int64(3)) == canonical(3)
    assert canonical(Recipe('Lp', (5e-4,))) == canonical(ll.Lp(5e-4))
    for wrong in (print, object(), {1, 2}, np.zeros(3), Path('x'), b'x'):
        with pytest.raises(InputError, match='cannot be part of a request'): plain([wrong])


def test_keys_of_data_and_earlier_results_count(tmp_path):
    a = Artefact('layer', 'abc', tmp_path)
    assert plain(dict(layer=a)) == {'$dict': [['layer', {'$key': 'abc'}]]}
    x = ll.load('mnist5k(per_class=2)')
    assert canonical(x) == canonical(ll.load('mnist5k(per_class=2)')) != canonical(x.in_space('lp_unit', p=3))


@pytest.mark.parametrize('make', [lambda x: x, functools.partial(parse_recipe)])
def test_what_cannot_be_imported_makes_no_artefact(make):
    with pytest.raises(InputError, match='cannot be imported; put the function into a module'): request_key(make, {})


# --- the store: round trip

arrays = st.builds(lambda shape, dtype: (np.arange(math.prod(shape)) % 3).reshape(shape).astype(dtype), st.lists(st.integers(0, 3), min_size=1, max_size=3).map(tuple),
                   st.sampled_from(['bool', 'uint8', 'int32', 'int64', 'float16', 'float32', 'float64']))
words = st.text(st.characters(codec='utf-8', exclude_characters='\0'), max_size=5) | st.sampled_from(['', 'nan', 'NA', 'None', '007', '1', 'True', ' ', '"', 'a,b', 'x\ny', 'x\r\ny', '#'])
columns = {'f': st.floats() | st.just(math.nan), 'i': st.integers(-2**63, 2**63 - 1), 'b': st.booleans(), 't': words}
frames = st.lists(st.tuples(*columns.values()), max_size=4).flatmap(lambda rows: st.sets(st.sampled_from('fibt')).map(
    lambda keep: pd.DataFrame(rows, columns=[*columns]).astype(dict(f='float64', i='int64', b='bool', t='object'))[sorted(keep)]))
leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | arrays | frames
values = st.recursive(leaves, lambda v: st.lists(v, max_size=3) | st.lists(v, max_size=2).map(tuple) | st.dictionaries(
    st.sampled_from(['a', 'b', 'a.b', 'a/b', '..', '', '$array', 'value', 'arrays']) | st.integers(0, 2), v, max_size=4), max_leaves=8)


def same(a, b):
    if isinstance(a, pd.DataFrame): return isinstance(b, pd.DataFrame) and list(a) == list(b) and all(same(a[c].tolist(), b[c].tolist()) for c in a) and (not len(a.columns) or len(a) == len(b))
    if isinstance(a, np.ndarray): return a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b)
    if isinstance(a, (list, tuple)): return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict): return [*map(repr, a)] == [*map(repr, b)] and same([*a.values()], [*b.values()])
    return type(a) is type(b) and (a == b or a != a and b != b)


@given(values)
@settings(max_examples=120)
def test_a_result_survives_being_stored(tmp_path_factory, value):
    folder = tmp_path_factory.mktemp('store')
    store(folder, value, {})
    assert same(value, unstore(folder))
    assert {p.name for p in folder.iterdir()} == {p.name for p in folder.rglob('*')} and not list(folder.parent.glob('*.csv')), 'all of it in one folder'


def test_tables_keep_text_and_types(tmp_path):
    table = pd.DataFrame(dict(id=['007', '', 'nan', 'NA'], n=[1, 2, 3, 4], x=[.1, math.nan, -math.inf, 1/3], flag=[True, False, True, True], half=np.float32([.1, .2, .3, math.nan])))
    store(tmp_path, dict(t=table, none=table[:0], empty=pd.DataFrame(), missing=pd.DataFrame(dict(a=['x', None]))), {})
    back = unstore(tmp_path)
    assert same(table, back['t']) and back['t'].half.dtype == 'float32' and same(table[:0], back['none']) and back['empty'].empty
    assert back['missing'].a.tolist() == ['x', ''], 'a text that is missing comes back empty'


def test_results_are_files_that_anybody_can_open(tmp_path):
    store(tmp_path, dict(w=np.eye(2), t=pd.DataFrame(dict(a=[.1])), note='plain'), dict(make='f'))
    from safetensors.numpy import load_file
    assert load_file(tmp_path/'arrays.safetensors')['w'].tolist() == [[1, 0], [0, 1]] and pd.read_csv(tmp_path/'t.csv').a[0] == .1
    assert json.loads((tmp_path/'value.json').read_text())['about'] == dict(make='f')


def test_results_hold_tensors_and_named_tuples(tmp_path):
    import torch
    w = torch.eye(2, requires_grad=True)
    store(tmp_path, namedtuple('Fit', 'w n')(w.T[:1], np.float32(2)), {})
    assert same(unstore(tmp_path), dict(w=np.float32([[1, 0]]), n=2.)) and w.requires_grad


def results():
    import torch
    plane = ll.Plane(torch.rand(1, 2, 2), torch.rand(1, 2, 2), torch.rand(1, 2, 2), 3., 5)
    yield ll.Curve(np.array([0., .1]), np.array([[True, False], [True, True]]), 2, "PGD(norm='inf')", 'pixel', ('below chance', 'masking'))
    yield ll.Curve(np.zeros(0), np.zeros((0, 2), bool), 2, 'PGD()', 'pixel', ())
    for order, grid in ((2, None), ('inf', np.array([.1, .2]))):
        yield ll.Critical(np.array([.1, np.inf, np.nan]), np.zeros(3), np.float32([1, 2, 3]), np.array([True, False, True]), np.arange(3), 'bisect', 'PGD()', order, grid, 'pixel', ())
    for examples in (None, torch.rand(2, 1, 2, 2)):
        yield ll.WorstCase(np.array([.1]), ('PGD()', 'APGD()'), (False, True), np.array([[0, -1]]), np.arange(2), 'pixel', (), {'PGD()': ['fixed'], 'APGD()': []}, examples)
    yield ll.Spectrum(torch.rand(5, dtype=torch.float64), 100, 5, 'features')
    yield ll.PowerLaw(1.2, math.nan, -.1, (10, 500), 1.1, math.inf)
    yield plane
    yield ll.Landscape(torch.rand(5, 5), plane)
    yield ll.Decision(torch.randint(9, (5, 5)), torch.rand(5, 5), plane)
    yield ll.Quantiles((1., 2.), (.1, .5, .9), torch.rand(2, 3), 4)


def parts_alike(a, b):
    import torch
    if type(a) is not type(b): return False
    if isinstance(a, torch.Tensor): return a.dtype == b.dtype and a.equal(b)
    if isinstance(a, np.ndarray): return a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b, equal_nan=a.dtype.kind == 'f')
    if isinstance(a, dict): return [*a] == [*b] and all(map(parts_alike, a.values(), b.values()))
    if isinstance(a, (list, tuple)): return len(a) == len(b) and all(map(parts_alike, a, b))
    return parts_alike(vars(a), vars(b)) if hasattr(a, '__dataclass_fields__') else a == b or a != a and b != b


@pytest.mark.parametrize('result', [*results()], ids=lambda r: type(r).__name__)
def test_a_result_comes_back_as_what_it_was(tmp_path, result):
    store(tmp_path, dict(one=result, several=[result, {3: (result, None)}]), {})
    back = unstore(tmp_path)
    assert all(parts_alike(result, o) for o in (back['one'], back['several'][0], back['several'][1][3][0])) and back['several'][1][3][1] is None


def test_what_was_read_may_be_written_into(tmp_path):
    import torch
    store(tmp_path, ll.Spectrum(torch.ones(2, requires_grad=True), 3, 2, 'a'), {})
    unstore(tmp_path).values.mul_(2)
    assert unstore(tmp_path).values.tolist() == [1, 1]


@pytest.mark.parametrize('name, said', [('Spectre', 'holds a Spectre, which is not a result of locallearning '), ('reproduce', 'not a result'), ('PGD.__init__', 'not a result'), ('SHLP', 'not a result'),
                                        ('PowerLaw', 'holds a PowerLaw of values, samples, width, layer, but it is made of exponent, ')])
def test_a_result_that_this_version_does_not_have_is_named(tmp_path, name, said):
    import torch
    store(tmp_path, ll.Spectrum(torch.ones(2), 3, 2, 'a'), {})
    text = (tmp_path/'value.json').read_text()
    (tmp_path/'value.json').write_text(text.replace('"Spectrum"', json.dumps(name)))
    with pytest.raises(InputError, match=said) as e: unstore(tmp_path)
    assert ll.__version__ in str(e.value) and 'damaged' not in str(e.value) and 'delete that folder' in str(e.value)


def test_results_of_a_user_are_stored_as_their_fields(tmp_path):
    "They would have to be imported again, from wherever they were."
    store(tmp_path, namedtuple('Spectrum', 'values n')(np.arange(2), (1, 2)), {})
    back = unstore(tmp_path)
    assert type(back) is dict and back['values'].tolist() == [0, 1] and back['n'] == (1, 2)


def test_what_was_stored_before_results_had_names_still_reads(tmp_path):
    old = {'$dict': [['curve', {'$dict': [['flags', {'$list': ['masking']}], ['n', 2]]}], ['best', {'$list': [0.5, None]}], ['file', {'$path': 'w'}]]}
    (tmp_path/'value.json').write_text(json.dumps(dict(value=old, about={})))
    assert unstore(tmp_path) == dict(curve=dict(flags=['masking'], n=2), best=[.5, None], file=tmp_path/'w')


def test_paths_lie_inside_the_result(tmp_path):
    (tmp_path/'in').mkdir()
    (tmp_path/'in'/'w').write_text('weights')
    store(tmp_path/'in', [tmp_path/'in'/'w'], {})
    moved = (tmp_path/'in').rename(tmp_path/'moved')
    assert unstore(moved)[0].read_text() == 'weights'
    with pytest.raises(InputError, match='outside the folder of the result'): store(moved, [Path('/elsewhere/w')], {})


@pytest.mark.parametrize('value', [print, {1}, object(), np.array(['a']), np.array([1j]), {(1, 2): 3}, pd.Series([1])])
def test_what_is_no_result_is_refused(tmp_path, value):
    with pytest.raises(InputError, match=r'a\.1: a .* cannot be stored; return plain data'): store(tmp_path, dict(a=[1, value]), {})
    assert not list(tmp_path.iterdir())


def test_a_damaged_artefact_says_which_folder_to_delete(tmp_path):
    art = Store(tmp_path).get('a', pieces_of, dict(n=3))
    (art.folder/'arrays.safetensors').write_bytes(b'xx')
    with pytest.raises(InputError, match=r'the artefact .*/a-.* is damaged .*delete that folder, and it is made again'): Store(tmp_path).get('a', pieces_of, dict(n=3)).value


# --- the store: made once, and whole

def pieces_of(n, folder=None, run=None):
    with open(os.environ.get('TOY_CALLS', os.devnull), 'a') as f: f.write(f'{n}\n')
    if fail := os.environ.get('TOY_FAIL'): raise OSError(28, fail)
    return dict(n=n, w=np.arange(n))


def test_an_equal_request_is_found_and_another_is_made(tmp_path, monkeypatch):
    monkeypatch.setenv('TOY_CALLS', str(tmp_path/'calls'))
    run = Run(tmp_path/'seed0')
    a, b, c = run.artefact('p', pieces_of, n=3), run.artefact('p', pieces_of, n=3), run.artefact('p', pieces_of, n=4)
    assert a.key == b.key != c.key and a['w'].tolist() == [0, 1, 2] and list(a.keys()) == ['n', 'w']
    assert (tmp_path/'calls').read_text() == '3\n4\n'
    assert len(run.used) == 2


def test_an_argument_called_folder_or_run_is_the_callers(tmp_path):
    assert Store(tmp_path).get('x', returns_folder, dict(folder='mine'))['got'] == 'mine'


def returns_folder(folder): return dict(got=folder)


def test_a_make_that_fails_leaves_nothing_that_counts(tmp_path, monkeypatch):
    good = Store(tmp_path).get('p', pieces_of, dict(n=2))
    monkeypatch.setenv('TOY_FAIL', 'No space left on device')
    with pytest.raises(OSError, match='No space'): Store(tmp_path).get('p', pieces_of, dict(n=5))
    assert Store(tmp_path).get('p', pieces_of, dict(n=2))['n'] == 2 and [p.name for p in tmp_path.glob('*/value.json')] == ['value.json']
    monkeypatch.delenv('TOY_FAIL')
    assert Store(tmp_path).get('p', pieces_of, dict(n=5))['n'] == 5 and good.folder.exists()


def test_a_disk_that_fills_while_the_result_is_stored_leaves_no_artefact(tmp_path, monkeypatch):
    from locallearning import store as module
    real = module.write_atomic
    def full(path, data):
        if Path(path).name == 'value.json': raise OSError(28, 'No space left on device')
        return real(path, data)
    monkeypatch.setattr(module, 'write_atomic', full)
    with pytest.raises(OSError): Store(tmp_path).get('p', pieces_of, dict(n=5))
    assert not list(tmp_path.glob('*/value.json'))
    monkeypatch.setattr(module, 'write_atomic', real)
    assert Store(tmp_path).get('p', pieces_of, dict(n=5))['w'].tolist() == [0, 1, 2, 3, 4]


SLOW = '''
import os, time
from pathlib import Path

def slow(n, folder):
    log, state = Path(os.environ['TOY_CALLS']), folder/'checkpoint'
    start = int(state.read_text()) if state.exists() else 0
    for i in range(start, n):
        with open(log, 'a') as f: f.write(f'{i}\\n')
        time.sleep(float(os.environ.get('TOY_SLEEP', '0')))
        state.write_text(str(i + 1))
    return dict(start=start, sum=sum(range(n)))
'''
ASK = "import sys; from slow_toy import slow; from locallearning.store import Store; print(Store(sys.argv[1]).get('s', slow, dict(n=6))['sum'])"


@pytest.fixture
def ask(tmp_path):
    (tmp_path/'slow_toy.py').write_text(SLOW)
    def start(sleep):
        env = os.environ | dict(PYTHONPATH=str(tmp_path), TOY_CALLS=str(tmp_path/'calls'), TOY_SLEEP=str(sleep))
        return subprocess.Popen([sys.executable, '-c', ASK, str(tmp_path/'store')], env=env, stdout=subprocess.PIPE, text=True)
    return start


def calls(tmp_path): return [int(line) for line in (tmp_path/'calls').read_text().split()] if (tmp_path/'calls').exists() else []


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, 'it did not happen'
        time.sleep(.01)


def test_two_processes_that_ask_at_once_make_it_once(tmp_path, ask):
    both = [ask(.1), ask(.1)]
    assert [p.communicate()[0].strip() for p in both] == ['15', '15'] and [p.returncode for p in both] == [0, 0]
    assert calls(tmp_path) == [0, 1, 2, 3, 4, 5]


def test_a_make_that_is_killed_frees_the_lock_and_goes_on_where_it_was(tmp_path, ask):
    first = ask(.3)
    wait_for(lambda: len(calls(tmp_path)) >= 3)
    first.kill(); first.wait()
    part, = (tmp_path/'store').glob('*.part')
    done = int((part/'checkpoint').read_text())
    assert not (part/'value.json').exists() and done >= 2
    second = ask(0)
    assert second.communicate()[0].strip() == '15' and second.returncode == 0
    assert calls(tmp_path) in ([0, 1, *range(2, 6)], [*range(done + 1), *range(done, 6)]), 'at most one step is done twice'
    assert not list((tmp_path/'store').glob('*.part'))


def test_a_lock_makes_others_wait(tmp_path):
    code = f"import sys, time; from pathlib import Path; from locallearning.store import locked\nwith locked(Path({str(tmp_path/'l')!r})): print('held', flush=True); sys.stdin.read()"
    holder = subprocess.Popen([sys.executable, '-c', code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == 'held\n'
    start = time.monotonic()
    timer = threading.Timer(.3, holder.kill)
    timer.start()
    with locked(tmp_path/'l'): waited = time.monotonic() - start
    holder.wait()
    assert waited > .25


# --- tables of a run

def rows(model, n): return [measure(model, 'p', f'q{i}', i/3, family='toy', setting=dict(eps=i), flags='' if i else 'a') for i in range(n)]


def test_the_table_is_the_same_in_whatever_order_the_parts_are_written(tmp_path):
    parts = {'01_a': rows('kh', 3), '02_b': rows('bp', 2)[::-1], '03_c': []}
    tables = set()
    for i, order in enumerate(itertools.permutations(parts)):
        run = Run(tmp_path/str(i))
        for name in [*order, order[0]]: path = run.write_measurements(name, parts[name])
        tables.add(path.read_bytes())
    assert len(tables) == 1
    table = pd.read_csv(io.BytesIO(tables.pop()), keep_default_na=False)
    assert list(table) == list(COLUMNS) and table.model.tolist() == ['bp'] * 2 + ['kh'] * 3 and table['flags'].tolist() == ['a', '', 'a', '', '']


def test_text_in_measurements_stays_text(tmp_path):
    run = Run(tmp_path)
    run.write_measurements('a', [measure('007', 'p', 'nan', math.nan, unit='1'), measure('NA', 'p', 'q', math.inf)])
    table = gather_measurements([tmp_path])
    assert table.model.tolist() == ['007', 'NA'] and table.quantity.tolist() == ['nan', 'q'] and table.unit.tolist() == ['1', '']
    assert math.isnan(table.value[0]) and table.value[1] == math.inf and table.seed.dtype == 'int64'


def test_the_rows_of_one_model_count_until_the_notebook_ran_for_all(tmp_path):
    run = Run(tmp_path)
    for model in ('kh', 'bp'): run.write_measurements(f'02_b-{model}', rows(model, 2))
    assert len(gather_measurements([tmp_path])) == 4
    run.write_measurements('02_b', rows('kh', 2) + rows('bp', 2))
    run.write_measurements('02_bb', rows('l2', 1))
    assert len(gather_measurements([tmp_path])) == 5, 'no row twice'


def test_seeds_are_put_together(tmp_path):
    for seed in (1, 0): Run(tmp_path/f'seed{seed}', seed=seed).write_measurements('a', [measure('kh', 'p', 'q', seed, seed=seed)])
    assert gather_measurements([tmp_path/'seed1', tmp_path/'seed0']).seed.tolist() == [0, 1]
    assert list(gather_measurements([tmp_path/'nowhere'])) == list(COLUMNS)


def test_a_row_without_the_columns_is_refused(tmp_path):
    with pytest.raises(InputError, match='make it with core.measure'): Run(tmp_path).write_measurements('a', [dict(model='kh', value=1.)])


def test_unknown_kinds_of_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="kind 'figure': did you mean 'figures'"): Run(tmp_path).path('figure', 'a.pdf')


def test_manifest_says_how_a_result_came_about(tmp_path):
    run = Run(tmp_path, family='toy', seed=3, params=dict(width=7))
    art = run.artefact('p', pieces_of, n=3)
    manifest = json.loads(run.write_manifest('01_a').read_text())
    assert (manifest['notebook'], manifest['seed'], manifest['parameters']) == ('01_a', 3, dict(width=7))
    assert manifest['versions']['locallearning'] == ll.__version__ and {'torch', 'numpy', 'pandas', 'python'} <= set(manifest['versions'])
    assert {'commit', 'machine', 'system', 'cores', 'threads', 'accelerator'} <= set(manifest)
    used = manifest['artefacts'][f'p-{art.key[:16]}']
    assert used['make'].endswith('pieces_of') and used['arguments'] == dict(n=3) and 'test_runs' in used['code']
