"""Claims: every verdict can be reached, and none by accident."""
import subprocess, sys, tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

import locallearning
from locallearning.lab.claims import Claim, contrasts, read_claims, region, select
from locallearning.lab.verdicts import FIELDS, IMAGE_COLUMNS, claims_table, image_interval, judge, seed_interval, verdict
from locallearning.core import InputError, measure

FAMILY = Path(__file__).parents[1] / 'nbs/experiments/hebbian/family.toml'

VALUE = Claim('value', 'exponent 2.67', 'Fig 2', 'value', ('kh',), 'spectrum', 'exponent', 'input=images', 2.67, tolerance=.1,
              because='made up', profiles=('paper',))
RANGE = replace(VALUE, id='range', kind='range', published=(2., 3.), tolerance=0.)
ORDER = Claim('order', 'kh > l2 > bp', 'Fig 1', 'order', ('kh', 'l2', 'bp'), 'critical_norm', 'median', 'attack=pgd')


def exponents(*values, **kw): return pd.DataFrame([measure('kh', 'spectrum', 'exponent', v, setting=dict(input='images'), seed=s, **kw)
                                                   for s, v in enumerate(values)])

def medians(*seeds, models=ORDER.models, **kw):
    return pd.DataFrame([measure(m, 'critical_norm', 'median', v, setting=dict(attack='pgd'), seed=s, **kw)
                         for s, row in enumerate(seeds) for m, v in zip(models, row)])

def per_image(values, models=ORDER.models, **kw):
    same = dict(probe='critical_norm', quantity='norm', setting='attack=pgd', space='pixel', seed=0) | kw
    return pd.DataFrame([dict(model=m, image=i, value=v) | same
                         for m, column in zip(models, np.asarray(values).T) for i, v in enumerate(column)], columns=IMAGE_COLUMNS)

def one(claim, rows, images=None, profile='paper', **kw): return judge([claim], rows, images, profile, **kw).iloc[0]


# ---- verdicts
@pytest.mark.parametrize('values, expected', [((2.66, 2.67, 2.68), 'holds'), ((3.1, 3.11, 3.12), 'fails'), ((2.6, 2.7, 2.8), 'undecided')])
def test_value_over_seeds(values, expected):
    row = one(VALUE, exponents(*values))
    assert row.verdict == expected and '3 seeds: t-interval' in row.reason and 'allowed 2.57 to 2.77' in row.reason


@pytest.mark.parametrize('values, expected', [((2.4, 2.5, 2.6), 'holds'), ((1.4, 1.5, 1.6), 'fails'), ((2.9, 3., 3.1), 'undecided')])
def test_range_over_seeds(values, expected): assert one(RANGE, exponents(*values)).verdict == expected


@pytest.mark.parametrize('bound, said, expected', [((-np.inf, 3.), 'at most 3', 'holds'), ((3., np.inf), 'at least 3', 'fails')])
def test_range_with_one_end(bound, said, expected):
    row = one(replace(RANGE, published=bound), exponents(2.4, 2.5, 2.6))
    assert (row.published, row.verdict) == (said, expected)


def test_one_seed_without_interval_says_so():
    row = one(VALUE, exponents(2.7))
    assert row.verdict == 'holds' and 'one seed, no interval' in row.reason and row.interval == ''


def test_order_holds_by_paired_differences_although_models_overlap():
    row = one(ORDER, medians((.60, .55, .20), (.50, .46, .19), (.56, .50, .21)))
    assert row.verdict == 'holds' and 'paired t-interval' in row.reason
    assert row.measured == 'kh 0.5533, l2 0.5033, bp 0.2' and row.interval.startswith('kh > l2: 0.05 [')


def test_order_fails_and_names_the_pair():
    row = one(ORDER, medians((.60, .20, .55), (.50, .19, .46), (.56, .21, .50)))
    assert row.verdict == 'fails' and 'fails: l2 > bp' in row.reason and 'kh > l2;' not in row.reason


def test_order_undecided_when_one_difference_crosses_zero():
    row = one(ORDER, medians((.60, .55, .20), (.50, .55, .19), (.56, .50, .21)))
    assert row.verdict == 'undecided' and 'undecided: kh > l2' in row.reason


def test_rising_order_is_the_falling_one_reversed():
    seeds = (.2, .4, .6), (.21, .42, .61)
    rising = replace(ORDER, direction='rising', published=(.1, .2, .3))
    row = one(rising, medians(*seeds, (.19, .41, .63)))
    assert row.verdict == 'holds' and row.published == 'kh 0.1 < l2 0.2 < bp 0.3' and 'kh < l2: 0.21' in row.interval
    assert one(ORDER, medians(*seeds, (.19, .41, .63))).verdict == 'fails'


def test_equal_numbers_are_a_tie():
    row = one(ORDER, medians((.5, .5, .2), (.5, .5, .2)))
    assert (row.verdict, row.reason) == ('undecided', 'tie: kh > l2; 2 seeds: paired t-interval')
    assert one(ORDER, medians((.5, .5, .2))).reason == 'tie: kh > l2; undecided: l2 > bp; one seed, no interval'
    assert one(ORDER, medians((.5, .5, .6), (.5, .5, .6))).verdict == 'fails', 'a tie does not save the next pair'


@pytest.mark.parametrize('seeds, expected', [(((.51, .50), (.52, .51)), 'tie'), (((.50, .51), (.51, .52)), 'tie'), (((.58, .50), (.59, .51)), 'holds'), (((.50, .58), (.51, .59)), 'fails')])
def test_a_difference_within_the_tolerance_is_a_tie_whoever_leads(seeds, expected):
    claim = replace(ORDER, models=('kh', 'bp'), tolerance=.05, because='made up')
    row = one(claim, medians(*seeds, models=claim.models))
    assert row.verdict == ('undecided' if expected == 'tie' else expected) and row.reason.startswith('tie: kh > bp') == (expected == 'tie')


def test_difference_of_two_models_is_a_value():
    claim = replace(VALUE, models=('prototypes', 'kh'), published=0.)
    rows = pd.concat([exponents(2.6, 2.9, 2.4), exponents(2.62, 2.93, 2.41).assign(model='prototypes')])
    row = one(claim, rows)
    assert (row.verdict, row.measured) == ('holds', '0.02')


# ---- two numbers, from two places
OURS = Claim('ours', 'half', 'a departure', 'range', ('bp',), 'landscape', 'q50', 'scale=far', (.4, .6), ledger='ours', compare='a² / b',
             other=dict(probe='classifier', quantity='weight_norm_sq', setting=''))

def norms(*seeds): # (‖J‖, ‖W‖²) of each seed
    return pd.DataFrame([measure('bp', *where, v, setting=at, seed=s) for s, pair in enumerate(seeds)
                         for v, where, at in zip(pair, (('landscape', 'q50'), ('classifier', 'weight_norm_sq')), (dict(scale='far'), {}))])


@pytest.mark.parametrize('compare, published, expected', [('a - b', (1.5, 2.5), 'holds'), ('a / b', (1.9, 2.1), 'holds'), ('a² / b', (7.5, 8.5), 'holds'), ('a / b', (0, 1), 'fails')])
def test_rules_of_two_numbers(compare, published, expected):
    row = one(replace(OURS, compare=compare, published=published), norms((4., 2.), (4.004, 2.002), (4.008, 2.004)), profile='quick')
    assert row.verdict == expected and row.ledger == 'ours' and '3 seeds: paired t-interval' in row.reason


def test_two_models_may_be_divided():
    claim = replace(OURS, models=('kh', 'bp'), probe='critical_norm', quantity='median', setting='attack=pgd', other=None, compare='a / b', published=(1.9, 2.1))
    row = one(claim, medians((.4, .2), (.5, .25), models=('kh', 'bp')))
    assert (row.verdict, row.measured, row.published) == ('holds', '2', 'a / b: 1.9 to 2.1')


def test_pairs_are_of_one_seed():
    assert one(replace(OURS, compare='a / b', published=(1.9, 2.1)), norms((2., 1.), (4., 2.), (9., 4.5))).interval == '[2, 2]'
    rows = norms((2., 8.), (9., 81.))
    assert one(OURS, rows[~((rows.seed == 1) & (rows.probe == 'classifier'))]).reason.endswith('one seed, no interval')
    assert one(OURS, rows[(rows.seed == 0) == (rows.probe == 'classifier')]).reason == 'no seed with q50 (scale=far) of all of bp'


def test_a_prediction_is_decided_with_changed_settings_but_not_without_its_second_number():
    rows = norms((2., 8.))
    assert one(OURS, rows, changed=('epochs',)).verdict == 'holds'
    assert one(OURS, rows[rows.probe == 'landscape']).reason == "no measurement by 'classifier'"
    assert one(replace(OURS, data=('cifar10*',)), rows, data='mnist5k').reason == "data 'mnist5k': decided on cifar10*"
    rows.loc[0, 'space'] = 'lp_unit'
    assert one(OURS, rows).verdict == 'not comparable'


@pytest.mark.parametrize('wrong, message', [(dict(compare='a + b'), "compare 'a + b'; valid: a - b, a / b, a² / b"), (dict(other=dict(model='kh')), 'other has model; valid: probe, quantity'),
                                            (dict(other=None), 'needs a second model or other'), (dict(ledger='theirs'), "ledger 'theirs'; valid: paper, ours"),
                                            (dict(kind='order', models=('bp', 'kh'), published=None), 'an order compares models in one quantity'), (dict(published=(1., 0.)), 'a range is (low, high)')])
def test_wrong_predictions_are_refused(wrong, message):
    with pytest.raises(InputError) as e: replace(OURS, **wrong)
    assert message in str(e.value)


def test_predictions_are_counted_apart():
    frame = judge([OURS, replace(OURS, id='second'), ORDER], norms((2., 8.)))
    assert claims_table(frame).splitlines()[:2] == ['1 claims: 1 not run', '2 predictions: 2 hold']


def test_bare_order_needs_a_tolerance():
    assert one(ORDER, medians((.6, .4, .2))).verdict == 'undecided'
    assert one(replace(ORDER, tolerance=.05, because='fit error'), medians((.6, .4, .2))).verdict == 'holds'
    row = one(replace(ORDER, tolerance=.3, because='fit error'), medians((.6, .4, .2)))
    assert row.verdict == 'undecided' and row.reason.startswith('tie: kh > l2; tie: l2 > bp') and 'differences above 0.3 count' in row.reason


def test_only_seeds_that_all_models_share_are_compared():
    rows = medians((.60, .55, .20), (.50, .46, .19), (.56, .50, .21))
    row = one(ORDER, rows[~((rows.model == 'l2') & (rows.seed == 2))])
    assert '2 seeds' in row.reason and 'l2 0.505' in row.measured
    rows = rows[(rows.seed == 0) & (rows.model != 'l2') | (rows.seed == 1) & (rows.model == 'l2')]
    assert one(ORDER, rows).reason == 'no seed with median (attack=pgd) of all of kh, l2, bp'


# ---- one seed, many images
@pytest.fixture
def hard(): return np.random.default_rng(0).lognormal(size=300)


def test_order_of_one_seed_by_paired_images(hard):
    x = np.c_[1.1*hard, hard, .5*hard]
    row = one(ORDER, medians(np.median(x, 0)), per_image(x))
    assert row.verdict == 'holds' and row.reason == 'one seed: paired bootstrap over 300 images'
    shuffled = x.copy()
    for j in range(3): shuffled[:, j] = np.random.default_rng(j).permutation(shuffled[:, j])
    assert one(ORDER, medians(np.median(x, 0)), per_image(shuffled)).verdict == 'undecided' # the same medians, the pairing lost


def test_images_that_do_not_count_are_nan_or_absent(hard):
    x = np.c_[2*hard, hard, .5*hard]; x[:40, 0] = np.nan
    images = per_image(x)
    assert one(ORDER, medians(np.nanmedian(x, 0)), images).equals(one(ORDER, medians(np.nanmedian(x, 0)), images.dropna()))


def test_seeds_win_over_images(hard):
    x = np.c_[2*hard, hard, .5*hard]
    assert '2 seeds' in one(ORDER, medians((.6, .4, .2), (.61, .4, .2)), per_image(x)).reason


@pytest.mark.parametrize('other', [dict(setting='attack=rp'), dict(seed=3), dict(space='lp_unit'), dict(quantity='eps')])
def test_images_of_another_measurement_are_not_used(hard, other):
    assert 'no interval' in one(ORDER, medians((.6, .4, .2)), per_image(np.c_[hard, hard, hard], **other)).reason


def test_accuracy_uses_correct_images():
    claim = replace(ORDER, models=('bp', 'kh'), probe='classifier', quantity='test_accuracy', setting='')
    correct = np.random.default_rng(0).random((400, 2)) < [.9, .6]
    rows = pd.DataFrame([measure(m, 'classifier', 'test_accuracy', v) for m, v in zip(claim.models, correct.mean(0))])
    images = per_image(correct.astype(float), claim.models, probe='classifier', quantity='correct', setting='')
    row = one(claim, rows, images)
    assert row.verdict == 'holds' and 'bootstrap over 400 images' in row.reason


def test_relative_accuracy_uses_the_images_that_were_right():
    "1 survives, 0 broken, NaN wrong from the start: models are compared on their own correct images, drawn together."
    claim, rng = replace(ORDER, models=('kh', 'bp'), probe='worst_case', quantity='relative_accuracy', setting='radius=small'), np.random.default_rng(0)
    survives = (rng.random((300, 2)) < [.7, .4]).astype(float)
    survives[:60, 0] = np.nan; survives[250:, 1] = np.nan
    images = per_image(survives, claim.models, probe='worst_case', quantity='survives', setting='eps=0.005;radius=small')
    rows = pd.DataFrame([measure(m, 'worst_case', 'relative_accuracy', v, setting=dict(radius='small', eps=.005)) for m, v in zip(claim.models, np.nanmean(survives, 0))])
    row = one(claim, rows, images)
    assert row.verdict == 'holds' and 'bootstrap over 300 images' in row.reason
    assert one(replace(claim, models=('bp', 'kh')), rows, images).verdict == 'fails'


# ---- what cannot be compared
def test_masked_measurement_decides_nothing():
    rows = medians((.60, .55, .20), (.50, .46, .19), (.56, .50, .21))
    rows.loc[0, 'flags'] = 'masked:zero_gradient'
    row = one(ORDER, rows)
    assert row.verdict == 'undecided' and 'masked measurement' in row.reason and 'kh masked:zero_gradient' in row.reason


def test_other_flags_are_repeated():
    row = one(VALUE, exponents(2.67, 2.68, flags='unconverged'))
    assert row.reason.endswith('flags: kh unconverged')


def test_not_comparable_keeps_the_number():
    row = one(VALUE, exponents(2.66, 2.67, 2.68), profile='quick')
    assert row.verdict == 'not comparable' and row.measured == '2.67' and row.interval.startswith('[2.645')


@pytest.mark.parametrize('data, expected', [('cifar10', 'holds'), ('cifar10-9k-1a2b3c', 'holds'), ('mnist', 'not comparable'),
                                            ('cifar100', 'not comparable'), ("cifar10(per_class=10)", 'not comparable'), (None, 'holds')])
def test_other_data_are_not_comparable(data, expected):
    claim = replace(VALUE, data=('cifar10', 'cifar10-9k*'))
    assert one(claim, exponents(2.66, 2.67, 2.68), data=data).verdict == expected


def test_changed_settings_are_not_comparable_but_orders_are_judged():
    row = one(VALUE, exponents(2.66, 2.67, 2.68), changed=('width', 'epochs'))
    assert (row.verdict, row.reason) == ('not comparable', 'settings differ: epochs, width')
    assert one(ORDER, medians((.60, .55, .20), (.50, .46, .19), (.56, .50, .21)), changed=('width',), profile='smoke').verdict == 'holds'


def test_not_run():
    assert one(VALUE, medians((.6, .4, .2))).reason == "no measurement by 'spectrum'"
    assert one(ORDER, medians((.6, .4), models=('kh', 'bp'))).reason == 'no critical_norm median (attack=pgd) of l2'
    for nothing in (None, pd.DataFrame(), pd.DataFrame(columns=['model'])): assert one(VALUE, nothing).verdict == 'not run'


def test_two_spaces_are_not_comparable():
    rows = medians((.6, .4, .2)); rows.loc[0, 'space'] = 'lp_unit'
    assert (one(ORDER, rows).verdict, one(ORDER, rows).reason) == ('not comparable', 'rows differ in space: lp_unit | pixel')


def test_setting_that_says_too_little_is_not_comparable():
    rows = pd.concat([medians((.6, .4, .2)).assign(setting=f'attack=pgd;method={m}') for m in ('grid', 'bisect')])
    assert one(ORDER, rows).reason == 'rows differ in setting: attack=pgd;method=bisect | attack=pgd;method=grid'
    rows = pd.concat([rows, medians((.7, .3, .1))]) # those with exactly the setting win
    assert one(ORDER, rows).measured == 'kh 0.7, l2 0.3, bp 0.1'
    assert 'several rows' in one(ORDER, pd.concat([medians((.7, .3, .1))]*2)).reason


def test_nan_is_undecided():
    row = one(ORDER, medians((np.nan, .4, .2), (.6, .4, .2)))
    assert row.verdict == 'undecided' and 'not a number' in row.reason
    assert one(VALUE, exponents(np.nan)).verdict == 'undecided'


def test_wrong_table_names_the_column():
    with pytest.raises(InputError, match='without column value'): judge([VALUE], exponents(1.).drop(columns='value'))


# ---- intervals
def test_seed_interval_is_that_of_student():
    for n, t in {2: 12.7062, 3: 4.3027, 5: 2.7764, 31: 2.0423}.items(): # from a printed table
        x = np.arange(n, dtype=float)[:, None]
        low, high = seed_interval(x)
        assert (high - low)[0]/2 == pytest.approx(t*x.std(ddof=1)/n**.5, rel=5e-5)


def test_seed_interval_covers():
    x = np.random.default_rng(0).normal(size=(3, 4000))
    low, high = seed_interval(x)
    assert .94 < ((low < 0) & (high > 0)).mean() < .96


def test_image_interval_covers():
    rng, claim, hits = np.random.default_rng(0), replace(ORDER, models=('a', 'b')), 0
    for _ in range(60):
        base = rng.normal(size=(60, 1))
        low, high = image_interval(claim, base + rng.normal(size=(60, 2)), draws=100)
        hits += low[0] < 0 < high[0]
    assert 51 <= hits < 60


@settings(max_examples=50, deadline=None)
@given(st.floats(-10, 10), st.floats(0, 5), st.floats(-10, 10), st.floats(0, 5), st.floats(0, 5))
def test_widening_an_interval_never_decides(a, width, low, length, wider):
    area = a, a + width
    before, after = verdict(low, low + length, area), verdict(low - wider, low + length + wider, area)
    assert after in (before, 'undecided')


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(9)))
def test_order_of_rows_is_nothing(order):
    rows = medians((.60, .55, .20), (.50, .46, .19), (.56, .50, .21))
    assert judge([ORDER], rows.iloc[order]).to_csv() == judge([ORDER], rows).to_csv()


def test_equal_runs_are_byte_equal_through_csv(tmp_path, hard):
    claims, rows = [VALUE, RANGE, ORDER], pd.concat([medians((.6, .4, .2)), exponents(2.67)])
    images = per_image(np.c_[2*hard, hard, .5*hard])
    rows.to_csv(tmp_path/'m.csv', index=False); images.sample(frac=1, random_state=0).to_csv(tmp_path/'i.csv', index=False)
    again = judge(claims, pd.read_csv(tmp_path/'m.csv'), pd.read_csv(tmp_path/'i.csv'))
    frame = judge(claims, rows, images)
    assert frame.to_csv() == again.to_csv() and claims_table(frame) == claims_table(again)


def test_inputs_stay_as_they_were(hard):
    rows, images = medians((.6, .4, .2)), per_image(np.c_[2*hard, hard, .5*hard])
    before = rows.copy(), images.copy()
    judge([ORDER], rows, images)
    pd.testing.assert_frame_equal(rows, before[0]); pd.testing.assert_frame_equal(images, before[1])


# ---- reading
def table(**changes):
    return {'claims': [dict(id='a', statement='s', source='Fig 1', kind='value', model='kh', probe='p', quantity='q', published=1.,
                            tolerance=.1, because='b', profiles=['paper']) | changes]}


@pytest.mark.parametrize('changes, message', [
    (dict(tolerence=.1), "claim 'a': unknown field 'tolerence'; did you mean 'tolerance'?"),
    (dict(kind='valu'), "did you mean 'value'?"),
    (dict(because=''), 'needs its reason'),
    (dict(profiles=['any']), 'needs the profiles'),
    (dict(profiles='paper'), "profiles = 'paper'"),
    (dict(published=[1., 2.]), 'does not fit a value'),
    (dict(published='1'), 'does not fit a value'),
    (dict(kind='range'), 'does not fit a range'),
    (dict(kind='range', published=[2., 1.]), 'a range is'),
    (dict(kind='order', published=[1.]), 'two or more'),
    (dict(tolerance=-1.), 'tolerance -1.0'),
    (dict(tolerance='1'), "tolerance '1'"),
    (dict(direction='down'), "direction 'down'"),
    (dict(each=[{}, {}]), 'ids are unique')])
def test_wrong_claim(changes, message):
    assert read_claims(table())[0].models == ('kh',)
    with pytest.raises(InputError) as e: read_claims(table(**changes))
    assert message in str(e.value)


def test_lacking_field_and_single_brackets():
    t = table(); del t['claims'][0]['source']
    with pytest.raises(InputError, match='lacks source'): read_claims(t)
    with pytest.raises(InputError, match='two brackets'): read_claims({'claims': {}})
    assert read_claims({}) == []


def test_unknown_profile_names_the_nearest():
    profiles = {'profiles': {'paper': {}, 'quick': {}}}
    with pytest.raises(InputError, match="profile 'papr'; did you mean 'paper'"): read_claims(table(profiles=['papr']) | profiles)
    assert read_claims(table() | profiles)


def test_rows_inherit_from_their_group_and_override_it():
    t = table(each=[dict(id='b'), dict(id='c', model='bp', published=2.)]); del t['claims'][0]['id']
    assert [(c.id, c.models, c.published) for c in read_claims(t)] == [('b', ('kh',), 1.), ('c', ('bp',), 2.)]


# ---- the table
def test_table_counts_decides_and_folds():
    rows = pd.concat([medians((.60, .55, .20), (.50, .46, .19), (.56, .50, .21)), exponents(2.6, 2.7)])
    many = [replace(VALUE, id=f'value_{i}') for i in range(40)]
    claims = [ORDER, *many, replace(ORDER, id='nobody', models=('kh', 'jreg'))]
    lines = claims_table(judge(claims, rows, profile='quick'), width=100).splitlines()
    assert lines[0] == '42 claims: 1 hold, 40 not comparable, 1 not run'
    assert lines[2].startswith('holds     kh > l2 > bp  (order)') and max(map(len, lines)) <= 100
    folded = [l for l in lines if l.startswith('40 not comparable')]
    assert len(folded) == 1 and 'value_0, ' in folded[0] and folded[0].endswith(' more')
    assert lines[-1] == '1 not run – no critical_norm median (attack=pgd) of jreg: nobody'


def test_table_of_nothing(): assert claims_table(judge([], None)) == '0 claims\n'


# ---- the claims that ship
@pytest.fixture(scope='module')
def shipped():
    if not FAMILY.exists(): pytest.skip(f'{FAMILY.name} is not there')
    return [c for c in read_claims(tomllib.loads(FAMILY.read_text())) if c.ledger == 'paper']


def made_up(claims):
    "Three seeds of measurements that are the published numbers; models that only stand in orders and differences get what these ask for."
    found = {}
    for c in sorted(claims, key=lambda c: (c.kind == 'order', len(c.models) if c.kind != 'order' else -len(c.models))): # the longest order first
        if c.kind == 'order': values = c.published or np.linspace(2, 1, len(c.models))
        else:
            ends = [v for v in np.ravel(c.published) if np.isfinite(v)]
            values = np.mean(np.clip(c.published, min(ends) - .01, max(ends) + .01)), 0. # inside a range, also where it has one end
        for m, v in zip(c.models, values): found.setdefault((m, c.probe, c.quantity, c.setting), v)
    return pd.DataFrame([measure(m, p, q, v, setting=dict(x.split('=') for x in t.split(';') if x), seed=s)
                         for (m, p, q, t), v in found.items() for s in range(3)])


def test_shipped_claims_are_complete(shipped):
    assert len(shipped) >= 30 and len({c.id for c in shipped}) == len(shipped)
    assert {c.kind for c in shipped} == {'value', 'range', 'order'}
    numbers = [c for c in shipped if c.kind != 'order']
    assert all('paper' in c.profiles and c.because and c.data != ('*',) for c in numbers)
    assert all('any' in c.profiles for c in shipped if c.kind == 'order')
    for attack in ('rp', 'fgsm', 'pgd'): assert sum(c.quantity == 'median' and c.setting == f'attack={attack}' for c in numbers) == 5
    assert sum(c.quantity == 'test_accuracy' and len(c.models) == 1 for c in numbers) == 5


def test_shipped_numbers_are_not_comparable_on_quick_and_orders_are_judged(shipped):
    frame = judge(shipped, made_up(shipped), profile='quick', data='mnist5k')
    kind = {c.id: c.kind for c in shipped}
    assert set(frame.verdict[frame.id.map(kind) != 'order']) == {'not comparable'}
    assert set(frame.verdict[frame.id.map(kind) == 'order']) <= {'holds', 'fails', 'undecided'}


def test_shipped_claims_hold_for_the_published_numbers(shipped):
    frame = judge(shipped, made_up(shipped), profile='paper', data='cifar10')
    wrong = frame[~frame.verdict.isin(['holds'])]
    assert set(wrong.id) <= {'prototypes_like_kh_images'}, wrong[['id', 'measured', 'reason']] # 3.06 in float64 against 2.67 in float32


def test_claims_import_no_torch():
    code = "import sys, locallearning.lab.claims; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, '-c', code], cwd=Path(locallearning.__file__).parents[1]).returncode == 0
