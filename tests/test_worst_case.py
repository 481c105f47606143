"The worst case over attacks against brute force, a closed form, interruptions, and models that hide their gradients."
import copy, json, math
import numpy as np
import pytest, torch
import torch.nn.functional as F
from torch import nn
from locallearning.attacks.gradient import FGSM, PGD, GaussianNoise
from locallearning.attacks.ascent import into_box, per_image, perturbation_norm
from locallearning.attacks.losses import margin
from locallearning.lab.claims import Claim
from locallearning.lab.verdicts import judge
from locallearning.instruments import rows_of
from locallearning.robustness.instruments import WorstCaseProbe
from locallearning.core import COLUMNS, InputError
from locallearning.splits import Split
from locallearning.robustness.target import predict
from locallearning.models import SHLP, Normalize
from locallearning.state import save_checkpoint, seeded, stream
from locallearning.robustness.worst import worst_flags, Transfer, WorstCase, standard_attacks, attack_once, worst_case
from locallearning.state import model_key
import pandas as pd

INF = (-math.inf, math.inf)
EPS = [.03, .08, .2]


class Corners:
    "A black box: random corners of the ball, the best is kept."
    black_box, norm = True, 'inf'
    def __init__(self, queries=60): self.queries = queries
    def __call__(self, model, x, y, eps, *, bounds=(0., 1.), generator=None):
        best, over = x, torch.full((len(x),), -math.inf)
        for _ in range(self.queries):
            z = into_box(x + per_image(eps, x) * torch.randn(x.shape, generator=generator).sign(), bounds)
            with torch.no_grad(): m = margin(model(z), y)
            best, over = torch.where(per_image(m > over, x).bool(), z, best), m.maximum(over)
        return best


class Counted:
    "Another attack, with a note of how many images it was given at which radius; it may fail at a call."
    def __init__(self, attack, fail_at=None):
        self.attack, self.norm, self.seen, self.fail_at = attack, 'inf', [], fail_at
        self.loss, self.black_box = getattr(attack, 'loss', 'ce'), getattr(attack, 'black_box', False)
    def __call__(self, model, x, y, eps, **kwargs):
        if len(self.seen) == self.fail_at: raise KeyboardInterrupt
        self.seen.append((float(eps), len(x)))
        return self.attack(model, x, y, eps, **kwargs)


class Hidden(nn.Module):
    "Large logits without a slope."
    def __init__(self, model): super().__init__(); self.model = model
    def forward(self, x): return (1e3 * self.model(x)).round()


def blobs(n=240, d=36, classes=5, seed=0):
    "Noisy prototypes in [0, 1]."
    g = torch.Generator().manual_seed(seed)
    centres = torch.rand(classes, d, generator=torch.Generator().manual_seed(99))
    y = torch.arange(n) % classes
    return Split((centres[y] + .5*torch.randn(n, d, generator=g)).clamp(0, 1).view(n, 1, 6, 6), y)


def make(seed):
    data = blobs(seed=1)
    with seeded(seed, 'net'): model = SHLP(36, width=60, classes=5)
    opt = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(100):
        opt.zero_grad(); F.cross_entropy(model(data.x), data.y).backward(); opt.step()
    return model.eval()


@pytest.fixture(scope='module')
def model(): return make(0)


@pytest.fixture(scope='module')
def other(): return make(1)


@pytest.fixture(scope='module')
def test(): return blobs(n=200, seed=2)


@pytest.fixture(scope='module')
def attacks(other): return [PGD(steps=8, loss='log_odds'), FGSM(), PGD(steps=8, loss='margin'), Transfer(other, PGD(steps=8))]


@pytest.fixture(scope='module')
def result(model, test, attacks): return worst_case(model, test, attacks, EPS, keep_examples=True)


# ---- what it computes

def test_it_is_the_union_over_attacks_and_smaller_radii(model, test, attacks, result):
    "None of these attacks draws, and none looks at the neighbours of an image, so passing on what is left must change nothing."
    right = predict(model, test) == test.y
    for row, eps in zip(result.broken_by, EPS):
        for attack in attacks: right &= predict(model, (attack(model, test.x, test.y, eps), test.y)) == test.y
        assert ((row == -1) == right.numpy()).all()
    assert (result.broken_by >= -2).all() and result.broken_by.dtype == np.int16
    assert 0 < result.accuracy[-1] < result.accuracy[0] < result.clean, 'the radii are worth comparing'


def test_each_image_is_broken_by_the_attack_that_is_named(model, test, attacks, result):
    for j, attack in enumerate(attacks):
        at = torch.as_tensor(np.flatnonzero(result.broken_by[0] == j))
        if len(at): assert (model(attack(model, test.x[at], test.y[at], EPS[0])).argmax(1) != test.y[at]).all()
    assert (result.broken_by[0] == 0).sum() > 0


def test_wrong_images_count_as_wrong_and_are_never_attacked(model, test):
    attack = Counted(PGD(steps=3))
    wrong = (predict(model, test) != test.y).numpy()
    found = worst_case(model, test, [attack], [.03], checks=False)
    assert wrong.sum() > 0 and (found.broken_by[:, wrong] == -2).all() and attack.seen == [(.03, (~wrong).sum())]
    assert found.clean == 1 - wrong.mean() and found.relative[0] == pytest.approx(found.accuracy[0]/found.clean)


def test_only_images_still_right_are_passed_on(model, test):
    first, second = Counted(PGD(steps=8)), Counted(FGSM())
    found = worst_case(model, test, [first, second], EPS, checks=False)
    left = [int(found.correct.sum()), *found.table.left]
    assert [n for _, n in first.seen] == [left[0], left[2], left[4]] and [n for _, n in second.seen] == [left[1], left[3], left[5]]


def test_what_broke_at_a_smaller_radius_is_broken_at_larger_ones(model, test):
    class OnlySmall: # finds nothing at larger radii, as an overlong step may
        norm = 'inf'
        def __call__(self, model, x, y, eps, **kw): return PGD(steps=5)(model, x, y, eps if eps < .1 else 0., **kw)
    found = worst_case(model, test, [OnlySmall()], [.05, .2, .4], checks=False)
    assert (found.broken_by[0] >= 0).sum() > 5 and (found.broken_by == found.broken_by[0]).all()


def test_images_that_leave_an_attack_early_change_no_verdict(model, test, attacks, result):
    assert np.array_equal(worst_case(model, test, attacks, EPS, checks=False).broken_by, result.broken_by), 'with examples, all steps are taken'
    points = [PGD(steps=8)(model, test.x, test.y, .06), attack_once(model, test, PGD(steps=8), .06, None, keep=True)['x']]
    assert torch.equal(*points), 'an example is the worst of all steps'


def test_a_radius_of_zero_attacks_nothing(model, test):
    attack = Counted(PGD(steps=3))
    found = worst_case(model, test, [attack], [0., .03], checks=False)
    assert found.accuracy[0] == found.clean and [e for e, _ in attack.seen] == [.03]


@pytest.mark.parametrize('norm, dual', [(2, 2), ('inf', 1)])
def test_linear_classifier_in_closed_form(norm, dual):
    "The ball of a linear classifier is broken exactly if its radius exceeds margin over dual norm."
    with seeded(0, 'linear'): model, x = nn.Linear(12, 4), torch.randn(150, 12)
    y = model(x).argmax(1)
    with torch.no_grad():
        z = model(x)
        gap, size = z.gather(1, y[:, None]) - z, (model.weight[y][:, None] - model.weight[None]).norm(dual, dim=2)
        distance = (gap/size).scatter(1, y[:, None], math.inf).amin(1).numpy()
    eps = np.quantile(distance, [.2, .5, .8])
    found = worst_case(model, Split(x, y, bounds=INF), standard_attacks(norm, steps=60, restarts=1, queries=20, targets=3), eps, checks=False)
    sure = np.abs(distance - eps[:, None]) > .01*eps[:, None]
    assert ((found.broken_by >= 0) == (distance < eps[:, None]))[sure].all() and sure.mean() > .95


def test_examples_are_in_ball_and_box_and_do_what_is_said(model, test, result):
    assert result.examples.shape == (3, *test.x.shape)
    for row, x, eps in zip(result.broken_by, result.examples, EPS):
        assert perturbation_norm(test.x, x, 'inf').max() <= eps + 1e-6 and 0 <= x.min() and x.max() <= 1
        assert ((model(x).argmax(1) == test.y).numpy() == (row == -1)).all()
        assert x[torch.as_tensor(row == -2)].equal(test.x[torch.as_tensor(row == -2)])
    held = torch.as_tensor(result.broken_by[0] == -1)
    assert (margin(model(result.examples[0]), test.y) > margin(model(test.x), test.y))[held].all(), 'the strongest that was found'


def test_model_and_images_are_left_as_they_were(model, test, attacks):
    before, x, grads = model_key(model), test.x.clone(), [p.grad.clone() for p in model.parameters()]
    model.train(); worst_case(model, test, attacks[:1], [.03])
    assert model.training and model_key(model) == before and test.x.equal(x) and all(p.grad.equal(g) for p, g in zip(model.parameters(), grads))
    model.eval()


# ---- resuming

def same(a, b):
    for k, v in vars(a).items():
        w = vars(b)[k]
        assert (v.equal(w) if isinstance(v, torch.Tensor) else np.array_equal(v, w)), k


def test_a_kill_costs_at_most_one_attack_at_one_radius(model, test, other, tmp_path):
    "Killed at every possible call in turn; the random attacks give what an uninterrupted search gives."
    kinds = lambda fail: [Counted(PGD(steps=4, random_start=True, restarts=2), fail), Counted(Corners(5), fail)]
    whole = worst_case(model, test, kinds(None), EPS, seed=3, keep_examples=True)
    calls, rounds = [], 0
    while rounds < 20:
        attempt, rounds = kinds(1), rounds + 1 # every attack dies at its second call
        try: found = worst_case(model, test, attempt, EPS, seed=3, keep_examples=True, folder=tmp_path/'w')
        except KeyboardInterrupt: calls += [s for a in attempt for s in a.seen]; continue
        calls += [s for a in attempt for s in a.seen]
        break
    same(found, whole)
    assert rounds > 3 and len(calls) == len(list((tmp_path/'w').glob('*.safetensors'))), 'nothing that was finished is made again'


def test_a_finished_search_is_only_read(model, test, tmp_path):
    first = worst_case(model, test, [Counted(Corners(5))], EPS, folder=tmp_path/'w')
    attack = Counted(Corners(5))
    same(worst_case(model, test, [attack], EPS, folder=tmp_path/'w'), first)
    assert attack.seen == []


@pytest.mark.parametrize('change, what', [
    (dict(eps=[.03, .09]), 'eps'), (dict(seed=1), 'seed'), (dict(batch_size=7), 'batch_size'), (dict(keep_examples=True), 'examples'),
    (dict(attacks=[PGD(steps=4)]), 'attacks'), (dict(model=None), 'model'), (dict(data=blobs(n=40, seed=8)), 'images'), (dict(attacks=[Counted(PGD(steps=3))]), 'attacks')])
def test_a_folder_of_another_request_is_refused(model, other, tmp_path, change, what):
    ask = dict(model=model, data=blobs(n=40, seed=7), attacks=[PGD(steps=3)], eps=[.03, .08], folder=tmp_path, checks=False)
    worst_case(**ask)
    if 'model' in change: change = dict(model=other)
    with pytest.raises(InputError, match=f'holds the state of another worst case .it differs in .*{what}'): worst_case(**ask | change)
    worst_case(**ask)


def test_other_weights_of_the_surrogate_are_another_request(model, other, tmp_path):
    path, ask = tmp_path/'s.safetensors', dict(data=blobs(n=40, seed=7), eps=[.03], folder=tmp_path/'w', checks=False)
    save_checkpoint(path, other); worst_case(model, attacks=[PGD(steps=3), Transfer(path)], **ask)
    save_checkpoint(path, model)
    with pytest.raises(InputError, match='differs in attacks'): worst_case(model, attacks=[PGD(steps=3), Transfer(path)], **ask)


def test_a_seed_decides_and_the_global_generator_does_not(model, test):
    run = lambda seed: worst_case(model, test, [PGD(steps=2, random_start=True), Corners(3)], EPS, seed=seed, checks=False, keep_examples=True)
    a = run(0); torch.manual_seed(17); same(run(0), a)
    assert not run(1).examples.equal(a.examples)


def test_a_unit_is_made_again_when_it_got_other_images(model, test, tmp_path, monkeypatch):
    "On another device an image on the boundary may fall to the other side; what was kept for other images must not be laid over these."
    import locallearning.robustness.worst as worst
    ask = dict(attacks=[Counted(PGD(steps=3)), Counted(Corners(5))], eps=EPS[:2], checks=False, keep_examples=True)
    worst_case(model, test, **ask, folder=tmp_path)
    rows = worst.correct_rows
    monkeypatch.setattr(worst, 'correct_rows', lambda *a: rows(*a)[1:])
    same(worst_case(model, test, **ask, folder=tmp_path), worst_case(model, test, **ask))


def test_a_request_is_a_few_readable_lines(model, test, tmp_path):
    worst_case(model, test[:20], [PGD(steps=2)], [.03], folder=tmp_path, checks=False)
    request = json.loads((tmp_path/'request.json').read_text(encoding='utf-8'))
    assert request.pop('model') == model_key(model) and len(request.pop('images')) > 8
    assert request == dict(attacks=['PGD(steps=2)'], eps=[.03], seed=0, batch_size=1000, keep_examples=False)


def test_a_scaling_layer_is_part_of_the_key_of_a_model(model):
    "Its mean is in no state dict; nor is the slope of an activation."
    key = lambda first: model_key(nn.Sequential(first, model))
    assert key(Normalize((.5,))) != key(Normalize((.4,))) and key(nn.LeakyReLU(.1)) != key(nn.LeakyReLU(.2)) and key(nn.ReLU()) == key(nn.ReLU())


# ---- masking

def test_no_flag_on_an_ordinary_model(model, test, other):
    found = worst_case(model, test, standard_attacks(surrogate=other, steps=16, restarts=2, queries=60, targets=4), EPS)
    assert found.flags == ((), (), ()) and found.signs['survivors'] == 0 and max(found.signs.values()) < .05


@pytest.mark.parametrize('black', ['corners', 'transfer'])
def test_hidden_gradients_are_masked_and_a_black_box_wins(model, test, other, black):
    attacks = [PGD(steps=8), PGD(steps=8, loss='log_odds'), Corners() if black == 'corners' else Transfer(other)]
    found = worst_case(Hidden(model), test, attacks, EPS)
    for flags in found.flags: assert {'masked', 'zero gradient', 'survivors'} <= set(flags)
    assert 'black box wins' in found.flags[-1] and (found.broken_by[-1] == 2).sum() > 2


def test_one_loss_with_a_gradient_is_enough(model, test):
    "Cross-entropy saturates at logits of thousands, the log-odds do not: the number rests on them."
    loud = copy.deepcopy(model)
    with torch.no_grad(): loud.readout.weight *= 1e4; loud.readout.bias *= 1e4
    saturated = worst_case(loud, test, [PGD(steps=8)], EPS)
    both = worst_case(loud, test, [PGD(steps=8), PGD(steps=8, loss='log_odds')], EPS)
    assert 'zero gradient' in saturated.flags[0] and both.flags == ((), (), ())
    assert both.signs['zero gradient of ce'] > .05 > both.signs['zero gradient of log_odds']


def test_black_boxes_come_last_and_count_only_what_no_white_box_breaks(model, test):
    "Given first, a strong black box would take the images of the white boxes, and every model would look masked."
    found = worst_case(model, test, [Corners(), PGD(steps=8)], EPS)
    assert found.attacks[0].startswith('PGD') and found.black_box == (False, True) and found.flags == ((), (), ())


def test_a_white_box_that_wins_at_a_larger_radius_clears_the_smaller_win_of_a_black_box(model, test):
    class Late: # blind at small radii
        norm = 'inf'
        def __call__(self, model, x, y, eps, **kw): return PGD(steps=8)(model, x, y, eps if eps > .1 else 0., **kw)
    found = worst_case(model, test, [Late(), Counted(PGD(steps=8))], [.08, .3], checks=False)
    assert found.flags == ((), ())
    black = Counted(PGD(steps=8)); black.black_box = True
    found = worst_case(model, test, [Late(), black], [.08, .3], checks=False)
    assert found.flags == (('masked', 'black box wins'), ()) and (found.table.broken[1] > 0)


@pytest.mark.parametrize('n, expected', [(2, ()), (3, ('masked', 'black box wins'))])
def test_a_black_box_wins_from_two_tenths_of_a_point_on(n, expected):
    broken_by, black = np.full(1000, -1, np.int16), np.array([False, True])
    broken_by[:400], broken_by[400:400 + n], broken_by[900:] = 0, 1, -2
    assert worst_flags(broken_by, black, {}) == expected


def test_survivors_of_the_whole_box_are_a_sign():
    class Constant(nn.Module):
        def forward(self, x): return x.flatten(1).sum(1, keepdim=True)*1e-3*torch.tensor([1., 1., 1.]) + torch.eye(3)[1]
    found = worst_case(Constant(), (torch.rand(20, 1, 4, 4), torch.ones(20).long()), [PGD(steps=3, loss='ce')], [.1])
    assert set(found.flags[0]) >= {'masked', 'survivors'} and found.signs['survivors'] == 1


def test_without_a_white_box_nothing_can_be_said(model, test):
    assert worst_case(model, test, [Corners()], [.1]).flags == (('no white box',),)
    assert worst_case(model, test, [GaussianNoise(), Corners()], [.1]).flags == (('no white box',),), 'noise follows no gradient'


def written(result, model): return rows_of(WorstCaseProbe([PGD()]), result, model)


def test_a_claim_on_a_masked_row_is_undecided(model, test):
    rows = [r for m, net in dict(a=Hidden(model), b=model).items() for r in written(worst_case(net, test, [PGD(steps=5), Corners(5)], [.1]), m)]
    claim = Claim('c', 's', 'f', 'order', ('a', 'b'), 'worst_case', 'relative_accuracy', 'eps=0.1', tolerance=.01, because='a test')
    said = judge([claim], pd.DataFrame(rows)).iloc[0]
    assert said.verdict == 'undecided' and 'masked' in said.reason
    assert judge([claim], pd.DataFrame(rows).assign(flags='')).iloc[0].verdict == 'holds'


# ---- transfer

def test_transfer_is_the_attack_on_the_other_model(model, other, test):
    attack = PGD(steps=5)
    assert Transfer(other, attack)(model, test.x, test.y, .1).equal(attack(other, test.x, test.y, .1))
    assert Transfer(other, 'PGD(steps=5)').attack == attack and Transfer(other).black_box


def test_transfer_by_path_and_its_recipe(model, other, test, tmp_path):
    path = save_checkpoint(tmp_path/'other.safetensors', other)
    by_path = Transfer(str(path), PGD(steps=5))
    assert repr(by_path) == f"Transfer(surrogate={str(path)!r}, attack=PGD(steps=5))" and 'model' not in vars(by_path), 'read on first use'
    assert by_path(model, test.x, test.y, .1).equal(PGD(steps=5)(other, test.x, test.y, .1))
    with pytest.raises(InputError, match='no checkpoint at SHLP'): Transfer(Transfer(other).surrogate)(model, test.x, test.y, .1)


def test_a_surrogate_of_scaled_images_attacks_pixels(other, test, tmp_path):
    unit = test.in_space('lp_unit', 3)
    path = save_checkpoint(tmp_path/'unit.safetensors', other, space='lp_unit(p=3)')
    z = Transfer(path, PGD(steps=3))(None, test.x, test.y, .1)
    scaled = nn.Sequential(copy.deepcopy(other)); scaled.forward = lambda x: other(x/x.flatten(1).norm(3, 1).view(-1, 1, 1, 1))
    assert z.equal(PGD(steps=3)(scaled, test.x, test.y, .1)) and perturbation_norm(test.x, z, 'inf').max() <= .1 + 1e-6
    assert Transfer(path, PGD(steps=3))(None, unit.x, unit.y, .01, bounds=unit.bounds).equal(PGD(steps=3)(other, unit.x, unit.y, .01, bounds=unit.bounds))
    with pytest.raises(InputError, match='takes pixels'):
        Transfer(save_checkpoint(tmp_path/'pixel.safetensors', other))(None, unit.x, unit.y, .01, bounds=unit.bounds)


def test_scaled_images_with_boxes_of_their_own(model, other, test):
    unit = test[:60].in_space('lp_unit', 3)
    found = worst_case(model, unit, standard_attacks(surrogate=other, steps=6, restarts=1, queries=20, targets=2), [.02, .1], keep_examples=True)
    assert found.space == 'lp_unit(p=3)' and (found.examples <= unit.bounds[1] + 1e-6).all()


# ---- results and bad input

def test_standard_attacks(other):
    names = lambda **kw: [type(a).__name__ for a in standard_attacks(**kw)]
    assert names() == ['PGD', 'APGD', 'APGD', 'Square'] and names(surrogate=other, targets=0) == ['PGD', 'APGD', 'Square', 'Transfer']
    pgd, ce, t, square = standard_attacks(norm=2)
    assert (pgd.loss, pgd.restarts, pgd.steps, ce.steps, t.targets, square.queries) == ('log_odds', 5, 50, 100, 9, 5000) and {a.norm for a in (pgd, ce, t, square)} == {2}


def test_table_rows_and_plain_data(result, test):
    again = WorstCase(**vars(result))
    same(again, result); json.dumps([again.attacks, again.flags, again.signs])
    last = result.table.groupby('eps').left.last().to_numpy()
    assert (last == result.right.sum(1)).all() and list(result.table.columns) == ['eps', 'attack', 'broken', 'left', 'black_box']
    rows = written(result, 'bp')
    assert len(rows) == 6 and tuple(rows[0]) == COLUMNS and rows[5]['value'] == result.relative[2]
    assert rows[0]['setting'] == f'attacks=PGD+FGSM+PGD+Transfer;eps=0.03;n={result.n}'


class Leaves:
    norm = 2
    def __call__(self, model, x, y, eps, **kw): return x + eps


@pytest.mark.parametrize('attacks, eps, message', [
    ([], [.1], 'give a list of attacks'), (PGD(), [.1], 'give a list of attacks'), (['PGD()'], [.1], 'build it first'),
    ([PGD(), PGD(norm=2)], [.1], 'make one worst case for each'), ([PGD()], [.2, .1], 'ascend'), ([PGD()], [-.1], 'finite and ≥ 0'), ([Leaves()], [.1], 'left its ball')])
def test_bad_input(model, test, attacks, eps, message):
    with pytest.raises(InputError, match=message): worst_case(model, test, attacks, eps)


def test_noise_has_no_ball_and_takes_no_part_in_the_checks(model, test):
    found = worst_case(model, test, [GaussianNoise()], [.05, .5])
    assert found.signs == {} and found.accuracy[1] < found.clean
