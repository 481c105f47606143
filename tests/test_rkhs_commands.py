"""The commands of the kernel paper's code: its experiments as presets, the recipes of its README in miniature, its checkpoint, and the page from its flags to ours.

The miniatures take their lines from the page, and add smaller sizes to them: what the page says is what is run."""
import re
import shlex
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import locallearning as ll
from command import in_process
from locallearning.core import InputError
from locallearning.data import Data
from locallearning.examine.subjects import foreign_subject, in_order, load_weights
from locallearning.lab import trainings
from locallearning.lab.families import families
from locallearning.lab.trainings import find_preset, preset_fields, read_plan, resolve_training, resume_training
from locallearning.probes.norms import matrix_norm
from locallearning.state import load_checkpoint
from locallearning.training import build_model

PAGE = (Path(__file__).parent.parent/'nbs'/'kernel_reg.md').read_text(encoding='utf-8')
LINES = [shlex.split(line)[1:] for block in re.findall(r'```bash\n(.*?)```', PAGE, re.S) for line in block.splitlines()]
CIFAR, DIGITS = dict(in_features=3072, in_channels=3, image_size=32, classes=10), dict(in_features=784, in_channels=1, image_size=28, classes=10)


def arrays(n, test=40, shape=(32, 32, 3)):
    "Ten classes of noisy images, each about a picture of its own."
    rng = np.random.default_rng(0)
    pictures = rng.integers(60, 196, (10, *shape))
    made = {}
    for part, count in ('train', n), ('test', test):
        y = np.arange(count) % 10
        made |= {f'x_{part}': (pictures[y] + rng.integers(-60, 60, (count, *shape))).astype(np.uint8), f'y_{part}': y}
    return made


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    path = tmp_path_factory.mktemp('photos')/'photos.npz'
    np.savez(path, **arrays(80))
    return path


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    "The command in this process, in an empty folder: exit code, output, errors."
    monkeypatch.setenv('LOCALLEARNING_RUNS', str(tmp_path/'runs'))
    monkeypatch.chdir(tmp_path)
    with in_process(monkeypatch, capsys) as run: yield run


def line(*marks):
    "The line of the page that has all these words."
    found, = [words for words in LINES if all(any(mark in word for word in words) for mark in marks)]
    return found


# --- the experiments as presets

PRESETS = dict(cifar10_vgg=(50_000, 30, .05), cifar10_resnet=(50_000, 30, .1), cifar10small5000_vgg=(5000, 40, .05), cifar10small5000_resnet=(5000, 40, .1),
               cifar10small1000_vgg=(1000, 40, .05), cifar10small1000_resnet=(1000, 40, .1), cifar10_vgg_no_aug=(50_000, 30, .05), cifar10_resnet_no_aug=(50_000, 30, .1),
               cifar10small_vgg_no_aug=(5000, 40, .05), cifar10small_resnet_no_aug=(5000, 40, .1), cifar10small1000_vgg_no_aug=(1000, 40, .05),
               cifar10small1000_resnet_no_aug=(1000, 40, .1), imnist_vggstable_aug=(60_000, 30, .05), imnist_vggstable_no_aug=(60_000, 30, .05),
               imnist1000_vggstable=(1000, 40, .05), imnist300_vggstable=(300, 40, .05))
PARAMETERS = dict(vgg=9_750_922, resnet=11_164_362, vggstable=1_553_984)


def test_the_presets_are_the_sixteen_experiments():
    assert {*families()['rkhs'].presets} == {*PRESETS} and len(PRESETS) == 16


@pytest.mark.parametrize('name', PRESETS)
def test_a_preset_is_the_setting_of_the_experiment_at_its_real_size(name):
    images, every, rate = PRESETS[name]
    preset, digits = find_preset(f'rkhs/{name}'), name.startswith('imnist')
    said = preset_fields(preset, DIGITS if digits else CIFAR)
    assert (said['optimizer'], said['epochs'], said['batch_size'], said['eval_every'], said['penalties']) == ('SGD(momentum=0.9)', 501, 128, 5, [])
    schedule = ll.build_recipe(said['lr'], epochs=501)
    assert [schedule(e) for e in (0, every - 1, every, 2*every)] == [rate, rate, rate/2, rate/4]
    moved = said.get('transforms', [])
    assert moved == ([] if 'no_aug' in name or re.match(r'imnist\d', name) else ['Deformed()'] if digits else ['CropFlip()'])
    data, options = ll.data.split_recipe(preset.params['data'])
    assert (data, options) == ('mnist' if digits else 'cifar10', {} if images >= 50_000 else dict(first=images, val=10_000))
    assert said.get('valid', 'taken from the data') == (0 if images >= 50_000 else 'taken from the data')
    net = build_model(said['model'])
    kind = next(k for k in ('vggstable', 'vgg', 'resnet') if k in name)
    assert sum(p.numel() for p in net.parameters()) == PARAMETERS[kind]


def test_a_shorter_training_keeps_the_schedule_of_the_original_unless_asked():
    said = preset_fields(find_preset('rkhs/cifar10small1000_vgg'), CIFAR, epochs=60)
    assert ll.build_recipe(said['lr'], epochs=60)(39) == .05 and ll.build_recipe(said['lr'], epochs=60)(40) == .025
    assert ll.build_recipe('StepDecay(.05, every=40, of=501)', epochs=60)(59) == .05*.5**12, 'the last rate of 501 epochs'


def test_transforms_by_flag_follow_those_of_the_preset_and_other_pieces_replace_them(photos):
    attack = 'Adversarial(PGD(norm=2, steps=1), eps=0.5)'
    words = dict(data=str(photos), model='VGG11(width=2)', epochs=1)
    plan = resolve_training('rkhs/cifar10_vgg', **words, transforms=[attack], penalties=['LossGradient(0.1)'])
    assert plan.transforms == ['CropFlip()', attack] and plan.penalties == ['LossGradient(0.1)'] and plan.valid == 0 and plan.eval_every == 5
    assert resolve_training('rkhs/cifar10_vgg_no_aug', **words, transforms=[attack]).transforms == [attack]
    assert resolve_training('rkhs/cifar10_vgg', **words, eval_every=2).eval_every == 2
    again = resume_training(plan, 'rkhs/cifar10_vgg', transforms=[attack]).plan
    assert again == plan, 'the same words go on with it'
    with pytest.raises(InputError, match=r'--transform: CropFlip\(\) Adversarial.* there, CropFlip\(\) Deformed\(\) here'): resume_training(plan, transforms=['Deformed()'])


def test_validation_images_come_from_the_training_images_and_the_full_set_has_none(monkeypatch):
    "At a hundredth of the size: the options of the preset, with their numbers divided."
    small = Data.of(**arrays(500), name='cifar10')
    def load(text, *_):
        _, options = ll.data.split_recipe(text)
        return ll.subset(small, **{k: v//100 for k, v in options.items()})
    monkeypatch.setattr(trainings, 'load', load)
    data = trainings.prepare_training('rkhs/cifar10small5000_vgg', model='VGG11(width=2)').data
    assert (len(data.train), len(data.valid), len(data.test)) == (50, 100, 40) and not {*data.train.index.tolist()} & {*data.valid.index.tolist()}
    full = trainings.prepare_training('rkhs/cifar10_vgg', model='VGG11(width=2)').data
    assert len(full.train) == 500 and full.valid is None


@pytest.mark.parametrize('name, hint', [('rkhs/cifar10_vg', "did you mean 'rkhs/cifar10_vgg'"), ('rkhs/imnist30_vggstable', "'rkhs/imnist300_vggstable'")])
def test_an_unknown_preset_is_answered_with_the_nearest(name, hint):
    with pytest.raises(InputError, match=f"no preset '{name}'") as e: find_preset(name)
    assert hint in str(e.value)


def test_a_name_of_both_kinds_is_refused(tmp_path, monkeypatch):
    (tmp_path/'mine').mkdir()
    (tmp_path/'mine'/'family.toml').write_text('[family]\ntitle = "Mine"\n[models.a]\nmodel = "SHLP()"\n[presets.a]\nmodel = "SHLP()"\n')
    monkeypatch.setenv('LOCALLEARNING_EXPERIMENTS', str(tmp_path))
    with pytest.raises(InputError, match='a names a model and a preset; rename one'): find_preset('mine/a')


def test_a_model_takes_the_published_profile_of_its_task():
    assert find_preset('rkhs/wd').params['data'].startswith('mnist')
    images = [k for k, m in families()['rkhs'].models.items() if m['task'] == 'images']
    assert all(find_preset(f'rkhs/{k}').params['data'].startswith('cifar10') for k in (images[0], images[-1]))


def test_list_shows_the_presets(call):
    code, out, _ = call('list')
    assert code == 0 and all(re.search(rf'^    rkhs/{name} +\S', out, re.M) for name in PRESETS)


# --- looks every few epochs

def test_validation_images_are_looked_at_every_few_epochs_and_in_the_last(call, photos):
    code, *_ = call('train', '--data', photos, '--model', 'VGG11(width=2)', '--epochs', 5, '--batch-size', 40, '--valid', 20, '--eval-every', 2, '--device', 'cpu', '--out', 'a')
    history = pd.read_csv('a/results/history.csv')
    assert code == 0 and history.query('split == "valid"').epoch.tolist() == [1, 3, 4] and history.query('split == "train"').epoch.nunique() == 5
    assert call('train', '--eval-every', 0, '--data', photos, '--model', 'VGG11(width=2)')[::2] == (2, 'error: --eval-every 0: a whole number ≥ 1 is needed\n')


# --- the recipes of the README

def trained(call, photos, words, epochs, model, *more):
    "Run a line of the page on few images: its plan, the history, the measurements, weights before and after."
    small = ['--data', photos, '--model', model, '--epochs', epochs, '--batch-size', 40, '--device', 'cpu', *more]
    code, out, err = call(*words, *small)
    assert code == 0, err
    folder = Path(words[words.index('--out') + 1])
    plan = read_plan(folder/'config.json')
    before, after = build_model(plan.model, seed=plan.seed).state_dict(), load_checkpoint(folder/'models'/'last.safetensors')['model']
    assert before.keys() == after.keys() and all((before[k] - after[k]).abs().max() > 0 for k in before), 'every weight has moved'
    rows = pd.read_csv(folder/'results'/'measurements.csv')
    assert {*zip(rows.quantity, rows.setting)} >= {('test_accuracy', 'checkpoint=best'), ('test_accuracy', 'checkpoint=last')} and rows.value.between(0, epochs).all()
    return plan, pd.read_csv(folder/'results'/'history.csv'), after


def terms(history, *names):
    "Means over the epochs of what was added to the loss: there, finite, and no zeros."
    seen = history.query('split == "train"')
    assert {*seen.quantity} == {'loss', 'accuracy', *names}
    assert all((seen[seen.quantity == name].value > 0).all() and np.isfinite(seen[seen.quantity == name].value).all() for name in names)


def largest_norms(weights): return [matrix_norm(w).item() for k, w in weights.items() if k.endswith('weight')]


def test_the_perturbation_penalty_in_miniature(call, photos):
    plan, history, _ = trained(call, photos, line('ClassPerturbation'), 1, 'VGG11(width=2)')
    assert (plan.preset, plan.penalties, plan.transforms) == ('rkhs/cifar10small1000_vgg', ['ClassPerturbation(eps=1.0)'], ['CropFlip()'])
    assert plan.optimizer == 'SGD(momentum=0.9)' and plan.lr.startswith('StepDecay(0.05, every=40')
    terms(history, 'ClassPerturbation')


def test_the_gradient_penalty_in_miniature(call, photos):
    plan, history, _ = trained(call, photos, line('ClassGradient'), 2, 'VGG11(width=4)')
    assert plan.penalties == ['ClassGradient(0.1)']
    terms(history, 'ClassGradient')


def test_the_gradient_of_the_loss_with_clipped_weights_in_miniature(call, photos):
    "For so many epochs that the limit has come down to where it is felt."
    plan, history, after = trained(call, photos, line('LossGradient', 'SpectralProjection'), 12, 'VGG11(width=4)')
    assert (plan.penalties, plan.constraints) == (['LossGradient(0.1)'], ['SpectralProjection(tau=1.5)'])
    terms(history, 'LossGradient')
    norms, limit = largest_norms(after), ll.SpectralProjection(tau=1.5).at(11)
    assert limit < 1.53 and max(norms) <= limit*(1 + 1e-5) and sum(n > .99*limit for n in norms) >= 3
    assert history.query('split == "valid"').epoch.tolist() == [4, 9, 11], 'as often as the original looked'


def test_weight_decay_of_a_residual_network_in_miniature(call, photos):
    plan, history, _ = trained(call, photos, line('small5000_resnet'), 2, 'ResNet(width=4)')
    assert plan.optimizer == 'SGD(momentum=0.9, weight_decay=5e-4)' and plan.lr.startswith('StepDecay(0.1, every=40')
    terms(history)


def test_the_robust_network_in_miniature(call, photos):
    "κ is in epochs, so it shrinks with their number."
    words = [w.replace('kappa=50', 'kappa=.6') for w in line('train', 'kappa=50')]
    plan, history, after = trained(call, photos, words, 6, 'VGG11(width=4)')
    assert plan.transforms == ['CropFlip()', "Adversarial(PGD(norm=2, steps=5, relative_step=0.3, keep='last'), eps=1.0)"] and plan.valid == 0
    assert plan.constraints == ['SpectralProjection(tau=0.8, kappa=0.6)']
    norms, limit = largest_norms(after), ll.SpectralProjection(tau=.8, kappa=.6).at(5)
    assert limit < .81 and max(norms) <= limit*(1 + 1e-5) and sum(n > .99*limit for n in norms) >= 3
    terms(history)


@pytest.mark.parametrize('mark, many, few, recipe', [('relative_step=.0375', 'steps=40', 'steps=4', "PGD(norm=2,steps=4,relative_step=0.0375,keep='last')"),
                                                     ('steps=500', 'steps=500', 'steps=5', 'PGD(norm=2,steps=5,step_size=0.5)')], ids=['weak', 'strong'])
def test_an_evaluation_of_the_robust_network_in_miniature(call, photos, mark, many, few, recipe):
    with ll.seeded(0, 'init'): ll.save_checkpoint('runs/robust/models/last.safetensors', ll.VGG11(width=4))
    code, _, err = call(*[w.replace(many, few) for w in line('evaluate', 'runs/robust', mark)], '--data', photos, '--n', 20, '--device', 'cpu', '--out', 'seen')
    rows = pd.read_csv('seen/results/measurements.csv')
    assert code == 0 and {*rows.probe} == {'accuracy_curve'}, err
    curve = rows[(rows.quantity == 'accuracy') & rows.setting.str.contains('eps=1;')]
    assert len(curve) == 1 and curve.value.between(0, 1).all() and recipe in curve.setting.item().replace(' ', '')


# --- the released checkpoint

class TheirVGG(nn.Module):
    "A VGG-11 as a `Sequential` of layers, scaled inside, as the original's was; the names are a guess."
    def __init__(self, width=64):
        super().__init__()
        layers, before = [], 3
        for c in (1, 'P', 2, 'P', 4, 4, 'P', 8, 8, 'P', 8, 8, 'P'):
            if c == 'P': layers.append(nn.MaxPool2d(2))
            else: layers += [nn.Conv2d(before, before := c*width, 3, padding=1), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Linear(8*width, 8*width), nn.ReLU(), nn.Linear(8*width, 8*width), nn.ReLU(), nn.Linear(8*width, 10))
    def forward(self, x):
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((.4914, .4822, .4465), (.2023, .1994, .2010)))
        return self.classifier(self.features((x - mean)/std).flatten(1))


def released(path, width, **how):
    "A file like theirs, after a step of training: {model, optimizer, scheduler}."
    with ll.seeded(0, 'theirs'): net = TheirVGG(width)
    optimizer = torch.optim.SGD(net.parameters(), lr=.05, momentum=.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 30, gamma=.5)
    with ll.seeded(0, 'images'): x = torch.rand(4, 3, 32, 32)
    nn.functional.cross_entropy(net(x), torch.arange(4)).backward()
    optimizer.step()
    scheduler.step()
    torch.save(dict(model=net.state_dict(), optimizer=optimizer.state_dict(), scheduler=scheduler.state_dict()), path, **how)
    return net.eval(), x


def test_the_released_form_loads_at_its_real_size_by_the_line_of_the_page(call, photos):
    released('robust_vgg.pth', 64)
    asked = [w.replace('steps=100', 'steps=1') for w in line('--weights')]
    code, out, err = call(*asked, '--data', photos, '--n', 4, '--eps', '1', '--device', 'cpu', '--out', 'seen')
    assert code == 0 and err.startswith('robust_vgg.pth: the names are not those of VGG11; its 22 tensors were taken in their order') and len(err.splitlines()) == 1
    rows = pd.read_csv('seen/results/measurements.csv')
    assert {*rows.model} == {'robust_vgg'} and {'clean_accuracy', 'accuracy'} & {*rows.quantity}


@pytest.mark.parametrize('how', [{}, dict(_use_new_zipfile_serialization=False)], ids=['zip', 'of 2019'])
def test_the_released_form_computes_what_it_computed_there(tmp_path, how):
    net, x = released(tmp_path/'robust.pth', 4, **how)
    told = []
    ours = foreign_subject('VGG11(width=4)', tmp_path/'robust.pth', tell=told.append, **CIFAR).model
    torch.testing.assert_close(ours(x), net(x))
    assert len(told) == 1 and 'features.0.weight as stages.0.0.weight' in told[0]
    with pytest.warns(UserWarning, match='taken in their order'): foreign_subject('VGG11(width=4)', tmp_path/'robust.pth', **CIFAR)


def test_a_checkpoint_with_more_than_tensors_is_not_opened(tmp_path):
    net, _ = released(tmp_path/'robust.pth', 2)
    torch.save(dict(model=net.state_dict(), scheduler=torch.optim.lr_scheduler.StepLR), tmp_path/'code.pth')
    with pytest.raises(InputError, match='could run code, so it is not read'): load_weights(ll.VGG11(width=2), tmp_path/'code.pth')


def test_tensors_are_not_matched_by_order_where_that_may_be_wrong(tmp_path):
    "Another shape, another kind of tensor, another number, or a file that has lost the order: the first name is told, and the model stays as it was."
    from safetensors.torch import save_file
    net = TheirVGG(2)
    state = net.state_dict()
    swapped = OrderedDict(sorted(state.items(), reverse=True))
    kinds = OrderedDict((k.replace('bias', 'running_mean'), v) for k, v in state.items())
    fewer = OrderedDict([*state.items()][:-1])
    for name, content in dict(swapped=swapped, kinds=kinds, fewer=fewer).items(): torch.save(content, tmp_path/f'{name}.pth')
    save_file(state, tmp_path/'lost.safetensors')
    ours = ll.VGG11(width=2)
    before = {k: v.clone() for k, v in ours.state_dict().items()}
    for file in ('swapped.pth', 'kinds.pth', 'fewer.pth', 'lost.safetensors'):
        with pytest.raises(InputError, match="has no tensor 'stages.0.0.weight', which VGG11 needs"): load_weights(ours, tmp_path/file)
    assert all(torch.equal(before[k], v) for k, v in ours.state_dict().items())
    assert in_order(state, before).keys() == before.keys() and in_order(kinds, before) == {}


def test_nothing_is_said_of_weights_whose_names_agree(tmp_path):
    torch.save(dict(model=ll.VGG11(width=2).state_dict()), tmp_path/'w.pth')
    assert load_weights(ll.VGG11(width=2), tmp_path/'w.pth') == ''


# --- the page

FLAGS = '''experiment interactive name data_dir num_epochs eval_delta shuf_seed lr wd sched_step sched_gamma steps linf_step_size aug epsilon lmbda stability_ex_per_batch
stability_tr_per_ex stability_num_deformations reg_adv_perturbation_penalty reg_gradient_penalty reg_loss_gradl2 reg_loss_gradl1 reg_pgdl2 reg_pgdlinf reg_vat vat_alpha vat_xi
reg_penalize_sn_pi reg_penalize_sn_svd lmbdasn nb_it reg_project_sn tau kappa reg_stability lmbdast reg_gradtangent lmbdatan save l2_step_size'''.split()
CELLS = [[cell.strip() for cell in row.strip('|').split(' | ')] for row in PAGE.splitlines() if row.startswith('| ')]


def test_the_page_has_every_flag_and_every_experiment():
    there = ' '.join(row[0] for row in CELLS)
    assert [f for f in FLAGS if f'`--{f}`' not in there] == [] and [e for e in PRESETS if f'`{e}`' not in there] == []
    assert {f'rkhs/{e}' for e in PRESETS} == {*re.findall(r'`(rkhs/\w+)`', PAGE)}


def test_every_recipe_of_the_page_can_be_made():
    named = {text for text in re.findall(r'[`"]([A-Z]\w+\([^`"]*\))[`"]', PAGE)}
    assert len(named) > 20
    for text in named: assert type(ll.build_recipe(text, epochs=501)).__name__ == text.partition('(')[0]


def options(cell):
    "Options of `train` in a cell of the table, as they are typed."
    return [shlex.split(code) for code in re.findall(r'`(--[^`]*)`', cell)]


def test_every_option_of_the_page_makes_a_plan(photos, tmp_path):
    "The methods of the table, each on a preset, and every line below it as it stands but for the data."
    fields = {'--penalty': 'penalties', '--transform': 'transforms', '--constraint': 'constraints', '--optimizer': 'optimizer', '--schedule': 'schedule', '--eval-every': 'eval_every'}
    def plan(preset, words, **more):
        given = {fields[k]: [v] if fields[k].endswith('s') else int(v) if v.isdigit() else v for k, v in zip(words[::2], words[1::2]) if k in fields}
        return resolve_training(preset, data=str(photos), epochs=2, **given, **more)
    methods = [o for row in CELLS if len(row) == 4 for o in options(row[2]) if o[0] in fields and len(o) == 2]
    assert len(methods) >= 16
    for words in methods: plan('rkhs/cifar10small1000_vgg', words, model='VGG11(width=2)')
    for words in LINES:
        if words[0] == 'train': assert plan(words[1], words[2:]).model.startswith(('VGG11(', 'ResNet('))
