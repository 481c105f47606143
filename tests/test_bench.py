"""The benchmark: how times become rows, that every row works and compares what is equal, and what the command says. No test asks how fast anything is."""
import json
import math
import sys
import time
from pathlib import Path

import pytest
import torch
from locallearning import bench as shelf
from locallearning.bench import training as bench_training, timing
from locallearning.bench.rows import Bench, all_rows, choose_rows, hardware_line, read_bench, run_bench
from locallearning.bench.training import LoopOfVJPs, deviation, operations, penalised, profile_training, spectral_loop, written_out
from locallearning.core import InputError
from locallearning.lab import runs
from locallearning.models import SHLP, read
from locallearning.regularizers import Jacobian, batch_spectrum, covariance, tail_misfit
from locallearning.bench.timing import Row, alternate, bench_images, bench_json, bench_table, duration, on_sphere, scaled, synthetic_images, timed_on

from command import in_process

ROWS = all_rows()


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    with in_process(monkeypatch, capsys, 'bench') as run: yield run


# --- times

def test_ways_take_turns_after_a_round_that_does_not_count(monkeypatch):
    calls, clock = [], iter([9., 9., 1., 5., 2., 5., 30., 5.])
    monkeypatch.setattr(timing, 'seconds', lambda run: (run(), next(clock))[1])
    took = alternate(repeats=3, budget=math.inf, a=lambda: calls.append('a'), b=lambda: calls.append('b'))
    assert ''.join(calls) == 'abababab' and took == dict(a=2., b=5.)            # medians, without the first round


def test_a_way_without_budget_keeps_what_was_measured(monkeypatch):
    monkeypatch.setattr(timing, 'seconds', lambda run: run())
    assert alternate(repeats=5, budget=10, quick=lambda: 1., slow=lambda: 60.) == dict(quick=1., slow=60.)


def test_seconds_measure_a_call():
    assert .01 <= timing.seconds(lambda: time.sleep(.01)) < 5


@pytest.mark.parametrize('bad', [dict(repeats=0, a=print), dict(repeats=3)])
def test_nothing_to_time_is_refused(bad):
    with pytest.raises(InputError, match='alternate'): alternate(**bad)


# --- rows

@pytest.mark.parametrize('ours, target, text, reached', [
    (1.15, dict(floor=1., against='floor', at_most=1.15), 'ours ≤ 1.15 × floor', True),
    (1.16, dict(floor=1., against='floor', at_most=1.15), 'ours ≤ 1.15 × floor', False),
    (1., dict(peer=1., against='peer'), 'ours ≤ peer', True),
    (1., dict(textbook=20., against='textbook', at_most=1/20), 'textbook ≥ 20 × ours', True),
    (1., dict(textbook=19., against='textbook', at_most=1/20), 'textbook ≥ 20 × ours', False),
    (.3, dict(floor=.2, against='floor', plus=.02), 'ours ≤ floor + 0.02 s', False),
    (1., dict(floor=1., against='floor', applies=False), 'ours ≤ floor', None),
    (1., dict(against='peer'), 'ours ≤ peer', None),
    (None, dict(floor=1., against='floor'), 'ours ≤ floor', None),
    (1., dict(floor=1.), '', None)])
def test_whether_a_target_was_reached_is_computed(ours, target, text, reached):
    row = Row('row', ours, **target)
    assert (row.target, row.reached) == (text, reached)
    assert json.loads(bench_json([row]))['rows'][0]['reached'] is reached


def test_ratios_say_how_ours_compares():
    assert Row('a', 2., textbook=6., peer=4., floor=1.).ratios == {'ours/floor': 2., 'ours/peer': .5, 'textbook/ours': 3.}
    assert Row('a', None, floor=1.).ratios == {} == Row('a', 1.).ratios


def test_json_has_what_a_page_needs():
    written = json.loads(bench_json([Row('a', 1., floor=2., note='n', more=dict(profile={'x': 1}))], hardware=dict(cpu='c')))
    assert written == dict(hardware=dict(cpu='c'), rows=[dict(name='a', ours=1., textbook=None, peer=None, floor=2., ratios={'ours/floor': .5}, target='', reached=None, note='n', profile={'x': 1})])


@pytest.mark.parametrize('width', [100, 110])
def test_the_table_fits_the_terminal(width):
    full = dict(textbook=1234.5, peer=.00123, floor=1e-5)
    rows = [Row('a row whose name is far too long for its column', 12.34, **full, against='floor', at_most=1.15, note='word '*60), Row('b', None), Row('c', .1, floor=.01, against='floor', plus=.02)]
    lines = bench_table(rows, width).splitlines()
    assert max(map(len, lines)) <= width and 'floor + 0.090 s' in '\n'.join(lines)
    assert len({line.index('–') for line in lines if line.startswith('b ')}) == 1


def test_durations_have_units():
    assert [duration(s) for s in (None, 0., 3e-6, .0456, 7.)] == ['–', '0 µs', '3 µs', '45.6 ms', '7 s']


# --- images

def test_synthetic_images_have_the_spectrum_of_photographs_and_equal_seeds_are_equal():
    x = synthetic_images(2000, 16)
    assert x.shape == (2000, 3, 16, 16) and 0 <= x.min() and x.max() <= 1
    assert torch.equal(x[:5], synthetic_images(2000, 16)[:5]) and not torch.equal(x, synthetic_images(2000, 16, seed=1))
    lam, n = torch.linalg.eigvalsh(x.flatten(1).T.cov()).flip(0)[10:150].log(), torch.arange(10., 150).log()
    n = n - n.mean()
    assert 1.2 < -(n @ lam)/(n @ n) < 1.8


def test_real_images_are_taken_where_they_are(tmp_path, monkeypatch):
    import numpy as np
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8), np.arange(20) % 2
    np.savez(tmp_path/'cifar10-9k.npz', x_train=x, y_train=y, x_test=x, y_test=y)
    monkeypatch.setenv('LOCALLEARNING_DATA', str(tmp_path))
    images, what = bench_images(50, 8)                          # more than there are: repeated
    assert images.shape == (50, 3, 8, 8) and what == 'images of cifar10-9k'
    monkeypatch.setenv('LOCALLEARNING_DATA', str(tmp_path/'empty'))
    assert bench_images(3, 8)[1] == 'synthetic images'


def test_images_on_the_sphere_and_scaled_sizes():
    assert torch.allclose(on_sphere(synthetic_images(4, 8)).norm(3, dim=1), torch.ones(4))
    assert [scaled(1000), scaled(1000, .05), scaled(1000, 1e-4), scaled(3, .5)] == [1000, 50, 8, 3]


# --- every row

@pytest.mark.parametrize('name', ROWS)
def test_row_works_at_a_small_scale(name):
    row = ROWS[name](.02, 'synthetic')
    written = json.loads(bench_json([row]))['rows'][0]
    assert list(written)[:9] == ['name', 'ours', 'textbook', 'peer', 'floor', 'ratios', 'target', 'reached', 'note']
    assert row.name and row.note and (row.ours is None or 0 < row.ours < 60)
    assert not row.against or getattr(row, row.against) is not None or not row.applies or row.ours is None
    assert max(map(len, bench_table([row]).splitlines())) <= 110


def test_a_new_file_of_rows_is_found_by_itself(tmp_path, monkeypatch):
    "The rows of a family are a file beside the others; no list names it."
    (tmp_path/'toy.py').write_text('__all__ = ["toy_row"]\ndef toy_row(scale=1., data=None): return scale\ndef _half_row(scale=1., data=None): pass\n')
    monkeypatch.setattr(shelf, '__path__', [*shelf.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, 'locallearning.bench.toy', raising=False)
    assert {*all_rows()} == {*ROWS, 'toy'} and choose_rows(['toy'])['toy'](.5) == .5
    del shelf.toy, sys.modules['locallearning.bench.toy']


def test_no_two_modules_have_a_row_of_the_same_name():
    here = [name for m in vars(shelf).values() for name in getattr(m, '__all__', ()) if name.endswith('_row')]
    assert len(here) == len({*here}) == len(ROWS)


def test_names_of_rows_are_unique():
    names = [row.name for row in map(lambda f: f(.02, 'synthetic'), [ROWS['jacobian_hidden'], ROWS['jacobian_features'], ROWS['jacobian_logits'], ROWS['jacobian_projections']])]
    assert len(set(names)) == 4


# --- what the rows of training compare

@pytest.mark.parametrize('of', ['hidden', 'features', 'logits'])
def test_the_textbook_penalty_is_the_definition(of):
    x = synthetic_images(5, 4).double().requires_grad_()
    model = SHLP(48, width=7, classes=4).double()
    loop = LoopOfVJPs(of, outputs=7 if of != 'logits' else 4)(model, x, None, read(model, x))
    assert torch.isclose(loop, written_out(model, x, of).square().sum((1, 2)).mean())
    assert torch.isclose(loop, Jacobian(n=None, of=of)(model, x, None, read(model, x)))


def test_a_wrong_penalty_deviates(monkeypatch):
    x = synthetic_images(5, 4)
    assert deviation(Jacobian(n=2), x, 9) < 1e-5
    right = Jacobian.forward
    monkeypatch.setattr(Jacobian, 'forward', lambda self, *a: 1.01*right(self, *a))
    assert .009 < deviation(Jacobian(n=2), x, 9) < .011 and .009 < deviation(Jacobian(n=None), x, 9) < .011


def test_the_spectral_loop_is_the_spectral_penalty():
    torch.manual_seed(0)
    h = (torch.randn(200, 30, dtype=torch.float64) / torch.arange(1, 31)).requires_grad_()
    basis = torch.linalg.eigh(covariance([h])[0]).eigenvectors.flip(1)
    a, b = spectral_loop(h, basis, 1., 4), tail_misfit(batch_spectrum(h, basis), 1., 4)
    assert torch.isclose(a, b) and torch.allclose(*(torch.autograd.grad(v, h)[0] for v in (a, b)))


def test_a_timed_step_changes_next_to_nothing():
    step = penalised(synthetic_images(5, 4), 9, Jacobian())
    model, before = step.args[0], [p.clone() for p in step.args[0].parameters()]
    for _ in range(20): step()
    assert all(0 < (p - q).abs().max() < 1e-4 for p, q in zip(model.parameters(), before))


def test_shares_of_a_profile_sum_to_one_and_products_are_found():
    a = torch.randn(300, 300)
    spent = operations(lambda: [a @ a for _ in range(5)])
    total = spent.pop('total')                  # by the clock, so on a busy machine far more than the operations took
    assert .5*sum(spent.values()) < spent['aten::mm'] <= total
    for _ in range(5): # seconds are those of a longer run less those of a shorter one, which other work may hold up
        p, sizes = profile_training('fit', .05, 'synthetic')
        assert math.isclose(p['products'] + p['other'] + p['between'], 1) and '50 synthetic images' in sizes
        if p['seconds'] > 0: break
    assert p['seconds'] > 0, 'a wrong sign would be wrong every time'
    with pytest.raises(InputError, match='choose fit or kh'): profile_training('bp')


# --- the command

def test_rows_are_chosen_by_name():
    assert list(choose_rows()) == list(ROWS) and list(choose_rows(['spectral', 'jacobian-hidden'])) == ['jacobian_hidden', 'spectral']
    with pytest.raises(InputError, match="did you mean 'spectral'"): choose_rows(['spectrall'])


def test_threads_are_those_asked_for_and_restored(monkeypatch):
    before, seen = torch.get_num_threads(), []
    monkeypatch.setattr(bench_training, 'spectral_row', lambda scale, data: (seen.append(torch.get_num_threads()), Row('a', 1.))[1])
    _, about = run_bench(['spectral'], threads=before + 1)
    assert seen == [before + 1] == [about['threads']] and torch.get_num_threads() == before
    for bad in (dict(threads=0), dict(scale=0.), dict(scale=1.5)):
        with pytest.raises(InputError, match=next(iter(bad))): run_bench(['spectral'], **bad)


def test_targets_stay_open_at_another_size(monkeypatch):
    monkeypatch.setattr(bench_training, 'spectral_row', lambda scale, data: Row('a', 1., floor=2., against='floor'))
    assert [run_bench(['spectral'], scale=s)[0][0].reached for s in (1., .5)] == [True, None]


def test_the_machine_is_described_as_that_of_a_run_and_how_busy_it_is():
    about = timed_on()
    assert {'processor', 'cores', 'threads', 'capability', 'versions', 'load', 'date'} <= set(about) and json.dumps(about)
    assert about['processor'] in hardware_line(about) and about['versions']['torch'] in hardware_line(about)


LONG = 'Some Maker(R) Processor(TM) of a Line With Many Words 9999-XLDQ v7 @ 2.90GHz (family 6, model 143, stepping 8, 96 cores in two sockets)'


@pytest.mark.parametrize('processor, load', [('CPU', 0.), (LONG, 1234.5)])
def test_the_command_prints_a_table_and_writes_json(call, tmp_path, monkeypatch, processor, load):
    monkeypatch.setattr(runs, 'processor', lambda: processor)
    monkeypatch.setattr(timing.os, 'getloadavg', lambda: (load, load, load))
    code, out, err = call('--only', 'jacobian-features', '--only', 'spectral', '--scale', '.02', '--data', 'synthetic', '--out', tmp_path/'new'/'bench.json')
    written = json.loads((tmp_path/'new'/'bench.json').read_text(encoding='utf-8'))
    assert code == 0 and [r['name'] for r in written['rows']] == ['Jacobian step, features', 'spectral penalty']
    assert (written['hardware']['processor'], written['hardware']['load']) == (processor, load)
    assert processor in ' '.join(out.split()) and 'spectral penalty' in out and max(map(len, out.splitlines())) <= 110


def test_the_command_names_the_nearest_row(call):
    code, out, err = call('--only', 'spectrel')
    assert code == 2 and "no row 'spectrel'; did you mean 'spectral'" in err


# --- read again

def test_a_whole_name_chooses_one_row_and_a_part_all_that_have_it():
    rows = json.loads(bench_json([Row(n, ours=1., floor=2., against='floor', at_most=1.) for n in ('step', 'step, certified')]))['rows']
    bench = Bench(dict(here=dict(rows=rows)))
    count = lambda *names: len(bench.table(*names).splitlines()) - 2
    assert (count('step'), count('certified'), count('ste')) == (1, 1, 2)
    for names in (['jump'], []):
        with pytest.raises(InputError, match='no row is called .*step, certified'): bench.table(*names)


def timed(name, gain, **more): return dict(name=name, ours=1., ratios={'textbook/ours': gain}, target='', reached=None, note='') | more


def test_the_largest_gains_lead():
    rows = [timed('a', 2.), timed('b --help', 3000.), timed('c', 1., ratios={'ours/peer': .1})]
    lines = Bench(dict(here=dict(rows=rows))).largest(2).splitlines()
    assert lines[2:] == ['| b \\--help | 3,000 × the formula word for word |', '| c | 10 × the fastest other package |']


def test_targets_are_counted_and_notes_are_sentences():
    rows = [timed('a', 2., reached=True, note='with --all'), timed('b', 3., reached=False), timed('c', 3.)]
    bench = Bench(dict(here=dict(rows=rows)))
    assert str(bench.targets()).endswith('\n\n1 of 2 targets are reached; missed: b.') and len(bench.targets().splitlines()) == 7
    assert str(bench.table('a')).endswith('\n\na: with \\--all.')
    two = Bench(dict(here=dict(rows=rows), there=dict(rows=rows[:1])))
    assert 'a on there: with' in two.table('a') and '| there | a |' in two.largest()


def test_files_of_another_shape_are_no_benchmarks(tmp_path):
    (tmp_path/'bench.json').write_text(bench_json([Row('step', ours=1.)]))
    (tmp_path/'processes.json').write_text('{"rows": {"paper": {}}}')
    assert list(read_bench(tmp_path).files) == ['bench']


def test_committed_benchmarks_are_read():
    found = read_bench(Path(__file__).parent.parent/'reports'/'bench')
    assert 'AMD EPYC (AVX512), 2 threads of 2 cores' in found.machines()
    assert 'KH step' in found.targets() and 'KH loop' in found.profiles()


def test_a_machine_is_read_whichever_way_it_was_described():
    about, rows = timed_on(), json.loads(bench_json([Row('step', ours=1.)]))['rows']
    old = dict(cpu='CPU', cores=2, threads=2, capability='AVX2', system='Linux', python='3.12', torch='2.9', load=None, date='2026-01-01')
    lines = Bench(dict(new=dict(hardware=about, rows=rows), old=dict(hardware=old, rows=rows))).machines().splitlines()
    assert about['processor'] in lines[2] and 'CPU (AVX2), 2 threads of 2 cores; torch 2.9, Python 3.12 | 2026-01-01' in lines[3]
