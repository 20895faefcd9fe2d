"""The wrapper of generators on networks in every published style, and on broken ones."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from genkernel.errors import BatchCouplingError, GenkernelError, InputError, NonFiniteError, RandomOutputError
from genkernel.gan import Generator
from genkernel.tangent import kernel, reference, total
from tests.gan.generators import (
    GENERATORS,
    Case,
    LabelEmbedding,
    Net,
    StyleGAN,
    draws_noise,
    mixes_latents,
    named,
    without_statistics,
)
from tests.tangent.compare import relative_error
from tests.tangent.snapshot import Snapshot
from tests.tangent.test_untouched import unsettle


def small(inputs: int = 3, outputs: int = 4) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(inputs, 6), nn.Tanh(), nn.Linear(6, outputs)).double()


def labels_for(gen: Generator, n: int) -> Tensor | None:
    return None if gen.classes is None else torch.arange(n) % gen.classes


# ------------------------------------------------------------------------ every kind of network


@pytest.mark.parametrize("case", GENERATORS, ids=repr)
def test_it_does_what_its_user_does_and_leaves_no_trace(case: Case) -> None:
    module = case.module()
    unsettle(module)
    before = Snapshot(module)
    gen = Generator(module, **case.options)
    before.check()
    assert gen.latent_shape == case.shape
    batch = gen.draw(5, seed=1)
    images = gen.images(batch)
    before.check()
    with torch.no_grad():
        true = case.direct(case.module(), gen.prior.draw(5, 1).double(), labels_for(gen, 5))
    assert relative_error(images, true) < 1e-13
    assert gen.output_shape == tuple(true.shape[1:])
    assert relative_error(gen.images(batch, batch_size=2), images) < 1e-13
    found = kernel(gen.tangent, batch, cotangents=total())
    before.check()
    assert relative_error(found, reference.kernel(gen.tangent, batch, cotangents=total())) < 1e-10
    assert json.loads(json.dumps(gen.describe()))["latent_shape"] == list(case.shape)
    assert "→" in repr(gen)


@pytest.mark.parametrize("case", GENERATORS, ids=repr)
def test_what_is_given_is_not_searched_for(case: Case) -> None:
    options = dict(case.options)
    found = Generator(case.module(), **options)
    if found.classes:
        options["labels"] = found.describe()["labels"]
    given = Generator(case.module(), case.shape, **options)
    assert not any("by trying" in note or "labels are given" in note for note in given.notes)
    assert torch.equal(given.images(given.draw(3)), found.images(found.draw(3)))


def test_its_size_alone_is_enough() -> None:
    for name in ("mlp", "dcgan"):
        case = named(GENERATORS, name)
        assert Generator(case.module(), case.shape[0]).latent_shape == case.shape


# ---------------------------------------------------------------------------- latents and labels


@pytest.mark.parametrize("name", ["mlp", "embedded_labels", "stylegan_w", "stylegan_w_conditional"])
def test_a_latent_depends_on_its_own_number_alone(name: str) -> None:
    case = named(GENERATORS, name)
    gen = Generator(case.module(), **case.options)
    few, many = gen.draw(3, 7, stream=2), gen.draw(9, 7, stream=2)
    for key, value in few.items():
        if isinstance(value, Tensor):
            torch.testing.assert_close(many[key][:3], value, rtol=1e-13, atol=1e-13)
    assert not torch.equal(gen.draw(3, 7)["z"], few["z"]) and not torch.equal(gen.draw(3, 8, stream=2)["z"], few["z"])


def test_labels_take_turns_or_are_given() -> None:
    case = named(GENERATORS, "embedded_labels")
    gen = Generator(case.module(), **case.options)
    assert gen.draw(7)["y"].tolist() == [0, 1, 2, 3, 4, 0, 1]
    batch = gen.draw(4, labels=[4, 4, 0, 1])
    assert batch["y"].tolist() == [4, 4, 0, 1]
    with torch.no_grad():
        true = case.direct(case.module(), batch["z"], batch["y"])
    assert relative_error(gen.images(batch), true) < 1e-13


def test_truncation_in_z() -> None:
    gen = Generator(small(), truncation=0.4)
    assert float(gen.draw(50)["z"].abs().max()) <= 0.4
    assert gen.describe()["truncation"] == 0.4


@pytest.mark.parametrize("name", ["stylegan_w", "stylegan_w_conditional"])
def test_truncation_in_w(name: str) -> None:
    """w̄ + ψ (w − w̄), as the network's own truncation_psi has it."""
    case = named(GENERATORS, name)
    module = case.module()
    mean = module.mapping.w_avg.clone()
    before = Snapshot(module)
    free, cut = Generator(module, **case.options), Generator(module, truncation=0.3, **case.options)
    w, v = free.draw(6)["z"], cut.draw(6)["z"]
    assert w.shape == (6, 6)
    torch.testing.assert_close(v, mean + 0.3 * (w - mean), rtol=1e-12, atol=1e-12)
    assert any("own average" in note for note in cut.notes) and cut.describe()["truncation"] == 0.3
    assert Generator(module, truncation=0.0, **case.options).draw(2)["z"].unique(dim=0).shape[0] == 1
    before.check()


def test_truncation_in_w_without_a_stored_average() -> None:
    case = named(GENERATORS, "plain_mapping")
    module = case.module()
    cut = Generator(module, truncation=0.5, **case.options)
    w = Generator(module, **case.options).draw(6)["z"]
    with torch.no_grad():
        mean = module.style(cut.prior.draw(4096, 0, stream=9).double()).mean(0)
    torch.testing.assert_close(cut.draw(6)["z"], mean + 0.5 * (w - mean), rtol=1e-12, atol=1e-12)
    assert any("4096" in note for note in cut.notes)


def test_in_w_the_synthesis_is_what_is_analysed() -> None:
    case = named(GENERATORS, "stylegan_w_conditional")
    gen = Generator(case.module(), **case.options)
    assert gen.tangent.parameter_names and all(n.startswith("synthesis.") for n in gen.tangent.parameter_names)
    assert gen.draw(3, labels=[1, 3, 0])["y"].tolist() == [1, 3, 0]  # for whoever asks which class a latent is of
    chosen = Generator(case.module(), params="synthesis.torgb.*", **case.options)
    assert chosen.tangent.parameter_names == ["synthesis.torgb.weight", "synthesis.torgb.bias"]


def test_layers_that_get_different_w_keep_them() -> None:
    """A mapping whose copies differ is analysed in all of them."""

    class Apart(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mapping, self.synthesis = nn.Sequential(nn.Linear(3, 8), nn.Unflatten(1, (2, 4))), nn.Flatten()
            self.synthesis.weight = nn.Parameter(torch.ones(1))

    gen = Generator(Apart().double(), space="w")
    assert gen.draw(5)["z"].shape == (5, 2, 4) and gen.output_shape == (8,)


def test_the_prior_is_as_asked() -> None:
    for prior in ("uniform", "sphere"):
        gen = Generator(small(), prior=prior)
        assert gen.describe()["prior"] == prior
    assert float(Generator(small(), prior="uniform").draw(99)["z"].abs().max()) <= 1


# ------------------------------------------------------------------------------ batch statistics


def test_frozen_statistics_are_those_of_a_batch() -> None:
    case = named(GENERATORS, "dcgan")
    module = case.module()
    before = Snapshot(module)
    gen = Generator(module, batch_norm="frozen", statistics=64)
    before.check()
    sampled = case.module().train()
    with torch.no_grad():
        true = sampled(gen.prior.draw(64, 0, stream=8).double())
    again = gen.images(gen.draw(64, 0, stream=8))
    assert relative_error(again, true) < 1e-12
    assert torch.equal(gen.images(gen.draw(3))[:2], gen.images(gen.draw(2)))  # held: a latent is on its own
    assert gen.batch_norm == "frozen at 64 latents" == gen.describe()["batch_norm"]
    assert "batch normalisation uses the statistics of 64 latents, held" in gen.notes
    before.check()


def test_which_statistics_are_used_is_said() -> None:
    trained = Generator(named(GENERATORS, "dcgan").module())
    assert trained.batch_norm == "eval" and "batch normalisation uses the running statistics" in trained.notes
    fresh = Generator(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)))
    assert any("never seen a batch" in note and "batch_norm='frozen'" in note for note in fresh.notes)
    assert Generator(small()).batch_norm == "none"
    useless = Generator(small(), batch_norm="frozen")
    assert useless.batch_norm == "none" and any("changes nothing" in note for note in useless.notes)


def test_statistics_from_an_old_checkpoint_are_trained_though_nothing_counted_batches() -> None:
    module = named(GENERATORS, "dcgan").module()
    for m in module.modules():
        if isinstance(m, nn.BatchNorm2d):
            assert m.num_batches_tracked == 0
    assert not any("never seen" in note for note in Generator(module).notes)


def test_train_mode_comes_back() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2)).double().train()
    before = Snapshot(module)
    gen = Generator(module)
    out = gen.images(gen.draw(6))
    before.check()
    assert any("train mode" in note for note in gen.notes)
    with torch.no_grad():
        assert relative_error(out, copy.deepcopy(module).eval()(gen.draw(6)["z"])) < 1e-14


def test_parameters_that_are_frozen() -> None:
    averaged = Generator(named(GENERATORS, "averaged").module())
    assert averaged.parameters == sum(p.numel() for p in averaged.module.parameters())
    assert any("no parameter requires gradients" in note for note in averaged.notes)
    assert not any(p.requires_grad for p in averaged.module.parameters())
    partly = small()
    partly[0].requires_grad_(False)
    assert Generator(partly).tangent.parameter_names == ["2.weight", "2.bias"]
    assert Generator(partly, params="*").parameters == sum(p.numel() for p in partly.parameters())


# ----------------------------------------------------------------------------- what is returned


def test_which_output_was_taken_is_said() -> None:
    assert "entry 'image'" in " ".join(Generator(named(GENERATORS, "returns_a_dict").module()).notes)
    assert "entry 0" in " ".join(Generator(named(GENERATORS, "returns_a_tuple").module()).notes)

    class Answer:
        def __init__(self, sample: Tensor):
            self.sample = sample

    net = Net(lambda net, z: Answer(net.layer(z)), layer=nn.Linear(3, 2)).double()
    assert Generator(net).output_shape == (2,)
    single = Net(lambda net, z: {"fake": net.layer(z)}, layer=nn.Linear(3, 2)).double()
    assert Generator(single).output_shape == (2,)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda h: {"a": h, "b": h}, "returned dict with 'a', 'b', of which its output is not known"),
        (lambda h: None, "returned NoneType with no tensor"),
        (lambda h: [], "returned list with no tensor"),
        (lambda h: h.sum(), r"returned shape \(\) for 4 samples"),
        (lambda h: h.sum(1), r"answers 4 latents with shape \(4,\), not \[n, …\]"),
        (lambda h: (h > 0).int(), "gradients need a real floating point output"),
    ],
)
def test_outputs_that_are_no_images(returned: Any, message: str) -> None:
    net = Net(lambda net, z: returned(net.layer(z)), layer=nn.Linear(3, 2)).double()
    with pytest.raises(InputError, match=message):
        Generator(net)


def test_a_call_of_ones_own() -> None:
    net = Net(lambda net, styles, flag: [net.layer(styles[0]) * flag], layer=nn.Linear(3, 2)).double()
    gen = Generator(net, call=lambda module, batch: module([batch["z"]], batch["flag"]), inputs={"flag": 2.0})
    assert gen.latent_shape == (3,) and gen.output_shape == (2,)


# ------------------------------------------------------------------------------------ refusals


def one_sentence(error: pytest.ExceptionInfo[Exception]) -> str:
    text = str(error.value)
    assert "\n" not in text and len(text) < 500, text
    return text


def test_weights_with_nan() -> None:
    module = small()
    module[2].weight.data[1, 2] = torch.nan
    with pytest.raises(NonFiniteError, match=r"1 NaN or infinite entries in '2.weight'") as error:
        Generator(module)
    one_sentence(error)


def test_outputs_with_nan() -> None:
    net = Net(lambda net, z: net.layer(z).log(), layer=nn.Linear(3, 2)).double()
    with pytest.raises(NonFiniteError, match="answers ordinary inputs with NaN or infinity"):
        Generator(net)
    late = Net(lambda net, z: net.layer(z) / (z[:, :1] != 9), layer=nn.Linear(3, 2)).double()
    gen = Generator(late)
    z = gen.draw(6)["z"]
    z[4, 0] = 9
    with pytest.raises(NonFiniteError, match="NaN or infinite for sample 4"):
        gen.images(gen.batch(z), batch_size=3)
    z[2, 0] = torch.inf
    with pytest.raises(NonFiniteError, match="the latents hold NaN or infinity"):
        gen.batch(z)


def test_a_latent_shape_that_does_not_fit() -> None:
    for case, given, said in (("mlp", (4,), "4"), ("dcgan", (5,), "5"), ("dcgan", (4, 1, 1), "4×1×1")):
        with pytest.raises(InputError, match=f"Sequential cannot be run on latents of shape {said}: ") as error:
            Generator(named(GENERATORS, case).module(), given)
        one_sentence(error)
    for given in ((), (0,), (2.5,), "100", -3, 1.5):
        with pytest.raises(InputError, match=r"a latent shape is like \(100,\)"):
            Generator(small(), given)  # type: ignore[arg-type]


def test_latents_that_do_not_fit() -> None:
    gen = Generator(named(GENERATORS, "dcgan").module())
    for wrong in (torch.ones(2, 5), torch.ones(2, 4, 1, 1), torch.ones(0, 5, 1, 1), [1.0]):
        with pytest.raises(InputError, match=re.escape("latents have shape [n, 5, 1, 1], not")):
            gen.batch(wrong)  # type: ignore[arg-type]


def test_a_network_that_gives_no_shape_away() -> None:
    net = Net(lambda net, z: z * net.scale, scale=nn.Parameter(torch.ones(1)))
    with pytest.raises(InputError, match="the latent shape of Net is not known: pass latent_shape="):
        Generator(net)
    assert Generator(net, (2, 3)).output_shape == (2, 3)


@pytest.mark.parametrize("name", ["embedded_labels", "one_hot_joined", "stylegan_w_conditional", "biggan"])
def test_a_conditional_generator_without_classes(name: str) -> None:
    case = named(GENERATORS, name)
    options = {k: v for k, v in case.options.items() if k != "classes"}
    with pytest.raises(InputError, match=r"\(a conditional network needs classes=\)") as error:
        Generator(case.module(), **options)
    one_sentence(error)


def test_more_classes_than_there_are() -> None:
    with pytest.raises(InputError, match="with labels 0 … 6: IndexError") as error:
        Generator(LabelEmbedding(4, 5, (1, 3, 3)), (4,), classes=7)
    one_sentence(error)


def test_classes_for_a_network_without_labels() -> None:
    with pytest.raises(InputError, match="with labels 0 … 2: TypeError") as error:
        Generator(small(), classes=3)
    one_sentence(error)


def test_labels_that_do_not_fit() -> None:
    case = named(GENERATORS, "embedded_labels")
    gen = Generator(case.module(), **case.options)
    with pytest.raises(InputError, match="labels lie in 0 … 4, these reach from 0 to 5"):
        gen.draw(2, labels=[0, 5])
    with pytest.raises(InputError, match="labels are 2 whole numbers"):
        gen.draw(2, labels=[0, 1, 2])
    with pytest.raises(InputError, match="not conditional: give it classes="):
        Generator(small()).draw(2, labels=[0, 1])
    with pytest.raises(InputError, match="with labels 0 … 4"):
        Generator(case.module(), classes=5, labels="one-hot")


def test_noise_that_is_drawn_inside() -> None:
    module = draws_noise()
    before = Snapshot(module)
    with pytest.raises(RandomOutputError, match="different outputs for the same input: give what fixes its noise"):
        Generator(module)
    before.check()
    with pytest.raises(RandomOutputError, match="noise_mode"):
        Generator(StyleGAN().double())


def test_latents_that_are_mixed() -> None:
    module = mixes_latents()
    before = Snapshot(module)
    with pytest.raises(BatchCouplingError, match="what the generator makes of one latent depends on the others"):
        Generator(module)
    before.check()
    with pytest.raises(InputError, match="keep no running statistics"):
        Generator(without_statistics())


def test_a_network_that_fails_in_the_middle_is_left_as_it_was() -> None:
    class Stop(BaseException):
        pass

    module = named(GENERATORS, "spectral_norm_hook").module().train()
    gen = Generator(module)
    before = Snapshot(module)
    state = {"left": 0}

    def interrupt(m: nn.Module, args: Any, out: Tensor) -> None:
        torch.randn(2)
        state["left"] -= 1
        if state["left"] < 0:
            raise Stop

    module[2].register_forward_hook(interrupt)
    before = Snapshot(module)
    for left in range(3):
        state["left"] = left
        with pytest.raises(Stop):
            Generator(module)
        before.check()
    state["left"] = 0
    with pytest.raises(Stop):
        gen.images(gen.draw(2))
    before.check()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"space": "s"}, "space is 'z' or 'w', not 's'"),
        ({"space": "w"}, "no submodule 'mapping' (it has 0, 1, 2)"),
        ({"space": "w", "mapping": "0", "synthesis": "1"}, "1 has no parameters"),
        ({"space": "w", "mapping": "0", "synthesis": "2", "call": len}, "leave call= out"),
        ({"space": "w", "mapping": "0", "synthesis": "2", "truncation": "x"}, "truncation in w is a number, not 'x'"),
        ({"labels": "index"}, "give classes="),
        ({"classes": 1}, "at least 2, not 1"),
        ({"batch_norm": "train"}, "batch_norm is 'eval' or 'frozen' for a generator, not 'train'"),
        ({"statistics": 1}, "statistics is a number of latents, at least 2, not 1"),
        ({"inputs": {"z": 1}}, "a further input cannot be called 'z'"),
        ({"inputs": {"noise": torch.ones(2, 3)}}, "the input 'noise' needs one row"),
        ({"prior": "cauchy"}, "normal, uniform, sphere, not 'cauchy'"),
        ({"params": "nothing"}, "params='nothing' matches none"),
    ],
    ids=str,
)
def test_options_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as error:
        Generator(small(), **options)
    one_sentence(error)


def test_autocast_is_left_first() -> None:
    with torch.autocast("cpu"), pytest.raises(GenkernelError, match=r"^kernels are not computed under autocast"):
        Generator(small())


def test_what_is_no_network() -> None:
    with pytest.raises(InputError, match=r"a generator is a torch.nn.Module, not dict"):
        Generator({})  # type: ignore[arg-type]
