"What somebody brings who knows PyTorch and has read one page: a model, a penalty, an attack. Nothing of the package is imported."
import torch
from torch import nn
from torch.nn import functional as F


class Net(nn.Module):
    def __init__(self, classes, channels=4):
        super().__init__()
        self.conv, self.drop, self.out = nn.Conv2d(1, channels, 5, stride=3), nn.Dropout(.2), nn.Linear(64 * channels, classes)
    def forward(self, x): return self.out(self.drop(F.relu(self.conv(x)).flatten(1)))


class Steady:
    "The logits stay what they are when the image is blurred by noise."
    generator = None
    def __init__(self, strength=.1, sigma=.1): self.strength, self.sigma = strength, sigma
    def __call__(self, model, x, y, out):
        noise = self.sigma * torch.randn(x.shape, generator=self.generator)
        return (model(x + noise) - out.logits).square().mean()


class Corner:
    "To a corner of the ball at once, with some of the signs turned."
    def __init__(self, turned=.1): self.turned = turned
    def __call__(self, model, x, y, eps, *, bounds=(0., 1.), generator=None):
        x = x.detach().requires_grad_()
        sign = torch.autograd.grad(F.cross_entropy(model(x), y), x)[0].sign()
        turn = torch.rand(x.shape, generator=generator) < self.turned
        return (x + torch.as_tensor(eps).to(x).view(-1, 1, 1, 1) * sign.where(~turn, -sign)).detach().clamp(*bounds)
