"""A family that nobody has heard of: a shelf, an experiment, a benchmark, a page, lines in table and sidebar. Every command knows it.

It is added to a copy of the checkout, in which no file of `examine`, `lab` and `command` is touched. Its experiment measures with the
instruments that `evaluate` and `probe` use, so these find what it has measured and compute nothing."""
import filecmp
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parent.parent

SHELF = '''
#| default_exp mean.net
---md
# A family of means

> A network that looks at the mean of each quarter, and a probe that says how bright it finds the world.
---
#| export
from typing import NamedTuple
import torch.nn.functional as F
from torch import nn
from locallearning.instruments import Instrument,Number,as_subject,test_images
from locallearning.recipes import Piece
---
#| export
class MeanNet(Piece, nn.Module):
    "A linear readout of the means over a few patches."
    def __init__(self, patches=4, classes=10):
        super().__init__()
        self.patches,self.classes = patches,classes
        self.readout = nn.Linear(patches**2, classes)
    def forward(self, x): return self.readout(F.adaptive_avg_pool2d(x, self.patches).flatten(1))
---
#| export
class Light(NamedTuple):
    "How bright images are to a model."
    mean:float
---
#| export
class LightProbe(Instrument):
    "Mean of the patches that a `MeanNet` sees."
    probe = 'light'
    def measure(self, subject, data, *, seed=0): return Light(F.adaptive_avg_pool2d(test_images(data, 20).x, as_subject(subject).model.patches).mean().item())
    def numbers(self, result): yield Number('mean', result.mean)
'''

BENCH = '''
#| default_exp bench.mean
---md
# Timing means

> One row for the family of means.
---
#| export
import torch
from locallearning.bench.timing import Row,alternate
from locallearning.mean.net import MeanNet
---
#| export
def mean_row(scale=1., data=None)->Row:
    "A forward pass of a MeanNet beside a mean."
    net, x = MeanNet(), torch.rand(64, 1, 28, 28)
    times = alternate(repeats=3, ours=lambda: net(x), floor=lambda: x.mean())
    return Row('mean', times['ours'], floor=times['floor'])
'''

EXPERIMENT = '''
---md
# 1 · Means

> What a mean can do.
---parameters
seed: int = 0  # the sample
models: list = []  # keys of family.toml; none: all
data: str = 'mnist5k(per_class=20, test=40)'  # data set
patches: int = 4  # along a side
epochs: int = 2  # passes
profile: str = 'smoke'  # names the folder of the results
device: str = 'cpu'  # where to compute
threads: int = 0  # torch threads
data_root: str = ''  # folder of the data sets
out: str = ''  # folder of all results
folder: str = ''  # folder of these results
---
import locallearning as ll
---
exp = ll.start('mean/01_means', globals())
---
for m in exp.models:
    exp.keep(ll.AccuracyProbe(ll.FGSM(), [.02, .1], n=20), m)
    exp.keep(ll.CriticalProbe(ll.FGSM(), n=20), m)
    exp.keep(ll.LightProbe(), m)
---
exp.finish()
'''

REPORT = '''
---md
# Means: report

> What was measured of means.
---parameters
root: str = ''  # folder of reports
---
from locallearning.lab.report import *
from locallearning.lab.answers import *
---
reports = [report for found in read_reports(root)['mean'].values() for report in found]
answers_page(reports)
---
each(reports, lambda report: ledger_page(report, 'ours'))
'''

TOML = '''
[family]
title = "What a mean can do"

[models.net]
label = "mean"
color = "#1b9e77"
model = "MeanNet()"

[profiles.paper]
epochs = 1

[questions]
dark = "Is the world of digits dark?"

[[claims]]
id = "bright"
ledger = "ours"
question = "dark"
statement = "digits are mostly black"
source = "a stroke is thin"
kind = "range"
model = "net"
probe = "light"
quantity = "mean"
published = [0.0, 0.5]
'''

PAGE = '''
---md
# Means

> What a mean sees.
---
import locallearning as ll
---
assert ll.MeanNet().patches == 4
'''


def notebook(path, text):
    cells = []
    for i, part in enumerate(text.strip('\n').split('\n---')):
        head, _, body = part.partition('\n') if i or part.startswith('---') else ('', '', part)
        kind = head.strip('-')
        code = dict(outputs=[], execution_count=None) if kind != 'md' else {}
        tags = dict(tags=['parameters']) if kind == 'parameters' else {}
        cells.append(dict(cell_type='markdown' if kind == 'md' else 'code', id=f'cell{i}', metadata=tags, source=body, **code))
    kernel = dict(display_name='python3', language='python', name='python3')
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dict(cells=cells, metadata=dict(kernelspec=kernel), nbformat=4, nbformat_minor=5)))


def add_line(path, before, line):
    text = path.read_text()
    assert before in text, before
    path.write_text(text.replace(before, line + before, 1))


@pytest.fixture(scope='module')
def house(tmp_path_factory):
    "The copy with the new family, exported."
    copy = tmp_path_factory.mktemp('house')/'checkout'
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns('.*', 'runs', 'build', 'dist', '_docs', '_proc', '*.egg-info', '__pycache__', 'tests', 'reports'))
    nbs = copy/'nbs'
    notebook(nbs/'mean'/'00_net.ipynb', SHELF)
    notebook(nbs/'bench'/'90_mean.ipynb', BENCH)
    notebook(nbs/'experiments'/'mean'/'01_means.ipynb', EXPERIMENT)
    notebook(nbs/'experiments'/'mean'/'report.ipynb', REPORT)
    (nbs/'experiments'/'mean'/'family.toml').write_text(TOML)
    notebook(nbs/'learn'/'means.ipynb', PAGE)
    add_line(copy/'locallearning'/'__init__.py', "    'figures.style'", "    'mean.net': 'MeanNet Light LightProbe',\n")
    add_line(nbs/'sidebar.yml', '              - figures/00_style.ipynb', '              - mean/00_net.ipynb\n')
    run(copy, Path(sys.executable).parent/'nbdev_export')
    return copy


def run(house, *args, code=0, **env):
    env = {k: v for k, v in os.environ.items() if not k.startswith('LOCALLEARNING_')} | dict(PYTHONPATH=str(house), OMP_NUM_THREADS='1', MPLBACKEND='agg') | env
    command = [sys.executable, *args] if str(args[0]).startswith('-') else args
    done = subprocess.run([*map(str, command)], cwd=house, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == code, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout


def command(house, *args): return run(house, '-m', 'locallearning.command.app', *args, LOCALLEARNING_RUNS=str(house.parent/'runs'))


@pytest.fixture(scope='module')
def reproduced(house):
    "The words of `reproduce`, and the folder of its seed."
    said = command(house, 'reproduce', 'mean', '--profile', 'smoke', '--report', house.parent/'reports')
    folder, = (house.parent/'runs'/'mean').glob('*/seed0')
    return said, folder


def artefacts(house): return sorted(p.parent.name for p in (house.parent/'runs'/'artefacts').glob('*/value.json'))


def test_no_file_of_the_machinery_was_touched(house):
    for shelf in ('examine', 'lab', 'command'):
        names = sorted(p.relative_to(ROOT) for p in (ROOT/'nbs'/shelf).glob('*.ipynb'))
        assert names and filecmp.cmpfiles(ROOT, house, names, shallow=False)[1:] == ([], [])


def test_reproduce_and_list_know_it(house, reproduced):
    said, folder = reproduced
    assert '1 claim: 1 holds' in said and (folder/'models'/'net.safetensors').is_file()
    assert 'What a mean can do' in (shown := command(house, 'list')) and 'mean/01_means' in shown and 'smoke' in shown


def test_evaluate_and_probe_find_what_the_experiment_has_measured(house, reproduced):
    "Under the same keys: nothing is computed, and the rows are the same but for the family."
    _, folder = reproduced
    before = artefacts(house)
    model, data = folder/'models'/'net.safetensors', ['--data', 'mnist5k(per_class=20, test=40)', '--device', 'cpu']
    for words in (['evaluate', model, '--attack', 'FGSM()', '--eps', '.02,.1', '--n', '20'], ['probe', model, 'light']):
        command(house, *words, *data, '--out', house.parent/'runs'/words[0])
    assert artefacts(house) == before
    columns = ['model', 'probe', 'quantity', 'setting', 'space', 'seed', 'value', 'unit', 'flags']
    table = lambda path: pd.read_csv(path/'results'/'measurements.csv', keep_default_na=False)[columns]
    asked = pd.concat([table(house.parent/'runs'/words) for words in ('evaluate', 'probe')]).sort_values(columns, ignore_index=True)
    assert asked.equals(table(folder).sort_values(columns, ignore_index=True)) and len(asked) > 10


def test_other_settings_are_measured_anew(house, reproduced):
    _, folder = reproduced
    before = artefacts(house)
    command(house, 'probe', folder/'models'/'net.safetensors', 'jacobian', '--layer', 'logits', '--n', 5, '--data', 'mnist5k(per_class=20, test=40)', '--device', 'cpu')
    assert len(artefacts(house)) == len(before) + 1


def test_train_knows_its_presets(house):
    said = command(house, 'train', 'mean/net', '--data', 'mnist5k(per_class=20, test=40)', '--device', 'cpu', '--out', house.parent/'trained')
    assert 'MeanNet(patches=4' in said and (house.parent/'trained'/'models'/'best.safetensors').is_file()


def test_bench_finds_its_row(house):
    assert 'mean' in command(house, 'bench', '--only', 'mean', '--threads', '1')


def test_its_report_is_a_page(house, reproduced):
    code = ('from locallearning.lab.families import find_family\nfrom locallearning.lab.report import write_report\n'
            f"write_report(find_family('mean')[0], {str(house.parent/'reports')!r}, {str(house.parent/'page.ipynb')!r})")
    run(house, '-c', code)
    page = (house.parent/'page.ipynb').read_text()
    assert 'digits are mostly black' in page and '| Is the world of digits dark? | Yes: 1 holds |' in page


def test_the_front_page_leads_to_it(house, reproduced):
    code = ('from locallearning.lab.answers import write_front\n'
            f"write_front({str(house.parent/'reports')!r}, {str(house.parent/'front.ipynb')!r}, dict(mean='results/mean.ipynb'))")
    run(house, '-c', code)
    page = (house.parent/'front.ipynb').read_text()
    assert 'What a mean can do' in page and '| Is the world of digits dark? | Yes: 1 holds |' in page and '[the whole report](results/mean.ipynb)' in page and 'hebbian' not in page
