"A stranger's path: pieces in a file of their own take part in everything, by object, by recipe and from the command."
import ast
import csv
import json
import signal
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parents[1]))

import locallearning as ll
from command import finish, in_process, start, wait_for
from locallearning import training
from locallearning.core import InputError
from locallearning.state import seeded

HERE = Path(__file__).parent
DATA = 'mnist5k(per_class=12, test=60)'
REQUEST = ['train', '--import', 'stranger', '--model', 'Net(channels=3)', '--data', DATA, '--penalty', 'Steady(.2)', '--transform', 'Adversarial(Corner(turned=.2), eps=.05)',
           '--epochs', '4', '--batch-size', '30', '--seed', '2', '--snapshots', '1.5']
same = lambda a, b: (x := load_file(a)).keys() == (y := load_file(b)).keys() and all(x[k].equal(y[k]) for k in x)


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    "The command in this process, in an empty folder with the stranger's file: exit code, output, errors."
    (tmp_path/'stranger.py').write_text((HERE/'stranger.py').read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, 'stranger', raising=False)
    with in_process(monkeypatch, capsys) as run: yield run
    sys.modules.pop('stranger', None)


def interrupt_in_epoch(monkeypatch, n):
    "Ctrl-C when epoch `n` has been trained and before it is saved."
    real = training.check_finite
    def stop(means, epoch, model):
        if epoch == n: raise KeyboardInterrupt
        real(means, epoch, model)
    monkeypatch.setattr(training, 'check_finite', stop)


def test_the_file_is_short_and_knows_nothing_of_the_package():
    tree = ast.parse((HERE/'stranger.py').read_text())
    lengths = {o.name: o.end_lineno - o.lineno + 1 for o in tree.body if isinstance(o, ast.ClassDef)}
    assert set(lengths) == {'Net', 'Steady', 'Corner'} and max(lengths.values()) <= 15
    assert not any('locallearning' in ast.unparse(o) for o in ast.walk(tree) if isinstance(o, (ast.Import, ast.ImportFrom)))


def test_objects_work_in_fit(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    from stranger import Corner, Net, Steady
    data = ll.load(DATA)
    with seeded(0, 'init'): net = Net(10)
    log = ll.fit(net, data, penalties=[Steady()], transform=ll.Adversarial(Corner(), eps=.05), epochs=2)
    assert log.last('Steady') > 0 and .1 < ll.accuracy_curve(net, data.test, Corner(), [0, .1]).clean <= 1


def test_recipes_make_them(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    assert ll.build_recipe('Adversarial(Corner(turned=.3), eps=.1)', ['stranger']).attack.turned == .3
    with pytest.raises(InputError, match="unknown piece 'Cornre'; did you mean 'Corner'"): ll.build_recipe('Cornre()', ['stranger'])


def test_from_the_command_through_an_interruption_to_the_evaluation(call, monkeypatch, tmp_path):
    code, out, err = call(*REQUEST, '--out', 'through')
    assert code == 0 and err == '' and 'next        locallearning evaluate through --data ' in out and out.rstrip().endswith('--import stranger')

    with monkeypatch.context() as m:
        interrupt_in_epoch(m, 2)
        code, out, err = call(*REQUEST, '--out', 'again')
    assert code == 130 and err == 'interrupted; go on with: locallearning train --out again --resume\n'
    assert call('train', '--out', 'again', '--resume')[0] == 0
    for name in ('last', 'best', 'snapshot-1.5'): assert same(f'through/models/{name}.safetensors', f'again/models/{name}.safetensors'), name
    assert Path('through/results/history.csv').read_bytes() == Path('again/results/history.csv').read_bytes()

    about = json.loads(Path('again/manifest-train.json').read_text())
    assert about['parameters']['penalties'] == ['Steady(0.2)'] and about['parameters']['model'] == 'Net(channels=3, classes=10)'
    assert 'stranger' in about['artefacts']['training']['code'], 'what their code was belongs to what the numbers rest on'

    model = 'again/models/best.safetensors'
    with pytest.raises(InputError, match=r'uses stranger; pass --import stranger \(modules=.* to let that code run'): ll.load_model(model)
    assert ll.load_model(model, ['stranger']).conv.out_channels == 3

    code, out, err = call('evaluate', 'again', '--data', DATA, '--import', 'stranger', '--attack', 'Corner(turned=.3)', '--eps', '0,.1', '--out', 'looked')
    assert code == 0, err
    rows = list(csv.DictReader(Path('looked/results/measurements.csv').open()))
    assert any('Corner' in r['setting'] for r in rows)


@pytest.mark.slow
def test_a_kill_loses_at_most_an_epoch(tmp_path):
    "From another process, at whatever moment it comes."
    request = [*REQUEST[:-1], '0', '--epochs', '12']
    whole = start(*request, '--out', 'whole', cwd=tmp_path, PYTHONPATH=str(HERE))
    process, state = start(*request, '--out', 'killed', cwd=tmp_path, PYTHONPATH=str(HERE)), tmp_path/'killed'/'models'/'state.safetensors'
    wait_for(lambda: state.exists() or process.poll() is not None, 'the first epoch')
    process.kill()
    assert finish(process)[0] == -signal.SIGKILL
    code, out, err = finish(start('train', '--out', 'killed', '--resume', cwd=tmp_path, PYTHONPATH=str(HERE)))
    assert code == 0 and finish(whole)[0] == 0, err
    for name in ('last', 'best', 'snapshot-0'): assert same(tmp_path/'whole'/'models'/f'{name}.safetensors', tmp_path/'killed'/'models'/f'{name}.safetensors'), name
