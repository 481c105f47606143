"""The report: every number from a table, published numbers only beside the paper's data, predictions decided by their declared rules."""
import base64
import io
import json
import math
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, strategies as st
from PIL import Image

from locallearning.core import COLUMNS, InputError
from locallearning.figures.seeds import Range, plot_beside
from locallearning.lab.answers import answer, answers, answers_page, count_page, ledger_page, models_key, names_page, not_run_page, sources_page, write_front
from locallearning.lab.claims import LEDGERS, Claim, parts, read_claims
from locallearning.lab.families import families, find_family
from locallearning.lab.intervals import SCALES, interval, spreads
from locallearning.lab.report import colors, each, labels, number, over_seeds, published, read_report, read_reports, run_table, settings_table, small_png, table, times_table, values, write_report
from locallearning.lab.report_figures import draw_beside, draw_bounds, draw_critical, draw_curves, draw_spectra, draw_training, draw_worst
from locallearning.lab.reproduction import judge_report
from locallearning.lab.verdicts import FIELDS, estimate

ROOT = Path(__file__).resolve().parent.parent
ATTACKS = dict(rp='RP', rp_boxed='RP in the box', fgsm='FGSM', pgd='PGD', pgd_published='PGD, published')
SIDES = {'models as published': ['kh', 'bp', 'l2', 'jreg', 'specreg'], 'models as meant': ['kh', 'bp', 'jreg_meant', 'specreg_meant', 'prototypes']}
SPECTRA = dict(windows=dict(images=[10, 500], noise=[10, 100]), colors=dict(images='#01665e', noise='#8c510a'), extra=['data', 'init'])
only = lambda *attacks: {a: ATTACKS[a] for a in attacks}
MODELS = ['kh', 'bp', 'l2', 'jreg', 'specreg', 'jreg_meant', 'specreg_meant', 'prototypes']


def write(folder, numbers, seeds=(0,), profile='cpu', data='cifar10', spread=.01, **more):
    "A report of made-up numbers, (model, probe, quantity, setting[, flags]) → value, that grow by `spread` a seed."
    folder.mkdir(parents=True, exist_ok=True)
    for s in seeds:
        rows = [dict(zip(COLUMNS, (m, 'hebbian', p, q, at, 'lp_unit(p=3)', s, v*(1 + spread*s), '', *(flags or ['']))) ) for (m, p, q, at, *flags), v in numbers.items()]
        pd.DataFrame(rows, columns=COLUMNS).to_csv(folder/f'seed{s}-measurements.csv', index=False)
    config = dict(family='hebbian', profile=profile, seeds=list(seeds), overrides={}, stale=[], params=dict(data=data, window=[10, 500], noise_window=[10, 100]))
    (folder/'config.json').write_text(json.dumps(config | more))
    return read_report(folder)



@pytest.mark.parametrize('data, wd', [('mnist(per_class=30, val=5000)', .8932), ('mnist(per_class=100, val=5000)', .9408), ('cifar10(per_class=30)', None)])
def test_published_numbers_stand_beside_the_data_that_they_are_of_however_it_is_written(tmp_path, data, wd):
    report = write(tmp_path, {('wd', 'classifier', 'test_accuracy', ''): .9}, data=data, family='rkhs')
    assert published(report, 'classifier', 'test_accuracy').get('wd') == wd
    assert wd is None or report.data_name.startswith('MNIST, ') and report.data_name.endswith(' training digits of each class')


def everything(folder, **kwargs):
    "All that the notebooks of the Hebbian family measure, of all models."
    ranks, n = (1, 10, 50, 100), {}
    for i, m in enumerate(MODELS):
        n |= {(m, 'classifier', q, ''): v for q, v in dict(test_accuracy=.5 - .01*i, weight_norm_sq=200. + i, moved=.1*(i + 1)).items()}
        n |= {(m, 'classifier', 'epoch_accuracy', f'epoch={e}'): .1*e for e in (1, 2, 4)}
        n |= {(m, 'critical_norm', q, f'attack={a}'): f/(i + 1) for a in ATTACKS for q, f in dict(q1=.5, median=1., q3=2., never_broken=0.).items()}
        n |= {(m, 'accuracy_curve', 'relative_accuracy', f'attack={a};eps={e}'): math.exp(-e*(i + 1)) for a in ATTACKS for e in (.01, .1, 1.)}
        n |= {(m, 'accuracy_curve', 'clean', f'attack={a}'): .5 for a in ATTACKS}
        n |= {(m, 'worst_case', q, f'radius={r};eps={e}'): v/(i + 1) for q, v in dict(relative_accuracy=.9, accuracy=.45).items() for r, e in dict(small=.01, middle=.02, large=.1).items()}
        n |= {(m, 'landscape', 'q50', f'scale={s}'): 10. + i for s in ('near', 'far')}
    for m in ['data', 'init', *MODELS]:
        for k, a in dict(images=2., noise=.5).items():
            n |= {(m, 'spectrum', q, f'input={k}'): v for q, v in dict(exponent=a, intercept=0., r2=.9 if (m, k) == ('bp', 'noise') else .981).items()}
            n |= {(m, 'spectrum', 'relative_eigenvalue', f'input={k};rank={r}'): float(r)**-a for r in ranks}
    n |= {('kh', 'convergence', 'converged', ''): 0.}
    return write(folder, n, **kwargs)


def verdict(id, verdict='holds', ledger='paper', question='robust', **more):
    "A row of claims.csv; what is not said here is empty."
    row = dict.fromkeys(FIELDS, '') | dict(id=id, ledger=ledger, question=question, verdict=verdict, statement=f'Statement {id}', published='kh 0.12 > bp 0.04', source='Fig 1')
    if verdict in ('holds', 'fails', 'undecided'): row |= dict(measured='kh 0.16, bp 0.06', effect='× 2.7 [2.2, 3.4]', strength='3 seeds × 1000 images', p='.01')
    return row | more


OTHER, NEEDS = 'is about CIFAR-10, here digits', 'needs width = 2000 (here 5); `locallearning reproduce hebbian --profile paper` decides it (about 3 hours)'
VERDICTS = [verdict('a_b', statement='One | two', effect='kh > l2: × 1.65 [1.5, 1.8]'), verdict('c', 'fails', statement='Two', reason='allowed 1 to 2'), verdict('d', 'not comparable', statement='Three', reason=OTHER),
            verdict('e', 'not comparable', statement='Four', reason=OTHER), verdict('f', 'not comparable', statement='Five', reason=NEEDS), verdict('g', 'holds', 'outputs', 'accuracy', flags='kh masked'),
            *(verdict(i, v, 'ours', q, statement=f'Prediction {i}') for i, v, q in [('x', 'holds', 'spectrum'), ('y', 'undecided', 'order'), ('z', 'not run', 'norms')])]


@pytest.fixture(scope='module')
def full(tmp_path_factory):
    folder = tmp_path_factory.mktemp('reports')/'hebbian'/'cpu-cifar10'
    everything(folder, seeds=(0, 1, 2))
    pd.DataFrame(VERDICTS, columns=FIELDS).to_csv(folder/'claims.csv', index=False)
    unit = dict(seed=0, models='kh', notebook='01_kh_layer', state='done', executions=1, seconds=60., last=60., threads=2, machine=0, commit='0123456789abcdef', dirty=False, stale='')
    pd.DataFrame([unit, unit | dict(seed=1, executions=2, seconds=120.), unit | dict(models='all', state='not done')]).to_csv(folder/'units.csv', index=False)
    (folder/'hardware.json').write_text(json.dumps([dict(processor='A CPU', cores=2, memory=8, accelerator=None, system='Linux', machine='x86_64', versions=dict(torch='2'))]))
    return folder


# --- reading

def test_the_report_needs_no_torch():
    code = 'import sys, locallearning.lab.report, locallearning.lab.report_figures\nassert not {"torch", "papermill"} & set(sys.modules)'
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).returncode == 0


def test_a_folder_that_is_no_report_is_named(tmp_path):
    with pytest.raises(InputError, match='holds no report; `locallearning reproduce --report DIR`'): read_report(tmp_path)
    (tmp_path/'config.json').write_text('{"family": "ntk", "profile": "cpu", "params": {}}')
    with pytest.raises(InputError, match="about the family 'ntk'; there are hebbian"): read_report(tmp_path)


def test_a_run_that_has_just_been_started_can_be_read(tmp_path):
    report = write(tmp_path/'hebbian'/'cpu-cifar10', {}, seeds=())
    assert report.seeds == [] and count_page(report) == 'No claim has been judged yet.' and times_table(report) == 'No unit has ended yet.'
    assert {ledger_page(report, k) for k in LEDGERS} == {'No claim of this ledger has been judged yet.'} and '| seeds | none has ended yet |' in run_table(report)
    assert set(answers([report]).answer) == {'Not measured'} and answers_page([report]).startswith('Not measured yet: Is local learning') and answers_page([]) == 'Nothing has been run yet.'
    assert '| data |' not in settings_table(report)


def test_reports_stand_in_the_order_of_the_profiles_and_lacking_ones_are_known(full):
    found = read_reports(full.parents[1])['hebbian']
    assert list(found) == ['quick', 'cpu', 'paper', 'gpu-short'] and [len(v) for v in found.values()] == [0, 1, 0, 0]


def test_a_setting_is_met_exactly(tmp_path):
    same = ('bp', 'spectrum', 'exponent')
    report = write(tmp_path, {(*same, 'input=images'): 1., (*same, 'input=images;layer=features'): 2., (*same, 'input=images;precision=float32'): 3.})
    assert values(report, 'spectrum', 'exponent', dict(input='images')).loc['bp', 0] == 1 and values(report, 'spectrum', 'exponent', dict(layer='features', input='images')).loc['bp', 0] == 2
    assert len(values(report, 'spectrum', 'exponent')) == 0


def test_points_of_a_series_ascend_as_numbers(tmp_path):
    report = write(tmp_path, {('bp', 'accuracy_curve', 'relative_accuracy', f'attack=pgd;eps={e}'): .5 for e in ('0.1', '1e-05', '10', '2')})
    assert values(report, 'accuracy_curve', 'relative_accuracy', dict(attack='pgd'), 'eps').loc['bp'].index.tolist() == [1e-5, .1, 2, 10]


@given(st.lists(st.floats(.01, .99), min_size=3, max_size=6), st.sampled_from([*SCALES]))
def test_intervals_are_those_of_the_claims(x, scale):
    "On every scale that of a claim on the same number, where no image is known; a seed that lacks the number does not count."
    assume(np.std(x) > 1e-6)
    claim = Claim('c', 's', 'f', 'value', ('kh',), 'p', 'q', published=1., tolerance=.1, because='a test', ledger='ours', scale=scale)
    (spread,), = estimate(claim, pd.DataFrame(x)).spreads
    found = over_seeds([*x, math.nan], scale=scale)
    assert np.allclose(found[:3], (np.mean(x), *interval(spread, scale))) and found.low <= found.middle <= found.high
    assert SCALES[scale][0] <= found.low and found.high <= SCALES[scale][1]


@pytest.mark.parametrize('x', [[.5], [.4, .5], [.4, .5, math.nan], [.5, .5, .5], []])
def test_no_interval_where_there_are_not_three_seeds_that_differ(x):
    found = over_seeds(x)
    assert math.isnan(found.low) and math.isnan(found.high) and (math.isnan(found.middle) if not x else found.middle == np.nanmean(x))


# --- what stands beside what

def test_published_numbers_stand_only_beside_the_data_of_the_paper(tmp_path):
    ours, other = (write(tmp_path/d, {('kh', 'classifier', 'test_accuracy', ''): .4}, data=d) for d in ('cifar10', 'mnist5k'))
    assert published(ours, 'classifier', 'test_accuracy')['kh'] == .472 and published(other, 'classifier', 'test_accuracy') == {}
    diamond = lambda report: float(draw_beside(report, {'t': ('classifier', 'test_accuracy', {})}).axes[0].lines[0].get_ydata()[0])
    assert diamond(ours) == .472 and math.isnan(diamond(other))


def sandwich(lower, product, matrix, at='eps=0.5;n=200'):
    return {('bp', 'bounds', 'lower', at): lower, ('bp', 'bounds', 'product', at): product, ('bp', 'bounds', 'matrix_product', at): matrix}


def test_bounds_are_means_over_seeds_with_their_intervals_and_refusals_keep_their_flag(tmp_path):
    rows = sandwich(4., 60., 3.) | {('kh', 'bounds', 'lower', 'eps=0.5;n=200', 'no upper bound'): 2.}
    report = write(tmp_path/'a', rows, seeds=(0, 1, 2), spread=.1)
    figure = draw_bounds(report)
    dots = {o.get_markerfacecolor() == 'white': o.get_xydata()[0].tolist() for o in figure.axes[0].lines if o.get_color() == colors(report)['BP'] and len(o.get_xdata()) == 1}
    assert dots[False] == pytest.approx([4.4, 66]) and dots[True] == pytest.approx([4.4, 3.3])
    spans = [c.get_segments()[0] for c in figure.axes[0].collections[1:]]
    low, high = interval(spreads(np.array([4., 4.4, 4.8])[:, None])[0][0], 'positive')
    assert any(np.allclose(s, [[low, 66], [high, 66]]) for s in spans)
    words = [t.get_text() for t in figure.legends[0].get_texts()]
    assert words[:2] == ['KH: no upper bound', 'BP'] and '95 % interval over seeds' in words
    one = [t.get_text() for t in draw_bounds(write(tmp_path/'b', sandwich(4., 60., 3.))).legends[0].get_texts()]
    assert one[0] == 'BP' and '95 % interval over seeds' not in one


def test_bounds_of_two_settings_are_not_mixed(tmp_path):
    report = write(tmp_path, sandwich(4., 60., 3.) | sandwich(8., 60., 3., at='eps=1;n=200'))
    with pytest.raises(InputError, match='have 2 settings: eps=0.5;n=200 and eps=1;n=200; choose one'): draw_bounds(report)
    assert draw_bounds(report, dict(eps='1', n='200')).axes[0].lines[1].get_xdata()[0] == 8
    with pytest.raises(InputError, match='have 0 settings: none'): draw_bounds(write(tmp_path/'none', {('bp', 'classifier', 'test_accuracy', ''): .5}))


def test_published_numbers_are_of_models_and_quantities_that_exist(full):
    about, report = find_family('hebbian')[0].about, read_report(full)
    for group in about['published']:
        for row in group.get('each', [{}]):
            row = group | row
            setting = dict(part.split('=') for part in row.get('setting', '').split(';') if part)
            assert set(row['values']) <= {*about['models'], 'data', 'init'} and len(values(report, row['probe'], row['quantity'], setting)), row


def test_claims_and_published_numbers_agree():
    "What stands in two places of family.toml is the same number."
    about, seen = find_family('hebbian')[0].about, {}
    for group in about['published']:
        for row in group.get('each', [{}]):
            for m, v in (group | row)['values'].items(): seen[m, (group | row)['probe'], (group | row)['quantity'], (group | row).get('setting', '')] = v
    checked = 0
    for group in about['claims']:
        for row in group.get('each', [{}]):
            c = group | row
            key = lambda m: (m, c['probe'], c['quantity'], c.get('setting', ''))
            if c['kind'] == 'value' and 'model' in c and key(c['model']) in seen: assert seen[key(c['model'])] == c['published'], c['id']; checked += 1
            if c['kind'] == 'order' and c.get('published'):
                for m, v in zip(c['models'], c['published']):
                    if key(m) in seen: assert seen[key(m)] == pytest.approx(v, abs=.0005), c['id']; checked += 1
    assert checked > 40


def test_sides_stand_side_by_side(full):
    figure = draw_curves(read_report(full), only('rp', 'pgd'), SIDES)
    assert [ax.get_title() for ax in figure.axes] == [f'{a}{what}: {s}' for a in ('RP', 'PGD') for what in ('', ', all images') for s in SIDES] and [len(ax.lines) for ax in figure.axes] == [5]*8
    assert len(figure.axes[0].collections) == 5, 'a band for each line'


def test_one_seed_has_no_interval(tmp_path, full):
    one = everything(tmp_path/'one', seeds=(0,))
    assert not draw_curves(one, only('pgd'), SIDES).axes[0].collections and math.isnan(over_seeds([1.]).low) and number(over_seeds([.25])) == '0.25'
    legend = lambda r: draw_beside(r, {'t': ('classifier', 'test_accuracy', {})}).legends[0].get_texts()[0].get_text()
    assert legend(one) == 'measured' and legend(read_report(full)) == 'measured, 95 % interval over seeds'


def test_what_is_drawn_is_what_was_measured(full):
    report = read_report(full)
    box = draw_critical(report, only('pgd')).axes[0].patches[0]
    q1, q3 = (values(report, 'critical_norm', q, dict(attack='pgd')).loc['kh'].mean() for q in ('q1', 'q3'))
    assert box.get_y() == pytest.approx(q1) and box.get_height() == pytest.approx(q3 - q1)
    worst = draw_worst(report)
    assert [ax.get_title() for ax in worst.axes] == [f'{r}{what}\neps = {e}' for what in ('', ', all images') for r, e in (('small', .01), ('middle', .02), ('large', .1))], 'in the order of the radii'
    assert [ax.get_ylabel() for ax in worst.axes] == ['relative accuracy', '', '', 'accuracy', '', '']
    texts = {t.get_text() for ax in draw_spectra(report, **SPECTRA).axes for t in ax.texts}
    assert 'n^-2.02, R² .991 (2.67)' in texts and 'no power law, R² .909 (0.97)' in texts
    assert draw_training(report, SIDES).axes[0].lines[0].get_xdata().tolist() == [1, 2, 4]


def test_a_star_and_a_flag_are_seen(tmp_path):
    report = write(tmp_path, {('kh', 'classifier', 'test_accuracy', ''): .4, ('bp', 'classifier', 'test_accuracy', '', 'masked'): .5}, spread=0)
    names = lambda r: [t.get_text() for t in draw_beside(r, {'t': ('classifier', 'test_accuracy', {})}).axes[0].get_xticklabels()]
    starred = replace(report, starred=('kh',))
    assert names(report) == ['KH', 'BP †'] and names(starred) == ['KH*', 'BP †']
    assert labels(starred, ['kh', 'bp']) == dict(kh='KH*', bp='BP') and colors(report)['KH*'] == colors(report)['KH']


def test_a_flag_is_explained_in_its_own_words(tmp_path):
    same = ('classifier', 'test_accuracy', '')
    report = write(tmp_path, {('kh', *same, 'survivors;zero gradient'): .4, ('bp', *same, 'zero gradient'): .5, ('l2', 'classifier', 'moved', '', 'masked'): .1, ('l2', *same): .5}, spread=0)
    figure = draw_beside(report, {'t': ('classifier', 'test_accuracy', {})})
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ['KH † ‡', 'BP ‡', 'L2'], 'a flag of another quantity is not one of this'
    assert [t.get_text() for t in figure.legends[0].get_texts()][-2:] == ['† survivors', '‡ zero gradient']


def exponents(folder, **r2): # of several seeds, as float32 had none
    rows = {(m, 'spectrum', 'exponent', 'input=images', 'no power law' if m == 'bp' else ''): 2.5 for m in ('kh', 'bp', 'l2')}
    return write(folder, rows | {(m, 'spectrum', 'r2', 'input=images'): v for m, v in r2.items()}, seeds=(0, 1), spread=0)


def test_an_exponent_has_its_r2_and_another_dot_where_there_is_no_power_law(tmp_path):
    figure = draw_beside(exponents(tmp_path, kh=.9801, bp=.9799), {'t': ('spectrum', 'exponent', dict(input='images'))})
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ['KH, R² .980', 'BP, R² .9799', 'L2, R² unknown']
    words = [t.get_text() for t in figure.legends[0].get_texts()]
    assert 'no power law: R² below 0.98' in words and 'R² unknown' in words and not any('†' in w for w in words)
    dots = [line for line in figure.axes[0].lines if line.get_marker() in ('o', 'x')]
    assert [(d.get_marker(), d.get_markerfacecolor() == 'white') for d in dots] == [('o', False), ('o', True), ('x', False)]


def test_accuracy_is_relative_times_clean_where_the_table_has_no_other(tmp_path):
    rows = {('kh', 'accuracy_curve', 'clean', 'attack=pgd'): .5, ('kh', 'accuracy_curve', 'accuracy', 'attack=pgd;eps=0.2'): .3}
    rows |= {('kh', 'accuracy_curve', 'relative_accuracy', f'attack=pgd;eps={e}'): v for e, v in ((.1, .8), (.2, .4))}
    above, below = draw_curves(write(tmp_path, rows), only('pgd'), SIDES).axes
    assert above.lines[0].get_ydata().tolist() == [.8, .4] and below.lines[0].get_ydata().tolist() == [.3] and below.get_ylabel() == 'accuracy'
    del rows['kh', 'accuracy_curve', 'accuracy', 'attack=pgd;eps=0.2']
    assert draw_curves(write(tmp_path/'product', rows), only('pgd'), SIDES).axes[1].lines[0].get_ydata() == pytest.approx([.4, .2])
    del rows['kh', 'accuracy_curve', 'clean', 'attack=pgd']
    assert [ax.get_ylabel() for ax in draw_curves(write(tmp_path/'old', rows), only('pgd'), SIDES).axes] == ['relative accuracy']


def test_radii_are_told_in_255ths_where_the_tables_know_them(tmp_path):
    report = everything(tmp_path/'a')
    assert not draw_curves(report, only('pgd'), SIDES).axes[0].child_axes and '255' not in draw_worst(report).axes[0].get_title()
    row = dict(zip(COLUMNS, ('data', 'hebbian', 'images', 'eps_in_255ths', '', 'lp_unit(p=3)', 0, 400., '', '')))
    known = replace(report, measurements=pd.concat([report.measurements, pd.DataFrame([row | dict(keys={})])], ignore_index=True))
    assert draw_worst(known).axes[0].get_title() == 'small\neps = 0.01 ≈ 4/255'
    figure = draw_curves(known, only('pgd'), SIDES)
    figure.draw_without_rendering()
    for ax in figure.axes: assert ax.child_axes[0].get_xlim() == pytest.approx([400*x for x in ax.get_xlim()])


def test_a_flag_says_once_that_a_norm_was_read_off_a_grid(tmp_path):
    norms = {('kh', 'critical_norm', q, 'attack=pgd', 'read off a grid;survivors'): v for q, v in dict(q1=.5, median=1., q3=2.).items()}
    figure = draw_critical(write(tmp_path, norms), only('pgd'))
    assert figure.axes[0].get_title() == 'PGD, read off a grid' and figure.axes[0].get_xticklabels()[0].get_text() == 'KH †'
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ['measured', 'published, other grid', '† survivors']


@pytest.mark.parametrize('profile,overrides,label', [('cpu', {}, 'published, other grid'), ('paper', {}, 'published'), ('paper', dict(width=5), 'published, other grid')])
def test_norms_off_a_grid_are_marked_and_so_is_the_grid_of_the_published_ones(tmp_path, profile, overrides, label):
    report = everything(tmp_path, profile=profile)
    report.config['overrides'] = overrides
    both = draw_critical(report, only('rp', 'pgd'))
    assert [ax.get_title() for ax in both.axes] == ['RP, read off a grid', 'PGD'] and both.legends[0].get_texts()[1].get_text() == 'published, other grid'
    assert draw_critical(report, only('rp')).legends[0].get_texts()[1].get_text() == label


def test_a_range_is_drawn_as_a_range():
    ax = plot_beside(dict(t=dict(KH=Range(20., published=(15., 28.6))))).axes[0]
    assert (ax.patches[0].get_y(), ax.patches[0].get_height()) == (15, pytest.approx(13.6))


# --- tables and claims

def test_cells_of_a_table_stay_in_their_column():
    assert table([{'a': 'x | y\nz', 'b': '*'}]).splitlines()[2] == '| x \\| y z | \\* |'


def test_claims_that_were_decided_have_a_line_and_the_rest_a_fold_a_reason(full):
    page = ledger_page(read_report(full), 'paper')
    assert page.startswith('5 claims: 1 holds, 1 fails, 3 not comparable.') and 'Prediction' not in page
    assert '| One \\| two | KH 0.12 > BP 0.04 | KH 0.16, BP 0.06 | KH > L2: × 1.65 [1.5, 1.8] | 3 seeds × 1000 images; p .01 |' in page and 'p .01; allowed 1 to 2 |' in page
    assert page.index('**1 holds**') < page.index('One') < page.index('**1 fails**') < page.index('| Two') < page.index('<details>'), 'what was decided comes first'


def test_what_is_secondary_is_folded(full):
    "Each fold closes, shows its reason and hides its statements; where HTML begins, Markdown needs an empty line."
    page = ledger_page(read_report(full), 'paper')
    folds = page.split('<details>')[1:]
    assert [f.splitlines()[0] for f in folds] == ['<summary>2 not comparable: the claim is about CIFAR-10, here digits</summary>',
        '<summary>1 not comparable: the claim needs width = 2000 (here 5); <code>locallearning reproduce hebbian --profile paper</code> decides it (about 3 hours)</summary>']
    assert [[line for line in f.splitlines() if line.startswith('- ')] for f in folds] == [['- Three', '- Four'], ['- Five']]
    assert all(f.splitlines()[1] == '' and f.rstrip().endswith('\n\n</details>') for f in folds)
    names = names_page([Claim('an_id', 'What is said', 'Fig 3', 'value', ('kh',), 'p', 'q', published=1., tolerance=.25, because='a quarter', ledger='ours')])
    assert names.startswith('<details><summary>Identifiers') and '- `an_id`: What is said (Fig 3; ± 0.25: a quarter)' in names and names.endswith('</details>')


def test_ledgers_are_counted_and_told_apart(full):
    report = read_report(full)
    assert [line.split(' | ')[1:] for line in count_page(report).splitlines()[2:]] == [['5', '1', '1', '0', '3', '0 |'], ['1', '1', '0', '0', '0', '0 |'], ['3', '1', '0', '1', '0', '1 |']]
    ours = ledger_page(report, 'ours')
    assert ours.startswith('3 claims: 1 holds, 1 undecided, 1 not run.') and '| statement | predicted | measured |' in ours and 'One' not in ours and 'Statement' not in ours
    assert 'KH masked |' in ledger_page(report, 'outputs') and '| statement | published |' in ledger_page(report, 'outputs')


# --- answers

@pytest.mark.parametrize('said, words', [
    ('hh', 'Yes: 2 hold'), ('h', 'Yes: 1 holds'), ('hhu', 'Yes: 2 hold, 1 undecided'), ('ff', 'No: 2 fail'), ('ffu', 'No: 2 fail, 1 undecided'),
    ('hf', 'In part: 1 holds, 1 fails'), ('hhhf', 'In part: 3 hold, 1 fails'), ('huu', 'In part: 1 holds, 2 undecided'), ('fuu', 'In part: 1 fails, 2 undecided'),
    ('hu', 'In part: 1 holds, 1 undecided'), ('uu', 'Undecided: 2 undecided'), ('nn', 'Not measured'), ('cn', 'Not measured'), ('', 'Not measured'),
    ('hhc', 'Yes: 2 hold'), ('hcn', 'Yes so far: 1 holds'), ('fccc', 'No so far: 1 fails'), ('unn', 'Undecided so far: 1 undecided')])
def test_an_answer_counts_and_is_no_majority_vote(said, words):
    kinds = dict(h='holds', f='fails', u='undecided', c='not comparable', n='not run')
    assert answer(pd.DataFrame(dict(verdict=[kinds[k] for k in said]))) == words


@given(st.lists(st.sampled_from(['holds', 'fails', 'undecided', 'not comparable', 'not run']), max_size=8))
def test_nothing_that_speaks_against_an_answer_is_passed_over(said):
    words = answer(pd.DataFrame(dict(verdict=said)))
    if words.startswith('Yes'): assert 'holds' in said and 'fails' not in said and said.count('undecided') < said.count('holds')
    if words.startswith('No ') or words.startswith('No:'): assert 'fails' in said and 'holds' not in said
    assert ('Not measured' == words) == (not {'holds', 'fails', 'undecided'} & {*said}) and words == answer(pd.DataFrame(dict(verdict=said[::-1]))), 'in any order'


def said(reports, question):
    found, asked = answers(reports).set_index('question'), find_family('hebbian')[0].about['questions'][question]
    return found.loc[asked['text'] if isinstance(asked, dict) else asked]


def reported(folder, rows, **kwargs):
    report = write(folder, {('kh', 'classifier', 'test_accuracy', ''): .4}, **kwargs)
    return replace(report, claims=pd.DataFrame(rows, columns=FIELDS))


def test_a_question_has_its_answer_its_effect_and_what_speaks_against_it(full):
    found = said([read_report(full)], 'robust')
    assert found.answer == 'In part so far: 1 holds, 1 fails' and found.effect == 'KH > L2: × 1.65 [1.5, 1.8] (One | two)' and found.strength == '3 seeds × 1000 images, p .01'
    assert found.caveat == '3 of 5 claims need another run' and said([read_report(full)], 'accuracy').caveat == 'KH masked'
    assert said([read_report(full)], 'norms').tolist() == ['Not measured', '', '', '', '']


def test_what_was_seen_before_and_a_single_seed_are_caveats(tmp_path):
    rows = [verdict('a', strength='one seed × 200 images', after='written after a look'), verdict('b', flags='kh masked, read off a grid', after='written after a look'), verdict('c', 'not run', after='of no weight')]
    assert said([reported(tmp_path, rows)], 'robust').caveat == 'one seed; KH masked; read off a grid; written after a look; 1 of 3 claims need another run'


def test_the_effect_is_that_of_the_headline_else_of_what_was_decided(tmp_path):
    headline = find_family('hebbian')[0].about['questions']['robust']['headline']
    effect = lambda *rows: said([reported(tmp_path, rows)], 'robust').effect.partition(' (')[2]
    first, later, named = verdict('a', 'undecided'), verdict('b', 'fails'), lambda v: verdict(headline, v)
    assert effect(first, later, named('undecided')) == f'Statement {headline})' and effect(first, later) == 'Statement b)' and effect(first) == 'Statement a)'
    assert effect(first, later, named('not comparable')) == 'Statement b)', 'what was not weighed has no effect'


def test_a_question_is_answered_by_the_run_that_decides_most(tmp_path):
    small = reported(tmp_path/'small', [verdict('a', 'undecided'), verdict('b', 'undecided'), verdict('c', question='accuracy')], profile='quick', data='mnist5k')
    large = reported(tmp_path/'large', [verdict('a'), verdict('b', 'not run'), verdict('c', 'not run', question='accuracy')])
    for reports in ([small, large], [large, small]):
        assert said(reports, 'robust')[['answer', 'run']].tolist() == ['Yes: 1 holds', large.name] and said(reports, 'accuracy').run == small.name
    page = answers_page([small, large])
    assert page.count('From *') == 2 and large.name in page and small.name in page


def test_the_opening_table_has_labels_and_the_questions_that_nobody_has_answered(full):
    page = answers_page([read_report(full)])
    head, line = page.splitlines()[0], next(line for line in page.splitlines() if 'One \\| two' in line)
    assert head == '| question | answer | effect | strength | caveat |' and line.startswith('| Is local learning more robust than backprop? | In part so far: 1 holds, 1 fails | KH > L2: × 1.65')
    rest, = [line for line in page.splitlines() if line.startswith('Not measured yet: ')]
    asked = find_family('hebbian')[0].about['questions']
    assert len(rest.split(' · ')) == len(asked) - 4 and asked['norms'] in rest and asked['spectrum'] not in rest
    assert page.splitlines()[-1] == f'From *{read_report(full).name}*, 3 seeds.', 'its parameters have no size that is not the paper\'s'
    words = set(page.replace('|', ' ').split())
    assert not words & {'kh', 'bp', 'l2', 'jreg', 'specreg'}, 'keys of models are for tables, not for people'


def test_a_smaller_run_says_in_what(tmp_path):
    report = reported(tmp_path, [verdict('a')], params=dict(data='cifar10', width=1000, k=2, images=10000))
    assert answers_page([report]).splitlines()[-1] == f'From *{report.name}*, 1 seed; smaller than the paper: width 1000 in place of 2000.'


def test_names_of_models_are_explained_and_what_was_read_is_said():
    family = find_family('hebbian')[0]
    lines = models_key(family).splitlines()
    assert len(lines) == 2 + len(family.models) and all(a['label'] in line and a['about'] in line for a, line in zip(family.models.values(), lines[2:]))
    assert '| `SHLP()` + `PublishedLp(5e-4, p=2)` |' in lines[4]
    about = family.about['sources']
    assert all(part in sources_page(family) for part in (about['paper'], *about['read'], *about['unread'])) and sources_page(replace(family, about={})) == ''


def test_what_was_not_run_has_its_command_and_its_cost(full):
    profiles, costs = read_reports(full.parents[1])['hebbian'], find_family('hebbian')[0].about['costs']
    assert not_run_page({p: found for p, found in profiles.items() if p != 'quick'}).splitlines() == [
        f'- {p}: `locallearning reproduce hebbian --report reports --profile {p}`, {costs[p]}' for p in ('paper', 'gpu-short')]
    assert not_run_page(dict(cpu=profiles['cpu'])) == 'Every profile has been run.'


def test_times_say_what_was_resumed(full):
    page = times_table(read_report(full))
    assert '| kh | 1.5 | 1.5 | 1 executed again |' in page and '1 not done' in page and page.startswith('All units together: 0.07 hours')


def test_settings_that_differ_stand_beside_those_of_the_paper(tmp_path):
    accuracy, same = {('kh', 'classifier', 'test_accuracy', ''): .5}, dict(data='cifar10', window=[10, 500], noise_window=[10, 100])
    page = settings_table(write(tmp_path/'cpu', accuracy, params=same | dict(window=[10, 300])))
    assert '| window | [10, 300] | [10, 500] |' in page and 'noise_window' not in page and '| data |' not in page
    assert '| lr of kh | Steps(1e-2, [(51, 3e-3), (81, 1e-3)]) | – |' in page
    report = write(tmp_path/'paper', accuracy, profile='paper', params=same)
    late = {m: a['after'] for m, a in report.family.models.items() if 'after' in a}
    assert [line.split(' | ')[0] for line in settings_table(report).splitlines()[2:]] == [f'| lr of {m}' for m in late] and all(why in settings_table(report) for why in late.values()), 'chosen after a look'
    models = {m: {k: v for k, v in a.items() if k != 'after'} for m, a in report.family.models.items()}
    as_published = replace(report, family=replace(report.family, about=report.family.about | dict(models=models)))
    assert settings_table(as_published) == 'All settings are those of the paper.'


def test_a_side_that_would_repeat_the_other_is_not_drawn(tmp_path):
    curve = lambda *models: {(m, 'accuracy_curve', 'relative_accuracy', f'attack=pgd;eps={e}'): 1 - e for m in models for e in (.1, .5)}
    titles = lambda *models: [ax.get_title() for ax in draw_curves(write(tmp_path/'-'.join(models), curve(*models)), only('pgd'), SIDES).axes]
    assert titles('kh', 'bp', 'l2') == ['PGD: models as published']
    assert titles('kh', 'bp', 'jreg_meant') == ['PGD: models as published', 'PGD: models as meant']


def test_the_run_is_described(full):
    page = run_table(read_report(full))
    for part in ('| seeds | 0, 1, 2 |', 'A CPU, 2 cores, 8 GiB; no accelerator', 'torch 2', '| threads per unit | 2 |', '| code | 0123456789 |', '| results of older code | none |'): assert part in page


def test_stale_results_and_uncommitted_code_are_named(full, tmp_path):
    for p in full.iterdir(): (tmp_path/p.name).write_text(p.read_text().replace(',False,', ',True,model-kh'))
    config = json.loads((tmp_path/'config.json').read_text())
    (tmp_path/'config.json').write_text(json.dumps(config | dict(overrides=dict(width=5))))
    page = run_table(read_report(tmp_path))
    assert '| results of older code | model-kh |' in page and 'with changes that were not committed' in page and '| changed | width=5 |' in page


# --- claims and committed verdicts

@pytest.mark.parametrize('family', families(ROOT/'nbs'/'experiments').values(), ids=lambda f: f.name)
def test_claims_of_the_families_speak_of_what_there_is(family):
    for c in read_claims(family.about):
        assert {m.removesuffix('_wide') for m in c.models} <= {*family.models, 'data', 'init'}, c.id
        assert 'wide' in c.needs or not any(m.endswith('_wide') for m in c.models), f'{c.id}: a layer of the published width has it'
        if c.ledger == 'ours': assert len(c.source) > 30, 'what it follows from is said'
        if c.other: assert len({(p.models, p.probe, p.quantity, p.setting) for p in parts(c)}) == 2, c.id


def test_every_claim_is_measured_by_the_notebooks():
    "The names in the rules are those of the rows that the experiments write: checked against a table that they wrote."
    report = read_report(ROOT/'reports'/'hebbian'/'cpu-cifar10-9k-328333')
    written = {*zip(report.measurements.probe, report.measurements.quantity)}
    claims = read_claims(find_family('hebbian')[0].about)
    assert sum(c.ledger == 'ours' for c in claims) >= 46
    for c in claims:
        for part in parts(c): assert (part.probe, part.quantity) in written, c.id


@pytest.mark.parametrize('folder', sorted(p.parent for p in (ROOT/'reports').glob('*/*/config.json')), ids=lambda p: p.name)
def test_committed_verdicts_follow_from_the_committed_numbers(folder, tmp_path):
    "From the tables alone, of measurements and of images, byte for byte: `make report` has been run since a number, a claim or a rule changed."
    copy = shutil.copytree(folder, tmp_path/folder.name)
    (copy/'claims.csv').unlink()
    verdicts = judge_report(copy)
    assert verdicts.id.tolist() == [c.id for c in read_claims(read_report(copy).family.about)]
    again, committed = (path.joinpath('claims.csv').read_text().splitlines() for path in (copy, folder))
    assert [pair for pair in zip(again, committed) if pair[0] != pair[1]] == [] and (copy/'claims.csv').read_bytes() == (folder/'claims.csv').read_bytes()


# --- the page

@pytest.fixture(scope='module')
def page(full, tmp_path_factory):
    folder = tmp_path_factory.mktemp('page')/'nbs'
    folder.mkdir()
    everything(full.parent/'quick-mnist5k', profile='quick', data='mnist5k')
    return json.loads(write_report(find_family('hebbian')[0], full.parents[1], folder/'reproduction.ipynb').read_text())


def shown(page, mime): return [(c, o['data'][mime]) for c in page['cells'] for o in c.get('outputs', []) if mime in o.get('data', {})]


def test_the_page_shows_every_part_of_every_report_and_names_what_was_not_run(page):
    pictures, texts = shown(page, 'image/png'), [''.join(text) for _, text in shown(page, 'text/markdown')]
    first, *others = [[p for c, p in pictures if c['id'] == i] for i in dict.fromkeys(c['id'] for c, _ in pictures)]
    assert len(first) == 1 and [len(of) for of in others] == [2]*11, 'the worst case of the largest run opens the page, then each figure is there for both'
    assert all('#| fig-alt: ' in c['source'] for c, _ in pictures)
    names = [f'**{p} on {d}**' for p, d in (('cpu', 'CIFAR-10, all 50,000 training images'), ('quick', 'MNIST, 4,000 training digits'))]
    tables = len([c for c in page['cells'] if c['source'].startswith('#| echo: false\neach(reports, ')])
    assert [texts.count(name) for name in names] == [1 + tables + 11, tables + 11] and tables == 7
    assert '`locallearning reproduce hebbian --report reports --profile paper' in texts[-1] and '--profile cpu' not in texts[-1]
    assert not shown(page, 'text/plain') and not [o for c in page['cells'] for o in c.get('outputs', []) if o['output_type'] in ('stream', 'error')]


def test_the_page_is_a_notebook_with_the_ids_of_its_source_and_nothing_of_its_execution(page):
    source = json.loads((find_family('hebbian')[0].folder/'report.ipynb').read_text())
    assert [c['id'] for c in page['cells']] == [c['id'] for c in source['cells']] and not any(c['metadata'] for c in page['cells'])
    differ = [c['source'] for c, s in zip(page['cells'], source['cells']) if c['source'] != ''.join(s['source'])]
    assert len(differ) == 1 and differ[0].startswith('#| hide') and 'reports' in differ[0], 'the parameters, as they were set'
    assert [*page['metadata']] == ['kernelspec'] and not any(c.get('execution_count') for c in page['cells'])


def test_the_page_answers_before_it_counts_and_counts_before_it_shows(page):
    "Questions, then the picture, then who the models are, then claims by ledger; names of claims and what nobody ran come last in their part."
    texts = [''.join(text) for _, text in shown(page, 'text/markdown')]
    found = [next(i for i, text in enumerate(texts) if part in text) for part in (
        '| question | answer |', '| model | what | recipe |', 'Source: ', '| ledger | claims |', '| statement | published |', '| statement | predicted |', '<summary>Identifiers', '| | this run |'.replace('| |', '|  |'))]
    assert found == sorted(found) and found[0] == 0


def test_the_front_page_has_a_line_a_question_and_a_link_a_family(full, tmp_path):
    target = write_front(full.parents[1], tmp_path/'nbs'/'front.ipynb', dict(hebbian='results/hebbian.ipynb'))
    page = json.loads(target.read_text())
    title, _, *parts = [c['source'] for c in page['cells']]
    assert title.startswith('# ') and {c['cell_type'] for c in page['cells']} == {'markdown'} and len({c['id'] for c in page['cells']}) == len(page['cells'])
    family = find_family('hebbian')[0]
    assert len(parts) == 1 and parts[0].startswith(f'## {family.title}\n') and parts[0].count('](results/hebbian.ipynb)') == 1, 'a family without a report has no part'
    lines = [line for line in parts[0].splitlines() if line.startswith('| ')]
    reports = [r for found in read_reports(full.parents[1])['hebbian'].values() for r in found]
    answered = answers(reports)[lambda a: a.answer != 'Not measured']
    assert lines[0] == '| question | answer | effect | strength |' and [line.split(' | ')[0][2:] for line in lines[1:]] == answered.question.tolist() and len(answered) == 4
    assert write_front(full.parents[1], target, dict(hebbian='results/hebbian.ipynb')).read_text() == json.dumps(page, indent=1, sort_keys=True, ensure_ascii=False) + '\n', 'equal tables give equal pages'


def test_the_front_page_of_nothing_is_its_opening(tmp_path):
    assert len(json.loads(write_front(tmp_path, tmp_path/'front.ipynb', {}).read_text())['cells']) == 2


def test_the_front_page_is_there_for_a_run_that_has_just_been_started(tmp_path):
    write(tmp_path/'reports'/'hebbian'/'cpu-cifar10', {}, seeds=())
    assert '[the whole report](a.ipynb)' in write_front(tmp_path/'reports', tmp_path/'front.ipynb', dict(hebbian='a.ipynb')).read_text()


@pytest.mark.skipif(not (ROOT/'nbs'/'results').is_dir(), reason='no page yet')
def test_the_committed_front_page_is_that_of_the_committed_tables(tmp_path):
    pages = {p.stem: f'results/{p.name}' for p in sorted((ROOT/'nbs'/'results').glob('*.ipynb'))}
    assert write_front(ROOT/'reports', tmp_path/'front.ipynb', pages).read_bytes() == (ROOT/'nbs'/'reproduction.ipynb').read_bytes(), 'run `make report`'


# --- pictures

def encoded(image):
    out = io.BytesIO()
    image.save(out, 'PNG')
    return base64.b64encode(out.getvalue()).decode()


def pixels(picture): return np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))).convert('RGB')).astype(int)


def drawn(figure):
    out = io.BytesIO()
    figure.savefig(out, format='png', dpi=100)
    return base64.b64encode(out.getvalue()).decode()


def test_a_small_picture_looks_as_before_and_is_smaller(full):
    for figure in (draw_curves(read_report(full), only('pgd', 'rp'), SIDES), draw_spectra(read_report(full), **SPECTRA)):
        before = drawn(figure)
        after = small_png(before)
        a, b = pixels(before), pixels(after)
        off = np.abs(a - b).max(-1)
        assert a.shape == b.shape and len(after) < .6*len(before) and len(np.unique(b.reshape(-1, 3), axis=0)) <= 128
        assert off.max() <= 32 and off.mean() < 3 and (off[(a == 255).all(-1)] <= 2).all(), 'and paper stays white'


@given(st.lists(st.tuples(*[st.integers(0, 255)]*3), min_size=1, max_size=8, unique=True))
def test_a_picture_of_few_colours_keeps_them(colors):
    image = np.repeat(np.array(colors, np.uint8), 16, 0)[None].repeat(20, 0)
    assert np.abs(pixels(small_png(encoded(Image.fromarray(image)))) - image).max() <= 8


def test_nothing_is_seen_through_a_small_picture():
    "What is transparent becomes white, as the page is in print; twice is once."
    once = small_png(encoded(Image.new('RGBA', (30, 20), (0, 0, 0, 0))))
    assert (pixels(once) >= 253).all() and pixels(once).shape == (20, 30, 3) and (pixels(small_png(once)) == pixels(once)).all()


def test_a_part_that_nobody_measured_says_so(tmp_path, capsys):
    report = write(tmp_path, {('kh', 'classifier', 'test_accuracy', ''): .4})
    each([report], lambda r: 'seen', 'classifier'); each([report], lambda r: 'not to be seen', 'spectrum')
    assert capsys.readouterr().out.splitlines() == [f'**{report.name}** seen', 'Not measured yet.'] and report.name == 'cpu on CIFAR-10, all 50,000 training images'


def test_a_family_without_a_report_is_named(tmp_path):
    with pytest.raises(InputError, match='family hebbian has no report'): write_report(replace(find_family('hebbian')[0], folder=tmp_path), tmp_path, tmp_path/'page.ipynb')
