"Each attack compared with itself: through every path that measures it, the ratio is 1 within the resolution of the search."
import numpy as np
import pytest, torch
from locallearning.attacks.gradient import FGSM, PGD, GaussianNoise
from locallearning.attacks.apgd import APGD
from locallearning.attacks.square import Square
from locallearning.data import load
from locallearning.hebbian.published import PublishedPGD
from locallearning.models import SHLP
from locallearning.robustness.curves import accuracy_curve, compare_protocols, critical_norm
from locallearning.robustness.worst import worst_case
from locallearning.state import seeded
from locallearning.training import fit


@pytest.fixture(scope='module')
def digits():
    data = load('mnist5k(200)')
    with seeded(0, 'paths'): model = SHLP(784, width=60)
    fit(model, data.train, epochs=30, batch_size=20)
    return model, data.test[:50]


GRIDS = {'inf': (1e-3, .5), 2: (.02, 10), 1: (.2, 100), None: (.05, 50)}

def every_path(model, split, attack, count):
    "Grid, critical norms by bisection of all radii, by bisection of the grid and by climbing it, curve, and worst case at every fifth radius."
    grid = np.geomspace(*GRIDS[getattr(attack, 'norm', None)], count)
    free, on_grid = (critical_norm(model, split, attack, grid=g, checks=False) for g in (None, grid))
    scanned = critical_norm(model, split, attack, method='grid', grid=grid, checks=False)
    return (grid, free, on_grid, scanned, accuracy_curve(model, split, attack, grid, checks=False),
            worst_case(model, split, [attack], grid[::5], checks=False))


@pytest.mark.parametrize('attack', [FGSM(), FGSM(norm=2), PGD(), PGD(norm=2), PGD(norm=1), PGD(loss='log_odds', keep='last'), PublishedPGD()], ids=repr)
def test_an_attack_equals_itself_through_every_path(digits, attack):
    grid, free, on_grid, scanned, curve, worst = every_path(*digits, attack, 50)
    ratio = grid[1] / grid[0]
    for bisected in (free, on_grid): assert compare_protocols(bisected, scanned).share >= .97
    both = np.nan_to_num(free.eps) * np.nan_to_num(scanned.eps) > 0
    assert both.sum() == scanned.images - scanned.never > 30
    assert 1 <= np.median(scanned.eps[both] / free.eps[both]) <= ratio
    assert np.nanmedian(on_grid.eps) == np.nanmedian(scanned.eps)
    assert np.isclose(on_grid.median, scanned.median, rtol=1e-4)
    for c in (free, on_grid, scanned): assert np.abs(c.survival(grid) - curve.relative).max() <= .03
    assert np.array_equal(worst.relative, curve.relative[::5])


@pytest.mark.parametrize('attack', [APGD(steps=20), APGD(norm=2, steps=20), Square(queries=100), GaussianNoise('fixed')], ids=repr)
def test_an_attack_that_draws_equals_itself_but_for_its_draws(digits, attack):
    "Other random numbers at another radius: single images differ, their median and the curves do not."
    grid, free, on_grid, scanned, curve, worst = every_path(*digits, attack, 16)
    ratio = grid[1] / grid[0]
    assert 1 / ratio < np.nanmedian(free.eps) / np.nanmedian(scanned.eps) < ratio**.5
    assert 1 / ratio <= np.nanmedian(on_grid.eps) / np.nanmedian(scanned.eps) <= ratio + 1e-9
    for c in (free, on_grid, scanned): assert np.abs(c.survival(grid) - curve.relative).max() <= .15
    assert np.abs(worst.relative - curve.relative[::5]).max() <= .15


def test_the_published_attack_is_searched_as_ours_is(digits):
    "What separates two attacks must not be the grid that one of them was read off."
    model, split = digits
    ours, theirs = (critical_norm(model, split, a, checks=False) for a in (PGD(), PublishedPGD()))
    coarse = critical_norm(model, split, PublishedPGD(), method='grid', grid=np.geomspace(1e-3, 1, 17), checks=False)
    alike, unlike = (np.nanmedian(c.eps) / np.nanmedian(ours.eps) for c in (theirs, coarse))
    assert .95 < alike < 1.15 < unlike
    for c in (ours, theirs): assert (c.lower[c.eps > 0] >= c.eps[c.eps > 0] / (1 + 1.1e-3)).all()
