"""What lies around the library says the same thing in every place and runs where it claims to."""
import ast
import configparser
import json
import os
import re
import subprocess
import sys
from functools import lru_cache
from importlib import import_module, metadata
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import yaml
from PIL import Image
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = sorted((ROOT/'.github'/'workflows').glob('*.yml'))


def config():
    parser = configparser.ConfigParser(delimiters=['='])
    parser.read(ROOT/'settings.ini')
    return parser['DEFAULT']


def requirements(*groups):
    "Requirement objects of these lines of settings.ini, by normalised name."
    words = ' '.join(config()[f'{g}_requirements' if g else 'requirements'] for g in groups).split()
    return {canonicalize_name(r.name): r for r in map(Requirement, words)}


def tracked():
    names = subprocess.run(['git', 'ls-files', '-coz', '--exclude-standard'], cwd=ROOT, check=True, capture_output=True).stdout.decode()
    return [ROOT/n for n in names.split('\0') if n and (ROOT/n).is_file()]


def texts():
    "Every text file of the project with its text."
    for path in tracked():
        try: yield path.relative_to(ROOT).as_posix(), path.read_text(encoding='utf-8')
        except UnicodeDecodeError: pass


# --- metadata

def test_the_version_is_the_same_everywhere():
    version = config()['version']
    assert yaml.safe_load((ROOT/'CITATION.cff').read_text())['version'] == version
    assert re.search(r'^## (\S+)', (ROOT/'CHANGELOG.md').read_text(), re.M)[1] == version
    assert import_module('locallearning').__version__ == version


def test_the_licence_is_the_same_everywhere():
    assert config()['license'] == 'mit'
    assert yaml.safe_load((ROOT/'CITATION.cff').read_text())['license'] == 'MIT'
    assert (ROOT/'LICENSE').read_text().startswith('MIT License')


def test_the_oldest_python_is_tested():
    matrix = yaml.safe_load((ROOT/'.github'/'workflows'/'test.yml').read_text())['jobs']['test']['strategy']['matrix']['include']
    versions = sorted({row['python'] for row in matrix}, key=lambda v: tuple(map(int, v.split('.'))))
    assert versions[0] == config()['min_python'] and len(versions) > 1
    assert {row['os'].split('-')[0] for row in matrix} == {'ubuntu', 'macos'}


def test_notice_and_references_name_every_source():
    commits = ['e1b82cd', '45478bb', '32bb044', '13f8f36']
    for name in ('NOTICE', 'nbs/references.md'):
        text = (ROOT/name).read_text()
        assert [c for c in commits if c not in text] == [], name


def test_citation_names_the_papers():
    urls = [r.get('url', r.get('doi')) for r in yaml.safe_load((ROOT/'CITATION.cff').read_text())['references']]
    assert any('2405.00679' in u for u in urls) and any('pnas.1820458116' in u for u in urls)


# --- requirements

def constraints():
    lines = [line for line in (ROOT/'constraints.txt').read_text().splitlines() if not line.startswith('#')]
    pins = [re.fullmatch(r'([A-Za-z0-9._-]+)==([0-9][A-Za-z0-9.]*)', line).groups() for line in lines]  # no hash, no marker, no +cpu
    return {canonicalize_name(name): version for name, version in pins}


def test_constraints_are_plain_pins_of_all_that_is_declared():
    pins = constraints()
    assert not [n for n in pins if re.match(r'nvidia|cuda|triton', n)], 'platform dependent'
    declared = requirements('', 'dev', 'peers')
    assert not declared.keys() - pins.keys()
    assert {n: str(r) for n, r in declared.items() if not r.specifier.contains(pins[n])} == {}


def test_constraints_allow_the_first_patch_of_the_oldest_python():
    # Distributions ship 3.11.2; a pin that needs 3.11.5 made the whole set unresolvable there.
    pins, oldest, late = constraints(), f"{config()['min_python']}.0", []
    for dist in metadata.distributions():
        name = canonicalize_name(dist.metadata['Name'])
        if pins.get(name) != dist.version: continue
        if not SpecifierSet(dist.metadata.get('Requires-Python', '')).contains(oldest): late.append(name)
    assert late == []


def test_readme_installs_the_constrained_torch():
    pins = constraints()
    assert f"torch=={pins['torch']} torchvision=={pins['torchvision']} --index-url" in (ROOT/'README.md').read_text()


def sources():
    "Code of the modules, and of the experiments (magics left out) that travel in the wheel."
    for path in sorted((ROOT/'locallearning').rglob('*.py')): yield path.relative_to(ROOT).as_posix(), path.read_text()
    for path in sorted((ROOT/'nbs'/'experiments').glob('*/*.ipynb')):
        code = [''.join(c['source']) for c in json.loads(path.read_text())['cells'] if c['cell_type'] == 'code']
        yield path.name, re.sub(r'^[%!].*$', '', '\n'.join(code), flags=re.M)


def imports(code):
    "(top-level module, whether it is imported on import) of every absolute import."
    tree = ast.parse(code)
    nested = {id(n) for f in ast.walk(tree) if isinstance(f, (ast.FunctionDef, ast.Lambda)) for n in ast.walk(f)}
    for node in ast.walk(tree):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
        for name in names: yield name.split('.')[0], id(node) not in nested


installed = lru_cache(metadata.packages_distributions)  # takes a second


def distributions(module):
    return {canonicalize_name(d) for d in installed().get(module, [])}


def test_requirements_cover_every_import():
    always, optional = requirements('').keys(), requirements('', 'peers', 'distributed', 'lsun').keys()
    missing = set()
    for name, code in sources():
        for module, eager in imports(code):
            if module in sys.stdlib_module_names or module == 'locallearning': continue
            known = distributions(module) or ({canonicalize_name(module)} - always)  # an extra that is not installed here goes by its name
            if not known & (always if eager else optional): missing.add(f'{module} in {name}')
    assert missing == set()


def test_every_requirement_earns_its_place():
    used = set().union(*(distributions(m) for _, code in sources() for m, _ in imports(code)))
    assert requirements('').keys() - used == {'ipykernel'}, 'the kernel is the only one that nothing imports by name'


def test_every_requirement_is_installed():
    found = set().union(*(map(canonicalize_name, names) for module, names in installed().items() if find_spec(module)))
    assert requirements('').keys() - found == set()


def test_torch_and_torchvision_come_from_one_build():
    import_module('torchvision').ops.nms  # a CPU torch beside the default torchvision fails here


def test_setup_needs_no_pkg_resources():
    code = (ROOT/'setup.py').read_text()
    assert {m for m, _ in imports(code)} <= {'configparser', 'pathlib', 'setuptools'}


# --- commands

def dry_make(*args):
    "What make would do. The flags of a make that runs these tests are dropped; `-n` reaches the makes that it calls."
    env = {k: v for k, v in os.environ.items() if k not in ('MAKEFLAGS', 'MFLAGS', 'MAKELEVEL', 'VENV', 'EXTRAS')}
    done = subprocess.run(['make', '-n', *args], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize('target', 'venv reproduce test nbdev_export nbdev_clean nbdev_test pytest notebook docs figure readme constraints'.split())
def test_make_installs_before(target, tmp_path):
    assert 'pip install' in dry_make(target, f'VENV={tmp_path}/venv')


def test_make_clean_spares_environment_and_results():
    assert not re.search(r'\.venv|runs', dry_make('clean'))


def test_make_does_not_install_again_what_is_up_to_date(tmp_path):
    stamp = re.search(r'touch (\S+)', dry_make('venv', f'VENV={tmp_path}'))[1]
    Path(stamp).touch()
    assert 'pip install' not in dry_make('venv', f'VENV={tmp_path}')
    assert 'pip install' in dry_make('venv', f'VENV={tmp_path}', 'EXTRAS=dev'), 'other extras are another installation'


def test_the_four_steps_have_their_names():
    recipe = re.search(r'^test:.*?(?=^\S)', (ROOT/'Makefile').read_text(), re.M | re.S)[0]
    assert re.search(r'for step in nbdev_export nbdev_clean nbdev_test pytest;', recipe)


def test_tests_take_all_cores_with_one_thread_each():
    assert re.search(r'OMP_NUM_THREADS=1 \S+ -m pytest .*-n 3 ', dry_make('pytest', 'WORKERS=3'))
    assert re.search(r'OMP_NUM_THREADS=1 \\?\s*\S+nbdev_test --n_workers 3', dry_make('nbdev_test', 'WORKERS=3'))


def test_an_old_python_is_named(tmp_path):
    # The check must be readable by the Python that it refuses, so it is tried with a newer demand instead.
    (tmp_path/'settings.ini').write_text('[DEFAULT]\nmin_python = 9.99\n')
    done = subprocess.run([sys.executable, ROOT/'tools'/'check_python.py'], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and '9.99 or newer' in done.stderr and sys.version.split()[0] in done.stderr
    assert 'Traceback' not in done.stderr


@pytest.mark.parametrize('name', ['.ci/run', 'tools/entrypoint.sh'])
def test_scripts_are_executable(name):
    mode = subprocess.run(['git', 'ls-files', '-s', name], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert mode.startswith('100755')


def import_tool(name):
    spec = spec_from_file_location(name, ROOT/'tools'/f'{name}.py')
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def unchanged(folder, *command):
    return subprocess.run([sys.executable, ROOT/'tools'/'unchanged.py', *command], cwd=folder, capture_output=True, text=True)


def test_unchanged_names_the_files_that_a_step_touched(tmp_path):
    subprocess.run(['git', 'init', '-q', tmp_path], check=True)
    (tmp_path/'.gitignore').write_text('ignored\n')
    (tmp_path/'kept').write_text('1')
    assert unchanged(tmp_path, 'true').returncode == 0
    assert unchanged(tmp_path, 'touch', 'kept', 'ignored').returncode == 0, 'a time stamp is no change'
    assert unchanged(tmp_path, 'false').returncode == 1
    done = unchanged(tmp_path, 'sh', '-c', 'echo 2 > kept; echo > new')
    assert done.returncode == 1 and {'kept', 'new'} <= set(done.stderr.split())
    done = unchanged(tmp_path, 'rm', 'kept')
    assert done.returncode == 1 and 'kept' in done.stderr


def test_the_picture_of_the_readme_is_one_that_its_command_makes(tmp_path):
    figure = import_tool('figure')
    target = tmp_path/'picture.png'
    with pytest.raises(SystemExit, match='`make reproduce` makes it'): figure.main(tmp_path, target)
    source = tmp_path/figure.FIGURE
    source.parent.mkdir(parents=True)
    half = Image.new('RGBA', (1380, 1260))
    half.paste('#1b9e77', (0, 0, 690, 1260))
    half.save(source)
    figure.main(tmp_path, target)
    with Image.open(target) as made:
        assert made.size == half.size and made.convert('RGB').getpixel((0, 0)) == (0x1b, 0x9e, 0x77)
        assert made.convert('RGB').getpixel((1379, 0)) == (255, 255, 255), 'on white, also where a page is dark'


def test_pictures_of_pages_are_small():
    assert {p.name: size for p in (ROOT/'nbs'/'images').iterdir() if (size := p.stat().st_size) > 150_000} == {}


# --- workflows

@pytest.mark.parametrize('path', WORKFLOWS, ids=lambda p: p.stem)
def test_workflow_is_pinned_and_modest(path):
    text = path.read_text()
    flow = yaml.safe_load(text)
    assert flow['permissions'] == {'contents': 'read'} and 'concurrency' in flow
    assert flow.get('on', flow.get(True)), 'YAML 1.1 reads the key on as true'
    for name, job in flow['jobs'].items():
        assert 'uses' in job or job['timeout-minutes'] <= 60, name
        for step in job.get('steps', []):
            assert ('uses' in step) != ('run' in step), step
            assert '${{' not in step.get('run', ''), 'values reach a shell through env only'
            if step.get('uses', '').startswith('actions/checkout@'): assert step['with']['persist-credentials'] is False
    for use, note in re.findall(r'uses: (\S+)(.*)', text):
        assert use.startswith('./') or re.fullmatch(r'[\w.-]+/[\w./-]+@[0-9a-f]{40}', use) and re.search(r'# v\d', note), use


def test_workflows_are_the_four():
    assert [p.stem for p in WORKFLOWS] == ['docs', 'release', 'reproduce', 'test']


def test_one_action_has_one_pin():
    pins = {}
    for path in WORKFLOWS:
        for name, sha in re.findall(r'uses: (\S+)@([0-9a-f]{40})', path.read_text()): pins.setdefault(name, set()).add(sha)
    assert {n: s for n, s in pins.items() if len(s) > 1} == {}


def test_the_test_workflow_runs_the_steps_of_make_test():
    steps = yaml.safe_load((ROOT/'.github'/'workflows'/'test.yml').read_text())['jobs']['test']['steps']
    assert [s['name'] for s in steps if 'name' in s] == ['install', 'nbdev_export', 'nbdev_clean', 'nbdev_test', 'pytest']


# --- files

def test_no_file_names_a_home_directory():
    home = re.compile(r'/(?:home|Users)/(?!me/)\w|(?<![\w.])/(?:root)/\w|[A-Z]:\\{1,2}Users')  # "me" is anybody, as in an example
    assert [f'{name}: {m[0]}' for name, text in texts() if (m := home.search(text))] == []


def test_only_the_ci_script_names_the_folder_beside_the_checkout():
    beside = re.compile(r'\.\./' + 'shared')
    assert [name for name, text in texts() if beside.search(text)] == ['.ci/run']


def test_no_large_file_is_tracked():
    assert [p.name for p in tracked() if p.stat().st_size > 1_500_000] == []


@pytest.mark.parametrize('folder', ['runs', '_docs', '_proc', '.venv', 'build', 'dist'])
def test_results_and_builds_are_never_committed(folder):
    assert subprocess.run(['git', 'check-ignore', '-q', f'{folder}/x'], cwd=ROOT).returncode == 0


def test_container_serves_jupyter_with_a_token_for_an_unprivileged_user():
    docker, entry = (ROOT/'Dockerfile').read_text(), (ROOT/'tools'/'entrypoint.sh').read_text()
    assert 'uid 1000' in docker and re.search(r'^USER worker$', docker, re.M) and 'EXPOSE 3108' in docker
    assert '--port=3108' in entry and 'token=' not in entry, 'an empty token would open the server to everyone'


def test_container_runs_a_batch(tmp_path):
    for name in ('locallearning', 'jupyter'):
        (tmp_path/name).write_text(f'#!/bin/sh\necho {name} "$@"\n')
        (tmp_path/name).chmod(0o755)
    run = lambda *args: subprocess.run(['sh', ROOT/'tools'/'entrypoint.sh', *args], env={'PATH': f'{tmp_path}:/usr/bin:/bin'},
                                       check=True, capture_output=True, text=True).stdout.strip()
    assert run('reproduce', 'hebbian', '--seed', '1') == 'locallearning reproduce hebbian --seed 1'
    assert run('notebook').startswith('jupyter lab')
    assert run('echo', 'any program') == 'any program'


def test_conda_environment_is_the_same_installation():
    env = yaml.safe_load((ROOT/'environment.yml').read_text())
    pip = next(d['pip'] for d in env['dependencies'] if isinstance(d, dict))
    assert pip[0] == '-c constraints.txt' and pip[1].startswith('-e .[')


def test_notebooks_are_cleaned_before_a_commit_and_merged_by_cells():
    hooks = yaml.safe_load((ROOT/'.pre-commit-config.yaml').read_text())['repos'][0]['hooks']
    assert [h['id'] for h in hooks] == ['nbdev_clean']
    assert '*.ipynb merge=nbdev-merge' in (ROOT/'.gitattributes').read_text()
    assert 'merge.nbdev-merge.driver' in (ROOT/'CONTRIBUTING.md').read_text()
