"""Bad input to the family: one message each, before the first step; a term that is not finite stops the training at its step."""
import math

import pytest
import torch
from torch import nn

import locallearning as ll
from locallearning import training
from locallearning.core import InputError
from locallearning.lab.trainings import resolve_training
from locallearning.models import MLP
from locallearning.state import load_tree, seeded, stream
from locallearning.training import as_chain, fit


def images(n=20): return torch.rand(n, 1, 4, 4, generator=stream(0, 'x')), torch.arange(n) % 5


def net():
    with seeded(0, 'init'): return MLP(16, widths=(12,), classes=5)


def untouched(train):
    "Run what has to be refused; the model must be as it was."
    model = net()
    before = [p.clone() for p in model.parameters()]
    try: train(model)
    finally: assert all(p.equal(b) for p, b in zip(model.parameters(), before, strict=True))


# --- a radius or a weight that does nothing, or the opposite

MAKERS = {
    'LossGradient(strength': lambda v: ll.LossGradient(v), 'ClassGradient(strength': lambda v: ll.ClassGradient(v),
    'ClassPerturbation(eps': lambda v: ll.ClassPerturbation(v), 'VAT(strength': lambda v: ll.VAT(v), 'VAT(eps': lambda v: ll.VAT(eps=v),
    'DeformationStability(strength': lambda v: ll.DeformationStability(v), 'TangentGradient(strength': lambda v: ll.TangentGradient(v),
    'SpectralNormPenalty(strength': lambda v: ll.SpectralNormPenalty(v), 'SpectralProjection(tau': lambda v: ll.SpectralProjection(v),
    'SpectralProjection(kappa': lambda v: ll.SpectralProjection(kappa=v), 'Adversarial(eps': lambda v: ll.Adversarial(ll.PGD(norm=2), v)}


@pytest.mark.parametrize('value', [0, -.1, math.nan])
@pytest.mark.parametrize('name', MAKERS)
def test_radii_and_weights_are_above_zero(name, value):
    with pytest.raises(InputError) as e: MAKERS[name](value)
    assert str(e.value).startswith(f'{name}={value}): must be a number > 0')


@pytest.mark.parametrize('piece', [ll.PublishedDeformationStability, ll.PublishedTangentGradient])
def test_published_pieces_refuse_the_same(piece):
    with pytest.raises(InputError, match='strength=0'): piece(0)


def test_a_deformation_that_moves_nothing_is_refused():
    with pytest.raises(InputError, match='deforms nothing'): ll.DeformationStability(deformation=0, shift=0)
    ll.DeformationStability(deformation=0, shift=1), ll.DeformationStability(deformation=1, shift=0)


# --- two that both replace the batch

ATTACKED = ll.Adversarial(ll.PGD(norm=2), .5)
TWO = [[ATTACKED, ll.Adversarial(ll.PGD(), .1)], [ATTACKED, ll.Adversarial(ll.PublishedPGDL2(), .5)], [ATTACKED, ll.CropFlip(1)],
       [ll.Deformed(), ATTACKED, ll.CropFlip(1), ll.Adversarial(ll.FGSM(), .1)]]


@pytest.mark.parametrize('transforms', TWO, ids=lambda ts: ' '.join(type(t).__name__ for t in ts))
def test_nothing_comes_after_a_transform_that_replaces_the_batch(transforms):
    with pytest.raises(InputError) as e: untouched(lambda model: fit(model, images(), epochs=1, transform=transforms))
    at = transforms.index(ATTACKED)
    assert f'{transforms[at + 1]!r} comes after {ATTACKED!r}, which replaces the batch' in str(e.value)


def test_augmentation_comes_before_it_and_penalties_and_constraints_compose(): # its defect 17: six flags for one variable
    log = fit(net(), images(), epochs=1, batch_size=10, transform=[ll.CropFlip(1), ll.Deformed(), ll.Adversarial(ll.PGD(norm=2, steps=2), .3)],
              penalties=[ll.LossGradient(.1), ll.ClassPerturbation(.2, top=2), ll.SpectralNormPenalty()], constraints=[ll.SpectralProjection(1.)])
    assert all(math.isfinite(log.last(q)) for q in ('loss', 'LossGradient', 'ClassPerturbation', 'SpectralNormPenalty'))


def test_a_transform_of_ones_own_says_so_too():
    class Mine:
        replaces = True
        def __call__(self, model, x, y, bounds): yield x, y
    with pytest.raises(InputError, match='Mine.* comes after .*Mine.*, which replaces the batch'): as_chain([Mine(), Mine()])
    assert len(as_chain([lambda model, x, y, bounds: None, Mine()])) == 2 and as_chain(None) == [] and len(as_chain(Mine())) == 1


# --- what is refused before the first step

class Constant(nn.Module):
    "Logits without a linear map."
    def __init__(self, classes=5):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(classes))
    def forward(self, x): return x.mean((1, 2, 3))[:, None] * self.bias


@pytest.mark.parametrize('how', [dict(penalties=[ll.SpectralNormPenalty()]), dict(penalties=[ll.SpectralNormPenalty(exact=True)]),
                                 dict(constraints=[ll.SpectralProjection()]), dict(constraints=[ll.SpectralProjection(reading='operator')])], ids=repr)
def test_a_model_without_linear_maps_is_refused_before_the_first_step(how):
    model = Constant()
    with pytest.raises(InputError, match='Constant has no linear or convolutional layer that trains'): fit(model, images(), epochs=1, **how)
    assert not model.bias.any()


ASKS = {'DeformationStability(0.1, examples=21) asks for 21 examples of 20 training images': ll.DeformationStability(examples=21),
        'TangentGradient(0.1, examples=21) asks for 21 examples of 20 training images': ll.TangentGradient(examples=21),
        'ClassPerturbation(top=21) asks for 21 of 20 training images': ll.ClassPerturbation(top=21)}


@pytest.mark.parametrize('said', ASKS)
def test_more_examples_than_there_are_are_refused(said):
    with pytest.raises(InputError) as e: untouched(lambda model: fit(model, images(), epochs=1, penalties=[ASKS[said]]))
    assert said in str(e.value)


def test_more_than_a_batch_has_takes_all_of_it():
    pieces = [ll.DeformationStability(examples=20, versions=2), ll.TangentGradient(examples=20, tangents=2), ll.ClassPerturbation(.2, top=20)]
    log = fit(net(), images(), epochs=1, batch_size=12, penalties=pieces)
    assert all(log.last(type(p).__name__) > 0 for p in pieces)


SMALL = dict(data='mnist5k(per_class=6, test=40)', valid=0, model='SHLP(width=6)')


@pytest.mark.parametrize('said, change', [
    ('which replaces the batch', dict(transforms=["Adversarial(PGD(norm=2), eps=.5)", "Adversarial(PGD(), eps=.1)"])),
    ('asks for 61 examples of 60 training images', dict(penalties=['DeformationStability(examples=61)'])),
    ('asks for 61 of 60 training images', dict(penalties=['ClassPerturbation(top=61)'])),
    ('no linear or convolutional layer', dict(model='Constant()', modules=[__name__], constraints=['SpectralProjection()'])),
    ('LossGradient(strength=-1): must be a number > 0', dict(penalties=['LossGradient(-1)'])),
    ("unknown piece 'LossGradeint'; did you mean 'LossGradient'", dict(penalties=['LossGradeint(.1)']))])
def test_a_plan_is_refused_with_the_same_words(said, change):
    with pytest.raises(InputError) as e: resolve_training(**SMALL | change)
    assert said in str(e.value)


# --- what is not finite

class Breaks(ll.ClassGradient):
    "Not finite from one call on."
    calls = 0
    def __init__(self, at):
        super().__init__(.1)
        self.at = at
    def forward(self, model, x, y=None, out=None):
        self.calls += 1
        return super().forward(model, x, y, out) * (math.nan if self.calls > self.at else 1)


def test_the_training_stops_at_that_step_names_the_term_and_keeps_what_was_good(tmp_path):
    piece, model, seen = Breaks(5), net(), []
    def look(net): seen.append(all(p.isfinite().all() for p in net.parameters()))
    with pytest.raises(FloatingPointError) as e:
        fit(model, images(), epochs=5, batch_size=5, penalties=[ll.LossGradient(.1), piece], constraints=[look], folder=tmp_path)
    assert str(e.value).startswith('Breaks was not finite in step 1 of epoch 1; ') and str(e.value).endswith('what was saved before is kept')
    assert piece.calls == 6 and seen == [True]*5 + [False], 'no step after that one'
    saved = load_tree(tmp_path/'state.safetensors')
    assert saved['done'] == 1 and all(v.isfinite().all() for v in saved['model'].values())


def test_terms_that_break_together_are_named_together():
    class All:
        def __call__(self, model, x, y, out): return out.logits.sum() * math.inf
    with pytest.raises(FloatingPointError, match='Breaks and All were not finite in step 0 of epoch 0'):
        fit(net(), images(), epochs=1, penalties=[Breaks(0), All()])


def test_an_accelerator_is_looked_at_now_and_then(monkeypatch):
    "A look at each step would make the host wait; the step that is named is the right one all the same."
    monkeypatch.setattr(training, 'device_of', lambda model: torch.device('cuda'))
    looks = []
    def step(x, y): return dict(loss=torch.tensor(math.nan if x >= 7 else 1.), logits=torch.zeros(1, 2))
    def look(means):
        looks.append(means.steps)
        training.check_terms(means, 3)
    batches = [(i, torch.zeros(1, dtype=torch.long), None) for i in range(100)]
    with pytest.raises(FloatingPointError, match='loss was not finite in step 7 of epoch 3'):
        training._one_epoch(net(), step, lambda x, y, bounds: [(x, y)], batches, lambda number: None, look)
    assert looks == [training.LOOK]


@pytest.mark.parametrize('constraint', [ll.SpectralProjection(.5), ll.SpectralProjection(.5, reading='operator')], ids=repr)
def test_a_projection_does_not_hide_the_term_that_broke(constraint):
    "The weights are NaN when it is their turn; a decomposition of them would end in an error of its own."
    with pytest.raises(FloatingPointError, match='Breaks was not finite in step 0 of epoch 0'):
        fit(net(), images(), epochs=1, batch_size=5, penalties=[Breaks(0)], constraints=[constraint])


def test_the_exact_penalty_of_weights_that_are_not_finite_is_not_finite():
    model = net()
    with torch.no_grad(): next(model.parameters()).fill_(math.nan)
    assert ll.SpectralNormPenalty(.1, exact=True)(model).isnan()
