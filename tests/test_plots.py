"""Figures: right panels and words, readable at print size, inputs untouched, equal bytes for equal runs."""
import subprocess, sys
from copy import deepcopy
from types import SimpleNamespace as Result
import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
import locallearning as P
from locallearning.core import InputError
from locallearning.figures.probes import r2_text
from locallearning.figures.style import DOUBLE, SINGLE, render

MODELS = ['KH', 'BP', 'L2', 'JReg', 'SpecReg']
COLORS = dict(zip(MODELS, '#1b9e77 #d95f02 #7570b3 #e7298a #66a61e'.split()))


def curve(half=.1, flags=(), space='pixel'):
    eps = np.array([0, *np.logspace(-3, 0, 12)])
    relative = 1 / (1 + (eps/half)**2)
    return Result(eps=eps, relative=relative, accuracy=.9*relative, space=space, flags=flags)


def worst(flags=(), space='pixel'):
    "As a `WorstCase`: one tuple of flags for each radius."
    return Result(eps=np.array([.01, .1, .5]), relative=np.array([.9, .4, 0]), accuracy=np.array([.8, .3, 0]), space=space, flags=((), flags, flags))


def critical(scale=.1, never=2, n=50):
    norm = scale * np.linspace(.5, 2, n)
    norm[:never] = np.nan
    return Result(norm=norm, never=never, median=float(np.nanmedian(norm)) if never < n else np.nan, space='pixel', flags=())


def spectrum(width=200, exponent=1.5):
    return Result(values=5. * np.arange(1., width + 1)**-exponent, samples=1000, width=width, layer='hidden')


def fit(exponent=1.5, r2=1.): return Result(exponent=exponent, intercept=0., r2=r2, holds=r2 >= .98, window=(10, 100), low=exponent - .1, high=exponent + .1)


def landscape(size=12):
    e, z = np.meshgrid(*[np.linspace(-20, 20, size)]*2)
    return Result(norms=np.hypot(e, z), plane=Result(extent=20.)), Result(label=(e > 0).astype(int) + 2*(z > 0), confidence=.3 + .5*np.abs(e)/20)


def bounds(lower): return Result(lower=lower*np.array([.5, 1.]), product=9.*lower if lower < 5 else np.nan, matrix=.5*lower, refused='' if lower < 5 else 'no Lipschitz bound is known: ' + 'attention '*20)


def history(): return Result(rows=[dict(epoch=e, split=s, quantity=q, value=1/(1 + e)) for e in range(5) for s in ('train', 'test') for q in ('loss', 'accuracy')])


weights = np.random.default_rng(0).normal(size=(20, 48))
SIZES = [10, 50, 200]
CALLS = {  # name → (function, positional arguments, keywords, panels, width)
    'curve': (P.plot_curve, [curve()], {}, 2, DOUBLE),
    'curves': (P.plot_curves, [{m: curve(.1 + i) for i, m in enumerate(MODELS)}, COLORS], dict(relative=True, log=True), 1, SINGLE),
    'both accuracies': (P.plot_curves, [{m: curve(.1 + i) for i, m in enumerate(MODELS)}, COLORS], dict(log=True, in_255ths=1092.), 2, DOUBLE),
    'critical': (P.plot_critical, [{m: critical() for m in MODELS}, COLORS], {}, 1, SINGLE),
    'perturbations': (P.plot_perturbations, [{a: {m: (curve(), critical()) for m in MODELS} for a in ('RP', 'FGSM', 'PGD')}, COLORS], dict(in_255ths=1092.), 9, DOUBLE),
    'worst': (P.plot_perturbations, [{a: {m: (curve(), critical()) for m in MODELS} for a in ('RP', 'PGD')}, COLORS],
              dict(marks={'PGD': {m: worst() for m in MODELS}}), 6, DOUBLE),
    'accuracy_robustness': (P.plot_accuracy_robustness, [{a: {m: (.5 + i/50, critical()) for i, m in enumerate(MODELS)} for a in ('RP', 'PGD')}], {}, 2, DOUBLE),
    'robust_accuracy': (P.plot_robust_accuracy, [{a: {m: (.5 + i/50, .3) for i, m in enumerate(MODELS)} for a in ('small', 'large')}, COLORS], {}, 2, DOUBLE),
    'spectrum': (P.plot_spectrum, [spectrum(), fit()], {}, 1, SINGLE),
    'spectra': (P.plot_spectra, [{r: {c: {m: spectrum(m) for m in SIZES} for c in ('CIFAR', 'noise')} for r in ('data', 'KH')},
                                 {r: {c: fit() for c in ('CIFAR', 'noise')} for r in ('data', 'KH')}], {}, 4, DOUBLE),
    'tiles': (P.plot_tiles, [weights, (3, 4, 4)], {}, 1, SINGLE),
    'variances': (P.plot_variances, [weights.var(1)], dict(cut=1.), 1, SINGLE),
    'layer': (P.plot_layer, [weights, 0*weights, (3, 4, 4), weights.var(1), {c: (spectrum(), spectrum()) for c in ('CIFAR', 'noise')}], dict(cut=1., note='not converged'), 5, DOUBLE),
    'landscapes': (P.plot_landscapes, [{m: landscape() for m in MODELS}], dict(classes=list('abcd')), 10, DOUBLE),
    'quantiles': (P.plot_quantiles, [{m: Result(extents=[.5, 20.], values=np.outer([1, 2], np.arange(1., 6))) for m in MODELS}, COLORS], {}, 2, DOUBLE),
    'bounds': (P.plot_bounds, [{m: bounds(1. + i) for i, m in enumerate(MODELS)}, COLORS], {}, 1, DOUBLE),
    'history': (P.plot_history, [{m: history() for m in MODELS}], {}, 2, DOUBLE)}


def draw(name):
    function, args, kwargs, *_ = CALLS[name]
    return function(*args, **kwargs)


def panels(fig): return [ax for ax in fig.axes if ax.get_label() != '<colorbar>']


def flat(x):
    if isinstance(x, dict): return {k: flat(v) for k, v in x.items()}
    if isinstance(x, (list, tuple)): return [flat(v) for v in x]
    if isinstance(x, Result): return flat(vars(x))
    return x.tobytes() if isinstance(x, np.ndarray) else x


@pytest.mark.parametrize('name', CALLS)
def test_panels_size_and_axis_labels(name):
    fig = draw(name)
    *_, count, width = CALLS[name]
    assert isinstance(fig, Figure) and len(panels(fig)) == count
    assert fig.get_size_inches()[0] == width
    named = [any('K' in t.get_text() for t in ax.get_xticklabels()) for ax in panels(fig)]
    assert any(ax.get_xlabel() for ax in panels(fig)) or all(named)
    assert any(ax.get_ylabel() for ax in panels(fig)) or name == 'tiles'


@pytest.mark.parametrize('name', CALLS)
def test_letters_are_large_enough_and_inside_the_page(name):
    fig = draw(name)
    render(fig, 'png', dpi=100)
    assert all(text.get_fontsize() >= 6 for text in fig.findobj(Text) if text.get_text().strip())
    width, height = fig.get_size_inches() * 100
    for text in [t for ax in fig.axes for t in (*ax.texts, ax.title, ax.xaxis.label, ax.yaxis.label)] + [t for leg in fig.legends for t in leg.get_texts()]:
        box = text.get_window_extent()
        assert not text.get_text() or box.x0 > -2 and box.y0 > -2 and box.x1 < width + 2 and box.y1 < height + 2, text.get_text()


@pytest.mark.parametrize('name', CALLS)
def test_stored_results_are_not_changed_by_plotting(name):
    "Defect 22: the original's plots normalised the stored spectra in place."
    _, args, kwargs, *_ = CALLS[name]
    before = flat(deepcopy([args, kwargs]))
    draw(name)
    assert flat([args, kwargs]) == before


@pytest.mark.parametrize('name, format', [('curves', 'pdf'), ('landscapes', 'svg'), ('landscapes', 'png'), ('spectrum', 'eps')])
def test_equal_runs_give_equal_files(name, format):
    first, second = render(draw(name), format), render(draw(name), format)
    assert first == second and b'CreationDate' not in first
    if format == 'eps': assert first.startswith(b'%!PS-Adobe') and first.rstrip().endswith(b'showpage')


def test_pdf_keeps_letters_as_truetype(): assert b'/Type3' not in render(draw('curve'), 'pdf') and b'/FontFile2' in render(draw('curve'), 'pdf')


def test_users_style_neither_enters_nor_changes():
    plain = render(draw('curves'), 'svg')
    with matplotlib.rc_context({'font.size': 20, 'axes.facecolor': 'red', 'lines.linewidth': 9}):
        before = dict(matplotlib.rcParams)
        assert render(draw('curves'), 'svg') == plain
        assert dict(matplotlib.rcParams) == before


def test_pyplot_is_neither_imported_nor_left_open():
    code = ('import sys; import locallearning as P; from types import SimpleNamespace as R; import numpy as np\n'
            'P.plot_curve(R(eps=[0, .1], accuracy=[1, .5], relative=[1, .5]))._repr_png_()\n'
            'assert "matplotlib.pyplot" not in sys.modules and "torch" not in sys.modules')
    subprocess.run([sys.executable, '-c', code], check=True)
    import matplotlib.pyplot as plt
    draw('spectra')
    assert plt.get_fignums() == []


def test_a_notebook_shows_the_figure():
    from IPython.core.formatters import DisplayFormatter
    data, _ = DisplayFormatter().format(draw('curve'))
    assert data['image/png'].startswith(b'\x89PNG')


def test_no_image_broken_at_all():
    fig = P.plot_critical({'KH': Result(norm=np.full(9, np.nan), never=9, space='pixel'), 'BP': critical()})
    assert [t.get_text() for t in fig.axes[0].texts][:2] == ['9', '2']
    render(P.plot_critical({'KH': np.full(9, np.nan)}), 'png')
    render(P.plot_accuracy_robustness({'PGD': {'KH': (.5, critical(never=50))}}), 'png')


def test_never_counts_correct_images_only():
    "NaN also marks images that were wrong from the start; the result knows better than the NaNs."
    fig = P.plot_critical({'KH': Result(norm=np.array([np.nan]*5 + [.1, .2]), never=1, space='pixel')})
    assert fig.axes[0].texts[0].get_text() == '1'


def test_one_model_alone():
    for fig in (P.plot_perturbations({'PGD': {'mine': (curve(), critical())}}), P.plot_landscapes({'mine': landscape()}), P.plot_history(history()),
                P.plot_spectra({'mine': {'data': {100: spectrum(100)}}}), P.plot_quantiles({'mine': Result(extents=[1.], values=np.ones((1, 5)))})):
        render(fig, 'png')


@pytest.mark.filterwarnings('error')
def test_one_class_and_one_confidence_everywhere():
    size = 9
    flat = Result(norms=np.ones((size, size)), plane=Result(extent=2.)), Result(label=np.full((size, size), 3), confidence=np.full((size, size), .97))
    fig = P.plot_landscapes({'sure': flat})
    number, = fig.axes[1].texts
    assert number.get_text() == '3' and np.hypot(*number.get_position()) > .4  # not under the cross


@pytest.mark.parametrize('names, models', [('0123456789', 1), ('0123456789', 5), (['automobile'] * 10, 1), (['automobile'] * 10, 5)])
def test_key_of_ten_classes_fits_the_page(names, models):
    fig = P.plot_landscapes({f'm{i}': landscape() for i in range(models)}, classes=list(names))
    render(fig, 'png', dpi=100)
    box = fig.legends[0].get_window_extent()
    assert box.x0 >= 0 and box.x1 <= 100*fig.get_figwidth()


def test_more_models_than_columns_go_below():
    fig = P.plot_landscapes({f'm{i}': landscape() for i in range(7)})
    shown = [ax for ax in panels(fig) if ax.axison]
    assert len(shown) == 14 and len({round(ax.get_position().y0, 2) for ax in shown}) == 4
    crowd = P.plot_critical({f'a long name {i}': critical() for i in range(8)})
    render(crowd, 'png', dpi=100)
    boxes = [t.get_window_extent() for t in crowd.axes[0].get_xticklabels()]
    assert crowd.axes[0].get_xticklabels()[0].get_rotation() == 30 and boxes[0].x0 > -2


def test_tensors_and_flags_and_zero_eps():
    torch = pytest.importorskip('torch')
    fig = P.plot_curve(Result(eps=torch.tensor([0., .1]), accuracy=torch.tensor([1., .5]), relative=None, flags=('zero_gradient',)))
    assert fig.axes[0].get_legend().get_texts()[0].get_text() == 'model †'
    fig = P.plot_curve(curve(), log=True)
    assert len(fig.axes[0].lines[0].get_xdata()) == 12
    P.plot_spectrum(torch.tensor([2., 1., .5], requires_grad=True))


def test_lines_differ_without_colour():
    fig = draw('curves')
    assert len({(line.get_linestyle(), line.get_marker()) for line in fig.axes[0].lines}) == 5
    assert [line.get_color() for line in fig.axes[0].lines] == list(COLORS.values())


def test_spectra_legend_says_what_the_shades_mean():
    fig = draw('spectra')
    legend = fig.legends[0]
    assert legend.get_title().get_text() == 'number of units: the darker, the more'
    assert [t.get_text() for t in legend.get_texts()][:3] == ['10', '50', '200']
    light, *_, dark = [sum(matplotlib.colors.to_rgb(h.get_color())) for h in legend.legend_handles[:3]]
    assert light > dark


def test_unconverged_layer_is_drawn_with_its_note(): assert draw('layer').get_suptitle() == 'not converged'


def test_unimodal_layer_has_no_cut():
    fig = P.plot_variances(weights.var(1), cut=None)
    assert fig.axes[0].get_title(loc='left').startswith('no cut: one population')


def test_dead_and_pruned_units_do_not_divide_by_zero():
    with np.errstate(all='raise'):
        P.plot_tiles(np.zeros((5, 48)), (3, 4, 4))
        P.plot_tiles(np.zeros((5, 16)), (4, 4), columns=3)


def test_units_that_never_vary_are_drawn_as_nothing():
    "The first pixels of a digit are always black, and a pruned unit is zero."
    fig = P.plot_spectrum(np.zeros(10))
    assert len(fig.axes[0].lines[0].get_xdata()) == 0
    render(fig, 'png')


def test_accuracy_of_all_images_stands_before_the_relative_one():
    both, row = P.plot_curves({'a': curve()}), P.plot_perturbations({'PGD': {'a': (curve(), critical())}})
    for fig in (both, row):
        left, right = fig.axes[:2]
        assert (left.get_ylabel(), right.get_ylabel()) == ('accuracy', 'relative accuracy')
        assert left.lines[0].get_ydata() == pytest.approx(.9*right.lines[0].get_ydata())
    for relative, factor in ((True, 1), (False, .9)):
        [ax] = P.plot_curves({'a': curve()}, relative=relative).axes
        assert ax.lines[0].get_ydata()[0] == pytest.approx(factor)
    [ax] = P.plot_curves({'a': curve()}, ax=P.plot_curves({'b': curve()}, relative=False).axes[0]).axes
    assert ax.get_ylabel() == 'accuracy', 'one panel has room for one of them'


@pytest.mark.parametrize('log', [True, False])
def test_a_radius_can_be_read_in_255ths(log):
    fig = P.plot_curves({'a': curve()}, log=log, in_255ths=400.)
    fig.draw_without_rendering()
    for ax in fig.axes:
        [above] = ax.child_axes
        assert above.get_xlim() == pytest.approx([400*x for x in ax.get_xlim()]) and 'x/255' in above.get_xlabel()
    assert not any(ax.child_axes for ax in P.plot_curves({'a': curve()}).axes)


def test_a_model_looks_the_same_under_every_attack_and_a_doubt_stands_above_its_row():
    pair = lambda flags=(): (curve(flags=flags), critical())
    fig = P.plot_perturbations({'RP': {m: pair() for m in MODELS}, 'PGD': {m: pair(('survivors',)*(m == 'L2')) for m in MODELS[1:]}})
    look = lambda ax: {line.get_label().removesuffix(' †'): (line.get_color(), line.get_marker()) for line in ax.lines}
    assert look(fig.axes[3]) == {m: v for m, v in look(fig.axes[0]).items() if m != 'KH'}
    assert [ax.get_title(loc='left') for ax in fig.axes[::3]] == ['RP', 'PGD   † L2']
    assert [t.get_text() for t in fig.legends[0].get_texts()] == MODELS and 'misled' in fig.legends[0].get_title().get_text()


def test_robust_accuracy_over_clean_accuracy_is_hollow_where_masked():
    fig = P.plot_robust_accuracy({'small': {'a': (.9, .5), 'b': (.8, .6)}, 'large': {'a': (.9, .1), 'b': (.8, .3)}}, masked={'large': ['a']})
    points = [{line.get_label(): (tuple(line.get_xydata()[0]), line.get_markerfacecolor() == 'white') for line in ax.lines[:2]} for ax in fig.axes]
    assert points == [dict(a=((.9, .5), False), b=((.8, .6), False)), dict(a=((.9, .1), True), b=((.8, .3), False))]


def test_a_masked_worst_case_is_hollow_and_named():
    colours = lambda fig: {l.get_markerfacecolor() for l in fig.axes[0].lines if l.get_marker() == '*' and len(l.get_xdata()) == 1}
    texts = lambda fig: [t.get_text() for t in fig.axes[0].get_legend().get_texts()]
    plain, masked = (P.plot_curves({'a': curve()}, {'a': '#123456'}, marks={'a': worst(f)}) for f in ((), ('masked', 'survivors')))
    assert colours(plain) == {'#123456'} and texts(plain) == ['a', 'worst case']
    assert colours(masked) == {'#123456', 'white'} and texts(masked) == ['a', 'worst case', 'worst case, masked']


def test_bad_input_is_named():
    with pytest.raises(InputError, match='draw one figure per space'): P.plot_curves({'a': curve()}, marks={'a': worst(space='lp_unit(p=3)')})
    with pytest.raises(InputError, match='lp_unit.*pixel.*draw one figure per space'): P.plot_curves({'a': curve(), 'b': curve(space='lp_unit(p=3)')})
    with pytest.raises(InputError, match='each row needs 784 weights'): P.plot_tiles(weights, (1, 28, 28))
    with pytest.raises(InputError, match='the largest first; got shape'): P.plot_spectrum(np.zeros((2, 2)))


def test_save_figure_writes_all_or_nothing(tmp_path):
    fig = draw('curve')
    with pytest.raises(InputError, match="'png'"): P.save_figure(fig, tmp_path/'a'/'fig', formats=('pdf', 'pngg'))
    assert not (tmp_path/'a').exists()
    assert [p.name for p in P.save_figure(fig, tmp_path/'a'/'fig.1')] == ['fig.1.pdf', 'fig.1.svg', 'fig.1.png']


def test_what_is_no_power_law_has_no_line_and_no_exponent():
    bent = P.plot_spectrum(spectrum(), fit(r2=.91)).axes[0]
    straight = P.plot_spectrum(spectrum(), fit(r2=.99)).axes[0]
    assert (len(bent.lines), len(straight.lines)) == (1, 2)
    assert [t.get_text() for t in (*bent.texts, *straight.texts)] == ['no power law, R² .910', 'n^-1.50 [1.40, 1.60], R² .990']
    legend = lambda r2: [t.get_text() for t in P.plot_spectra({'KH': {'noise': {200: spectrum()}}}, {'KH': {'noise': fit(r2=r2)}}).legends[0].get_texts()]
    assert len(legend(.99)) == len(legend(.91)) + 1, 'a line that is nowhere is not explained'


@pytest.mark.parametrize('r2', [.97999, .98, .9999999])
def test_the_r2_in_a_figure_lies_on_the_same_side_of_the_threshold(r2):
    text = r2_text(r2)
    assert (float(text.removeprefix('R² ')) < .98) == (r2 < .98) and text.startswith('R² ')
