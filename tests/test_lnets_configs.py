"""Configuration files of the released sorting code: every shipped one read and trained in miniature, the lines of its README, and the page from its fields to ours.

The files are written here from a description of them. A miniature has fewer units, epochs and images, and is otherwise what the file or the page says."""
import json
import math
import re
import shlex
import shutil
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
from locallearning.lab.families import find_preset
from locallearning.lab.trainings import read_plan, resolve_training, run_training
from locallearning.lipschitz import configs
from locallearning.models import parametrize
from locallearning.state import load_checkpoint
from locallearning.training import build_model

PAGE = (Path(__file__).parent.parent/'nbs'/'lnets.md').read_text(encoding='utf-8')
LINES = [shlex.split(line)[1:] for block in re.findall(r'```bash\n(.*?)```', PAGE, re.S) for line in block.splitlines()]
DIGITS = dict(in_features=784, in_channels=1, image_size=28, classes=10)


# --- the shipped files

def shell(radius, dim, centers): return dict(filepath='distrib/shells.py', name='MultiSphericalShell', dim=dim, radius=radius, center_x=centers, empty_dim=0,
                                             reshape_to_grid=False, num_shells=1, sample_size=32, test_sample_size=2048)


def schedule(rate, decay, milestones): return dict(name='step', lr_init=rate, lr_decay=decay, milestones=milestones)


LINEAR = dict(safe_scaling=True, bjorck_iter=20, bjorck_beta=.5, bjorck_order=1)
OFF = dict(per_update_proj=dict(turned_on=False), per_epoch_proj=dict(turned_on=False, every_n_epochs=5, reset_optimizer=False))
WRITTEN = dict(output_root='outs', exp_name='run', cuda=False, seed=0, visualize=True, report_freq=10)


def dual(sides, layers, groupings, activation, lr, epoch_len, epochs, clip, steps=20, **optim):
    model = dict(name='dual_fc', layers=layers, groupings=groupings, activation=activation, bias=True, l_constant=1, linear=LINEAR | dict(type='bjorck', bjorck_iter=steps), **OFF)
    optim = dict(optimizer='aggmo', momentum=.9, betas=[0., .9, .99], wdecay=0., patience=10, criterion=dict(tag='loss', minmax='min')) | optim
    return WRITTEN | dict(model=model, distrib1=sides[0], distrib2=sides[1], optim=optim | dict(lr_schedule=lr, epoch_len=epoch_len, epochs=epochs, max_grad_norm=clip), save_best=False)


def shells(dim, centers): return shell(1e-7, dim, centers), shell(1., dim, centers)


def sampler(kind): return dict(filepath='distrib/gan.py', name='GANSampler', run='outs/gan/WGAN', kind=kind, dim=3072, sample_size=64, test_sample_size=64)


def classifier(name='classify_fc', activation='relu', data=None, per_update_proj=None, optim=None, linear=None, **model):
    optim = dict(optimizer='adam', momentum=.9, wdecay=0., epochs=200, max_grad_norm=1e8, criterion=dict(tag='acc', minmax='max'), lr_schedule=schedule(.001, .1, [60, 100, 150])) | (optim or {})
    model = dict(name=name, activation=activation, layers=[1024, 1024, 1024, 10], groupings=[2, 2, 2, 2], bias=True, l_constant=1, linear=dict(type='standard') | (linear or {}), **OFF) | model
    if per_update_proj: model['per_update_proj'] = per_update_proj
    data = dict(name='mnist', root='data', input_dim=784, class_count=10, batch_size=128, train_size=.9, cuda=False) | (data or {})
    return WRITTEN | dict(model=model, data=data, optim=optim, save_best=True)


def lenet(linear, few, **optim):
    made = classifier('lenet_classify', linear=linear, data=dict(batch_size=32, train_size=1., per_class_count=few), optim=optim | dict(criterion=dict(tag='loss', minmax='min')))
    del made['model']['layers'], made['model']['groupings']
    return made | dict(save_best=False)


def gan(kind, rate=2e-4): return dict(gan_type=kind, dataset='mnist', epochs=50, batch_size=64, input_size=28, lrG=2e-4, lrD=rate, beta1=.5, beta2=.999, seed=0)


L_INF = dict(turned_on=True, type='l_inf_projected')
FILES = dict(
    absolute_value=dual(shells(1, [0]), [128, 128, 1], [2, 2, 1], 'maxmin', schedule(.01, .9, [32, 64]), 16, 225, 10),
    three_cones=dual(shells(2, [-2, 0, 2]), [312, 312, 312, 1], [2, 2, 2, 1], 'maxmin', schedule(.01, .9, [32, 64]), 16, 600, 10),
    high_dimensional_cone=dual(shells(128, [0]), [256]*6 + [1], [256]*6 + [1], 'group_sort', schedule(.005, .9, [15, 30, 60, 90]), 128, 150, 1000),
    estimate_wde_gan=dual((sampler('real'), sampler('generated')), [720, 720, 1], [9, 9, 1], 'group_sort', schedule(.001, .9, [64, 96, 128, 256, 392]), 32, 512, .1, steps=27, optimizer='adam'),
    WGAN=gan('WGAN'), WGAN_GP=gan('WGAN_GP'), LWGAN=gan('LWGAN', 2e-3),
    fc_classification=classifier(),
    fc_classification_bjorck=classifier(linear=LINEAR | dict(type='bjorck', safe_scaling=False)),
    fc_classification_dropout=classifier('classify_fc_dropout'),
    fc_classification_l_inf=classifier(linear=dict(type='l_inf_projected')),
    fc_classification_l_inf_margin=classifier('classify_fc_hinge', 'maxmin', margin=.3, l_constant=1000, per_update_proj=L_INF, hinge_order=1,
                                              optim=dict(optimizer='aggmo', betas=[0., .9, .99], lr_schedule=schedule(.0033, .1, [60, 100, 150]))),
    fc_classification_parseval=classifier(linear=dict(type='standard', parseval=True), per_update_proj=dict(turned_on=True, type='l_2', bjorck_beta=.5, bjorck_iter=1, bjorck_order=1)),
    fc_classification_spec_jac=classifier('classify_fc_spec_jac', sn_reg=.05),
    fc_classification_spec_norm=classifier(linear=dict(type='spectral_normal', power_iters=1)),
    lenet_bjorck=lenet(LINEAR | dict(type='bjorck', bjorck_iter=5), 100, lr_schedule=schedule(.001, .1, [100, 150])),
    lenet_standard=lenet({}, 30, optimizer='sgd', lr_schedule=schedule(.01, .1, [100, 150])))
DUALS, GANS = list(FILES)[:4], list(FILES)[4:7]
CLASSIFIERS = list(FILES)[7:]


@pytest.fixture
def file(tmp_path):
    "Writes a shipped file, changed or not, and says where."
    def write(name, changes=None):
        path = tmp_path/f'{name}.json'
        path.write_text(json.dumps(merged(FILES[name], changes or {})))
        return path
    return write


def merged(tree, changes):
    return {k: merged(tree[k], changes[k]) if isinstance(changes.get(k), dict) and isinstance(tree.get(k), dict) else changes.get(k, tree.get(k)) for k in tree | changes}


def images(n=240, test=60, side=16):
    "Ten classes of noisy grey images, each about a picture of its own."
    rng = np.random.default_rng(0)
    pictures = rng.integers(60, 196, (10, side, side))
    made = {}
    for part, count in ('train', n), ('test', test):
        y = np.arange(count) % 10
        made |= {f'x_{part}': (pictures[y] + rng.integers(-60, 60, (count, side, side))).astype(np.uint8), f'y_{part}': y}
    return made


@pytest.fixture(scope='module')
def small(): return Data.of(**images(), name='small')


# --- read

FC, REST = 'LipschitzMLP(widths=(1024, 1024, 1024), classes=10, ', "slope=1)"
MODELS = dict(
    absolute_value="LipschitzMLP(widths=(128, 128), classes=1, activation='maxmin', size=2, slope=1, in_features=1)",
    three_cones="LipschitzMLP(widths=(312, 312, 312), classes=1, activation='maxmin', size=2, slope=1, in_features=2)",
    high_dimensional_cone="LipschitzMLP(widths=(256, 256, 256, 256, 256, 256), classes=1, activation='fullsort', slope=1, in_features=128)",
    estimate_wde_gan="LipschitzMLP(widths=(720, 720), classes=1, activation='groupsort', size=9, slope=1)",
    fc_classification_dropout=f"{FC}activation='relu', slope=1, dropout=True)", fc_classification_l_inf_margin=f"{FC}activation='maxmin', size=2, slope=1000)",
    lenet_bjorck="LeNet(activation='relu', slope=1)", lenet_standard="LeNet(activation='relu', slope=1)",
    WGAN='GANCritic()', WGAN_GP="GANCritic(norm='none')", LWGAN="GANCritic(norm='none', activation='maxmin')")
PIECES = dict(absolute_value=['Bjorck()'], three_cones=['Bjorck()'], high_dimensional_cone=['Bjorck()'], estimate_wde_gan=['Bjorck(steps=27)'], LWGAN=['Bjorck(steps=12)'],
              fc_classification_bjorck=['Bjorck()'], fc_classification_l_inf=['L1Rows()'], fc_classification_spec_norm=['SpectralNormalized()'], lenet_bjorck=['Bjorck(steps=5)'],
              fc_classification_l_inf_margin=['Projected(onto=L1Rows())'], fc_classification_parseval=['Projected(onto=Bjorck(steps=1, scaling=None))'],
              fc_classification_spec_jac=['JacobianSpectral(0.05)'])
PUBLISHED = PIECES | dict(absolute_value=['PublishedBjorck()'], three_cones=['PublishedBjorck()'], high_dimensional_cone=['PublishedBjorck()'], estimate_wde_gan=['PublishedBjorck(steps=27)'],
                          LWGAN=['PublishedBjorck(steps=12)'], fc_classification_bjorck=['PublishedBjorck(safe=False)'], fc_classification_l_inf=['PublishedL1Rows()'],
                          fc_classification_l_inf_margin=["Projected(onto=L1Rows(onto='sphere'))"], lenet_bjorck=['PublishedBjorck(steps=5)'])
MOMENTA = {**dict.fromkeys(DUALS[:3], 'AggMo()'), 'fc_classification_l_inf_margin': 'AggMo()', 'lenet_standard': 'SGD(momentum=0.9)'}
LOOPS = dict(absolute_value=(225, 64, 10), three_cones=(600, 64, 10), high_dimensional_cone=(150, 64, 1000), estimate_wde_gan=(512, 128, .1), lenet_bjorck=(200, 32, 1e8), lenet_standard=(200, 32, 1e8))
DATA = dict.fromkeys(DUALS[:3], '') | dict(lenet_bjorck='mnist(per_class=100)', lenet_standard='mnist(per_class=30)') | dict.fromkeys(['estimate_wde_gan', *GANS], 'mnist')


def read(path, **how):
    where = dict(generator='gan/generator.safetensors', data='mnist') if 'wde' in str(path) else {}
    return ll.read_config(path, **where | how)


def pieces(config): return [p for k in ('parametrizations', 'constraints', 'penalties', 'transforms') for p in config.arguments.get(k, [])]


@pytest.mark.parametrize('name', FILES)
def test_a_shipped_file_is_read_as_what_it_asks_for(file, name):
    config = read(file(name))
    asked = config.arguments
    assert (config.task, config.call) == (('dual', 'train_dual') if name in DUALS else ('gan', 'train_gan') if name in GANS else ('classification', 'train_model'))
    assert asked['critic' if name in GANS else 'model'] == MODELS.get(name, f"{FC}activation='relu', {REST}")
    assert pieces(config) == PIECES.get(name, []) and config.data == DATA.get(name, 'mnist(val=6000)')
    assert asked['opt'] == ('Adam(betas=(0.5, 0.999))' if name in GANS else MOMENTA.get(name, 'Adam()'))
    assert (asked['epochs'], asked['batch_size'], asked.get('clip')) == ((50, 64, None) if name in GANS else LOOPS.get(name, (200, 128, 1e8)))
    assert json.loads(json.dumps(asked)) == asked, 'plain data'


@pytest.mark.parametrize('name', FILES)
def test_as_published_changes_the_constraints_alone(file, name):
    meant, published = read(file(name)), read(file(name), as_published=True)
    assert pieces(published) == PUBLISHED.get(name, [])
    rest = lambda c: {k: v for k, v in c.arguments.items() if k not in ('parametrizations', 'constraints')}
    assert rest(meant) == rest(published) and meant.data == published.data
    assert 'model.linear.safe_scaling' not in published.ignored


@pytest.mark.parametrize('name', [*DUALS, *CLASSIFIERS])
def test_rates_fall_at_the_milestones_of_the_file(file, name):
    about = FILES[name]['optim']['lr_schedule']
    rate = ll.build_recipe(read(file(name)).arguments['lr'], epochs=7)
    for i, epoch in enumerate(about['milestones']):
        assert rate(epoch - 1) == pytest.approx(about['lr_init']*about['lr_decay']**i, rel=1e-9) and rate(epoch) == pytest.approx(about['lr_init']*about['lr_decay']**(i + 1), rel=1e-9)


@pytest.mark.parametrize('name', DUALS[:3])
def test_a_problem_has_distance_one_and_as_many_steps_as_there(file, name):
    asked = read(file(name)).arguments
    problem = ll.build_recipe(asked['problem'])
    assert ll.exact_distance(problem.first_law, problem.second_law) == pytest.approx(1, abs=1e-6)
    assert len(problem)/asked['batch_size'] == FILES[name]['optim']['epoch_len'] and asked['n'] == 2048


def test_the_hinge_is_in_units_of_the_slope_and_rules_have_their_rates(file):
    assert read(file('fc_classification_l_inf_margin')).arguments['loss'] == 'MultiMargin(margin=300.0)'
    rules = {name: read(file(name)).arguments for name in GANS}
    assert [(r['kind'], r['lr_generator'], r['lr_critic'], r['pixels']) for r in rules.values()] == [('WGAN()', 2e-4, 2e-4, 28), ('WGANGP(10.0)', 2e-4, 2e-4, 28), ('LWGAN()', 2e-4, 2e-3, 28)]
    bare = read(file('LWGAN', {k: None for k in FILES['LWGAN'] if k != 'gan_type'}))
    assert bare.arguments == rules['LWGAN'] and bare.data == 'mnist', 'defaults of the script'


def test_attacked_images_are_those_of_the_script(file):
    asked = read(file('fc_classification'), pgd=.3).arguments['transforms']
    attack = ll.build_recipe(asked[0])
    assert len(asked) == 1 and attack.eps == .3
    assert (attack.attack.steps, attack.attack.step_size, attack.attack.norm, attack.attack.random_start, attack.attack.keep) == (40, .01, 'inf', True, 'last')


# --- what else a file may say

def test_projections_between_epochs(file):
    on = dict(turned_on=True, type='l_inf_scaled', scale_all=True, every_n_epochs=5, reset_optimizer=True)
    config = read(file('fc_classification', dict(model=dict(per_epoch_proj=on, per_update_proj=dict(turned_on=True, type='l_2', bjorck_iter=3)))))
    assert config.arguments['constraints'] == ['Projected(onto=Bjorck(steps=3, scaling=None))', 'Projected(onto=L1Scaled(everywhere=True), every=5, reset=True)']
    forward = read(file('fc_classification', dict(model=dict(linear=dict(type='parseval_l2'), per_update_proj=dict(type='l_2', bjorck_iter=1)))))
    assert forward.arguments['constraints'] == ['Projected(onto=Bjorck(steps=1, scaling=None))'] and forward.arguments['parametrizations'] == []


@pytest.mark.parametrize('optim, recipe', [
    (dict(optimizer='sgd', momentum=0., wdecay=1e-4), 'SGD(weight_decay=1e-4)'), (dict(optimizer='nesterov', momentum=.8), 'SGD(momentum=0.8, nesterov=True)'),
    (dict(optimizer='adam', momentum=.5), 'Adam(betas=(0.5, 0.999))'), (dict(optimizer='aggmo', betas=None), 'AggMo(betas=(0.0, 0.9, 0.99, 0.999))')])
def test_optimizers(file, optim, recipe): assert read(file('fc_classification', dict(optim=optim))).arguments['opt'] == recipe


def test_rates_that_decay_or_stay(file):
    falling = ll.build_recipe(read(file('fc_classification', dict(optim=dict(lr_schedule=dict(name='exp', lr_decay=.96))))).arguments['lr'])
    assert [falling(e) for e in (0, 1, 10)] == pytest.approx([.001, .00096, .001*.96**10], rel=1e-12)
    assert read(file('fc_classification', dict(optim=dict(lr_schedule=dict(name=None))))).arguments['lr'] == .001


def test_convolutions_on_a_grid(file, tmp_path):
    grid = shell(1., 16, [0]) | dict(reshape_to_grid=[4, 4])
    net = dict(name='dual_fully_conv', layers=None, channels=[4, 4, 1], kernels=[3, 3, 2], strides=[1, 2, 1], padding=1, groupings=[2, 2, 1], l_correction_constant=.1)
    path = file('absolute_value', dict(model=net, distrib1=grid | dict(radius=1e-7), distrib2=grid))
    recipe = "LipschitzConvNet(classes=1, channels=(4, 4), kernels=(3, 3, 2), strides=(1, 2, 1), padding=1, activation='maxmin', size=2, slope={}, in_channels=1, image_size=4)"
    assert read(path).arguments['model'] == recipe.format(1) and 'model.l_correction_constant' in read(path).ignored
    assert read(path, as_published=True).arguments['model'] == recipe.format(.1)
    made = read(path).run(epochs=1, n=500, folder=tmp_path/'out')
    assert finite(made['history']) and made['estimate'].value <= 1 + 3*made['estimate'].error
    assert moved(read(path).arguments['model'], ['Bjorck()'], made['checkpoint'], but=['readout.0.bias']), 'a constant counts on both sides'
    with pytest.raises(InputError, match='dilation is 2; LipschitzConvNet has only 1'): read(path, overrides={'model.dilation': 2})


def test_networks_of_photographs(file):
    cifar = dict(data=dict(name='cifar10', input_dim=3072))
    config = read(file('fc_classification', cifar))
    sizes = dict(in_features=3072, in_channels=3, image_size=32, classes=10)
    assert config.data == 'cifar10(val=5000)' and config.arguments['transforms'] == ['CropFlip()'] and config.arguments['model'].startswith('prepend(Normalize((0.4914, ')
    net = build_model(config.arguments['model'].replace('1024', '8'), **sizes)
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(net.model((x - torch.tensor([.4914, .4822, .4465]).view(3, 1, 1))/torch.tensor([.2023, .1994, .201]).view(3, 1, 1)), net(x))
    resnet = read(file('fc_classification', merged(cifar, dict(model=dict(name='resnet32', layers=None, groupings=None, activation=None)))), overrides='model.l_constant=null model.bias=null')
    assert sum(p.numel() for p in build_model(resnet.arguments['model'], **sizes).parameters()) == 466_906, 'ResNet-32 with convolutions in its shortcuts'
    wide = file('fc_classification', merged(cifar, dict(model=dict(name='wide-resnet32', width=10, layers=None, groupings=None, activation=None, l_constant=None, bias=None))))
    assert 'width=160' in read(wide).arguments['model'] and read(wide, as_published=True).arguments['model'] == resnet.arguments['model']


# --- overrides

def test_overrides_as_text_and_as_a_dictionary(file):
    path = file('fc_classification_bjorck')
    as_text = read(path, overrides='model.linear.bjorck_iter=3 optim.epochs=5 "model.layers=[64, 64, 10]" data.name=fashion-mnist')
    assert as_text == read(path, overrides={'model': dict(linear=dict(bjorck_iter=3), layers=[64, 64, 10]), 'optim.epochs': 5, 'data.name': 'fashion-mnist'})
    assert as_text.arguments['parametrizations'] == ['Bjorck(steps=3)'] and as_text.arguments['epochs'] == 5 and as_text.data == 'fashion-mnist(val=6000)'
    assert 'widths=(64, 64), classes=10' in as_text.arguments['model']


def test_false_is_false(file):
    path = file('absolute_value')
    assert read(path, as_published=True, overrides='model.linear.safe_scaling=false').arguments['parametrizations'] == ['PublishedBjorck(safe=False)']
    with pytest.raises(InputError, match="model.linear.safe_scaling is 'False'; must be true or false"): read(path, overrides='model.linear.safe_scaling=False')


@pytest.mark.parametrize('overrides, said', [
    ('linear.bjorck_iter=3', "'linear.bjorck_iter' is not the path of a field; did you mean 'model.linear.bjorck_iter'?"),
    ({'model.linear': 3}, "'model.linear' is not the path of a field"),
    ({'model.linear.bjork_iter': 3}, "no counterpart is known of model.linear.bjork_iter (did you mean 'bjorck_iter'"),
    ('model.linear.bjorck_iter', 'write path=value, such as model.linear.bjorck_iter=3')])
def test_overrides_of_unknown_fields_are_refused(file, overrides, said):
    with pytest.raises(InputError, match=re.escape(said)): read(file('absolute_value'), overrides=overrides)


# --- what is refused, and what is ignored

def test_all_unknown_fields_are_named_at_once_and_can_be_left_out(file):
    path = file('fc_classification', dict(swa=True, model=dict(norm_twist=2, linear=dict(power_iter=3)), optim=dict(lr_schedule=dict(gamma=.1))))
    with pytest.raises(InputError) as e: read(path)
    said = str(e.value)
    assert said.startswith(f'{path}: no counterpart is known of ') and said.count('\n') == 0
    assert [f in said for f in ('swa', 'model.norm_twist', "model.linear.power_iter (did you mean 'power_iters'", 'optim.lr_schedule.gamma')] == [True]*4
    out = {'swa': None, 'model.norm_twist': None, 'model.linear.power_iter': None, 'optim.lr_schedule.gamma': None}
    assert read(path, overrides=out) == read(file('fc_classification'))


def test_a_known_name_in_a_place_where_it_means_nothing_is_not_dropped(file):
    "A number of steps outside of its group would otherwise be lost, and the default taken."
    with pytest.raises(InputError, match='no counterpart is known of model.bjorck_iter'): read(file('fc_classification_bjorck', dict(model=dict(bjorck_iter=3))))
    with pytest.raises(InputError, match='no counterpart is known of model.channels'): read(file('fc_classification', dict(model=dict(channels=[3]))))


@pytest.mark.parametrize('name, changes, said', [
    ('absolute_value', dict(model=dict(activation='norm_twist')), "activation is 'norm_twist'; valid: abs, group_sort"),
    ('absolute_value', dict(model=dict(linear=dict(type='bjork'))), "linear.type is 'bjork'; did you mean 'bjorck'"),
    ('absolute_value', dict(model=dict(name='dual_resnet')), "model.name is 'dual_resnet'"),
    ('absolute_value', dict(model=dict(linear=dict(bjorck_iter=0))), 'Bjorck(steps=0): must be a whole number ≥ 1'),
    ('absolute_value', dict(model=dict(layers=None)), 'there is no layers; it has to be a list'),
    ('absolute_value', dict(model=dict(groupings=[2, 4, 1])), 'groupings of [2, 4] for layers of [128, 128] units'),
    ('absolute_value', dict(distrib1=dict(name='Dirac')), "distrib1.name is 'Dirac', and no class is imported from a path; valid: GANSampler, MultiSphericalShell"),
    ('absolute_value', dict(distrib1=dict(sample_size=16)), 'sample_size is 16 of the first and 32 of the second distribution'),
    ('absolute_value', dict(distrib1=dict(radius=-1.)), 'Spheres(radius=-1.0): must be a number ≥ 0'),
    ('absolute_value', dict(optim=dict(epochs='225')), "optim.epochs is '225'; must be a whole number"),
    ('absolute_value', dict(optim=dict(epochs=True)), 'optim.epochs is True; must be a whole number'),
    ('absolute_value', dict(data=dict(seed=3)), 'seed and data.seed say different things'),
    ('fc_classification', dict(optim=dict(optimizer='adagrad')), "optimizer is 'adagrad'"),
    ('fc_classification', dict(optim=dict(lr_schedule=dict(name='cosine'))), "lr_schedule.name is 'cosine'; valid: exp, step"),
    ('fc_classification', dict(data=dict(name='imagenet')), "data.name is 'imagenet'"),
    ('fc_classification', dict(data=dict(name='svhn')), 'how many images svhn has is not known here; say val_size'),
    ('fc_classification', dict(model=dict(per_update_proj=dict(turned_on=True, type='l2'))), "per_update_proj.type is 'l2'; did you mean 'l_2'"),
    ('WGAN', dict(gan_type='DCGAN'), "gan_type is 'DCGAN'; did you mean 'WGAN'"),
    ('WGAN', dict(dataset='celeba'), "dataset is 'celeba'")])
def test_a_value_without_counterpart_is_refused_with_what_there_is(file, name, changes, said):
    path = file(name, changes)
    with pytest.raises(InputError, match=re.escape(said)) as e: read(path)
    assert str(e.value).startswith(f'{path}: ') and '\n' not in str(e.value)


def test_the_published_piece_has_one_order(file):
    path = file('absolute_value', dict(model=dict(linear=dict(bjorck_order=2))))
    assert read(path).arguments['parametrizations'] == ['Bjorck(order=2)']
    with pytest.raises(InputError, match='order 2 and beta 0.5; PublishedBjorck has order 1 and beta 0.5, read it with as_published=False'): read(path, as_published=True)


@pytest.mark.parametrize('text, said', [(None, 'no configuration file'), ('{"model": ', 'is not JSON'), ('[1]', 'holds a list'), ('{"attack": "GradientSignAttack"}', 'Attacks are options of `locallearning evaluate`')])
def test_what_is_no_configuration_of_a_training(tmp_path, text, said):
    if text: (tmp_path/'x.json').write_text(text)
    with pytest.raises(InputError, match=re.escape(said)): ll.read_config(tmp_path/'x.json')


def test_a_gan_sampler_needs_what_the_file_cannot_know(file):
    path = file('estimate_wde_gan')
    for known in ({}, dict(generator='g.safetensors'), dict(data='mnist')):
        with pytest.raises(InputError, match='needs generator=, a checkpoint that train_gan wrote, and data='): ll.read_config(path, **known)
    with pytest.raises(InputError, match="once whether its images are 'real' or 'generated'"): read(path, overrides={'distrib1.kind': None})
    with pytest.raises(InputError, match='only classifiers are trained on attacked images'): read(path, pgd=.3)


def test_dead_fields_are_listed(file):
    margin, parseval, cone = (read(file(name)).ignored for name in ('fc_classification_l_inf_margin', 'fc_classification_parseval', 'absolute_value'))
    dead = lambda ignored: {p for p, why in ignored.items() if why == 'nothing reads it there'}
    assert dead(margin) == {'model.hinge_order'} and dead(parseval) == {'model.linear.parseval'}
    assert dead(cone) == {'optim.patience', 'distrib1.num_shells', 'distrib2.num_shells'}
    assert {'cuda', 'output_root', 'exp_name', 'optim.criterion.tag', 'save_best', 'distrib1.filepath', 'model.linear.safe_scaling'} <= cone.keys()


def test_every_field_is_either_used_or_listed(file):
    "A file with one field less is read differently, or its field was listed as ignored, or it said what is the default."
    for name in ('absolute_value', 'fc_classification_l_inf_margin', 'lenet_bjorck'):
        whole = read(file(name))
        for path in configs._flat(FILES[name]):
            if path in whole.ignored: continue
            try: other = read(file(name), overrides={path: None})
            except InputError as e: assert 'there is no' in str(e), (path, e)
            else: assert other.arguments != whole.arguments or other.data != whole.data or _is_default(path, FILES[name]), path


def _is_default(path, tree):
    value, last = configs._flat(tree)[path], path.rpartition('.')[2]
    default = dict(seed=0, bias=True, l_constant=1, groupings=None, momentum=.9, betas=None, wdecay=0., turned_on=False, every_n_epochs=1, reset_optimizer=False, test_sample_size=2048,
                   empty_dim=0, reshape_to_grid=False, bjorck_iter=20, bjorck_beta=.5, bjorck_order=1, type='standard', train_size=1.)
    unused = dict(every_n_epochs='per_epoch_proj', groupings='', betas='')  # off, of equal pairs, of another optimizer
    return last in default and (value == default[last] or last in unused)


def test_nothing_that_a_file_names_is_imported(file, tmp_path, monkeypatch):
    (tmp_path/'trap.py').write_text('open("sprung", "w").close()\nclass MultiSphericalShell: pass\n')
    monkeypatch.chdir(tmp_path)
    read(file('absolute_value', dict(distrib1=dict(filepath='trap.py'), distrib2=dict(filepath=str(tmp_path/'trap.py')))))
    assert not Path('sprung').exists()


def test_every_name_that_is_asked_for_is_known(file, monkeypatch):
    "A field that is needed cannot be called unknown."
    asked, take = set(), configs._Fields.take
    monkeypatch.setattr(configs._Fields, 'take', lambda self, names, *more: (asked.update(names.split()), take(self, names, *more))[1])
    for name in FILES: read(file(name), as_published=name in GANS)
    read(file('fc_classification', dict(data=dict(name='cifar10'), model=dict(name='wide-resnet32', layers=None, groupings=None, activation=None, l_constant=None, bias=None))))
    conv = dict(name='dual_fully_conv', layers=None, channels=[4, 1], kernels=[3, 3], strides=[1, 2], groupings=[2, 1])
    read(file('absolute_value', dict(model=conv)))
    assert len(asked) > 60 and [name for name in sorted(asked) if configs._strange(configs._Fields({name: 1}))] == []


# --- trained in miniature

SMALL = {**dict.fromkeys(CLASSIFIERS, dict(model=dict(layers=[16, 16, 16, 10]))), **dict.fromkeys(['lenet_bjorck', 'lenet_standard'], {}),
         'absolute_value': dict(model=dict(layers=[16, 16, 1])), 'three_cones': dict(model=dict(layers=[16, 16, 16, 1])),
         'high_dimensional_cone': dict(model=dict(layers=[16]*6 + [1], groupings=[16]*6 + [1]), distrib1=dict(dim=8), distrib2=dict(dim=8), optim=dict(epoch_len=16)),
         'estimate_wde_gan': dict(model=dict(layers=[18, 18, 1]), optim=dict(epoch_len=4)), **dict.fromkeys(GANS, dict(input_size=8, batch_size=40))}


def moved(recipe, parametrizations, checkpoint, seed=0, but=(), **sizes):
    "Whether every tensor of a network has left where its seed drew it, `but` some."
    before, after = build_model(recipe, parametrizations, (), seed, **sizes).state_dict(), load_checkpoint(checkpoint)['model']
    return before.keys() == after.keys() and {k for k in before if torch.equal(before[k], after[k])} == {*but}


def finite(history): return len(history) > 0 and np.isfinite(history.value).all()


@pytest.mark.parametrize('published', [False, True], ids=['meant', 'published'])
@pytest.mark.parametrize('name', DUALS[:3])
def test_a_distance_in_miniature(file, tmp_path, name, published):
    config = read(file(name), overrides=SMALL[name], as_published=published)
    made = config.run(folder=tmp_path/'out', epochs=2)
    asked = config.arguments
    assert {*made} == {'checkpoint', 'history', 'estimate', 'recipe'} and finite(made['history']) and made['history'].epoch.max() == 1
    assert moved(asked['model'], asked['parametrizations'], made['checkpoint'], but=['readout.bias']), 'a constant counts on both sides'
    found = made['estimate']
    assert (found.n, found.truth) == (2048, pytest.approx(1, abs=1e-6)) and 0 < found.value <= 1 + 3*found.error


def test_arguments_of_drawn_samples_are_all_that_the_function_needs(file):
    config = read(file('absolute_value'), overrides=SMALL['absolute_value'] | {'optim.epochs': 15})
    made = getattr(ll, config.call)(**config.arguments)
    assert config.request() == config.arguments and .8 < made['estimate'].value


@pytest.mark.parametrize('name', CLASSIFIERS)
def test_a_classifier_in_miniature(file, tmp_path, small, name):
    config = read(file(name), overrides=SMALL[name])
    made = config.run(small, folder=tmp_path/'out', epochs=2, batch_size=40)
    asked = config.arguments
    assert finite(made['history']) and {*made['history'].query('split == "train"').quantity} == {'loss', 'accuracy', *(['JacobianSpectral'] if 'jac' in name else [])}
    assert moved(asked['model'], asked['parametrizations'], made['checkpoint'], **small.sizes) and 0 <= made['test_accuracy'] <= 1
    net = ll.load_model(made['checkpoint'])
    weights = [m.weight.detach() for m in net.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    if 'bjorck' in name: assert all(ll.matrix_norm(w) <= 1 + 1e-4 for w in weights)
    if 'l_inf' in name: assert all((w.flatten(1).abs().sum(1) <= 1 + 1e-5).all() for w in weights)
    if 'bjorck' in name: assert ll.product_bound(net, small.test.x[:2]).value <= 1 + 1e-3
    if 'spec_norm' in name: assert all(.9 < ll.matrix_norm(w) < 1.1 for w in weights), 'a division by an estimate that lags a little'


@pytest.mark.parametrize('name', ['fc_classification_bjorck', 'fc_classification_l_inf', 'fc_classification_l_inf_margin', 'lenet_bjorck'])
def test_a_classifier_as_published_in_miniature(file, tmp_path, small, name):
    config = read(file(name), overrides=SMALL[name], as_published=True)
    made = config.run(small, folder=tmp_path/'out', epochs=2, batch_size=40)
    assert finite(made['history']) and moved(config.arguments['model'], config.arguments['parametrizations'], made['checkpoint'], **small.sizes)
    rows = [m.weight.detach().flatten(1).abs().sum(1) for m in ll.load_model(made['checkpoint']).modules() if isinstance(m, nn.Linear)]
    if 'l_inf' in name: assert all(torch.allclose(r, torch.ones_like(r), atol=1e-5) for r in rows), 'on the sphere'


def test_a_classifier_on_attacked_images_in_miniature(file, tmp_path, small):
    config = read(file('fc_classification'), overrides=SMALL['fc_classification'], pgd=.3)
    made, clean = (c.run(small, folder=tmp_path/which, epochs=2, batch_size=40) for which, c in dict(attacked=config, clean=read(file('fc_classification'), overrides=SMALL['fc_classification'])).items())
    loss = lambda made: made['history'].query('split == "train" and quantity == "loss"').value.iloc[-1]
    assert finite(made['history']) and loss(made) > loss(clean), 'attacked images are harder'


def few_units(critic): return critic.replace('(', '(width=8, head=16, ')


@pytest.fixture(scope='module')
def generated(small, tmp_path_factory):
    "Generators of all three rules, trained for an epoch."
    folder = tmp_path_factory.mktemp('gan')
    made = {}
    for name in GANS:
        (folder/f'{name}.json').write_text(json.dumps(merged(FILES[name], SMALL[name])))
        config = ll.read_config(folder/f'{name}.json')
        made[name] = config, config.run(small, folder=folder/name, epochs=1, generator='GANGenerator(width=4, head=16)', critic=few_units(config.arguments['critic']), samples=8)
    return made


@pytest.mark.parametrize('name', GANS)
def test_a_generator_in_miniature(generated, name):
    config, made = generated[name]
    assert {*made} == {'generator', 'critic', 'history', 'samples'} and finite(made['history']) and made['samples'].shape == (1, 8, 1, 8, 8)
    assert {'critic_loss', 'generator_loss'} | ({'penalty'} if name == 'WGAN_GP' else set()) == {*made['history'].quantity}
    critic = ll.load_model(made['critic'])
    if name == 'WGAN': assert max(p.abs().max() for m in critic.modules() if isinstance(m, (nn.Linear, nn.Conv2d)) for p in m.parameters()) <= .01 + 1e-7
    if name == 'LWGAN': assert ll.product_bound(critic, torch.rand(2, 1, 8, 8)).value <= 1 + 1e-3


def test_the_published_critic_plays_too(file, small):
    made = read(file('LWGAN', SMALL['LWGAN']), as_published=True).run(small, epochs=1, generator='GANGenerator(width=4, head=16)', critic=few_units(read(file('LWGAN')).arguments['critic']))
    assert finite(made['history'])


def test_the_distance_of_a_generator_in_miniature(file, tmp_path, generated):
    real = Data.of(**images(side=8), name='small')
    config = read(file('estimate_wde_gan'), overrides=SMALL['estimate_wde_gan'], generator=generated['WGAN'][1]['generator'])
    made = config.run(real, folder=tmp_path/'out', epochs=3)
    assert config.arguments['problem'] == dict(distrib1='data', distrib2=f"Generated(checkpoint={str(generated['WGAN'][1]['generator'])!r})", samples=512)
    assert finite(made['history']) and math.isnan(made['estimate'].truth) and made['estimate'].value > 0 and 'LipschitzMLP(in_features=64' in made['recipe']
    swapped = read(file('estimate_wde_gan'), overrides=SMALL['estimate_wde_gan'] | {'distrib1.kind': 'generated', 'distrib2.kind': 'real'}, generator=generated['WGAN'][1]['generator'])
    assert swapped.arguments['problem']['distrib2'] == 'data'
    assert {'distrib1.dim', 'distrib1.run'} <= swapped.ignored.keys(), 'the images have their size, and their own run is not read'


def test_other_arguments_are_those_of_the_function(file):
    with pytest.raises(InputError, match="train_dual has no argument 'epoch'; did you mean 'epochs'"): read(file('absolute_value')).run(epoch=3)
    with pytest.raises(InputError, match="train_model has no argument 'widths'"): read(file('fc_classification')).run(widths=3)


# --- the lines of the page

@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    path = tmp_path_factory.mktemp('photos')/'photos.npz'
    np.savez(path, **images())
    return path


@pytest.fixture(scope='module')
def trained(photos, tmp_path_factory):
    "Folders of two of the trainings of the page."
    base = tmp_path_factory.mktemp('trained')
    for name, act, slope, rate in (('bjorck', 'relu', 1, .01), ('linf_margin', 'maxmin', 1000, .0033)):
        model = f"LipschitzMLP(widths=(32, 32), activation='{act}', slope={slope})"
        plan = resolve_training(f'lipschitz/{name}', data=str(photos), model=model, epochs=8, batch_size=20, lr=rate, device='cpu', valid=20)
        run_training(plan, base/'runs'/name)
    return base/'runs'


@pytest.fixture
def call(monkeypatch, capsys, tmp_path, trained):
    "The command in this process, in a folder with these trainings: exit code, output, errors."
    monkeypatch.setenv('LOCALLEARNING_RUNS', str(tmp_path/'runs'))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained, tmp_path/'runs')
    with in_process(monkeypatch, capsys) as run: yield run


def in_small(words, photos):
    "A line with images of ours, and fewer steps of its attacks."
    few = {r'^mnist\b': str(photos), 'per_class=100, val=5000': 'per_class=10, val=40', 'val=6000': 'val=20', 'n=10000': 'n=60', r'steps=(40|100)\b': 'steps=4',
           r"('LinfPGD', steps)=20": r'\1=3', '^500$': '5', '^20$': '4', '^1,2,3$': '2'}
    for many, less in few.items(): words = [re.sub(many, less, w) for w in words]
    return words


def network(words):
    "The network of a preset, with few units."
    recipe = find_preset(words[1]).about['model']
    return recipe.replace('(', '(channels=(2, 4), width=8, ' if recipe.startswith('LeNet') else '(widths=(8, 8), ', 1)


TRAINED = [words for words in LINES if words[0] == 'train']


@pytest.mark.parametrize('words', [w for w in TRAINED if '--init' not in w], ids=lambda w: w[1])
def test_a_training_of_the_page_in_miniature(call, photos, words):
    out = Path(words[words.index('--out') + 1])
    shutil.rmtree(out, ignore_errors=True)
    small = [] if '--data' in words else ['--data', f'{photos}(val=40)']
    code, _, err = call(*in_small(words, photos), *small, '--model', network(words), '--epochs', 2, '--batch-size', 40, '--device', 'cpu')
    assert code == 0, err
    plan, said = read_plan(out/'config.json'), find_preset(words[1]).about
    assert plan.preset == words[1] and plan.loss.partition('(')[0] == said.get('loss', 'CrossEntropy()').partition('(')[0]
    given = dict(zip(words[2::2], words[3::2]))
    flags = {'--parametrize': plan.parametrizations, '--constraint': plan.constraints, '--transform': plan.transforms, '--penalty': plan.penalties}
    assert all([p.replace(' ', '') for p in flags[k]] == [repr(ll.complete_recipe(in_small([v], photos)[0])).replace(' ', '')] for k, v in given.items() if k in flags)
    assert moved(plan.model, plan.parametrizations, out/'models'/'last.safetensors', plan.seed)
    assert finite(pd.read_csv(out/'results'/'history.csv'))


def test_the_fine_tuning_of_the_page_in_miniature(call, photos):
    words, = [w for w in TRAINED if '--init' in w]
    code, _, err = call(*in_small(words, photos), '--device', 'cpu')
    assert code == 0, err
    plan = read_plan('runs/bjorck_fine/config.json')
    assert (plan.parametrizations, plan.lr, plan.epochs, plan.batch_size) == (['Bjorck(steps=50, tol=0)'], 1e-5, 5, 128) and plan.init.endswith('runs/bjorck/models/best.safetensors')
    before, after = (load_checkpoint(f'runs/{name}/models/{which}.safetensors')['model'] for name, which in (('bjorck', 'best'), ('bjorck_fine', 'last')))
    assert all(0 < (before[k] - after[k]).abs().max() < 1e-2 for k in before), 'it goes on, by little'
    values = [torch.linalg.svdvals(m.weight.detach().double()) for m in ll.load_model('runs/bjorck_fine/models/last.safetensors').modules() if isinstance(m, nn.Linear)]
    assert all((v - 1).abs().max() < 1e-4 for v in values)


def test_layers_that_were_free_can_be_finely_tuned_too(small):
    "As the page says it for a network without constraint, with and without biases."
    for bias in (True, False):
        with ll.seeded(0, 'init'): net = ll.LipschitzMLP(256, (8, 8), 10, 'relu', bias=bias)
        parametrize(net, ll.Bjorck(steps=50))
        log = ll.fit(net, small, lr=1e-5, epochs=1)
        assert np.isfinite(log.frame.value).all() and all((torch.linalg.svdvals(m.weight.detach()) - 1).abs().max() < 1e-4 for m in net.modules() if isinstance(m, nn.Linear))


LOOKED = [words for words in LINES if words[0] in ('probe', 'evaluate')]


@pytest.mark.parametrize('words', LOOKED, ids=lambda w: f'{w[0]}-{next(a for a in w[2:] if "(" in a and not a.startswith("linspace"))[:24]}')
def test_an_evaluation_of_the_page_in_miniature(call, photos, words):
    if any('Foolbox' in w for w in words): pytest.importorskip('foolbox', reason='Foolbox, of the extra peers, is not installed')
    code, _, err = call(*in_small(words, photos), '--device', 'cpu', '--out', 'seen')
    assert code == 0, err
    rows = pd.read_csv('seen/results/measurements.csv')
    wanted = 'unit_activity' if 'activity' in str(words) else 'certified' if words[0] == 'probe' else 'accuracy_curve'
    assert wanted in {*rows.probe} and rows[rows.probe == wanted].value.notna().all() and {*rows.model} == {words[1].rpartition('/')[2]}
    seen = rows[(rows.probe == 'accuracy_curve') & (rows.quantity == 'accuracy')]
    radii = seen.setting.str.extract(r';eps=([\d.]+)')[0].nunique()
    counts = {'linspace(.01, .5, 20)': 20, 'linspace(.02, 1, 50)': 40}
    grid = [counts[w] for w in words if w in counts]
    assert not grid or radii == grid[0]
    assert wanted != 'accuracy_curve' or (rows[(rows.probe == wanted) & (rows.quantity == 'clean')].value > .3).all(), 'there is something to break'


BLOCKS = re.findall(r'```python\n(.*?)```', PAGE, re.S)


def test_the_python_of_the_page_in_miniature(call, small, monkeypatch):
    "Every block as it stands, in a folder with shrunken files; `mnist` is images of ours."
    for name in ('fc_classification_bjorck', 'absolute_value', 'three_cones', 'high_dimensional_cone', 'LWGAN', 'estimate_wde_gan'):
        short = dict(epochs=1) if name == 'LWGAN' else dict(optim=dict(epochs=1))
        Path(f'{name}.json').write_text(json.dumps(merged(merged(FILES[name], SMALL[name]), short)))
    eight = Data.of(**images(side=8), name='mnist')
    monkeypatch.setattr(configs, 'load', lambda recipe, root=None: eight)
    told = []
    scope = dict(ll=ll, torch=torch, data=small, print=told.append)
    for block in BLOCKS:
        exec(block, scope)
        if 'test_images' in block: assert {k: tuple(g.shape) for k, g in scope['towards'].items()} == {str(j): (10, 1, 16, 16) for j in range(10)}
    assert len(BLOCKS) == 4 and told == [scope['made']['estimate']] and scope['config'].arguments['parametrizations'] == ['Bjorck(steps=3)']
    assert Path('runs/lwgan/samples.gif').stat().st_size > 0 and finite(scope['distance']['history']) and scope['distance']['estimate'].value > 0


# --- the page

CELLS = [[cell.strip() for cell in row.strip('|').split(' | ')] for row in PAGE.splitlines() if row.startswith('| ')]
SCRIPTS = '''train_dual train_gan train_classifier train_pgd ortho_finetune eval_classifier check_undead generate_data_indices manual_eval_adv_robustness eval_adv_robustness
check_adv_gradients'''.split()


def test_the_page_has_every_script_every_file_and_every_field():
    there = ' '.join(row[0] for row in CELLS)
    assert [s for s in SCRIPTS if f'`{s}.py' not in there] == []
    assert [n for n in FILES if not re.search(rf'`(small_mnist/)?{n}`', there)] == []
    said = {word for code in re.findall(r'`([^`]+)`', there) for word in re.split(r'[.\s]', code)}
    names = {n.rpartition('.')[2] for n in [*configs._KNOWN, *' '.join(configs._IGNORED).split()]}
    aliases = {'epoch', 'lr', 'task', 'tag', 'minmax', 'dilation', 'groups', 'scale_all', 'type', 'turned_on'}
    assert sorted(names - said - aliases) == []


def test_every_recipe_of_the_page_can_be_made():
    named = {text for text in re.findall(r'[`"]([A-Z]\w+\([^`"…]*\))[`"]', PAGE) if not re.search(r'data\.|numpy|CHECKPOINT|\(dim, radius', text)}
    assert len(named) > 30
    for text in named:
        known = dict(in_features=3072, in_channels=3, image_size=32) if 'ResNet' in text else DIGITS
        if text.startswith('Foolbox'): pytest.importorskip('foolbox', reason='Foolbox, of the extra peers, is not installed')
        recipe = ll.complete_recipe(text.replace('720', '72').replace('256', '8').replace('312', '8').replace('widen=10', 'widen=1'), **known)
        assert type(ll.build_recipe(recipe)).__name__ == text.partition('(')[0]


def test_every_function_of_the_page_exists():
    assert [n for n in {*re.findall(r'\bll\.(\w+)', PAGE)} if n not in ll._PUBLIC] == []


@pytest.mark.parametrize('name', CLASSIFIERS)
def test_the_table_of_classifiers_says_what_the_file_says(file, photos, name):
    "Preset and options make the plan that the reading of the file makes, up to names of defaults."
    row, = [r for r in CELLS if len(r) == 3 and re.fullmatch(rf'`(small_mnist/)?{name}`', r[0])]
    preset, *options = re.findall(r'`([^`]+)`', row[1])
    words = [w for o in options for w in shlex.split(o)]
    given = dict(zip(words[::2], words[1::2]))
    flags = {'--parametrize': 'parametrizations', '--constraint': 'constraints', '--penalty': 'penalties'}
    fields = {flags[k]: [v] for k, v in given.items() if k in flags} | ({'schedule': given['--schedule']} if '--schedule' in given else {})
    config = read(file(name))
    plan = resolve_training(preset, data=str(photos), valid=20, epochs=200, batch_size=int(given.get('--batch-size', 128)), model=network(['train', preset]), **fields)
    built = lambda texts: [repr(ll.build_recipe(t)) for t in texts]
    for k in ('parametrizations', 'constraints', 'penalties'): assert built(getattr(plan, k)) == built(config.arguments[k]), k
    assert built([plan.loss, plan.optimizer]) == built([config.arguments['loss'], config.arguments['opt']]) and plan.batch_size == config.arguments['batch_size']
    assert given.get('--data', 'mnist(val=6000)') == config.data == (config.data if '--data' in given else find_preset(preset).params['data'])
    ours, theirs = (ll.build_recipe(t, epochs=200) if isinstance(t, str) else lambda e, t=t: t for t in (plan.lr, config.arguments['lr']))
    epochs = range(0, 200, 10) if isinstance(plan.lr, str) else range(60)
    assert [ours(e) for e in epochs] == pytest.approx([theirs(e) for e in epochs], rel=1e-9), 'the schedule, where the preset or an option has it'
    published = re.findall(r'"([^"]+)"', row[2])
    if published: assert built(published) == built(pieces(read(file(name), as_published=True)))
