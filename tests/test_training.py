"""One loop for all: what is added to it, where it stops, and that it goes on with the same bits."""
import math

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import locallearning as ll
from locallearning.core import InputError
from locallearning.recipes import build_recipe
from locallearning.models import SHLP, read
from locallearning.state import load_checkpoint, load_model, load_tree, seeded, stream
from locallearning.optimizers import SGD, Adam, CrossEntropy, HoldDecay, MultiMargin, Steps
from locallearning.resuming import History, Means, epochs
from locallearning.training import accuracy, build_model, fit, term_names, train_model, train_step

torch.set_num_threads(1)


def images(n=60, classes=3, seed=0):
    "Small pictures of which each class lights another corner."
    g = torch.Generator().manual_seed(seed)
    x, y = torch.rand(n, 1, 4, 4, generator=g) * .6, torch.arange(n) % classes
    for c in range(classes): x[y == c, :, c, c] = 1.
    return x, y


DATA, TEST = images(), images(30, seed=1)


class Foreign(nn.Module):
    "What a user may bring: convolution, batch norm, dropout."
    def __init__(self, classes=3):
        super().__init__()
        self.conv, self.bn, self.drop, self.out = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(.3), nn.Linear(16, classes)
    def forward(self, x): return self.out(self.drop(self.bn(self.conv(x)).relu().flatten(1)))


def make(kind='foreign'):
    with seeded(0, 'init'): return Foreign() if kind == 'foreign' else SHLP(16, width=12, classes=3, batch_norm=kind == 'spectral')


weights = lambda model: torch.cat([v.double().flatten() for v in model.state_dict().values()])
same = lambda a, b: weights(a).equal(weights(b))


def jitter_factory():
    "A transform that draws, and makes two steps of every batch."
    class Jitter:
        generator = None
        def __call__(self, model, x, y, bounds):
            yield x, y
            yield (x + .1 * torch.rand(x.shape, generator=self.generator)).clamp(*bounds), y
    return Jitter()


class Counting(nn.Module):
    "A penalty with a state of its own, which has to be saved."
    strength = .01
    def __init__(self): super().__init__(); self.register_buffer('seen', torch.tensor(0.))
    def forward(self, model, x, y, out): self.seen += 1; return self.seen * out.logits.square().mean()


class MaxNorm:
    "A constraint."
    def __call__(self, model):
        for p in model.parameters(): p.clamp_(-.5, .5)


# --- resume

SETTINGS = {
    'dropout, jacobian, transform': lambda: dict(model=make(), penalties=[ll.Jacobian(1e-2, n=2), Counting()], transform=jitter_factory(), opt=Adam()),
    'spectral with refresh, schedule': lambda: dict(model=make('spectral'), penalties=[ll.Spectral(.1, tau=2)], lr=Steps(1e-2, [(2, 1e-3)]), opt=Adam(weight_decay=1e-3)),
    'adversarial, momentum, constraint': lambda: dict(model=make('plain'), transform=ll.Adversarial(ll.PGD(steps=2, random_start=True), eps=.05, clean=True),
                                                      opt=SGD(momentum=.9, nesterov=True), lr=1e-2, constraints=[MaxNorm()], clip=1.),
}


def trained(setting, folder=None, stop=None, n=4, callbacks=(), **more):
    def maybe_stop(model, epoch, history):
        if epoch == stop: raise KeyboardInterrupt
    settings = SETTINGS[setting]()
    model = settings.pop('model')
    try: history = fit(model, DATA, epochs=n, batch_size=25, folder=folder, evals=dict(test=TEST), callbacks=[*callbacks, maybe_stop], **settings | more)
    except KeyboardInterrupt: history = None
    return model, history


@pytest.mark.parametrize('setting', SETTINGS)
def test_a_training_that_was_interrupted_ends_with_the_same_bits(setting, tmp_path):
    through, expected = trained(setting)
    for stop in (0, 2): torch.manual_seed(stop), trained(setting, tmp_path, stop)
    resumed, history = trained(setting, tmp_path)
    assert same(through, resumed) and not same(through, make(dict(zip(SETTINGS, ('foreign', 'spectral', 'plain')))[setting]))
    pd.testing.assert_frame_equal(history.frame, expected.frame, check_exact=True)
    assert load_tree(tmp_path/'state.safetensors')['done'] == 4


def test_a_training_that_is_done_is_not_repeated(tmp_path):
    first, history = trained(next(iter(SETTINGS)), tmp_path, n=2)
    steps = []
    again, same_history = trained(next(iter(SETTINGS)), tmp_path, n=2, callbacks=[lambda *a: steps.append(a)])
    assert same(first, again) and steps == [] and not again.training
    pd.testing.assert_frame_equal(history.frame, same_history.frame)


def test_more_epochs_go_on_from_there(tmp_path):
    trained(next(iter(SETTINGS)), tmp_path, n=2)
    assert same(trained(next(iter(SETTINGS)), tmp_path, n=4)[0], trained(next(iter(SETTINGS)))[0])


def test_a_state_of_another_training_is_refused(tmp_path):
    fit(make(), DATA, epochs=2, folder=tmp_path)
    with pytest.raises(InputError, match='is the state of another training .*use another folder, or delete it'): fit(make('plain'), DATA, epochs=2, folder=tmp_path)
    with pytest.raises(InputError, match='after 2 epochs, more than the 1 asked for'): fit(make(), DATA, epochs=1, folder=tmp_path)
    with pytest.raises(InputError, match='is the state of another training'): fit(make(), DATA, epochs=2, folder=tmp_path, penalties=[Counting()])


@pytest.mark.parametrize('change, said', [
    (dict(penalties=[ll.Jacobian(2e-3)]), r'penalties: Jacobian\(1e-3.* there, Jacobian\(2e-3.* here'), (dict(lr=1e-2), 'lr: 0.001 there, 0.01 here'),
    (dict(opt=SGD()), r'optimizer: Adam\(\) there, SGD\(\) here'), (dict(data=TEST), r'images: 60×1×4×4 #\w{8} there, 30×1×4×4 #\w{8} here'),
    (dict(model=SHLP(16, width=12, classes=3, n=2)), 'model: SHLP.* there, SHLP.*n=2.* here'), (dict(constraints=[MaxNorm()]), 'constraints: none there, .*MaxNorm here'),
    (dict(transform=ll.Adversarial(ll.PGD(), eps=.1), clip=1.), 'transforms: none there, Adversarial.* here; clip: None there, 1.0 here'), (dict(seed=1, batch_size=7), 'batch_size: 100 there, 7 here; seed: 0 there')])
def test_a_wish_that_changed_is_named_instead_of_the_old_weights_given_back(tmp_path, change, said):
    ask = dict(model=make('plain'), data=DATA, penalties=[ll.Jacobian(1e-3)], epochs=1, folder=tmp_path)
    fit(**ask)
    before = weights(other := change.get('model', make('plain'))).clone()
    with pytest.raises(InputError, match=f'is the state of another training .{said}'): fit(**ask | dict(model=other) | change)
    assert weights(other).equal(before), 'refused before anything is loaded'
    fit(**ask | dict(model=make('plain'), epochs=2))


def test_the_first_tensor_that_does_not_fit_is_named(tmp_path):
    class Wide(Foreign):
        def __init__(self, width): super().__init__(); self.out = nn.Linear(16, width)
    Wide.__qualname__ = 'Wide'
    fit(Wide(3), DATA, epochs=1, folder=tmp_path)
    with pytest.raises(InputError, match=r"another training .'out.weight' has shape \(3, 16\), the model has \(4, 16\)\)"): fit(Wide(4), DATA, epochs=1, folder=tmp_path)
    list(epochs(1, dict(layer=nn.Linear(2, 2)), tmp_path/'s'))
    with pytest.raises(InputError, match="another training .tensor 'bias' is only in the file"): list(epochs(2, dict(layer=nn.Linear(2, 2, bias=False)), tmp_path/'s'))
    with pytest.raises(InputError, match="another training .it has no 'other'"): list(epochs(2, dict(other=nn.Linear(2, 2)), tmp_path/'s'))


def test_epochs_saves_every_nth_and_the_last(tmp_path):
    layer, seen = nn.Linear(1, 1), []
    for epoch in epochs(5, dict(layer=layer), tmp_path/'s', every=2): seen.append(load_tree(tmp_path/'s')['done'] if (tmp_path/'s').exists() else 0)
    assert seen == [0, 0, 2, 2, 4] and load_tree(tmp_path/'s')['done'] == 5
    assert list(epochs(3, {})) == [0, 1, 2] and list(epochs(0, {})) == []


# --- randomness

class Drawing:
    "A penalty that draws, and weighs nothing."
    strength, generator = 0., None
    def __call__(self, model, x, y, out): return torch.rand((), generator=self.generator) + 0 * out.logits.sum()


def test_drawing_elsewhere_changes_nothing():
    base, _ = trained('dropout, jacobian, transform')
    def attack(model, epoch, history):
        torch.rand(100)
        ll.GaussianNoise()(model, *TEST, .1)
    attacked, _ = trained('dropout, jacobian, transform', callbacks=[attack])
    further, _ = trained('dropout, jacobian, transform', penalties=[Drawing(), ll.Jacobian(1e-2, n=2), Counting()])
    torch.manual_seed(9); torch.rand(3)
    later, _ = trained('dropout, jacobian, transform')
    assert same(base, attacked) and same(base, further) and same(base, later)


def test_seeds_decide_and_the_callers_generator_is_left_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    a, b = make(), make()
    fit(a, DATA, epochs=1, seed=0), fit(b, DATA, epochs=1, seed=1)
    assert not same(a, b) and torch.get_rng_state().equal(before)


def test_each_epoch_has_another_order_and_other_draws():
    orders, draws = [], []
    class Look:
        generator = None
        def __call__(self, model, x, y, bounds):
            orders.append(x.flatten(1).sum(1).tolist()); draws.append(torch.rand((), generator=self.generator).item())
            yield x, y
    fit(make(), DATA, epochs=3, batch_size=60, transform=Look())
    assert len({tuple(o) for o in orders}) == 3 == len(set(draws)) and len({tuple(sorted(o)) for o in orders}) == 1, 'every image once an epoch'


def test_two_pieces_of_one_class_draw_differently():
    seen = {}
    class Watch(Drawing):
        def __init__(self, name): self.name = name
        def __call__(self, model, x, y, out): seen.setdefault(self.name, torch.rand((), generator=self.generator).item()); return 0 * out.logits.sum()
    fit(make(), DATA, epochs=1, penalties=[Watch('a'), Watch('b')])
    assert seen['a'] != seen['b']


# --- the step

def half_square(model, x, y, out): return sum(p.square().sum() for p in model.parameters()) / 2


def test_one_step_descends_the_weighted_sum():
    a, b = make('plain'), make('plain')
    x, y = DATA
    class Weighted: strength = .3; __call__ = staticmethod(half_square)
    terms = train_step(a, torch.optim.SGD(a.parameters(), lr=.1), x, y, penalties=(p for p in [Weighted(), half_square]))
    loss = F.cross_entropy(b(x), y) + 1.3 * half_square(b, x, y, None)
    grads = torch.autograd.grad(loss, [*b.parameters()])
    for p, q, g in zip(a.parameters(), b.parameters(), grads): torch.testing.assert_close(p, q - .1 * g)
    assert terms['Weighted'] == terms['half_square'] == half_square(b, x, y, None), 'raw, without the strength'


def test_term_names_are_unique_and_never_those_of_the_loop():
    def loss(model, x, y, out): return out.logits.sum() * 0 + 7
    assert term_names([half_square, loss, Counting(), half_square]) == ['half_square_0', 'loss_1', 'Counting', 'half_square_1']
    log = fit(make(), DATA, epochs=1, penalties=[loss])
    assert log.last('loss_1') == 7 and .5 < log.last('loss') < 3


def test_one_forward_serves_loss_and_penalties():
    model, calls = make('plain'), []
    model.register_forward_hook(lambda *a: calls.append(1))
    x, y = DATA
    train_step(model, torch.optim.SGD(model.parameters(), lr=.1), x, y, penalties=[half_square, ll.Jacobian(1e-2, n=1), ll.Lp(1e-3)])
    assert len(calls) == 1


def test_clip_bounds_the_gradient():
    model, (x, y) = make('plain'), DATA
    before = weights(model)
    train_step(model, torch.optim.SGD(model.parameters(), lr=1.), x, y, loss=lambda z, y: 1e4 * F.cross_entropy(z, y), clip=.5)
    assert (weights(model) - before).norm() == pytest.approx(.5, rel=1e-4)


def test_the_loss_may_be_any_function_of_logits_and_labels():
    "A Wasserstein dual: one output, the label says which law an image comes from."
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 1))
    dual = lambda f, y: -(f[y == 0].mean() - f[y == 1].mean())
    x, y = DATA
    log = fit(model, (x, (y == 2).long()), loss=dual, epochs=3, batch_size=60, lr=.01)
    assert log.frame[log.frame.quantity == 'loss'].value.is_monotonic_decreasing


def test_weight_decay_of_sgd_is_the_penalty_of_half_the_squares():
    a, b = make('plain'), make('plain')
    class Half: strength = .05; __call__ = staticmethod(half_square)
    fit(a, DATA, epochs=2, opt=SGD(weight_decay=.05), lr=.1), fit(b, DATA, epochs=2, opt=SGD(), penalties=[Half()], lr=.1)
    torch.testing.assert_close(weights(a), weights(b), atol=1e-6, rtol=1e-4)


# --- what is added to the loop

def test_constraints_hold_after_every_step():
    seen = []
    class Watch:
        def __call__(self, model): assert not torch.is_grad_enabled(); seen.append(max(p.abs().max().item() for p in model.parameters()))
    model = make('plain')
    fit(model, DATA, epochs=2, batch_size=20, lr=.5, constraints=[MaxNorm(), Watch()])
    assert len(seen) == 6 and max(seen) <= .5


def test_a_transform_may_make_several_steps_each_after_the_other():
    steps, models = [], []
    def twice(model, x, y, bounds):
        for _ in range(2): models.append(weights(model)); yield x, y
    class Count:
        def __call__(self, model): steps.append(1)
    fit(make('plain'), DATA, epochs=1, batch_size=30, transform=twice, constraints=[Count()])
    assert len(steps) == 4 and len({tuple(m.tolist()) for m in models}) == 4, 'the second sees the weights after the first'


def test_pieces_refresh_at_the_start_of_every_epoch_on_all_images():
    seen = []
    class Piece:
        def refresh(self, model, batches, epoch): seen.append((epoch, sum(len(y) for _, y in batches), sum(len(y) for _, y in batches)))
        def __call__(self, model, x, y, out): return out.logits.sum() * 0
    fit(make(), DATA, epochs=2, batch_size=25, penalties=[Piece()])
    assert seen == [(0, 60, 60), (1, 60, 60)], 'as often as it likes'


def test_a_foreign_model_learns_under_any_callable():
    model = make()
    fit(model, DATA, epochs=30, batch_size=20, lr=1e-2, penalties=[lambda model, x, y, out: 1e-3 * out.features.square().mean()])
    assert accuracy(model, TEST) > .8


def test_pieces_may_be_given_as_generators():
    a, b = make('plain'), make('plain')
    fit(a, DATA, epochs=2, penalties=(p for p in [ll.Lp(.1)]), constraints=(c for c in [MaxNorm()])), fit(b, DATA, epochs=2, penalties=[ll.Lp(.1)], constraints=[MaxNorm()])
    assert same(a, b)


def test_frozen_weights_stay():
    model = make('plain')
    model.hidden.weight.requires_grad_(False)
    before = model.hidden.weight.clone()
    fit(model, DATA, epochs=1, lr=.1)
    assert model.hidden.weight.equal(before) and not model.hidden.weight.requires_grad


def test_the_images_of_the_caller_stay_as_they_are():
    x, y = images()
    model = make()
    fit(model, (x, y), epochs=1, penalties=[ll.Jacobian(1e-2, n=1)], transform=ll.Adversarial(ll.PGD(steps=1), eps=.1))
    assert x.equal(DATA[0]) and y.equal(DATA[1]) and not x.requires_grad and x.grad is None


def test_the_model_trains_in_training_mode_and_is_left_in_eval_mode():
    modes, model = [], make()
    class Watch:
        def __call__(self, model, x, y, out): modes.append(model.training and model.drop.training); return out.logits.sum() * 0
    fit(model.eval(), DATA, epochs=2, penalties=[Watch()], callbacks=[lambda model, epoch, history: modes.append(model.training)])
    assert modes == [True, False] * 2 and not model.training
    fit(model.train(), DATA, epochs=0)
    assert not model.training


def test_accuracy_leaves_mode_and_statistics_alone():
    model = make().train()
    before = weights(model)
    expected = (model.eval()(TEST[0]).argmax(1) == TEST[1]).float().mean().item()
    assert accuracy(model.train(), TEST, batch_size=7) == pytest.approx(expected) and model.training and weights(model).equal(before)


# --- history

def test_history_holds_true_means_and_raw_penalties():
    "A last batch that is smaller weighs less."
    model = make('plain')
    x, y = DATA
    def mean_label(model, x, y, out): return y.double().mean() + 0 * out.logits.sum()
    log = fit(model, (x, y), epochs=1, batch_size=50, penalties=[mean_label], evals=dict(test=TEST))
    assert log.last('mean_label') == pytest.approx(y.double().mean().item())
    assert log.last('accuracy', 'test') == accuracy(model, TEST) and math.isnan(log.last('nothing'))
    assert list(log.frame) == ['epoch', 'split', 'quantity', 'value'] and {'loss', 'accuracy', 'mean_label'} == set(log.frame[log.frame.split == 'train'].quantity)


def test_means_name_the_first_step_that_was_not_finite():
    m = Means()
    for v in (1., math.nan, 2., math.inf): m.add(1, a=torch.tensor(v), b=torch.tensor(1.))
    assert (m.bad['a'].item(), m.bad['b'].item(), m.values['b']) == (1, math.inf, 1.)


# --- what stops it

def test_a_term_that_is_not_finite_is_named_and_the_last_good_state_stays(tmp_path):
    class Explode:
        n = 0
        def __call__(self, model, x, y, out): self.n += 1; return out.logits.sum() * (math.nan if self.n == 5 else 0)
    with pytest.raises(FloatingPointError, match='Explode was not finite in step 1 of epoch 1; .*what was saved before is kept'):
        fit(make(), DATA, epochs=3, batch_size=20, folder=tmp_path, penalties=[Counting(), Explode()])
    saved = load_tree(tmp_path/'state.safetensors')
    assert saved['done'] == 1 and all(v.isfinite().all() for v in saved['model'].values())


def test_a_gradient_that_breaks_the_weights_in_the_last_step_is_not_saved(tmp_path):
    class Edge:
        def __call__(self, model, x, y, out): return (0 * next(model.parameters()).sum()).sqrt()
    with pytest.raises(FloatingPointError, match='the gradient was not finite in step 0 of epoch 0'): fit(make(), DATA, epochs=1, folder=tmp_path, penalties=[Edge()])
    assert not (tmp_path/'state.safetensors').exists()


def test_a_loss_that_explodes_is_named():
    with pytest.raises(FloatingPointError, match='loss was not finite in step .* of epoch'): fit(make('plain'), DATA, epochs=20, opt=SGD(), lr=1e30)


x, y = DATA
BAD = {
    'images.*hold NaN or Inf': (torch.full_like(x, math.nan), y), 'outside their bounds.*divide by 255': (x * 255, y), 'integer images': ((x * 255).long(), y),
    'images have shape.*N×C×H×W': (x[:, 0], y), 'labels: number 7 is 3|labels: 3 occurs; .* has 3 logits, for labels 0…2': (x, y.where(torch.arange(60) != 7, 3)),
    'number 0 is -1': (x, y - 1), '60 images but 59 labels': (x, y[1:]), 'labels are torch.float32': (x, y.float()), 'no images at all': (x[:0], y[:0]),
    r'Foreign does not take images of shape \(2, 3, 4, 4\)': (x.expand(-1, 3, 4, 4), y), r'Foreign does not take images of shape \(2, 1, 8, 8\)': (torch.rand(60, 1, 8, 8), y),
    'got a Tensor; expected a split': x, 'got a str': 'mnist5k',
}


@pytest.mark.parametrize('message', BAD)
def test_bad_input_is_named_before_anything_is_trained(message):
    model = make()
    before = weights(model)
    with pytest.raises(InputError, match=message): fit(model, BAD[message], epochs=1)
    assert weights(model).equal(before) and model.training


def test_bad_settings_are_named(tmp_path):
    with pytest.raises(InputError, match='batch_size=0: must be a whole number ≥ 1'): fit(make(), DATA, batch_size=0)
    with pytest.raises(InputError, match='need a folder'): fit(make(), DATA, snapshots=[0])
    with pytest.raises(InputError, match=r'snapshots=\[0, 3\]: 3 is not in 0…2'): fit(make(), DATA, epochs=2, snapshots=[0, 3], folder=tmp_path)
    with pytest.raises(InputError, match=r'returns \(2, 4, 2, 2\) for 2 images; logits N×C'): fit(nn.Conv2d(1, 4, 3), DATA)
    with pytest.raises(InputError, match='must ascend'): Steps(1., [(3, .1), (1, .2)])


# --- what is kept

def test_snapshots_are_the_weights_before_the_step(tmp_path):
    model, seen = make('plain'), {}
    def watch(model, x, y, bounds): seen[len(seen)] = weights(model); yield x, y
    fit(model, DATA, epochs=2, batch_size=10, transform=watch, folder=tmp_path, snapshots=[0, .1, .125, .5, 1, 1.35, 2])
    step = {0: 0, .1: 0, .125: 0, .5: 3, 1: 6, 1.35: 8}
    for s, at in step.items():
        load_checkpoint(tmp_path/f'snapshot-{s:g}.safetensors', got := make('plain'))
        assert weights(got).equal(seen[at]), s
    assert same(load_model(tmp_path/'snapshot-2.safetensors'), model), 'the last one is the end'


def test_a_snapshot_falls_on_its_step_despite_rounding(tmp_path):
    seen = []
    def watch(model, x, y, bounds): seen.append(weights(model)); yield x, y
    fit(make('plain'), images(100), epochs=5, batch_size=1, transform=watch, folder=tmp_path, snapshots=[4.35])
    assert weights(load_model(tmp_path/'snapshot-4.35.safetensors')).equal(seen[435])


def test_best_is_chosen_on_validation_images(tmp_path):
    scripted = iter([.2, .8, .5])
    model, after = make('plain'), []
    with pytest.MonkeyPatch.context() as m:
        m.setattr('locallearning.training.accuracy', lambda *a: next(scripted))
        log = fit(model, DATA, epochs=3, valid=TEST, folder=tmp_path, callbacks=[lambda model, *a: after.append(weights(model))])
    assert weights(load_model(tmp_path/'best.safetensors')).equal(after[1]) and not same(load_model(tmp_path/'best.safetensors'), model)
    assert load_checkpoint(tmp_path/'best.safetensors')['more'] == dict(epoch=1, accuracy=.8) and log.last('accuracy', 'valid') == .5


# --- schedules and optimizers

def test_schedules():
    s = Steps(1e-3, [(31, 5e-4), (91, 2e-4)])
    assert [s(e) for e in (0, 30, 31, 90, 91, 999)] == [1e-3, 1e-3, 5e-4, 5e-4, 2e-4, 2e-4]
    assert [Steps(1., [(500, .1)], of=1000, epochs=10)(e) for e in (4, 5)] == [1., .1], 'the same shape in fewer epochs'
    h = HoldDecay(1e-3, hold=90, tau=30)
    assert (h(0), h(90)) == (1e-3, 1e-3) and h(120) == pytest.approx(1e-3 / math.e) and HoldDecay(1e-3, of=1000, epochs=100)(12) == pytest.approx(h(120))
    for piece in (s, h, Adam(betas=(.5, .9)), SGD(momentum=.9)): assert repr(build_recipe(repr(piece))) == repr(piece)


def test_the_rate_of_each_epoch_is_set():
    rates = []
    class Watch:
        def __call__(self, model, x, y, out): return out.logits.sum() * 0
    def opt(params):
        o = torch.optim.SGD(params, lr=99.)
        o.register_step_pre_hook(lambda o, *a: rates.append(o.param_groups[0]['lr']))
        return o
    fit(make(), DATA, epochs=3, batch_size=60, opt=opt, lr=lambda epoch: .1 / (epoch + 1))
    assert rates == [.1, .05, .1 / 3]
    adam, = Adam(betas=(.5, .6), weight_decay=.1)([nn.Parameter(torch.zeros(1))]).param_groups
    assert adam['betas'] == (.5, .6) and adam['weight_decay'] == .1


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_adam_in_one_pass_is_adam(dtype):
    weights = [nn.Parameter(torch.linspace(-1, 1, 300, dtype=dtype).view(3, 100)) for _ in range(2)]
    steps = [Adam(weight_decay=.01)(weights[:1]), torch.optim.Adam(weights[1:], weight_decay=.01, fused=False)]
    for i in range(50):
        for w, opt in zip(weights, steps):
            w.grad = (w.detach() * 3 + i).sin()
            opt.step()
    assert torch.allclose(*weights, rtol=1e-5 if dtype == torch.float32 else 1e-12)
    assert Adam()(iter(weights)) and Adam()([nn.Parameter(torch.zeros(1, device='meta'))])


def test_a_step_makes_no_gradient_of_the_images_and_none_of_weights_that_are_not_trained():
    model, seen = make('shlp'), []
    def look(model, x, y, out): seen.append(x); return ll.Jacobian(n=1)(model, x, y, out)
    look.needs_x = True
    trained, left = model.readout.weight, model.hidden.weight
    x, y = torch.rand(6, 1, 4, 4), torch.arange(6) % 3
    train_step(model, torch.optim.SGD([trained], lr=.1), x, y, penalties=[look])
    assert seen[0].requires_grad and seen[0].grad is None and not x.requires_grad and left.grad is None and trained.grad is not None


# --- a whole training as one function

@pytest.fixture(scope='module')
def small(): return ll.load('mnist5k(per_class=10, test=50, val=50)')


RECIPE = dict(model='SHLP(784, width=12)', penalties=['Jacobian(1e-3, n=2)'], lr='Steps(1e-2, [(1, 1e-3)], of=3)', epochs=3, seed=3)


def test_train_model_from_recipes_to_checkpoint(small, tmp_path):
    out = train_model(data=small, folder=tmp_path, **RECIPE)
    model = load_model(out['checkpoint'])
    assert out['checkpoint'] == tmp_path/'last.safetensors' and out['recipe'] == 'SHLP(in_features=784, width=12)' == repr(model) and model.space == 'pixel'
    assert out['test_accuracy'] == accuracy(model, small.test) and out['pretrain'] is None
    assert set(out['history'].split) == {'train', 'test', 'valid'} and (tmp_path/'best.safetensors').exists()
    again = train_model(data=small, **RECIPE)
    assert again['checkpoint'] is None and again['test_accuracy'] == out['test_accuracy']
    pd.testing.assert_frame_equal(again['history'], out['history'], check_exact=True)


def test_train_model_goes_on_after_an_interruption(small, tmp_path, monkeypatch):
    whole = train_model(data=small, folder=tmp_path/'a', **RECIPE)
    from locallearning import training
    real, calls = training.evaluate_into, []
    def interrupted(*a):
        calls.append(1)
        if len(calls) == 2: raise KeyboardInterrupt
        real(*a)
    monkeypatch.setattr(training, 'evaluate_into', interrupted)
    with pytest.raises(KeyboardInterrupt): train_model(data=small, folder=tmp_path/'b', **RECIPE)
    resumed = train_model(data=small, folder=tmp_path/'b', **RECIPE)
    assert len(calls) == 4, 'one epoch was done twice'
    assert (tmp_path/'a'/'last.safetensors').read_bytes() == (tmp_path/'b'/'last.safetensors').read_bytes()
    pd.testing.assert_frame_equal(resumed['history'], whole['history'], check_exact=True)


def test_train_model_refuses_recipes_that_are_wrong(small):
    for change, message in {"model='SHPL(784)'": "did you mean 'SHLP'", "penalties=['Jacobian(m=3)']": "no field 'm'", "opt='Adma()'": "did you mean 'Adam'", "device='cudo'": "did you mean 'cuda'"}.items():
        with pytest.raises(InputError, match=message): train_model(data=small, **RECIPE | eval(f'dict({change})'))


def test_a_model_with_pretraining_is_pretrained_first(small, tmp_path):
    data = small.in_space('lp_unit', p=3)
    out = train_model('KHModel(784, width=12, kh_epochs=1, kh_batch_size=50)', data, epochs=1, folder=tmp_path)
    assert out['pretrain'] and load_model(out['checkpoint']).space == 'lp_unit(p=3)'
    with pytest.raises(InputError, match="in space 'pixel', the layer needs"): train_model('KHModel(784, width=12)', small, epochs=1)


# --- a chain of transforms, losses with names, models that are checked first

def test_transforms_are_chained_and_drawn_when_they_are_needed():
    seen = []
    def twice(model, x, y, bounds):
        for factor in (1., .5): seen.append(('twice', factor, weights(model).sum().item())); yield factor * x, y
    def brighter(model, x, y, bounds): seen.append(('brighter', x.max().item(), None)); yield (x + .1).clamp(*bounds), y
    fit(make('plain'), (torch.ones(4, 1, 4, 4), torch.tensor([0, 1, 2, 0])), epochs=1, batch_size=4, transform=[twice, brighter])
    assert [s[:2] for s in seen] == [('twice', 1.), ('brighter', 1.), ('twice', .5), ('brighter', .5)] and seen[0][2] != seen[2][2], 'the second pair sees the weights after the first step'


def test_a_chain_of_one_is_that_one_and_each_draws_its_own_numbers():
    a, b, c = make(), make(), make()
    fit(a, DATA, epochs=2, transform=jitter_factory()), fit(b, DATA, epochs=2, transform=[jitter_factory()])
    assert same(a, b)
    one, two = jitter_factory(), jitter_factory()
    fit(c, DATA, epochs=1, transform=[one, two])
    assert one.generator.initial_seed() != two.generator.initial_seed()


def test_named_losses_are_those_of_torch():
    z, y = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 4
    assert CrossEntropy()(z, y).equal(F.cross_entropy(z, y)) and CrossEntropy(.1)(z, y).equal(F.cross_entropy(z, y, label_smoothing=.1))
    right = z.gather(1, y[:, None])
    by_hand = ((.5 - right + z).clamp_min(0).sum(1) - .5).mean() / 4
    torch.testing.assert_close(MultiMargin(.5)(z, y), by_hand)
    assert repr(build_recipe('MultiMargin(.5)')) == 'MultiMargin(margin=0.5)' and repr(CrossEntropy()) == 'CrossEntropy()'
    a, b = make(), make()
    fit(a, DATA, epochs=1), fit(b, DATA, epochs=1, loss=CrossEntropy())
    assert same(a, b)


@pytest.mark.parametrize('loss', [CrossEntropy(.1), MultiMargin()])
def test_a_label_without_a_logit_is_named_for_every_loss_over_classes(loss):
    with pytest.raises(InputError, match='labels: 3 occurs; Foreign has 3 logits'): fit(make(), (DATA[0], DATA[1].where(torch.arange(60) != 7, 3)), loss=loss)


def test_a_recipe_that_makes_no_model_is_named():
    with pytest.raises(InputError, match=r'PGD\(\) is a PGD, not a model; a torch.nn.Module that returns logits is needed'): build_model('PGD()')


def test_train_model_starts_from_a_checkpoint_in_place_of_pretraining(small, tmp_path):
    kh = small.in_space('lp_unit', p=3)
    first = train_model('KHModel(784, width=20, kh_epochs=2)', kh, epochs=1, folder=tmp_path/'a')
    again = train_model('KHModel(784, width=20, kh_epochs=2)', kh, epochs=1, seed=5, init=str(first['checkpoint']), folder=tmp_path/'b')
    assert first['pretrain'] and again['pretrain'] is None
    assert load_model(again['checkpoint']).hidden.weight.equal(load_model(first['checkpoint']).hidden.weight)


# --- settings of the wrong type

net = lambda: nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
PAIR = torch.rand(6, 1, 2, 2), torch.arange(6) % 3


@pytest.mark.parametrize('change, said', [
    (dict(epochs='3'), "epochs='3': must be a whole number ≥ 0"), (dict(epochs=nn.Linear(2, 2)), 'epochs is a Linear: must be a whole'), (dict(epochs=1.5), 'epochs=1.5'),
    (dict(batch_size='100'), "batch_size='100': must be a whole number ≥ 1"), (dict(batch_size=2.), 'batch_size=2.0'), (dict(batch_size=None), 'batch_size=None'),
    (dict(lr='1e-3'), "lr='1e-3': must be a number ≥ 0; or a function"), (dict(lr=-1), 'lr=-1'), (dict(clip='1'), "clip='1': must be a number > 0 or None"), (dict(clip=0), 'clip=0'),
    (dict(every=0), 'every=0'), (dict(seed='a'), "seed='a': must be a whole number"), (dict(seed=nn.ReLU()), 'seed is a ReLU'), (dict(loss='CrossEntropy()'), "loss='CrossEntropy"),
    (dict(opt='Adam()'), r"opt='Adam\(\)': must be a function from parameters"), (dict(opt=torch.optim.SGD(nn.Linear(2, 2).parameters())), 'opt is a SGD: must be a function'),
    (dict(penalties=ll.Lp()), r'penalties is a Lp: must be a list, e.g. \[Lp\('), (dict(penalties='Lp()'), r"penalties='Lp\(\)': must be a list"), (dict(penalties=['Lp()']), r"penalties='Lp\(\)': must be functions"),
    (dict(constraints=3), 'constraints=3: must be a list'), (dict(transform='PGD()'), 'transform='), (dict(callbacks=[None]), 'callbacks=None'), (dict(snapshots=1), 'snapshots=1: must be a list'),
    (dict(snapshots=['1'], folder='x'), "snapshots='1'"), (dict(folder=3), 'folder=3: must be a path'), (dict(evals=[1]), r'evals=\[1\]: must be a dict'), (dict(evals=dict(test=3)), 'test: got a int'), (dict(valid='test'), 'valid: got a str')])
def test_a_setting_of_the_wrong_type_is_named(change, said):
    with pytest.raises(InputError, match=said): fit(net(), PAIR, **dict(epochs=1) | change)


def test_model_and_data_of_the_wrong_type_are_named():
    with pytest.raises(InputError, match=r"model=\(tensor.*must be a torch.nn.Module"): fit(PAIR, net())
    with pytest.raises(InputError, match='got a Sequential; expected a split'): fit(net(), net())
    with pytest.raises(InputError, match="model='SHLP"): accuracy('SHLP(4)', PAIR)
    with pytest.raises(InputError, match="batch_size='9'"): accuracy(net(), PAIR, '9')


@pytest.mark.parametrize('change, said', [(dict(model='net'), "model='net'"), (dict(opt=ll.Adam()), 'opt is a Adam: must be an optimizer over'), (dict(x=[1]), r'x=\[1\]: must be a tensor'), (dict(y=3), 'y=3'),
                                          (dict(penalties=ll.Lp()), 'penalties is a Lp'), (dict(constraints=[1]), 'constraints=1'), (dict(clip='a'), "clip='a'")])
def test_a_step_names_what_is_of_the_wrong_type(change, said):
    model = net()
    asked = dict(model=model, opt=torch.optim.SGD(model.parameters(), lr=.1), x=PAIR[0], y=PAIR[1]) | change
    with pytest.raises(InputError, match=said): train_step(**asked)


@pytest.mark.parametrize('make, said', [
    (lambda: CrossEntropy('a'), r"CrossEntropy\(label_smoothing='a'\)"), (lambda: CrossEntropy(2), 'label_smoothing=2'), (lambda: MultiMargin(None), r'MultiMargin\(margin=None\)'),
    (lambda: Adam(net().parameters()), r'Adam\(betas\) is a generator: must be two numbers'), (lambda: Adam((.9, 2)), r'Adam\(betas=2\)'), (lambda: Adam(weight_decay='1'), r"Adam\(weight_decay='1'\)"),
    (lambda: SGD(net().parameters()), r'SGD\(momentum\) is a generator'), (lambda: SGD(weight_decay=-1), r'SGD\(weight_decay=-1\)'), (lambda: SGD(nesterov=True), 'needs a momentum'),
    (lambda: Steps('1e-3'), r"Steps\(lr='1e-3'\)"), (lambda: Steps(1e-3, (31, 5e-4)), r'Steps\(milestones=\(31, 0.0005\)\): must be pairs'), (lambda: Steps(1e-3, [('31', 1)]), r"Steps\(milestones='31'\)"),
    (lambda: Steps(1e-3, of='10'), r"Steps\(of='10'\)"), (lambda: HoldDecay(tau=0), r'HoldDecay\(tau=0\)'), (lambda: HoldDecay(hold=None), r'HoldDecay\(hold=None\)'), (lambda: HoldDecay(epochs='a'), r"HoldDecay\(epochs='a'\)"),
    (lambda: list(epochs('3', {})), "epochs='3'"), (lambda: list(epochs(3, {}, every=0)), 'every=0'), (lambda: train_model('SHLP(4)', 'mnist5k'), "data='mnist5k': must be a data set"),
    (lambda: train_model(net(), ll.load('mnist5k')), 'model is a Sequential: must be a recipe'), (lambda: train_model('SHLP(784)', ll.load('mnist5k'), penalties='Lp()'), r"penalties='Lp\(\)': must be a list of recipes"),
    (lambda: train_model('SHLP(784)', ll.load('mnist5k'), evals=['tset']), "'tset'.*did you mean 'test'")])
def test_pieces_and_whole_trainings_name_what_is_of_the_wrong_type(make, said):
    with pytest.raises(InputError, match=said): make()


def test_aggregated_momentum_is_its_formula():
    "With weight decay, against the equations word for word; and a parameter without a gradient stays."
    w, still = torch.randn(5, generator=stream(0, 'w')), torch.ones(2)
    p, q = torch.nn.Parameter(w.clone()), torch.nn.Parameter(still.clone())
    opt = ll.AggMo(betas=(0., .5, .9), weight_decay=.1)([p, q])
    opt.param_groups[0]['lr'] = .2
    speeds = [torch.zeros(5) for _ in range(3)]
    for step in range(6):
        g = torch.randn(5, generator=stream(step, 'g'))
        p.grad = g.clone()
        opt.step()
        speeds = [beta*v + g + .1*w for beta, v in zip((0., .5, .9), speeds)]
        w = w - .2/3*sum(speeds)
        assert p.grad.equal(g)
    torch.testing.assert_close(p.detach(), w)
    assert q.equal(still)


def test_aggregated_momentum_goes_on_where_it_was(tmp_path):
    data = torch.rand(30, 1, 4, 4, generator=stream(0, 'x')), torch.arange(30) % 3
    def run(folder, epochs):
        with seeded(0, 'init'): model = ll.SHLP(16, 5, 3)
        ll.fit(model, data, opt=ll.AggMo(), lr=.1, epochs=epochs, batch_size=10, folder=folder)
        return model.state_dict()
    whole = run(tmp_path/'a', 4)
    run(tmp_path/'b', 2)
    assert all(v.equal(w) for v, w in zip(whole.values(), run(tmp_path/'b', 4).values(), strict=True))


@pytest.mark.parametrize('betas', [(), (1.,), (-.1,), .9])
def test_momenta_that_never_end_are_refused(betas):
    with pytest.raises(InputError, match='AggMo'): ll.AggMo(betas=betas)


def test_a_handicap_of_the_right_logit():
    logits, y = torch.randn(6, 4, generator=stream(0, 'z')), torch.arange(6) % 4
    lowered = logits.clone()
    lowered[torch.arange(6), y] -= 1.5
    torch.testing.assert_close(ll.CrossEntropy(margin=1.5)(logits, y), torch.nn.functional.cross_entropy(lowered, y))
    with pytest.raises(InputError, match='margin'): ll.CrossEntropy(margin=-1)
