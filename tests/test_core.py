"""Errors, whole files, progress, recipes: what everything else stands on."""
import ast
import errno
import inspect
import json
import keyword
import math
import os
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

import locallearning as ll
from locallearning import core, recipes as recipes_module
from locallearning.core import COLUMNS, InputError, check, check_number, measure, nearest, progress, write_atomic
from locallearning.recipes import Piece, Recipe, build_recipe, complete_recipe, find_name, parse_recipe


# --- recipes: text and call are the same thing

names = st.from_regex(r'[A-Za-z_][A-Za-z0-9_]{0,8}', fullmatch=True).filter(lambda s: not keyword.iskeyword(s))
plain = st.none() | st.booleans() | st.integers(-10**30, 10**30) | st.floats(allow_nan=False) | st.text(max_size=8)
recipes = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple)
    | st.builds(Recipe, names, st.lists(inner, max_size=2).map(tuple), st.dictionaries(names, inner, max_size=2)), max_leaves=8)
calls = st.builds(Recipe, names, st.lists(recipes, max_size=3).map(tuple), st.dictionaries(names, recipes, max_size=3))


def same(a, b):
    "Equal in value and in type, so that 1, 1.0 and True differ, and -0.0 from 0.0."
    if type(a) is not type(b): return False
    if isinstance(a, Recipe): return a.name == b.name and same(a.args, b.args) and list(a.kwargs) == list(b.kwargs) and same([*a.kwargs.values()], [*b.kwargs.values()])
    if isinstance(a, (list, tuple)): return len(a) == len(b) and all(map(same, a, b))
    return a == b and (not isinstance(a, float) or math.copysign(1, a) == math.copysign(1, b))


@given(calls)
@settings(max_examples=100)
def test_recipe_survives_being_written_and_read(recipe):
    assert same(parse_recipe(repr(recipe)), recipe)


@given(st.floats(allow_nan=False))
@settings(max_examples=200)
def test_small_tiny_and_infinite_numbers_are_written_exactly(x):
    assert same(ast.literal_eval(repr(Recipe('f', (x,)))[2:-1]), x)


@pytest.mark.parametrize('value', [np.float64(1e-3), np.float32(.5), np.int64(7), np.bool_(True), np.array(2.)])
def test_numbers_of_numpy_are_written_as_the_numbers_they_are(value):
    assert same(parse_recipe(repr(Recipe('f', (value,)))).args[0], value.item())


def test_numbers_are_written_as_people_write_them():
    assert repr(Recipe('f', (1e-3, 5e-4, .05, -2.5e-7, 100., 1e-320))) == 'f(1e-3, 5e-4, 0.05, -2.5e-7, 100.0, 1e-320)'


def test_not_a_number_has_no_recipe():
    with pytest.raises(InputError, match="'nan' is not a literal"): parse_recipe(repr(Recipe('f', (math.nan,))))


@pytest.mark.parametrize('text', [
    "f(open('x'))", 'f(2**9)', 'f(a)', 'f(a.b)', 'f(x for x in y)', 'f([x for x in y])', 'f(lambda: 1)', 'f(*[1])', 'f(**{})', 'f({1: 2})', 'f({1})',
    "f(f'{x}')", 'f(b"x")', 'f(...)', 'f(1j)', 'f(not 1)', 'f(~1)', 'f(1 if 2 else 3)', 'f(1 < 2)', 'f(x := 1)', 'f(a[0])', 'f.g()', '(f)(1)(2)', "__import__('os').system('x')",
    '1', '"f(1)"', 'f(1); g(2)', 'f = 1', '', ' ', 'f(', 'f(1))', 'f(\0)', '(' * 500, 'f(' * 300 + ')' * 300, '-' * 50_000 + '1', 'f(a=1, a=2)', 'f(a=1, 2)'])
def test_anything_but_a_call_of_literals_is_refused(text):
    with pytest.raises(InputError) as e: build_recipe(text)
    assert 'recipe' in str(e.value) and e.value.__cause__ is None


def test_parsing_calls_nothing(monkeypatch):
    monkeypatch.setattr(recipes_module, 'find_name', lambda *a: pytest.fail('a name was looked up'))
    assert parse_recipe('Boom(exec("1/0"))'.replace('exec("1/0")', "g('1/0')")).args == (Recipe('g', ('1/0',)),)


def test_a_recipe_that_is_refused_says_what_is_wrong():
    with pytest.raises(InputError, match=r"recipe 'Lp\(2\*\*9\)': '2 \*\* 9' is not a literal"): parse_recipe('Lp(2**9)')
    with pytest.raises(InputError, match='never closed'): parse_recipe('Lp(5e-4')
    with pytest.raises(InputError, match='p is given twice'): parse_recipe('Lp(p=2, p=3)')


# --- from a recipe to the thing

def test_unknown_names_and_fields_get_the_nearest():
    with pytest.raises(InputError, match="unknown piece 'Jacobain'; did you mean 'Jacobian'"): build_recipe('Jacobain(1e-3)')
    with pytest.raises(InputError, match="Jacobian has no field 'orthogonl'; did you mean 'orthogonal'"): build_recipe('Jacobian(orthogonl=True)')
    with pytest.raises(InputError, match="unknown piece 'PDG'.*'PGD'"): build_recipe('Adversarial(PDG())')
    with pytest.raises(InputError, match="PGD has no field 'step'; did you mean 'steps'"): build_recipe('Adversarial(PGD(step=3))')


def test_missing_and_surplus_arguments_are_named():
    with pytest.raises(InputError, match="missing a required argument: 'in_features'.*width"): build_recipe('SHLP()')
    with pytest.raises(InputError, match='too many positional arguments'): build_recipe('Tiny(1, 2, 3)', [__name__])
    with pytest.raises(InputError, match='multiple values'): build_recipe('Tiny(1, a=1)', [__name__])


def test_private_names_of_the_package_are_no_pieces():
    for text in ('os()', '_read()', 'core()', 'check()'):
        with pytest.raises(InputError, match='unknown piece'): build_recipe(text)


class Tiny(Piece):
    "A piece of a user."
    def __init__(self, a=1, b=None): self.a, self.b = a, b


class Pair(Piece):
    def __init__(self, strength, inner=(), *, generator=None): self.strength, self.inner, self.generator = strength, inner, generator


@dataclass(repr=False)
class Field(Piece):
    x: int = 0
    y: str = 'a'


def test_pieces_of_a_user_are_found_by_module():
    made = build_recipe('Pair(2., inner=[Tiny(b=3), Field(x=1)])', [__name__])
    assert isinstance(made.inner[0], Tiny) and made.inner[0].b == 3 and made.inner[1] == Field(1)
    assert repr(made) == 'Pair(2.0, inner=[Tiny(b=3), Field(x=1)])'
    with pytest.raises(InputError, match="did you mean 'Tiny'"): build_recipe('Tinny()', [__name__])


def test_a_module_that_does_not_exist_is_an_input_error(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="no module 'nosuchmodule'"): build_recipe('A()', ['nosuchmodule'])
    with pytest.raises(InputError, match="no module 'my file.py'"): build_recipe('A()', ['my file.py'])
    (tmp_path/'broken_user_module.py').write_text('import nosuchdependency')
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match='nosuchdependency'): build_recipe('A()', ['broken_user_module'])


def test_what_is_left_out_comes_from_what_is_known():
    assert complete_recipe('SHLP(width=7)', in_features=784, width=9, classes=3, unrelated=1) == Recipe('SHLP', (), dict(width=7, in_features=784, classes=3))
    assert complete_recipe('Tiny(5)', [__name__], a=9, b=8) == Recipe('Tiny', (5,), dict(b=8)), 'positional arguments count as given'
    assert complete_recipe('Pair(1, inner=[Tiny()])', [__name__], a=4).kwargs['inner'] == [Recipe('Tiny', (), dict(a=4))]


def test_the_completed_recipe_needs_nothing_more():
    text = repr(complete_recipe('SHLP()', in_features=5, width=3, classes=2))
    assert repr(build_recipe(text)) == 'SHLP(in_features=5, width=3, classes=2)'


# --- from the thing to its recipe

EXAMPLES = {
    'SHLP': ['SHLP(4)', 'SHLP(4, width=3, classes=2, n=2.5, batch_norm=True)', "SHLP(4, width=3, activation='tanh')"],
    'MLP': ['MLP(4, widths=(3, 2), classes=2)', 'MLP(4, widths=[3])'],
    'KHModel': ["KHModel(4, width=3, classes=2, k=2, n=4.5, prune=False, layer='prototypes')"],
    'KHLayer': ['KHLayer(4, 3)', 'KHLayer(4, width=3, p=2, k=3, delta=.1)'],
    'Normalize': ['Normalize((.1, .2), (.3, .4))'],
    'LpUnit': ['LpUnit()', 'LpUnit(2.5)'],
    'Power': ['Power(2)'],
    'Adversarial': ["Adversarial(PGD(norm='inf', steps=3), eps=.1)"],
    'Steps': ['Steps(1e-3, [(31, 5e-4), (91, 2e-4)], of=1000, epochs=10)'],
    'Foolbox': ["Foolbox('LinfPGD', steps=3)", "Foolbox('LinfPGD', black_box=True)"],
    'Torchattacks': ["Torchattacks('PGD', steps=3)"],
    'Between': ['Between(Spheres(2, radius=0), Spheres(2, centers=(-2, 0, 2)), samples=64)'],
    'Generated': ["Generated('generator.safetensors')"],
    'Moved': ['Moved(Gaussian(2), by=-1)'],
    'Spheres': ['Spheres(2, extra=2, grid=(2, 2))'],
    'LipschitzMLP': ["LipschitzMLP(4, widths=(6, 4), activation='maxmin', slope=2)"],
    'Projected': ['Projected(Bjorck(steps=1, scaling=None))', 'Projected(L1Rows(), every=3, reset=True)'],
    'CertifiedProbe': ["CertifiedProbe(eps=[.1], norm='inf', n=None)"],
    'Bjorck': ["Bjorck(steps=3, order=2, scaling='power', tol=0)"],
    'Transfer': ["Transfer('bp.safetensors')", "Transfer('bp.safetensors', attack=PGD(norm=2, steps=3))"],
    'AccuracyProbe': ['AccuracyProbe(PGD(steps=3), eps=[.1, .2], n=50)', "AccuracyProbe(attack=FGSM(norm=2), bounds=(0., 1.))"],
    'CriticalProbe': ['CriticalProbe(PGD())', "CriticalProbe(GaussianNoise(), method='grid', grid=[.1, .2])"],
    'WorstCaseProbe': ['WorstCaseProbe([PGD(), FGSM()], eps=[.1])'],
    'SpectrumProbe': ['SpectrumProbe()', "SpectrumProbe('hidden', 'noise', n=100, window=[2, 20], sizes=[5, 10])"],
    'LandscapeProbe': ['LandscapeProbe()', 'LandscapeProbe(extents=[2], size=4)'],
    'APGD': ['APGD()', "APGD(norm=2, steps=10, loss='dlr_targeted')"],
    'PGD': ['PGD()', "PGD(norm=2, steps=3, step_size=1e-3, loss='dlr')"],
}


def pieces():
    found = [getattr(ll, n) for n in ll._PUBLIC]
    return sorted({c for c in found if isinstance(c, type) and issubclass(c, Piece) and c is not Piece}, key=lambda c: c.__name__)


def test_every_public_piece_prints_as_the_recipe_that_rebuilds_it():
    assert {c.__name__ for c in pieces()} >= {'SHLP', 'Jacobian', 'PGD', 'Adam', 'PublishedPGD', 'KHModel'}
    for cls in pieces():
        for text in EXAMPLES.get(cls.__name__, [f'{cls.__name__}()']):
            first = build_recipe(text)
            again = build_recipe(repr(first))
            assert repr(again) == repr(first) and type(again) is cls, text
            assert whole(parse_recipe(repr(first))) == whole(parse_recipe(text)), f'{text} prints as {first!r}'


def whole(recipe):
    "A recipe with every default filled in; a list and a tuple are the same."
    if isinstance(recipe, (list, tuple)): return tuple(map(whole, recipe))
    if not isinstance(recipe, Recipe): return recipe
    bound = inspect.signature(find_name(recipe.name)).bind(*recipe.args, **recipe.kwargs)
    bound.apply_defaults()
    return recipe.name, {k: whole(v) for k, v in bound.arguments.items()}


def test_a_piece_that_holds_tensors_still_prints():
    import torch
    assert repr(Tiny(torch.tensor(2.))) == 'Tiny(a=2.0)'
    assert repr(Pair(np.float64(1e-3))) == 'Pair(1e-3)'


# --- files

def test_a_write_that_breaks_off_leaves_the_old_file(tmp_path, monkeypatch):
    path = write_atomic(tmp_path/'a.csv', 'old')
    for name in ('fsync', 'replace'):
        with monkeypatch.context() as m:
            m.setattr(os, name, lambda *a: (_ for _ in ()).throw(OSError(errno.ENOSPC, 'No space left on device')))
            with pytest.raises(OSError, match='No space'): write_atomic(path, 'new')
        assert path.read_text() == 'old' and os.listdir(tmp_path) == ['a.csv']


def test_a_kill_in_the_middle_of_a_write_leaves_the_old_file(tmp_path):
    path = write_atomic(tmp_path/'a.csv', 'old')
    code = f"import os, signal\nfrom locallearning import core\nos.fsync = lambda fd: os.kill(os.getpid(), signal.SIGKILL)\ncore.write_atomic({str(path)!r}, 'new')"
    assert subprocess.run([sys.executable, '-c', code]).returncode == -9
    assert path.read_text() == 'old'


def test_an_interrupt_in_the_middle_of_a_write_leaves_nothing_behind(tmp_path, monkeypatch):
    def interrupt(fd): raise KeyboardInterrupt
    monkeypatch.setattr(os, 'fsync', interrupt)
    with pytest.raises(KeyboardInterrupt): write_atomic(tmp_path/'a.csv', 'new')
    assert os.listdir(tmp_path) == []


def test_results_are_for_colleagues_too(tmp_path):
    old = os.umask(0o027)
    try: path = write_atomic(tmp_path/'a.csv', 'x')
    finally: os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_file_is_written_as_it_is(tmp_path):
    assert write_atomic(tmp_path/'a', b'\r\n\0').read_bytes() == b'\r\n\0'
    assert write_atomic(tmp_path/'a', 'é\n').read_bytes() == 'é\n'.encode()


def test_unwritable_folder_is_named(tmp_path, monkeypatch):
    (tmp_path/'file').write_text('')
    with pytest.raises(InputError, match=r'cannot write .*file/sub/a.csv: .*; choose a folder that is writable'): write_atomic(tmp_path/'file'/'sub'/'a.csv', '')
    with pytest.raises(InputError, match='it is a folder'): write_atomic(tmp_path, '')
    def refuse(*a, **k): raise PermissionError(errno.EACCES, 'Permission denied')
    monkeypatch.setattr('builtins.open', refuse)
    with pytest.raises(InputError, match='a.csv: Permission denied; choose'): write_atomic(tmp_path/'a.csv', '')


# --- progress

def events(path): return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_progress_reports_to_the_runner(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv('LOCALLEARNING_EVENTS', str(tmp_path/'events'))
    assert list(progress((i for i in 'abc'), 'letters', total=3, every=0)) == ['a', 'b', 'c']
    assert events(tmp_path/'events') == [dict(what='letters', done=n, total=3) for n in (0, 1, 2, 3)]
    assert list(progress([], 'nothing')) == [] and events(tmp_path/'events')[-1] == dict(what='nothing', done=0, total=0)
    assert capfd.readouterr() == ('', '')


def test_progress_does_not_flood_the_runner(tmp_path, monkeypatch):
    monkeypatch.setenv('LOCALLEARNING_EVENTS', str(tmp_path/'events'))
    list(progress(range(100_000), 'many'))
    assert len(events(tmp_path/'events')) < 10


def test_progress_of_unknown_length(tmp_path, monkeypatch):
    monkeypatch.setenv('LOCALLEARNING_EVENTS', str(tmp_path/'events'))
    list(progress(iter([1]), 'some', every=0))
    assert events(tmp_path/'events')[-1] == dict(what='some', done=1, total=None)


def test_progress_in_a_bare_notebook_is_silent_or_one_line(monkeypatch, capsys):
    monkeypatch.delenv('LOCALLEARNING_EVENTS', raising=False)
    assert list(progress(range(3), 'short')) == [0, 1, 2] and capsys.readouterr().out == ''
    clock = iter([0., 61.])
    monkeypatch.setattr(core.time, 'monotonic', lambda: next(clock))
    list(progress(range(3), 'long'))
    assert capsys.readouterr().out == 'long: 3 in 61 s\n'


def test_an_exception_in_the_loop_passes_through(tmp_path, monkeypatch):
    monkeypatch.setenv('LOCALLEARNING_EVENTS', str(tmp_path/'events'))
    with pytest.raises(ZeroDivisionError):
        for i in progress(range(3), 'loop', every=0): 1 / (1 - i)
    assert events(tmp_path/'events')[-1]['done'] == 1


# --- small things

def test_nearest_lists_when_nothing_is_near():
    assert nearest('zzz', ['b', 'a']) == 'valid: a, b' and nearest('x', []) == 'valid: none' and nearest(3, [30, 4]) .startswith(('did', 'valid'))


def test_measurements_have_the_columns_of_the_protocol():
    assert COLUMNS == ('model', 'family', 'probe', 'quantity', 'setting', 'space', 'seed', 'value', 'unit', 'flags')
    row = measure('kh', 'critical_norm', 'median', np.float32(.5), setting=dict(n=9, attack='pgd', eps=.1), flags={'b', 'a'}, seed=np.int64(3), unit='px')
    assert tuple(row) == COLUMNS
    assert row['setting'] == 'attack=pgd;eps=0.1;n=9' and row['flags'] == 'a;b' and type(row['value']) is float and type(row['seed']) is int
    assert measure('kh', 'a', 'b', 1, flags='x')['flags'] == 'x'


def test_input_errors_are_value_errors():
    assert issubclass(InputError, ValueError) and ll.InputError is InputError and find_name('InputError') is InputError


# --- checks

def test_a_message_is_made_only_when_it_is_needed():
    made = []
    check(True, lambda: made.append(1))
    assert made == []
    with pytest.raises(InputError, match='^late$'): check(False, lambda: 'late')
    with pytest.raises(InputError, match='^plain$'): check(False, 'plain')


@pytest.mark.parametrize('value', [1, 2.5, float('inf'), np.float32(1), np.int64(3), torch.tensor(2.), torch.tensor(2), np.array(3)])
def test_numbers_of_all_kinds_are_numbers(value): check_number('x', value, low=1)


@pytest.mark.parametrize('value, said', [
    ('1', "x='1': must be a number ≥ 1"), (None, 'x=None'), (True, 'x=True'), ([1], r'x=\[1\]'), (float('nan'), 'x=nan'), (.5, 'x=0.5: must be a number ≥ 1'), (1j, 'x is a complex'),
    (torch.ones(3), 'x is a Tensor'), (torch.nn.Linear(2, 2), 'x is a Linear: must be'), (print, 'x is a builtin_function_or_method'), ('y'*999, 'x=.{,40}: must')])
def test_what_is_no_number_is_said_with_its_type_or_value(value, said):
    with pytest.raises(InputError, match=said): check_number('x', value, low=1)


def test_bounds_whole_numbers_and_none():
    check_number('x', None, optional=True)
    check_number('x', 1, above=0, high=1, whole=True)
    for value, rules, said in [(0, dict(above=0), 'x=0: must be a number > 0$'), (2, dict(low=0, high=1), 'x=2: must be a number ≥ 0 and ≤ 1$'), (1.5, dict(whole=True), 'x=1.5: must be a whole number$'),
                               (2., dict(whole=True, optional=True), 'x=2.0: must be a whole number or None$'), (0, dict(low=1, why='one is the least'), '; one is the least$')]:
        with pytest.raises(InputError, match=said): check_number('x', value, **rules)
    with pytest.raises(InputError, match=r'^PGD\(steps=0\): must'): check_number('PGD(steps)', 0, low=1)
