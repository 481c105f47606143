"""Robust neural representations: one vocabulary for models, penalties, attacks and probes.

Names are resolved when they are first used, so that importing the package costs nothing. `_PUBLIC` says where each one lives;
recipes and the command line look names up in the same table."""
__version__ = "0.1.0"
from importlib import import_module as _import_module

_MODULES = dict(
    core='InputError Recipe parse_recipe complete_recipe build_recipe Piece measure progress',
    runs='Run Artefact',
    state='stream seeded pick_device save_checkpoint load_checkpoint load_model describe',
    plots='plot_curve plot_curves plot_critical plot_spectrum plot_spectra plot_accuracy_robustness plot_tiles plot_variances '
          'plot_landscapes plot_history save_figure',
    data='load Data Split gaussian_noise',
    models='read Out Normalize LpUnit prepend SHLP MLP Power feature_jacobian_norm',
    training='fit train_step train_model epochs Adam SGD Steps HoldDecay History accuracy',
    hebbian='kh_increment kh_step KHLayer train_layer convergence prune KHModel',
    regularizers='Lp Jacobian Spectral',
    attacks='maximise GaussianNoise FGSM PGD Adversarial perturbation_norm',
    robustness='accuracy_curve critical_norm masking_checks correct_subset Curve Critical',
    probes='spectrum Spectrum power_law size_sweep effective_dimension plane Plane landscape decision_map jacobian_norm',
    published='PublishedLp PublishedJacobian PublishedSpectral PublishedPGD published_prune published_eps',
    claims='Claim judge',
    runner='reproduce start')
_PUBLIC = {name: module for module, names in _MODULES.items() for name in names.split()}
__all__ = sorted(_PUBLIC)


def __getattr__(name):
    if name not in _PUBLIC: raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    value = globals()[name] = getattr(_import_module(f'.{_PUBLIC[name]}', __name__), name)
    return value


def __dir__(): return sorted([*globals(), *__all__])
