"""What holds for every test: one thread a process, no display, lines of one width, no run kept in the checkout, the same examples every time."""
import json
import os
import signal

# Before torch is imported anywhere, so that subprocesses inherit it too.
os.environ.setdefault('OMP_NUM_THREADS', '1')
os.environ.setdefault('MPLBACKEND', 'agg')

# Texts are wrapped at the width of the terminal: that of the tests, not of whoever starts them.
os.environ['COLUMNS'] = '110'
os.environ.pop('FORCE_COLOR', None)

# A shell starts what runs in the background deaf to Ctrl-C, and that is inherited; tests interrupt commands.
signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest
from filelock import FileLock
from hypothesis import settings

settings.register_profile('fixed', derandomize=True, deadline=None)
settings.load_profile('fixed')


def pytest_collection_modifyitems(items):
    "Cheap files first, so that most mistakes show early: those that start processes come last. A file stays together, as do its fixtures."
    items.sort(key=lambda item: not {'subprocess', 'start', 'in_process'}.isdisjoint(vars(item.module)))


@pytest.fixture(scope='session')
def once(tmp_path_factory):
    "`once(name, make)` is `make(folder)`, plain data, made by the first of the session's processes that asks; the others wait and read it."
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if 'PYTEST_XDIST_WORKER' in os.environ else base

    def get(name, make):
        folder, result = shared/name, shared/f'{name}.json'
        with FileLock(shared/f'{name}.lock'):
            if not result.exists():
                folder.mkdir(exist_ok=True)
                result.write_text(json.dumps(make(folder)))
        return json.loads(result.read_text())
    return get


@pytest.fixture(scope='session', autouse=True)
def _runs_outside_the_checkout(tmp_path_factory):
    "Nothing that a test leaves behind is taken for a result, and no test sees the results of another session."
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('LOCALLEARNING_RUNS', str(tmp_path_factory.mktemp('runs')))
        yield


@pytest.fixture
def runs(tmp_path, monkeypatch):
    "An empty folder for the results of one test."
    folder = tmp_path/'runs'
    folder.mkdir()
    monkeypatch.setenv('LOCALLEARNING_RUNS', str(folder))
    return folder
