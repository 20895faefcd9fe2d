"""Interference against explicit gradients of mean losses, and its statistics."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genkernel.diffusion.interference import interference, optimizer_preconditioner
from genkernel.diffusion.pairs import grid
from genkernel.errors import InputError, ZeroGradientError
from genkernel.tangent import kernel
from tests.diffusion.tiny import tiny_denoiser, tiny_images

LEVELS = [20, 300, 600, 950]


def level_gradients(den, pairs) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradient of the mean loss of every level, [L, P], and of every sample, [N, P], by autograd."""
    batch = pairs.loss_batch(den)
    out = den.module(batch["x"], batch["t"])
    losses = (out - batch["target"].double()).square().flatten(1).mean(1)
    parameters = list(den.module.parameters())

    def flat(loss):
        grads = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        return torch.cat([g.flatten() for g in grads])

    levels = torch.stack([flat(losses[pairs.level_of == a].mean()) for a in range(pairs.levels)])
    return levels, torch.stack([flat(loss) for loss in losses])


@pytest.fixture(scope="module")
def case():
    den = tiny_denoiser()
    pairs = grid(den, tiny_images(6), LEVELS, seed=0)
    return den, pairs, *level_gradients(den, pairs)


@pytest.mark.parametrize("preconditioned", [False, True])
def test_it_equals_autograd_of_the_mean_losses(case, preconditioned):
    den, pairs, per_level, per_sample = case
    p = None
    scale = torch.ones(per_level.shape[1], dtype=torch.float64)
    if preconditioned:
        draw = torch.Generator().manual_seed(1)
        p = {
            n: torch.rand(q.shape, generator=draw, dtype=torch.float64) + 0.1 for n, q in den.module.named_parameters()
        }
        scale = torch.cat([value.flatten() for value in p.values()])
    found = interference(
        kernel(den.tangent, pairs.loss_batch(den), cotangents=den.loss_cotangent(), precondition=p, progress=False),
        pairs.level_of,
        pairs.image_of,
    )
    inner = ((per_level * scale) @ per_level.T).numpy()
    norm = np.sqrt(np.diagonal(inner))
    assert np.allclose(found.inner_products_plugin, inner, rtol=1e-10, atol=1e-14 * inner.max())
    assert np.allclose(found.matrix, inner / norm[:, None] / norm[None], rtol=1e-10, atol=1e-12)
    assert np.allclose(found.level_gradient_norm, norm, rtol=1e-10)
    # the disjoint version, and one leave-one-image-out replicate of it, pair by pair
    g = per_sample.view(4, 6, -1)
    for left_out in (None, 2):
        keep = [i for i in range(6) if i != left_out]
        products = np.zeros((4, 4))
        for i in keep:
            for j in keep:
                if i != j:
                    products += ((g[:, i] * scale) @ g[:, j].T).numpy() / (len(keep) * (len(keep) - 1))
        got = found.inner_products if left_out is None else found.inner_products_jackknife[left_out]
        assert np.allclose((products + products.T) / 2, got, rtol=1e-9, atol=1e-13 * inner.max())


def test_a_small_step_changes_the_losses_as_predicted(case):
    """ΔL_t = -η <g_t, g_b>: the residual falls like η²."""
    den, pairs, per_level, _ = case
    batch = pairs.loss_batch(den)
    found = interference(
        kernel(den.tangent, batch, cotangents=den.loss_cotangent(), progress=False), pairs.level_of, pairs.image_of
    )
    before = den.losses(pairs.x0, pairs.noise, pairs.t).view(4, 6).mean(1).numpy()
    errors = []
    for eta in (1e-3, 1e-4):
        moved = tiny_denoiser()
        with torch.no_grad():
            offset = 0
            for parameter in moved.module.parameters():
                count = parameter.numel()
                parameter -= eta * per_level[2, offset : offset + count].view_as(parameter)
                offset += count
        after = moved.losses(pairs.x0, pairs.noise, pairs.t).view(4, 6).mean(1).numpy()
        errors.append(np.abs(after - before + eta * found.inner_products_plugin[:, 2]).max())
    assert errors[1] < 0.02 * errors[0]


def synthetic(rng, images: int, common: np.ndarray, spread: float = 1.0):
    """Per-sample gradients: a level mean, plus noise with a part that each image shares over levels."""
    size, dimension = common.shape
    own = rng.normal(0, spread, (1, images, dimension)) + rng.normal(0, spread, (size, images, dimension))
    g = (common[:, None] + own).reshape(size * images, dimension)
    level_of, image_of = np.repeat(np.arange(size), images), np.tile(np.arange(images), size)
    return interference(g @ g.T, level_of, image_of)


def test_disjoint_products_are_unbiased_where_the_plugin_is_not_and_errors_are_right():
    rng = np.random.default_rng(0)
    common = np.zeros((3, 30))
    common[0, 0], common[1, :2], common[2, 0] = 2.0, (1.0, 1.5), -1.5
    truth = common @ common.T
    runs = [synthetic(rng, 12, common, spread=0.5) for _ in range(200)]
    disjoint = np.array([run.inner_products for run in runs])
    error = disjoint.std(0, ddof=1) / np.sqrt(200)
    assert (np.abs(disjoint.mean(0) - truth) < 4 * error).all()
    plugin = np.array([run.inner_products_plugin for run in runs])
    assert (plugin.mean(0) - truth)[0, 0] > 10 * error[0, 0]
    reported = np.sqrt(np.mean([run.inner_products_stderr**2 for run in runs], 0))
    ratio = reported / disjoint.std(0, ddof=1)  # at worst √2, where noise dominates
    assert ratio.min() > 0.9 and ratio.max() < 1.45
    cosine = np.array([run.matrix for run in runs])
    reported = np.sqrt(np.mean([run.stderr**2 for run in runs], 0))
    assert 0.9 < reported[0, 2] / cosine[:, 0, 2].std(ddof=1) < 1.6
    assert np.allclose(np.diagonal(reported), 0, atol=1e-12)
    assert np.mean([(0, 2) in [(a, b) for a, b, _, _ in run.conflicting] for run in runs]) > 0.95


@pytest.mark.parametrize(("signal", "fewest", "most"), [(1.0, 0.5, 1.7), (0.0, 0.5, 1.7)])
def test_chance_conflicts_are_about_as_many_as_announced(signal, fewest, most):
    """Orthogonal expected gradients, and none at all."""
    rng = np.random.default_rng(1)
    size, images = 8, 16
    level_of, image_of = np.repeat(np.arange(size), images), np.tile(np.arange(images), size)
    found, announced, undefined = 0, 0.0, 0
    for _ in range(60):
        own = rng.normal(size=(size, images, 100)) / 10
        g = (own + signal * np.eye(size, 100)[:, None]).reshape(size * images, -1)
        run = interference(g @ g.T, level_of, image_of)
        found += len(run.conflicting)
        announced += run.expected_false_conflicts
        undefined += int(np.isnan(run.matrix_disjoint).any())
    assert fewest < found / announced < most
    assert undefined == 0 if signal else undefined > 50


def test_zero_gradients_and_single_images_are_refused():
    index = np.arange(3), np.zeros(3, dtype=int)
    with pytest.raises(InputError):
        interference(np.eye(3), *index)
    four = np.repeat([0, 1], 2), np.tile([0, 1], 2)
    with pytest.raises(ZeroGradientError):
        interference(np.zeros((4, 4)), *four)
    assert np.isnan(interference(np.eye(4) + 1, *four).stderr).all()


# ------------------------------------------------------------------ the optimizer's metric


OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, lr=1e-3),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=0.0),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=1e-3, amsgrad=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-3),
    "centred": lambda p: torch.optim.RMSprop(p, lr=1e-3, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-3),
}


def trained(make):
    den = tiny_denoiser()
    optimizer = make(den.module.parameters())
    pairs = grid(den, tiny_images(4), LEVELS, seed=0)
    batch = pairs.loss_batch(den)
    for _ in range(5):
        optimizer.zero_grad()
        (den.module(batch["x"], batch["t"]) - batch["target"].double()).square().mean().backward()
        optimizer.step()
    return den, optimizer, batch


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_diagonal_is_what_torch_divides_by(name):
    """With first moments off, torch's next step from an unchanged gradient is -lr P g (up to the moments' update)."""
    den, optimizer, _ = trained(OPTIMIZERS[name])
    p, label = optimizer_preconditioner(den.module, den.tangent.parameter_names, optimizer)
    assert p.keys() == set(den.tangent.parameter_names) and "diagonal" in label
    state = optimizer.state_dict()
    for index, (key, parameter) in enumerate(den.module.named_parameters()):
        entry = state["state"][index]
        if "exp_avg_sq" in entry:
            second = entry.get("max_exp_avg_sq", entry["exp_avg_sq"]) / (1 - 0.999**5)
            expected = 1 / (second.sqrt() + 1e-8)
        elif "sum" in entry:
            expected = 1 / (entry["sum"].sqrt() + 1e-10)
        else:
            second = entry["square_avg"] - (entry["grad_avg"] ** 2 if name == "centred" else 0)
            expected = 1 / (second.sqrt() + 1e-8)
        assert torch.allclose(p[key], expected, rtol=1e-12) and p[key].shape == parameter.shape


def test_adam_without_momentum_steps_along_the_preconditioned_gradient():
    """ΔL of a real Adam(β₁ = 0) step equals the prediction with the P that the step used."""
    den, optimizer, _batch = trained(lambda p: torch.optim.Adam(p, lr=1e-6, betas=(0.0, 0.99)))
    gradients = {name: q.grad.clone() for name, q in den.module.named_parameters()}
    before = {name: q.detach().clone() for name, q in den.module.named_parameters()}
    # torch updates v with the same gradient before dividing: read P after the step
    optimizer.step()
    p, _ = optimizer_preconditioner(den.module, den.tangent.parameter_names, optimizer)
    for name, q in den.module.named_parameters():
        assert torch.allclose(q - before[name], -1e-6 * p[name] * gradients[name], rtol=1e-6, atol=1e-15)


def test_learning_rates_of_groups_and_stored_names():
    den = tiny_denoiser()
    named = list(den.module.named_parameters())
    optimizer = torch.optim.Adam([{"params": named[3:], "lr": 1e-3}, {"params": named[:3], "lr": 1e-4}])
    for _, q in named:
        q.grad = torch.ones_like(q)
    optimizer.step()
    p, _ = optimizer_preconditioner(den.module, den.tangent.parameter_names, optimizer.state_dict())
    for k, (name, _) in enumerate(named):
        assert torch.allclose(p[name], torch.full_like(p[name], 1.0 if k >= 3 else 0.1), rtol=1e-6)


def test_an_optimizer_is_matched_by_identity_and_a_grouped_state_is_not_guessed():
    den = tiny_denoiser()
    named = list(den.module.named_parameters())
    optimizer = torch.optim.Adam([{"params": [q for _, q in named[::-1][k::2]]} for k in (0, 1)])
    for k, (_, q) in enumerate(named):
        q.grad = torch.full_like(q, float(k + 1))
    optimizer.step()
    p, label = optimizer_preconditioner(den.module, den.tangent.parameter_names, optimizer)
    for k, (name, _) in enumerate(named):
        assert torch.allclose(p[name], torch.full_like(p[name], 1 / (k + 1)), rtol=1e-6)
    assert "suggest" not in label
    with pytest.raises(InputError, match="2 groups without parameter names"):
        optimizer_preconditioner(den.module, den.tangent.parameter_names, optimizer.state_dict())
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 4))
    several = torch.optim.Adam([{"params": list(net[1].parameters())}, {"params": list(net[0].parameters())}])
    net(torch.ones(1, 2)).sum().backward()
    several.step()
    p, label = optimizer_preconditioner(net, ["0.weight", "1.bias"], several.state_dict())
    assert p["0.weight"].shape == (3, 2) and "Adam-type diagonal, as its entries suggest" in label


def test_optimizers_that_are_not_linear_are_refused_by_name():
    den, optimizer, _ = trained(lambda p: torch.optim.Rprop(p, lr=1e-3))
    with pytest.raises(InputError, match=r"^Rprop does not"):
        optimizer_preconditioner(den.module, den.tangent.parameter_names, optimizer)


def test_states_that_do_not_fit_are_refused():
    den, optimizer, _ = trained(OPTIMIZERS["adam"])
    names = den.tangent.parameter_names
    sgd = torch.optim.SGD(den.module.parameters(), lr=0.1, momentum=0.9)
    other = torch.optim.Adam([torch.nn.Parameter(torch.zeros(3))])
    fresh = torch.optim.Adam(den.module.parameters())
    for state in (sgd, other, fresh, 3, {}, {"outer.weight": torch.zeros(2)}, {"outer.weight": 1}):
        with pytest.raises(InputError):
            optimizer_preconditioner(den.module, names, state)
    del optimizer.state[den.module.outer.weight]
    with pytest.raises(InputError, match=r"outer\.weight"):
        optimizer_preconditioner(den.module, names, optimizer)
