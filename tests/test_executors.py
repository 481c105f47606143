"""Many units at once: the same numbers whoever waits for them, and nobody waits for a process that is gone."""
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec

import psutil
import pytest

from command import TOY, alive, environment, finish, start, wait_for
from locallearning.lab import units as unit_module
from locallearning.core import InputError
from locallearning.lab.units import connect, alive_file, ended_without, share, unit_executor
from locallearning.lab.families import families, find_family, read_config, resolve
from locallearning.lab.units import UnitError, run_units
from locallearning.lab.reproduction import unfinished, with_threads

FOLDER = 'toy/cpu-mnist5k-per-class-4-test-40'
TABLES = ['claims.csv', 'seed0/results/measurements.csv']
needs_dask = pytest.mark.skipif(not find_spec('distributed'), reason="needs pip install 'locallearning[distributed]'")


def lines(path): return path.read_text().splitlines() if path.exists() else []


@pytest.fixture(scope='module')
def family(tmp_path_factory):
    "The toy family with two models and a profile that runs them one by one: two units and the last pass."
    root = tmp_path_factory.mktemp('families')
    shutil.copytree(TOY, root, dirs_exist_ok=True)
    toml, notebook = root/'toy'/'family.toml', root/'toy'/'01_toy.ipynb'
    more = '[models.more]\nlabel = "More"\ncolor = "#d95f02"\nmodel = "MLP()"\n\n[profiles.cpu]\nepochs = 4\n\n'
    toml.write_text(toml.read_text().replace('[profiles.quick]', more + '[profiles.quick]'))
    content = json.loads(notebook.read_text())
    own = "for m in models or ['net', 'more']: exp.run.artefact('own', toy_make.train, data=exp.data, width=5 + len(m), epochs=2, seed=seed)\n"
    content['cells'][-1]['source'] = own + ''.join(content['cells'][-1]['source'])
    notebook.write_text(json.dumps(content))
    return root


@pytest.fixture
def cpu(family, monkeypatch): monkeypatch.setenv('LOCALLEARNING_EXPERIMENTS', str(family)); return resolve(find_family('toy')[0], ['01_toy'], 'cpu', device='cpu')


def go(family, out, *args, **env):
    return start('reproduce', 'toy', '--profile', 'cpu', '--device', 'cpu', '--out', out, *args, LOCALLEARNING_EXPERIMENTS=str(family), PYTHONPATH=str(family), **env)


def tables(out): return [(out/FOLDER/name).read_bytes() for name in TABLES]


def units(pid): return [p for p in psutil.Process(pid).children(recursive=True) if any('unit_main' in a for a in p.cmdline())]


@pytest.fixture(scope='module')
def ran(family, tmp_path_factory):
    "One unit after the other with one thread each, which is what all others have to reproduce."
    out = tmp_path_factory.mktemp('one')
    code, text, err = finish(go(family, out, '--threads', '1'))
    assert code == 0, err
    return out, text, err


# --- threads that wait

def test_as_many_jobs_as_wanted_give_the_same_tables_even_if_a_unit_is_killed(family, ran, tmp_path):
    process = go(family, tmp_path, '--jobs', '2', TOY_SLEEP='.2', TOY_LOG=str(tmp_path/'log'))
    both = wait_for(lambda: lines(tmp_path/'log') and len(units(process.pid)) == 2 and units(process.pid), 'two units at once')
    both[0].send_signal(signal.SIGKILL)
    code, _, err = finish(process)
    assert code == 0, err
    assert tables(tmp_path) == tables(ran[0])
    assert read_config(tmp_path/FOLDER/'config.json', families(family)).threads == 1, 'on record'
    assert sorted(re.sub(': .*', '', line) for line in err.splitlines()) == sorted(re.sub(': .*', '', line) for line in ran[2].splitlines()) and len(err.splitlines()) == 3


def test_units_share_the_cores_unless_told_otherwise(cpu):
    threads = lambda config, **how: with_threads(config, **dict(jobs=1, scheduler='') | how).threads
    assert (threads(cpu), threads(cpu, jobs=2), threads(cpu, scheduler='tcp://a:1')) == (0, 1, 1)
    assert threads(replace(cpu, threads=3), jobs=2) == threads(replace(cpu, threads=3)) == 3


def test_a_killed_unit_is_started_once_more_beside_others(monkeypatch, tmp_path):
    ends, started = dict(a=iter(['kill -9 $$', 'exit 0']), b=iter(['sleep .5']), c=iter(['exit 0'])), []
    def process(unit, events, stale_too): started.append(unit); return subprocess.Popen(['sh', '-c', next(ends[unit])], stdout=subprocess.PIPE, text=True)
    monkeypatch.setattr(unit_module, 'unit_process', process)
    with unit_executor(2) as pool: run_units([*'abc'], pool, tmp_path/'events')
    assert sorted(started) == ['a', 'a', 'b', 'c']


def test_a_process_ends_with_the_file_that_says_that_the_run_goes_on(tmp_path):
    here = alive_file(tmp_path/'events')
    here.touch()
    process = subprocess.Popen(['sleep', '60'])
    with ended_without(here, process):
        time.sleep(.5)
        assert process.poll() is None
        here.unlink()
        assert process.wait(10) == -signal.SIGTERM


def test_a_worker_that_does_not_see_the_folder_is_an_error(tmp_path):
    "As on a machine that does not share it: nothing is run, and that is not taken for success."
    class Elsewhere(ThreadPoolExecutor):
        def submit(self, fn, unit, events, *more): return super().submit(fn, unit, tmp_path/'other'/'events', *more)
    with Elsewhere(1) as pool, pytest.raises(UnitError, match='the folder of --out has to be shared'): run_units(['a'], pool, tmp_path/'events')


# --- shares

@pytest.mark.parametrize('shard', ['0/2', '3/2', 'a', '1', '1/2/3', '-1/2', '1/0', '1.0/2', ''])
def test_there_is_no_such_share(shard):
    with pytest.raises(InputError, match=f'--shard {re.escape(shard)}: write I/N with 1 ≤ I ≤ N'): share([1, 2], shard)


def test_shares_are_all_units_once():
    for n in range(1, 7): assert sorted(u for i in range(n) for u in share([*range(5)], f'{i + 1}/{n}')) == [*range(5)]


def test_shares_together_are_the_run(family, ran, tmp_path, cpu):
    code, out, err = finish(go(family, tmp_path, '--shard', '1/2', '--threads', '1'))
    assert code == 0 and not (tmp_path/FOLDER/'claims.csv').exists() and not list((tmp_path/FOLDER).glob('seed*/notebooks/01_toy.ipynb')), err
    assert out == 'left      1 unit: seed 0 more\nwhen all are done, run the same command without --shard to draw and judge\n'
    assert [(u.seed, u.models) for u in unfinished(cpu, str(tmp_path))] == [(0, ('more',))]
    code, out, err = finish(go(family, tmp_path, '--shard', '2/2', '--threads', '1'))
    assert code == 0 and '2 claims' in out and unfinished(cpu, str(tmp_path)) == [], err
    assert tables(tmp_path) == tables(ran[0]), 'the last share draws and judges'


# --- Dask

def test_without_distributed_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, 'distributed', None)
    with pytest.raises(InputError, match=r"pip install 'locallearning\[distributed\]'"): connect('tcp://127.0.0.1:8786')


@needs_dask
@pytest.mark.parametrize('address, message', [('8786', 'write its address as tcp://HOST:PORT'), ('tcp://127.0.0.1', 'tcp://HOST:PORT'), ('tcp://127.0.0.1:99999', '0-65535'),
                                              ('http://127.0.0.1:1', 'tcp://HOST:PORT'), ('tcp://127.0.0.1:1', 'no scheduler answers there')])
def test_an_address_where_no_scheduler_is(address, message):
    begin = time.monotonic()
    with pytest.raises(InputError, match=message): connect(address)
    assert time.monotonic() - begin < 25, 'Dask by itself waits 30 s'


def free_port():
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); return s.getsockname()[1]


@pytest.fixture(scope='module')
def cluster(family, tmp_path_factory):
    "A scheduler and two worker processes on loopback."
    here, port = tmp_path_factory.mktemp('cluster'), free_port()
    address, env = f'tcp://127.0.0.1:{port}', environment(LOCALLEARNING_EXPERIMENTS=str(family), PYTHONPATH=str(family), TOY_SLEEP='.2', DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES='0')
    def run(*args):
        return subprocess.Popen([sys.executable, '-m', 'distributed.cli.' + args[0], *args[1:]], cwd=here, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    scheduler = run('dask_scheduler', '--host', '127.0.0.1', '--port', str(port), '--no-dashboard')
    workers = [run('dask_worker', address, '--nthreads', '1', '--no-dashboard', '--no-nanny', '--host', '127.0.0.1') for _ in range(2)]
    def ready():
        try: client = connect(address, 2)
        except InputError: return False
        with client: return len(client.scheduler_info()['workers']) == 2
    try:
        wait_for(ready, 'the start of a scheduler and two workers', 60)
        yield address, workers
    finally:
        for p in [*workers, scheduler]: p.terminate()
        for p in [*workers, scheduler]:
            try: p.wait(20)
            except subprocess.TimeoutExpired: p.kill()  # it waits for a unit that was killed


@needs_dask
def test_workers_of_a_scheduler_give_the_same_tables(family, ran, tmp_path, cluster):
    address, workers = cluster
    process = go(family, tmp_path, '--scheduler', address)
    busy = wait_for(lambda: all(units(w.pid) for w in workers) and [units(w.pid)[0].pid for w in workers], 'a unit on each worker')
    assert len(set(busy)) == 2 and not units(process.pid)
    code, _, err = finish(process)
    assert code == 0, err
    assert tables(tmp_path) == tables(ran[0]) and len(err.splitlines()) == 3 and not list(tmp_path.glob('.events-*'))


@needs_dask
def test_units_on_workers_end_with_the_command(family, tmp_path, cluster):
    address, workers = cluster
    process = go(family, tmp_path, '--scheduler', address)
    busy = wait_for(lambda: all(units(w.pid) for w in workers) and [units(w.pid)[0].pid for w in workers], 'a unit on each worker')
    process.send_signal(signal.SIGINT)
    assert finish(process)[0] == 130
    wait_for(lambda: not any(map(alive, busy)), 'the end of the units', 30)
    assert all(w.poll() is None for w in workers), 'the workers go on'


@needs_dask
def test_a_worker_that_is_killed_is_an_error_of_one_line(family, tmp_path, cluster):
    address, workers = cluster
    process = go(family, tmp_path, '--scheduler', address)
    wait_for(lambda: units(workers[0].pid), 'a unit on the first worker')
    workers[0].kill()
    code, _, err = finish(process)
    assert code == 1 and 'Traceback' not in err
    assert re.fullmatch(r'failed: workers died while they waited for a unit \(1, the last at tcp://127.0.0.1:\d+\); see why in its log, and run the same command again to go on',
                        err.splitlines()[-1])
