"""The first ten minutes of the README, shrunk, with one of our models and with one that knows nothing of us."""
import matplotlib.pyplot as plt
import pytest
import torch
from torch import nn

import locallearning as ll


class Foreign(nn.Module):
    def __init__(self): super().__init__(); self.net = nn.Sequential(nn.Conv2d(1, 8, 5, stride=3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(.1), nn.Linear(512, 10))
    def forward(self, x): return self.net(x)


@pytest.mark.parametrize('make', [lambda: ll.SHLP(784, width=50, classes=10), Foreign], ids=['SHLP', 'foreign'])
def test_the_first_ten_minutes(make):
    data = ll.load('mnist5k(per_class=40, test=60)')
    assert data.train.x.shape == (400, 1, 28, 28) and data.test.y.shape == (60,)
    with ll.seeded(0, 'init'): model = make()
    log = ll.fit(model, data, penalties=[ll.Jacobian(1e-3, n=3)], epochs=5, batch_size=20)
    assert {'loss', 'accuracy', 'Jacobian'} <= set(log.frame.quantity) and log.last('accuracy') > .8
    before = [p.clone() for p in model.state_dict().values()]

    curve = ll.accuracy_curve(model, data.test, ll.PGD(norm='inf', steps=5), eps=[0, .05, .1])
    assert curve.accuracy[0] == pytest.approx(ll.accuracy(model, data.test)) and curve.accuracy[0] > .6 and curve.accuracy[-1] < curve.accuracy[0]

    crit = ll.critical_norm(model, data.test, ll.PGD(norm='inf', steps=5))
    norms = torch.as_tensor(crit.norm)
    assert norms.shape == (60,) and norms[~torch.as_tensor(crit.correct)].isnan().all() and 0 < float(crit.median) < 28

    spec = ll.spectrum(model, data.test.x, layer='features')
    assert spec.samples == 60 and (spec.values[:-1] >= spec.values[1:]).all() and spec.values[0] > 0

    figures = ll.plot_curve(curve), ll.plot_spectrum(spec)
    assert all(f.axes and f.axes[0].lines for f in figures)
    for f in figures: plt.close(f)
    assert all(a.equal(b) for a, b in zip(before, model.state_dict().values())) and not model.training, 'what measures leaves the model as it was'
