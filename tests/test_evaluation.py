"""Models under attack: what is measured and kept, and examples of one tried on others."""
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from locallearning.attacks.gradient import FGSM, PGD
from locallearning.core import COLUMNS, InputError
from locallearning.data import load
from locallearning.data import fingerprint
from locallearning.examine.evaluation import (build_attack, clean_images, evaluate_examples, evaluate_models, for_worst_case, in_full,
                                              load_examples, make_examples, save_examples)
from locallearning.instruments import Subject
from locallearning.recipes import build_recipe
from locallearning.robustness import instruments
from locallearning.robustness.instruments import OUTSIDE, AccuracyProbe, WorstCaseProbe, attacked_images, has_critical
from locallearning.robustness.target import predict
from locallearning.models import SHLP
from locallearning.robustness.curves import accuracy_curve, critical_norm
from locallearning.lab.runs import Run
from locallearning.state import save_checkpoint, save_tree, seeded
from locallearning.examine.subjects import fit_space
from locallearning.training import fit
from locallearning.robustness.worst import worst_case

EPS = [0., .02, .05]
HOW = dict(n=60)


@pytest.fixture(scope='module')
def data(): return load('mnist5k(600, test=80)')


@pytest.fixture(scope='module')
def subjects(data):
    def trained(name, seed):
        with seeded(seed, 'init'): net = SHLP(784, 40)
        fit(net, data, epochs=4, seed=seed)
        return Subject(name, net, repr(net), 'pixel')
    return [trained('a', 0), trained('b', 1)]


@pytest.fixture(scope='module')
def found(data, subjects): return evaluate_models(subjects, data, ['PGD(steps=3)', 'FGSM()', 'GaussianNoise()'], EPS, **HOW)


# --- what is measured

def test_the_numbers_are_those_of_the_library(found, data, subjects):
    images = attacked_images(data, 60)
    for s in subjects:
        curve, critical = found.attacks['PGD(steps=3)'][s.name]
        assert np.array_equal(curve.right, accuracy_curve(s.model, images, PGD(steps=3), EPS).right)
        assert critical.median == critical_norm(s.model, images, PGD(steps=3)).median
        worst = worst_case(s.model, images, [build_recipe(a) for a in for_worst_case([*found.attacks])], EPS)
        assert np.array_equal(found.worst[s.name].broken_by, worst.broken_by)


def test_noise_has_no_critical_norm_and_no_attack_has_one_where_none_is_wanted(found, data, subjects):
    assert all(c is None for _, c in found.attacks['GaussianNoise()'].values()) and all(c for _, c in found.attacks['FGSM()'].values())
    assert evaluate_models(subjects[:1], data, ['FGSM()'], EPS, n=20, critical=False).attacks['FGSM()']['a'][1] is None
    assert not has_critical(build_attack('Square()')) and has_critical(build_attack('APGD()'))


def test_the_worst_case_is_measured_where_a_radius_means_one_thing(subjects):
    sets = ['FGSM()'], ['FGSM()', 'PGD()'], ['FGSM()', 'PGD(norm=2)'], ['standard(norm=2)'], ['FGSM()', 'GaussianNoise()']
    assert [len(for_worst_case(a)) for a in sets] == [0, 2, 0, 1, 0], 'noise has no ball'
    assert for_worst_case(['FGSM()'], more=True) == ['FGSM()']


def test_the_standard_set_takes_options_and_a_surrogate_joins_with_their_norm(subjects):
    probe = WorstCaseProbe([build_recipe(in_full(' standard(norm=2, steps=4, targets=0)'))])
    attacks = [*probe.attacks, probe._transferred(subjects[0])]
    assert [type(a).__name__ for a in attacks] == ['PGD', 'APGD', 'Square', 'Transfer'] and {float(a.norm) for a in attacks} == {2.}
    with pytest.raises(InputError, match="no field 'norms'; did you mean 'norm'"): build_recipe(in_full('standard(norms=2)'))


def test_the_surrogate_is_no_black_box_for_itself(data, subjects):
    found = evaluate_models(subjects, data, ['FGSM()'], [.02], surrogate=subjects[0], critical=False, n=30)
    assert [len(found.worst[m].attacks) for m in 'ab'] == [1, 2] and list(found.worst['b'].black_box) == [False, True]


def test_bounds_hold_and_contradictions_are_named(data, subjects):
    right = lambda **how: AccuracyProbe(FGSM(), [.3], n=40, **how).measure(subjects[0], data).right.sum()
    open_box, boxed = right(bounds=[-float('inf'), float('inf')]), right()
    assert open_box <= boxed
    for box, message in {(0, .5): r'outside their bounds \[0, 0.5\]', (.1, 1): 'outside their bounds', (1, 0): 'the lower one first'}.items():
        with pytest.raises(InputError, match=message): attacked_images(data, 10, box)
    with pytest.raises(InputError, match='n=0: must be ≥ 1'): attacked_images(data, 0)


@pytest.mark.parametrize('recipe, message', [('Jacobian(1.)', 'not an attack'), ('SHLP(4)', 'not an attack'), ("Adversarial(PGD(), eps=.1)", 'not an attack'), ('PDG()', "did you mean 'PGD'"), ('PGD(stesp=1)', "did you mean 'steps'")])
def test_what_is_no_attack_is_named_before_anything_is_measured(data, subjects, monkeypatch, recipe, message):
    monkeypatch.setattr(instruments, 'accuracy_curve', lambda *a, **k: pytest.fail('measured'))
    with pytest.raises(InputError, match=message): evaluate_models(subjects, data, ['FGSM()', recipe], EPS)


USER = '''
import torch
from locallearning import Piece
class Shift(Piece):
    def __init__(self, sign:float=1.): self.sign = sign
    def __call__(self, model, x, y, eps, *, bounds=(0., 1.), generator=None): return (x + self.sign*torch.as_tensor(eps).to(x).view(-1, 1, 1, 1)).clamp(0, 1)
class Naive(Shift):
    def __call__(self, model, x, y, eps, *, bounds=(0., 1.), generator=None): return x + eps
class Precise(Shift):
    def __call__(self, model, x, y, eps, *, bounds=(0., 1.), generator=None): return x + torch.as_tensor(eps, dtype=torch.double).view(-1, 1, 1, 1)
class PerImage(Shift):
    def __call__(self, model, x, y, eps, *, bounds=(0., 1.), generator=None): return x + eps.view(-1, 1, 1, 1)
'''


JUMP = '''
import torch
from locallearning import FGSM
class Jump(FGSM):
    "Twice as far as allowed where the first model answers."
    def __call__(self, model, x, y, eps, **kwargs):
        far = 1 + (model.hidden.weight[0, 0].item() == FIRST)
        return super().__call__(model, x, y, far*torch.as_tensor(eps), **kwargs)
'''


def test_a_users_attack_is_one_of_them_or_is_told_what_it_lacks(tmp_path, monkeypatch, data, subjects):
    (tmp_path/'shifts.py').write_text(USER)
    monkeypatch.syspath_prepend(str(tmp_path))
    how = dict(n=30, modules=('shifts',))
    found = evaluate_models(subjects[:1], data, ['Shift(sign=-1.)', 'FGSM()'], EPS, **how)
    assert found.table().model.tolist() == ['a']*3 and found.attacks['Shift(sign=-1.)']['a'][1] is not None
    with pytest.raises(InputError, match=r'Naive\(\) fails on images .* with 2 radii: .* a radius may be one per image'): evaluate_models(subjects, data, ['Naive()'], EPS, **how)
    with pytest.raises(InputError, match=r"PerImage\(\) fails on images .* with one radius: 'float' object has no attribute 'view'"): evaluate_models(subjects, data, ['PerImage()'], EPS, **how)
    with pytest.raises(InputError, match=r'Precise\(\) returns .*torch.float64.* shape and type are needed'): evaluate_models(subjects, data, ['Precise()'], EPS, **how)


def test_an_attack_that_leaves_its_box_is_flagged_and_has_no_part_in_the_worst_case(data, subjects):
    "The published one clips to [0, 1] whatever the images are; where that is their box it stays inside."
    attacks, images = ['PublishedPGD(steps=2)', 'FGSM()', 'PGD(steps=2)'], data.in_space('lp_unit', p=3)
    foreign = [Subject(s.name, s.model, '') for s in subjects]
    how = dict(critical=False, n=60)
    out, stay = evaluate_models(foreign, images, attacks, [.02], **how), evaluate_models(foreign, data, attacks, [.02], **how)
    for s in foreign:
        assert [OUTSIDE in out.attacks[a][s.name][0].flags for a in attacks] == [True, False, False] and len(out.worst[s.name].attacks) == 2
        assert not any(OUTSIDE in stay.attacks[a][s.name][0].flags for a in attacks) and len(stay.worst[s.name].attacks) == 3
    assert OUTSIDE in out.table()['flags'][0] and all(OUTSIDE in r['flags'] for r in out.rows if 'PublishedPGD' in r['setting'])
    assert not evaluate_models(foreign, images, attacks[:2], [.02], **how).worst, 'one attack alone is no worst case'


def test_an_attack_that_leaves_its_ball_for_one_model_is_left_out_for_all(tmp_path, monkeypatch, data, subjects):
    (tmp_path/'jumps.py').write_text(JUMP.replace('FIRST', repr(subjects[0].model.hidden.weight[0, 0].item())))
    monkeypatch.syspath_prepend(str(tmp_path))
    found = evaluate_models(subjects, data, ['Jump()', 'FGSM()', 'PGD(steps=2)'], EPS, modules=('jumps',), n=40)
    assert [OUTSIDE in found.attacks['Jump()'][m][0].flags for m in 'ab'] == [True, False] and OUTSIDE in found.attacks['Jump()']['a'][1].flags
    assert {m: len(w.attacks) for m, w in found.worst.items()} == dict(a=2, b=2), 'the same attacks for models that stand side by side'


# --- kept

def test_what_was_measured_is_found_again_and_is_the_same(tmp_path, data, subjects, monkeypatch):
    def once(): return evaluate_models(subjects, data, ['FGSM()', 'PGD(steps=2)'], EPS, run=Run(tmp_path), **HOW)
    first = once()
    for name in ('accuracy_curve', 'critical_norm', 'worst_case'): monkeypatch.setattr(instruments, name, lambda *a, **k: pytest.fail('measured again'))
    again = once()
    assert again.table().equals(first.table()) and again.rows == first.rows
    assert len(list((tmp_path/'artefacts').glob('accuracy_curve-*/value.json'))) == 4 and len(list((tmp_path/'artefacts').glob('worst_case-*/value.json'))) == 2


def test_another_model_radius_or_seed_is_another_request(tmp_path, data, subjects):
    run = Run(tmp_path)
    for kwargs in (dict(), dict(seed=1), dict(bounds=(0., 2.))): evaluate_models(subjects[:1], data, ['FGSM()'], EPS, run=run, critical=False, n=10, **kwargs)
    evaluate_models(subjects[1:], data, ['FGSM()'], EPS, run=run, critical=False, n=10)
    evaluate_models(subjects[:1], data, ['FGSM()'], [.02], run=run, critical=False, n=10)
    assert len(run.used) == 5


# --- shown

def test_the_table_has_a_line_for_each_attack_and_model(found):
    frame = found.table()
    columns = ['attack', 'model', 'clean', '0.02', '0.05', 'relative_0.02', 'relative_0.05', 'critical_norm', 'never_broken', 'flags']
    assert list(frame.columns) == columns and len(frame) == 8
    for eps in ('0.02', '0.05'): np.testing.assert_allclose(frame[eps], frame['clean']*frame[f'relative_{eps}'])
    worst = frame[frame.attack == 'worst case'].set_index('model')
    for attack in ('FGSM()', 'PGD(steps=3)'): assert (worst['0.05'] <= frame[frame.attack == attack].set_index('model')['0.05']).all()


def test_rows_are_measurements(found):
    rows = found.rows
    assert all(tuple(r) == COLUMNS for r in rows) and {r['model'] for r in rows} == {'a', 'b'}
    clean = {r['model']: r['value'] for r in rows if r['quantity'] == 'clean'}
    assert clean == {m: c.clean for m, (c, _) in found.attacks['FGSM()'].items()}


def test_what_is_doubtful_is_flagged(data):
    with seeded(0, 'init'): net = SHLP(784, 40)
    fit(net, data, epochs=4)
    net.readout.weight.data *= 1e4  # a saturated softmax: the gradient of the cross-entropy is rounded to zero
    net.readout.bias.data *= 1e4
    found = evaluate_models([Subject('sure', net, '')], data, ['PGD(steps=3)', 'FGSM()'], EPS, **HOW)
    flags = found.table().set_index('attack')['flags']
    assert 'zero gradient' in flags['PGD(steps=3)'] and 'survivors' in flags['FGSM()'] and 'masked' in flags['worst case']


# --- examples

@pytest.fixture(scope='module')
def examples(data, subjects): return make_examples(subjects[0], data, "PGD(steps=3)", EPS, n=60)


def test_examples_do_to_their_model_what_the_attack_did(examples, data, subjects, found):
    moved = evaluate_examples(subjects, data, examples)
    own, other = (moved.attacks['PGD(steps=3) on a'][m][0] for m in 'ab')
    assert np.array_equal(own.right, found.attacks['PGD(steps=3)']['a'][0].right[1:]) and own.eps.tolist() == EPS[1:]
    assert (own.relative <= other.relative).all() and own.n == 60 and not moved.worst
    assert len(moved.table()) == 2


def test_a_scaled_space_says_what_its_radii_are_in_255ths(data, subjects, found):
    scaled = data.in_space('lp_unit', p=3)
    own = evaluate_models(subjects[:1], scaled, ['FGSM()'], [.01], n=20, critical=False)
    moved = evaluate_examples(subjects[:1], scaled, make_examples(subjects[0], scaled, 'FGSM()', [.01], n=20))
    factor = np.median(255/attacked_images(scaled, 20).bounds[1].numpy())
    assert own.in_255ths == pytest.approx(factor) and moved.in_255ths == own.in_255ths and found.in_255ths is None
    for evaluation in (own, moved):
        [row] = [r for r in evaluation.rows if r['quantity'] == 'eps_in_255ths']
        assert (row['model'], row['setting'], row['value']) == ('data', 'n=20', own.in_255ths)


def test_examples_are_made_of_images_that_the_model_gets_wrong_too(examples, data, subjects):
    clean = clean_images(examples, data)
    wrong = predict(subjects[0].model, clean) != examples.y
    assert wrong.any() and (examples.x[-1][wrong] != clean.x[wrong]).any() and (examples.x[-1] - clean.x).abs().max() <= .05 + 1e-6


def test_a_users_attack_makes_examples_with_the_gradient_that_it_takes(data, subjects, monkeypatch):
    "Its attack calls autograd without asking whether gradients are on."
    monkeypatch.syspath_prepend(str(Path(__file__).parent/'stranger'))
    with torch.no_grad(): made = make_examples(subjects[0], data, 'Corner(turned=0.)', EPS, n=40, modules=('stranger',))
    clean = attacked_images(data, 40)
    assert torch.equal(made.x[1], FGSM()(subjects[0].model, clean.x, clean.y, .05)) and not made.x.requires_grad
    with torch.no_grad(): assert evaluate_models(subjects[:1], data, ['Corner()', 'FGSM()'], EPS, modules=('stranger',), n=40).worst


def test_examples_come_back_as_they_were(tmp_path, examples, data):
    again = load_examples(save_examples(tmp_path/'x.safetensors', examples))
    assert {k: v for k, v in vars(again).items() if not isinstance(v, torch.Tensor)} == {k: v for k, v in vars(examples).items() if not isinstance(v, torch.Tensor)}
    assert all(torch.equal(getattr(again, k), getattr(examples, k)) for k in ('x', 'y', 'index'))


def test_examples_find_their_images_in_a_larger_set_and_no_others(examples, data):
    whole = load('mnist5k')
    assert torch.equal(clean_images(examples, whole).x, clean_images(examples, data).x), 'the same images, elsewhere in the set'
    for other, message in ((load('mnist5k(test=30)'), 'of other images, 60 of mnist5k'), (data.in_space('lp_unit', p=3), r"in space 'pixel', the data are .* in space 'lp_unit\(p=3\)'")):
        with pytest.raises(InputError, match=message): clean_images(examples, other)
    changed = data.test.raw.clone()
    changed[examples.index[0] == data.test.index, 0, 0, 0] += 1
    with pytest.raises(InputError, match='of other images'): clean_images(examples, replace(data, test=replace(data.test, raw=changed)))


def test_examples_in_unit_space_keep_their_space(data, subjects):
    lp = data.in_space('lp_unit', p=3)
    foreign = Subject('f', subjects[0].model, '')
    made = make_examples(fit_space(foreign, lp.space), lp, 'FGSM()', [.01], n=20)
    assert made.space == 'lp_unit(p=3)' and fingerprint(test=clean_images(made, lp)) == made.images == fingerprint(test=attacked_images(lp, 20))
    assert evaluate_examples([foreign], lp, made).attacks


def test_files_that_hold_no_examples_are_named(tmp_path, subjects):
    save_checkpoint(tmp_path/'c.safetensors', subjects[0].model)
    save_tree(tmp_path/'t.safetensors', [1])
    (tmp_path/'x').write_text('hello')
    for name, message in {'none': 'no file of examples', 'c.safetensors': 'holds no examples', 't.safetensors': 'holds no examples', 'x': 'is damaged or no safetensors file'}.items():
        with pytest.raises(InputError, match=message): load_examples(tmp_path/name)


def test_a_model_that_knows_nothing_is_named(data, examples):
    none = Subject('none', SHLP(784, 4, classes=11).eval(), '')
    none.model.readout.weight.data.zero_(); none.model.readout.bias.data[10] = 9.
    with pytest.raises(InputError, match='none gets none of the 60 clean images right'): evaluate_examples([none], data, examples)
