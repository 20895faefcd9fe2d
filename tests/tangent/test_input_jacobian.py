"""Products and matrices of Jacobians in the inputs, against torch's own, sample by sample."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genkernel.errors import CaptureError, GenkernelError, InputError, NonFiniteError
from genkernel.tangent import TangentModel, batches
from genkernel.tangent import input_jacobian as home
from genkernel.tangent.input_jacobian import InputJacobian
from tests.tangent.compare import BY_NAME, HEAVY, relative_error
from tests.tangent.snapshot import Snapshot
from tests.zoo import CASES, Case
from tests.zoo.cases import Net

QUICK = [
    "mlp", "mlp_scalar", "mlp_relu_inplace", "conv_bn_relu", "resnet", "unet", "dit_block", "dit_block_zero", "dcgan",
    "transformer_pre_norm", "mha_batch_first", "relative_position_bias", "group_norm", "channels_last", "dict_batch",
    "gru_batch_first", "spectral_norm", "spectral_norm_hook", "autograd_function", "under_no_grad", "checkpointed",
    "inner_gradient", "prefix_tokens",
]  # fmt: skip
WRITES = "in_place_on_input"  # torch's own Jacobian refuses it


def leaf_of(batch: Any) -> str | None:
    """The entry that is differentiated; raises where there is none."""
    if isinstance(batch, dict):
        return next(k for k, v in batch.items() if isinstance(v, Tensor) and v.is_floating_point())
    if isinstance(batch, Tensor) and batch.is_floating_point():
        return None
    raise StopIteration


def has_leaf(case: Case) -> bool:
    try:
        leaf_of(case.batch(1))
    except StopIteration:
        return False
    return case.name not in (*HEAVY, WRITES)


OTHER = [pytest.param(c.name, marks=pytest.mark.slow) for c in CASES if c.name not in QUICK and has_leaf(c)]


def true_jacobian(model: TangentModel, batch: Any, leaf: str | None) -> Tensor:
    """``[n, O, d]`` by ``torch.autograd.functional.jacobian`` of each sample alone."""
    rows = []
    for i in range(batches.size(batch)):
        one = batches.take(batch, [i])

        def at(x: Tensor, one: Any = one) -> Tensor:
            return model.call(model.module, x if leaf is None else {**one, leaf: x})

        x = one if leaf is None else one[leaf]
        rows.append(torch.autograd.functional.jacobian(at, x).reshape(-1, x.numel()))
    return torch.stack(rows)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dense(jacobian: InputJacobian) -> Tensor:
    parts = list(jacobian.dense())
    assert [i for rows, _ in parts for i in range(rows.start, rows.stop)] == list(range(jacobian.n))
    return torch.cat([J for _, J in parts])


# ------------------------------------------------------------------------------- correctness


@pytest.mark.parametrize("name", [*QUICK, *OTHER])
def test_products_and_matrices_are_torchs_own(name: str) -> None:
    case = BY_NAME[name]
    model, batch = case.model(), case.batch(3, 11)
    leaf = leaf_of(batch)
    before = Snapshot(model.module, batch)
    J = InputJacobian(model, batch, leaf)
    out = J.outputs()
    u, w = noise(3, *J.input_shape), noise(*out.shape, seed=1)
    found, forward, backward = dense(J), J.jvp(u), J.vjp(w)
    before.check()
    assert J.adjoint_error < 1e-9
    true = true_jacobian(case.model(), batch, leaf)
    assert relative_error(found, true) < 1e-10
    assert relative_error(forward.reshape(3, -1, 1), true @ u.reshape(3, -1, 1)) < 1e-10
    assert relative_error(backward.reshape(3, -1, 1), true.mT @ w.reshape(3, -1, 1)) < 1e-10
    assert relative_error(out, model.forward(batch)) < 1e-14


def test_both_gaps_of_forward_mode_are_gone_round() -> None:
    """Fused attention has no forward-mode formula, and group norm's fails on channels-last inputs."""

    def forward(net: Net, x: Tensor) -> Tensor:
        h = net.norm(net.conv(x).to(memory_format=torch.channels_last)).flatten(2).transpose(1, 2)
        q, k, v = net.qkv(h).chunk(3, -1)
        return F.scaled_dot_product_attention(q, k, v)

    net = Net(forward, conv=nn.Conv2d(2, 4, 3), norm=nn.GroupNorm(2, 4), qkv=nn.Linear(4, 12)).double()
    x = noise(2, 2, 4, 4)
    J = InputJacobian(net, x)
    assert J.method == "forward"
    true = true_jacobian(TangentModel(net), x, None)
    assert relative_error(dense(J), true) < 1e-10
    for method, close in (("double-backward", 1e-10), ("finite-differences", 1e-7)):
        other = InputJacobian(net, x, method=method)
        assert other.method.startswith(method)
        assert relative_error(other.jvp(noise(2, 2, 4, 4, seed=1)), J.jvp(noise(2, 2, 4, 4, seed=1))) < close


@pytest.mark.parametrize("inputs", [(), (3,), (2, 2)], ids=str)
@pytest.mark.parametrize("outputs", [(), (1,), (5,), (2, 3)], ids=str)
def test_shapes_of_any_kind(inputs: tuple[int, ...], outputs: tuple[int, ...]) -> None:
    """Also inputs [n] and outputs [n]; by rows where outputs are fewer, else by columns."""
    d, o = torch.Size(inputs).numel(), torch.Size(outputs).numel()
    net = Net(lambda net, x: torch.tanh(net.layer(x.reshape(-1, d))).reshape(-1, *outputs), layer=nn.Linear(d, o))
    net.double()
    x = noise(4, *inputs)
    J = InputJacobian(net, x)
    assert (J.input_shape, J.output_shape) == (inputs, outputs)
    found = dense(J)
    slope = 1 - torch.tanh(net.layer(x.reshape(4, d))).detach() ** 2
    true = slope[:, :, None] * net.layer.weight.detach()
    assert relative_error(found, true) < 1e-12
    assert relative_error(J.jvp(x).reshape(4, o, 1), true @ x.reshape(4, d, 1)) < 1e-12
    assert (
        relative_error(J.vjp(noise(4, *outputs)).reshape(4, d, 1), true.mT @ noise(4, *outputs).reshape(4, o, 1))
        < 1e-12
    )


def conditional() -> tuple[Net, dict[str, Any]]:
    """A dict batch with whole numbers, flags, a string and None beside the leaf."""

    def forward(net: Net, z: Tensor, y: Tensor, keep: Tensor, mode: str, extra: Any) -> Tensor:
        assert mode == "const" and extra is None and y.dtype == torch.int64 and keep.dtype == torch.bool
        return torch.tanh(net.layer(torch.cat([z, net.table(y)], 1))) * keep[:, None]

    net = Net(forward, layer=nn.Linear(5, 4), table=nn.Embedding(3, 2)).double()
    batch = {
        "z": noise(7, 3), "y": torch.arange(7) % 3, "keep": torch.arange(7) % 4 != 0, "mode": "const", "extra": None,
    }  # fmt: skip
    return net, batch


def test_leaves_of_other_kinds_are_passed_on() -> None:
    net, batch = conditional()
    J = InputJacobian(net, batch, "z")
    true = true_jacobian(TangentModel(net), batch, "z")
    assert relative_error(dense(J), true) < 1e-12
    assert not dense(J)[0].any() and dense(J)[1].any()
    for leaf in ("y", "keep", "mode", "missing", None):
        with pytest.raises(InputError, match="no real floating point tensor"):
            InputJacobian(net, batch, leaf)


def test_a_model_in_float32_may_run_in_float64() -> None:
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 4))
    x = noise(3, 3).float()
    found = dense(InputJacobian(net, x, dtype="float64"))
    assert found.dtype == torch.float64 and net[0].weight.dtype == torch.float32
    true = true_jacobian(TangentModel(net.double()), x.double(), None)
    assert relative_error(found, true) < 1e-12
    single = dense(InputJacobian(net.float(), x))
    assert single.dtype == torch.float32
    assert relative_error(single.double(), true) < 1e-5


def test_an_input_without_influence_has_a_zero_jacobian() -> None:
    net = Net(lambda net, x: net.bias.expand(len(x), 2) * 1, bias=nn.Parameter(torch.ones(2))).double()
    J = InputJacobian(net, noise(3, 4))
    assert not dense(J).any() and not J.jvp(noise(3, 4)).any() and not J.vjp(noise(3, 2)).any()


# ----------------------------------------------------------------------------------- chunking


@pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_size": 3}, {"memory": 1}, {"memory": 2_000}], ids=str)
@pytest.mark.parametrize("wide", [False, True])
def test_samples_may_run_in_any_portions(options: dict[str, Any], wide: bool) -> None:
    net = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 40 if wide else 3)).double()
    x = noise(11, 4)
    whole, parts = InputJacobian(net, x, batch_size=11), InputJacobian(net, x, **options)
    assert len(list(parts.dense())) > 1
    assert relative_error(dense(parts), dense(whole)) < 1e-14
    u, w = noise(11, 4, seed=1), noise(11, 40 if wide else 3, seed=2)
    assert relative_error(parts.jvp(u), whole.jvp(u)) < 1e-14
    assert relative_error(parts.vjp(w), whole.vjp(w)) < 1e-14
    assert relative_error(parts.outputs(), whole.outputs()) < 1e-14
    assert relative_error(parts.take(slice(4, 9)).jvp(u[4:9]), whole.jvp(u)[4:9]) < 1e-14


def test_a_budget_counts_activations_and_matrices() -> None:
    net = nn.Sequential(nn.Linear(4, 1000), nn.Tanh(), nn.Linear(1000, 1000), nn.Tanh(), nn.Linear(1000, 3)).double()
    x = noise(64, 4)
    sizes = []

    def watch(module: nn.Module, args: tuple[Tensor]) -> None:
        sizes.append(len(args[0]))

    handle = net[0].register_forward_pre_hook(watch)
    # a tanh and the layer after it share the 1000 numbers that they save: 16 kB a sample in all, and some for outputs
    InputJacobian(net, x, memory=10 * 16_500).outputs()
    handle.remove()
    assert 9 <= max(sizes) <= 10
    wide = nn.Linear(50, 100, bias=False).double()
    portions = [rows.stop - rows.start for rows, _ in InputJacobian(wide, noise(64, 50), memory=10 * 80_000).dense()]
    assert 4 <= max(portions) <= 10  # J takes 40 kB, and as much while it is put together


def test_when_memory_runs_out_fewer_run_together(monkeypatch: pytest.MonkeyPatch) -> None:
    net = nn.Linear(3, 2).double()
    whole = InputJacobian(net, noise(12, 3)).jvp(noise(12, 3, seed=1))
    tried = []

    class Small(home._AtInput):
        def run(self, tensors: Any, batch: Any) -> Tensor:
            n = len(tensors[home._INPUT])
            tried.append(n)
            if n > 4:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().run(tensors, batch)

    monkeypatch.setattr(home, "_AtInput", Small)
    J = InputJacobian(net, noise(12, 3))
    assert relative_error(J.jvp(noise(12, 3, seed=1)), whole) < 1e-14
    assert {12, 6, 3} <= set(tried)
    with pytest.raises(torch.OutOfMemoryError):
        InputJacobian(net, noise(12, 3), batch_size=6).outputs()


def test_several_vectors_at_once() -> None:
    net, batch = conditional()
    J = InputJacobian(net, batch, "z", batch_size=3)
    us, ws = [noise(7, 3, seed=s) for s in range(3)], [noise(7, 4, seed=s) for s in range(2)]
    assert J.jvps(us).shape == (7, 3, 4) and J.vjps(ws).shape == (7, 2, 3)
    for k, u in enumerate(us):
        assert relative_error(J.jvps(us)[:, k], J.jvp(u)) < 1e-14
    for k, w in enumerate(ws):
        assert torch.equal(J.vjps(ws)[:, k], J.vjp(w))


@pytest.mark.parametrize(
    ("name", "together"),
    [("mlp", True), ("dcgan", True), ("under_no_grad", False), ("autograd_function", False), ("class_token", False)],
)
def test_columns_share_a_pass_only_where_that_is_right(name: str, together: bool) -> None:
    """The second would be differentiated where it must not be, the others cannot be vectorised."""
    case = BY_NAME[name]
    batch = case.batch(3, 11)
    J = InputJacobian(case.model(), batch)
    us = [noise(3, *J.input_shape, seed=s) for s in range(20)]
    found = J.jvps(us)
    assert J._columns(20) == (16 if together else 1)
    assert relative_error(found, torch.stack([J.jvp(u) for u in us], 1)) < 1e-12


def test_weights_that_depend_on_the_outputs() -> None:
    """∇_x of a loss; the function may spoil what it is given."""
    net, batch = conditional()
    J = InputJacobian(net, batch, "z", batch_size=3)

    def half_square(outputs: Tensor, samples: dict[str, Any]) -> Tensor:
        assert len(outputs) == len(samples["z"])
        samples["z"].zero_()
        return outputs.mul_(1.0)

    before = Snapshot(net, batch)
    found = J.vjp(half_square)
    before.check()
    leaf = batch["z"].clone().requires_grad_(True)
    (true,) = torch.autograd.grad(0.5 * net(**{**batch, "z": leaf}).square().sum(), leaf)
    assert relative_error(found, true) < 1e-12


# ----------------------------------------------------------------------------------- refusals


class NoSecond(torch.autograd.Function):
    """sin, once differentiable and without a rule for forward mode."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * ctx.saved_tensors[0].cos()


def test_without_an_exact_route_finite_differences_say_so() -> None:
    net = Net(lambda net, x: NoSecond.apply(net.layer(x)), layer=nn.Linear(3, 5)).double()
    x = noise(3, 3)
    J = InputJacobian(net, x)
    assert J.method.startswith("finite-differences")
    assert relative_error(dense(J), true_jacobian(TangentModel(net), x, None)) < 1e-7
    with pytest.raises(CaptureError, match="no route gives J·u"):
        InputJacobian(net, x, method="forward").jvp(x)
    # rows need no such route
    few = Net(lambda net, x: NoSecond.apply(net.layer(x)), layer=nn.Linear(3, 2)).double()
    J = InputJacobian(few, x, method="forward")
    assert relative_error(dense(J), true_jacobian(TangentModel(few), x, None)) < 1e-12


def test_shapes_that_do_not_fit() -> None:
    J = InputJacobian(nn.Linear(3, 2).double(), noise(4, 3))
    for u in (noise(4, 2), noise(3, 3), noise(5, 3), noise(3)):
        with pytest.raises(InputError, match="the inputs have"):
            J.jvp(u)
    for w in (noise(4, 3), noise(3, 2), noise(5, 2), noise(4), torch.tensor(1.0)):
        with pytest.raises(InputError, match="w has shape"):
            J.vjp(w)
    with pytest.raises(InputError, match="w has shape"):
        J.vjp(lambda out, batch: out.sum(1))


def test_empty_and_impossible_inputs() -> None:
    net = nn.Linear(3, 2).double()
    with pytest.raises(InputError, match="the batch is empty"):
        InputJacobian(net, noise(0, 3))
    with pytest.raises(InputError, match="disagree on the number of samples"):
        InputJacobian(net, {"input": noise(3, 3), "y": torch.arange(2)}, "input")
    with pytest.raises(InputError, match="no real floating point tensor"):
        InputJacobian(net, torch.ones(2, 3, dtype=torch.complex128))
    with pytest.raises(InputError, match="batch_size has to be at least 1"):
        InputJacobian(net, noise(2, 3), batch_size=0)
    with pytest.raises(InputError, match="method is one of"):
        InputJacobian(net, noise(2, 3), method="guess")


@pytest.mark.parametrize("what", ["outputs", "jvp", "vjp", "dense"])
def test_nan_is_named_by_its_sample(what: str) -> None:
    net, x = nn.Linear(3, 4).double(), noise(9, 3)
    x[7, 1] = torch.nan
    J = InputJacobian(net, x, batch_size=2)
    run = {
        "outputs": J.outputs,
        "jvp": lambda: J.jvp(noise(9, 3)),
        "vjp": lambda: J.vjp(noise(9, 4)),
        "dense": lambda: list(J.dense()),
    }[what]
    before = Snapshot(net, x)
    with pytest.raises(NonFiniteError, match="NaN or infinite for sample 7"):
        run()
    before.check()


def test_a_derivative_that_is_infinite() -> None:
    net = Net(lambda net, x: (net.scale * x).sqrt(), scale=nn.Parameter(torch.ones(2))).double()
    x = torch.ones(6, 2, dtype=torch.float64)
    x[4, 1] = 0  # √x is finite there, its slope is not
    J = InputJacobian(net, x, batch_size=2)
    assert torch.isfinite(J.outputs()).all()
    with pytest.raises(NonFiniteError, match="derivative in the input is NaN or infinite for sample 4"):
        J.vjp(torch.ones(6, 2, dtype=torch.float64))


# ------------------------------------------------------------------------------- left alone


def test_nothing_is_changed_whatever_happens() -> None:
    """In train mode with dropout, also when the model fails in the middle."""
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2)).double().train()
    x = noise(5, 3)
    before = Snapshot(net, x)
    J = InputJacobian(net, x)
    list(J.dense()), J.jvp(x), J.vjp(noise(5, 2)), J.outputs()
    before.check()

    def failing(module: nn.Module, batch: Tensor) -> Tensor:
        out = module(batch)
        torch.randn(3)
        if len(batch) == 5:
            raise KeyError("stop")
        return out

    J = InputJacobian(TangentModel(net, failing), x, batch_size=5)
    for run in (J.outputs, lambda: J.vjp(noise(5, 2)), lambda: J.jvp(x)):
        with pytest.raises(KeyError):
            run()
        before.check()


@pytest.mark.parametrize("guard", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_inside_of_gradient_guards(guard: Any) -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 5)).double()
    x, u, w = noise(4, 3), noise(4, 3, seed=1), noise(4, 5, seed=2)
    true = InputJacobian(net, x)
    with guard():
        J = InputJacobian(net, x.clone())
        found = dense(J), J.jvp(u.clone()), J.vjp(w.clone()), J.outputs()
    for a, b in zip(found, (dense(true), true.jvp(u), true.vjp(w), true.outputs()), strict=True):
        assert torch.equal(a, b) and not a.requires_grad


def test_autocast_is_left_first() -> None:
    J = InputJacobian(nn.Linear(3, 2), noise(2, 3).float())
    with torch.autocast("cpu"), pytest.raises(GenkernelError, match="autocast"):
        J.outputs()


def test_the_batch_may_require_gradients() -> None:
    net, x = nn.Linear(3, 2).double(), noise(4, 3).requires_grad_(True)
    J = InputJacobian(net, x)
    assert not J.jvp(x).requires_grad and not dense(J).requires_grad
    assert x.grad is None


def test_coupled_samples_have_the_gradient_of_their_sum() -> None:
    """What runs together is differentiated together: a discriminator with minibatch statistics needs that."""
    net = Net(lambda net, x: net.layer(x) * x.std(0).sum(), layer=nn.Linear(3, 1)).double()
    x, w = noise(6, 3), noise(6, 1, seed=1)
    leaf = x.clone().requires_grad_(True)
    (true,) = torch.autograd.grad((net(leaf) * w).sum(), leaf)
    assert relative_error(InputJacobian(net, x, batch_size=6).vjp(w), true) < 1e-12
