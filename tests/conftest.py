"""What holds for every test: one thread a process, no display, no run kept in the checkout, the same examples every time."""
import os

# Before torch is imported anywhere, so that subprocesses inherit it too.
os.environ.setdefault('OMP_NUM_THREADS', '1')
os.environ.setdefault('MPLBACKEND', 'agg')

import pytest
from hypothesis import settings

settings.register_profile('fixed', derandomize=True, deadline=None)
settings.load_profile('fixed')


def pytest_collection_modifyitems(items):
    "Cheap files first, so that most mistakes show within a minute: files with a slow test come last. A file stays together, as do its fixtures."
    slow = {item.path for item in items if item.get_closest_marker('slow')}
    items.sort(key=lambda item: item.path in slow)


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
