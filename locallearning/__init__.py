"""Robust neural representations: one vocabulary for models, penalties, attacks and probes.

Names are resolved when they are first used, so that importing the package costs nothing. `_PUBLIC` says where each one lives;
recipes and the command line look names up in the same table."""
__version__ = "0.1.0"
from importlib import import_module as _import_module

_MODULES = {
    'core': 'InputError measure progress',
    'recipes': 'Recipe Piece parse_recipe complete_recipe build_recipe',
    'store': 'Artefact',
    'state': 'stream seeded pick_device save_checkpoint load_checkpoint load_model describe',
    'processes': 'joined',
    'splits': 'Split as_split gaussian_noise Law',
    'data': 'load Data subset save_index load_index',
    'models': 'read Out Normalize LpUnit prepend parametrize SHLP MLP Power feature_jacobian_norm',
    'optimizers': 'CrossEntropy MultiMargin Adam SGD AggMo Steps StepDecay HoldDecay',
    'resuming': 'epochs History',
    'training': 'fit train_step train_model accuracy',
    'regularizers': 'Lp Jacobian Spectral',
    'instruments': 'Subject as_subject Instrument Number rows_of test_images',
    'convnets': 'VGG11 VGG5 ResNet',
    'augmentation': 'CropFlip Deformed tangents',
    'attacks.ascent': 'maximise project into_box perturbation_norm',
    'attacks.gradient': 'GaussianNoise FGSM PGD Adversarial',
    'attacks.apgd': 'APGD',
    'attacks.square': 'Square',
    'attacks.peers': 'Foolbox Torchattacks SLSQP',
    'robustness.target': 'masking_checks correct_subset',
    'robustness.curves': 'accuracy_curve critical_norm compare_protocols Curve Critical',
    'robustness.worst': 'worst_case WorstCase standard_attacks Transfer',
    'robustness.instruments': 'AccuracyProbe CriticalProbe WorstCaseProbe ClassifierProbe Classified',
    'robustness.radii': 'RadiiProbe Radii in_255ths',
    'robustness.frontier': 'at_equal_accuracy',
    'probes.spectra': 'spectrum Spectrum power_law PowerLaw size_sweep resampled_spectra effective_dimension',
    'probes.landscapes': 'jacobian_norm plane Plane landscape Landscape decision_map Decision landscape_quantiles '
                         'Quantiles',
    'probes.instruments': 'SpectrumProbe LayerSpectrum JacobianProbe JacobianNorms LandscapeProbe LayerLandscape '
                          'WeightsProbe ImageWeights Pixels',
    'probes.norms': 'matrix_norm operator_norm operator_bound linear_maps',
    'probes.slopes': 'product_bound ProductBound measured_slope Slope',
    'hebbian.ranking': 'ranked Ranking CertifiedRanking shared SharedRanking',
    'hebbian.layer': 'effective_weight kh_increment kh_step kh_step_ kh_sequential KHLayer train_layer convergence Convergence',
    'hebbian.seeds': 'train_layers kh_steps_',
    'hebbian.model': 'prune Pruned Mixture prototypes KHModel',
    'hebbian.published': 'PublishedLp PublishedJacobian PublishedSpectral PublishedPGD published_prune published_eps '
                         'published_accuracy published_spectrum',
    'hebbian.instruments': 'ConvergenceProbe PruningProbe PublishedAccuracyProbe PublishedSpectrumProbe',
    'rkhs.penalties': 'LossGradient ClassGradient ClassPerturbation VAT',
    'rkhs.spectral': 'SpectralNormPenalty SpectralProjection',
    'rkhs.deform': 'DeformationStability TangentGradient',
    'rkhs.bounds': 'BoundsProbe Bounds',
    'rkhs.published': 'PublishedPGDL2 PublishedDeformationStability PublishedTangentGradient',
    'lipschitz.orthogonal': 'bjorck Bjorck SpectralNormalized bake',
    'lipschitz.projections': 'project_rows L1Rows L1Scaled Projected',
    'lipschitz.layers': 'GroupSort MaxMin MaxOut LipschitzMLP',
    'lipschitz.transport': 'Spheres Gaussian Uniform Moved Samples Between exact_distance assignment_distance WassersteinDual '
                           'dual_estimate Estimate train_dual gradient_lengths potential_slice',
    'lipschitz.certificates': 'certified_radii CertifiedProbe Certified attacked_against_certified LipschitzBoundsProbe '
                              'LipschitzBounds ActivityProbe UnitActivity lead_gradients',
    'lipschitz.published': 'PublishedBjorck PublishedL1Rows published_bake',
    'lipschitz.networks': 'MeanPool LipschitzConvNet LeNet LipschitzResNet BlockOrthogonal',
    'lipschitz.penalties': 'JacobianSpectral local_slopes',
    'lipschitz.gan': 'GANGenerator GANCritic WGAN WGANGP LWGAN train_gan Generated',
    'lipschitz.configs': 'read_config',
    'figures.style': 'save_figure',
    'figures.robustness': 'plot_curve plot_curves plot_critical plot_perturbations plot_accuracy_robustness '
                          'plot_robust_accuracy',
    'figures.probes': 'plot_spectrum plot_spectra plot_landscapes plot_quantiles',
    'figures.layers': 'plot_tiles plot_variances plot_layer plot_history plot_gradients',
    'figures.bounds': 'plot_bounds',
    'figures.certificates': 'plot_certified plot_activity',
    'figures.samples': 'plot_samples write_gif',
    'figures.potentials': 'plot_potential_lines plot_potential_planes plot_shares',
    'lab.runs': 'Run',
    'lab.session': 'start',
    'examine.subjects': 'load_subject foreign_subject read_weights',
    'lab.trainings': 'Plan resolve_training run_training',
    'examine.evaluation': 'evaluate_models evaluate_examples make_examples save_examples load_examples',
    'examine.probing': 'probe_models',
    'examine.pictures': 'evaluation_figure',
    'lab.claims': 'Claim read_claims',
    'lab.verdicts': 'judge claims_table',
    'lab.reproduction': 'reproduce',
    'lab.report': 'read_report read_reports',
    'bench.rows': 'run_bench read_bench',
}
_PUBLIC = {name: module for module, names in _MODULES.items() for name in names.split()}
__all__ = sorted(_PUBLIC)


def __getattr__(name):
    if name not in _PUBLIC: raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    value = globals()[name] = getattr(_import_module(f'.{_PUBLIC[name]}', __name__), name)
    return value


def __dir__(): return sorted([*globals(), *__all__])
