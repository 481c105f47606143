"""The experiment notebooks: typed parameters, no algorithm, no outputs. They are executed by nbdev_test and, in processes, by the wheel's test."""
import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import locallearning as ll
from locallearning.lab.claims import read_claims
from locallearning.recipes import complete_recipe, parse_recipe
from locallearning.lab.families import RESERVED, families, notebook_parameters, parameters, parse_value, resolve
from locallearning.lab.reproduction import SMALL, deciding_run
from locallearning.lab.units import Unit
from locallearning.lab.runs import gather_measurements

ROOT = Path(__file__).resolve().parent.parent
FAMILIES = families(ROOT/'nbs'/'experiments')
NOTEBOOKS = [pytest.param(f, path, id=f'{f.name}/{stem}') for f in FAMILIES.values() for stem, path in f.notebooks.items()]
every_notebook = pytest.mark.parametrize('family, path', NOTEBOOKS)
every_family = pytest.mark.parametrize('family', FAMILIES.values(), ids=FAMILIES)
STANDARD = dict(seed='int', models='list', data='str', profile='str', device='str', threads='int', data_root='str', out='str', folder='str')


def cells(path, kind='code'): return [c for c in json.loads(path.read_text(encoding='utf-8'))['cells'] if c['cell_type'] == kind]


def sources(path): return [''.join(c['source']) for c in cells(path)]


def test_there_are_experiments(): assert 'hebbian' in FAMILIES and NOTEBOOKS


@every_notebook
def test_parameters_are_typed_valued_and_explained(family, path):
    tagged = [c for c in cells(path) if 'parameters' in c['metadata'].get('tags', [])]
    assert len(tagged) == 1 and tagged[0] == cells(path)[0], 'the first cell of code'
    lines = [line for line in ''.join(tagged[0]['source']).splitlines() if line.strip()]
    for line in lines: assert re.fullmatch(r'[a-z_]+: (int|float|str|bool|list) = [^#]+  # \S.*', line), line
    found = notebook_parameters(path)
    assert len(found) == len(lines)
    for p in found.values(): assert parse_value(p, p.default) == p.default and p.help
    assert {k: found[k].type for k in STANDARD} == STANDARD
    assert found['profile'].default == 'smoke' and found['seed'].default == 0 and found['models'].default == []


@every_family
def test_parameters_mean_the_same_in_every_notebook(family):
    known = parameters(family)
    for path in family.notebooks.values():
        for name, p in notebook_parameters(path).items(): assert p == known[name]


@every_family
def test_notebooks_are_numbered_in_running_order(family):
    assert [s[:2] for s in family.notebooks] == [f'{i:02d}' for i in range(1, len(family.notebooks) + 1)]


@every_notebook
def test_an_experiment_contains_no_algorithm(family, path):
    for source in sources(path):
        for node in ast.walk(ast.parse(source)):
            assert not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.While)), f'define it in the library:\n{source}'
            assert not isinstance(node, ast.Attribute) or node.attr not in ('backward', 'zero_grad', 'grad'), f'learning belongs to the library:\n{source}'


@every_notebook
def test_an_experiment_begins_and_ends_as_all_do(family, path):
    text = '\n'.join(sources(path))
    assert f"ll.start('{family.name}/{path.stem}', globals()" in text and 'exp.finish()' in text
    assert "open(" not in text and 'savefig' not in text and 'to_csv' not in text, 'only the run writes files'


@every_notebook
def test_committed_without_outputs(family, path):
    assert [c['source'] for c in cells(path) if c['outputs'] or c.get('execution_count')] == []
    assert all(set(c['metadata']) <= {'tags'} for c in cells(path) + cells(path, 'markdown'))


@every_notebook
def test_smoke_asserts_shapes_and_invariants(family, path):
    assert any(isinstance(node, ast.Assert) for source in sources(path) for node in ast.walk(ast.parse(source)))


def test_papermill_prints_the_parameters_with_type_and_help():
    family = FAMILIES['hebbian']
    stem, path = list(family.notebooks.items())[0]
    done = subprocess.run([sys.executable, '-m', 'papermill', '--help-notebook', str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shown = ' '.join(done.stdout.split())
    for p in notebook_parameters(path).values():
        assert f'{p.name}: {p.type} (default {p.default!r}) {p.help}' in shown, f'{p.name} is not in\n{done.stdout}'


# --- family.toml

@every_family
def test_profiles_resolve(family):
    for profile in family.profiles: assert resolve(family, [], profile).params.keys() == parameters(family).keys()


NOT_A_SIZE = {'seed', 'models', 'network', 'profile', 'device', 'threads', 'data_root', 'out', 'folder', 'p', 'extents', 'resamples'}


@every_family
def test_no_profile_falls_back_to_a_size_of_the_smoke_run(family):
    for name, values in family.profiles.items():
        asked = {name for stem in family.stems(name) for name in notebook_parameters(family.notebooks[stem])}
        left = asked - NOT_A_SIZE - set(values)
        assert name == 'smoke' or not left, f'profile {name} takes {sorted(left)} from the parameters cells, which are made for tests'


@every_family
def test_models_are_recipes_that_exist(family):
    known = {k: p.default for k, p in parameters(family).items()} | dict(in_features=784, classes=10)
    for key, about in family.models.items():
        assert {'label', 'color', 'model'} <= set(about) and re.fullmatch('#[0-9a-f]{6}', about['color']), key
        lr = about.get('lr')
        for text in [about['model'], about.get('opt', 'Adam()'), *about.get('penalties', []), *([lr] if isinstance(lr, str) else [])]:
            full = complete_recipe(text, **known)
            assert parse_recipe(repr(full)) == full and full.name in ll._PUBLIC
        ll.build_recipe(about['model'], **known)
    for task in {a.get('task', '') for a in family.models.values()}:
        beside = [family.models[m] for m in family.models_of(task)]
        assert len({a['label'] for a in beside}) == len(beside) == len({a['color'] for a in beside}), task


@every_family
def test_claims_can_be_judged(family):
    claims = read_claims(family.about)
    assert len(claims) >= (30 if family.name == 'hebbian' else 0)
    named = {m for c in claims for m in c.models if not c.setting}
    assert all(c.statement and c.source for c in claims) and named


@every_family
def test_every_claim_is_decided_by_some_profile_whose_cost_is_known(family):
    profiles = {p: resolve(family, [], p).params for p in family.profiles if p not in SMALL}
    assert set(family.about.get('costs', {})) <= set(profiles), 'what a profile costs that nobody can run'
    for c in read_claims(family.about):
        said = deciding_run(family, profiles, c)
        assert re.fullmatch(rf'`locallearning reproduce {family.name} --profile ({"|".join(profiles)})` decides it \(.+\)', said), f'{c.id}: {said}'


@every_family
def test_questions_have_claims_and_headlines_are_among_them(family):
    claims, questions = read_claims(family.about), family.about.get('questions', {})
    assert {c.question for c in claims} <= {*questions, ''} and set(questions) <= {c.question for c in claims}
    for key, asked in questions.items():
        asked = asked if isinstance(asked, dict) else dict(text=asked)
        assert set(asked) <= {'text', 'headline'} and asked['text'].endswith('?')
        assert asked.get('headline', '') in {'', *(c.id for c in claims if c.question == key)}, key


# --- large profiles

LARGE = [('paper', ['kh', 'specreg']), ('gpu-short', ['l2']), ('cpu', ['jreg_meant'])] # some alone, as units are: not every figure has room for each


@pytest.mark.parametrize('profile, models', LARGE, ids=[p for p, _ in LARGE])
def test_large_profiles_run_at_the_sizes_of_smoke(profile, models, tmp_path):
    "The code path of the large profiles, on whatever device there is; only the sizes are others."
    family = FAMILIES['hebbian']
    sizes = {k: p.default for k, p in parameters(family).items() if k not in {*RESERVED, 'models'}}
    config = resolve(family, [], profile, sets=sizes | dict(models=models))
    assert {'data', 'width', 'epochs'} <= {*config.overrides, 'data'}
    unit = Unit(config, 0, (), str(tmp_path))
    for path in family.notebooks.values():
        scope = {'__name__': '__main__'} | unit.params(path.stem)
        for cell in cells(path):
            if 'parameters' not in cell['metadata'].get('tags', []): exec(compile(''.join(cell['source']), path.name, 'exec'), scope)
    found = gather_measurements([unit.folder])
    assert set(found.model) >= set(models) and {'classifier', 'critical_norm', 'worst_case', 'spectrum', 'landscape'} <= set(found.probe)
    assert json.loads((unit.folder/f'manifest-02_classifiers-{"-".join(config.params["models"])}.json').read_text())['parameters']['profile'] == profile
