"From words to a plan, from a plan to a folder, and back into it."
import json
from dataclasses import asdict, fields, replace
from pathlib import Path

import pandas as pd
import pytest
import torch

import locallearning as ll
from locallearning import resuming, training
from locallearning.lab import trainings as presets
from locallearning.core import InputError
from locallearning.lab.families import runs_folder
from locallearning.lab.trainings import (FLAGS, Plan, check_piece, find_preset, hold_out, place_training, plan_folder, read_plan, resolve_training, resume_training,
                                   run_training, stored_plan)
from locallearning.state import load_checkpoint, load_model

SMALL = 'mnist5k(per_class=6, test=40)'
KH = 'KHModel(width=12, kh_epochs=2)'


@pytest.fixture(scope='module')
def plan(): return resolve_training(data=SMALL, model='SHLP(width=6)', epochs=3, batch_size=20, snapshots=[.5])


# --- what is left out

def test_nothing_at_all_is_a_request():
    plan = resolve_training()
    assert (plan.data, plan.model, plan.epochs, plan.valid, plan.lr) == ('mnist5k', 'SHLP(width=500, in_features=784, classes=10)', 20, .1, 1e-3)


def test_sizes_come_from_the_data_and_pieces_keep_their_words():
    plan = resolve_training(data=SMALL, model='MLP(widths=(5, 4))', penalties=['Jacobian(1e-3, n=1)', 'Lp(5e-4)'], loss='MultiMargin(2.)', transforms=["Adversarial(PGD(norm='inf'), eps=.1)"])
    assert plan.model == 'MLP(widths=(5, 4), in_features=784, classes=10)' and plan.penalties == ['Jacobian(1e-3, n=1)', 'Lp(5e-4)'] and plan.loss == 'MultiMargin(2.0)'
    assert ll.build_recipe(plan.transforms[0]).attack.norm == 'inf'


@pytest.mark.parametrize('request_, space, lr', [
    (dict(), 'pixel', 1e-3), (dict(model=KH), 'lp_unit(p=3)', 1e-2), (dict(model='KHModel(width=12, p=4)'), 'lp_unit(p=4)', 1e-2), (dict(model=KH, lr=.5), 'lp_unit(p=3)', .5),
    (dict(preset='hebbian/bp'), 'lp_unit(p=3)', 'Steps(1e-3, [(31, 5e-4), (91, 2e-4), (121, 1e-4), (161, 1e-5)], epochs=1000)'), (dict(preset='hebbian/bp', model='KHModel(width=12, p=2)'), 'lp_unit(p=2)', None)])
def test_space_and_rate_are_the_models_business(request_, space, lr):
    plan = resolve_training(data=SMALL, **request_)
    assert ll.load(plan.data).space == space and lr in (None, plan.lr)


def test_who_writes_a_space_decides_for_himself():
    assert ll.load(resolve_training('hebbian/bp', data="mnist5k(per_class=6, space='pixel')").data).space == 'pixel'
    assert ll.load(resolve_training(data="mnist5k(per_class=6, space='lp_unit(p=2)')").data).space == 'lp_unit(p=2)'


def test_the_rate_of_a_hebbian_readout_is_its_own(tmp_path):
    "Its features are small; with the rate of all others twenty epochs teach it little."
    plan = resolve_training(data='mnist5k(per_class=60, test=300)', model="KHModel(width=100, layer='prototypes', prune=False)")
    own, common = (run_training(p, tmp_path/str(p.lr))['scores']['last']['test_accuracy'] for p in (plan, replace(plan, lr=1e-3)))
    assert own > common + .2


# --- presets

def test_a_preset_has_the_published_settings():
    plan = resolve_training('hebbian/jreg', data=SMALL)
    assert (plan.epochs, plan.batch_size, plan.penalties, plan.model) == (1000, 1000, ['PublishedJacobian(1e-3, n=3)'], 'SHLP(in_features=784, width=2000, classes=10)')
    assert find_preset('hebbian/jreg').params['data'] == 'cifar10'


def test_flags_override_the_preset_and_mean_what_they_mean_without_it():
    plan = resolve_training('hebbian/kh', data=SMALL, penalties=['Lp(1e-3)'], epochs=7, model='SHLP(batch_norm=True)', schedule='Steps(.1, [(5, .01)])')
    assert plan.penalties == ['Lp(1e-3)'], 'not the p = 3 of the layer'
    assert plan.model == 'SHLP(batch_norm=True, in_features=784, classes=10)', 'not the width of the paper, which was not asked for' and plan.epochs == 7
    assert resolve_training('hebbian/bp', data=SMALL, epochs=7).lr.endswith('epochs=7)')


# --- images to choose by

def test_a_validation_set_of_the_data_wins():
    plan = resolve_training(data='mnist5k(per_class=6, val=30)', valid=.5)
    assert plan.valid == 0 and len(hold_out(ll.load(plan.data), plan.valid).valid) == 30


@pytest.mark.parametrize('valid, n', [(.1, 6), (.25, 15), (10, 10), (0, None)])
def test_images_are_held_out_and_the_test_images_stay(valid, n):
    data = ll.load(SMALL)
    held = hold_out(data, valid)
    assert (held.valid and len(held.valid)) == n and held.test.index.equal(data.test.index)
    if n: assert not {*held.train.index.tolist()} & {*held.valid.index.tolist()} and len(held.train) == 60 - n and held.valid.index.equal(hold_out(data, valid).valid.index)


# --- what cannot be

BAD = {
    "no preset 'hebbian/jerg'; did you mean 'hebbian/jreg'": dict(preset='hebbian/jerg'), "unknown piece 'SHPL'; did you mean 'SHLP'": dict(model='SHPL()'),
    "SHLP has no field 'widht'; did you mean 'width'": dict(model='SHLP(widht=3)'), "did you mean 'Jacobian'": dict(penalties=['Jacobain(1.)']), "no field 'stpes'; did you mean 'steps'": dict(transforms=['Adversarial(PGD(stpes=3), eps=.1)']),
    '--lr 0.1 and --schedule Steps(.1) contradict each other': dict(lr=.1, schedule='Steps(.1)'), '--snapshots: 4 is not in 0…3': dict(epochs=3, snapshots=[0, 4]), '--snapshots: -1 is not': dict(snapshots=[-1.]),
    '--valid 60 of 60 training images': dict(valid=60), '--valid -1 of': dict(valid=-1), '--valid 1.5 of': dict(valid=1.5), '--valid 0.001 of': dict(valid=.001), '--epochs 0: a whole number ≥ 1': dict(epochs=0),
    '--batch-size 0': dict(batch_size=0), '--eval-every 0: a whole number ≥ 1': dict(eval_every=0), '--lr -1': dict(lr=-1), '--clip 0': dict(clip=0), '--seed -1': dict(seed=-1), 'epochs is 1.5; a value of type int': dict(epochs=1.5),
    'is an attack; to train on attacked images write --transform "Adversarial(PGD(), eps=.1)"': dict(transforms=['PGD()']), '--penalty FGSM() is an attack': dict(penalties=['FGSM()']),
    'is called as (model, x, y, out), not as (model); it belongs to --penalty': dict(constraints=['Lp(1e-3)']), 'it belongs to --transform': dict(penalties=['Adversarial(PGD(), eps=.1)']),
    '--optimizer SHLP(3, classes=10) makes no optimizer': dict(optimizer='SHLP(3)'), '--schedule Adam() is called as (params), not as (epoch); it belongs to --optimizer': dict(schedule='Adam()'),
    'is a PGD, not a model': dict(model='PGD()'), "no module 'nowhere'": dict(modules=['nowhere']), "unknown device 'tpu'": dict(device='tpu'), "no data set, and no .npz": dict(data='mnist6k'), "a training has no 'lrr'; did you mean 'lr'": dict(lrr=1),
    "is for images in space 'lp_unit(p=3)', --data are in 'pixel'; leave the space out of --data": dict(model=KH, data="mnist5k(per_class=6, space='pixel')"),
    'no checkpoint at': dict(init='nowhere'), 'SHLP has 3 logits': dict(model='SHLP(784, 5, 3)'), 'Lp does not fit the weight of': dict(parametrizations=['Lp(1.)']),
}


@pytest.mark.parametrize('message', BAD)
def test_bad_input_is_named_before_a_folder_is_taken(message, tmp_path, monkeypatch):
    monkeypatch.setenv('LOCALLEARNING_RUNS', str(tmp_path))
    with pytest.raises(InputError) as e: place_training(**dict(data=SMALL, model='SHLP(width=6)') | BAD[message])
    assert message in str(e.value) and len(str(e.value).splitlines()) == 1 and not list(tmp_path.iterdir())


def test_every_field_has_a_flag(): assert {f.name for f in fields(Plan)} == FLAGS.keys() - {'schedule'}


@pytest.mark.parametrize('text', ['', '{', '[]', '{}', '{"data": "mnist5k", "model": "SHLP()", "epoch": 3}', '{"data": "mnist5k", "model": "SHLP()", "epochs": "3"}', '{"data": "mnist5k", "model": "SHLP()", "lr": null}'])
def test_a_file_that_is_no_plan_is_refused(text, tmp_path):
    (tmp_path/'c.json').write_text(text)
    with pytest.raises(InputError, match='c.json'): read_plan(tmp_path/'c.json')


def test_an_impossible_request_leaves_the_folder_free(tmp_path):
    wrong = resolve_training(data=SMALL, model="KHModel(width=100, layer='prototypes')")
    with pytest.raises(InputError, match='only 54 training images'): run_training(wrong, tmp_path)
    assert stored_plan(tmp_path, resume=False) is None


# --- a folder that holds everything

@pytest.fixture(scope='module')
def done(plan, tmp_path_factory): return run_training(plan, tmp_path_factory.mktemp('done'))


def test_what_lies_in_the_folder(done, plan):
    folder = done['folder']
    there = {str(p.relative_to(folder)) for p in folder.rglob('*') if p.is_file()}
    assert there >= {'config.json', 'manifest-train.json', 'models/last.safetensors', 'models/best.safetensors', 'models/snapshot-0.5.safetensors', 'results/history.csv', 'results/measurements.csv',
                     *(f'figures/history.{s}' for s in ('png', 'pdf', 'svg'))}
    assert read_plan(folder/'config.json') == plan
    history = pd.read_csv(folder/'results'/'history.csv')
    assert list(history) == ['epoch', 'split', 'quantity', 'value'] and {*history.split} == {'train', 'valid'}, 'the test images are for the end'
    rows = pd.read_csv(folder/'results'/'measurements.csv').set_index(['quantity', 'setting']).value
    assert rows['test_accuracy', 'checkpoint=best'] == ll.accuracy(load_model(folder/'models'/'best.safetensors'), ll.load(plan.data).test)
    about = json.loads((folder/'manifest-train.json').read_text())
    assert about['parameters'] == asdict(plan) and about['artefacts']['training']['arguments']['data']['$key'] and 'torch' in about['versions']


def test_the_best_epoch_is_that_of_the_images_held_out(done):
    held = done['history'].query('split == "valid"').value.tolist()
    assert done['scores']['best']['valid_accuracy'] == max(held) and done['scores']['best']['epoch'] == len(held) - 1 - held[::-1].index(max(held))


def test_without_images_to_choose_by_best_is_last(plan, tmp_path):
    done = run_training(replace(plan, valid=0., epochs=1, snapshots=[]), tmp_path)
    assert (tmp_path/'models'/'best.safetensors').read_bytes() == (tmp_path/'models'/'last.safetensors').read_bytes() and done['scores']['best'] == done['scores']['last']
    assert [t.get_text() for t in ll.plot_history(done['history']).legends[0].get_texts()] == ['training images, as trained on']


def test_the_config_repeats_the_training(done, tmp_path):
    (plan, net, data), folder = place_training(out=str(tmp_path), config=str(done['folder']/'config.json'))
    run_training(plan, folder, net, data)
    assert (tmp_path/'models'/'last.safetensors').read_bytes() == (done['folder']/'models'/'last.safetensors').read_bytes()
    assert (tmp_path/'results'/'history.csv').read_bytes() == (done['folder']/'results'/'history.csv').read_bytes()


def test_a_checkpoint_names_its_model_for_the_next_training(done, tmp_path):
    best = done['folder']/'models'/'best.safetensors'
    next_one = resolve_training(data=SMALL, init=str(done['folder']), epochs=1)
    assert next_one.init == str(best) and next_one.model == 'SHLP(in_features=784, width=6)'
    again = run_training(replace(next_one, lr=1e-12), tmp_path)
    torch.testing.assert_close(load_checkpoint(again['folder']/'models'/'last.safetensors')['model'], load_checkpoint(best)['model'])
    with pytest.raises(InputError, match=r"'hidden.weight' has shape \(6, 784\), the model has \(7, 784\)"): resolve_training(data=SMALL, init=str(best), model='SHLP(width=7)')
    with pytest.raises(InputError, match=r"was trained in space|is for images in space 'pixel', --data are in 'lp_unit\(p=3\)'"): resolve_training(data="mnist5k(per_class=6, space='lp_unit(p=3)')", init=str(best))


def test_data_are_loaded_once_and_the_model_is_built_once(plan, done, tmp_path, monkeypatch):
    "From words or a file to a training; the same weights as where the plan alone was known."
    counts = dict(load=0, build_model=0)
    def counted(name, real):
        def call(*args, **kwargs):
            counts[name] += 1
            return real(*args, **kwargs)
        return call
    for name in counts:
        call = counted(name, getattr(presets, name))
        for module in (presets, training): monkeypatch.setattr(module, name, call, raising=False)
    config = str(done['folder']/'config.json')
    for i, request in enumerate((dict(data=SMALL, model='SHLP(width=6)', epochs=3, batch_size=20, snapshots=[.5]), dict(config=config))):
        counts.update(load=0, build_model=0)
        (same, net, data), folder = place_training(out=str(tmp_path/str(i)), **request)
        run_training(same, folder, net, data)
        assert same == plan and counts == dict(load=1, build_model=1)
        assert (folder/'models'/'last.safetensors').read_bytes() == (done['folder']/'models'/'last.safetensors').read_bytes()


# --- the way back

def test_an_occupied_folder_is_not_taken(done):
    with pytest.raises(InputError, match='holds a training that is done; add --resume to go on with it, or name another folder by --out'): place_training(out=str(done['folder']), data=SMALL)
    with pytest.raises(InputError, match='holds no training to go on with'): place_training(out=str(done['folder']/'models'), resume=True)


def test_resuming_takes_the_same_words_and_no_others(done, plan):
    assert resume_training(plan).plan == plan == resume_training(plan, model='SHLP(width=6)', data=SMALL, epochs=3, valid=.1).plan
    assert resume_training(plan, device='cpu').plan.device == 'cpu'
    with pytest.raises(InputError, match=r'--epochs: 3 there, 4 here; --lr: 0.001 there, Steps\(0.1\) here\); leave out --epochs, --lr'): resume_training(plan, epochs=4, schedule='Steps(.1)')
    with pytest.raises(InputError, match='the preset: none there, hebbian/bp here'): resume_training(plan, 'hebbian/bp')
    with pytest.raises(InputError, match='--penalty: none there, Lp.* here'): place_training(out=str(done['folder']), resume=True, penalties=['Lp(1e-3)'])
    kh = resolve_training(data=SMALL, model=KH)
    assert resume_training(kh, data=SMALL).plan == kh, 'the space that the model asked for is no contradiction'


def test_a_config_and_other_wishes_contradict_each_other(done, tmp_path):
    config = str(done['folder']/'config.json')
    with pytest.raises(InputError, match='is a whole request; leave out hebbian/kh, --epochs'): place_training('hebbian/kh', config=config, epochs=3)
    (tmp_path/'c.json').write_text(replace(read_plan(config), seed=7).to_json())
    with pytest.raises(InputError, match='--seed: 0 there, 7 here'): place_training(out=str(done['folder']), config=str(tmp_path/'c.json'), resume=True)


def test_of_two_that_take_an_empty_folder_at_once_the_second_learns_whose_it_is(plan, tmp_path):
    "Both looked before either wrote; the one that was first must not lose its configuration."
    run_training(plan, tmp_path/'o')
    kept = (tmp_path/'o'/'config.json').read_text()
    with pytest.raises(InputError, match='which was another one .--seed: 0 there, 1 here'): run_training(replace(plan, seed=1), tmp_path/'o')
    assert (tmp_path/'o'/'config.json').read_text() == kept
    assert run_training(replace(plan, device='cpu'), tmp_path/'o')['scores'], 'the same training may go on'


def test_a_folder_that_cannot_be_is_named(plan, tmp_path):
    (tmp_path/'f').write_text('no folder')
    for out in ('f', 'f/g'):
        with pytest.raises(InputError, match='choose a folder that is writable'): run_training(plan, tmp_path/out)


@pytest.mark.parametrize('change, said', [(dict(epochs=0), '--epochs 0: a whole number'), (dict(penalties=['Lpp(1)']), "unknown piece 'Lpp'"), (dict(penalties=[3]), 'recipe 3 is not a call'),
                                          (dict(snapshots=[9]), '--snapshots: 9 is not in 0…3'), (dict(lr=-1.), '--lr -1.0'), (dict(model='SHLP(9, width=6)'), 'SHLP does not take images')])
def test_a_configuration_that_was_edited_is_checked_like_any_request(plan, tmp_path, change, said):
    (tmp_path/'c.json').write_text(replace(plan, **change).to_json())
    with pytest.raises(InputError, match=said): place_training(out=str(tmp_path/'o'), config=str(tmp_path/'c.json'))
    assert not (tmp_path/'o').exists()


def test_an_interruption_in_pretraining_or_training_changes_no_bit(tmp_path, monkeypatch):
    plan = resolve_training(data=SMALL, model='KHModel(width=12, kh_epochs=4, kh_batch_size=20)', epochs=4, batch_size=20, transforms=['Adversarial(PGD(steps=1, random_start=True), eps=.05)'])
    run_training(plan, tmp_path/'through')
    real, count = resuming.save_tree, []
    def stop_after(n):
        def save(path, tree):
            real(path, tree)
            count.append(Path(path).parent.name)
            if len(count) == n: raise KeyboardInterrupt
        return save
    for n, folder in ((2, 'kh_layer'), (6, 'models')):
        with monkeypatch.context() as m:
            m.setattr(resuming, 'save_tree', stop_after(n))
            with pytest.raises(KeyboardInterrupt): run_training(plan, tmp_path/'again')
        assert count[-1].startswith(folder), count
    run_training(stored_plan(tmp_path/'again', resume=True), tmp_path/'again')
    for name in ('last', 'best'): assert (tmp_path/'through'/'models'/f'{name}.safetensors').read_bytes() == (tmp_path/'again'/'models'/f'{name}.safetensors').read_bytes()
    assert (tmp_path/'through'/'results'/'history.csv').read_bytes() == (tmp_path/'again'/'results'/'history.csv').read_bytes()


def test_trainings_in_the_folder_of_runs_share_what_they_pretrained(monkeypatch, tmp_path):
    monkeypatch.setenv('LOCALLEARNING_RUNS', str(tmp_path))
    for lr in (.1, .2):
        plan = resolve_training(data=SMALL, model=KH, epochs=1, lr=lr)
        run_training(plan, plan_folder(plan))
    assert len([*(runs_folder()/'artefacts').glob('kh_layer-*/')]) == 1 and len([*(tmp_path/'train').iterdir()]) == 2


def test_the_name_of_a_folder_says_what_it_is(plan):
    name = plan_folder(plan).name
    assert name.startswith('shlp-mnist5k-') and name == plan_folder(replace(plan, device='cuda', data_root='/d')).name != plan_folder(replace(plan, lr=.1)).name
    assert plan_folder(replace(plan, preset='hebbian/jreg')).name.startswith('hebbian-jreg-mnist5k-')


def test_check_piece_gives_the_piece(): assert isinstance(check_piece('penalties', 'Jacobian(1e-3)'), ll.Jacobian) and presets.CALLS['penalties'] == 'model, x, y, out'


def test_a_model_of_a_family_says_its_loss_and_what_makes_its_weights():
    from locallearning.lab.families import model_spec
    about = dict(model='LipschitzMLP(widths=(8, 8))', parametrizations=['Bjorck(steps=5)'], loss='MultiMargin(.3)', constraints=['Projected(L1Rows())'])
    spec = model_spec('toy', about, dict(epochs=2, batch_size=10), dict(in_features=12, classes=3))
    assert spec.model == 'LipschitzMLP(widths=(8, 8), in_features=12, classes=3)'
    assert spec.training == dict(epochs=2, batch_size=10, penalties=[], opt='Adam()', lr=1e-3, parametrizations=['Bjorck(steps=5)'], constraints=['Projected(L1Rows())'], loss='MultiMargin(0.3)')
    plain = model_spec('toy', dict(model='MLP()'), dict(epochs=2, batch_size=10), dict(in_features=12, classes=3))
    assert not {'loss', 'parametrizations', 'constraints'} & set(plain.training)
