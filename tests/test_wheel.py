"""The wheel is complete: installed outside the checkout, it reproduces."""
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def pip(*args):
    done = subprocess.run([sys.executable, '-m', 'pip', '-q', '--disable-pip-version-check', *args], capture_output=True, text=True,
                          env=os.environ | {'PIP_NO_INDEX': '1'})
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    "Built from a copy of what git tracks, so that no earlier build leaks into it."
    work = tmp_path_factory.mktemp('wheel')
    names = subprocess.run(['git', 'ls-files', '-coz', '--exclude-standard'], cwd=ROOT, check=True, capture_output=True).stdout.decode()
    for name in filter(None, names.split('\0')):
        if not (ROOT/name).is_file(): continue
        (work/'checkout'/name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT/name, work/'checkout'/name)
    pip('wheel', '--no-build-isolation', '--no-deps', '--wheel-dir', work, work/'checkout')
    return next(work.glob('*.whl'))


def test_wheel_carries_modules_data_and_experiments(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    here = lambda pattern: {p.relative_to(ROOT).as_posix() for p in ROOT.glob(pattern) if p.is_file() and '__pycache__' not in p.parts}
    assert here('locallearning/**/*.py') | here('locallearning/assets/*') <= names
    experiments = {n.replace('nbs/', 'locallearning/', 1) for n in here('nbs/experiments/*/*')}
    assert experiments <= names
    assert not [n for n in names if n.startswith(('tests', 'nbs', 'tools'))]
    assert any(n.endswith('licenses/LICENSE') for n in names) and any(n.endswith('licenses/NOTICE') for n in names)


@pytest.mark.slow
def test_wheel_reproduces_outside_the_checkout(wheel, tmp_path):
    site, out = tmp_path/'site', tmp_path/'out'
    pip('install', '--no-deps', '--target', site, wheel)
    env = {k: v for k, v in os.environ.items() if not k.startswith('LOCALLEARNING_')} | {'PYTHONPATH': str(site)}
    where = subprocess.run([sys.executable, '-c', 'import locallearning; print(locallearning.__file__)'], cwd=tmp_path, env=env,
                           check=True, capture_output=True, text=True).stdout
    assert Path(where.strip()).parent.parent == site, 'the editable installation must not win over the wheel'
    done = subprocess.run([sys.executable, '-m', 'locallearning.command.app', 'reproduce', 'hebbian', '--profile', 'smoke', '--out', out],
                          cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert list(out.rglob('claims.csv'))
    assert len([f for f in out.rglob('figures/*.png') if f.stat().st_size]) >= 10, 'a figure is missing or empty'
