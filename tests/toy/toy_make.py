"""What the toy family computes: a training that can be watched, slowed down and killed."""
import os
import time

from torch import nn

from locallearning.state import load_checkpoint, save_checkpoint, seeded
from locallearning.training import accuracy, fit


def train(data, width, epochs, seed, folder):
    "Train a small network; TOY_LOG gets a line an epoch, TOY_SLEEP makes each epoch last."
    with seeded(seed, 'init'): model = nn.Sequential(nn.Flatten(), nn.Linear(784, width), nn.ReLU(), nn.Dropout(.2), nn.Linear(width, 10))
    def watch(model, epoch, history):
        with open(os.environ.get('TOY_LOG', os.devnull), 'a') as f: f.write(f'{seed} {epoch}\n')
        time.sleep(float(os.environ.get('TOY_SLEEP', '0')))
    history = fit(model, data, epochs=epochs, batch_size=20, seed=seed, folder=folder, callbacks=[watch])
    return dict(checkpoint=save_checkpoint(folder/'last.safetensors', model), history=history.frame, accuracy=accuracy(model, data.test))
