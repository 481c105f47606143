"""The 28 defects of the released code of the Hebbian paper: what protects each of them here, or why it cannot come back.

The numbers are those of section 8 of the project's specification of LocalLearning. A defect that could recur has tests, named in
`DEFECTS`, in the file of the module that it belongs to; those that belong to no module, or to several, are below."""
import ast
import builtins
import dis
import importlib
import json
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
import numpy as np
import pytest
import torch
from torch import nn
import locallearning as ll
from locallearning.core import InputError
from locallearning.state import load_checkpoint,load_model,save_checkpoint,save_tree,seeded,stream

TESTS = Path(__file__).parent
ROOT = TESTS.parent
PACKAGE = ROOT/'locallearning'
MODULES = sorted('.'.join(p.relative_to(PACKAGE).with_suffix('').parts) for p in PACKAGE.rglob('*.py') if p.stem != '__init__')

DEFECTS = {
    1: ('scripts that do not parse; a data set that does not exist',
        ['test_every_module_imports_and_every_public_name_exists', 'test_wrong_recipes']),
    2: ('a pruned layer is saved in a form that the next step cannot read',
        ['test_a_model_survives_saving', 'test_saved_weights_come_back_in_the_form_they_were_saved_in']),
    3: ('a malformed state is taken for hyperparameters, which hides the error',
        ['test_a_malformed_checkpoint_is_named_and_not_taken_for_something_else']),
    4: ('scripts that work from one folder only, and return codes that nobody reads',
        ['test_the_command_works_from_any_folder', 'test_wheel_reproduces_outside_the_checkout']),
    5: ('a layer that has not converged stops the series, with its criterion printed the wrong way round; no cut, no file',
        ['test_a_training_that_does_not_converge_is_reported_not_raised', 'test_the_message_says_the_criterion_the_right_way_round',
         'test_one_kind_of_units_is_not_pruned', 'test_unconverged_layer_is_drawn_with_its_note']),
    6: ('notebooks that index files which nobody made', ['test_no_experiment_opens_a_file_by_name']),
    7: ('a figure that needs a file which nothing creates, LaTeX, and a style that is gone',
        ['test_no_experiment_opens_a_file_by_name', 'test_users_style_neither_enters_nor_changes', 'test_figures_need_no_latex']),
    8: ('requirements that are missing or disagree; a package that is not found',
        ['test_requirements_cover_every_import', 'test_wheel_carries_modules_data_and_experiments']),
    9: ('tests that import what is gone, compare floats for equality, and have a wrong sign in the reference',
        ['test_every_module_imports_and_every_public_name_exists', 'test_the_fast_rule_follows_the_reference_step_by_step']),
    10: ('sizes as a mutable attribute of the class: a second model rewrites the first',
         ['test_a_second_model_leaves_the_first_as_it_was', 'test_two_layers_never_share_state', 'test_two_models_never_share_state']),
    11: ('parameters of a penalty as attributes of its class',
         ['test_two_penalties_never_share_state', 'test_published_penalties_go_through_fit_and_never_share_state',
          'test_no_class_of_the_package_keeps_mutable_state']),
    12: ('test accuracy with batch statistics, which are updated by test data',
         ['test_measuring_leaves_batch_norm_frozen', 'test_evaluation_during_training_changes_nothing',
          'test_published_accuracy_depends_on_the_batch_and_leaves_the_model_alone']),
    13: ('a copied model evaluates the weights of the original; to, train and eval return None; training changes hyperparameters',
         ['test_a_copy_evaluates_its_own_weights', 'test_mode_and_device_calls_return_the_model', 'test_training_changes_no_hyperparameter']),
    14: ('saving appends, so that loading returns the first and stale result; iterators keep state; the loader changes the data set',
         ['test_saving_twice_returns_the_newest', 'test_iterators_keep_no_state', 'test_training_and_attacking_leave_the_data_as_they_were']),
    15: ('a spectral penalty on a random basis, uncentred, unsorted, with an absolute target and another exponent than its name',
         ['test_the_basis_comes_from_all_batches_as_numpy_computes_it', 'test_spectral_penalty_is_blind_to_the_mean_of_the_batch',
          'test_spectral_penalty_does_not_depend_on_the_scale', 'test_spectral_penalty_equals_the_sorted_loop',
          'test_spectral_training_moves_the_exponent_to_its_target_and_the_weights_with_it',
          'test_published_spectral_equals_the_literal_equations']),
    16: ('a Jacobian penalty that counts one projection of n, or the batch size; only of a linear map',
         ['test_jacobian_estimate_of_a_linear_layer_is_its_squared_weight_for_every_n', 'test_jacobian_does_not_depend_on_the_batch_size',
          'test_closed_forms_equal_autograd', 'test_published_jacobian_counts_only_its_first_projection']),
    17: ('weight decay of biases and batch norms',
         ['test_lp_leaves_biases_batch_norm_and_frozen_weights_alone', 'test_published_lp_counts_every_parameter']),
    18: ('pruning by the mixture that was rejected',
         ['test_one_kind_of_units_is_not_pruned', 'test_planted_noise_is_found_and_nothing_else',
          'test_published_pruning_cuts_nearly_all_of_one_kind']),
    19: ('a criterion for anti-features that none can fail',
         ['test_an_all_negative_unit_on_the_sphere_is_found', 'test_many_anti_features_are_no_convergence']),
    20: ('the sequential rule pushes away all ranks up to k', ['test_only_rank_k_is_pushed_away_unless_asked']),
    21: ('an attack that leaves its box; a box of other images; radii up to a natural logarithm; data left on another device',
         ['test_ball_and_box_hold_at_every_step', 'test_spaces_leave_the_originals_and_boxes_hold',
          'test_published_pgd_equals_the_literal_loop', 'test_published_radii_end_where_the_natural_logarithm_put_them']),
    22: ('spectra in float32 by a general solver; plotting that normalises the stored results',
         ['test_spectra_are_exact_where_float32_has_a_floor', 'test_stored_results_are_not_changed_by_plotting']),
    23: ('logged means that are sums of means; accuracies relative only; one seed',
         ['test_logged_values_are_means_over_images', 'test_curve_counts_by_hand', 'test_value_over_seeds']),
    24: ('functions that read globals instead of their arguments, and arguments that nobody reads',
         ['test_no_function_uses_a_name_that_is_not_there', 'test_no_parameter_is_silently_ignored']),
    25: ('unfinished code: undefined names, a lambda that calls itself', ['test_no_function_uses_a_name_that_is_not_there']),
    26: ('no spectrum of a model without parameters', ['test_spectrum_of_a_module_without_parameters']),
    27: ('layers that are stored and never used', ['test_every_layer_of_a_model_runs']),
    28: ('outputs of a notebook from several sessions; figures of another model than the one that is printed',
         ['test_experiments_are_committed_without_outputs', 'test_a_checkpoint_says_which_model_it_holds']),
}


# --- the table itself

def defined_tests():
    "Names of all test functions under `tests/`."
    trees = (ast.parse(p.read_text(encoding='utf-8')) for p in TESTS.glob('test_*.py'))
    return {f.name for t in trees for f in ast.walk(t) if isinstance(f, ast.FunctionDef) and f.name.startswith('test_')}

def test_every_defect_has_a_test_that_exists():
    assert sorted(DEFECTS) == list(range(1, 29))
    there = defined_tests()
    missing = {n: [t for t in tests if t not in there] for n, (what, tests) in DEFECTS.items()}
    assert all(tests for _, tests in DEFECTS.values()) and not {n: m for n, m in missing.items() if m}


# --- 1, 9, 24, 25: code that cannot run

@pytest.mark.parametrize('module', MODULES)
def test_every_module_imports_and_every_public_name_exists(module):
    loaded = importlib.import_module(f'locallearning.{module}')
    for name, where in ll._PUBLIC.items():
        if where == module: assert getattr(ll, name) is getattr(loaded, name)

def code_objects(code):
    yield code
    for c in code.co_consts:
        if hasattr(c, 'co_code'): yield from code_objects(c)

@pytest.mark.parametrize('module', MODULES)
def test_no_function_uses_a_name_that_is_not_there(module):
    loaded = importlib.import_module(f'locallearning.{module}')
    code = compile(Path(loaded.__file__).read_text(encoding='utf-8'), module, 'exec')
    used = {i.argval for c in code_objects(code) for i in dis.get_instructions(c) if i.opname == 'LOAD_GLOBAL'}
    assert used - set(vars(loaded)) - set(vars(builtins)) == set()

def own_nodes(node):
    "What a function consists of, without the functions in it."
    for child in ast.iter_child_nodes(node):
        yield child
        if not isinstance(child, (ast.FunctionDef, ast.Lambda)): yield from own_nodes(child)

def unread_parameters(tree):
    "Parameters of functions that no line of the body reads; `locals()` reads them all."
    for f in ast.walk(tree):
        if not isinstance(f, ast.FunctionDef): continue
        if any(isinstance(n, ast.Call) and ast.unparse(n) == 'locals()' for n in own_nodes(f)): continue
        read = {n.id for b in f.body for n in ast.walk(b) if isinstance(n, ast.Name)}
        for a in [*f.args.posonlyargs, *f.args.args, *f.args.kwonlyargs]:
            if a.arg not in read | {'self', 'cls'}: yield f.name, a

@pytest.mark.parametrize('module', MODULES)
def test_no_parameter_is_silently_ignored(module):
    text = (PACKAGE/f'{module.replace(".", "/")}.py').read_text(encoding='utf-8')
    lines, excused = text.splitlines(), ('not used', 'not looked at')
    silent = [(f, a.arg) for f, a in unread_parameters(ast.parse(text))
              if not any(e in lines[a.lineno - 1] for e in excused) and lines[a.lineno - 1].strip().startswith(f'{a.arg}:')]
    assert not silent

def test_parameters_that_nobody_reads_are_found():
    found = lambda code: [a.arg for _, a in unread_parameters(ast.parse(code))]
    assert found('def f(a, b=1): return a') == ['b'] and found('def f(a, b): return {**locals()}') == []
    assert found('def f(a):\n    def g(): return locals()\n    return g') == ['a'], 'those of another function'


# --- 2, 3, 14, 28: saving and loading

def small(**more):
    with seeded(0, 'init'): return ll.SHLP(16, width=8, classes=3, **more)

def images(n=30, seed=0):
    return torch.rand(n, 1, 4, 4, generator=stream(seed, 'x')), torch.arange(n) % 3

def test_saved_weights_come_back_in_the_form_they_were_saved_in(tmp_path):
    model = small(batch_norm=True, n=2)
    again = load_model(save_checkpoint(tmp_path/'m.safetensors', model))
    assert repr(again) == repr(model) and all(torch.equal(v, again.state_dict()[k]) for k, v in model.state_dict().items())

def test_a_malformed_checkpoint_is_named_and_not_taken_for_something_else(tmp_path):
    path = tmp_path/'m.safetensors'
    save_tree(path, dict(in_size=16, hidden_size=8))
    with pytest.raises(InputError, match='not the checkpoint of a model'): load_model(path)
    path.write_bytes(b'no safetensors')
    with pytest.raises(InputError, match='m.safetensors is damaged'): load_model(path)
    save_checkpoint(path, small())
    with pytest.raises(InputError, match='SHLP'): load_checkpoint(path, ll.MLP(16, (8,), 3))
    with pytest.raises(InputError, match='shape'): load_checkpoint(path, ll.SHLP(16, width=9, classes=3))

def test_saving_twice_returns_the_newest(tmp_path):
    path, model = tmp_path/'m.safetensors', small()
    for value in (1., 2.):
        nn.init.constant_(model.hidden.weight, value)
        save_checkpoint(path, model, epoch=int(value))
    assert (load_model(path).hidden.weight == 2).all() and load_checkpoint(path)['more']['epoch'] == 2
    assert json.loads(path.with_suffix('.json').read_text())['epoch'] == 2

def test_a_checkpoint_says_which_model_it_holds(tmp_path):
    model = small(n=4.5)
    save_checkpoint(tmp_path/'m.safetensors', model, space='lp_unit(p=3)')
    about = json.loads((tmp_path/'m.json').read_text())
    assert about['recipe'] == repr(model) and 'n=4.5' in about['recipe'] and about['space'] == 'lp_unit(p=3)'


# --- 4, 6, 7: notebooks and commands that depend on where and after what they run

def test_the_command_works_from_any_folder(tmp_path):
    run = subprocess.run([sys.executable, '-m', 'locallearning.command.app', 'list'], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0 and 'hebbian' in run.stdout, run.stderr
    wrong = subprocess.run([sys.executable, '-m', 'locallearning.command.app', 'reproduce', 'hebbain'], cwd=tmp_path, capture_output=True, text=True)
    assert wrong.returncode == 2

EXPERIMENTS = sorted((ROOT/'nbs'/'experiments').glob('*/*.ipynb'))

@pytest.mark.parametrize('path', EXPERIMENTS, ids=lambda p: p.stem)
def test_no_experiment_opens_a_file_by_name(path):
    code = '\n'.join(''.join(c['source']) for c in json.loads(path.read_text(encoding='utf-8'))['cells'] if c['cell_type'] == 'code')
    for call in ('torch.load', 'pickle', 'np.load', 'read_csv', 'open(', 'plt.style', 'load_model', 'load_checkpoint'): assert call not in code

def test_figures_need_no_latex():
    import matplotlib.text
    fig = ll.plot_spectrum(ll.spectrum(torch.rand(30, 12, generator=stream(0, 'x'))))
    fig.canvas.draw()
    assert not any(t.get_usetex() for t in fig.findobj(matplotlib.text.Text))


# --- 10, 11: state that is shared

def test_a_second_model_leaves_the_first_as_it_was(tmp_path):
    first = small(batch_norm=True)
    path, before = save_checkpoint(tmp_path/'m.safetensors', first), repr(first)
    ll.SHLP(25, width=30, classes=7, n=4.5)
    assert repr(first) == before and first(images()[0]).shape == (30, 3)
    assert repr(load_model(path)) == before

@pytest.mark.parametrize('module', MODULES)
def test_no_class_of_the_package_keeps_mutable_state(module):
    loaded = importlib.import_module(f'locallearning.{module}')
    own = [c for c in vars(loaded).values() if isinstance(c, type) and c.__module__ == loaded.__name__]
    kept = {(c.__name__, k) for c in own for k, v in vars(c).items() if isinstance(v, (list, set, dict, torch.Tensor, np.ndarray)) and k[0] != '_'}
    assert {k for _, k in kept} <= {'roles'}                       # read, never written: a map from role to layer path

# --- 12: batch norm

def test_measuring_leaves_batch_norm_frozen():
    model, (x, y) = small(batch_norm=True).train(), images()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    one, many = ll.accuracy(model, (x, y), 30), ll.accuracy(model, (x, y), 7)
    ll.accuracy_curve(model, (x, y), ll.PGD(steps=2), eps=[0, .1])
    ll.critical_norm(model, (x, y), ll.FGSM())
    ll.spectrum(model, x, layer='norm')
    ll.jacobian_norm(model, x)
    assert one == many and all(m.training for m in model.modules())
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())

def test_evaluation_during_training_changes_nothing():
    trained = []
    for evals in ({}, dict(test=images(seed=1))):
        model = small(batch_norm=True)
        ll.fit(model, images(), epochs=2, batch_size=10, evals=evals)
        trained.append(model.state_dict())
    assert all(torch.equal(v, trained[1][k]) for k, v in trained[0].items())


# --- 13: copies, modes, hyperparameters

def kh_model():
    with seeded(0, 'init'): return ll.KHModel(16, width=8, classes=3)

@pytest.mark.parametrize('make', [lambda: small(batch_norm=True), lambda: ll.MLP(16, (8,), 3), kh_model,
    lambda: ll.prepend(ll.LpUnit(3), small())], ids=['SHLP', 'MLP', 'KHModel', 'prepended'])
class TestModules:
    def test_a_copy_evaluates_its_own_weights(self, make):
        model, (x, y) = make(), images()
        ll.read(model, x, 'features'), ll.accuracy(model, (x, y))
        copy = deepcopy(model)
        with torch.no_grad(): [w.zero_() for w in copy.parameters()]
        assert (copy.eval()(x) == 0).all() and (model.eval()(x) != 0).any()

    def test_mode_and_device_calls_return_the_model(self, make):
        model = make()
        assert model.to('cpu') is model and model.train() is model and model.eval() is model
        assert not any(m.training for m in model.modules())

    def test_every_layer_of_a_model_runs(self, make):
        model, ran = make(), set()
        leaves = {n: m for n, m in model.named_modules() if not list(m.children())}
        hooks = [m.register_forward_hook(lambda *a, n=n: ran.add(n)) for n, m in leaves.items()]
        model(images()[0])
        assert ran == set(leaves) and hooks

def test_training_changes_no_hyperparameter():
    model, penalties = small(), [ll.Lp(), ll.Jacobian(), ll.Spectral(tau=2), ll.PublishedSpectral()]
    pieces = [model, *penalties, ll.Adam()]
    before = [repr(p) for p in pieces]
    ll.fit(model, images(), epochs=2, batch_size=10, penalties=penalties, opt=pieces[-1])
    assert [repr(p) for p in pieces] == before


# --- 14: data

def test_iterators_keep_no_state():
    split = ll.Split(*images())
    first, second = split.batches(10), split.batches(10)
    next(first)
    assert torch.equal(next(first)[0], split.x[10:20]) and torch.equal(next(second)[0], split.x[:10])
    assert len(list(split.batches(10))) == len(list(split.batches(10))) == 3

def test_training_and_attacking_leave_the_data_as_they_were():
    x, y = images()
    a, b, model = x.clone(), y.clone(), small()
    ll.fit(model, (x, y), epochs=1, batch_size=7, penalties=[ll.Jacobian()])
    ll.accuracy_curve(model, (x, y), ll.PGD(steps=2), eps=[.1])
    ll.Split(x, y).in_space('lp_unit', p=3).x.mul_(2)
    assert torch.equal(x, a) and torch.equal(y, b) and not x.requires_grad and x.grad is None


# --- 22, 23, 26: numbers

def test_spectra_are_exact_where_float32_has_a_floor():
    q = torch.linalg.qr(torch.randn(400, 30, generator=stream(0, 'q'), dtype=torch.float64)).Q
    q = torch.linalg.qr(q - q.mean(0)).Q
    expected = torch.logspace(0, -12, 30, dtype=torch.float64)
    values = ll.spectrum(q * (399 * expected).sqrt() + 1).values
    assert values.dtype == torch.float64 and torch.allclose(values, expected, rtol=1e-2, atol=0)

def test_logged_values_are_means_over_images():
    x, y = images(25)
    model, penalty = small(), ll.Lp(0.)
    log = ll.fit(model, (x, y), epochs=1, batch_size=10, lr=0., penalties=[penalty])       # batches of 10, 10 and 5
    assert np.isclose(log.last('loss'), nn.functional.cross_entropy(model(x), y).item(), rtol=1e-6)
    assert np.isclose(log.last('accuracy'), ll.accuracy(model, (x, y))) and np.isclose(log.last('Lp'), penalty(model).item())

def test_spectrum_of_a_module_without_parameters():
    x = torch.rand(40, 1, 3, 3, generator=stream(0, 'x'))
    bare = nn.Sequential(nn.Flatten(), nn.ReLU())
    assert torch.allclose(ll.spectrum(bare, x, layer='1').values, ll.spectrum(x).values)
    assert torch.allclose(ll.spectrum(nn.Identity(), x, layer='logits').values, ll.spectrum(x).values)
