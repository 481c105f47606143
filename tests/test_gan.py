"""A generator against a critic: three rules, one loop that resumes, the generator as a distribution, its pictures."""
import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import locallearning as ll
from locallearning import files
from locallearning.core import InputError
from locallearning.data import Data, load
from locallearning.figures.samples import plot_samples, tiled, write_gif
from locallearning.lab.runs import Run
from locallearning.lipschitz import gan
from locallearning.lipschitz.gan import GANCritic, GANGenerator, Generated, LWGAN, WGAN, WGANGP, critic_step, resized, train_gan
from locallearning.lipschitz.layers import Scale
from locallearning.lipschitz.orthogonal import Bjorck
from locallearning.lipschitz.transport import Between, Samples, dual_estimate
from locallearning.models import MLP, parametrize
from locallearning.probes.slopes import measured_slope, product_bound
from locallearning.recipes import build_recipe
from locallearning.state import load_checkpoint, load_model, load_tree, save_checkpoint, seeded, stream
from locallearning.store import request_key
from locallearning.training import build_model
from test_files import altered, cifar, lsun, tar_of, write_mnist

PLAIN = "GANCritic(width=4, head=16, norm='none')"
KINDS = {'WGAN()': dict(critic='GANCritic(width=4, head=16)'), 'WGANGP()': dict(critic=PLAIN),
         'LWGAN()': dict(critic="GANCritic(width=4, head=16, norm='none', activation='groupsort')", parametrizations=['Bjorck(steps=8)'])}
SMALL = dict(generator='GANGenerator(noise=6, width=4, head=16)', pixels=8, batch_size=40, critic_steps=2, epochs=1, samples=4, lr_generator=1e-2, lr_critic=1e-2)


@pytest.fixture(autouse=True)
def drawn_alike():
    with seeded(0, 'test'): yield


@pytest.fixture(scope='module')
def gratings(): return load('gratings')


def play(kind, data, **more): return train_gan(kind, data, **SMALL | KINDS.get(kind, dict(critic=PLAIN)) | more)


def weights(path): return load_checkpoint(path)['model']


def same(a, b): return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# --- networks

def test_networks_have_the_published_layers():
    generator, critic = GANGenerator(1, 28), GANCritic(1, 28)
    size = lambda net: sum(p.numel() for p in net.parameters())
    assert size(generator) == (62*1024 + 1024) + 2*1024 + (1024*6272 + 6272) + 2*6272 + (128*64*16 + 64) + 2*64 + (64*16 + 1)
    assert size(critic) == (64*16 + 64) + (64*128*16 + 128) + 2*128 + (6272*1024 + 1024) + 2*1024 + (1024 + 1)
    for m in [*generator.modules(), *critic.modules()]:
        if isinstance(m, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            assert abs(m.weight.std().item() - .02) < .003 and not m.bias.any()
        elif isinstance(m, nn.modules.batchnorm._BatchNorm): assert (m.weight == 1).all()


@pytest.mark.parametrize('channels, side', [(1, 4), (3, 8), (2, 28), (3, 64)])
def test_images_have_the_size_and_range_that_was_asked_for(channels, side):
    generator, critic = GANGenerator(channels, side, 5, 4, 8), GANCritic(channels, side, 4, 8)
    with torch.no_grad(): generator.stages[-1].weight.mul_(1e4)
    images = generator(torch.rand(3, 5))
    assert images.shape == (3, channels, side, side) and critic(images).shape == (3, 1)
    assert images.min() < .01 and images.max() > .99 and 0 <= images.min() and images.max() <= 1


@pytest.mark.parametrize('activation', ['leaky', 'relu', 'groupsort', 'maxmin', 'maxout', 'fullsort', 'abs', 'tanh'])
def test_a_critic_takes_any_activation(activation):
    critic = GANCritic(1, 8, 4, 16, 'none', activation)
    assert critic(torch.rand(2, 1, 8, 8)).shape == (2, 1)
    assert repr(build_recipe(repr(critic))) == repr(critic)


def test_bad_sizes_are_refused():
    for make in (GANGenerator, GANCritic):
        with pytest.raises(InputError, match=r'image_size=30\): must be divisible by 4.*pixels=28'): make(image_size=30)
        with pytest.raises(InputError, match=r'\(width=0\)'): make(width=0)
    with pytest.raises(InputError, match='valid: batch, none'): GANCritic(norm='layer')
    with pytest.raises(InputError, match="did you mean 'groupsort'"): GANCritic(activation='groupsorts')
    with pytest.raises(InputError, match=r'noise has shape \(2, 5\); .* takes N×62'): GANGenerator()(torch.rand(2, 5))
    with pytest.raises(InputError, match='the model was made for N×1×28×28'): GANCritic()(torch.rand(2, 3, 28, 28))


# --- rules

def test_clipping_spares_batch_norms():
    critic = GANCritic(1, 8, 4, 16)
    with torch.no_grad():
        for p in critic.parameters(): p.copy_(torch.linspace(-2, 2, p.numel()).view_as(p))
        WGAN(.1).constrain(critic)
    for m in critic.modules():
        for p in m.parameters(recurse=False): assert p.abs().max().item() == pytest.approx(2 if isinstance(m, nn.modules.batchnorm._BatchNorm) else .1)


def test_the_penalty_of_a_linear_critic_and_its_gradient_are_known():
    critic, (real, fake) = nn.Sequential(nn.Flatten(), nn.Linear(12, 1)).double(), torch.rand(2, 7, 3, 2, 2).double()
    w = critic[1].weight
    penalty, length = WGANGP().penalty(critic, real, fake), w.norm()
    assert penalty.item() == pytest.approx((length.item() - 1)**2, rel=1e-12)
    found, = torch.autograd.grad(penalty, w)
    torch.testing.assert_close(found, (2*(length - 1)*w/length).detach())


def test_the_penalty_looks_at_one_point_on_each_line():
    seen, (real, fake) = [], (torch.rand(2, 50, 1, 4, 4) + torch.tensor([0., 3.]).view(2, 1, 1, 1, 1))
    WGANGP().penalty(lambda x: seen.append(x.detach()) or x.flatten(1).sum(1), real, fake)
    share = ((seen[0] - fake)/(real - fake)).flatten(1)
    assert share.std(dim=1).max() < 1e-4 and 0 <= share.min() and share.max() <= 1 and share.mean(1).std() > .2


def test_a_constant_critic_has_a_finite_penalty():
    critic = MLP(4, (3,), 1)
    with torch.no_grad():
        for p in critic.parameters(): p.zero_()
    penalty = WGANGP().penalty(critic, *torch.rand(2, 5, 4))
    penalty.backward()
    assert penalty == 1 and all(p.grad is None or p.grad.isfinite().all() for p in critic.parameters())


def test_penalties_draw_from_the_stream_that_they_are_given():
    rule, critic, images = WGANGP(), nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)), torch.rand(2, 5, 4)
    def drawn(seed):
        rule.generator = stream(seed, 'rule')
        return rule.penalty(critic, *images).item()
    assert drawn(0) == drawn(0) != drawn(1)


@pytest.mark.parametrize('rule, critic, match', [
    (WGAN(), lambda: parametrize(GANCritic(1, 8, 4, 16, 'none'), Bjorck()), r'a parametrization makes the weights of stages\.0, .*use LWGAN\(\)'),
    (WGANGP(), lambda: GANCritic(1, 8, 4, 16), r"WGANGP\(10\.0\): stages\.3, features\.2 of the critic is a batch norm, which mixes .*norm='none'"),
    (LWGAN(), lambda: GANCritic(1, 8, 4, 16, 'none'), r"the weights of stages\.0, stages\.2, features\.1, readout are free; .*parametrizations=\['Bjorck\(\)'\]"),
    (LWGAN(), lambda: parametrize(GANCritic(1, 8, 4, 16, 'none'), Bjorck(), layers=['readout', 'stages.0']), r'the weights of stages\.2, features\.1 are free'),
    (LWGAN(), lambda: parametrize(GANCritic(1, 8, 4, 16), Bjorck()), r'LWGAN\(\): stages\.3, features\.2 of the critic is a batch norm'),
    (LWGAN(), lambda: nn.Sequential(parametrize(GANCritic(1, 8, 4, 16, 'none'), Bjorck()), Scale(3.)), 'the slope of the critic may be .*; it has to be at most 1')])
def test_rules_refuse_critics_for_which_they_mean_nothing(rule, critic, match):
    with pytest.raises(InputError, match=match): rule.check_critic(critic(), torch.rand(2, 1, 8, 8))


@pytest.mark.parametrize('make', [lambda: WGAN(0), lambda: WGAN('much'), lambda: WGANGP(-1), lambda: WGANGP(float('nan'))])
def test_bad_strengths_are_refused(make):
    with pytest.raises(InputError, match='WGAN'): make()


def test_rules_are_recipes():
    for rule in (WGAN(.1), WGANGP(3.), LWGAN()): assert repr(build_recipe(repr(rule))) == repr(rule)


def test_a_step_of_the_critic_leaves_the_generator_alone():
    generator, critic = GANGenerator(1, 8, 6, 4, 16), MLP(64, (16,), 1)
    real, fake = torch.rand(8, 1, 8, 8), generator(torch.rand(8, 6))
    difference = lambda: (critic(fake).mean() - critic(real).mean()).item()
    before = difference()
    terms = critic_step(critic, torch.optim.SGD(critic.parameters(), lr=.01), LWGAN(), real, fake.detach())
    assert terms.keys() == {'critic_loss'} and terms['critic_loss'].item() == pytest.approx(before, abs=1e-6)
    assert difference() < before - 1e-3
    assert all(p.grad is None for p in generator.parameters())


# --- the game

@pytest.mark.parametrize('kind', KINDS)
def test_an_epoch_changes_both_networks(kind, gratings, tmp_path):
    start, end = (play(kind, gratings, epochs=n, folder=tmp_path/str(n)) for n in (0, 1))
    for net in ('generator', 'critic'):
        before, after = weights(start[net]), weights(end[net])
        assert all(not torch.equal(before[k], after[k]) for k in before if 'num_batches' not in k and 'weight' in k), net
    rows = end['history']
    assert [*rows.quantity] == ['critic_loss', *['penalty']*(kind == 'WGANGP()'), 'generator_loss'] and np.isfinite(rows.value).all()
    assert start['samples'].shape == (0, 4, 3, 8, 8) and end['samples'].shape == (1, 4, 3, 8, 8) and end['samples'].dtype == np.uint8
    assert end['samples'].std() > 0


@pytest.mark.parametrize('kind, lr_generator, lr_critic', [('WGAN()', 2., .05), ('WGANGP()', 20., .5), ('LWGAN()', .5, .05)])
def test_the_loop_is_the_plain_one(kind, lr_generator, lr_critic, gratings, tmp_path):
    "Written out: one step of the critic for each full batch, one of the generator for every second, with the same noise. Plain gradient descent, as Adam makes much of rounding."
    ask = SMALL | KINDS[kind] | dict(batch_size=64)
    found = play(kind, gratings, batch_size=64, epochs=2, opt='SGD()', lr_generator=lr_generator, lr_critic=lr_critic, folder=tmp_path)
    made = {k: build_model(ask[k], ask.get('parametrizations', ())*(k == 'critic'), (), stream(0, k).initial_seed(), in_channels=3, image_size=8)
            for k in ('generator', 'critic')}
    G, D = made['generator'].train(), made['critic'].train()
    start = {k: {name: t.clone() for name, t in net.state_dict().items()} for k, net in made.items()}
    opts = [torch.optim.SGD(net.parameters(), lr=lr) for net, lr in ((G, lr_generator), (D, lr_critic))]
    rule, images, step = build_recipe(kind), resized(gratings.train.x, 8), 0
    for epoch in range(2):
        order, noise = torch.randperm(400, generator=stream(0, 'shuffle', epoch)), stream(0, 'noise', epoch)
        if kind == 'WGANGP()': rule.generator = stream(0, 'piece', 'WGANGP', epoch)
        for real in images[order].split(64)[:6]:
            z, step = torch.rand(64, 6, generator=noise), step + 1
            fake = G(z)
            loss = D(fake.detach()).mean() - D(real).mean()
            if kind == 'WGANGP()':
                a = torch.rand(64, 1, 1, 1, generator=rule.generator)
                x = (a*real + (1 - a)*fake.detach()).requires_grad_()
                slope = torch.autograd.grad(D(x).sum(), x, create_graph=True)[0].flatten(1).norm(dim=1)
                loss = loss + 10*((slope - 1)**2).mean()
            opts[1].zero_grad(); loss.backward(); opts[1].step()
            if kind == 'WGAN()':
                for name, p in D.named_parameters():
                    if name.split('.')[:2] not in (['stages', '3'], ['features', '2']): p.data.clamp_(-.01, .01)
            if step % 2 == 0: opts[0].zero_grad(); (-D(fake).mean()).backward(); opts[0].step()
    for k, net in made.items():
        after = weights(found[k])
        for name, t in net.state_dict().items(): torch.testing.assert_close(t, after[name], rtol=1e-3, atol=1e-5)
        assert max((p - start[k][name]).abs().max().item() for name, p in net.named_parameters()) > 1e-2, 'nothing much happened'


def test_the_lipschitz_critic_is_never_steeper_than_one(gratings, tmp_path):
    critic = load_model(play('LWGAN()', gratings, epochs=3, lr_critic=.05, folder=tmp_path)['critic'])
    x = resized(gratings.test.x, 8)
    assert .1 < measured_slope(critic, x[:60]).value <= product_bound(critic, x).value <= 1 + 1e-4
    assert measured_slope(critic, torch.randn(40, 3, 8, 8, generator=stream(0, 'far'))*10).value <= 1 + 1e-4


def test_clipped_weights_are_clipped_at_the_end(gratings, tmp_path):
    critic = load_model(play('WGAN(clip=0.02)', gratings, critic=PLAIN, folder=tmp_path)['critic'])
    assert max(p.abs().max().item() for p in critic.parameters()) == pytest.approx(.02)


def test_turns_are_counted_over_epochs_and_partial_batches_left_out(gratings, tmp_path, monkeypatch):
    sizes = []
    def spy(critic, opt, rule, real, fake):
        sizes.append((len(real), len(fake)))
        return critic_step(critic, opt, rule, real, fake)
    monkeypatch.setattr(gan, 'critic_step', spy)
    found = play('WGANGP()', gratings, epochs=3, batch_size=120, critic_steps=5, folder=tmp_path)
    assert sizes == [(120, 120)]*9
    rows = found['history'].query('quantity == "generator_loss"')
    assert [*rows.epoch] == [1]  # the fifth batch of nine


def test_equal_seeds_give_equal_generators_and_nothing_else_is_drawn(gratings, tmp_path):
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    a, b, c = (play('WGANGP()', gratings, seed=s, folder=tmp_path/str(i)) for i, s in enumerate((0, 0, 1)))
    assert torch.equal(torch.random.get_rng_state(), before)
    for net in ('generator', 'critic'): assert same(weights(a[net]), weights(b[net])) and not same(weights(a[net]), weights(c[net]))
    np.testing.assert_array_equal(a['samples'], b['samples'])


def test_without_a_folder_nothing_is_written(gratings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = play('WGAN()', gratings)
    assert found['generator'] is found['critic'] is None and not [*tmp_path.iterdir()]


# --- killed, and gone on with

class Killed(Exception): pass


@pytest.mark.parametrize('kind', KINDS)
def test_what_was_killed_ends_as_if_it_had_not_been(kind, gratings, tmp_path, monkeypatch):
    whole, count = play(kind, gratings, epochs=3, critic_steps=3, folder=tmp_path/'whole'), []
    def kill(*args):
        count.append(1)
        if len(count) == 17: raise Killed  # in the middle of the second of three epochs of ten batches
        return critic_step(*args)
    monkeypatch.setattr(gan, 'critic_step', kill)
    with pytest.raises(Killed): play(kind, gratings, epochs=3, critic_steps=3, folder=tmp_path/'again')
    again = play(kind, gratings, epochs=3, critic_steps=3, folder=tmp_path/'again')
    assert len(count) == 17 + 20
    for net in ('generator', 'critic'): assert whole[net].read_bytes() == again[net].read_bytes()
    np.testing.assert_array_equal(whole['samples'], again['samples'])
    assert whole['history'].equals(again['history'])


def test_a_state_is_that_of_one_request(gratings, tmp_path):
    play('WGANGP()', gratings, folder=tmp_path)
    for more, match in [(dict(seed=1), 'seed: 0 there, 1 here'), (dict(lr_critic=.5), 'lr_critic'), (dict(pixels=12), 'pixels'), (dict(opt='SGD()'), 'pieces')]:
        with pytest.raises(InputError, match=f'state of another training .*{match}'): play('WGANGP()', gratings, epochs=2, folder=tmp_path, **more)
    with pytest.raises(InputError, match='state of another training .*rule'): play('WGANGP(1.0)', gratings, epochs=2, folder=tmp_path)


def test_what_is_not_finite_stops_it_and_the_last_good_state_is_kept(gratings, tmp_path, monkeypatch):
    penalty, count = WGANGP.penalty, []
    def broken(self, *args):
        count.append(1)
        return penalty(self, *args) * (float('nan') if len(count) == 14 else 1)
    whole = play('WGANGP()', gratings, epochs=2, folder=tmp_path/'whole')
    monkeypatch.setattr(WGANGP, 'penalty', broken)
    with pytest.raises(FloatingPointError, match='penalty was not finite in step 3 of epoch 1'): play('WGANGP()', gratings, epochs=2, folder=tmp_path/'again')
    kept = load_tree(tmp_path/'again'/'state.safetensors')
    assert kept['done'] == 1 and all(t.isfinite().all() for net in ('generator', 'critic') for t in kept[net].values())
    again = play('WGANGP()', gratings, epochs=2, folder=tmp_path/'again')
    assert again['generator'].read_bytes() == whole['generator'].read_bytes()


def test_a_learning_rate_that_is_far_too_large_is_said(gratings, tmp_path):
    with pytest.raises(FloatingPointError, match='lower the learning rate'): play('WGANGP()', gratings, lr_critic=1e30, epochs=3)


def test_artefacts_are_made_once(gratings, tmp_path):
    run, asked = Run(tmp_path), SMALL | KINDS['LWGAN()'] | dict(kind='LWGAN()', data=gratings)
    first, second = (run.artefact('gan', train_gan, **asked) for _ in range(2))
    assert first.folder == second.folder and Generated(second['generator']).shape == (3, 8, 8)
    np.testing.assert_array_equal(first['samples'], second['samples'])
    assert run.artefact('gan', train_gan, **asked | dict(seed=1)).folder != first.folder


# --- what is refused

def changed(data, **more): return Data.of(np.zeros((50, *more['shape']), np.uint8), np.arange(50) % 2, np.zeros((4, *more['shape']), np.uint8), np.arange(4) % 2)


@pytest.mark.parametrize('more, match', [
    (dict(kind='WGAM()'), "did you mean .*'WGAN'"), (dict(kind='Adam()'), 'kind is a Adam; must be a rule'), (dict(kind=WGAN()), 'kind is a WGAN: must be a recipe'),
    (dict(critic='GANCritik()'), "did you mean 'GANCritic'"), (dict(generator=3), 'generator=3: must be a recipe'), (dict(parametrizations='Bjorck()'), r"must be a list of recipes, e\.g\. \[\"Bjorck"),
    (dict(generator='MLP(4)'), 'MLP does not say of how many numbers it makes an image'), (dict(generator='GANGenerator(image_size=12)'), r'makes images of shape \(3, 12, 12\), those of the data have \(3, 8, 8\)'),
    (dict(critic='MLP(192, classes=10)'), r'MLP returns \(2, 10\) for 2 images; a critic has one number for each'), (dict(pixels=10), 'image_size=10.*divisible by 4'),
    (dict(batch_size=500), 'batch_size=500, but there are 400 training images'), (dict(batch_size=1), 'batch_size=1: must be a whole number ≥ 2'), (dict(critic_steps=0), 'critic_steps=0'),
    (dict(epochs=-1), 'epochs=-1'), (dict(samples=0), 'samples=0'), (dict(lr_critic=-1.), 'lr_critic=-1'), (dict(lr_generator='fast'), "lr_generator='fast'"), (dict(pixels=2.5), 'pixels=2.5'),
    (dict(device='gpu'), 'unknown device'), (dict(data='mnist'), "data='mnist': must be a data set")])
def test_bad_requests_are_refused_with_what_would_be_right(more, match, gratings, tmp_path):
    with pytest.raises(InputError, match=match): train_gan(**dict(kind='WGANGP()', data=gratings, folder=tmp_path, critic=PLAIN) | SMALL | dict(critic=PLAIN) | more)
    assert not [*tmp_path.iterdir()]


def test_only_squares_of_pixels_are_made(gratings):
    with pytest.raises(InputError, match=r'images of shape \(1, 8, 12\) in space .pixel.: a generator makes squares'): play('WGAN()', changed(gratings, shape=(8, 12)))
    with pytest.raises(InputError, match='in space .lp_unit'): play('WGAN()', gratings.in_space('lp_unit', p=2))


def test_images_are_resized_without_aliasing():
    x = torch.rand(3, 3, 96, 96, generator=stream(0, 'images'))
    assert resized(x, None) is x and resized(x, 96) is x
    small = resized(x, 24)
    assert small.shape == (3, 3, 24, 24) and 0 <= small.min() and small.max() <= 1
    torch.testing.assert_close(small.mean((2, 3)), x.mean((2, 3)), atol=5e-3, rtol=0)
    assert small.std() < x.std()/3  # noise is averaged, not picked
    with pytest.raises(InputError, match='side=0'): resized(x, 0)


# --- a generator as a distribution

@pytest.fixture(scope='module')
def trained(gratings, tmp_path_factory): return play('LWGAN()', gratings, epochs=2, folder=tmp_path_factory.mktemp('gan'))


def test_a_generator_is_drawn_from_by_its_seed(trained):
    law = Generated(trained['generator'])
    x = law.sample(5, stream(3, 'noise'))
    assert law.shape == (3, 8, 8) and x.shape == (5, 3, 8, 8) and not x.requires_grad and not law.model.training
    assert torch.equal(x, Generated(trained['generator']).sample(5, stream(3, 'noise'))) and not torch.equal(x, law.sample(5, stream(4, 'noise')))
    z = torch.rand(5, 6, generator=stream(3, 'noise'))
    for i in range(5): torch.testing.assert_close(law.model(z[i:i + 1])[0], x[i])  # alone as with others
    assert law.sample(2500, stream(3, 'noise')).shape == (2500, 3, 8, 8)  # more than go through at once


def test_its_statistics_are_not_moved_by_drawing(trained):
    law = Generated(trained['generator'])
    law.model.train()
    before = {k: v.clone() for k, v in law.model.state_dict().items()}
    a, b = (law.sample(4, stream(0, 'noise')) for _ in range(2))
    assert torch.equal(a, b) and same(before, law.model.state_dict())


def test_a_distance_to_a_generator_can_be_estimated(trained, gratings):
    problem = Between(Samples(resized(gratings.test.x, 8)), Generated(trained['generator']), samples=64)
    x, y = problem.draw(10, stream(0, 'draw'))
    assert x.shape == (10, 3, 8, 8) and y.sum() == 5
    critic = load_model(trained['critic'])
    found = dual_estimate(critic, problem, n=200)
    assert np.isfinite(found.value) and np.isnan(found.truth)
    log = ll.fit(parametrize(MLP(192, (16,), 1), Bjorck()), problem, loss=ll.WassersteinDual(), epochs=3, batch_size=32)
    assert log.frame.query('quantity == "loss"').value.iloc[-1] < 0
    with pytest.raises(InputError, match='a distance needs the same'): Between(Samples(gratings.test.x), Generated(trained['generator']))


def test_a_request_counts_its_weights_and_not_its_path(trained, tmp_path):
    copied = tmp_path/'other.safetensors'
    copied.write_bytes(trained['generator'].read_bytes())
    here, there = (request_key(dual_estimate, dict(problem=Generated(path)))[0] for path in (trained['generator'], copied))
    assert here == there
    changed = load_model(copied)
    with torch.no_grad(): changed.stages[-1].bias.add_(.1)
    save_checkpoint(copied, changed)
    assert request_key(dual_estimate, dict(problem=Generated(copied)))[0] != here


def test_what_is_no_generator_is_refused(trained, tmp_path):
    law = Generated('nowhere.safetensors')
    assert repr(law) == "Generated(checkpoint='nowhere.safetensors')" and repr(build_recipe(repr(law))) == repr(law)
    with pytest.raises(InputError, match='no checkpoint at nowhere.safetensors'): law.shape
    with pytest.raises(InputError, match='holds GANCritic.*which makes no images of noise; give the checkpoint `generator`'): Generated(trained['critic']).sample(1, stream(0, 'x'))
    with pytest.raises(InputError, match='no checkpoint at nowhere.safetensors'): Between(Samples(torch.zeros(2, 3, 8, 8)), law)


# --- data sets in their own formats

def write_svhn(root, monkeypatch):
    from scipy.io import savemat
    from torchvision.datasets.utils import calculate_md5
    known = {}
    for part, (name, _) in files._SVHN.items():
        savemat(root/name, dict(X=np.random.default_rng(0).integers(0, 256, (32, 32, 3, 20), dtype=np.uint8), y=(np.arange(20) % 10 + 1)[:, None].astype(np.uint8)))
        known[part] = name, calculate_md5(root/name)
    monkeypatch.setattr(files, '_SVHN', known)


def write_stl10(root, monkeypatch):
    x, y = np.random.default_rng(0).integers(0, 256, (12, 3, 96, 96), dtype=np.uint8).tobytes(), bytes([1, 2]*6)
    tar_of(root/'stl10_binary.tar.gz', 'stl10_binary', {'train_X.bin': x, 'train_y.bin': y, 'test_X.bin': x, 'test_y.bin': y, 'class_names.txt': b'airplane\nbird\n'})
    altered(monkeypatch, 'stl10', root/'stl10_binary.tar.gz')


WRITERS = {'mnist': lambda root, patch: write_mnist(root), 'fashion-mnist': lambda root, patch: write_mnist(root, 'FashionMNIST'), 'svhn': write_svhn, 'stl10': write_stl10,
           'lsun-bed': lambda root, patch: lsun(root, dict(train=[(64, 70)]*12, val=[(64, 64)])), 'cifar10': None}


@pytest.mark.parametrize('name', WRITERS)
def test_every_data_set_is_played_for_under_every_rule(name, tmp_path, monkeypatch, request):
    if name == 'cifar10': request.getfixturevalue('cifar')
    else: WRITERS[name](tmp_path, monkeypatch)
    data = load(name, root=tmp_path, download=False)
    for kind in KINDS:
        found = play(kind, data, batch_size=4, folder=tmp_path/kind)
        assert np.isfinite(found['history'].value).all() and found['samples'].shape == (1, 4, data.shape[0], 8, 8)
        assert {*found['history'].quantity} >= {'critic_loss', 'generator_loss'}


# --- pictures

def test_a_grid_has_every_image_in_its_place():
    images = np.random.default_rng(0).integers(0, 255, (5, 3, 4, 6), dtype=np.uint8)
    grid = tiled(images, columns=2)
    assert grid.shape == (3*5 - 1, 2*7 - 1, 3)
    for i, image in enumerate(images):
        top, left = 5*(i//2), 7*(i % 2)
        np.testing.assert_array_equal(grid[top:top + 4, left:left + 6], image.transpose(1, 2, 0))
    assert (grid[4] == 255).all() and (grid[:, 6] == 255).all() and (grid[10:, 7:] == 255).all()  # lines, and the place that is left over
    np.testing.assert_array_equal(tiled(torch.from_numpy(images)/255, columns=2), grid)
    for wrong in (np.zeros((2, 5, 3, 3)), np.zeros((3, 3)), np.zeros((0, 1, 2, 2))):
        with pytest.raises(InputError, match='expected N×C×H×W with C = 1 or 3'): tiled(wrong)
    with pytest.raises(InputError, match='columns=0'): tiled(images, 0)


@pytest.mark.parametrize('channels', [1, 3])
def test_a_film_has_a_frame_for_each_epoch(channels, tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, (4, 6, channels, 5, 5), dtype=np.uint8)
    path = write_gif(tmp_path/'film.gif', frames, seconds=.1, columns=3, zoom=3)
    with Image.open(path) as film:
        assert film.n_frames == 4 and film.size == (3*17, 3*11) and film.info['duration'] == 100 and film.info['loop'] == 0
        for i in range(4):
            film.seek(i)
            shown = np.asarray(film.convert('RGB'), dtype=int)[1::3, 1::3]
            assert np.abs(shown - tiled(frames[i], 3).astype(int)).mean() < (1 if channels == 1 else 12)  # colours are brought to 256
    assert write_gif(tmp_path/'again.gif', frames, seconds=.1, columns=3, zoom=3).read_bytes() == path.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ['again.gif', 'film.gif']


def test_films_that_cannot_be_are_refused_and_the_old_one_stays(tmp_path):
    path = write_gif(tmp_path/'film.gif', np.zeros((1, 2, 1, 4, 4)))
    before = path.read_bytes()
    with pytest.raises(InputError, match='no frame'): write_gif(path, [])
    with pytest.raises(InputError, match='expected N×C×H×W'): write_gif(path, np.zeros((2, 4, 4)))
    with pytest.raises(InputError, match='written as a .gif'): write_gif(tmp_path/'film.png', np.zeros((1, 2, 1, 4, 4)))
    assert path.read_bytes() == before


def test_samples_of_a_training_can_be_drawn(trained, tmp_path):
    fig = plot_samples(dict(early=trained['samples'][0], late=trained['samples'][1]), columns=2)
    assert [ax.get_title() for ax in fig.axes] == ['early', 'late']
    np.testing.assert_array_equal(fig.axes[1].images[0].get_array(), tiled(trained['samples'][1], 2))
    with Image.open(write_gif(tmp_path/'film.gif', trained['samples'], columns=2)) as film: assert film.n_frames == 2
    png, = ll.save_figure(fig, tmp_path/'grid', formats=('png',))
    with Image.open(io.BytesIO(png.read_bytes())) as image: assert image.size[0] > 300
