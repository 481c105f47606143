"""Images, the space they are in, and the box of each of them."""
import math, os, subprocess, sys, tarfile, time
import numpy as np
import pytest
import torch
from PIL import Image
from hypothesis import given, settings, strategies as st
from torch import nn
from locallearning import splits as module
from locallearning.core import InputError
from locallearning.splits import Split, as_split, check_images, check_labels, gaussian_noise
from locallearning.data import Data, load, load_index, save_index, subset
from locallearning.state import stream

DATA = os.environ.get('LOCALLEARNING_DATA')
exact_cifar = pytest.mark.skipif(not (DATA and os.path.isfile(f'{DATA}/cifar10-9k.npz')),
                                 reason='needs cifar10-9k.npz under LOCALLEARNING_DATA')


def made_up(n=30, shape=(5, 4), classes=3, seed=0):
    rng = np.random.default_rng(seed)
    x = lambda m: rng.integers(0, 256, (m, *shape), dtype=np.uint8)
    return Data.of(x(n), np.arange(n) % classes, x(n//3), np.arange(n//3) % classes, name='made_up')


def snapshot(split): return split.raw.clone(), split.y.clone(), split.index.clone()
def unchanged(split, before): return all(torch.equal(a, b) for a, b in zip((split.raw, split.y, split.index), before))


# --- what enters is checked

@pytest.mark.parametrize('x, message', [
    (torch.full((2, 1, 2, 2), float('nan')), 'images: 2 of 2 hold NaN or Inf, the first are numbers .0, 1.'),
    (torch.tensor([0., math.inf])[:, None, None, None], '1 of 2 hold NaN or Inf, the first are numbers .1.'),
    (torch.zeros(2, 2, 2), r'shape \(2, 2, 2\); expected N×C×H×W'),
    (torch.zeros(0, 1, 2, 2), 'no images at all'),
    (torch.zeros(2, 1, 2, 2, dtype=torch.uint8), 'torch.uint8: integer images given where floats are needed; divide by 255'),
    (torch.zeros(2, 1, 2, 2, dtype=torch.int64), 'integer images'),
    (torch.tensor([0., 255.])[:, None, None, None], r'lie in \[0, 255\], outside their bounds \[0, 1\]; looks like 0..255: divide by 255'),
    (torch.tensor([-2.1, 2.6])[:, None, None, None], r'\[-2.1, 2.6\].*looks normalised: put Normalize into the model'),
    (torch.tensor([0., 1.00001])[:, None, None, None], 'clip it'),
    (np.zeros((2, 1, 2, 2)), 'got a ndarray, expected a tensor'),
])
def test_wrong_images(x, message):
    with pytest.raises(InputError, match=message): check_images(x)


def test_bounds_hold_to_a_millionth():
    check_images(torch.tensor([[-5e-7, 1 + 5e-7]]))
    with pytest.raises(InputError): check_images(torch.tensor([[0, 1 + 3e-6]]))
    with pytest.raises(InputError): check_images(torch.tensor([[-3e-6, 1.]]))
    check_images(torch.tensor([[-9., 9.]]), bounds=None)
    high = torch.tensor([.2, .4])[:, None]
    check_images(torch.tensor([[.1, .2], [.3, .4]]), (0., high))
    with pytest.raises(InputError, match=r'outside their bounds \[0, 0.2…0.4\]'):
        check_images(torch.tensor([[.1, .3], [.3, .4]]), (0., high))


@pytest.mark.parametrize('y, message', [
    (torch.tensor([0, 1, 10]), 'labels: number 2 is 10; expected 0…9'),
    (torch.tensor([0, -1, 2]), 'number 1 is -1; expected 0…9'),
    (torch.tensor([0., 1., 2.]), 'labels are torch.float32; expected integers'),
    (torch.tensor([True, False, True]), 'torch.bool'),
    (torch.eye(3, dtype=torch.long), r'shape \(3, 3\); expected 3 class numbers .one-hot: y.argmax'),
    (torch.tensor([0, 1]), '3 images but 2 labels'),
    (np.array(['a', 'b', 'c']), 'labels are not numbers'),
])
def test_wrong_labels(y, message):
    with pytest.raises(InputError, match=message): check_labels(y, 3, 10)


def test_as_split_takes_pairs_and_splits():
    x, y = torch.rand(4, 1, 2, 2), torch.tensor([0, 1, 2, 3], dtype=torch.int32)
    s = as_split((x, y), classes=4)
    assert s.y.dtype == torch.int64 and s.bounds == (0., 1.) and s.space == 'pixel' and torch.equal(s.x, x) and as_split(s) is s
    assert as_split((x.half(), y)).x.dtype == torch.float32 and as_split((x.double(), y)).x.dtype == torch.float64
    assert as_split((x.numpy(), y.numpy())).x.shape == (4, 1, 2, 2) and as_split((x.flatten(1), y)).x.shape == (4, 4)
    for wrong in (x, y[:2]), (x*255, y), ((x*255).byte(), y), (x, y + 1):
        with pytest.raises(InputError): as_split(wrong, classes=4)
    with pytest.raises(InputError, match='got a Data; expected a split such as data.test'): as_split(made_up())
    with pytest.raises(InputError, match='N ≥ 1'): as_split(s[:0])


def test_as_split_checks_stored_floats_in_every_space():
    s = Split(torch.rand(3, 1, 2, 2), torch.zeros(3, dtype=torch.long)).in_space('lp_unit', p=2)
    assert as_split(s) is s
    s.raw[1] = float('nan')
    with pytest.raises(InputError, match=r'numbers \[1\]'): as_split(s)


# --- splits

@pytest.mark.parametrize('rows, want', [
    (slice(2, 5), [2, 3, 4]), (slice(None, None, -10), [29, 19, 9]), ([3, 1], [3, 1]), (-1, [29]), (torch.tensor(4), [4]),
    (torch.arange(30) > 27, [28, 29]), (np.array([5, 5]), [5, 5]), ([], [])])
def test_indexing_takes_all_fields_along(rows, want):
    s = made_up().in_space('lp_unit', p=3).train
    t = s[rows]
    assert t.index.tolist() == want and t.space == s.space and len(t) == len(want)
    assert torch.equal(t.x, s.x[want]) and torch.equal(t.y, s.y[want]) and torch.equal(t.bounds[1], s.bounds[1][want])


@pytest.mark.parametrize('rows, message', [
    (30, 'index 30 is out of range; there are 30 images'), ([0, -31], 'index -31'), ([.5], 'torch.float32'),
    (torch.ones(3, dtype=torch.bool), r'mask of shape \(3,\) for 30 images')])
def test_wrong_index(rows, message):
    with pytest.raises(InputError, match=message): made_up().train[rows]


def test_a_split_is_no_sequence():
    with pytest.raises(TypeError): list(made_up().train)


def test_index_of_a_part_of_a_part_refers_to_the_whole():
    s = made_up().train
    assert torch.equal(s[s[10:][torch.arange(20) % 7 == 3].index].raw, s[10:][torch.arange(20) % 7 == 3].raw)


@given(n=st.integers(1, 40), size=st.integers(1, 50), seed=st.none() | st.integers(0, 9), drop=st.booleans(), lp=st.booleans())
@settings(max_examples=40)
def test_batches_are_the_split_in_the_generators_order(n, size, seed, drop, lp):
    s = made_up(60).train[:n]
    if lp: s = s.in_space('lp_unit', p=3)
    batches = list(s.batches(size, None if seed is None else stream(seed), drop))
    assert all(len(x) == size for x, _, _ in batches[:-1]) and all(len(x) == len(y) for x, y, _ in batches)
    order = torch.arange(n) if seed is None else torch.randperm(n, generator=stream(seed))
    order = order[:n//size*size] if drop else order
    if len(order):
        assert torch.equal(torch.cat([x for x, _, _ in batches]), s.x[order])
        assert torch.equal(torch.cat([y for _, y, _ in batches]), s.y[order])
        if lp: assert torch.equal(torch.cat([b[1] for _, _, b in batches]), s.bounds[1][order])
    else: assert not batches


def test_batches_never_turn_the_whole_set_into_floats(monkeypatch):
    sizes, floats = [], module._floats
    monkeypatch.setattr(module, '_floats', lambda raw, scale=None: sizes.append(len(raw)) or floats(raw, scale))
    s = made_up().train
    for _ in s.batches(7): pass
    assert max(sizes) == 7 and 'x' not in s.__dict__
    with pytest.raises(InputError, match='batch_size=0: must be a whole number ≥ 1'): next(s.batches(0))


def test_to_the_device_where_it_is_changes_nothing():
    d = made_up()
    assert d.to('cpu') is d and d.train.to('cpu') is d.train
    meta = d.in_space('lp_unit', p=3).train.to('meta')
    assert {t.device.type for t in (meta.raw, meta.y, *meta.bounds, meta.scale)} == {'meta'} and meta.index.device.type == 'cpu'


# --- spaces and boxes

@given(raw=st.lists(st.lists(st.integers(0, 255), min_size=4, max_size=4), min_size=1, max_size=5),
       p=st.sampled_from([1, 1.5, 2, 3, 8]), floats=st.booleans())
@settings(max_examples=80)
def test_spaces_leave_the_originals_and_boxes_hold(raw, p, floats):
    raw = torch.tensor(raw, dtype=torch.uint8).view(-1, 1, 2, 2)
    s = Split(raw.float()/255 if floats else raw, torch.zeros(len(raw), dtype=torch.long))
    before, x = snapshot(s), s.x.clone()
    t = s.in_space('lp_unit', p=p)
    t.x
    assert unchanged(s, before) and torch.equal(s.x, x) and s.bounds == (0., 1.) and s.space == 'pixel'
    low, high = t.bounds
    assert t.space == f'lp_unit(p={p})' and low.shape == high.shape == (len(raw), 1, 1, 1)
    assert (t.x >= low).all() and (t.x <= high).all()
    norms, black = torch.linalg.vector_norm(t.x.flatten(1).double(), p, dim=1), (raw == 0).flatten(1).all(1)
    torch.testing.assert_close(norms[~black], torch.ones((~black).sum(), dtype=torch.double), atol=2e-6, rtol=0)
    assert (norms[black] == 0).all() and (high.flatten()[black] == 1).all()
    torch.testing.assert_close(t.x/high, s.x, atol=1e-6, rtol=0)
    assert torch.equal(t.in_space('pixel').x, x) and t.in_space('pixel').bounds == (0., 1.)


def test_white_pixel_lies_exactly_on_its_box():
    t = made_up(300).in_space('lp_unit', p=3).train
    white = t.raw == 255
    assert white.any() and torch.equal(t.x[white], t.bounds[1].expand_as(t.x)[white])


def test_space_of_a_data_set():
    d = subset(made_up(), val=3)
    assert d.in_space('pixel') is d
    t = d.in_space('lp_unit', p=3)
    assert t.space == t.valid.space == t.test.space == 'lp_unit(p=3)' and t.train.raw is d.train.raw and t.in_space('lp_unit(p=3.0)') is t
    assert repr(t) == "made_up(space='lp_unit(p=3)')" and repr(d) == 'made_up'
    for space, message in (
            ('lp_unt', "unknown space 'lp_unt'; did you mean 'lp_unit'"),
            ('lp_unit', 'the norm is None'), ('lp_unit(p=.5)', 'must be a number ≥ 1')):
        with pytest.raises(InputError, match=message): d.in_space(space)
    with pytest.raises(InputError, match="exist only in space 'gaussian'"): gaussian_noise(2, (1, 2, 2)).in_space('lp_unit', p=3)


def test_large_sets_are_normalised_like_small_ones():
    s = made_up(2500, (3, 3)).train
    assert torch.equal(s.in_space('lp_unit', p=3).scale[2100:2200], s[2100:2200].in_space('lp_unit', p=3).scale)


@exact_cifar
def test_exact_cifar_on_the_sphere_has_the_known_values():
    d = load(f'{DATA}/cifar10-9k.npz').in_space('lp_unit', p=3)
    x = torch.cat([d.train.x, d.test.x]).flatten(1)
    l2 = x.norm(dim=1)
    assert x.mean().item() == pytest.approx(.0577, abs=1e-4) and l2.mean().item() == pytest.approx(3.54, abs=.005)
    assert l2.aminmax().min.item() == pytest.approx(2.56, abs=.005) and l2.aminmax().max.item() == pytest.approx(3.80, abs=.005)
    assert x.max().item() == pytest.approx(.307, abs=5e-4)


# --- data sets from arrays

def test_callers_arrays_stay_as_they_are():
    rng = np.random.default_rng(0)
    for x in rng.integers(0, 256, (9, 4, 4, 3), dtype=np.uint8), rng.random((9, 3, 4, 4), dtype=np.float32), torch.rand(9, 3, 4, 4):
        y = np.arange(9) % 3
        keep, labels = (x.clone() if isinstance(x, torch.Tensor) else x.copy()), y.copy()
        d = Data.of(x, y, x[:3], y[:3]).in_space('lp_unit', p=3)
        d.train.x, [None for _ in d.train.batches(2, stream(0))], d.train[[2, 0]].x, d.key
        assert (keep == x).all() and (labels == y).all()


def test_pixels_arrive_where_they_belong():
    x = np.zeros((2, 3, 4, 3), np.uint8); x[0, 1, 2] = 255, 51, 0
    d = Data.of(x, [0, 1], x, [0, 1], classes=['a', 'b'])
    assert d.shape == (3, 3, 4) and torch.allclose(d.train.x[0, :, 1, 2], torch.tensor([1, .2, 0])) and d.classes == ('a', 'b')
    f = torch.rand(2, 3, 4, 4)
    assert torch.equal(Data.of(f, [0, 1], f, [0, 1]).test.x, f)


@pytest.mark.parametrize('change, message', [
    (dict(x_train=np.zeros((4, 3, 8, 8), np.uint8)),
     r'x_train have shape \(4, 3, 8, 8\); expected uint8 images N×H×W or N×H×W×C; looks like N×C×H×W'),
    (dict(x_train=np.zeros((4, 8, 8, 3), np.float32)), 'x_train have shape .* these look like N×H×W×C'),
    (dict(x_train=np.full((4, 1, 8, 8), 200.)), 'x_train lie in .200, 200.*divide by 255'),
    (dict(x_train=np.zeros((4, 8, 8), np.int64)), 'x_train are torch.int64: integer images'),
    (dict(x_train=np.zeros((0, 8, 8), np.uint8)), 'no images at all'),
    (dict(y_train=[0, 1, 2]), '4 images but 3 y_train'),
    (dict(y_train=[0, 1, 3, 0]), "class '2' has no training images"),
    (dict(y_test=[0, 3]), "class '2' has no training images"),
    (dict(x_test=np.zeros((2, 9, 9), np.uint8)), r'training images are \(1, 8, 8\), test images \(1, 9, 9\)'),
    (dict(classes=['a', 'b', 'c']), "class 'c' has no training images"),
    (dict(classes=['a']), 'y_train: number 1 is 1; expected 0…0'),
])
def test_wrong_arrays(change, message):
    good = dict(x_train=np.zeros((4, 8, 8), np.uint8), y_train=[0, 1, 1, 0], x_test=np.zeros((2, 8, 8), np.uint8), y_test=[0, 1])
    with pytest.raises(InputError, match=message): Data.of(**good | change)


def test_key_tells_contents_labels_space_and_order_apart_and_nothing_else():
    d = made_up()
    x, y = d.train.raw[:, 0].numpy(), d.train.y.numpy()
    same = Data.of(x.copy(), y.astype(np.uint8), d.test.raw[:, 0].numpy(), d.test.y, name='elsewhere')
    other = x.copy(); other[3, 2, 2] ^= 1
    keys = [d.key, Data.of(other, y, d.test.raw[:, 0], d.test.y).key, Data.of(x, (y + 1) % 3, d.test.raw[:, 0], d.test.y).key,
            d.in_space('lp_unit', p=3).key,
            d.in_space('lp_unit', p=2).key, subset(d, first=30).key, subset(d, val=1).key, subset(d, test=5).key]
    assert same.key == d.key and len(set(keys)) == len(keys) and len(d.key) == 64


# --- subsets

@given(val=st.integers(0, 20), first=st.integers(1, 50), more=st.integers(0, 30), seed=st.integers(0, 5))
@settings(max_examples=40)
def test_subsets_are_nested_and_never_meet_the_validation_images(val, first, more, seed):
    d = made_up(100)
    small, large = (subset(d, first=n, val=val, seed=seed) for n in (first, first + more))
    a, b = set(small.train.index.tolist()), set(large.train.index.tolist())
    valid = set(small.valid.index.tolist()) if val else set()
    assert len(a) == first and a <= b and len(valid) == val and not b & valid and (small.valid is None) == (val == 0)
    assert torch.equal(small.train.raw, d.train.raw[small.train.index])
    per = subset(d, per_class=10, val=val, seed=seed)
    assert per.train.y.bincount().tolist() == [10]*3 and not set(per.train.index.tolist()) & valid


def test_subset_depends_on_the_seed_alone():
    d = made_up(100)
    a, b, c = (subset(d, first=20, test=5, seed=s) for s in (0, 0, 1))
    assert torch.equal(a.train.index, b.train.index) and torch.equal(a.test.index, b.test.index)
    assert not torch.equal(a.train.index, c.train.index) and len(a.test) == 5
    assert subset(d).train is d.train


@pytest.mark.parametrize('options, message', [
    (dict(per_class=99), "per_class=99: class '0' has only 10 images"), (dict(first=31), 'first=31, but only 30'),
    (dict(first=25, val=10), 'only 20 training images are left'),
    (dict(val=30), 'val=30; expected 0…29'), (dict(first=1, per_class=1), 'give one of them'),
    (dict(first=0), 'first=0; expected a whole number ≥ 1'),
    (dict(val=-1), 'val=-1; expected a whole number ≥ 0'), (dict(first=2.5), 'first=2.5'), (dict(test=11), 'only 10 test images'),
    (dict(index=[30]), 'index 30 is out of range'),
    (dict(index=[3], val=2), 'leave out first, per_class and val'),
])
def test_wrong_subsets(options, message):
    with pytest.raises(InputError, match=message): subset(made_up(), **options)


@given(rows=st.lists(st.integers(0, 29), min_size=1, max_size=40))
@settings(max_examples=25)
def test_index_round_trip(tmp_path_factory, rows):
    d, path = made_up(), tmp_path_factory.mktemp('i')/'index.json'
    save_index(path, d.train[rows])
    assert load_index(path).tolist() == rows
    for again in d.train[load_index(path)], subset(d, index=path).train, subset(d, index=rows).train:
        assert torch.equal(again.raw, d.train.raw[rows]) and again.index.tolist() == rows


@pytest.mark.parametrize('text', ['{"index": [1, 2', '[1, 2]', '{"index": [1.5]}', '{"index": "1"}', '{}'])
def test_damaged_index_file(tmp_path, text):
    (tmp_path/'i.json').write_text(text)
    with pytest.raises(InputError, match='i.json is damaged or no index'): load_index(tmp_path/'i.json')
    with pytest.raises(InputError, match='no index file'): load_index(tmp_path/'other.json')


# --- noise

@given(seed=st.integers(0, 1000), n=st.integers(1, 5), more=st.integers(1, 5))
@settings(max_examples=25)
def test_noise_image_depends_on_seed_and_place_alone(seed, n, more):
    a, b = gaussian_noise(n, (3, 4, 4), seed), gaussian_noise(n + more, (3, 4, 4), seed)
    assert torch.equal(a.x, b.x[:n]) and not torch.equal(b.x[0], b.x[1])
    assert not torch.equal(a.x[0], gaussian_noise(1, (3, 4, 4), seed + 1).x[0])


def test_noise_is_standard_normal_and_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    s = gaussian_noise(2000, (3, 10, 10))
    assert torch.equal(torch.get_rng_state(), state)
    assert s.space == 'gaussian' and s.bounds == (-math.inf, math.inf) and s.x.shape == (2000, 3, 10, 10) and as_split(s) is s
    assert abs(s.x.mean()) < .005 and abs(s.x.var() - 1) < .01 and abs((s.x**4).mean() - 3) < .05
    c = torch.corrcoef(s.x.flatten(1)[:50]) - torch.eye(50)
    assert c.abs().max() < .3
    with pytest.raises(InputError, match='n=0'): gaussian_noise(0, (1, 2, 2))


def test_noise_is_made_quickly():
    start = time.process_time()
    gaussian_noise(1000, (3, 32, 32))
    assert time.process_time() - start < 1


# --- load

def test_load_needs_no_network_and_no_data_root(tmp_path):
    code = ('import socket\n'
            'def refuse(*a, **k): raise AssertionError("network")\n'
            'socket.socket.connect = socket.getaddrinfo = refuse\n'
            'import locallearning as ll; d = ll.load("mnist5k"); print(len(d.train), len(d.test), d.train.x.shape[1:], len(d.classes))\n'
            'import sys; assert "torchvision" not in sys.modules')
    env = {k: v for k, v in os.environ.items() if k != 'LOCALLEARNING_DATA'}
    env |= dict(HOME=str(tmp_path/'none'), XDG_CACHE_HOME=str(tmp_path/'none'))
    r = subprocess.run([sys.executable, '-c', code], env=env, cwd=tmp_path, capture_output=True, text=True)
    assert r.stdout.strip() == '4000 1000 torch.Size([1, 28, 28]) 10', r.stderr
    assert not (tmp_path/'none').exists()


def test_mnist5k_is_always_the_same():
    d = load('mnist5k')
    assert d.key == '1eb1e365e9b617947f84c39af61485a2b634ac8bf7ebc1e46ea6daae4a210131'
    assert d.train.y.bincount().tolist() == [400]*10 and d.test.y.bincount().tolist() == [100]*10
    assert d.train.raw.dtype == torch.uint8 and d.train.x.dtype == torch.float32
    assert (d.train.x.min(), d.train.x.max()) == (0, 1) and d.space == 'pixel'


def test_the_recipe_is_the_repr():
    text = "mnist5k(per_class=20, val=100, test=50, seed=3, space='lp_unit(p=3)')"
    d = load(text)
    assert repr(d) == text and load(repr(d)).key == d.key and d.name == 'mnist5k(per_class=20, val=100, test=50, seed=3)'
    assert (len(d.train), len(d.valid), len(d.test)) == (200, 100, 50) and repr(load('mnist5k()')) == 'mnist5k'


def test_load_from_a_path_with_options(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (20, 6, 6, 3), dtype=np.uint8)
    np.savez(tmp_path/'a (1).npz', x_train=x, y_train=np.arange(20) % 2, x_test=x[:4], y_test=np.arange(4) % 2)
    d = load(f'{tmp_path}/a (1).npz')
    assert torch.equal(d.train.raw, torch.tensor(x).permute(0, 3, 1, 2)) and repr(d) == f'{tmp_path}/a (1).npz'
    e = load(f"{tmp_path}/a (1).npz(first=5, space='lp_unit(p=2)')")
    assert len(e.train) == 5 and load(repr(e)).key == e.key
    save_index(tmp_path/'i.json', e.train)
    assert torch.equal(load(f'{tmp_path}/a (1).npz(index="{tmp_path}/i.json")').train.raw, e.train.raw)
    f = x.transpose(0, 3, 1, 2).astype(np.float64)/255
    np.savez(tmp_path/'f.npz', x_train=f, y_train=np.arange(20) % 2, x_test=f[:4], y_test=np.arange(4) % 2)
    assert torch.allclose(load(tmp_path/'f.npz').train.x, d.train.x) and load(tmp_path/'f.npz').train.x.dtype == torch.float32
    np.savez(tmp_path/'g.npz', x_train=f*255, y_train=np.arange(20) % 2, x_test=f[:4], y_test=np.arange(4) % 2)
    with pytest.raises(InputError, match=r'g.npz: x_train lie in .*divide by 255'): load(tmp_path/'g.npz')


@pytest.mark.parametrize('recipe, message', [
    ('mnsit5k', "of the name 'mnsit5k'; did you mean 'mnist5k'"), ('MNIST', "did you mean 'mnist"),
    ('no/such.npz', "of the name 'no/such.npz'; valid: cifar10"),
    ('', "of the name ''"),
    ('mnist5k(perclass=3)', "there is no option 'perclass'; did you mean 'per_class'"), ('mnist5k(100, 50)', 'options but the number of images have names'), ('mnist5k(100, first=50)', 'have names'), ('mnist5k("many")', "first='many'; expected a whole number"),
    ('mnist5k(first=1+1)', 'is not a literal'), ('mnist5k(first=', 'does not parse'),
    ('mnist5k(first=5, space="hyperbolic")', "unknown space 'hyperbolic'"),
])
def test_wrong_recipes(recipe, message):
    with pytest.raises(InputError, match=message): load(recipe, download=False)


def test_missing_set_and_missing_device(tmp_path):
    with pytest.raises(InputError, match='train-images-idx3-ubyte; download=True gets it'): load('mnist', root=tmp_path, download=False)
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match='no cuda'): load('mnist5k', device='cuda')


def test_memory_bound_of_load(monkeypatch):
    with pytest.raises(InputError, match='mnist5k.npz needs 0.00395 GB in memory, the bound is 0.001 GB'): load('mnist5k', max_gb=.001)
    monkeypatch.setenv('LOCALLEARNING_MAX_GB', '.002')
    with pytest.raises(InputError, match='the bound is 0.002 GB'): load('mnist5k')
    load('mnist5k', max_gb=1)


@pytest.mark.parametrize('make, said', [
    (lambda: load(5), 'recipe=5: must be the name or path of a data set'), (lambda: load('mnist5k', max_gb='1'), "max_gb='1': must be a number"), (lambda: load('mnist5k', device=3), "unknown device '3'"),
    (lambda: subset('mnist5k', first=3), "data='mnist5k': must be a data set"), (lambda: subset(load('mnist5k'), first='3'), "first='3'"), (lambda: subset(load('mnist5k'), val=True), 'val=True'),
    (lambda: load('mnist5k').test.first('9'), r"first\(n='9'\)"), (lambda: next(load('mnist5k').test.batches('9')), "batch_size='9'"), (lambda: subset(load('mnist5k'), first=3, seed='x'), "seed='x'"),
    (lambda: gaussian_noise('3', (1, 2, 2)), "n='3'"), (lambda: gaussian_noise(3, 28), 'shape=28: must be the shape'), (lambda: gaussian_noise(3, ('a',)), "shape='a'"), (lambda: as_split(nn.ReLU()), 'got a ReLU; expected a split'),
    (lambda: as_split(('a', 'b')), "images are not numbers")])
def test_settings_of_the_wrong_type_are_named(make, said):
    with pytest.raises(InputError, match=said): make()


# --- first n is not first class

@pytest.fixture(scope='session')
def sorted_folder(tmp_path_factory):
    "Six classes of thirty images; the value of an image is its place in the listing."
    root = tmp_path_factory.mktemp('photos')/'set'
    for part, n in ('train', 30), ('test', 10):
        for c in range(6):
            (folder := root/part/f'class{c}').mkdir(parents=True)
            for i in range(n): Image.fromarray(np.full((2, 3), n*c + i, np.uint8)).save(folder/f'{i:02}.png')
    return root


def packed(folder, path):
    with tarfile.open(path, 'w:gz') as tar: tar.add(folder, 'set')
    return path


def test_the_first_images_of_a_folder_or_archive_hold_all_classes(sorted_folder, tmp_path, monkeypatch):
    monkeypatch.setenv('LOCALLEARNING_CACHE', str(tmp_path/'cache'))
    folder = load(str(sorted_folder))
    assert len(folder.train.y[:100].unique()) == 6 and len(folder.test.y[:20].unique()) == 6
    assert all(len(y.unique()) >= 4 for x, y, _ in folder.train.batches(30)), 'nor is a batch one class'
    assert torch.equal(folder.train.raw[:, 0, 0, 0].long(), folder.train.index) and torch.equal(folder.train.y, folder.train.index//30), 'index is the place in the listing'
    assert folder.train.index.sort().values.tolist() == [*range(180)]
    again, archive = load(str(sorted_folder)), load(str(packed(sorted_folder, tmp_path/'set.tar.gz')))
    assert folder.key == again.key == archive.key, 'decoded, from the cache, from an archive: one order'


def test_the_order_is_the_same_everywhere_and_for_good(sorted_folder, tmp_path, monkeypatch):
    monkeypatch.setenv('LOCALLEARNING_CACHE', str(tmp_path/'cache'))
    assert load(str(sorted_folder)).train.index[:8].tolist() == [178, 55, 51, 152, 149, 146, 39, 49]
    monkeypatch.setattr(torch, 'randperm', lambda *a, **k: pytest.fail('drawn'))
    torch.manual_seed(3)
    assert load(str(sorted_folder)).train.index[:8].tolist() == [178, 55, 51, 152, 149, 146, 39, 49]


def test_a_saved_choice_from_a_mixed_set_names_places_of_the_listing(sorted_folder, tmp_path, monkeypatch):
    monkeypatch.setenv('LOCALLEARNING_CACHE', str(tmp_path/'cache'))
    d = load(str(sorted_folder))
    few = subset(d, per_class=3, seed=4)
    path = save_index(tmp_path/'few.json', few.train)
    for again in subset(d, index=path), subset(d, index=few.train.index), load(f'{sorted_folder}(index={str(path)!r})'):
        assert torch.equal(again.train.raw, few.train.raw) and torch.equal(again.train.index, few.train.index)
    assert subset(d, index=[0, 179]).train.y.tolist() == [0, 5]
    assert torch.equal(subset(d, index=d.train.y == 2).train.index//30, torch.full((30,), 2))
    with pytest.raises(InputError, match='index 180 is out of range'): subset(d, index=[3, 180])
    with pytest.raises(InputError, match='out of range'): subset(few, index=[next(i for i in range(180) if i not in few.train.index)])


def test_only_sorted_npz_are_mixed(tmp_path):
    x, y = np.arange(90, dtype=np.uint8).repeat(4).reshape(90, 2, 2), np.arange(90)//30
    for name, labels, mixed in ('sorted', y, True), ('blocks', np.arange(90)//10 % 3, True), ('random', np.random.default_rng(0).permutation(y), False), ('in turn', np.arange(90) % 3, False):
        np.savez(tmp_path/f'{name}.npz', x_train=x, y_train=labels, x_test=x[::30], y_test=y[::30])
        d = load(f'{tmp_path}/{name}.npz')
        assert (d.train.index.tolist() != [*range(90)]) == mixed and d.test.index.tolist() == [0, 1, 2], name
        assert torch.equal(d.train.raw[:, 0, 0, 0].long(), d.train.index) and d.train.y.tolist() == labels[d.train.index].tolist()


def test_sets_by_name_and_arrays_stay_as_they_are():
    d = load('mnist5k')
    assert d.train.index.tolist() == [*range(4000)] and d.key.startswith('1eb1e365e9b6')
    x, y = np.zeros((60, 2, 2), np.uint8), np.arange(60)//20
    assert Data.of(x, y, x, y).train.index.tolist() == [*range(60)], 'whoever has arrays knows their order'
