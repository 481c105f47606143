"""The report: every number from a table, published numbers only beside the paper's data, predictions decided by their declared rules."""
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, strategies as st

from locallearning.lab.claims import seed_interval
from locallearning.core import COLUMNS, InputError
from locallearning.lab.families import families, find_family
from locallearning.lab.report import (ATTACKS, Departure, claims_page, colors, departures_page, departures_table, draw_beside, draw_critical, draw_curves, draw_spectra, draw_training,
                                  draw_worst, judge_departure, labels, number, over_seeds, published, read_departures, read_report, read_reports, run_table, settings_table, sides, table, times_table, values)
from locallearning.lab.report_page import ACCURACY, ATTACKED, INSIDE, TABLES, page_cells, page_notebook, section, write_page
from locallearning.figures.seeds import Range, plot_beside

ROOT = Path(__file__).resolve().parent.parent
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
        n |= {(m, 'worst_case', 'relative_accuracy', f'radius={r};eps={e}'): .9/(i + 1) for r, e in dict(small=.01, middle=.02, large=.1).items()}
        n |= {(m, 'landscape', 'q50', f'scale={s}'): 10. + i for s in ('near', 'far')}
    for m in ['data', 'init', *MODELS]:
        for k, a in dict(images=2., noise=.5).items():
            n |= {(m, 'spectrum', q, f'input={k}'): v for q, v in dict(exponent=a, intercept=0.).items()}
            n |= {(m, 'spectrum', 'relative_eigenvalue', f'input={k};rank={r}'): float(r)**-a for r in ranks}
    n |= {('kh', 'convergence', 'converged', ''): 0.}
    return write(folder, n, **kwargs)


@pytest.fixture(scope='module')
def full(tmp_path_factory):
    folder = tmp_path_factory.mktemp('reports')/'hebbian'/'cpu-cifar10'
    everything(folder, seeds=(0, 1, 2))
    claims = [('a_b', 'One | two', 'holds', '3 seeds'), ('c', 'Two', 'fails', '3 seeds'), ('d', 'Three', 'not comparable', 'other'), ('e', 'Four', 'not comparable', 'other')]
    pd.DataFrame([dict(id=i, statement=s, published='1', measured='2', interval='[1, 3]', verdict=v, reason=r, source='Fig 1') for i, s, v, r in claims]).to_csv(folder/'claims.csv', index=False)
    unit = dict(seed=0, models='kh', notebook='01_kh_layer', state='done', executions=1, seconds=60., last=60., threads=2, machine=0, commit='0123456789abcdef', dirty=False, stale='')
    pd.DataFrame([unit, unit | dict(seed=1, executions=2, seconds=120.), unit | dict(models='all', state='not done')]).to_csv(folder/'units.csv', index=False)
    (folder/'hardware.json').write_text(json.dumps([dict(processor='A CPU', cores=2, memory=8, accelerator=None, system='Linux', machine='x86_64', versions=dict(torch='2'))]))
    return folder


# --- reading

def test_the_report_needs_no_torch():
    code = 'import sys, locallearning.lab.report, locallearning.lab.report_page\nassert not {"torch", "papermill"} & set(sys.modules)'
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).returncode == 0


def test_a_folder_that_is_no_report_is_named(tmp_path):
    with pytest.raises(InputError, match='holds no report; `locallearning reproduce --report DIR`'): read_report(tmp_path)
    (tmp_path/'config.json').write_text('{"family": "ntk", "profile": "cpu", "params": {}}')
    with pytest.raises(InputError, match="about the family 'ntk'; there are hebbian"): read_report(tmp_path)


def test_a_run_that_has_just_been_started_can_be_read(tmp_path):
    report = write(tmp_path/'hebbian'/'cpu-cifar10', {}, seeds=())
    assert report.seeds == [] and claims_page(report) == 'No claim has been judged yet.' and times_table(report) == 'No unit has ended yet.'
    assert set(departures_table(report).verdict) == {'not measured'}
    assert any('none of its units has ended' in text for _, text in section(report, 'x'))


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


def test_as_published_and_as_meant_stand_side_by_side(full):
    report = read_report(full)
    assert sides(report) == {'models as published': ['kh', 'bp', 'l2', 'jreg', 'specreg'], 'models as meant': ['kh', 'bp', 'jreg_meant', 'specreg_meant', 'prototypes']}
    figure = draw_curves(report, ['rp', 'pgd'])
    assert [ax.get_title() for ax in figure.axes] == [f'{a}: {s}' for a in ('RP', 'PGD') for s in sides(report)] and [len(ax.lines) for ax in figure.axes] == [5]*4
    assert len(figure.axes[0].collections) == 5, 'a band for each line'


def test_one_seed_has_no_interval(tmp_path, full):
    one = everything(tmp_path/'one', seeds=(0,))
    assert not draw_curves(one, ['pgd']).axes[0].collections and len(over_seeds([1.])) == 5 and number(over_seeds([.25])) == '0.25'
    legend = lambda r: draw_beside(r, {'t': ('classifier', 'test_accuracy', {})}).legends[0].get_texts()[0].get_text()
    assert legend(one) == 'measured' and legend(read_report(full)) == 'measured, 95 % interval over seeds'


def test_what_is_drawn_is_what_was_measured(full):
    report = read_report(full)
    box = draw_critical(report, ['pgd']).axes[0].patches[0]
    q1, q3 = (values(report, 'critical_norm', q, dict(attack='pgd')).loc['kh'].mean() for q in ('q1', 'q3'))
    assert box.get_y() == pytest.approx(q1) and box.get_height() == pytest.approx(q3 - q1)
    assert [ax.get_title() for ax in draw_worst(report).axes] == ['small: eps = 0.01', 'middle: eps = 0.02', 'large: eps = 0.1'], 'in the order of the radii'
    texts = {t.get_text() for ax in draw_spectra(report).axes for t in ax.texts}
    assert 'images 2.02 (2.67)' in texts and 'noise 0.51 (0.97)' in texts
    assert draw_training(report).axes[0].lines[0].get_xdata().tolist() == [1, 2, 4]


def test_a_layer_that_did_not_converge_and_a_flag_are_seen(tmp_path):
    report = write(tmp_path, {('kh', 'convergence', 'converged', ''): 1., ('kh', 'classifier', 'test_accuracy', ''): .4, ('bp', 'classifier', 'test_accuracy', '', 'masked'): .5}, spread=0)
    names = lambda r: [t.get_text() for t in draw_beside(r, {'t': ('classifier', 'test_accuracy', {})}).axes[0].get_xticklabels()]
    assert names(report) == ['KH', 'BP †'] and labels(read_report(tmp_path), ['kh'])['kh'] in colors(report)
    report = write(tmp_path, {('kh', 'convergence', 'converged', ''): 0., ('kh', 'classifier', 'test_accuracy', ''): .4})
    assert names(report) == ['KH*'] and colors(report)['KH*'] == colors(report)['KH']


def test_a_range_is_drawn_as_a_range():
    ax = plot_beside(dict(t=dict(KH=Range(20., published=(15., 28.6))))).axes[0]
    assert (ax.patches[0].get_y(), ax.patches[0].get_height()) == (15, pytest.approx(13.6))


# --- tables

def test_cells_of_a_table_stay_in_their_column():
    assert table([{'a': 'x | y\nz', 'b': '*'}]).splitlines()[2] == '| x \\| y z | \\* |'


def test_claims_that_were_decided_have_a_line_and_the_rest_a_line_a_reason(full):
    page = claims_page(read_report(full))
    assert page.startswith('4 claims: 1 hold, 1 fail, 2 are not comparable.') and '| One \\| two | 1 | 2 | [1, 3] | 3 seeds |' in page
    assert page.splitlines()[-1] == '- not comparable – other: 2, `d`, `e`'


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
    titles = lambda *models: [ax.get_title() for ax in draw_curves(write(tmp_path/'-'.join(models), curve(*models)), ['pgd']).axes]
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

def prediction(**more): return Departure(**dict(id='x', departure='d', prediction='p', a=('bp', 'p', 'q', ''), range=(0., 1.)) | more)


@pytest.mark.parametrize('compare, range, verdict', [('a', (3.5, 4.5), 'confirmed'), ('a', (5, 6), 'not confirmed'), ('a - b', (1.5, 2.5), 'confirmed'), ('a / b', (1.9, 2.1), 'confirmed'),
                                                    ('a² / b', (7.5, 8.5), 'confirmed'), ('a / b', (0, 1), 'not confirmed')])
def test_rules(tmp_path, compare, range, verdict):
    report = write(tmp_path, {('bp', 'p', 'q', ''): 4., ('kh', 'p', 'q', ''): 2.}, seeds=(0, 1, 2), spread=.001)
    assert judge_departure(prediction(compare=compare, range=range, b=() if compare == 'a' else ('kh', 'p', 'q', '')), report)[1] == verdict


def test_an_interval_that_leaves_the_range_is_undecided_and_pairs_are_of_one_seed(tmp_path):
    both = {('bp', 'p', 'q', ''): 1., ('kh', 'p', 'q', ''): 1.}
    report = write(tmp_path, both, seeds=(0, 1, 2), spread=.5)
    assert judge_departure(prediction(range=(0., 2.)), report)[1] == 'undecided', 'the seeds differ'
    assert judge_departure(prediction(compare='a - b', b=('kh', 'p', 'q', ''), range=(-.1, .1)), report) == ('0 [0, 0], 3 seeds', 'confirmed'), 'and alike in both'
    one = judge_departure(prediction(range=(0., 2.)), write(tmp_path/'one', both))
    assert one == ('1, one seed, no interval', 'confirmed')


def test_what_is_missing_is_not_measured(tmp_path):
    report = write(tmp_path, {('bp', 'p', 'q', ''): 4.}, data='mnist5k')
    assert judge_departure(prediction(b=('kh', 'p', 'q', ''), compare='a / b'), report) == ('', 'not measured')
    assert judge_departure(prediction(data=('cifar10*',)), report) == ('', 'not measured: needs cifar10*')


@pytest.mark.parametrize('wrong, message', [(dict(compare='a + b'), "compare = 'a + b'; valid: a, a - b"), (dict(a=('bp', 'p', 'q')), 'a and b are lists of model, probe'),
                                            (dict(b=('kh', 'p', 'q', '')), "'a' needs no b"), (dict(compare='a - b'), "'a - b' needs b"), (dict(range=(1, 0)), 'is not (low, high)')])
def test_wrong_predictions_are_refused(wrong, message):
    with pytest.raises(InputError) as e: prediction(**wrong)
    assert message in str(e.value)


def test_ids_are_unique_and_fields_known():
    row = dict(id='x', departure='d', prediction='p', a=['bp', 'p', 'q', ''], range=[0., 1.])
    with pytest.raises(InputError, match="departure 'x' stands there 2 times"): read_departures(dict(departures=[dict(each=[row, row])]))
    with pytest.raises(InputError, match='unexpected keyword'): read_departures(dict(departures=[row | dict(b_=1)]))


@pytest.mark.parametrize('family', families(ROOT/'nbs'/'experiments').values(), ids=lambda f: f.name)
def test_predictions_of_the_families_speak_of_what_there_is(family):
    for d in read_departures(family.about):
        for what in filter(None, (d.a, d.b)): assert what[0] in {*family.models, 'data', 'init'}, d.id
        assert d.departure and d.prediction
        if d.b: assert d.a != d.b


def test_every_prediction_is_measured_by_the_notebooks(tmp_path):
    "The names in the rules are those of the rows that the experiments write: checked against their sources."
    sources = ''.join(p.read_text() for p in (ROOT/'nbs'/'experiments'/'hebbian').glob('*.ipynb'))
    for d in read_departures(find_family('hebbian')[0].about):
        for _, probe, quantity, setting in filter(None, (d.a, d.b)):
            assert f"'{probe}'" in sources, probe
            assert f"'{quantity}'" in sources or f'{quantity}=' in sources or (probe, quantity) == ('landscape', 'q50'), quantity
            for part in filter(None, setting.split(';')): assert f'{part.split("=")[0]}=' in sources or f"'{part.split('=')[0]}'" in sources, part


# --- the page

def test_the_page_shows_every_part_and_names_what_was_not_run(full, tmp_path):
    (tmp_path/'nbs').mkdir()
    page = json.loads(write_page(full.parents[1], tmp_path/'nbs'/'reproduction.ipynb').read_text())
    text = '\n'.join(c['source'] for c in page['cells'] if c['cell_type'] == 'markdown')
    for profile in ('paper', 'gpu-short', 'quick'): assert f'### Profile `{profile}`\n\nThis profile has not been run yet' in text
    assert '### Profile `cpu` on `cifar10`' in text and '#### Departures from the paper and what they predict' in text
    figures = [c for c in page['cells'] if any('image/png' in o.get('data', {}) for o in c.get('outputs', []))]
    assert len(figures) == len([*ACCURACY, *ATTACKED, *INSIDE]) and all('#| fig-alt: ' in c['source'] for c in figures)
    assert len([c for c in page['cells'] if any('text/markdown' in o.get('data', {}) for o in c.get('outputs', []))]) == len(TABLES)
    assert len({c['id'] for c in page['cells']}) == len(page['cells'])


def test_a_part_without_measurements_is_left_out(tmp_path):
    report = write(tmp_path, {('kh', 'classifier', 'test_accuracy', ''): .4, ('kh', 'classifier', 'epoch_accuracy', 'epoch=1'): .4})
    shown = [text for kind, text in section(report, 'x') if kind == 'code']
    assert any('draw_training' in s for s in shown) and not any('draw_spectra' in s or 'draw_worst' in s for s in shown)


def test_equal_reports_make_equal_pages(full):
    one, two = (page_notebook(page_cells(read_reports(full.parents[1]), 'reports')) for _ in range(2))
    assert one == two
