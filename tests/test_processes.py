"""Several processes train one layer: the same weights as one alone, to the bit among themselves; and nobody waits for one that is gone."""
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from command import environment, finish, in_process, wait_for
from locallearning.bench.processes import rendezvous
from locallearning.data import load
from locallearning.hebbian.layer import effective_weight, kh_step_, train_layer
from locallearning.state import load_model, load_tree, save_tree, stream

LOOPBACK = dict(GLOO_SOCKET_IFNAME='lo') if sys.platform == 'linux' else {}

SCRIPT = '''
import sys
from pathlib import Path
import test_processes as t
from locallearning.core import InputError
from locallearning.processes import joined, rank, size
from locallearning.state import save_tree

out, data = Path(sys.argv[1]), t.digits()
with joined():
    me, steps = rank(), {name: t.steps(*case) for name, case in t.CASES.items()}
    folder = out/'layer' if me == 0 else None
    first = t.train_layer(data, **t.LAYER | dict(epochs=2), folder=folder)
    whole = t.train_layer(data, **t.LAYER, folder=out/'again' if me == 0 else None)
    if me == 0: t.forget(out/'again')
    again = t.train_layer(data, **t.LAYER, folder=out/'again' if me == 0 else None)
    save_tree(out/f'{size()}-{me}', dict(steps=steps, first=first, whole=whole, again=again))
    try: t.train_layer(data, **t.LAYER | dict(lr=.02 if me == 1 else .04))
    except InputError as e: print(e, flush=True)
'''

CASES = {f'{mode} k={k} B={b}{" ties"*ties}': (mode, k, b, ties)
         for mode in ('rank_k', 'all_ranks') for k in (2, 7) for b, ties in ((12, False), (13, False), (4, False), (13, True))}
LAYER = dict(width=15, k=3, epochs=4, lr=.04, batch_size=50)


def digits(): return load('mnist5k(per_class=13, test=20)').in_space('lp_unit', p=3)


def steps(mode, k, batch, ties):
    "The weights after 50 steps in float64, by all processes there are."
    from locallearning.hebbian.ranking import shared
    from locallearning.hebbian.ranking import Ranking
    g = stream(0, 'steps')
    v, weight = (torch.randn(n, 30, generator=g, dtype=torch.float64) for n in (50*batch, 20))
    if ties: v, weight = v.round(), weight.sign()[torch.arange(20)//4]
    ranking = shared(Ranking(effective_weight(weight)))
    for i, x in enumerate(v.split(batch)): kh_step_(weight, x, .02*(1 - i/50), k=k, mode=mode, ranking=ranking)
    return weight


def forget(folder):
    "Back to the state after the second epoch, which lies in `layer`."
    state = load_tree(folder/'state.safetensors')
    assert state['done'] == LAYER['epochs']
    saved = load_tree(folder.parent/'layer'/'state.safetensors')
    state |= dict(done=2, layer=saved['layer'])
    state['norms']['quartiles'][2:] = torch.nan
    save_tree(folder/'state.safetensors', state)


def start(n, script, *args):
    "Processes that meet at a store of this one, as those of `torchrun` do at its."
    store, places = rendezvous(n)
    run = lambda place: subprocess.Popen([sys.executable, '-c', script, *map(str, args)], env=environment(PYTHONPATH=str(Path(__file__).parent), **place), text=True,
                                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    return store, [run(place) for place in places]


@pytest.fixture(scope='module', params=[2, 3])
def group(request, tmp_path_factory):
    "What each of two or three processes has got, and what they said."
    out = tmp_path_factory.mktemp('group')
    _, processes = start(request.param, SCRIPT, out)
    said = [finish(p, 120) for p in processes]
    assert all((out/f'{request.param}-{i}').exists() for i in range(request.param)), said
    return [load_tree(out/f'{request.param}-{i}') for i in range(request.param)], said


def test_the_weights_are_those_of_one_process(group):
    for name, case in CASES.items():
        alone = steps(*case)
        for i, each in enumerate(group[0]): assert (each['steps'][name] - alone).abs().max() <= 1e-9, f'{name} in process {i}'


def test_processes_agree_to_the_bit(group):
    first, *others = group[0]
    for o in others:
        assert all(o['steps'][name].equal(first['steps'][name]) for name in CASES)
        for what in ('first', 'whole', 'again'):
            assert o[what]['weight'].equal(first[what]['weight']) and o[what]['report'] == first[what]['report']
            assert o[what]['norms'].equal(first[what]['norms'])


def test_a_layer_is_that_of_one_process_and_goes_on_from_the_checkpoint_of_the_first(group):
    alone, two = train_layer(digits(), **LAYER), train_layer(digits(), **LAYER | dict(epochs=2))
    made = group[0][0]
    torch.testing.assert_close(made['whole']['weight'], alone['weight'], rtol=0, atol=1e-5)
    torch.testing.assert_close(made['first']['weight'], two['weight'], rtol=0, atol=1e-5)
    assert not made['again']['weight'].equal(made['whole']['weight']), 'it went on from another second epoch'
    assert made['again']['norms'][:2].equal(made['whole']['norms'][:2]) and made['again']['norms'].isfinite().all()


def test_another_request_in_one_process_is_an_error_there_and_ends_the_others(group):
    (_, _, first), (_, said, _), *_ = group[1]
    assert re.match(r'process 1 of \d was asked for another training than process 0: lr=0.02 instead of 0.04; give all the same', said)
    assert 'Lost: ' in first.splitlines()[-1]


# --- the command

WORDS = dict(model='KHModel(width=20, kh_epochs=150, kh_batch_size=50)', data='mnist5k(per_class=40, test=100)', epochs=2)


@pytest.fixture
def torchrun(tmp_path):
    def run(*more):
        words = [w for k, v in WORDS.items() for w in (f'--{k}', str(v))]
        line = ['-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2', '-m', 'locallearning.command.app', 'train', *words, '--out', 'two', *more]
        return subprocess.Popen([sys.executable, *line], cwd=tmp_path, env=environment(**LOOPBACK), text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    return run


def of_rank(process, rank):
    return next((p for p in psutil.Process(process.pid).children() if p.environ().get('RANK') == str(rank)), None)


def test_a_process_that_is_killed_costs_an_epoch(torchrun, tmp_path):
    process = torchrun()
    wait_for(lambda: list(tmp_path.glob('two/artefacts/kh_layer-*.part/state.safetensors')), 'an epoch of the layer')
    of_rank(process, 1).send_signal(signal.SIGKILL)
    code, _, err = finish(process)
    assert code == 1
    found = re.search(r'^failed: process 1 of 2 is gone; run the same line with --resume to go on from epoch (\d+)$', err, re.M)
    assert found and 0 < int(found[1]) < 150, err
    state, = tmp_path.glob('two/artefacts/kh_layer-*.part/state.safetensors')
    assert load_tree(state)['done'] - int(found[1]) in (0, 1), 'one more if it was about to be saved'

    code, out, err = finish(torchrun('--resume'))
    assert code == 0, err
    assert out.count('folder') == out.count('best ') == 1, 'the other process says nothing'
    from locallearning.lab.trainings import resolve_training, run_training
    alone = run_training(resolve_training(**WORDS), tmp_path/'one')
    assert json.loads((tmp_path/'two'/'config.json').read_text()) == json.loads((tmp_path/'one'/'config.json').read_text())
    one, two = (load_model(tmp_path/d/'models'/'best.safetensors') for d in ('one', 'two'))
    torch.testing.assert_close(two.hidden.weight, one.hidden.weight, rtol=0, atol=1e-5)
    assert sorted(p.name for p in (tmp_path/'two'/'models').iterdir()) == sorted(p.name for p in (tmp_path/'one'/'models').iterdir())
    assert alone['pretrain']['units'] == 20


@pytest.mark.parametrize('rank', ['0', '1'])
@pytest.mark.parametrize('words, message', [(['reproduce'], 'start locallearning reproduce once, with --jobs for several units at once'),
                                            (['evaluate', 'x'], '2 processes for evaluate: torchrun is for train alone; start locallearning evaluate once')])
def test_other_commands_are_not_for_torchrun(monkeypatch, capsys, words, message, rank):
    for k, v in dict(RANK=rank, WORLD_SIZE='2', MASTER_ADDR='127.0.0.1').items(): monkeypatch.setenv(k, v)
    with in_process(monkeypatch, capsys) as run: code, out, err = run(*words)
    assert code == 2 and out == '' and (message in err if rank == '0' else err == ''), 'said once'
