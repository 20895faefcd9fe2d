"""P by diagonal, by optimizer state, by mask and by action: against dense matrices and real optimizer steps."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from genkernel.errors import InputError
from genkernel.tangent import TangentModel, exact_trace, kernel, reference, total
from genkernel.tangent.preconditioner import Preconditioner, as_preconditioner
from tests.tangent.compare import relative_error

X = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def model() -> TangentModel:
    return TangentModel(net())


def random(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def spd(size: int, seed: int) -> Tensor:
    """A random symmetric positive definite matrix."""
    a = random((size, size + 1), seed)
    return a @ a.T


def rows(m: TangentModel, x: Tensor = X) -> dict[str, Tensor]:
    """Gradients of each sample's summed outputs by parameter: ``[n, *shape]``."""
    return {name: g[0] for name, g in reference.gradients(m, x, total()).items()}


def dense(p: Preconditioner, m: TangentModel) -> Tensor:
    """P as a matrix over all selected parameters, from its action on unit rows."""
    shapes = {name: q.shape for name, q in m.parameters.items()}
    eye = torch.eye(sum(s.numel() for s in shapes.values()), dtype=torch.float64)
    parts = eye.split([s.numel() for s in shapes.values()], 1)
    unit = {name: part.reshape(-1, *s) for (name, s), part in zip(shapes.items(), parts, strict=True)}
    return flat(p.apply(unit))


def flat(found: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([row.reshape(len(row), -1) for row in found.values()], 1)


def entries(by_name: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([d.flatten() for d in by_name.values()])


# ------------------------------------------------------------------------ diagonal


def test_diagonal() -> None:
    m = model()
    d = {name: random(tuple(q.shape), 3).square() for name, q in m.parameters.items()}
    p = as_preconditioner(d, m)
    assert p.blocks == []
    assert relative_error(dense(p, m), torch.diag(entries(d))) < 1e-14
    for name, root in d.items():
        assert torch.equal(p.diagonal_root(name), root.sqrt())
    assert relative_error(
        kernel(m, X, precondition=d, cotangents=total()), flat(rows(m)) @ flat(p.apply(rows(m))).T
    ) < (1e-12)
    assert "4 parameters" in p.describe()


def test_what_has_no_entry_is_left_as_it_is() -> None:
    m = model()
    p = as_preconditioner({"0.bias": torch.arange(4.0)}, m)
    assert p.diagonal_root("0.weight") is None
    got = rows(m)
    found = p.apply(got)
    assert torch.equal(found["0.weight"], got["0.weight"])
    assert torch.allclose(found["0.bias"], got["0.bias"] * torch.arange(4.0), rtol=1e-14)
    assert list(found) == list(got)
    nothing = as_preconditioner(None, m)
    assert nothing.diagonal_root("0.bias") is None
    assert torch.equal(flat(nothing.apply(got)), flat(got))


def test_roots_are_taken_before_they_are_cast() -> None:
    """A diagonal of 1e-60 does not exist in float32; its root does."""
    m = TangentModel(net().float())
    p = as_preconditioner({"0.bias": torch.full((4,), 1e-60, dtype=torch.float64)}, m).to("cpu", torch.float32)
    root = p.diagonal_root("0.bias")
    assert root is not None
    assert root.dtype == torch.float32
    assert torch.allclose(root, torch.full((4,), 1e-30))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"0.bias": torch.tensor([1.0, -1.0, 1.0, 1.0])}, "finite and non-negative"),
        ({"0.bias": torch.full((4,), float("nan"))}, "finite and non-negative"),
        ({"0.bias": torch.full((4,), float("inf"))}, "finite and non-negative"),
        ({"0.bias": torch.ones(4, dtype=torch.complex64)}, "complex"),
        ({"0.bias": torch.ones(3)}, r"shape \(3,\), the parameter \(4,\)"),
        ({"0.bias": 1.0}, "is a float, not a tensor"),
        ({"bias": torch.ones(4)}, "'bias', which is not among the selected"),
        (torch.ones(4), "not Tensor"),
        (3, "not int"),
    ],
)
def test_diagonals_that_are_none(given: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        as_preconditioner(given, model())


# ---------------------------------------------------------------------- optimizers

LR = 1e-2
# no weight decay and no momentum except where it is part of the optimizer: then a step is -lr · P · m̂
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=LR),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=LR, initial_accumulator_value=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=LR, eps=1e-3),
    "rmsprop centred": lambda p: torch.optim.RMSprop(p, lr=LR, centered=True, eps=1e-3),
    "adam": lambda p: torch.optim.Adam(p, lr=LR, eps=1e-3),
    "adam amsgrad": lambda p: torch.optim.Adam(p, lr=LR, amsgrad=True, betas=(0.8, 0.7)),
    "adam with a tensor for a rate": lambda p: torch.optim.Adam(
        p, lr=torch.tensor(LR, dtype=torch.float64), foreach=False
    ),
    "adamw": lambda p: torch.optim.AdamW(p, lr=LR, weight_decay=0.0, betas=(0.7, 0.99)),
    "adamax": lambda p: torch.optim.Adamax(p, lr=LR, eps=1e-3),
    "radam rectified": lambda p: torch.optim.RAdam(p, lr=LR, betas=(0.9, 0.9), eps=1e-3),
    "radam early": lambda p: torch.optim.RAdam(p, lr=LR, betas=(0.9, 0.999)),
}


def train(network: nn.Module, optimizer: torch.optim.Optimizer, steps: int, seed: int = 0) -> dict[str, Tensor]:
    """Some steps on random data; the displacement of the last one."""
    draw = torch.Generator().manual_seed(seed)
    before: dict[str, Tensor] = {}
    for _ in range(steps):
        x = torch.randn(7, 3, dtype=torch.float64, generator=draw)
        optimizer.zero_grad()
        (network(x) - torch.sin(3 * x[:, :2])).square().mean().backward()
        before = {name: q.detach().clone() for name, q in network.named_parameters()}
        optimizer.step()
    return {name: q.detach() - before[name] for name, q in network.named_parameters()}


def momentum(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> Tensor:
    """The bias-corrected first moment, or the gradient where there is none."""
    state = optimizer.state[parameter]
    if "exp_avg" not in state:
        assert parameter.grad is not None
        return parameter.grad
    return state["exp_avg"] / (1 - optimizer.param_groups[0]["betas"][0] ** float(state["step"]))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_is_minus_the_learning_rate_times_P_times_the_momentum(name: str) -> None:
    network = net()
    optimizer = OPTIMIZERS[name](network.parameters())
    moved = train(network, optimizer, steps=12 if name != "radam early" else 3)
    m = TangentModel(network)
    live = Preconditioner.from_optimizer(optimizer, m)
    saved = Preconditioner.from_optimizer(copy.deepcopy(optimizer.state_dict()), m)
    means = {n: momentum(optimizer, q)[None] for n, q in network.named_parameters()}
    for p in (live, saved):
        p.check(m)
        for n, step in p.apply(means).items():
            assert relative_error(-LR * step[0], moved[n]) < 1e-10
    assert live.fingerprint() == saved.fingerprint()
    title = type(optimizer).__name__
    assert live.describe() == f"{title} diagonal, without momentum"
    written = title.replace("AdamW", "Adam")  # torch's states do not tell the two apart
    assert saved.describe() == f"{written}-type diagonal, as its entries suggest, without momentum"


def test_rectification_sets_in() -> None:
    """RAdam is momentum SGD until its moving average is longer than five (THEORY's P = 1)."""
    network = net()
    optimizer = OPTIMIZERS["radam early"](network.parameters())
    train(network, optimizer, steps=5)
    m = TangentModel(network)
    assert torch.equal(dense(Preconditioner.from_optimizer(optimizer, m), m), torch.eye(26, dtype=torch.float64))
    train(network, optimizer, steps=1)
    assert not torch.equal(dense(Preconditioner.from_optimizer(optimizer, m), m), torch.eye(26, dtype=torch.float64))


def test_nadam() -> None:
    """Its step is P times a mix of momentum and gradient; the mix is momentum's, P is Adam's."""
    network = net()
    optimizer = torch.optim.NAdam(network.parameters(), lr=LR, eps=1e-3, momentum_decay=4e-3)
    moved = train(network, optimizer, steps=6)
    m = TangentModel(network)
    mixes = {}
    for n, q in network.named_parameters():
        state = optimizer.state[q]
        now, after = (0.9 * (1 - 0.5 * 0.96 ** (k * 4e-3)) for k in (6, 7))
        product = state["mu_product"]
        mixes[n] = (q.grad * (1 - now) / (1 - product) + state["exp_avg"] * after / (1 - product * after))[None]
    for source in (optimizer, optimizer.state_dict()):
        p = Preconditioner.from_optimizer(source, m)
        for n, step in p.apply(mixes).items():
            assert relative_error(-LR * step[0], moved[n]) < 1e-6  # torch keeps mu_product in float32
    assert "NAdam" in p.describe()


def test_adadelta_is_that_of_the_next_step() -> None:
    network = net()
    optimizer = torch.optim.Adadelta(network.parameters(), lr=LR, rho=0.9, eps=1e-4)
    train(network, optimizer, steps=4)
    held = {n: optimizer.state[q]["acc_delta"].clone() for n, q in network.named_parameters()}
    moved = train(network, optimizer, steps=1, seed=9)
    m = TangentModel(network)
    state = copy.deepcopy(optimizer.state_dict())
    for entry, (n, _) in zip(state["state"].values(), network.named_parameters(), strict=True):
        entry["acc_delta"] = held[n]  # as the step found it
    gradients = {n: q.grad[None] for n, q in network.named_parameters()}
    for n, step in Preconditioner.from_optimizer(state, m).apply(gradients).items():
        assert relative_error(-LR * step[0], moved[n]) < 1e-10
    later = Preconditioner.from_optimizer(optimizer, m).apply(gradients)
    assert relative_error(flat(later), flat(Preconditioner.from_optimizer(state, m).apply(gradients))) < 0.2


def test_weight_decay_and_momentum_leave_P_alone() -> None:
    m, plain = model(), model()
    decayed = torch.optim.RMSprop(m.module.parameters(), lr=0.0, weight_decay=0.0, momentum=0.9)
    bare = torch.optim.RMSprop(plain.module.parameters(), lr=0.0)
    train(m.module, decayed, 4)
    train(plain.module, bare, 4)
    one, two = (Preconditioner.from_optimizer(o, k) for o, k in ((decayed, m), (bare, plain)))
    assert torch.equal(dense(one, m), dense(two, plain))  # a learning rate of 0 everywhere: all alike


def trained_groups(rates: tuple[float, float], **options: Any) -> tuple[TangentModel, torch.optim.Optimizer]:
    network = net()
    decay, rest = ([q for q in network.parameters() if (q.dim() > 1) == many] for many in (True, False))
    optimizer = torch.optim.Adam(
        [{"params": decay, "weight_decay": 0.1, "lr": rates[0]}, {"params": rest, "lr": rates[1]}], **options
    )
    train(network, optimizer, 4)
    return TangentModel(network), optimizer


def test_learning_rates_of_groups() -> None:
    m, optimizer = trained_groups((1e-2, 1e-3))
    bare = Preconditioner.from_optimizer(optimizer, m, learning_rates="exclude")
    relative = Preconditioner.from_optimizer(optimizer, m)
    whole = Preconditioner.from_optimizer(optimizer, m, learning_rates="include")
    unit = {name: torch.ones(1, *q.shape, dtype=torch.float64) for name, q in m.parameters.items()}
    for name, d in bare.apply(unit).items():
        rate = 1e-2 if "weight" in name else 1e-3
        assert torch.allclose(relative.apply(unit)[name], d * rate / 1e-2, rtol=1e-12)
        assert torch.allclose(whole.apply(unit)[name], d * rate, rtol=1e-12)
    assert "relative to the largest" in relative.describe()
    assert "times the learning rates" in whole.describe()
    assert "learning" not in bare.describe()
    with pytest.raises(InputError, match="'relative', 'include' or 'exclude'"):
        Preconditioner.from_optimizer(optimizer, m, learning_rates="all")


def test_the_learning_rate_of_adagrad_decays_by_parameter() -> None:
    network = net()
    optimizer = torch.optim.Adagrad(network.parameters(), lr=LR, lr_decay=0.5)
    network[0].bias.requires_grad_(False)
    train(network, optimizer, 3)
    network[0].bias.requires_grad_(True)
    moved = train(network, optimizer, 1)
    m = TangentModel(network, params="*")
    p = Preconditioner.from_optimizer(optimizer, m, learning_rates="include")
    for n, step in p.apply({n: q.grad[None] for n, q in network.named_parameters()}).items():
        assert relative_error(-step[0], moved[n]) < 1e-10


def test_the_kernel_with_an_optimizers_state() -> None:
    m, optimizer = trained_groups((1e-2, 1e-2))
    p = as_preconditioner(optimizer, m)
    g = rows(m)
    d = {name: p.diagonal_root(name).square() for name in g}
    want = reference.kernel(m, X, cotangents=total(), precondition=d)
    assert relative_error(flat(g) @ flat(p.apply(g)).T, want) < 1e-12
    assert relative_error(kernel(m, X, cotangents=total(), precondition=d), want) < 1e-10
    assert as_preconditioner(optimizer.state_dict(), m).fingerprint() == p.fingerprint()


# -------------------------------------------------------- matching states with names


def marked(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """One step after which Adam's P is 1 / (k + 1) on the k-th parameter."""
    for k, q in enumerate(network.parameters()):
        q.grad = torch.full_like(q, float(k + 1))
    optimizer.step()
    return {name: 1 / (k + 1) for k, (name, _) in enumerate(network.named_parameters())}


def assert_marked(p: Preconditioner, want: Mapping[str, float]) -> None:
    for name, value in want.items():
        root = p.diagonal_root(name)
        assert root is not None
        assert torch.allclose(root.square(), torch.full_like(root, value), rtol=1e-6), name


def deep() -> nn.Sequential:
    """Layers of the same shapes, so that shapes decide little."""
    torch.manual_seed(0)
    return nn.Sequential(*[nn.Linear(3, 3) for _ in range(4)]).double()


Made = Callable[[nn.Module], torch.optim.Optimizer]
UNIQUE: dict[str, Made] = {
    "one group": lambda n: torch.optim.Adam(n.parameters()),
    "weights and biases": lambda n: torch.optim.Adam(
        [{"params": [q for q in n.parameters() if q.dim() == d]} for d in (2, 1)]
    ),
    "named": lambda n: torch.optim.Adam(n.named_parameters()),
    "named, backwards": lambda n: torch.optim.Adam(list(n.named_parameters())[::-1]),
    "named groups": lambda n: torch.optim.Adam([{"params": list(n.named_parameters())[k::3]} for k in (2, 0, 1)]),
}


@pytest.mark.parametrize("name", UNIQUE)
def test_a_saved_state_finds_its_parameters(name: str) -> None:
    network = deep()
    optimizer = UNIQUE[name](network)
    want = marked(network, optimizer)
    m = TangentModel(network)
    assert_marked(Preconditioner.from_optimizer(optimizer, m), want)
    assert_marked(Preconditioner.from_optimizer(optimizer.state_dict(), m), want)


def test_many_layers_are_matched_in_a_moment() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(*[nn.Linear(2, 2) for _ in range(400)])
    optimizer = UNIQUE["weights and biases"](network)
    want = marked(network, optimizer)
    assert_marked(Preconditioner.from_optimizer(optimizer.state_dict(), TangentModel(network)), want)
    halves = torch.optim.Adam([{"params": list(network.parameters())[k::8]} for k in range(8)])
    marked(network, halves)
    with pytest.raises(InputError, match="8 groups without parameter names"):
        Preconditioner.from_optimizer(halves.state_dict(), TangentModel(network))


def test_a_saved_state_is_not_guessed() -> None:
    network = deep()
    halves = torch.optim.Adam([{"params": list(network[:2].parameters())}, {"params": list(network[2:].parameters())}])
    want = marked(network, halves)
    m = TangentModel(network)
    state = halves.state_dict()
    with pytest.raises(InputError, match="2 groups without parameter names"):
        Preconditioner.from_optimizer(state, m)
    assert_marked(Preconditioner.from_optimizer(halves, m), want)  # the optimizer itself holds the parameters
    names = names_of(network)
    assert_marked(Preconditioner.from_optimizer(state, m, names=names), want)
    assert_marked(Preconditioner.from_optimizer(state, m, names=dict(enumerate(names))), want)
    for wrong, words in (
        (names[:-1], "has to name the 8 parameters"),
        ([*names[:-1], "x"], "'x', which is no parameter"),
        ([*names[:-1], names[0]], "twice"),
        ({9: names[0]}, "parameter 9, which the optimizer state does not have"),
    ):
        with pytest.raises(InputError, match=words):
            Preconditioner.from_optimizer(state, m, names=wrong)
    shapes = net()
    backwards = torch.optim.Adam(list(shapes.parameters())[::-1])
    marked(shapes, backwards)
    with pytest.raises(InputError, match="do not match the network's 4 in number and shape"):
        Preconditioner.from_optimizer(backwards.state_dict(), TangentModel(shapes))
    with pytest.raises(InputError, match=r"'0\.weight' has shape \(2,\), the parameter \(4, 3\)"):
        Preconditioner.from_optimizer(backwards.state_dict(), TangentModel(shapes), names=names_of(shapes))


def names_of(network: nn.Module) -> list[str]:
    return [name for name, _ in network.named_parameters()]


def test_wrappers_and_selections() -> None:
    network = net()
    optimizer = torch.optim.Adam(nn.DataParallel(network).named_parameters())
    want = marked(network, optimizer)
    assert_marked(Preconditioner.from_optimizer(optimizer.state_dict(), TangentModel(network)), want)
    head = TangentModel(network, params="2.*")
    p = Preconditioner.from_optimizer(optimizer.state_dict(), head)
    p.check(head)
    assert_marked(p, {name: value for name, value in want.items() if name.startswith("2.")})
    assert p.diagonal_root("0.weight") is None
    by_name = {
        "state": {f"module.{n}": optimizer.state[q] for n, q in network.named_parameters()},
        "param_groups": [
            optimizer.param_groups[0] | {"params": [f"module.{n}" for n, _ in network.named_parameters()]}
        ],
    }
    by_name["param_groups"][0].pop("param_names")
    assert_marked(Preconditioner.from_optimizer(by_name, TangentModel(network)), want)

    class Accelerated(torch.optim.Optimizer):
        def __init__(self, inner: torch.optim.Optimizer):
            self.optimizer = inner

    assert_marked(Preconditioner.from_optimizer(Accelerated(optimizer), TangentModel(network)), want)


def test_an_optimizer_of_the_trained_part_alone() -> None:
    network = net()
    network[0].requires_grad_(False)
    optimizer = torch.optim.Adam([q for q in network.parameters() if q.requires_grad])
    train(network, optimizer, 2)
    state = optimizer.state_dict()
    want = {n: Preconditioner.from_optimizer(optimizer, TangentModel(network)).diagonal_root(n) for n in ("2.weight",)}
    found = Preconditioner.from_optimizer(state, TangentModel(network))
    assert torch.equal(found.diagonal_root("2.weight"), want["2.weight"])
    fresh = net()  # flags are not saved: the selection says which
    found = Preconditioner.from_optimizer(state, TangentModel(fresh, params="2.*"))
    assert torch.equal(found.diagonal_root("2.weight"), want["2.weight"])
    with pytest.raises(InputError, match=r"does not hold it: parameter '0\.weight' .*\(2 such"):
        Preconditioner.from_optimizer(optimizer, TangentModel(network, params="*"))
    zeroed = Preconditioner.from_optimizer(optimizer, TangentModel(network, params="*"), without_state="zero")
    assert float(zeroed.diagonal_root("0.weight").abs().max()) == 0
    assert "0 on 2 parameters" in zeroed.describe()


def test_parameters_that_never_took_a_step() -> None:
    network = net()
    optimizer = torch.optim.Adam(network.parameters())
    network[0].bias.requires_grad_(False)
    train(network, optimizer, 2)
    network[0].bias.requires_grad_(True)
    m = TangentModel(network)
    for source in (optimizer, optimizer.state_dict()):
        with pytest.raises(InputError, match=r"never took a step on it: parameter '0\.bias'"):
            Preconditioner.from_optimizer(source, m)
        p = Preconditioner.from_optimizer(source, m, without_state="zero")
        assert float(p.diagonal_root("0.bias").abs().max()) == 0
        assert float(p.diagonal_root("0.weight").min()) > 0
    with pytest.raises(InputError, match="'refuse' or 'zero'"):
        Preconditioner.from_optimizer(optimizer, m, without_state="one")
    adagrad = torch.optim.Adagrad(network.parameters())  # has a state before its first step
    with pytest.raises(InputError, match="never took a step"):
        Preconditioner.from_optimizer(adagrad, m)


def test_sgd_with_groups() -> None:
    network = deep()
    m = TangentModel(network)
    parts = [{"params": list(network[:2].parameters())}, {"params": list(network[2:].parameters())}]
    alike = torch.optim.SGD(parts, lr=0.1, momentum=0.9)
    p = Preconditioner.from_optimizer(alike.state_dict(), m)
    assert torch.equal(dense(p, m), torch.eye(48, dtype=torch.float64))
    parts[1]["lr"] = 0.05
    two = torch.optim.SGD(parts, lr=0.1)
    d = dense(Preconditioner.from_optimizer(two, m), m).diagonal()
    assert torch.allclose(d, torch.cat([torch.ones(24), torch.full((24,), 0.5)]).double(), rtol=1e-12)
    with pytest.raises(InputError, match="2 groups without parameter names"):
        Preconditioner.from_optimizer(two.state_dict(), m)


class Own(torch.optim.Adam):
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """A step that is not Adam's."""


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: torch.optim.Rprop(p), "^Rprop does not turn a gradient into a step by a diagonal"),
        (lambda p: torch.optim.ASGD(p), "^ASGD does not"),
        (lambda p: torch.optim.LBFGS(p), "^LBFGS does not"),
        (lambda p: torch.optim.SparseAdam(p), "^SparseAdam does not"),
        (lambda p: torch.optim.Adafactor(p), "^Adafactor does not"),
        (lambda p: Own(p), "^Own does not"),
    ],
)
def test_optimizers_without_a_diagonal(make: Callable[..., torch.optim.Optimizer], words: str) -> None:
    with pytest.raises(InputError, match=words):
        as_preconditioner(make(list(net().parameters())), model())


def test_states_that_are_none() -> None:
    m = model()
    other = torch.optim.Adam(net(1).parameters())
    marked(nn.ParameterList(other.param_groups[0]["params"]), other)
    for source, words in (
        (other, "holds none of the network's own parameters"),
        (torch.optim.Adam(m.module.parameters()).state_dict(), "empty: it never took a step"),
        ({"state": {}, "param_groups": []}, "holds no parameters"),
        ({"state": {}}, "'state' and 'param_groups'"),
        (3, "not int"),
        ({"state": {0: {"row_var": X}}, "param_groups": [{"params": [0], "lr": 1}]}, "entries row_var.*is none of SGD"),
    ):
        with pytest.raises(InputError, match=words):
            Preconditioner.from_optimizer(source, m)
    state = other.state_dict()
    with pytest.raises(InputError, match="'lion' is not known; known are SGD, Adagrad"):
        Preconditioner.from_optimizer(state, m, kind="lion")
    with pytest.raises(InputError, match="is not that of RMSprop: it holds exp_avg, exp_avg_sq, step"):
        Preconditioner.from_optimizer(state, m, kind="RMSprop")
    assert torch.equal(
        dense(Preconditioner.from_optimizer(state, m, kind="adamw"), m),
        dense(Preconditioner.from_optimizer(state, m), m),
    )
    named = torch.optim.Adam([(f"unet.{n}", q) for n, q in net().named_parameters()])
    marked(nn.ParameterList(named.param_groups[0]["params"]), named)
    with pytest.raises(InputError, match=r"names its parameters \('unet\.0\.weight', …\), and the network has none"):
        Preconditioner.from_optimizer(named.state_dict(), m)


# ------------------------------------------------------------------ masks and rates


def test_masks() -> None:
    m = model()
    whole = Preconditioner.mask(m, "2.*")
    want = {name: torch.full(q.shape, float(name.startswith("2."))).double() for name, q in m.parameters.items()}
    for p in (whole, Preconditioner.mask(m, re.compile(r"^2")), Preconditioner.mask(m, lambda name: name[0] == "2")):
        p.check(m)
        assert torch.equal(dense(p, m), torch.diag(entries(want)))
        assert p.fingerprint() == whole.fingerprint()
    assert "keeps 2 of 4 parameters" in whole.describe()
    part = {"0.weight": random((4, 3), 1) > 0}
    p = as_preconditioner(Preconditioner.mask(m, part), m)
    want = {name: torch.ones(q.shape).double() for name, q in m.parameters.items()} | {
        "0.weight": part["0.weight"] * 1.0
    }
    assert torch.equal(dense(p, m), torch.diag(entries(want)).double())
    head = TangentModel(m.module, params="2.*")
    assert relative_error(
        reference.kernel(head, X, cotangents=exact_trace()),
        kernel(m, X, cotangents=exact_trace(), precondition={n: whole.diagonal_root(n) for n in m.parameters}),
    ) < (1e-12)
    with pytest.raises(InputError, match="keeps none of the 4"):
        Preconditioner.mask(m, "3.*")
    with pytest.raises(InputError, match="tensor of booleans"):
        Preconditioner.mask(m, {"0.weight": torch.ones(4, 3)})


def test_learning_rates() -> None:
    m = model()
    p = Preconditioner.learning_rates(m, {"0.*": 0.25, "*": 2.0})
    want = {name: torch.full(q.shape, 0.25 if name[0] == "0" else 2.0) for name, q in m.parameters.items()}
    assert relative_error(dense(p, m), torch.diag(entries(want)).double()) < 1e-15
    pairs = Preconditioner.learning_rates(m, [(re.compile("^0"), 0.25), (lambda name: True, 2.0)])
    assert pairs.fingerprint() == p.fingerprint()
    for rates, words in (
        ({"0.*": 1.0}, r"no learning rate is given for '2\.weight'"),
        ({"*": 1.0, "0.*": 2.0}, r"'0\.\*' belongs to no selected"),
        ({"*": -1.0}, "finite number ≥ 0"),
    ):
        with pytest.raises(InputError, match=words):
            Preconditioner.learning_rates(m, rates)


# ----------------------------------------------------------------------- reference


def test_the_reference_with_any_preconditioner() -> None:
    """Against dense P over all parameters, per cotangent, and for two models."""
    m = model()
    other = m.at(net(3))
    block = ("0.bias", "2.weight")
    y = random((3, 3), 8)
    given = {name: random(tuple(q.shape), 3).square() for name, q in m.parameters.items()}
    for p in (
        Preconditioner.diagonal(given),
        Preconditioner.action(coupled(spd(12, 2), block), [block]).scaled(0.5),
        Preconditioner.kronecker({"0.weight": (spd(4, 1), spd(3, 2))}, damping=0.1, inverse=True),
        Preconditioner.action(lambda g: {name: 3 * row for name, row in g.items()}),
    ):
        P = dense(as_preconditioner(p, m), m)
        want = flat(rows(m)) @ P @ flat(rows(other, y)).T
        found = reference.kernel(m, X, y, model_y=other, cotangents=total(), precondition=p)
        assert relative_error(found, want) < 1e-12
    want = reference.kernel(m, X, precondition=given)
    assert relative_error(reference.kernel(m, X, precondition=Preconditioner.diagonal(given)), want) < 1e-12


# ------------------------------------------------------------------------- actions


def coupled(matrix: Tensor, names: tuple[str, ...]) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """A dense matrix over several parameters as a function of rows."""

    def act(given: dict[str, Tensor]) -> dict[str, Tensor]:
        done = torch.cat([given[name].flatten(1) for name in names], 1) @ matrix.T.to(given[names[0]])
        parts = done.split([given[name][0].numel() for name in names], 1)
        return {name: part.reshape(given[name].shape) for name, part in zip(names, parts, strict=True)}

    return act


def test_an_action_on_a_block() -> None:
    m, block = model(), ("0.bias", "2.weight")
    matrix = spd(12, 2)
    p = as_preconditioner(Preconditioner.action(coupled(matrix, block), [block]), m)
    assert p.blocks == [block]
    assert p.diagonal_root("0.weight") is None
    want = torch.eye(26, dtype=torch.float64)
    want[12:24, 12:24] = matrix
    assert relative_error(dense(p, m), want) < 1e-14
    g = rows(m)
    assert relative_error(flat(g) @ flat(p.apply(g)).T, flat(g) @ want @ flat(g).T) < 1e-12
    with pytest.raises(InputError, match=r"acts on '0\.bias' as a whole"):
        p.diagonal_root("0.bias")
    with pytest.raises(InputError, match=r"P couples '0\.bias' and '2\.weight': give the rows of all"):
        p.apply({"0.bias": g["0.bias"]})
    with pytest.raises(InputError, match="names a parameter a second time"):
        Preconditioner.action(coupled(matrix, block), [block, ("2.weight",)])
    with pytest.raises(InputError, match="not among the selected"):
        as_preconditioner(Preconditioner.action(coupled(matrix, ("x",)), ["x"]), m)


def test_an_action_on_every_parameter_alone() -> None:
    m = model()

    def act(given: dict[str, Tensor]) -> dict[str, Tensor]:
        assert len(given) == 1
        return {
            name: 2 * row + row.flatten(1).sum(1).reshape(-1, *[1] * (row.dim() - 1)) for name, row in given.items()
        }

    loose = Preconditioner.action(act)
    p = as_preconditioner(loose, m)
    assert p.blocks == [(name,) for name in m.parameters]
    sizes = [q.numel() for q in m.parameters.values()]
    want = torch.block_diag(*[2 * torch.eye(s) + torch.ones(s, s) for s in sizes]).double()
    assert relative_error(dense(p, m), want) < 1e-14
    assert relative_error(dense(loose, m), want) < 1e-14
    for use in (lambda: loose.blocks, lambda: loose @ Preconditioner.mask(m, "0.*")):
        with pytest.raises(InputError, match="not tied to a model yet"):
            use()
    assert "every parameter" in loose.describe()


CALLS: list[int] = []


def counting(given: dict[str, Tensor]) -> dict[str, Tensor]:
    CALLS.append(1)
    return {name: 3 * row for name, row in given.items()}


def test_an_action_is_tried_once() -> None:
    m = model()
    CALLS.clear()
    p = as_preconditioner(Preconditioner.action(counting, ["0.bias"]), m)
    tried = len(CALLS)
    assert 0 < tried <= 4
    p.check(m)
    as_preconditioner(p, m)
    assert len(CALLS) == tried


def matrix_on_bias(matrix: Tensor) -> Preconditioner:
    return Preconditioner.action(coupled(matrix, ("0.bias",)), ["0.bias"])


def writing(given: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: row.mul_(2) for name, row in given.items()}


@pytest.mark.parametrize(
    ("p", "words"),
    [
        (matrix_on_bias(torch.triu(torch.ones(4, 4))), "not symmetric"),
        (matrix_on_bias(torch.diag(torch.tensor([1.0, 1.0, 1.0, -0.3]))), "not positive semidefinite"),
        (matrix_on_bias(-torch.eye(4)), "not positive semidefinite"),
        (matrix_on_bias(torch.full((4, 4), float("nan"))), "NaN or infinity"),
        (Preconditioner.action(lambda g: {n: r.abs() for n, r in g.items()}, ["0.bias"]), "not linear"),
        (Preconditioner.action(lambda g: {n: r / r.norm() for n, r in g.items()}, ["0.bias"]), "not linear"),
        (Preconditioner.action(lambda g: {n: r - r.mean(0) for n, r in g.items()}, ["0.bias"]), "not linear"),
        (Preconditioner.action(lambda g: {n: r + 1 for n, r in g.items()}, ["0.bias"]), "not linear"),
        (Preconditioner.action(writing, ["0.bias"]), "writes to the rows"),
        (Preconditioner.action(lambda g: {}, ["0.bias"]), r"returned rows of \[\]"),
        (Preconditioner.action(lambda g: 1, ["0.bias"]), "returned int"),
        (Preconditioner.action(lambda g: {n: r.sum(0) for n, r in g.items()}, ["0.bias"]), r"returned \(4,\)"),
        (Preconditioner.action(lambda g: {n: r.float() for n, r in g.items()}, ["0.bias"]), "torch.float32"),
    ],
)
def test_actions_that_are_no_preconditioner(p: Preconditioner, words: str) -> None:
    with pytest.raises(InputError, match=words):
        as_preconditioner(p, model())


def test_a_negative_eigenvalue_is_found_in_a_large_block() -> None:
    m = TangentModel(nn.Linear(40, 30).double())
    d = torch.ones(30, 40, dtype=torch.float64)
    d[3, 7] = -0.5
    with pytest.raises(InputError, match="not positive semidefinite"):
        as_preconditioner(Preconditioner.action(lambda g: {n: r * d for n, r in g.items()}, ["weight"]), m)
    d[3, 7] = 0.0
    as_preconditioner(Preconditioner.action(lambda g: {n: r * d for n, r in g.items()}, ["weight"]), m)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_proper_actions_pass_in_every_dtype(dtype: torch.dtype) -> None:
    m = TangentModel(net().to(dtype))
    p = matrix_on_bias(spd(4, 3).to(dtype))
    as_preconditioner(p, m)
    as_preconditioner(matrix_on_bias(torch.zeros(4, 4)), m)


# ----------------------------------------------------------------------- Kronecker


def kronecker_cases() -> Iterator[tuple[Any, Preconditioner, Tensor]]:
    left, right = spd(4, 1), spd(3, 2)
    product = torch.kron(left, right)  # entries of a [rows, columns] parameter in memory order
    eye = torch.eye(12, dtype=torch.float64)
    key = "0.weight"
    yield key, Preconditioner.kronecker({key: (left, right)}), product
    yield key, Preconditioner.kronecker({key: (left, right)}, damping=0.3), product + 0.3 * eye
    yield key, Preconditioner.kronecker({key: (left, right)}, inverse=True), torch.linalg.inv(product)
    damped = Preconditioner.kronecker({key: (left, right)}, damping=0.3, inverse=True)
    yield key, damped, torch.linalg.inv(product + 0.3 * eye)


@pytest.mark.parametrize(("key", "p", "want"), list(kronecker_cases()))
def test_kronecker(key: str, p: Preconditioner, want: Tensor) -> None:
    m = model()
    p = as_preconditioner(p, m)
    assert p.blocks == [(key,)]
    found = dense(p, m)
    assert relative_error(found[:12, :12], want) < 1e-10
    assert torch.equal(found[12:, 12:], torch.eye(14, dtype=torch.float64))
    assert float(found[12:, :12].abs().max()) == 0
    g = rows(m)
    half = p.to("cpu", torch.float32).apply({name: row.float() for name, row in g.items()})
    assert relative_error(half[key].double(), p.apply(g)[key]) < 1e-3


def test_kronecker_of_weight_and_bias_together() -> None:
    """K-FAC's homogeneous coordinates: the bias is the last column."""
    m = model()
    left, right = spd(4, 1), spd(4, 2)
    p = as_preconditioner(
        Preconditioner.kronecker({("0.weight", "0.bias"): (left, right)}, damping=0.1, inverse=True), m
    )
    g = rows(m)
    G = torch.cat([g["0.weight"], g["0.bias"][:, :, None]], 2)
    whole = torch.linalg.inv(torch.kron(left, right) + 0.1 * torch.eye(16, dtype=torch.float64))
    want = (G.flatten(1) @ whole).reshape(G.shape)
    found = p.apply(g)
    assert relative_error(found["0.weight"], want[:, :, :3]) < 1e-10
    assert relative_error(found["0.bias"], want[:, :, 3]) < 1e-10


def test_kronecker_of_convolutions_vectors_and_numbers() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 3, 2)
            self.gain = nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor) -> Tensor:
            return self.gain * self.conv(x).flatten(1)

    torch.manual_seed(0)
    m = TangentModel(Odd().double())
    factors = {
        "conv.weight": (spd(3, 1), spd(8, 2)), "conv.bias": (spd(3, 3), spd(1, 4)), "gain": (spd(1, 5), spd(1, 6)),
    }  # fmt: skip
    p = as_preconditioner(Preconditioner.kronecker(factors), m)
    want = torch.block_diag(*[torch.kron(*factors[name]) for name in m.parameters])
    assert relative_error(dense(p, m), want) < 1e-14
    assert "3 blocks" in p.describe()


def test_singular_factors() -> None:
    """Second moments of fewer samples than columns are singular: damping is needed, and enough."""
    left, thin = spd(4, 1), random((3, 1), 2)
    singular = thin @ thin.T
    with pytest.raises(InputError, match="damping= makes it regular"):
        Preconditioner.kronecker({"0.weight": (left, singular)}, inverse=True)
    p = as_preconditioner(Preconditioner.kronecker({"0.weight": (left, singular)}, damping=1e-2, inverse=True), model())
    want = torch.linalg.inv(torch.kron(left, singular) + 1e-2 * torch.eye(12, dtype=torch.float64))
    assert relative_error(dense(p, model())[:12, :12], want) < 1e-9


@pytest.mark.parametrize(
    ("factors", "options", "words"),
    [
        ((torch.ones(4, 3), torch.eye(3)), {}, "square"),
        ((1.0, torch.eye(3)), {}, "not float"),
        ((torch.triu(torch.ones(4, 4)), torch.eye(3)), {}, "not symmetric"),
        ((-torch.eye(4), -torch.eye(3)), {}, "not positive semidefinite"),
        ((torch.full((4, 4), float("nan")), torch.eye(3)), {}, "NaN"),
        ((torch.eye(4), torch.eye(3)), {"damping": -1.0}, "damping is a finite number"),
        ((torch.eye(3), torch.eye(4)), {}, "for a gradient of 3 × 4, which is 4 × 3"),
    ],
)
def test_factors_that_do_not_fit(factors: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        as_preconditioner(Preconditioner.kronecker({"0.weight": factors}, **options), model())


# --------------------------------------------------------------------- composition


def diagonals(m: TangentModel, seed: int) -> Preconditioner:
    return Preconditioner.diagonal({name: random(tuple(q.shape), seed).square() for name, q in m.parameters.items()})


def test_products_of_diagonals() -> None:
    m = model()
    p, q = diagonals(m, 1), diagonals(m, 2)
    assert relative_error(dense(p @ q, m), dense(p, m) @ dense(q, m)) < 1e-14
    mask = Preconditioner.mask(m, "0.*")
    assert relative_error(dense(p @ mask, m), dense(p, m) @ dense(mask, m)) < 1e-14
    some = Preconditioner.diagonal({"0.bias": torch.arange(4.0)})
    assert relative_error(dense(p @ some, m), dense(p, m) @ dense(some, m)) < 1e-14
    assert relative_error(dense(some @ mask, m), dense(some, m) @ dense(mask, m)) < 1e-14
    with pytest.raises(TypeError):
        p @ 3


def test_products_with_actions() -> None:
    m = model()
    k = Preconditioner.kronecker({"0.weight": (spd(4, 1), spd(3, 2))})
    rates = Preconditioner.learning_rates(m, {"0.*": 0.5, "*": 2.0})
    for p in (k @ rates, rates @ k):
        p = as_preconditioner(p, m)
        assert p.blocks == [("0.weight",)]
        assert relative_error(dense(p, m), dense(k, m) @ dense(rates, m)) < 1e-14
    both = k @ Preconditioner.action(coupled(spd(2, 4), ("2.bias",)), ["2.bias"])
    assert both.blocks == [("0.weight",), ("2.bias",)]
    for other in (diagonals(m, 1), k):
        with pytest.raises(InputError, match=r"not symmetric where one acts on '0\.weight'"):
            k @ other
    pair = Preconditioner.action(coupled(spd(12, 2), ("0.bias", "2.weight")), [("0.bias", "2.weight")])
    with pytest.raises(InputError, match="not symmetric"):  # constant on each, but not on both
        pair @ rates


def test_between() -> None:
    m = model()
    d = diagonals(m, 5)
    pair = Preconditioner.action(coupled(spd(12, 2), ("0.bias", "2.weight")), [("0.bias", "2.weight")])
    k = Preconditioner.kronecker({"0.weight": (spd(4, 1), spd(3, 2))})
    for p in (pair, k, k @ pair, diagonals(m, 6), pair.scaled(3.0)):
        p = as_preconditioner(p, m)
        found = as_preconditioner(p.between(d), m)
        assert relative_error(dense(found, m), dense(d, m) @ dense(p, m) @ dense(d, m)) < 1e-13
        assert found.blocks == p.blocks
    some = Preconditioner.mask(m, {"0.bias": torch.tensor([True, False, True, True])})
    p = as_preconditioner(pair.between(some), m)
    assert relative_error(dense(p, m), dense(some, m) @ dense(pair, m) @ dense(some, m)) < 1e-14
    with pytest.raises(InputError, match="only a diagonal"):
        d.between(k)


def test_scaled() -> None:
    m = model()
    k = Preconditioner.kronecker({"0.weight": (spd(4, 1), spd(3, 2))})
    some = Preconditioner.diagonal({"0.bias": torch.arange(4.0)})
    rates = Preconditioner.learning_rates(m, {"0.*": 0.5, "*": 2.0})
    for p in (k, some, k @ some, Preconditioner.diagonal({}), as_preconditioner(None, m)):
        scaled = p.scaled(0.25)
        assert relative_error(dense(scaled, m), 0.25 * dense(p, m)) < 1e-14
        bound = as_preconditioner(scaled, m)
        assert relative_error(dense(bound, m), 0.25 * dense(p, m)) < 1e-14
        assert torch.equal(bound.diagonal_root("2.bias"), torch.full((2,), 0.5).double())
        assert relative_error(dense(scaled @ rates, m), 0.25 * dense(p, m) @ dense(rates, m)) < 1e-14
    with pytest.raises(InputError, match="not tied to a model yet"):
        k.scaled(2.0).diagonal_root("2.bias")
    for factor in (-1.0, float("nan"), "2"):
        with pytest.raises(InputError, match="finite number"):
            k.scaled(factor)


# -------------------------------------------------------------------- fingerprints


def test_fingerprints() -> None:
    m = model()
    left, right = spd(4, 1), spd(3, 2)

    def made() -> list[Preconditioner]:
        return [
            Preconditioner.diagonal({}),
            diagonals(m, 1),
            diagonals(m, 2),
            diagonals(m, 1).scaled(2.0),
            Preconditioner.diagonal({"0.bias": torch.ones(4)}),
            Preconditioner.diagonal({"0.bias": torch.zeros(4)}),
            Preconditioner.kronecker({"0.weight": (left, right)}),
            Preconditioner.kronecker({"0.weight": (right, left)}),
            Preconditioner.kronecker({"0.weight": (left, right)}, damping=1.0),
            Preconditioner.kronecker({"0.weight": (left, right)}, damping=1.0, inverse=True),
            Preconditioner.kronecker({"0.weight": (left, right)}).between(diagonals(m, 1)),
            Preconditioner.action(coupled(left, ("0.bias",)), ["0.bias"]),
            Preconditioner.action(coupled(left + 1e-9, ("0.bias",)), ["0.bias"]),
            Preconditioner.action(coupled(left, ("2.bias",)), ["2.bias"]),
            Preconditioner.action(counting),
        ]

    one, two = ([p.fingerprint() for p in made()] for _ in range(2))
    assert one == two
    assert len(set(one)) == len(one)
    assert all(re.fullmatch("[0-9a-f]{64}", f) for f in one)


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    network = net().cuda()
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    for k, q in enumerate(network.parameters()):
        q.grad = torch.full_like(q, float(k + 1))
    optimizer.step()
    m = TangentModel(network)
    p = as_preconditioner(optimizer, m)
    assert p.diagonal_root("0.bias").is_cuda
    saved = {
        "state": {i: {k: v.cpu() for k, v in e.items()} for i, e in optimizer.state_dict()["state"].items()},
        "param_groups": optimizer.state_dict()["param_groups"],
    }
    assert as_preconditioner(saved, m).fingerprint() == p.fingerprint()
    k = as_preconditioner(Preconditioner.kronecker({"0.weight": (spd(4, 1), spd(3, 2))}), m).to("cuda", torch.float64)
    row = {"0.weight": random((2, 4, 3), 1)}
    assert relative_error(
        k.apply({n: r.cuda() for n, r in row.items()})["0.weight"].cpu(), k.apply(row)["0.weight"]
    ) < (1e-12)
