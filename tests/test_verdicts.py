"""What an unfriendly reader of the verdicts found: ratios both ways, steps that never vary, nothing to draw from, runs without verdicts."""
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from locallearning.core import COLUMNS, measure
from locallearning.lab.answers import answers
from locallearning.lab.claims import Claim
from locallearning.lab.report import read_report
from locallearning.lab.verdicts import IMAGE_COLUMNS, judge

ORDER = Claim('ab', 's', 'f', 'order', ('a', 'b'), 'critical_norm', 'median', ledger='ours')


def table(seeds, models='ab', quantity='median'):
    row = dict(family='', probe='critical_norm', quantity=quantity, setting='', space='pixel', unit='', flags='')
    return pd.DataFrame([row | dict(model=m, seed=s, value=v) for s, values in enumerate(seeds) for m, v in zip(models, values)], columns=COLUMNS)


def image_table(x): # seeds × images × models
    s, i, m = (v.ravel() for v in np.indices(x.shape))
    found = dict(model=np.array(['a', 'b'])[m], probe='critical_norm', quantity='norm', setting='', space='pixel', seed=s, image=i, value=x.ravel())
    return pd.DataFrame(found, columns=IMAGE_COLUMNS)


@pytest.mark.parametrize('seeds, ratio', [(20, 3.), (6, 10.)])
def test_an_order_and_its_opposite_never_both_hold(seeds, ratio):
    rows = table([(ratio, 1.) if s % 2 else (1., ratio) for s in range(seeds)])
    frame = judge([ORDER, replace(ORDER, id='ba', models=('b', 'a'))], rows)
    assert list(frame.verdict) == ['undecided', 'undecided']


def test_a_ratio_that_is_one_in_truth_is_no_order_also_with_many_seeds():
    drawn = np.exp(np.random.default_rng(0).normal(0, .5, size=(300, 20)))
    said = [judge([ORDER], table(np.c_[x, np.ones(20)])).verdict[0] for x in drawn]
    assert np.mean([v != 'undecided' for v in said]) <= .09 # .05, and what chance allows


def test_a_step_that_never_varies_takes_no_interval_from_the_others():
    rows = table([(.66, .6, .2), (.95, .6, .2), (.66, .6, .2)], 'abc', 'accuracy')
    claim = replace(ORDER, models=('a', 'b', 'c'), quantity='accuracy', tolerance=.05, because='x')
    assert judge([replace(claim, models=('a', 'b'))], rows).verdict[0] == 'undecided' and judge([claim], rows).verdict[0] != 'holds'


def test_a_run_without_verdicts_has_unanswered_questions(tmp_path):
    config = dict(family='hebbian', profile='cpu', seeds=[0], overrides={}, params=dict(data='cifar10'))
    (tmp_path/'config.json').write_text(json.dumps(config))
    assert set(answers([read_report(tmp_path)]).answer) == {'Not measured'}


def test_images_of_which_none_counts_are_as_if_unknown():
    x = np.exp(.01*np.random.default_rng(0).normal(size=(3, 40, 2)))*[2, 1]
    rows, gone = table(np.median(x, axis=1)), x.copy()
    gone[1, :, 0] = np.nan
    assert judge([ORDER], rows, image_table(gone)).equals(judge([ORDER], rows))


def test_zero_lies_in_a_range_from_zero_whether_or_not_images_are_known():
    x = np.exp(.1*np.random.default_rng(0).normal(size=(1, 50, 2)))*[0, 1]
    claim = replace(ORDER, kind='range', published=(0., .25), compare='a / b')
    rows = table(np.median(x, axis=1))
    row = judge([claim], rows, image_table(x)).iloc[0]
    assert 'nan' not in row.effect and row.verdict == judge([claim], rows).verdict[0]


def test_a_median_that_sits_on_a_grid_and_never_moves_is_not_sure():
    "Norms read off a grid: whichever images are drawn, the medians are the same two points, which says nothing of how far they are apart."
    claim = Claim('g', 'a > b', 'made up', 'order', ('a', 'b'), 'critical_norm', 'median', 'attack=rp', ledger='ours')
    x = np.where(np.random.default_rng(0).random((200, 2)) < .9, [.5, .45], .3)
    rows = pd.DataFrame([measure(m, 'critical_norm', 'median', v, setting=dict(attack='rp')) for m, v in zip('ab', np.median(x, 0))])
    images = pd.DataFrame([dict(model=m, probe='critical_norm', quantity='norm', setting='attack=rp', space='pixel', seed=0, image=i, value=v)
                           for m, column in zip('ab', x.T) for i, v in enumerate(column)])
    row = judge([claim], rows, images).iloc[0]
    assert (row.verdict, row.p, row.effect) == ('undecided', '', '× 1.11')
    moved = images.assign(value=images.value*np.random.default_rng(1).normal(1, .01, 400))
    assert judge([claim], rows, moved).iloc[0].verdict == 'holds', 'off the grid it is seen'
