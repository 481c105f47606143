"The rows about RKHS penalties: that ours and the textbook's are the same thing, and what is counted beside the times. No test asks how fast anything is."
import pytest, torch
from torch import nn
from locallearning.bench import rkhs as B
from locallearning.bench.rows import all_rows
from locallearning.models import read
from locallearning.rkhs.penalties import ClassGradient, ClassPerturbation, LossGradient
from locallearning.probes.norms import weighted_layers
from locallearning.state import seeded

TARGETS = dict(loss_gradient=3, class_gradient=5, class_perturbation=12, class_perturbation_exact=40, spectral_clip=1.4, spectral_bound=1.15)
PAIRS = [(LossGradient(), B.SquaredLossGradient()), (ClassGradient(), B.LargestLogitGradients()), (ClassPerturbation(), B.LargestRises())]


@pytest.fixture(scope='module')
def made(): return {name: all_rows()[name](.02, 'synthetic') for name in TARGETS}


@pytest.fixture(scope='module')
def inputs(): return B.rkhs_inputs(96, .33, 'synthetic')[:2]


# --- rows

@pytest.mark.parametrize('name', TARGETS)
def test_a_row_is_held_against_a_plain_step(made, name):
    r = made[name]
    assert (r.against, r.at_most) == ('floor', TARGETS[name]) and min(r.ours, r.textbook, r.floor) > 0 and 'synthetic images' in r.note


def test_rows_have_names_of_their_own(made): assert len({r.name for r in made.values()}) == len(TARGETS)


def test_the_row_of_the_preselection_says_how_often_it_is_right(made):
    found = made['class_perturbation'].more['same']
    assert found['pairs'] == 40 and f'{found["share"]:.1%} of 40 times' in made['class_perturbation'].note


def test_the_rows_of_the_projection_do_what_their_names_say(made):
    clip, bound = (made[name].more['work'] for name in ('spectral_clip', 'spectral_bound'))
    assert clip['clipped'] > .5 and clip['above'] > 1 and bound['clipped'] == bound['above'] == 0 and bound['known'] > .8


# --- what they compare

@pytest.mark.parametrize('ours, textbook', PAIRS, ids=lambda p: type(p).__name__)
def test_ours_is_the_textbooks(inputs, ours, textbook): assert B.penalties_apart(ours, textbook, *inputs, 4) < 1e-4


@pytest.mark.parametrize('other, textbook', [
    (LossGradient(norm=1), PAIRS[0][1]), (LossGradient(), PAIRS[1][1]), (ClassPerturbation(eps=1.01), PAIRS[2][1])], ids=lambda p: type(p).__name__)
def test_another_penalty_is_apart(inputs, other, textbook): assert B.penalties_apart(other, textbook, *inputs, 4) > .01


def test_penalties_of_equal_value_and_other_gradient_are_apart(inputs):
    class Stopped(B.SquaredLossGradient):
        def __call__(self, model, x, y, out): return super().__call__(model, x, y, out).detach() + 0*sum(p.sum() for p in model.parameters())
    assert B.penalties_apart(Stopped(), B.SquaredLossGradient(), *inputs, 4) == pytest.approx(1)


@pytest.mark.parametrize('penalty, factor', [(B.LargestLogitGradients(), 1), (B.LargestRises(eps=.5), .25)], ids=lambda p: type(p).__name__)
def test_the_textbook_penalty_of_a_linear_model_is_exact(inputs, penalty, factor):
    x, y = inputs
    with seeded(0, 'test'): model = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 10))
    value = penalty(model, x, y, read(model, x))
    torch.testing.assert_close(value, factor*model[1].weight.square().sum(), rtol=1e-4, atol=0)


def test_the_textbook_gradient_of_the_loss_is_that_of_finite_differences(inputs):
    x, y = inputs[0][:3].double(), inputs[1][:3]
    with seeded(0, 'test'): model = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 10)).double()
    loss, h = lambda z: nn.functional.cross_entropy(model(z), y, reduction='none'), 1e-5
    unit = torch.eye(x[0].numel(), dtype=x.dtype).view(-1, *x.shape[1:])
    slopes = torch.stack([(loss(x + h*e) - loss(x - h*e))/(2*h) for e in unit])
    torch.testing.assert_close(B.SquaredLossGradient()(model, x, y, None), slopes.square().sum(0).mean(), rtol=1e-5, atol=0)


def test_the_textbook_projection_clips_every_weight(inputs):
    model = B.vgg5_step(*inputs, width=4).args[0]
    B.ClippedDecomposition(.5)(model)
    assert [torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() for layer in weighted_layers(model).values()] == pytest.approx([.5]*5, rel=1e-4)


# --- what is counted

def test_a_search_through_all_images_is_the_exact_one(inputs):
    found = B.same_images(ClassPerturbation(top=16), *inputs, width=4, batch=16, steps=3, every=2)
    assert found['share'] == 1 and found['pairs'] == 20 and found['least'] == pytest.approx(1)


def test_a_preselection_that_misses_is_seen(inputs):
    class Last(ClassPerturbation):
        def search(self, model, x, logits): return torch.full((10,), len(x) - 1), x.detach()[-1:].expand(10, -1, -1, -1) # and no search there
    found = B.same_images(Last(), *inputs, width=4, batch=16, steps=1)
    assert found['share'] < .5 and found['least'] == 0


def test_what_the_projection_finds_is_counted(inputs):
    low, high = (B.projection_work(*inputs, 4, tau, steps=4) for tau in (.01, 100.))
    assert low['clipped'] == 1 and low['above'] > 4 and low['known'] == 0
    assert high == dict(above=0, clipped=0, known=.75)


def test_a_timed_step_changes_next_to_nothing(inputs):
    step = B.vgg5_step(*inputs, width=4, penalties=[LossGradient()])
    before = [p.clone() for p in step.args[0].parameters()]
    for _ in range(5): step()
    assert all(0 < (p - q).abs().max() < 1e-4 for p, q in zip(step.args[0].parameters(), before, strict=True))


def test_images_are_grey_and_of_ten_classes():
    x, y, what = B.rkhs_inputs(scale=.5, data='synthetic')
    assert x.shape == (64, 1, 20, 20) and 0 <= x.min() and x.max() <= 1 and set(y.tolist()) == {*range(10)} and what == 'synthetic images'
