"""Files of every kind into arrays, and what is said when they are not what they should be."""
import io, os, tarfile, threading
import numpy as np
import pytest
from PIL import Image
from locallearning import files
from locallearning.core import InputError
from locallearning.data import load
from locallearning.files import (asset, fetch, fits, read_cifar10, read_idx, read_images, read_npz, read_pixels, spread_index)

DATA = os.environ.get('LOCALLEARNING_DATA')
full_mnist = pytest.mark.skipif(not (DATA and os.path.isfile(f'{DATA}/MNIST/raw/train-images-idx3-ubyte')),
                                reason='needs the complete MNIST under LOCALLEARNING_DATA')
arrays = lambda: dict(x_train=np.arange(72, dtype=np.uint8).reshape(6, 3, 4), y_train=np.arange(6) % 2,
                      x_test=np.full((2, 3, 4), 9, np.uint8), y_test=np.arange(2))


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv('LOCALLEARNING_CACHE', str(tmp_path/'cache'))
    monkeypatch.delenv('LOCALLEARNING_MAX_GB', raising=False)


# --- npz

def test_npz_round_trip(tmp_path):
    np.savez_compressed(tmp_path/'a.npz', **arrays(), classes=np.array(['cat', 'dog']), other=np.zeros(3))
    got = read_npz(tmp_path/'a.npz')
    assert set(got) == {*arrays(), 'classes'}
    for k, v in arrays().items(): np.testing.assert_array_equal(got[k], v)


@pytest.mark.parametrize('keep', [0, 30, 400, -1])
def test_truncated_npz_names_the_file(tmp_path, keep):
    path = tmp_path/'a.npz'
    np.savez(path, **arrays())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match='a.npz is truncated'): read_npz(path)


def test_flipped_byte_in_npz_is_found(tmp_path):
    path = tmp_path/'a.npz'
    np.savez(path, **arrays())
    data = bytearray(path.read_bytes()); data[200] ^= 255
    path.write_bytes(data)
    with pytest.raises(InputError, match='a.npz is truncated, pickled or no npz'): read_npz(path)


def test_npz_with_pickles_is_not_opened(tmp_path):
    class Bomb:
        def __reduce__(self): return os.mkdir, (str(tmp_path/'exploded'),)
    np.savez(tmp_path/'a.npz', **arrays() | dict(y_test=np.array([Bomb(), 1], dtype=object)))
    with pytest.raises(InputError, match='pickled'): read_npz(tmp_path/'a.npz')
    assert not (tmp_path/'exploded').exists()


def test_npz_that_lacks_a_part_or_is_not_there(tmp_path):
    np.savez(tmp_path/'a.npz', **{k: v for k, v in arrays().items() if k != 'y_test'})
    with pytest.raises(InputError, match='lacks y_test'): read_npz(tmp_path/'a.npz')
    with pytest.raises(InputError, match='no data file .*b.npz'): read_npz(tmp_path/'b.npz')


# --- memory bound

def test_memory_bound_names_size_and_bound_before_reading(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path/'a.npz', **arrays() | dict(x_train=np.zeros((2000, 100, 100), np.uint8)))
    assert (tmp_path/'a.npz').stat().st_size < 1e6
    monkeypatch.setattr(np, 'load', lambda *a, **k: pytest.fail('was read although it is too large'))
    monkeypatch.setenv('LOCALLEARNING_MAX_GB', '0.01')
    with pytest.raises(InputError, match=r'a.npz needs 0.02 GB in memory, the bound is 0.01 GB .*LOCALLEARNING_MAX_GB'):
        read_npz(tmp_path/'a.npz')


def test_memory_bound_is_eighty_percent_of_the_free_memory(monkeypatch):
    monkeypatch.setattr(files, '_free_bytes', lambda device: 10e9)
    fits(7.9e9, 'a')
    with pytest.raises(InputError, match='a needs 8.1 GB in memory, the bound is 8 GB .80 % of the free memory of cpu'): fits(8.1e9, 'a')
    fits(8.1e9, 'a', max_gb=9)


def test_free_memory_is_a_plausible_number(): assert 1e7 < files._free_bytes() < 1e15


def test_set_over_the_bound_is_not_downloaded(tmp_path, monkeypatch):
    monkeypatch.setattr(files, '_download', lambda *a: pytest.fail('downloaded'))
    with pytest.raises(InputError, match='cifar10 needs'): fetch('cifar10', tmp_path, True, lambda n, what: fits(n, what, max_gb=.001))


# --- mnist5k

def test_mnist5k_is_what_it_was():
    d = np.load(asset('mnist5k.npz'), allow_pickle=False)
    assert asset('mnist5k.npz').stat().st_size <= 1.3e6
    assert (np.bincount(d['y_train']) == 400).all() and (np.bincount(d['y_test']) == 100).all()
    assert d['x_train'].shape == (4000, 28, 28) and d['x_test'].shape == (1000, 28, 28) and d['x_train'].dtype == np.uint8
    for part, n in ('train', 60_000), ('test', 10_000):
        assert (np.diff(d[f'index_{part}']) > 0).all() and d[f'index_{part}'][-1] < n
        assert np.median(d[f'index_{part}']) == pytest.approx(n/2, rel=.02)    # spread over both halves, the easy and the hard one
    assert len(np.unique(d['x_train'].reshape(4000, -1), axis=0)) == 4000
    assert 'CC BY-SA 3.0' in asset('mnist5k.md').read_text()


def test_chosen_images_are_spread_evenly_over_each_class():
    y = np.random.default_rng(0).integers(0, 3, 1000)
    rows = spread_index(y, 50)
    assert (np.diff(rows) > 0).all() and (np.bincount(y[rows]) == 50).all()
    for c in range(3):
        rank = np.flatnonzero(np.isin(np.flatnonzero(y == c), rows))
        n = (y == c).sum()
        np.testing.assert_array_equal(rank, [j*n//50 for j in range(50)])


@full_mnist
def test_mnist5k_equals_the_complete_set_at_its_indices():
    full, d = read_idx('mnist', DATA), np.load(asset('mnist5k.npz'), allow_pickle=False)
    for part, m in ('train', 400), ('test', 100):
        rows = d[f'index_{part}']
        np.testing.assert_array_equal(full[f'x_{part}'][rows], d[f'x_{part}'])
        np.testing.assert_array_equal(full[f'y_{part}'][rows], d[f'y_{part}'])
        np.testing.assert_array_equal(spread_index(full[f'y_{part}'], m), rows)


# --- idx

def write_mnist(root, kind='MNIST', n=20):
    x = np.random.default_rng(0).integers(0, 256, (n, 28, 28), dtype=np.uint8)
    y = (np.arange(n) % 10).astype(np.uint8)
    (raw := root/kind/'raw').mkdir(parents=True)
    for part in 'train', 't10k':
        for name, a in ('images-idx3', x), ('labels-idx1', y):
            head = bytes([0, 0, 8, a.ndim]) + np.array(a.shape, '>i4').tobytes()
            (raw/f'{part}-{name}-ubyte').write_bytes(head + a.tobytes())
    return x, y


@pytest.mark.parametrize('name, kind', [('mnist', 'MNIST'), ('fashionmnist', 'FashionMNIST')])
def test_idx_round_trip(tmp_path, name, kind):
    x, y = write_mnist(tmp_path, kind)
    got = read_pixels(name, tmp_path, download=False)
    np.testing.assert_array_equal(got['x_train'], x); np.testing.assert_array_equal(got['y_test'], y)


def test_idx_agrees_with_torchvision(tmp_path):
    from torchvision.datasets import MNIST
    write_mnist(tmp_path)
    theirs, ours = MNIST(tmp_path, train=False), read_idx('mnist', tmp_path)
    np.testing.assert_array_equal(theirs.data.numpy(), ours['x_test'])
    np.testing.assert_array_equal(theirs.targets.numpy(), ours['y_test'])


@pytest.mark.parametrize('content', [lambda b: b[:-1], lambda b: b[:3], lambda b: b'', lambda b: b + b'0',
                                     lambda b: b'<html>not found</html>'])
def test_truncated_idx_names_the_file(tmp_path, content):
    write_mnist(tmp_path)
    path = tmp_path/'MNIST/raw/t10k-images-idx3-ubyte'
    path.write_bytes(content(path.read_bytes()))
    with pytest.raises(InputError, match='t10k-images-idx3-ubyte is truncated or no idx file'): read_pixels('mnist', tmp_path)


def test_missing_idx_says_where_it_should_be(tmp_path):
    with pytest.raises(InputError, match=r'no .*MNIST/raw/train-images-idx3-ubyte; .*LOCALLEARNING_DATA'): fetch('mnist', tmp_path, False)
    assert not list(tmp_path.iterdir())


def test_root_is_argument_then_environment_then_cache(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(files, 'fetch', lambda name, root, *a: seen.append(str(root)))
    monkeypatch.setenv('LOCALLEARNING_DATA', '/env')
    read_pixels('mnist', '/arg'); read_pixels('mnist')
    monkeypatch.delenv('LOCALLEARNING_DATA')
    read_pixels('mnist')
    assert seen == ['/arg', '/env', str(tmp_path/'cache')]


# --- downloads

def test_many_download_once(tmp_path, monkeypatch):
    calls, results = [], []
    def download(name, root):
        calls.append(name)
        write_mnist(root)
    monkeypatch.setattr(files, '_download', download)
    ts = [threading.Thread(target=lambda: results.append(fetch('mnist', tmp_path))) for _ in range(4)]
    for t in ts: t.start()
    for t in ts: t.join()
    assert calls == ['mnist'] and len(results) == 4


def test_complete_set_needs_neither_lock_nor_network(tmp_path, monkeypatch):
    write_mnist(tmp_path)
    monkeypatch.setattr(files, '_download', lambda *a: pytest.fail('downloaded'))
    fetch('mnist', tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ['MNIST']


def test_failed_download_says_what_is_missing_and_why(tmp_path, monkeypatch):
    def offline(name, root): raise OSError('no network')
    monkeypatch.setattr(files, '_download', offline)
    with pytest.raises(InputError, match='train-images-idx3-ubyte, and the download failed: no network; put it there, or name its folder'): fetch('mnist', tmp_path/'new')


def test_damaged_idx_is_reported_after_the_attempt_to_download(tmp_path):
    write_mnist(tmp_path)
    (tmp_path/'MNIST/raw/train-labels-idx1-ubyte').write_bytes(b'')
    with pytest.raises(InputError, match='train-labels-idx1-ubyte is truncated'): fetch('mnist', tmp_path)


# --- CIFAR-10

@pytest.fixture
def cifar(tmp_path, monkeypatch):
    monkeypatch.setattr(files, '_CIFAR_RECORDS', 20)
    rng, content = np.random.default_rng(0), {}
    for f in files._CIFAR_FILES:
        records = rng.integers(0, 256, (20, 3073), dtype=np.uint8)
        records[:, 0] = np.arange(20) % 10
        content[f] = records
    with tarfile.open(tmp_path/'cifar-10-binary.tar.gz', 'w:gz') as tar:
        for f, r in content.items():
            info = tarfile.TarInfo(f'cifar-10-batches-bin/{f}'); info.size = r.nbytes
            tar.addfile(info, io.BytesIO(r.tobytes()))
    from torchvision.datasets.utils import calculate_md5
    monkeypatch.setattr(files, '_CIFAR_MD5', calculate_md5(tmp_path/'cifar-10-binary.tar.gz'))
    return tmp_path, content


def check_cifar(got, content):
    assert got['x_train'].shape == (100, 32, 32, 3) and got['x_test'].shape == (20, 32, 32, 3)
    record = content['data_batch_3.bin'][7]
    np.testing.assert_array_equal(got['x_train'][47].transpose(2, 0, 1).ravel(), record[1:])    # planes red, green, blue, row by row
    assert got['y_train'][47] == record[0]
    np.testing.assert_array_equal(got['x_test'][3].transpose(2, 0, 1).ravel(), content['test_batch.bin'][3, 1:])


def test_cifar_archive_is_read_in_memory(cifar):
    root, content = cifar
    check_cifar(read_pixels('cifar10', root, download=False), content)
    assert [p.name for p in root.iterdir()] == ['cifar-10-binary.tar.gz']


def test_cifar_unpacked(cifar):
    root, content = cifar
    with tarfile.open(root/'cifar-10-binary.tar.gz') as tar: tar.extractall(root, filter='data')
    (root/'cifar-10-binary.tar.gz').unlink()
    check_cifar(read_cifar10(root), content)
    path = root/'cifar-10-batches-bin/data_batch_2.bin'
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(InputError, match=r'data_batch_2.bin has 61455 bytes instead of 61460'): read_cifar10(root)


def test_altered_cifar_archive(cifar):
    root, _ = cifar
    path = root/'cifar-10-binary.tar.gz'
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match='cifar-10-binary.tar.gz is truncated or altered'): read_pixels('cifar10', root, download=False)


def test_pickled_cifar_is_named_but_never_opened(tmp_path):
    (tmp_path/'cifar-10-batches-py').mkdir()
    with pytest.raises(InputError, match='cifar-10-batches-py is the pickled version, which is not read'): fetch('cifar10', tmp_path, False)


# --- folders and archives

def write_images(root, size=(5, 4), mode='RGB', classes=('dog', 'cat')):
    rng = np.random.default_rng(0)
    for part, n in ('train', 3), ('test', 2):
        for c in classes:
            (folder := root/part/c).mkdir(parents=True)
            for i in range(n):
                shape = size[::-1] + (() if mode == 'L' else (3,))
                Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8), mode).save(folder/f'{i}.png')
    return root


def pack(folder, path, prefix=''):
    with tarfile.open(path, 'w:gz' if path.suffix == '.gz' else 'w') as tar: tar.add(folder, prefix or '.')
    return path


@pytest.mark.parametrize('mode, shape', [('RGB', (6, 4, 5, 3)), ('L', (6, 4, 5))])
def test_folder_and_archives_are_read_alike(tmp_path, mode, shape):
    folder = write_images(tmp_path/'f', mode=mode)
    (folder/'train/cat/.hidden.png').write_bytes(b'no image'); (folder/'train/cat/notes.txt').write_text('no image')
    got = read_images(folder)
    assert got['x_train'].shape == shape and list(got['classes']) == ['cat', 'dog'] and got['y_train'].tolist() == [0]*3 + [1]*3
    np.testing.assert_array_equal(got['x_test'][2], np.array(Image.open(folder/'test/dog/0.png')))
    before = {p.name for p in tmp_path.iterdir()}
    for path in pack(folder, tmp_path/'a.tar.gz'), pack(folder, tmp_path/'b.tar', prefix='deep/photos'):
        for _ in range(2):                                                                       # decoded, then from the cache
            other = read_images(path)
            for k in got: np.testing.assert_array_equal(got[k], other[k])
    assert {p.name for p in tmp_path.iterdir()} == before | {'a.tar.gz', 'b.tar'}                  # nothing was unpacked


def test_decoded_images_are_kept_until_a_file_changes(tmp_path, monkeypatch):
    folder, count = write_images(tmp_path/'f'), []
    decode = files._decode
    monkeypatch.setattr(files, '_decode', lambda *a: count.append(1) or decode(*a))
    read_images(folder); read_images(folder)
    assert len(count) == 10
    Image.new('RGB', (5, 4), 'red').save(folder/'test/dog/0.png')
    assert read_images(folder)['x_test'][2, 0, 0].tolist() == [255, 0, 0] and len(count) == 20


def test_damaged_cache_is_made_again_and_unwritable_cache_is_done_without(tmp_path, monkeypatch):
    folder = write_images(tmp_path/'f')
    read_images(folder)
    cached, = (tmp_path/'cache').iterdir()
    cached.write_bytes(b'half a fi')
    assert len(read_images(folder)['x_train']) == 6
    monkeypatch.setenv('LOCALLEARNING_CACHE', str(folder/'train/cat/0.png'))                     # a file: no folder can be made there
    assert len(read_images(folder)['x_train']) == 6


def test_grey_among_coloured_becomes_coloured(tmp_path):
    folder = write_images(tmp_path/'f')
    Image.new('L', (5, 4), 77).save(folder/'train/cat/0.png')
    assert read_images(folder)['x_train'][0, 0, 0].tolist() == [77, 77, 77]


def test_damaged_and_odd_images_are_named(tmp_path):
    folder = write_images(tmp_path/'f')
    path = folder/'train/dog/2.png'; whole = path.read_bytes()
    path.write_bytes(whole[:60])
    with pytest.raises(InputError, match='train/dog/2.png is damaged or no image'): read_images(folder)
    Image.new('RGB', (9, 9)).save(path)
    with pytest.raises(InputError, match=r'train/dog/2.png is \(9, 9\), the images before are \(4, 5\)'): read_images(folder)


@pytest.mark.parametrize('archive', [False, True])
def test_class_without_images_is_still_a_class(tmp_path, archive):
    folder = write_images(tmp_path/'f')
    (folder/'train/emu').mkdir()
    path = pack(folder, tmp_path/'a.tar') if archive else folder
    assert list(read_images(path)['classes']) == ['cat', 'dog', 'emu']


def test_folder_without_a_test_part(tmp_path):
    folder = write_images(tmp_path/'f')
    (folder/'test').rename(folder/'exam')
    with pytest.raises(InputError, match='has no images test/<class>'): read_images(folder)


@pytest.mark.parametrize('suffix', ['.tar', '.tar.gz'])
def test_truncated_archive_names_the_file(tmp_path, suffix):
    path = pack(write_images(tmp_path/'f', size=(40, 40)), tmp_path/f'a{suffix}')
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(InputError, match=f'a{suffix} is truncated or no archive'): read_images(path)


def test_memory_bound_of_a_folder_stops_after_one_image(tmp_path, monkeypatch):
    folder, count = write_images(tmp_path/'f', size=(50, 40)), []
    decode = files._decode
    monkeypatch.setattr(files, '_decode', lambda *a: count.append(1) or decode(*a))
    with pytest.raises(InputError, match=r'needs 6e-05 GB in memory, the bound is 5e-05 GB'):
        read_images(folder, lambda n, what: fits(n, what, 5e-5))
    assert len(count) == 1


# --- CIFAR-100, STL-10, SVHN, LSUN: tiny fixtures in the format of each

def tar_of(path, folder, content):
    with tarfile.open(path, 'w:gz') as tar:
        for name, data in content.items():
            info = tarfile.TarInfo(f'{folder}/{name}'); info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def altered(monkeypatch, name, path):
    from torchvision.datasets.utils import calculate_md5
    file, url, _ = files._ARCHIVES[name]
    monkeypatch.setitem(files._ARCHIVES, name, (file, url, calculate_md5(path)))


@pytest.fixture
def cifar100(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    records = {f: rng.integers(0, 256, (n, 3074), dtype=np.uint8) for f, n in (('train.bin', 12), ('test.bin', 6))}
    for r in records.values(): r[:, 1] = np.arange(len(r)) % 3
    names = b'apple\naquarium_fish\nbaby\n'
    tar_of(tmp_path/'cifar-100-binary.tar.gz', 'cifar-100-binary', {f: r.tobytes() for f, r in records.items()} | {'fine_label_names.txt': names, 'coarse_label_names.txt': b'x\n'})
    altered(monkeypatch, 'cifar100', tmp_path/'cifar-100-binary.tar.gz')
    return tmp_path, records


def test_cifar100_has_the_fine_labels(cifar100):
    root, records = cifar100
    data = load('cifar100', root=root, download=False)
    assert data.classes == ('apple', 'aquarium_fish', 'baby') and data.train.raw.shape == (12, 3, 32, 32) and data.train.y.tolist() == [0, 1, 2]*4
    np.testing.assert_array_equal(data.test.raw[4].numpy().ravel(), records['test.bin'][4, 2:])
    with tarfile.open(root/'cifar-100-binary.tar.gz') as tar: tar.extractall(root, filter='data')
    (root/'cifar-100-binary.tar.gz').unlink()
    assert load('cifar100', root=root, download=False).key == data.key


def test_a_damaged_cifar100_is_named(cifar100):
    root, _ = cifar100
    (root/'cifar-100-binary.tar.gz').write_bytes(b'nothing')
    with pytest.raises(InputError, match='cifar100: .* is truncated or altered, its MD5'): load('cifar100', root=root, download=False)
    (root/'cifar-100-binary.tar.gz').unlink()
    (root/'cifar-100-python').mkdir()
    with pytest.raises(InputError, match='cifar-100-python is the pickled version, which is not read'): load('cifar100', root=root, download=False)
    (root/'cifar-100-binary').mkdir()
    for f in ('train.bin', 'test.bin'): (root/'cifar-100-binary'/f).write_bytes(bytes(3000))
    with pytest.raises(InputError, match='fine_label_names.txt is missing'): load('cifar100', root=root, download=False)
    (root/'cifar-100-binary'/'fine_label_names.txt').write_bytes(b'a')
    with pytest.raises(InputError, match='train.bin has 3000 bytes, not a multiple of 3074'): load('cifar100', root=root, download=False)


def test_stl10_is_stored_column_by_column(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 96, 96, 3), dtype=np.uint8) # row, column, colour
    stored = images.transpose(0, 3, 2, 1).tobytes()
    labels = bytes([1, 2, 1, 2, 2])
    tar_of(tmp_path/'stl10_binary.tar.gz', 'stl10_binary', {'train_X.bin': stored, 'train_y.bin': labels, 'test_X.bin': stored[:3*96*96], 'test_y.bin': labels[:1], 'class_names.txt': b'airplane\nbird\n', 'unlabeled_X.bin': b'much'})
    altered(monkeypatch, 'stl10', tmp_path/'stl10_binary.tar.gz')
    data = load('stl10', root=tmp_path, download=False)
    assert data.shape == (3, 96, 96) and data.classes == ('airplane', 'bird') and data.train.y.tolist() == [0, 1, 0, 1, 1]
    np.testing.assert_array_equal(data.train.raw.numpy().transpose(0, 2, 3, 1), images)


def test_svhn_is_read_from_matlab_files_and_its_ten_is_zero(tmp_path, monkeypatch):
    from scipy.io import savemat
    from torchvision.datasets.utils import calculate_md5
    rng, known = np.random.default_rng(0), {}
    images = {part: rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8) for part, n in (('train', 20), ('test', 10))}
    for part, x in images.items():
        path = tmp_path/files._SVHN[part][0]
        savemat(path, dict(X=x.transpose(1, 2, 3, 0), y=(np.arange(len(x)) % 10 + 1)[:, None].astype(np.uint8)))
        known[part] = path.name, calculate_md5(path)
    monkeypatch.setattr(files, '_SVHN', known)
    data = load('svhn', root=tmp_path, download=False)
    assert data.train.y.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]*2 and data.classes == tuple('0123456789')
    np.testing.assert_array_equal(data.train.raw.numpy().transpose(0, 2, 3, 1), images['train'])
    (tmp_path/'test_32x32.mat').write_bytes(b'')
    with pytest.raises(InputError, match='test_32x32.mat is truncated or altered'): load('svhn', root=tmp_path, download=False)


def lsun(root, sizes):
    lmdb = pytest.importorskip('lmdb', reason='lmdb, of the extra lsun, is not installed')
    for part, shapes in sizes.items():
        with lmdb.open(str(root/f'bedroom_{part}_lmdb'), map_size=10**7) as base, base.begin(write=True) as write:
            for i, (width, height) in enumerate(shapes):
                out = io.BytesIO()
                Image.fromarray(np.full((height, width, 3), 20*i, np.uint8)).save(out, 'WEBP' if i % 2 else 'JPEG')
                write.put(f'key{i:03}'.encode(), out.getvalue())


def test_bedrooms_are_squares_from_a_database(tmp_path, monkeypatch):
    lsun(tmp_path, dict(train=[(90, 70), (64, 64), (70, 120)], val=[(256, 300)]))
    data = load('lsun-bed', root=tmp_path)
    assert data.shape == (3, 64, 64) and data.classes == ('bedroom',) and (len(data.train), len(data.test)) == (3, 1)
    np.testing.assert_allclose(data.train.raw.float().mean((1, 2, 3)).numpy(), [0, 20, 40], atol=3)
    monkeypatch.setattr(files, 'LSUN_MOST', 2)
    assert len(load('lsun-bed(first=1)', root=tmp_path).train) == 1 and len(load('lsun-bed', root=tmp_path).train) == 2


def test_bedrooms_that_are_not_there_or_broken_are_named(tmp_path):
    lmdb = pytest.importorskip('lmdb', reason='lmdb, of the extra lsun, is not installed')
    with pytest.raises(InputError, match='lsun-bed: no .*bedroom_train_lmdb/data.mdb; get bedroom_train_lmdb.zip'): load('lsun-bed', root=tmp_path)
    lsun(tmp_path, dict(train=[(64, 64)], val=[(64, 64)]))
    with lmdb.open(str(tmp_path/'bedroom_val_lmdb')) as base, base.begin(write=True) as write: write.put(b'key000', b'no image')
    with pytest.raises(InputError, match='bedroom_val_lmdb: key000 is damaged or no image'): load('lsun-bed', root=tmp_path)


def test_a_bedroom_without_its_reader_says_which_extra(tmp_path, monkeypatch):
    import sys
    monkeypatch.setitem(sys.modules, 'lmdb', None)
    with pytest.raises(InputError, match=r"pip install 'locallearning\[lsun\]'"): load('lsun-bed', root=tmp_path)


def test_fashion_mnist_has_two_spellings(tmp_path):
    for name in ('fashionmnist', 'fashion-mnist'):
        with pytest.raises(InputError, match='fashionmnist: no .*FashionMNIST'): load(name, root=tmp_path, download=False)


def test_sets_over_the_memory_bound_are_refused_before_anything_is_read(tmp_path):
    for name in ('cifar100', 'stl10', 'svhn'):
        with pytest.raises(InputError, match=f'{name} needs .* GB'): load(name, root=tmp_path, download=False, max_gb=.01)
