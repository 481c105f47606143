"""The command: words in, exit codes and one message out. What it does with notebooks is in test_runner."""
import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from command import TOY, environment, finish, in_process, start
from locallearning.lab import families
from locallearning.command.app import parse_seeds, parse_sets
from locallearning.core import InputError
from locallearning.lab.families import Parameter, data_path, experiments_root, find_family, notebook_parameters, parameters, parse_value, read_config, resolve, runs_folder


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    "The command in this process, on the toy family, where nothing may be executed: exit code, output, errors."
    monkeypatch.setenv('LOCALLEARNING_EXPERIMENTS', str(TOY))
    monkeypatch.setenv('LOCALLEARNING_RUNS', str(tmp_path/'runs'))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('locallearning.lab.reproduction.run_units', lambda units, *a: pytest.fail('a notebook would be executed'))
    with in_process(monkeypatch, capsys) as run: yield run


@pytest.fixture
def toy(monkeypatch): monkeypatch.setenv('LOCALLEARNING_EXPERIMENTS', str(TOY)); return find_family('toy')[0]


# --- it answers at once

NO_TORCH = "import sys; from locallearning.command.app import main; sys.argv = ['locallearning', *sys.argv[1:]]\ntry: main()\nfinally: print('heavy', *sorted({'torch', 'papermill', 'torchvision', 'matplotlib', 'pandas'} & set(sys.modules)))"


@pytest.mark.parametrize('args, heavy', [(['--help'], ''), (['reproduce', '--help'], ''), (['list'], ' pandas'), (['reproduce', 'toi'], ''), (['reproduce', 'toy', '--set', 'widht=3'], '')])
def test_no_torch_for_help_list_and_errors(args, heavy):
    done = subprocess.run([sys.executable, '-c', NO_TORCH, *args], env=environment(), capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == f'heavy{heavy}', done.stderr


def test_help_takes_a_fifth_of_a_second_more_than_python():
    def seconds(*args):
        def once():
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, *args], env=environment(), stdout=subprocess.DEVNULL, check=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return min(once() for _ in range(4))
    assert seconds('-m', 'locallearning.command.app', '--help') - seconds('-c', 'pass') < .2


def test_help_names_every_option(call):
    code, out, err = call('reproduce', '--help')
    assert code == 0 and err == ''
    for option in ('profile', 'data', 'data-root', 'out', 'seed', 'seeds', 'device', 'threads', 'set', 'config', 'report', 'force', 'jobs', 'scheduler', 'shard', 'accept-stale'): assert f'--{option} ' in out, option
    assert '[FAMILY|FAMILY/NAME|all]...' in out
    code, out, err = call('--help')
    assert code == 0 and 'reproduce' in out and 'list' in out


# --- bad input: one message, exit code 2

BAD = {
    "no family 'toi'; did you mean 'toy'": ['reproduce', 'toi'],
    "family toy has no experiment 'tyo'; did you mean 'toy'": ['reproduce', 'toy/tyo'],
    "family toy has no profile 'qiuck'; did you mean 'quick'": ['reproduce', 'toy', '--profile', 'qiuck'],
    "family toy has no profile 'paper'; valid: quick, smoke": ['reproduce', 'toy', '--profile', 'paper'],
    "toy has no parameter 'widht'; did you mean 'width'": ['reproduce', 'toy', '--set', 'widht=3'],
    "width='wide': a value of type int is needed, such as 8 (hidden units)": ['reproduce', 'toy', '--set', 'width=wide'],
    "width=2.5: a value of type int": ['reproduce', 'toy', '--set', 'width=2.5'],
    "toy has no model 'nte'; did you mean 'net'": ['reproduce', 'toy', '--set', "models=['nte']"],
    '--set width: write --set NAME=VALUE': ['reproduce', 'toy', '--set', 'width'],
    'seed is not a parameter to be set by hand; use --seed': ['reproduce', 'toy', '--set', 'seed=3'],
    'device is not a parameter to be set by hand; use --device': ['reproduce', 'toy', '--set', 'device=cpu'],
    '--seeds 0;1: write whole numbers with commas, such as 0,1,2': ['reproduce', 'toy', '--seeds', '0;1'],
    '--seed 1 and --seeds 0,2 contradict each other': ['reproduce', 'toy', '--seed', '1', '--seeds', '0,2'],
    "Invalid value for '--seed'": ['reproduce', 'toy', '--seed', 'one'],
    'threads=-1: a number ≥ 0': ['reproduce', 'toy', '--threads', '-1'],
    '--config is a whole request; leave out names': ['reproduce', 'toy', '--config', 'x.json'],
    '--config is a whole request; leave out names, --profile': ['reproduce', '--profile', 'quick', '--config', 'x.json'],
    'no configuration at x.json; each run writes its own as config.json': ['reproduce', '--config', 'x.json'],
    '--shard 0/2: write I/N with 1 ≤ I ≤ N': ['reproduce', 'toy', '--shard', '0/2'],
    '--shard 3/2: write I/N': ['reproduce', 'toy', '--shard', '3/2'],
    '--shard a: write I/N': ['reproduce', 'toy', '--shard', 'a'],
    '--shard 1/2: profile quick runs all models at once': ['reproduce', 'toy', '--shard', '1/2'],
    '--jobs 0: a number ≥ 1 is needed': ['reproduce', 'toy', '--jobs', '0'],
    '--jobs 2 and --scheduler tcp://a:1: give one of them': ['reproduce', 'toy', '--jobs', '2', '--scheduler', 'tcp://a:1'],
    '--scheduler 8786: ': ['reproduce', 'toy', '--scheduler', '8786'],
    'No such option: --seedz': ['reproduce', '--seedz', '3'],
    "No such command 'reprodcue'": ['reprodcue'],
}


@pytest.mark.parametrize('message', BAD)
def test_bad_input_is_one_message(call, message):
    code, out, err = call(*BAD[message])
    assert code == 2 and out == '' and err.startswith('error: ') and message in err and len(err.splitlines()) == 1, err


def test_an_unwritable_folder_is_named_before_anything_runs(call, tmp_path):
    (tmp_path/'file').write_text('')
    code, out, err = call('reproduce', 'toy', '--out', tmp_path/'file'/'out')
    assert code == 2 and err.startswith(f'error: cannot write {tmp_path}/file/out/toy/') and 'choose a folder that is writable' in err and len(err.splitlines()) == 1


def test_without_a_command_the_help_is_shown(call):
    code, out, err = call()
    assert code == 2 and (out + err).startswith('Usage: ') and 'reproduce' in out + err


def test_other_errors_are_exit_code_1(call, monkeypatch):
    monkeypatch.setattr('locallearning.lab.reproduction.run_units', lambda *a: (_ for _ in ()).throw(RuntimeError('the disk is on fire')))
    assert call('reproduce', 'toy') == (1, '', 'failed: the disk is on fire\n')


def test_an_interrupt_is_130(call, monkeypatch):
    def interrupt(*a): raise KeyboardInterrupt
    monkeypatch.setattr('locallearning.lab.reproduction.run_units', interrupt)
    code, out, err = call('reproduce', 'toy')
    assert code == 130 and err.strip() == 'interrupted; run the same command again to go on'


def test_families_folder_that_is_not_there(call, monkeypatch):
    monkeypatch.setenv('LOCALLEARNING_EXPERIMENTS', 'nowhere')
    code, _, err = call('list')
    assert code == 2 and 'LOCALLEARNING_EXPERIMENTS=nowhere: no such folder' in err


def test_bad_input_is_one_message_also_when_it_arises_inside_a_notebook(tmp_path):
    "The family that ships, as a user would get it wrong; the commands run side by side."
    import torch
    missing = 'mps' if torch.cuda.is_available() else 'cuda'
    wrong = {f"device '{missing}' was asked for, but this machine has no {missing}; use auto or cpu": ['--device', missing],
             "no data set, and no .npz, folder or .tar[.gz], of the name 'mnist6k'; did you mean 'mnist5k'": ['--data', 'mnist6k']}
    runs = {m: start('reproduce', 'hebbian/01', '--profile', 'smoke', '--out', tmp_path, *args, LOCALLEARNING_EXPERIMENTS='') for m, args in wrong.items()}
    for message, process in runs.items():
        code, out, err = finish(process)
        assert code == 2 and out == '' and err.startswith('error: ') and message in err and 'Traceback' not in err, err
        assert err.splitlines()[-1].startswith('  in hebbian/01_kh_layer, cell ') and len(err.splitlines()) == 2


# --- words

def test_sets_and_seeds():
    assert parse_sets(['a=1', 'b=x=y', 'c=']) == dict(a='1', b='x=y', c='') and parse_sets([]) == {}
    assert parse_seeds(None, None) is None and parse_seeds(0, None) == [0] and parse_seeds(None, '2,0') == [2, 0]


@pytest.mark.parametrize('kind, text, value', [
    ('int', '7', 7), ('float', '7', 7), ('float', '1e-3', 1e-3), ('float', '-.5', -.5), ('str', '7', '7'), ('str', '', ''), ('bool', 'True', True), ('bool', 'False', False),
    ('list', '[1, 2]', [1, 2]), ('list', '(1,)', [1]), ('list', '[]', []), ('int', 7, 7), ('list', ('a',), ['a'])])
def test_values_take_the_type_of_their_parameter(kind, text, value):
    got = parse_value(Parameter('p', kind, None, ''), text)
    assert got == value and type(got) is type(value)


@pytest.mark.parametrize('kind, text', [('int', '7.5'), ('int', 'True'), ('int', ''), ('float', 'x'), ('float', 'False'), ('bool', '1'), ('bool', 'yes'), ('list', '3'), ('list', 'a,b'), ('str', 3)])
def test_values_of_another_type_are_refused(kind, text):
    with pytest.raises(InputError, match=rf"p=.*{text}.*: a value of type {kind} is needed, such as 'd' \(what it is\)"): parse_value(Parameter('p', kind, 'd', 'what it is'), text)


# --- families and configurations

def test_experiments_are_found_by_number_name_and_stem(toy):
    for name in ('toy', 'toy/01', 'toy/toy', 'toy/01_toy'): assert find_family(name) == (toy, ['01_toy'])
    assert list(toy.profiles) == ['smoke', 'quick'] and toy.title == 'A toy, for the tests of the command'


def test_the_families_of_the_checkout_are_found_without_a_setting(monkeypatch):
    monkeypatch.delenv('LOCALLEARNING_EXPERIMENTS', raising=False)
    assert experiments_root() == Path(families.__file__).parents[2]/'nbs'/'experiments' and 'hebbian' in families.families()


def test_parameters_are_read_with_type_value_and_help(toy):
    found = notebook_parameters(toy.notebooks['01_toy'])
    assert found['data'] == Parameter('data', 'str', 'mnist5k(per_class=4, test=40)', 'data set') and list(found)[:3] == ['seed', 'models', 'data']


def test_a_parameter_that_two_notebooks_see_differently_is_an_error(tmp_path):
    for name, value in (('01_a', 1), ('02_b', 2)):
        (tmp_path/f'{name}.ipynb').write_text(json.dumps(dict(cells=[dict(cell_type='code', metadata=dict(tags=['parameters']), source=f'width: int = {value}  # w')])))
    family = families.Family('toy', tmp_path, {n: tmp_path/f'{n}.ipynb' for n in ('01_a', '02_b')}, {})
    with pytest.raises(InputError, match="parameter 'width' of 02_b .* make them equal"): parameters(family)


def test_a_damaged_family_toml_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv('LOCALLEARNING_EXPERIMENTS', str(tmp_path))
    (tmp_path/'x').mkdir()
    for text, message in {'[family': 'family.toml: ', '[models]': r'family.toml: a \[family\] with a title is needed'}.items():
        (tmp_path/'x'/'family.toml').write_text(text)
        with pytest.raises(InputError, match=message): find_family('x')


def test_what_is_set_by_hand_wins_over_the_profile_and_that_over_the_notebook(toy):
    config = resolve(toy, ['01_toy'], 'quick', sets=dict(width='9'))
    assert (config.params['width'], config.params['epochs'], config.params['fail']) == (9, 4, '') and config.seeds == [0, 1] and config.overrides == dict(width=9)
    assert resolve(toy, ['01_toy'], 'smoke').params['epochs'] == 3 and resolve(toy, ['01_toy'], 'smoke').seeds == [0]
    assert resolve(toy, [], seeds=[3, 1, 3]).seeds == [3, 1]


def test_what_is_set_by_hand_names_the_folder(toy):
    name = lambda **k: resolve(toy, [], **k).folder.name
    assert name() == 'quick-mnist5k-per-class-4-test-40' == name(sets=dict(width='8', epochs='4')) == name(seeds=[5]) == name(sets=dict(models="['net']")), 'what changes nothing does not'
    assert name(data='mnist5k') == 'quick-mnist5k' and len({name(sets=dict(width=w)) for w in '123'}) == 3


def test_paths_to_data_are_absolute_and_show_no_folder_of_the_machine(toy, tmp_path, monkeypatch):
    (tmp_path/'faces.npz').write_text('')
    monkeypatch.chdir(tmp_path)
    for text in ('faces.npz', './faces.npz', str(tmp_path/'faces.npz')):
        config = resolve(toy, [], data=f'{text}(per_class=3)')
        assert Path(config.params['data'].partition('(')[0]).samefile(tmp_path/'faces.npz') and Path(config.params['data']).is_absolute() and config.params['data'].endswith('(per_class=3)')
        assert tmp_path.name not in config.folder.name and config.folder.name.startswith('quick-faces-')
    (tmp_path/'mnist5k').mkdir()
    assert data_path('mnist5k') == (None, ''), 'a data set wins over a folder of its name'


def test_a_configuration_comes_back_as_it_was(toy, tmp_path):
    config = resolve(toy, ['01_toy'], sets=dict(width='9', models="['net']"), seeds=[2], device='cpu', threads=2, data_root='/d')
    (tmp_path/'c.json').write_text(config.to_json())
    assert read_config(tmp_path/'c.json') == config


@pytest.mark.parametrize('change, message', [
    (dict(family='toi'), "did you mean 'toy'"), (dict(experiments=['02_toy']), "no experiment '02_toy'; did you mean '01_toy'"), (dict(params=dict(widht=3)), "no parameter 'widht'"),
    (dict(sedes=[1]), 'is not the configuration of a run')])
def test_a_configuration_that_names_what_does_not_exist_is_refused(toy, tmp_path, change, message):
    config = json.loads(resolve(toy, ['01_toy']).to_json())
    (tmp_path/'c.json').write_text(json.dumps(config | change))
    with pytest.raises(InputError, match=message): read_config(tmp_path/'c.json')


def test_a_file_that_is_no_configuration_is_refused(toy, tmp_path):
    for text in ('', '{', '[]', '3', '{}'):
        (tmp_path/'c.json').write_text(text)
        with pytest.raises(InputError, match='is not the configuration of a run'): read_config(tmp_path/'c.json')


def test_results_never_go_into_the_notebooks(monkeypatch, tmp_path):
    monkeypatch.delenv('LOCALLEARNING_RUNS', raising=False)
    root = Path(families.__file__).parents[2]
    monkeypatch.chdir(root/'nbs')
    assert runs_folder() == root/'runs'
    monkeypatch.chdir(tmp_path)
    assert runs_folder() == tmp_path/'runs' and runs_folder('x') == tmp_path/'x'
    monkeypatch.setenv('LOCALLEARNING_RUNS', str(tmp_path/'y'))
    assert runs_folder() == tmp_path/'y' and runs_folder('x') == tmp_path/'x'
