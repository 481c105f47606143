"`locallearning train` as it is typed: words in, lines and files out, exit codes."
import json
import subprocess
import sys

import pytest

from command import environment, in_process, widest
from locallearning import training
from locallearning.command.train import parse_epochs, quoted, shown

SMALL = ['--data', 'mnist5k(per_class=6, test=40)', '--model', 'SHLP(width=6)', '--epochs', '2']


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    "The command in this process, in an empty folder: exit code, output, errors."
    monkeypatch.setenv('LOCALLEARNING_RUNS', str(tmp_path/'runs'))
    monkeypatch.chdir(tmp_path)
    with in_process(monkeypatch, capsys, 'train') as run: yield run


def test_help_and_words_that_do_not_parse_need_no_torch():
    code = "import sys; from locallearning.command.app import main; sys.argv = ['locallearning', *sys.argv[1:]]\ntry: main()\nfinally: print('heavy', *sorted({'torch', 'pandas', 'matplotlib'} & set(sys.modules)))"
    for args in (['--help'], ['--snapshots', '0;1'], ['--lr', 'x']):
        done = subprocess.run([sys.executable, '-c', code, 'train', *args], env=environment(), capture_output=True, text=True)
        assert done.stdout.splitlines()[-1] == 'heavy', done.stderr


def test_help_names_every_option(call):
    code, out, err = call('--help')
    assert code == 0 and err == '' and '[PRESET]' in out
    for option in ('data', 'model', 'loss', 'penalty', 'constraint', 'parametrize', 'transform', 'optimizer', 'lr', 'schedule', 'epochs', 'batch-size', 'clip', 'valid', 'eval-every', 'snapshots', 'init', 'seed', 'device',
                   'data-root', 'out', 'resume', 'config', 'import'): assert f'--{option} ' in out, option


def test_the_lines_say_how_good_it_is_where_it_lies_and_what_is_next(call, tmp_path):
    code, out, err = call(*SMALL, '--penalty', 'Jacobian(1e-3, n=1)', '--penalty', 'Lp(5e-4)', '--transform', "Adversarial(PGD(norm='inf', steps=1), eps=.1)", '--snapshots', '0,.5')
    assert code == 0 and err == '' and widest(out) <= 110
    lines = {line.split()[0]: line[12:] for line in out.splitlines()}
    assert list(lines) == ['folder', 'model', 'data', 'best', 'last', 'checkpoint', 'figure', 'next']
    folder = tmp_path/lines['folder']
    assert folder.parent == tmp_path/'runs'/'train' and (tmp_path/lines['checkpoint']).is_file() and (tmp_path/lines['figure']).is_file() and (folder/'models'/'snapshot-0.5.safetensors').is_file()
    assert lines['model'] == 'SHLP(width=6, in_features=784, classes=10)' and lines['data'].endswith('54 images to train on, 6 held out, 40 to test')
    assert lines['next'] == f"locallearning evaluate {lines['folder']} --data 'mnist5k(per_class=6, test=40)'"
    assert json.loads((folder/'config.json').read_text())['penalties'] == ['Jacobian(1e-3, n=1)', 'Lp(5e-4)']


def test_a_hebbian_model_says_how_its_layer_came_out(call):
    code, out, err = call('--data', 'mnist5k(per_class=6, test=40)', '--model', 'KHModel(width=12, kh_epochs=2)', '--epochs', 1, '--valid', 0)
    assert code == 0 and 'pretrained  converged ' in out and 'none held out, so best is last' in ' '.join(out.split()) and out.rstrip().endswith('''--data "mnist5k(per_class=6, test=40, space='lp_unit(p=3)')"''')


def test_ctrl_c_says_how_to_go_on_and_that_goes_on(call, monkeypatch):
    with monkeypatch.context() as m:
        m.setattr(training, 'check_finite', lambda means, epoch, model: (_ for _ in ()).throw(KeyboardInterrupt) if epoch else None)
        code, out, err = call(*SMALL, '--out', 'my run')
    assert (code, err) == (130, "interrupted; go on with: locallearning train --out 'my run' --resume\n")
    code, _, err = call(*SMALL, '--out', 'my run')
    assert code == 2 and 'holds a training that was not finished; add --resume' in err
    code, out, err = call('--out', 'my run', '--resume')
    assert code == 0 and 'after 2 of 2 epochs' in out
    assert call('--out', 'my run', '--resume')[:2] == (0, out), 'what is done is only told again'


def test_a_loss_that_explodes_is_exit_code_1(call):
    code, out, err = call(*SMALL, '--optimizer', 'SGD()', '--lr', '1e30')
    assert code == 1 and err.startswith('failed: ') and 'was not finite in step' in err and 'lower the learning rate' in err and len(err.splitlines()) == 1


BAD = {
    "no preset 'hebbian/jerg'; did you mean 'hebbian/jreg'": ['hebbian/jerg'], "unknown piece 'SHPL'; did you mean 'SHLP'": ['--model', 'SHPL()'], "has no field 'widht'; did you mean 'width'": ['--model', 'SHLP(widht=3)'],
    '--lr 0.1 and --schedule Steps(.1) contradict each other': ['--lr', '.1', '--schedule', 'Steps(.1)'], '--snapshots 0;1: write epochs with commas': ['--snapshots', '0;1'],
    '--snapshots: 30 is not in 0…20': ['--snapshots', '30'], '--valid 4000 of 4000 training images': ['--valid', '4000'], "Invalid value for '--valid'": ['--valid', 'many'], '--config x.json is a whole request; leave out --lr': ['--config', 'x.json', '--lr', '1'],
    'no configuration at x.json': ['--config', 'x.json'], 'nowhere holds no training to go on with': ['--out', 'nowhere', '--resume'], 'is an attack; to train on attacked images': ['--transform', 'PGD()'],
    'no checkpoint at': ['--init', 'nowhere.safetensors'], "no module 'mine'": ['--import', 'mine'], 'unexpected extra argument': ['hebbian/kh', 'hebbian/bp'], 'No such option: --penalties': ['--penalties', 'Lp(1.)'],
}


@pytest.mark.parametrize('message', BAD)
def test_bad_input_is_one_message(call, message, tmp_path):
    code, out, err = call(*BAD[message])
    assert code == 2 and out == '' and err.startswith('error: ') and message in err and len(err.splitlines()) == 1, err
    assert not (tmp_path/'runs').exists()


def test_a_checkpoint_that_disagrees_with_the_model_is_named(call):
    assert call(*SMALL, '--out', 'a')[0] == 0
    code, _, err = call('--init', 'a', '--model', 'SHLP(width=7)', '--data', 'mnist5k(per_class=6)')
    assert code == 2 and "'hidden.weight' has shape (6, 784), the model has (7, 784); build SHLP(in_features=784, width=6)" in err


def test_words():
    assert parse_epochs(None) is None and parse_epochs('0,.125,20') == [0, .125, 20] and shown(__import__('pathlib').Path('/nowhere/x')) == '/nowhere/x'
    assert [quoted(s) for s in ('a', 'my run', "f(x='y')", "it's $HOME")] == ['a', "'my run'", '"f(x=\'y\')"', "'it'\"'\"'s $HOME'"]
