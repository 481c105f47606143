"""Notebooks in processes of their own: nothing is executed twice, nothing is lost when they are killed, the right interpreter runs them."""
import fcntl
import hashlib
import io
import json
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from command import TOY, alive, environment, finish, start, tree, wait_for
from locallearning.lab import families as families_module
from locallearning.lab import reproduction, units
from locallearning.core import COLUMNS, InputError, write_atomic
from locallearning.lab.claims import Claim
from locallearning.lab.families import as_config, find_family, read_config, resolve
from locallearning.lab.reproduction import SMALL, UNITS, Screen, copy_report, deciding_run, judge_report, judge_run, passes, status
from locallearning.lab.runs import unpack_images
from locallearning.lab.units import Unit, UnitError, alive_file, notebook_key, read_json, run_unit, run_unit_process, run_units, timed, unit_process
from locallearning.lab.verdicts import FIELDS
from locallearning.store import read_table

FOLDER = 'toy/quick-mnist5k-per-class-4-test-40'


def lines(path): return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def toy(monkeypatch): monkeypatch.setenv('LOCALLEARNING_EXPERIMENTS', str(TOY)); return find_family('toy')[0]


@pytest.fixture
def copied(tmp_path, monkeypatch):
    "The toy family in a folder where it may be changed."
    shutil.copytree(TOY, tmp_path/'families')
    monkeypatch.setenv('LOCALLEARNING_EXPERIMENTS', str(tmp_path/'families'))
    return tmp_path/'families'/'toy'


# --- a whole run, as a user sees it

@pytest.fixture(scope='module')
def ran(tmp_path_factory):
    "One run by its options; beside it the same by its config.json, in a terminal, where another kernel calls itself python3."
    root = tmp_path_factory.mktemp('ran')
    spec = root/'jupyter'/'kernels'/'python3'
    spec.mkdir(parents=True)
    (spec/'kernel.json').write_text(json.dumps(dict(argv=['/bin/false'], display_name='wrong', language='python')))
    first = start('reproduce', 'toy', '--out', root/'a', '--report', root/'report', JUPYTER_PATH=str(root/'jupyter'), JUPYTER_DATA_DIR=str(root/'jupyter'), TOY_LOG=str(root/'log'))
    config = root/'a'/FOLDER/'config.json'
    wait_for(config.exists, 'writing the configuration')
    screen, ours = pty.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack('HHHH', 40, 100, 0, 0))
    second = subprocess.Popen([sys.executable, '-m', 'locallearning.command.app', 'reproduce', '--config', config, '--out', root/'b'], env=environment(TERM='xterm'),
                              stdin=ours, stdout=ours, stderr=ours, start_new_session=True)
    os.close(ours)
    shown = []
    def follow():
        try:
            while chunk := os.read(screen, 65536): shown.append(chunk)
        except OSError: pass
    reader = threading.Thread(target=follow, daemon=True)
    reader.start()
    result = finish(first)
    assert second.wait(240) == 0, b''.join(shown).decode()[-3000:]
    reader.join(10)
    return dict(root=root, result=result, terminal=b''.join(shown).decode(), a=root/'a'/FOLDER, b=root/'b'/FOLDER)


def test_a_run_ends_with_verdicts_and_places(ran):
    code, out, err = ran['result']
    assert code == 0, err
    assert out.startswith('what the text of the paper says: 2 claims') and 'the accuracy is that of a dream' in out
    assert out.rstrip().endswith(f'results   {ran["a"]}') and f'figures   {ran["a"]/"seed1"/"figures"}' in out
    table = pd.read_csv(ran['a']/'claims.csv')
    assert tuple(table) == FIELDS and table.id.tolist() == ['toy.learns', 'toy.accuracy']
    assert {p.name for p in ran['a'].iterdir()} == {'claims.csv', 'config.json', 'seed0', 'seed1'}


def test_progress_off_a_terminal_is_a_line_a_notebook(ran):
    assert [re.sub(r'\d+ s$', 'n s', line) for line in ran['result'][2].splitlines()] == ['seed 0 01_toy: n s', 'seed 1 01_toy: n s']


def test_progress_in_a_terminal_is_two_bars(ran):
    shown = ran['terminal']
    assert 'notebooks' in shown and 'seed 1 01_toy' in shown and '2/2' in shown, 'one for the notebooks'
    assert re.search(r'training Sequential.*4/4', shown), 'one for the long loop inside'
    assert '2 claims' in shown


def test_measurements_are_those_of_the_protocol(ran):
    table = pd.read_csv(ran['a']/'seed1'/'results'/'measurements.csv', keep_default_na=False)
    assert tuple(table) == COLUMNS and len(table) == 3 and set(table.seed) == {1} and set(table.family) == {'toy'}


def test_equal_runs_are_byte_equal(ran):
    "The second had nothing but the first one's config.json."
    same = ['claims.csv', 'config.json', *(f'seed{s}/results/measurements.csv' for s in (0, 1))]
    for name in same: assert (ran['a']/name).read_bytes() == (ran['b']/name).read_bytes(), name
    assert (ran['a']/same[2]).read_text() != (ran['a']/same[3]).read_text(), 'seeds differ'


def test_tables_hold_no_time_host_or_path(ran):
    text = ''.join(p.read_text() for p in [ran['a']/'claims.csv', *ran['a'].glob('seed*/results/measurements.csv')])
    assert str(ran['root']) not in text and os.uname().nodename not in text and not re.search(r'\d\d:\d\d|20\d\d-', text)


def test_the_kernel_is_the_interpreter_of_the_command(ran):
    for side in 'ab':
        interpreter, threads, _ = lines(ran[side]/'seed0'/'results'/'kernel.txt')
        assert interpreter == sys.executable and threads == '1'


def test_the_manifest_names_what_was_used(ran):
    manifest = json.loads((ran['a']/'seed0'/'manifest-01_toy.json').read_text())
    (name, used), = manifest['artefacts'].items()
    assert name.startswith('toy-') and used['make'] == 'toy_make.train' and {'toy_make', 'locallearning.training'} <= set(used['code'])
    assert manifest['parameters']['epochs'] == 4 and str(ran['root']) not in json.dumps(manifest)


def test_the_report_is_the_small_tables(ran):
    report = ran['root']/'report'/FOLDER
    assert {p.name for p in report.iterdir()} == {'claims.csv', 'config.json', 'hardware.json', 'units.csv', 'seed0-measurements.csv', 'seed1-measurements.csv'}
    assert (report/'claims.csv').read_bytes() == (ran['a']/'claims.csv').read_bytes() and f'report    {report}' in ran['result'][1]
    for s in (0, 1): assert (report/f'seed{s}-measurements.csv').read_bytes() == (ran['a']/f'seed{s}'/'results'/'measurements.csv').read_bytes()
    assert str(ran['root']) not in ''.join(p.read_text() for p in report.iterdir())


def test_times_and_hardware_stand_beside_the_tables(ran):
    report = ran['root']/'report'/FOLDER
    units, (machine,) = pd.read_csv(report/'units.csv'), json.loads((report/'hardware.json').read_text())
    assert tuple(units) == UNITS and units.seed.tolist() == [0, 1] and set(units.models) == {'all'} and set(units.notebook) == {'01_toy'} and set(units.state) == {'done'}
    assert (units.seconds > 0).all() and (units.executions == 1).all() and (units.threads == 1).all() and (units.machine == 0).all() and units.stale.isna().all()
    assert machine['processor'] and machine['memory'] > 0 and machine['cores'] == os.cpu_count() and machine['accelerator'] is None
    head = subprocess.run(['git', 'rev-parse', 'HEAD'], cwd=TOY, capture_output=True, text=True).stdout.strip()
    assert set(units.commit.fillna('')) == {head} and set(units.dirty) <= {True, False}


def test_a_report_gains_the_tables_of_a_unit_when_it_ends(copied, tmp_path, monkeypatch):
    "Seen in the middle of a run that fails later; and judged by what there is."
    seen = []
    def tables(): return sorted(p.name for p in (tmp_path/'report'/FOLDER).glob('*') if p.name.endswith(('.csv', '.json')))
    def unit(unit, events, stale_too):
        seen.append(tables())
        if unit.seed == 1: return 1, 'no'
        for part in ('last', 'first'): write_atomic(unit.folder/'results'/f'measurements-01_toy-{part}.csv', ','.join(COLUMNS) + '\nlast,toy,training,accuracy,,pixel,0,0.5,,\n')
        with timed(unit.folder/'times'/'01_toy.json', notebook='01_toy', models=[]): pass
        write_atomic(unit.folder/'notebooks'/'01_toy.json', '{}')
        return 0, ''
    monkeypatch.setattr(units, 'run_unit_process', unit)
    with pytest.raises(RuntimeError, match='exit code 1'): reproduction.reproduce('toy', seeds=[0, 1], out=str(tmp_path/'out'), report=str(tmp_path/'report'), device='cpu')
    assert seen == [['config.json', 'hardware.json', 'units.csv'], seen[1]] and tables() == ['claims.csv', 'config.json', 'hardware.json', 'seed0-measurements.csv', 'units.csv']
    assert len(pd.read_csv(tmp_path/'report'/FOLDER/'seed0-measurements.csv')) == 1, 'what two units measured alike counts once'
    claims = pd.read_csv(tmp_path/'report'/FOLDER/'claims.csv').set_index('id')
    assert claims.verdict['toy.learns'] == 'not run' and claims.verdict['toy.accuracy'] == 'fails'
    assert pd.read_csv(tmp_path/'report'/FOLDER/'units.csv').seed.tolist() == [0]


def test_a_report_keeps_the_seeds_of_earlier_requests(ran, toy, tmp_path):
    out = shutil.copytree(ran['root']/'a', tmp_path/'a')
    target = copy_report(resolve(toy, ['01_toy'], seeds=[0], device='cpu'), out, tmp_path/'report')
    assert read_config(target/'config.json').seeds == [0, 1] and (target/'claims.csv').read_bytes() == (ran['a']/'claims.csv').read_bytes()


def test_a_report_holds_no_path_to_data(ran, toy, tmp_path):
    (tmp_path/'faces.npz').write_bytes(b'1')
    config = resolve(toy, ['01_toy'], data=str(tmp_path/'faces.npz'), device='cpu', data_root=str(tmp_path))
    written = (copy_report(config, tmp_path/'out', tmp_path/'report')/'config.json').read_text()
    assert str(tmp_path) not in written and '"data": "faces-' in written


def test_the_time_of_an_execution_that_was_killed_counts(tmp_path):
    path, code = tmp_path/'t.json', 'import sys,time,pathlib\nfrom locallearning.lab.units import timed\nwith timed(pathlib.Path(sys.argv[1]), tick=.05, notebook="01"): time.sleep(60)'
    process = subprocess.Popen([sys.executable, '-c', code, path], env=environment())
    wait_for(lambda: read_json(path) and read_json(path)['executions'][0]['seconds'] > .3, 'a while')
    process.kill(), process.wait()
    with timed(path, notebook='01'): pass
    first, second = read_json(path)['executions']
    assert first['seconds'] > .3 and not first['ended'] and second['ended']


def test_a_second_call_executes_nothing(ran):
    before = {p: p.stat().st_mtime_ns for p in ran['a'].rglob('*') if p.is_file()}
    code, out, err = finish(start('reproduce', 'toy', '--out', ran['root']/'a', TOY_LOG=str(ran['root']/'log')))
    assert (code, err.splitlines()) == (0, ['seed 0 01_toy: up to date', 'seed 1 01_toy: up to date']) and '2 claims' in out
    after = {p: p.stat().st_mtime_ns for p in ran['a'].rglob('*') if p.is_file()}
    assert {p.name for p in before if before[p] != after[p]} <= {'claims.csv', 'config.json'} and set(before) == set(after)
    assert lines(ran['root']/'log') == [f'{s} {e}' for s in (0, 1) for e in range(4)]


def test_list_says_what_is_done_and_what_is_stale_and_why(ran, copied):
    listed = lambda: finish(start('list', '--out', ran['root']/'a', LOCALLEARNING_EXPERIMENTS=str(copied.parent)))[1]
    assert f'{FOLDER[4:]}/seed0/01_toy: done' in listed()
    (copied/'01_toy.ipynb').write_text((copied/'01_toy.ipynb').read_text().replace('accuracy', 'exactness'))
    text = listed()
    assert f'{FOLDER[4:]}/seed1/01_toy: stale: cells changed' in text
    assert 'toy: A toy' in text and 'toy/01_toy' in text and 'profiles  smoke, quick' in text and re.search(r'epochs: int += 3 +passes', text)


# --- what makes a notebook stale

def why(ran): return {reason for _, _, reason in status(find_family('toy')[0], str(ran['root']/'a'))}


def edit(path, old, new): assert old in path.read_text(); path.write_text(path.read_text().replace(old, new))


def test_reasons_to_run_again(ran, copied):
    assert why(ran) == {''}
    edit(copied/'family.toml', 'a dream', 'dreams')
    edit(copied/'01_toy.ipynb', 'in a few seconds', 'soon')
    assert why(ran) == {''}, 'claims and prose do not count'
    edit(copied/'family.toml', 'A toy', 'A game')
    assert why(ran) == {'family changed'}
    edit(copied/'01_toy.ipynb', 'epochs: int = 3', 'epochs: int = 5')
    assert why(ran) == {'cells, family changed'}
    shutil.copy(copied/'01_toy.ipynb', copied/'02_more.ipynb')
    assert why(ran) == {'cells, family changed', 'not run yet'}


@pytest.mark.parametrize('module', ['training', 'figures.layers', 'lab.session', 'lab.runs'])
def test_a_changed_module_is_a_reason_also_if_it_only_draws(ran, toy, module, monkeypatch):
    real = units.closure
    monkeypatch.setattr(units, 'closure', lambda *a: {k: 'x' if k == f'locallearning.{module}' else v for k, v in real(*a).items()})
    assert why(ran) == {f'{module} changed'}


def test_modules_that_work_on_results_are_no_reason(toy):
    key = notebook_key(toy, '01_toy', {})
    assert 'locallearning.figures.layers' in key and not {f'locallearning.{m}' for m in ('lab.claims', 'lab.reproduction', 'command.app')} & set(key)


def test_data_that_changed_under_their_path_are_a_reason(tmp_path, toy):
    path = tmp_path/'faces.npz'
    path.write_bytes(b'1')
    key = lambda data: notebook_key(toy, '01_toy', dict(data=data))['data']
    before = key(f'{path}(per_class=3)')
    assert before == key(str(path)) != key('mnist5k')
    path.write_bytes(b'22')
    assert key(str(path)) != before and key('mnist5k') == key('mnist(per_class=3)')
    before = key(str(tmp_path))
    (tmp_path/'more').mkdir()
    (tmp_path/'more'/'a.png').write_bytes(b'3')
    assert key(str(tmp_path)) != before, 'in folders below too'


def test_where_results_go_is_no_reason(toy):
    key = lambda **k: notebook_key(toy, '01_toy', dict(width=3, out='a', folder='b', threads=1, data_root='c') | k)
    assert key() == key(out='x', folder='y', threads=2, data_root='z') != key(width=4)


def test_a_configuration_of_a_family_that_changed_is_shown_as_such(ran, copied):
    edit(copied/'01_toy.ipynb', 'fail', 'failure')
    (name, _, reason), = status(find_family('toy')[0], str(ran['root']/'a'))
    assert name == FOLDER[4:] and "no parameter 'fail'; did you mean 'failure'" in reason


def test_only_the_own_profile_of_a_family_counts(copied):
    key = lambda profile: notebook_key(find_family('toy')[0], '01_toy', dict(profile=profile))['family']
    before = key('quick'), key('large')
    edit(copied/'family.toml', '[profiles.quick]', '[profiles.large]\nepochs = 9\n\n[profiles.quick]')
    assert key('quick') == before[0] and key('large') != before[1]


# --- results of older code

@pytest.fixture
def older(ran, copied, monkeypatch, tmp_path):
    "A finished run, after a module that trains and one that draws have changed."
    out = shutil.copytree(ran['root']/'a', tmp_path/'out')
    for path in [*out.rglob('value.json'), *out.rglob('notebooks/*.json')]:
        text = path.read_text()
        if path.name != 'value.json': path.write_text(re.sub('("locallearning.(training|plots)": ")[0-9a-f]', r'\1z', text)); continue
        whole = json.loads(text)
        whole['about']['code']['locallearning.training'] = 'as it was'
        path.write_text(json.dumps(whole))
        key = hashlib.sha256(json.dumps(whole['about'], sort_keys=True).encode()).hexdigest()
        path.parent.rename(path.parents[1]/f'toy-{key[:16]}')
    return out


def again(older, *args, **env):
    return finish(start('reproduce', 'toy', '--out', older, '--report', older/'report', *args, TOY_LOG=str(older/'log'), LOCALLEARNING_EXPERIMENTS=str(older.parent/'families'), **env))


def test_results_of_older_code_are_used_only_if_asked_for_and_named(older):
    code, out, err = again(older, '--accept-stale')
    assert code == 0 and not lines(older/'log') and 'up to date' not in err, 'executed, but nothing is trained'
    assert f'stale     2 notebooks used results of older code, named by manifests in {older/FOLDER}' in out
    assert json.loads((older/FOLDER/'seed0'/'manifest-01_toy.json').read_text())['stale'] == ['toy']
    assert set(pd.read_csv(older/'report'/FOLDER/'units.csv').stale) == {'toy'}, 'the report takes it from the manifests'
    code, out, err = again(older, '--accept-stale')
    assert (code, err.splitlines()) == (0, ['seed 0 01_toy: up to date', 'seed 1 01_toy: up to date']), 'accepted again'
    code, out, err = again(older, '--seed', '0')
    assert code == 0 and lines(older/'log') == [f'0 {e}' for e in range(4)] and 'stale' not in out, 'what used them does not count where they are not accepted'


def test_other_arguments_are_never_stale(older):
    code, out, err = again(older, '--accept-stale', '--seed', '0', '--set', 'epochs=2')
    assert code == 0 and lines(older/'log') == ['0 0', '0 1'] and 'stale     0 notebooks' in out


def test_a_worker_is_told_that_older_results_count(toy, monkeypatch, tmp_path):
    "Its own environment does not say so."
    seen = []
    class Fake:
        def __init__(self, *a, env, **k): self.stdin = io.StringIO(); seen.append(env.get('LOCALLEARNING_ACCEPT_STALE'))
    monkeypatch.setattr(subprocess, 'Popen', Fake)
    for stale_too in (False, True): unit_process(Unit(config(toy), 0, (), '/o'), tmp_path, stale_too)
    monkeypatch.setattr(units, 'run_unit_process', lambda unit, events, stale_too: (seen.append(stale_too), (0, ''))[1])
    monkeypatch.setenv('LOCALLEARNING_ACCEPT_STALE', '1')
    with ThreadPoolExecutor(1) as pool: run_units(['a'], pool, tmp_path/'events')
    assert seen == [None, '1', True]


# --- killed, interrupted, ended

@pytest.fixture(scope='module')
def slow(tmp_path_factory):
    "Three commands in the middle of a training whose second epoch lasts; one is killed, one interrupted, one asked to end."
    root = tmp_path_factory.mktemp('slow')
    sent = dict(killed=lambda p: os.killpg(p.pid, signal.SIGKILL), interrupted=lambda p: os.killpg(p.pid, signal.SIGINT), ended=lambda p: p.terminate(),
                orphaned=lambda p: p.kill())
    runs = {k: start('reproduce', 'toy', '--seed', '0', '--out', root/k, TOY_LOG=str(root/f'{k}.log'), TOY_SLEEP='2' if k == 'killed' else '60') for k in sent}
    children, result = {}, {}
    for name, process in runs.items():
        wait_for(lambda: len(lines(root/f'{name}.log')) >= (2 if name == 'killed' else 1), f'an epoch of {name}')
        children[name] = tree(process)
        sent[name](process)
    for name, process in runs.items(): result[name] = finish(process, 60)
    return dict(root=root, children=children, result=result)


@pytest.mark.parametrize('how', ['killed', 'interrupted', 'ended', 'orphaned'])
def test_no_process_outlives_the_command(slow, how):
    assert len(slow['children'][how]) >= 2, 'a unit and its kernel'
    wait_for(lambda: not any(map(alive, slow['children'][how])), 'the end of all processes', 30)


def test_an_interrupt_is_130_and_says_how_to_go_on(slow):
    code, _, err = slow['result']['interrupted']
    assert code == 130 and err.splitlines()[-1] == 'interrupted; run the same command again to go on' and 'Traceback' not in err
    assert lines(slow['root']/'interrupted.log') == ['0 0'], 'and no unit is started once more'


def test_a_request_to_end_is_143(slow):
    assert slow['result']['ended'][0] == 143 and 'Traceback' not in slow['result']['ended'][2] and lines(slow['root']/'ended.log') == ['0 0']


def test_a_run_that_was_killed_ends_with_the_same_numbers(slow, ran):
    assert slow['result']['killed'][0] == -signal.SIGKILL
    out, log = slow['root']/'killed', slow['root']/'killed.log'
    before = len(lines(log))
    assert 2 <= before < 4 and not (out/FOLDER/'seed0'/'results'/'measurements.csv').exists()
    part, = (out/'artefacts').glob('*.part')
    assert finish(start('reproduce', 'toy', '--seed', '0', '--out', out, TOY_LOG=str(log)))[0] == 0
    name = 'seed0/results/measurements.csv'
    assert (out/FOLDER/name).read_bytes() == (ran['a']/name).read_bytes(), 'as the one that ran through'
    done = [int(line.split()[1]) for line in lines(log)]
    assert done[before:] == list(range(done[before], 4)) and done[before] >= before - 1, f'at most one epoch is computed twice: {done}'
    assert not part.exists()


# --- errors inside notebooks

@pytest.fixture(scope='module')
def failed(tmp_path_factory):
    root = tmp_path_factory.mktemp('failed')
    runs = {how: start('reproduce', 'toy', '--seeds', '0,1,2', '--set', f'fail={how}', '--out', root/how) for how in ('input', 'bug', 'dead')}
    return {how: (*finish(p), root/how) for how, p in runs.items()}


def test_a_notebook_runs_by_plain_papermill_too(ran, tmp_path):
    "And finds the same place for its results, and the same numbers."
    (tmp_path/'params.yaml').write_text('epochs: 4\nprofile: quick\n')
    args = [TOY/'toy'/'01_toy.ipynb', tmp_path/'out.ipynb', '-p', 'seed', '1', '-f', tmp_path/'params.yaml', '--no-progress-bar']
    done = subprocess.run([sys.executable, '-m', 'papermill', *map(str, args)], env=environment(LOCALLEARNING_RUNS=str(tmp_path/'runs')), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    name = 'seed1/results/measurements.csv'
    assert (tmp_path/'runs'/FOLDER/name).read_bytes() == (ran['a']/name).read_bytes()


def test_an_input_error_inside_a_notebook_is_one_message(failed):
    code, out, err, folder = failed['input']
    assert code == 2 and out == ''
    assert err == "error: fail='input': choose something that works\n  in toy/01_toy, cell 4\n"
    assert not list(folder.rglob('notebooks/*.json')) and not list(folder.rglob('seed1')), 'nothing counts as done, and the other seeds are not tried'


def test_another_error_inside_a_notebook_shows_its_last_lines_and_the_notebook(failed):
    code, out, err, folder = failed['bug']
    assert code == 1 and out == '' and 'File "' not in err and '\x1b' not in err
    assert err.startswith('failed: toy/01_toy failed in cell 4: IndexError: list index out of range')
    assert "----> 2 if fail == 'bug': [][1]" in err
    executed = Path(err.splitlines()[-1].removeprefix('  executed so far: '))
    assert 'IndexError' in executed.read_text() and executed.is_relative_to(folder)


def test_a_kernel_that_dies_is_said_to_have_died(failed):
    code, _, err, _ = failed['dead']
    assert code == 1 and err.startswith('failed: toy/01_toy: Kernel died; perhaps the memory was not enough\n  executed so far: ') and 'Traceback' not in err


# --- parts, without a notebook

def config(toy, **more): return resolve(toy, ['01_toy'], **dict(profile='quick', seeds=[0], device='cpu') | more)


def test_a_family_is_found_once_a_run(toy, monkeypatch, tmp_path):
    "By the command, and once more by the process of each unit."
    found, real = [], families_module.families
    monkeypatch.setattr(families_module, 'families', lambda *a: found.append(1) or real(*a))
    monkeypatch.setattr(units, 'run_unit_process', lambda unit, events, stale_too: (0, ''))
    reproduction.reproduce('toy', seeds=[0, 1], out=str(tmp_path), report=str(tmp_path/'report'), device='cpu')
    assert len(found) == 1
    unit = json.loads(json.dumps(dict(config=config(toy).plain)))
    monkeypatch.setattr(units, 'run_notebook', lambda *a: None)
    assert run_unit(Unit(as_config(unit['config']), 0, (), str(tmp_path))) == 0 and len(found) == 2


def test_a_configuration_of_an_older_version_is_read(toy, tmp_path):
    (tmp_path/'c.json').write_text(json.dumps(config(toy).plain | dict(stale=['seed 0 01_toy all: notebook'])))
    assert read_config(tmp_path/'c.json') == config(toy)


def test_large_profiles_run_model_by_model_first(toy, monkeypatch):
    small = config(toy, seeds=[0, 1])
    assert [[(u.seed, u.models) for u in g] for g in passes(small, '/o', False)] == [[(0, ()), (1, ())]]
    assert [[(u.seed, u.models) for u in g] for g in passes(replace(small, profile='cpu'), '/o', False)] == [[(0, ('net',)), (1, ('net',))], [(0, ()), (1, ())]]


def test_a_unit_passes_every_parameter(toy):
    unit = Unit(config(toy, sets=dict(width='5'), threads=3, data_root='/d'), 7, ('net',), '/o')
    given = unit.params('01_toy')
    assert given | dict(folder='') == dict(seed=7, models=['net'], data='mnist5k(per_class=4, test=40)', width=5, epochs=4, fail='', profile='quick', device='cpu', threads=3,
                                           data_root='/d', out='/o', folder='')
    assert given['folder'] == str(unit.folder) and unit.folder.name == 'seed7' and re.fullmatch('quick-mnist5k-per-class-4-test-40-[0-9a-f]{6}', unit.folder.parent.name)


def test_threads_of_a_unit(toy, monkeypatch, tmp_path):
    seen = []
    class Fake:
        def __init__(self, *a, env, **k): self.stdin = io.StringIO(); seen.append(env['OMP_NUM_THREADS'])
    monkeypatch.setattr(subprocess, 'Popen', Fake)
    monkeypatch.setenv('OMP_NUM_THREADS', '5')
    unit_process(Unit(config(toy), 0, (), '/o'), tmp_path), unit_process(Unit(config(toy, threads=3), 0, (), '/o'), tmp_path)
    monkeypatch.delenv('OMP_NUM_THREADS')
    unit_process(Unit(config(toy), 0, (), '/o'), tmp_path)
    assert seen == ['5', '3', str(os.cpu_count())]


def test_force_executes_what_is_done(toy, monkeypatch, tmp_path):
    ran = []
    monkeypatch.setattr(units, 'run_notebook', lambda path, target, params: ran.append(path.stem))
    for force in (False, False, True): assert run_unit(Unit(config(toy), 0, (), str(tmp_path), force)) == 0
    assert ran == ['01_toy', '01_toy']


def test_two_commands_at_once_execute_a_notebook_once(toy, monkeypatch, tmp_path):
    ran = []
    def slowly(path, target, params): ran.append(path.stem); threading.Event().wait(.2)
    monkeypatch.setattr(units, 'run_notebook', slowly)
    with ThreadPoolExecutor(2) as pool: assert list(pool.map(run_unit, [Unit(config(toy), 0, (), str(tmp_path))] * 2)) == [0, 0]
    assert ran == ['01_toy']


def test_a_notebook_that_fails_is_not_done_any_more(toy, monkeypatch, tmp_path):
    monkeypatch.setenv('LOCALLEARNING_EVENTS', str(tmp_path/'events'))
    def fail(*a): raise InputError('no')
    unit = Unit(config(toy), 0, (), str(tmp_path), True)
    monkeypatch.setattr(units, 'run_notebook', lambda *a: None)
    run_unit(unit)
    monkeypatch.setattr(units, 'run_notebook', fail)
    assert run_unit(unit) == 2 and run_unit(replace(unit, force=False)) == 2
    assert [json.loads(line) for line in lines(tmp_path/'events')][-1] == dict(error='no', code=2)


def scripted(monkeypatch, *codes):
    "Units are shell commands that end so."
    script, started = iter(codes), []
    def process(unit, events, stale_too):
        started.append(unit)
        return subprocess.Popen(['sh', '-c', f'echo said; {next(script)}'], stdout=subprocess.PIPE, text=True)
    monkeypatch.setattr(units, 'unit_process', process)
    return started


@pytest.mark.parametrize('ends, code, times', [
    (['kill -9 $$', 'exit 0'], 0, 2), (['kill -9 $$', 'kill -9 $$'], -9, 2), (['exit 1'], 1, 1), (['kill -2 $$'], -2, 1), (['kill -15 $$'], -15, 1), (['exit 2'], 2, 1)])
def test_a_unit_that_was_killed_is_started_once_more(monkeypatch, tmp_path, ends, code, times):
    started = scripted(monkeypatch, *ends)
    alive = alive_file(tmp_path/'events')
    alive.touch()
    assert run_unit_process('unit', tmp_path/'events') == (code, 'said\n') and len(started) == times and alive.exists() == (code == 0)


def test_the_first_failure_ends_the_run(monkeypatch, tmp_path):
    started = scripted(monkeypatch, 'exit 0', 'exit 3', 'exit 0')
    with ThreadPoolExecutor(1) as pool, pytest.raises(UnitError) as e: run_units(['a', 'b', 'c'], pool, tmp_path/'events')
    assert e.value.code == 3 and 'said' in str(e.value) and started == ['a', 'b']


@pytest.mark.parametrize('ends', [['exit 3', 'exec sleep 60'], ['exec sleep 60', 'exit 3']])
def test_a_failure_ends_what_runs_beside_it(monkeypatch, tmp_path, ends):
    scripted(monkeypatch, *ends)
    with ThreadPoolExecutor(2) as pool, pytest.raises(UnitError) as e: run_units(['a', 'b'], pool, tmp_path/'events')
    assert e.value.code == 3, 'the error of the unit that failed, not of the one that was ended'


def test_the_screen_reads_whole_lines(tmp_path):
    out = io.StringIO()
    with Screen(tmp_path/'events', 2, out):
        with open(tmp_path/'events', 'a') as f:
            f.write('{"notebook": "01_a", "seed": 0, "sta'); f.flush()
            threading.Event().wait(.3)
            f.write('te": "started"}\n{"note{"what": 1}\n3\n{"what": "loop", "done": 1, "total": null}\n{"notebook": "01_a", "seed": 0, "state": "done"}\n{"notebook": "02_b", "seed": 0, "state": "kept"}\n')
    assert re.fullmatch(r'seed 0 01_a: \d+ s\nseed 0 02_b: up to date\n', out.getvalue())


def test_claims_are_judged_over_all_seeds(toy, tmp_path, ran):
    verdicts = judge_run(read_config(ran['a']/'config.json'), ran['root']/'a')
    assert verdicts.set_index('id').measured['toy.accuracy'] and (ran['a']/'claims.csv').read_text() == verdicts.to_csv(index=False)
    one = judge_run(config(toy), shutil.copytree(ran['root']/'a', tmp_path/'one'))
    strength = lambda frame: frame.set_index('id').strength['toy.accuracy']
    assert strength(one) == 'one seed, no interval' and strength(verdicts).startswith('2 seeds')


# --- what would decide a claim, and verdicts made again from a report

@pytest.fixture
def costly(copied):
    "The toy family with three profiles more and a claim for each, and a family object that knows them."
    more = ''.join(f'[profiles.{name}]\n{text}\n\n' for name, text in dict(cpu='epochs = 9', long='epochs = 99', faces='epochs = 9\ndata = "cifar10"').items())
    edit(copied/'family.toml', '[[claims]]\nid = "toy.learns"', f'{more}[costs]\ncpu = "an hour of one core"\nlong = "a night"\n\n[[claims]]\nid = "toy.learns"')
    return find_family('toy')[0]


def profiles_of(family): return {p: resolve(family, [], p).params for p in family.profiles if p not in SMALL}


def needing(data=('*',), **needs): return Claim('c', 's', 'none', 'value', ('last',), 'training', 'accuracy', published=1., tolerance=.1, because='a test', needs=needs, data=data)


@pytest.mark.parametrize('needs, data, said', [
    (dict(epochs=9), ('*',), '`locallearning reproduce toy --profile cpu` decides it (an hour of one core)'),
    (dict(epochs='>= 9'), ('*',), '`locallearning reproduce toy --profile cpu` decides it (an hour of one core)'),
    (dict(epochs='>= 10'), ('*',), '`locallearning reproduce toy --profile long` decides it (a night)'),
    (dict(epochs=9), ('cifar10',), '`locallearning reproduce toy --profile faces` decides it'),
    (dict(epochs=4), ('*',), 'no profile decides it'),
    (dict(epochs=99), ('cifar10',), 'no profile decides it')])
def test_the_first_profile_that_has_the_settings_decides_with_its_cost(costly, needs, data, said):
    "Small profiles are none of them, although quick has four epochs; and a cost that nobody wrote down is not made up."
    assert 'quick' in costly.profiles and deciding_run(costly, profiles_of(costly), needing(data, **needs)) == said


def test_a_verdict_says_what_a_run_lacks_and_which_run_decides(ran, copied, costly, tmp_path):
    edit(copied/'family.toml', 'needs = {epochs = 4}', 'needs = {epochs = 99}')
    verdicts = judge_run(config(find_family('toy')[0], seeds=[0, 1]), shutil.copytree(ran['root']/'a', tmp_path/'a')).set_index('id')
    assert verdicts.verdict['toy.accuracy'] == 'not comparable' and verdicts.measured['toy.accuracy'], 'what was measured is shown all the same'
    assert verdicts.reason['toy.accuracy'] == 'needs epochs = 99 (here 4); `locallearning reproduce toy --profile long` decides it (a night)'
    assert '`' not in verdicts.reason['toy.learns'], 'what was decided needs no other run'


def correct(folder, model, share, images=200):
    "What a notebook leaves of the images of one seed: which of them are right, and what a table makes of it."
    head = dict(family='toy', probe='training', setting='', space='pixel', seed=int(folder.name[4:]), unit='', flags='', model=model)
    right = [float(i < share*images) for i in range(images)]
    rows = [head | dict(quantity='test_accuracy', value=share)]
    (folder/'results').mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows, columns=COLUMNS).to_csv(folder/'results'/f'measurements-01_toy-{model}.csv', index=False)
    images = [{k: head[k] for k in ('model', 'probe', 'setting', 'space', 'seed')} | dict(quantity='correct', image=i, value=v) for i, v in enumerate(right)]
    pd.DataFrame(images).to_csv(folder/'results'/f'images-01_toy-{model}.csv', index=False)


@pytest.fixture
def with_images(copied, tmp_path):
    "A run of one seed with values per image, made up, and a claim about them."
    edit(copied/'family.toml', 'quantity = "accuracy"\npublished = 1.0', 'quantity = "test_accuracy"\npublished = 1.0')
    request = config(find_family('toy')[0])
    correct(tmp_path/'out'/request.folder/'seed0', 'last', .5)
    return request, tmp_path/'out', copy_report(request, tmp_path/'out', tmp_path/'report')


def test_a_report_holds_the_images_that_verdicts_rest_on(with_images):
    request, out, report = with_images
    kept, = report.glob('seed*-images.csv')
    packed = pd.read_csv(kept)
    assert kept.name == 'seed0-images.csv' and packed['images'].tolist() == ['0-199'] and len(packed['values'][0].split()) == 200
    assert unpack_images(read_table(kept, dict(seed='int64'))).value.sum() == 100
    verdict = pd.read_csv(report/'claims.csv').set_index('id').loc['toy.accuracy']
    assert verdict.verdict == 'fails' and verdict.strength == 'one seed × 200 images' and verdict.effect.startswith('0.5 [0.43')
    judge_run(request, out)
    assert (out/request.folder/'claims.csv').read_bytes() == (report/'claims.csv').read_bytes(), 'from a run and from its report alike'


def test_verdicts_are_made_again_from_a_report_alone(with_images, ran, copied, tmp_path):
    _, out, report = with_images
    before = (report/'claims.csv').read_bytes()
    shutil.rmtree(out)
    (report/'claims.csv').unlink()
    assert judge_report(report).id.tolist() == ['toy.learns', 'toy.accuracy'] and (report/'claims.csv').read_bytes() == before
    edit(copied/'family.toml', 'published = 1.0', 'published = 0.5')
    edit(copied/'family.toml', 'tolerance = 0.001', 'tolerance = 0.2')
    assert judge_report(report).set_index('id').verdict['toy.accuracy'] == 'holds', 'by the claims as they are now'
    (report/'seed0-images.csv').unlink()
    assert judge_report(report).set_index('id').strength['toy.accuracy'] == 'one seed, no interval'
