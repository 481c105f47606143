"""The commands `evaluate` and `probe`, as words in, files and one message out."""
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from command import environment, in_process, widest
from locallearning.command.examine import aligned, evaluation_text, parse_bounds, parse_grid, parse_numbers
from locallearning.core import InputError
from locallearning.data import load
from locallearning.hebbian.model import KHModel
from locallearning.models import SHLP
from locallearning.robustness.curves import accuracy_curve
from locallearning.state import save_checkpoint, seeded
from locallearning.training import fit

FOREIGN = '''
from torch import nn
class Conv(nn.Module):
    def __init__(self, channels=4, num_classes=10, ending=None):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, channels, 5, stride=3), nn.ReLU(), nn.Flatten())
        self.fc = nn.Linear(channels*64, num_classes)
        self.ending = nn.Softmax(1) if ending == 'softmax' else nn.Identity()
    def forward(self, x): return self.ending(self.fc(self.body(x)))
class Pair(Conv):
    def forward(self, x): return super().forward(x), x
def nothing(): return {}
'''


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "What a stranger has: two checkpoints of ours, a module with weights, an odd file."
    folder, data = tmp_path_factory.mktemp('stranger'), load('mnist5k(600)')
    with seeded(0, 'init'): bp, kh = SHLP(784, 40), KHModel(784, 30, layer='prototypes', prune=False, n=2)
    fit(bp, data, epochs=3)
    lp = data.in_space('lp_unit', p=3)
    kh.pretrain(lp); fit(kh, lp, epochs=6, lr=.01)
    save_checkpoint(folder/'bp'/'models'/'best.safetensors', bp)
    save_checkpoint(folder/'kh.safetensors', kh, lp.space)
    (folder/'strangers_net.py').write_text(FOREIGN)
    sys.path.insert(0, str(folder))
    import strangers_net
    with seeded(0, 'init'): conv = strangers_net.Conv()
    fit(conv, data, epochs=3)
    torch.save({'epoch': 3, 'state_dict': {f'module.{k}': v for k, v in conv.state_dict().items()}}, folder/'conv.pth')
    torch.save(conv, folder/'whole.pth')
    yield folder
    sys.path.remove(str(folder))


@pytest.fixture
def call(monkeypatch, capsys, folder, tmp_path):
    "The command in this process and the stranger's folder: exit code, output, errors."
    monkeypatch.setenv('LOCALLEARNING_RUNS', str(tmp_path))
    monkeypatch.chdir(folder)
    with in_process(monkeypatch, capsys) as run: yield run


CONV = ['--model', 'strangers_net:Conv', '--weights', 'conv.pth']


# --- evaluate

def test_models_of_every_kind_are_evaluated_side_by_side(call, tmp_path):
    code, out, err = call('evaluate', 'bp', 'kh.safetensors', *CONV, '--n', 50, '--eps', '0,8/255,.1', '--attack', 'PGD(steps=3)', '--attack', 'FGSM()', '--no-critical', '--device', 'cpu', '--out', tmp_path/'out')
    assert code == 0 and err == '' and widest(out) <= 110
    rows = [line.split()[0] for line in out.splitlines() if line.startswith('  ')]
    assert rows == ['model', 'bp', 'relative', 'kh', 'relative', 'conv', 'relative']*3 and '0.0314' in out
    assert out.splitlines()[2:26:8] == ['PGD(steps=3)', 'FGSM()', 'worst case'] and 'critical:' not in out and 'x/255' not in out
    assert sorted(p.name for p in (tmp_path/'out'/'figures').iterdir()) == ['evaluation.pdf', 'evaluation.png', 'evaluation.svg']
    frame = pd.read_csv(tmp_path/'out'/'results'/'measurements.csv')
    assert set(frame.model) == {'bp', 'kh', 'conv'} and set(frame.probe) == {'accuracy_curve', 'worst_case'} and set(frame.space) == {'pixel'}
    assert (tmp_path/'out'/'manifest-evaluate.json').is_file() and len(list((tmp_path/'out'/'results').glob('worst_case-*.csv'))) == 3


def test_the_same_request_finds_its_parts_and_another_has_another_folder(call, tmp_path, monkeypatch):
    first = call('evaluate', 'bp', '--n', 20, '--eps', .05, '--device', 'cpu')
    monkeypatch.setattr('locallearning.robustness.instruments.accuracy_curve', lambda *a, **k: pytest.fail('measured again'))
    assert call('evaluate', 'bp', '--n', 20, '--eps', .05, '--device', 'cpu') == first and first[0] == 0
    monkeypatch.setattr('locallearning.robustness.instruments.accuracy_curve', accuracy_curve)
    assert call('evaluate', 'bp', '--n', 20, '--eps', .06, '--device', 'cpu')[0] == 0
    assert [p.name.rpartition('-')[0] for p in (tmp_path/'evaluate').iterdir()] == ['bp-mnist5k']*2


def test_the_standard_set_with_a_surrogate(call, tmp_path):
    code, out, err = call('evaluate', 'bp', *CONV, '--attack', 'standard(steps=2, restarts=1, queries=10, targets=2)', '--surrogate', 'bp', '--n', 30, '--eps', '.02,.1', '--device', 'cpu', '--out', tmp_path)
    assert code == 0 and out.splitlines()[2] == 'worst case'
    attacks = {m: pd.read_csv(tmp_path/'results'/f'worst_case-{m}.csv').attack.str.partition('(')[0].unique().tolist() for m in ('bp', 'conv')}
    assert attacks == dict(bp=['PGD', 'APGD', 'Square'], conv=['PGD', 'APGD', 'Square', 'Transfer'])


def test_examples_of_one_model_are_tried_on_others(call, tmp_path):
    code, out, err = call('evaluate', 'bp', '--attack', 'FGSM()', '--eps', '0,.1', '--n', 40, '--save-examples', tmp_path/'bp.safetensors', '--device', 'cpu', '--no-critical')
    assert code == 0 and out.splitlines()[-1].endswith('bp.safetensors: 1 radii × 40 images')
    code, moved, err = call('evaluate', 'bp', 'kh.safetensors', *CONV, '--examples', tmp_path/'bp.safetensors', '--device', 'cpu')
    own = [line for line in out.splitlines() if line.startswith('  bp')]
    assert code == 0 and 'FGSM() on bp' in moved and own[0] in moved.splitlines()
    code, _, err = call('evaluate', 'bp', '--examples', tmp_path/'bp.safetensors', '--data', 'mnist5k(test=30)')
    assert code == 2 and err.startswith('error: the examples are of other images, 40 of mnist5k')
    code, _, err = call('evaluate', 'kh.safetensors', '--examples', tmp_path/'bp.safetensors', '--space', 'lp_unit(p=3)')
    assert code == 2 and err.startswith("error: the examples are of mnist5k in space 'pixel'")


def test_a_model_of_unit_images_can_be_measured_in_its_own_space(call, tmp_path):
    code, out, err = call('evaluate', 'kh.safetensors', '--space', 'lp_unit(p=3)', '--n', 20, '--eps', '0,.01', '--no-critical', '--device', 'cpu', '--out', tmp_path)
    frame = pd.read_csv(tmp_path/'results'/'measurements.csv')
    assert code == 0 and set(frame.space) == {'lp_unit(p=3)'}
    [steps] = frame[frame.quantity == 'eps_in_255ths'].value
    lines = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.startswith('  ')}
    assert 255 < steps < 2550 and lines['x/255'] == [f'{.01*steps:.3g}'] and 'x/255: the radius in 255ths' in out
    clean, hit = map(float, lines['kh'])
    assert float(lines['relative'][0]) == pytest.approx(hit/clean, abs=2e-3)


def test_an_attack_that_leaves_the_box_is_said_to_and_the_rest_is_measured(call, tmp_path):
    attacks = [w for a in ('PublishedPGD(steps=2)', 'FGSM()', 'PGD(steps=2)') for w in ('--attack', a)]
    code, out, err = call('evaluate', 'kh.safetensors', '--space', 'lp_unit(p=3)', *attacks, '--n', 20, '--eps', '0,.02', '--no-critical', '--device', 'cpu', '--out', tmp_path)
    assert code == 0 and err == '' and '† kh under PublishedPGD(steps=2): leaves ball or box' in out, err
    assert '† what leaves ball or box proves nothing; such an attack is left out of the worst case' in out
    assert 'PublishedPGD' not in (tmp_path/'results'/'worst_case-kh.csv').read_text()


def test_a_softmax_is_left_out_by_its_layer_and_a_scaling_goes_in_front(call, tmp_path):
    how = ['--n', 20, '--eps', '0', '--no-critical', '--device', 'cpu', '--out', tmp_path, '--weights', 'conv.pth']
    plain, cut = (call('evaluate', *how, '--model', *model) for model in (["strangers_net:Conv"], ["strangers_net:Conv(ending='softmax')", '--layer', 'fc']))
    assert plain == cut and plain[0] == 0
    scaled = call('evaluate', *how, '--model', 'strangers_net:Conv', '--normalize', '-.5', '.1')
    assert scaled[0] == 0 and scaled[1] != plain[1]


# --- probe

@pytest.mark.parametrize('kind, options', [('spectrum(window=[2, 20])', []), ('jacobian', ['--n', 5, '--layer', 'logits']), ('LandscapeProbe(extents=[2], size=3)', ['--n', 1, '--layer', 'logits']), ('weights', []), ('bounds(eps=1., steps=2)', ['--n', 10])])
def test_models_of_every_kind_are_probed_side_by_side(call, tmp_path, kind, options):
    code, out, err = call('probe', 'bp', 'kh.safetensors', *CONV, kind, *options, '--device', 'cpu', '--out', tmp_path)
    kind = kind.partition('(')[0].removesuffix('Probe').lower()
    assert code == 0 and err == '' and widest(out) <= 110 and out.startswith(f'{kind}, test images of mnist5k in space pixel\n')
    frame = pd.read_csv(tmp_path/'results'/'measurements.csv')
    assert set(frame.model) == {'bp', 'kh', 'conv'} and set(frame.probe) == {kind}
    assert {p.suffix for p in (tmp_path/'figures').glob(f'{kind}.*')} == {'.png', '.pdf', '.svg'}


def test_a_slope_that_is_no_power_law_is_called_so(call, tmp_path):
    code, out, err = call('probe', 'bp', 'kh.safetensors', 'spectrum(window=[0, 30])', '--layer', 'hidden', '--device', 'cpu', '--out', tmp_path)
    frame = pd.read_csv(tmp_path/'results'/'measurements.csv').set_index(['model', 'quantity']).value
    bent = [m for m in ('bp', 'kh') if frame[m, 'r2'] < .98]
    assert code == 0 and bent and widest(out) <= 110
    for m in ('bp', 'kh'):
        note = f'† {m}: mean slope {frame[m, "exponent"]:.4g}, no power law (R² {frame[m, "r2"]:.4g} < 0.98)'
        assert (note in out) == (m in bent), out
    assert call('probe', 'bp', 'jacobian', '--n', 5, '--device', 'cpu', '--out', tmp_path/'other')[1].count('†') == 0


def test_looks_of_several_kinds_share_a_folder(call, tmp_path):
    for kind in ('weights', 'spectrum'): assert call('probe', 'bp', kind, '--device', 'cpu', '--out', tmp_path)[0] == 0
    assert set(pd.read_csv(tmp_path/'results'/'measurements.csv').probe) == {'weights', 'spectrum'}


def test_an_untrained_model_is_said_to_be_one(call, tmp_path):
    code, out, err = call('probe', '--model', 'SHLP(width=20)', 'weights', '--device', 'cpu', '--out', tmp_path)
    assert code == 0 and err == 'no --weights: SHLP is examined as it is made\n' and ' SHLP ' in out


# --- bad input: one message, exit code 2

BAD = {
    'nothing to look at; name a checkpoint': ['evaluate'],
    'no checkpoint nope.safetensors': ['evaluate', 'nope.safetensors'],
    'no checkpoint nope;': ['evaluate', 'bp', '--surrogate', 'nope'],
    'is no checkpoint of locallearning; if it holds weights, name the model': ['evaluate', 'conv.pth'],
    'is given 2 times; give it once': ['evaluate', 'bp', 'bp'],
    "unknown piece 'PDG'; did you mean 'PGD'": ['evaluate', 'bp', '--attack', 'PDG()'],
    "PGD has no field 'stesp'; did you mean 'steps'": ['evaluate', 'bp', '--attack', 'PGD(stesp=3)'],
    'Jacobian(1.) is a Jacobian, not an attack': ['evaluate', 'bp', '--attack', 'Jacobian(1.)'],
    "has no field 'norms'; did you mean 'norm'": ['evaluate', 'bp', '--attack', 'standard(norms=2)'],
    '--eps 0;1: write numbers with commas': ['evaluate', 'bp', '--eps', '0;1'],
    'the radii of a grid ascend': ['evaluate', 'bp', '--eps', '.1,.01'],
    '--grid says all radii; leave out --eps': ['evaluate', 'bp', '--eps', '0', '--grid', 'linspace(0, 1, 3)'],
    "no grid 'logspce'; did you mean 'logspace'": ['evaluate', 'bp', '--grid', 'logspce(-3, -1, 3)'],
    'images lie in [0, 1], outside their bounds [0, 0.5]': ['evaluate', 'bp', '--bounds', '0,.5'],
    '--bounds 1,0: two numbers are needed, the lower one first': ['evaluate', 'bp', '--bounds', '1,0'],
    'the norm is None; must be a number ≥ 1, as in lp_unit(p=3)': ['evaluate', 'bp', '--space', 'lp_unit'],
    "unknown space 'pixels'; did you mean 'pixel'": ['evaluate', 'bp', '--space', 'pixels'],
    "bp was trained on images in space 'pixel', these are in 'lp_unit(p=3)'": ['evaluate', 'bp', '--space', 'lp_unit(p=3)'],
    'contradict each other; give the space once': ['evaluate', 'kh.safetensors', '--data', "mnist5k(space='lp_unit(p=3)')", '--space', 'pixel'],
    "of the name 'mnist6k'; did you mean 'mnist5k'": ['evaluate', 'bp', '--data', 'mnist6k'],
    '--n 0: a number of images ≥ 1': ['evaluate', 'bp', '--n', '0'],
    "Invalid value for '--batch-size'": ['evaluate', 'bp', '--batch-size', '0'],
    "no module 'nomodule'": ['evaluate', 'bp', '--import', 'nomodule'],
    'a checkpoint says itself what it is; leave out --weights': ['evaluate', 'bp', '--weights', 'conv.pth'],
    'a checkpoint says itself what it is; leave out --normalize': ['probe', 'bp', 'spectrum', '--normalize', '0', '1'],
    '--save-examples keeps the images of one model under one attack': ['evaluate', 'bp', 'kh.safetensors', '--save-examples', 'x'],
    '--examples brings images, attack and radii; leave out --attack, --n': ['evaluate', 'bp', '--examples', 'x', '--attack', 'PGD()', '--n', '3'],
    'no file of examples nope': ['evaluate', 'bp', '--examples', 'nope'],
    'bp/models/best.safetensors holds no examples': ['evaluate', 'bp', '--examples', 'bp/models/best.safetensors'],
    "no module 'strangers_nett'": ['evaluate', '--model', 'strangers_nett:Conv'],
    "module strangers_net has no 'Cnov'; did you mean 'Conv'": ['probe', '--model', 'strangers_net:Cnov', 'spectrum'],
    'strangers_net:nothing is a dict, not a model; a torch.nn.Module that returns logits is needed': ['evaluate', '--model', 'strangers_net:nothing'],
    "Conv has no field 'chanels'; did you mean 'channels'": ['evaluate', '--model', 'strangers_net:Conv(chanels=2)'],
    "'body.0.weight' has shape (4, 1, 5, 5), in Conv it is (6, 1, 5, 5)": ['evaluate', '--model', 'strangers_net:Conv(channels=6)', '--weights', 'conv.pth'],
    'no file of weights nope.pth': ['evaluate', '--model', 'strangers_net:Conv', '--weights', 'nope.pth'],
    'whole.pth holds more than tensors': ['evaluate', '--model', 'strangers_net:Conv', '--weights', 'whole.pth'],
    "'hidden.weight' has shape (40, 784), the model has (30, 784); build SHLP(in_features=784, width=40)": ['evaluate', '--model', 'SHLP(width=30)', '--weights', 'bp/models/best.safetensors'],
    'holds a locallearning.hebbian.model.KHModel, not a SHLP': ['probe', '--model', 'SHLP(width=30)', '--weights', 'kh.safetensors', 'spectrum'],
    'returns shape (100, 7) for 100 images of 10 classes': ['evaluate', '--model', 'strangers_net:Conv(num_classes=7)'],
    'conv returns probabilities (no entry below 0, rows sum to 1)': ['evaluate', '--model', "strangers_net:Conv(ending='softmax')", '--weights', 'conv.pth'],
    'conv returns probabilities': ['probe', '--model', "strangers_net:Conv(ending='softmax')", '--weights', 'conv.pth', 'landscape'],
    'conv returns a tuple; a tensor of logits is needed': ['evaluate', '--model', 'strangers_net:Pair', '--weights', 'conv.pth'],
    '--normalize .1,.2 .3,.3: the images have 1 channel;': ['evaluate', *CONV, '--normalize', '.1,.2', '.3,.3'],
    "no layer 'fcc' in Conv; did you mean 'fc'": ['evaluate', *CONV, '--layer', 'fcc'],
    "no layer 'hiden' in SHLP; did you mean 'hidden'": ['probe', 'bp', 'spectrum', '--layer', 'hiden'],
    "'spektrum' is not a probe; did you mean 'spectrum'": ['probe', 'bp', 'spektrum'],
    "'bp' is not a probe; valid: accuracy, activity, bounds, certified, classifier, convergence, critical, jacobian, landscape, lipschitzbounds": ['probe', 'bp'],
    "Missing argument 'PROBE'": ['probe'],
    "SpectrumProbe has no field 'extent'": ['probe', 'bp', 'spectrum(extent=3)'],
    "JacobianProbe has no field 'window'": ['probe', 'bp', 'jacobian(window=[1, 9])'],
    'window=[5]: two ranks are needed': ['probe', 'bp', 'spectrum(window=[5])'],
    'SHLP(4) is a SHLP, not an instrument': ['probe', 'bp', 'SHLP(4)'],
    '--n 0: a number ≥ 1': ['probe', 'bp', 'weights', '--n', '0'],
    'does not take images of shape (1, 28, 28)': ['probe', '--model', 'torch.nn:Linear(3, 10)', 'spectrum'],
}


@pytest.mark.parametrize('message', BAD)
def test_bad_input_is_one_message(call, message):
    code, out, err = call(*BAD[message])
    *notes, last = err.splitlines()
    assert code == 2 and out == '' and last.startswith('error: ') and message in last and all(n.startswith('no --weights') for n in notes), err


# --- it answers at once

NO_TORCH = "import sys; from locallearning.command.app import main; sys.argv = ['locallearning', *sys.argv[1:]]\ntry: main()\nfinally: print('heavy', *sorted({'torch', 'numpy', 'matplotlib', 'pandas'} & set(sys.modules)))"


@pytest.mark.parametrize('args', [['evaluate', '--help'], ['probe', 'bp', 'spektrum'], ['evaluate', 'bp', '--eps', '0;1']], ids=' '.join)
def test_no_torch_for_help_and_wrong_words(args):
    done = subprocess.run([sys.executable, '-c', NO_TORCH, *args], env=environment(), capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == 'heavy', done.stderr


@pytest.mark.parametrize('command', ['evaluate', 'probe'])
def test_help_says_every_default_in_the_same_words(call, command):
    code, out, err = call(command, '--help')
    assert code == 0 and '[default' not in out and '<str>' not in out.partition('Options:')[2] and ' '.join(out.split()).count('; default: ') >= 7


def test_the_last_word_of_probe_is_the_kind(call):
    code, out, err = call('probe', '--help')
    assert re.search(r' \[CHECKPOINT\]\.\.\. \{?PROBE\}?$', out.splitlines()[0]) and all(k in out for k in ('spectrum', 'jacobian', 'landscape', 'weights'))


# --- words and tables

def test_numbers_grids_and_bounds():
    assert parse_numbers('0,.01,8/255', '--eps') == [0, .01, 8/255] and parse_bounds('none') == (-np.inf, np.inf)
    assert np.allclose(parse_grid('logspace(-3, -0.5, 20)'), np.logspace(-3, -.5, 20)) and np.allclose(parse_grid('geomspace(.001, 1, 4)'), [.001, .01, .1, 1])
    for text in ('logspace(-3, 0)', 'linspace(0, 1, 2.5)', 'linspace(0, 1, num=3)', 'geomspace(0, 1, 3)', 'linspace(0, 1, 0)', "linspace('a', 1, 3)"):
        with pytest.raises(InputError, match='--grid'): parse_grid(text)
    for text in ('1/0', '', 'a/b', '1,,2'):
        with pytest.raises(InputError, match='--eps'): parse_numbers(text, '--eps')


def test_columns_are_aligned_and_what_no_row_has_is_left_out():
    assert aligned([dict(model='a', x=1.5, y=float('nan')), dict(model='bcd', x=float('nan'), y=float('nan'))]) == ['  model     x', '  a       1.5', '  bcd       –']


def test_a_row_may_lack_a_column_be_it_the_first_or_the_last():
    assert aligned([dict(model='a', x=1.5), dict(model='b', x=2., y=3.)]) == ['  model     x   y', '  a       1.5   –', '  b         2   3']
    assert aligned([dict(model='b', x=2., y=3.), dict(model='a', x=1.5)]) == ['  model     x   y', '  b         2   3', '  a       1.5   –']


def test_of_a_fine_grid_the_first_and_last_radius_are_shown():
    frame = pd.DataFrame([dict(attack='PGD()', model='m', clean=.9, **{f'{e:.4g}': .5 for e in np.linspace(.01, .3, 30)}, flags='')])
    head = evaluation_text(frame).splitlines()[1].split()
    assert head[0:3] == ['model', 'clean', '0.01'] and head[-1] == '0.3' and len(head) == 7
