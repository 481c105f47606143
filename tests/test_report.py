"""The report: every number from a table, published numbers only beside the paper's data, predictions decided by their declared rules."""
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, strategies as st

from locallearning.core import COLUMNS, InputError
from locallearning.figures.seeds import Range, plot_beside
from locallearning.lab.claims import parts, read_claims
from locallearning.lab.families import families, find_family
from locallearning.lab.report import (claims_page, colors, each, labels, number, over_seeds, predictions_page, published, read_report, read_reports, run_table, settings_table,
                                      table, times_table, values, write_report)
from locallearning.lab.report_figures import draw_beside, draw_critical, draw_curves, draw_spectra, draw_training, draw_worst
from locallearning.lab.verdicts import judge, seed_interval

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


@pytest.fixture(scope='module')
def full(tmp_path_factory):
    folder = tmp_path_factory.mktemp('reports')/'hebbian'/'cpu-cifar10'
    everything(folder, seeds=(0, 1, 2))
    claims = [('a_b', 'One | two', 'holds', '3 seeds'), ('c', 'Two', 'fails', '3 seeds'), ('d', 'Three', 'not comparable', 'other'), ('e', 'Four', 'not comparable', 'other')]
    claims = [dict(id=i, ledger='paper', statement=s, published='1', measured='2', interval='[1, 3]', verdict=v, reason=r, source='Fig 1') for i, s, v, r in claims]
    ours = [claims[0] | dict(id=i, ledger='ours', statement=f'Prediction {i}', source=source) for i, source in [('x', 'The first'), ('y', 'The first'), ('z', 'The second')]]
    pd.DataFrame([*claims, *ours]).to_csv(folder/'claims.csv', index=False)
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
    assert report.seeds == [] and claims_page(report) == 'No claim has been judged yet.' and times_table(report) == 'No unit has ended yet.'
    assert predictions_page(report) == 'No prediction has been judged yet.' and '| seeds | none has ended yet |' in run_table(report)
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


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=6))
def test_intervals_are_those_of_the_claims(x):
    low, high = seed_interval(np.array(x)[:, None])
    assert np.allclose(over_seeds([*x, math.nan])[:3], (np.mean(x), low[0], high[0]))


# --- what stands beside what

def test_published_numbers_stand_only_beside_the_data_of_the_paper(tmp_path):
    ours, other = (write(tmp_path/d, {('kh', 'classifier', 'test_accuracy', ''): .4}, data=d) for d in ('cifar10', 'mnist5k'))
    assert published(ours, 'classifier', 'test_accuracy')['kh'] == .472 and published(other, 'classifier', 'test_accuracy') == {}
    diamond = lambda report: float(draw_beside(report, {'t': ('classifier', 'test_accuracy', {})}).axes[0].lines[0].get_ydata()[0])
    assert diamond(ours) == .472 and math.isnan(diamond(other))


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
    assert above.lines[0].get_ydata().tolist() == [.8, .4] and below.lines[0].get_ydata() == pytest.approx([.4, .3]) and below.get_ylabel() == 'accuracy'
    del rows['kh', 'accuracy_curve', 'clean', 'attack=pgd'], rows['kh', 'accuracy_curve', 'accuracy', 'attack=pgd;eps=0.2']
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


# --- tables

def test_cells_of_a_table_stay_in_their_column():
    assert table([{'a': 'x | y\nz', 'b': '*'}]).splitlines()[2] == '| x \\| y z | \\* |'


def test_claims_that_were_decided_have_a_line_and_the_rest_a_line_a_reason(full):
    page = claims_page(read_report(full))
    assert page.startswith('4 claims: 1 hold, 1 fail, 2 not comparable.') and '| One \\| two | 1 | 2 | [1, 3] | 3 seeds |' in page
    assert page.splitlines()[-1] == '- not comparable – other: 2, `d`, `e`' and 'Prediction' not in page


def test_predictions_are_counted_apart_with_a_table_for_each_source(full):
    page = predictions_page(read_report(full))
    assert page.startswith('3 predictions: 3 hold.') and 'One' not in page
    assert [part.splitlines()[0] for part in page.split('\n\n')[1:]] == ['*The first.*', '| statement | predicted | measured | interval | verdict | reason |', '*The second.*', '| statement | predicted | measured | interval | verdict | reason |']


def test_times_say_what_was_resumed(full):
    page = times_table(read_report(full))
    assert '| kh | 1.5 | 1.5 | 1 executed again |' in page and '1 not done' in page and page.startswith('All units together: 0.07 hours')


def test_settings_that_differ_stand_beside_those_of_the_paper(tmp_path):
    accuracy, same = {('kh', 'classifier', 'test_accuracy', ''): .5}, dict(data='cifar10', window=[10, 500], noise_window=[10, 100])
    page = settings_table(write(tmp_path/'cpu', accuracy, params=same | dict(window=[10, 300])))
    assert '| window | [10, 300] | [10, 500] |' in page and 'noise_window' not in page and '| data |' not in page
    assert '| lr of kh | Steps(1e-2, [(51, 3e-3), (81, 1e-3)]) | – |' in page
    assert settings_table(write(tmp_path/'paper', accuracy, profile='paper', params=same)) == 'All settings are those of the paper.'


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


# --- predictions

@pytest.mark.parametrize('family', families(ROOT/'nbs'/'experiments').values(), ids=lambda f: f.name)
def test_claims_of_the_families_speak_of_what_there_is(family):
    for c in read_claims(family.about):
        assert {*c.models} <= {*family.models, 'data', 'init'}, c.id
        if c.ledger == 'ours': assert c.profiles == ('any',) and len(c.source) > 40, 'what it follows from is said'
        if c.other: assert len({(p.models, p.probe, p.quantity, p.setting) for p in parts(c)}) == 2, c.id


def test_every_prediction_is_measured_by_the_notebooks():
    "The names in the rules are those of the rows that the experiments write: checked against a table that they wrote."
    report = read_report(ROOT/'reports'/'hebbian'/'cpu-cifar10-9k-328333')
    written = {*zip(report.measurements.probe, report.measurements.quantity)}
    ours = [c for c in read_claims(find_family('hebbian')[0].about) if c.ledger == 'ours']
    assert len(ours) == 23
    for c in [part for c in ours for part in parts(c)]:
        assert (c.probe, c.quantity) in written, c.id


@pytest.mark.parametrize('folder', sorted((ROOT/'reports').glob('hebbian/*')), ids=lambda p: p.name)
def test_committed_verdicts_follow_from_the_committed_numbers(folder):
    "With several seeds no table of images is asked, so the verdicts can be made again; with one seed only those on our predictions."
    report = read_report(folder)
    claims = [c for c in read_claims(report.family.about) if len(report.seeds) > 1 or c.ledger == 'ours']
    again = judge(claims, report.measurements, None, report.config['profile'], data=report.data, changed=tuple(report.config['overrides']))
    committed = report.claims[report.claims.id.isin(again.id)].reset_index(drop=True)
    pd.testing.assert_frame_equal(again, committed, check_dtype=False)
    assert {*report.claims.id} == {c.id for c in read_claims(report.family.about)}


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
    assert len(pictures) == 2*len({c['id'] for c, _ in pictures}) == 2*10 and all('#| fig-alt: ' in c['source'] for c, _ in pictures)
    assert texts.count('**cpu on cifar10**') == texts.count('**quick on mnist5k**') == 5 + 10
    assert '`locallearning reproduce hebbian --profile paper' in texts[-1] and '--profile cpu' not in texts[-1]
    assert not shown(page, 'text/plain') and not [o for c in page['cells'] for o in c.get('outputs', []) if o['output_type'] in ('stream', 'error')]


def test_the_page_is_a_notebook_with_the_ids_of_its_source_and_nothing_of_its_execution(page):
    source = json.loads((find_family('hebbian')[0].folder/'report.ipynb').read_text())
    assert [c['id'] for c in page['cells']] == [c['id'] for c in source['cells']] and not any(c['metadata'] for c in page['cells'])
    differ = [c['source'] for c, s in zip(page['cells'], source['cells']) if c['source'] != ''.join(s['source'])]
    assert len(differ) == 1 and differ[0].startswith('#| hide') and 'reports' in differ[0], 'the parameters, as they were set'
    assert [*page['metadata']] == ['kernelspec'] and not any(c.get('execution_count') for c in page['cells'])


def test_a_part_that_nobody_measured_says_so(tmp_path, capsys):
    report = write(tmp_path, {('kh', 'classifier', 'test_accuracy', ''): .4})
    each([report], lambda r: 'seen', 'classifier'); each([report], lambda r: 'not to be seen', 'spectrum')
    assert capsys.readouterr().out.splitlines() == ['**cpu on cifar10** seen', 'Not measured yet.']


def test_a_family_without_a_report_is_named(tmp_path):
    with pytest.raises(InputError, match='family hebbian has no report'): write_report(replace(find_family('hebbian')[0], folder=tmp_path), tmp_path, tmp_path/'page.ipynb')
