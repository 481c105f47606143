"""The search for strengths, and what a family says of tasks, numbers and notebooks of its profiles."""
import math
from types import SimpleNamespace

import pytest

from locallearning.core import InputError
from locallearning.lab.families import Family, filled, find_family, resolve
from locallearning.lab.tuning import beyond, search_in_turn, searched, tune


def peak(at, of):
    "A score that falls with the distance from a peak, in factors of ten."
    return -sum(abs(math.log10((at[k] or 1e-6)/v)) for k, v in of.items())


def test_the_search_goes_on_beyond_an_edge_until_the_best_is_inside():
    best, tries = search_in_turn(lambda at: peak(at, dict(s=50.)), dict(s=1.), dict(s=[.1, 1., 10.]), more=3)
    assert best == dict(s=100.) and [t.value for t in tries] == [.1, 1., 10., 100., 1000.]
    assert [t.value for t in tries if t.chosen] == [100.]


def test_a_grid_is_not_continued_for_ever():
    _, tries = search_in_turn(lambda at: at['s'], dict(s=1.), dict(s=[.1, 1.]), more=2)
    assert [t.value for t in tries] == [.1, 1., 10., 100.] and tries[-1].chosen


def test_each_number_is_searched_at_the_best_of_those_before():
    asked = []
    def score(at): return asked.append(dict(at)) or peak(at, dict(a=.1, b=1e-3))
    best, _ = search_in_turn(score, dict(a=1., b=0.), dict(a=[.01, .1, 1.], b=[0., 1e-3, 1e-2]))
    assert best == dict(a=.1, b=1e-3) and {at['a'] for at in asked[3:]} == {.1} and asked[0] == dict(a=1., b=0.)


def test_of_equal_scores_the_original_value_stays():
    best, tries = search_in_turn(lambda at: .5, dict(s=1.), dict(s=[.1, 1., 10.]))
    assert best == dict(s=1.) and [t.chosen for t in tries] == [False, True, False]


def test_zero_is_no_edge():
    assert beyond([0., 5e-4, 5e-3], 0.) is None and beyond([0., 5e-4, 5e-3], 5e-3) == .05 and beyond([0., 1.], 1.) is None


def test_a_search_needs_validation_images_and_a_grid():
    exp = SimpleNamespace(data=SimpleNamespace(valid=None, name='mnist5k(40)'))
    with pytest.raises(InputError, match='mnist5k.40. has no validation images'): tune(exp, 'wd')
    exp = SimpleNamespace(data=SimpleNamespace(valid=1, name='mnist5k'), about=lambda key: {}, family=SimpleNamespace(name='toy'))
    with pytest.raises(InputError, match='model wd of family toy has no grid'): tune(exp, 'wd')


def test_numbers_go_where_the_braces_are_and_nowhere_else():
    about = dict(model='MLP()', penalties=['Lp({strength}, p=2)', 'Jacobian(1e-3)'], strength=.1, label='{strength}')
    found = filled(about)
    assert found['penalties'] == ['Lp(0.1, p=2)', 'Jacobian(1e-3)'] and about['penalties'][0] == 'Lp({strength}, p=2)'
    with pytest.raises(InputError, match='{eps} in MLP.*no number of that name'): filled(dict(model='MLP()', opt='SGD({eps})'))


def family(tmp_path):
    models = dict(a=dict(model='MLP()', task='digits', s=1), b=dict(model='MLP(width={s})', task='images', s=2), c=dict(model='MLP()'))
    profiles = dict(small=dict(task='digits', notebooks=['01_one']), all={})
    return Family('toy', tmp_path, {'01_one': 1, '02_two': 2}, dict(family=dict(title='toy'), models=models, profiles=profiles))


def test_a_task_has_its_models_and_those_of_none(tmp_path):
    toy = family(tmp_path)
    assert toy.models_of('digits') == ['a', 'c'] and toy.models_of('') == ['a', 'b', 'c']
    assert toy.model('b', s=7)['model'] == 'MLP(width=7)' and toy.models['b']['model'] == 'MLP(width=2)'
    assert toy.stems('small') == ['01_one'] and toy.stems('all') == ['01_one', '02_two'] and toy.stems('smoke') == ['01_one', '02_two']


@pytest.mark.parametrize('profile', ['quick', 'tune', 'cpu', 'paper', 'cpu-cifar', 'gpu-short', 'paper-cifar'])
def test_profiles_of_rkhs_name_notebooks_and_models_of_their_task(profile):
    rkhs, stems = find_family('rkhs')
    config = resolve(rkhs, stems, profile)
    assert config.experiments == rkhs.stems(profile) and set(config.experiments) <= set(stems)
    task = rkhs.profiles[profile]['task']
    assert config.models and {rkhs.models[m].get('task') for m in config.models} == {task}


def test_an_experiment_that_a_profile_does_not_run_is_refused():
    with pytest.raises(InputError, match='profile quick of family rkhs runs 01_small_mnist, not 02_small_cifar'):
        resolve(*find_family('rkhs/02_small_cifar'), 'quick')


def test_rows_of_a_search_can_be_read_back():
    import pandas as pd
    rows = [dict(model='a', probe='tuning', quantity='valid_accuracy', setting=f's={v:g}', value=q, flags=f) for v, q, f in
            [(.1, .8, float('nan')), (1., .9, 'chosen;edge of its grid')]]
    assert searched(SimpleNamespace(measurements=pd.DataFrame(rows))) == dict(a=dict(s=[(.1, .8, False), (1., .9, True)]))


def test_profiles_train_with_what_the_committed_search_chose():
    from pathlib import Path

    from locallearning.lab.report import read_reports
    rkhs, _ = find_family('rkhs')
    report, = [r for found in read_reports(Path(__file__).parent.parent/'reports')['rkhs'].values() for r in found if r.config['profile'] == 'tune']
    chosen = {model: {number: value for number, tries in numbers.items() for value, _, best in tries if best} for model, numbers in searched(report).items()}
    assert set(chosen) == set(rkhs.models_of('digits'))
    assert not report.measurements['flags'].fillna('').str.contains('edge').any(), 'a choice lies at the edge of its grid'
    for profile in ('quick', 'cpu'):
        told = rkhs.profiles[profile]['training']
        for model, numbers in chosen.items():
            assert {k: told[model][k] for k in numbers} == pytest.approx(numbers), (profile, model)


def test_joined_rows_take_the_choices_of_the_single_ones():
    rkhs, _ = find_family('rkhs')
    for profile in ('tune', 'quick', 'cpu'):
        told = rkhs.profiles[profile]['training']
        about = {m: rkhs.model(m, **told.get(m, {})) for m in rkhs.models_of('digits')}
        single = {m: rkhs.profiles['cpu']['training'][m] for m in ('f_delta', 'grad_f', 'sn')}
        assert about['f_tau_grad_f']['slope'] == single['grad_f']['strength'], profile
        for m in [m for m in about if m.startswith('f_tau_f_delta')]: assert about[m]['eps'] == single['f_delta']['eps'], (profile, m)
        for m in [m for m in about if '_sn' in m]: assert about[m]['tau'] == single['sn']['tau'], (profile, m)


@pytest.mark.parametrize('profile', ['cpu-cifar', 'gpu-short', 'paper-cifar'])
def test_radii_of_two_norms_are_told_apart(profile):
    import pandas as pd

    from locallearning.lab.claims import short_settings
    rkhs, stems = find_family('rkhs')
    params = resolve(rkhs, stems, profile).params
    radii = {2: params['euclidean_eps'], 'inf': params['pixel_eps']}
    rows = pd.DataFrame([dict(probe='worst_case', setting=f'attacks=PGD+APGD;eps={eps:.6g};n=500') for found in radii.values() for eps in found])
    told = [dict(part.split('=') for part in setting.split(';')) for setting in short_settings(rows, rkhs.about['names'], params).setting]
    assert [(t['norm'], t['eps']) for t in told] == [(str(norm), f'{eps:g}') for norm, found in radii.items() for eps in found]
    assert len({t['radius'] for t in told}) == len(told)
