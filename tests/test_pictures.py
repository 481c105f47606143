"""What is drawn of an evaluation and of a probe: every model in the same look, doubts and layers written where they belong."""
import numpy as np
import pytest
from matplotlib.text import Text

from locallearning.data import load
from locallearning.examine.evaluation import evaluate_models
from locallearning.hebbian.model import KHModel
from locallearning.models import MLP, SHLP, Normalize, prepend
from locallearning.examine.pictures import evaluation_figure
from locallearning.examine.probing import probe_models
from locallearning.instruments import Subject
from locallearning.probes.instruments import JacobianNorms, JacobianProbe
from locallearning.state import seeded
from locallearning.examine.subjects import fit_space
from locallearning.training import fit

EPS = [0., .02, .05]
HOW = dict(n=60)
PROBES = ['spectrum', 'jacobian(n=5)', 'landscape(n=2, size=4)', 'weights(n=4)']


@pytest.fixture(scope='module')
def data(): return load('mnist5k(600, test=80)')


def trained(name, data, seed=0):
    with seeded(seed, 'init'): net = SHLP(784, 40)
    fit(net, data, epochs=4, seed=seed)
    return Subject(name, net, repr(net), 'pixel')


@pytest.fixture(scope='module')
def subjects(data):
    with seeded(0, 'init'): deep, kh = prepend(Normalize((.1,), (.3,)), MLP(784, (20, 15))).eval(), KHModel(784, 20).eval()
    return [trained('a', data), Subject('deep', deep, ''), fit_space(Subject('kh', kh, '', 'lp_unit(p=3)'), 'pixel')]


# --- models under attack

def lines_of(ax): return [line.get_color() for line in ax.lines if len(line.get_xdata()) == len(EPS)]


def test_a_model_looks_the_same_in_every_panel(data, subjects):
    found = evaluate_models([subjects[0], trained('b', data, 1)], data, ['PGD(steps=3)', 'FGSM()', 'GaussianNoise()'], EPS, **HOW)
    fig = evaluation_figure(found)
    panels = {ax.get_title(loc='left'): ax for ax in fig.axes if ax.get_title(loc='left')}
    assert list(panels) == ['PGD(steps=3)', 'FGSM()', 'GaussianNoise()', 'worst case']
    assert {tuple(lines_of(ax)) for ax in panels.values()} == {tuple(lines_of(fig.axes[0]))} and len(lines_of(fig.axes[0])) == 2
    assert [t.get_text() for t in fig.legends[0].get_texts()] == ['a', 'b']
    assert sum('critical norm' in ax.get_ylabel() for ax in fig.axes) == 2
    assert len({ax.get_position().bounds for ax in fig.axes}) == len(fig.axes)


def test_doubtful_panels_say_so(data):
    sure = trained('sure', data)
    sure.model.readout.weight.data *= 1e4  # a saturated softmax: the gradient of the cross-entropy is rounded to zero
    sure.model.readout.bias.data *= 1e4
    fig = evaluation_figure(evaluate_models([sure], data, ['PGD(steps=3)', 'FGSM()'], EPS, **HOW))
    titles = [ax.get_title(loc='left') for ax in fig.axes]
    assert 'PGD(steps=3)\n† doubtful: sure' in titles and 'worst case\n† doubtful: sure' in titles
    worst = fig.axes[titles.index('worst case\n† doubtful: sure')]
    assert 'white' in [line.get_markerfacecolor() for line in worst.lines if line.get_marker() == '*'], 'a masked worst case is a hollow star'


def test_radii_far_apart_can_be_told_apart(data, subjects):
    scale = lambda eps: evaluation_figure(evaluate_models(subjects[:1], data, ['FGSM()'], eps, critical=False, **HOW)).axes[0].get_xscale()
    assert [scale(eps) for eps in ([0, .02, .05], [0, .001, .1], [.001, .1], [.1])] == ['linear', 'symlog', 'log', 'linear']


# --- a look inside

@pytest.mark.parametrize('probe', PROBES)
def test_every_instrument_draws_all_models_by_name(probe, data, subjects):
    figures = probe_models(probe, subjects, data).figures()
    assert next(iter(figures)) == probe.partition('(')[0]
    for fig in figures.values():
        text = ' '.join(t.get_text() for t in fig.findobj(Text))
        assert all(s.name in text for s in subjects)


def test_the_layer_of_a_landscape_is_written_on_it(data, subjects):
    figures = probe_models('landscape(size=3)', subjects[:1], data, layer='logits', n=1).figures()
    for fig in figures.values():
        labels = [ax.get_ylabel() for ax in fig.axes]
        assert any('‖J‖ of logits' in o for o in labels) and not any('features' in o for o in labels)


def test_jacobians_far_apart_stand_on_a_logarithmic_axis():
    def scale(a, b):
        found = {name: JacobianNorms(np.full(5, v), 'features') for name, v in (('a', a), ('b', b))}
        return JacobianProbe().draw(found)['jacobian'].axes[0].get_yscale()
    assert [scale(1, 100), scale(1, 2), scale(0, 1)] == ['log', 'linear', 'linear'], 'a model without any slope can be drawn too'

