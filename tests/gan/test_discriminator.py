"""The wrapper of discriminators: logits, and the drive against autograd, sample by sample."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from genkernel.errors import InputError, NonFiniteError, RandomOutputError
from genkernel.gan import LOSSES, Discriminator
from genkernel.tangent import kernel, reference, total
from tests.gan.generators import DISCRIMINATORS, IMAGE, Case, Net, draws_noise, named, small_critic
from tests.tangent.compare import relative_error
from tests.tangent.snapshot import Snapshot
from tests.tangent.test_untouched import unsettle

MIXING = ("minibatch_stddev", "batch_statistics")


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def samples(case: Case, n: int = 5) -> tuple[Tensor, Tensor | None]:
    classes = case.options.get("classes")
    return noise(n, *case.shape), None if classes is None else torch.arange(n) % classes


def naive_drive(case: Case, x: Tensor, y: Tensor | None, loss: str, together: bool) -> Tensor:
    """The gradient of each sample's loss, one sample after the other; of the sum over the batch where it is mixed."""
    module = case.module()

    def of(x: Tensor, y: Tensor | None) -> Tensor:
        leaf = x.clone().requires_grad_(True)
        logits = case.direct(module, leaf, y).reshape(len(x), -1)
        (found,) = torch.autograd.grad(LOSSES[loss](logits).mean(1).sum(), leaf)
        return found

    if together:
        return of(x, y)
    return torch.cat([of(x[i : i + 1], None if y is None else y[i : i + 1]) for i in range(len(x))])


# ------------------------------------------------------------------------ every kind of network


@pytest.mark.parametrize("case", DISCRIMINATORS, ids=repr)
def test_logits_drive_and_kernel(case: Case) -> None:
    module = case.module()
    unsettle(module)
    x, y = samples(case)
    before = Snapshot(module, x, y)
    disc = Discriminator(module, case.shape, **case.options)
    assert disc.mixes == (case.name in MIXING)
    logits = disc.logits(x, y)
    with torch.no_grad():
        true = case.direct(case.module(), x, y).reshape(5, -1)
    assert logits.shape == ((5,) if true.shape[1] == 1 else true.shape)
    assert relative_error(logits.reshape(5, -1), true) < 1e-12
    for loss in LOSSES:
        found = disc.drive(x, loss, y)
        assert found.shape == x.shape
        assert relative_error(found, naive_drive(case, x, y, loss, disc.mixes)) < 1e-10, loss
    before.check()
    if not disc.mixes:
        assert relative_error(disc.logits(x, y, batch_size=2), logits) < 1e-13
        assert relative_error(disc.drive(x, "lsgan", y, batch_size=2), disc.drive(x, "lsgan", y)) < 1e-13
        batch = disc.batch(x, y)
        found = kernel(disc.tangent, batch, cotangents=total())
        assert relative_error(found, reference.kernel(disc.tangent, batch, cotangents=total())) < 1e-10
        before.check()
    json.dumps(disc.describe())


@pytest.mark.parametrize("case", DISCRIMINATORS, ids=repr)
def test_one_sample_alone(case: Case) -> None:
    """Also for those that squeeze what they return."""
    disc = Discriminator(case.module(), case.shape, **case.options)
    x, y = samples(case, 1)
    with torch.no_grad():
        true = case.direct(case.module(), x, y).reshape(1, -1)
    assert relative_error(disc.logits(x, y).reshape(1, -1), true) < 1e-12


# --------------------------------------------------------------------------- what the output is


def test_a_logit_far_out_survives_its_sigmoid() -> None:
    """σ(±60) is 0 and 1 in float32; the drive of a sample that is surely rejected must not vanish."""
    net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Sigmoid())
    net[0].weight.data.fill_(2.0)
    disc = Discriminator(net, (1,))
    x = torch.tensor([[-30.0], [30.0]])
    assert disc.logits(x).tolist() == [-60.0, 60.0]
    assert disc.drive(x, "non-saturating")[0].item() == -2.0
    assert disc.drive(x, "minimax")[1].item() == -2.0


@pytest.mark.parametrize(
    ("name", "output"),
    [
        ("critic", "logit"), ("gated", "logit"), ("patches", "logit"), ("batch_statistics", "logit"),
        ("sigmoid_module", "probability"), ("sigmoid_function", "probability"), ("sigmoid_in_place", "probability"),
        ("sigmoid_by_hand", "probability"),
    ],
)  # fmt: skip
def test_what_the_output_is_found_to_be(name: str, output: str) -> None:
    case = named(DISCRIMINATORS, name)
    disc = Discriminator(case.module(), case.shape)
    assert disc.output == output == disc.describe()["output"]
    assert any("sigmoid" in note or "probabilities" in note for note in disc.notes) == (output == "probability")


def test_what_the_output_is_may_be_said() -> None:
    case = named(DISCRIMINATORS, "sigmoid_function")
    x, _ = samples(case)
    raw = Discriminator(case.module(), case.shape, output="logit")
    with torch.no_grad():
        assert relative_error(raw.logits(x), case.module()(x)) < 1e-14
    assert any("taken as the logit, as asked" in note for note in raw.notes)
    said = Discriminator(case.module(), case.shape, output="probability")
    found = Discriminator(case.module(), case.shape)
    assert torch.equal(said.logits(x), found.logits(x))
    by_hand = named(DISCRIMINATORS, "sigmoid_by_hand")
    x, _ = samples(by_hand)
    told = Discriminator(by_hand.module(), by_hand.shape, output="probability")
    assert torch.equal(told.logits(x), Discriminator(by_hand.module(), by_hand.shape).logits(x))


def test_probabilities_without_a_finite_logit() -> None:
    by_hand = named(DISCRIMINATORS, "sigmoid_by_hand")
    disc = Discriminator(by_hand.module(), by_hand.shape)
    with pytest.raises(NonFiniteError, match="probabilities have a finite logit only between 0 and 1"):
        disc.logits(1e4 * torch.ones(2, 2))
    case = named(DISCRIMINATORS, "critic")
    wrong = Discriminator(case.module(), case.shape, output="probability")
    with pytest.raises(NonFiniteError, match="where these are no probabilities"):
        wrong.logits(10 * samples(case)[0])


def test_a_discriminator_that_is_constant_has_no_drive() -> None:
    net = small_critic()
    for p in net.parameters():
        p.data.zero_()
    for bias in (0.5, 3.0):
        net[-1].bias.data.fill_(bias)
        disc = Discriminator(net, IMAGE)
        assert not disc.drive(noise(3, *IMAGE), "hinge").any()


def test_which_of_several_outputs_was_taken_is_said() -> None:
    for name, entry in (("features_first", 1), ("auxiliary_classifier", 0)):
        case = named(DISCRIMINATORS, name)
        assert f"entry {entry} is its output" in " ".join(Discriminator(case.module(), case.shape).notes)
    net = Net(lambda net, x: {"features": x, "logits": net.layer(x)}, layer=nn.Linear(2, 1)).double()
    assert Discriminator(net, (2,)).logits(noise(3, 2)).shape == (3,)


def test_frozen_weights_have_a_kernel_all_the_same() -> None:
    case = named(DISCRIMINATORS, "frozen")
    disc = Discriminator(case.module(), case.shape)
    assert len(disc.tangent.parameter_names) == 4
    assert any("no parameter requires gradients" in note for note in disc.notes)


def test_statistics_are_named() -> None:
    case = named(DISCRIMINATORS, "dropout_and_batch_norm")
    assert "batch normalisation uses the running statistics" in Discriminator(case.module(), case.shape).notes


# ---------------------------------------------------------------------------------------- mixing


def test_what_is_mixed_is_judged_together() -> None:
    """All at once, or as many as are said to be a batch."""
    case = named(DISCRIMINATORS, "minibatch_stddev")
    disc = Discriminator(case.module(), case.shape)
    x, _ = samples(case)
    assert any("judged together" in note for note in disc.notes)
    assert not torch.allclose(disc.logits(x[:3]), disc.logits(x)[:3], rtol=1e-3)
    assert relative_error(disc.logits(x, batch_size=3), torch.cat([disc.logits(x[:3]), disc.logits(x[3:])])) < 1e-14
    apart = torch.cat([disc.drive(x[:3], "kl"), disc.drive(x[3:], "kl")])
    assert relative_error(disc.drive(x, "kl", batch_size=3), apart) < 1e-13


def test_rounding_is_no_mixing() -> None:
    """Logits that nearly cancel, in float32, in an ordinary network."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 16, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(16, 1, 4))
    x = torch.randn(4, *IMAGE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        net[-1].weight.mul_(1e4)
        net[-1].bias.copy_(-net(x).mean() + net[-1].bias)
    assert not Discriminator(net, IMAGE).mixes


# ------------------------------------------------------------------------------------- refusals


def test_samples_for_another_discriminator() -> None:
    case = named(DISCRIMINATORS, "patches")
    with pytest.raises(InputError, match="Sequential cannot judge samples 3×8×8 as the generator makes them") as error:
        Discriminator(case.module(), (3, 8, 8))
    assert "\n" not in str(error.value)
    disc = Discriminator(case.module(), case.shape)
    for wrong in (noise(4, 3, 8, 8), noise(4, 2, 9, 8), noise(0, *IMAGE), noise(*IMAGE), [1.0]):
        with pytest.raises(InputError, match=re.escape("the discriminator takes samples [n, 2, 8, 8], not")):
            disc.logits(wrong)  # type: ignore[arg-type]


def test_labels_that_do_not_fit() -> None:
    case = named(DISCRIMINATORS, "projection")
    disc = Discriminator(case.module(), case.shape, classes=3)
    x = noise(2, *IMAGE)
    with pytest.raises(InputError, match="conditional: give the labels of its samples"):
        disc.logits(x)
    with pytest.raises(InputError, match="labels lie in 0 … 2, these reach from 0 to 3"):
        disc.drive(x, "kl", [0, 3])
    with pytest.raises(InputError, match="labels are 2 whole numbers"):
        disc.logits(x, [0.0, 1.0])
    with pytest.raises(InputError, match="not conditional: give it classes="):
        Discriminator(small_critic(), IMAGE).logits(x.float(), [0, 1])
    with pytest.raises(InputError, match=r"\(a conditional network needs classes=\)"):
        Discriminator(case.module(), case.shape)
    with pytest.raises(InputError, match="with labels 0 … 4: IndexError"):
        Discriminator(case.module(), case.shape, classes=5)


def test_losses_that_do_not_exist() -> None:
    disc = Discriminator(small_critic(), IMAGE)
    with pytest.raises(InputError, match="the generator's loss is one of"):
        disc.drive(noise(2, *IMAGE), "nonsense")
    squared = disc.drive(noise(2, *IMAGE), torch.square)
    torch.testing.assert_close(
        squared, -2 * disc.logits(noise(2, *IMAGE)).view(2, 1, 1, 1) * disc.drive(noise(2, *IMAGE), "kl")
    )
    with pytest.raises(InputError, match="entry by entry"):
        disc.drive(noise(2, *IMAGE), torch.mean)


def test_nan() -> None:
    net = small_critic().double()
    net[0].bias.data[1] = torch.inf
    with pytest.raises(NonFiniteError, match=r"1 NaN or infinite entries in '0\.bias'"):
        Discriminator(net, IMAGE)
    with pytest.raises(NonFiniteError, match="answers ordinary inputs with NaN or infinity"):
        Discriminator(Net(lambda net, x: net.layer(x).log(), layer=nn.Linear(2, 1)), (2,))
    disc = Discriminator(small_critic().double(), IMAGE)
    x = noise(5, *IMAGE)
    x[3, 0, 0, 0] = torch.nan
    for run in (lambda: disc.logits(x, batch_size=2), lambda: disc.drive(x, "hinge", batch_size=2)):
        with pytest.raises(NonFiniteError, match="NaN or infinite for sample 3"):
            run()


def test_outputs_that_are_no_scores() -> None:
    for forward, message in (
        (lambda net, x: net.layer(x).mean(), r"returned shape \(\) for 4 samples"),
        (lambda net, x: net.layer(x).T, r"returned shape \(1, 4\) for 4 samples"),
        (lambda net, x: "real", "returned str with no tensor"),
    ):
        with pytest.raises(InputError, match=message):
            Discriminator(Net(forward, layer=nn.Linear(2, 1)), (2,))


def test_noise_that_is_drawn_inside() -> None:
    module = draws_noise()
    before = Snapshot(module)
    with pytest.raises(RandomOutputError, match="different outputs for the same input"):
        Discriminator(module, (3,))
    before.check()


def test_a_failure_in_the_middle_leaves_no_trace() -> None:
    class Stop(BaseException):
        pass

    module = named(DISCRIMINATORS, "projection").module().train()
    disc = Discriminator(module, IMAGE, classes=3)

    def interrupt(m: nn.Module, args: Any, out: Tensor) -> None:
        torch.randn(2)
        raise Stop

    module.linear.register_forward_hook(interrupt)
    before = Snapshot(module)
    for run in (
        lambda: Discriminator(module, IMAGE, classes=3),
        lambda: disc.logits(noise(2, *IMAGE), [0, 1]),
        lambda: disc.drive(noise(2, *IMAGE), "kl", [0, 1]),
    ):
        with pytest.raises(Stop):
            run()
        before.check()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output": "sigmoid"}, "output is 'logit' or 'probability', not 'sigmoid'"),
        ({"labels": "index"}, "give classes="),
        ({"classes": True}, "at least 2, not True"),
        ({"inputs": {"x": 1}}, "a further input cannot be called 'x'"),
        ({"inputs": {"c": torch.ones(3)}}, "the input 'c' needs one row"),
    ],
    ids=str,
)
def test_options_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        Discriminator(small_critic(), IMAGE, **options)


def test_what_is_no_network() -> None:
    with pytest.raises(InputError, match=r"a discriminator is a torch\.nn\.Module, not function"):
        Discriminator(lambda x: x, IMAGE)  # type: ignore[arg-type]
