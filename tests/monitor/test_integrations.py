"""Monitors in other people's training loops: Accelerate, Lightning, Hugging Face, compiled models, mixed precision."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import genkernel as gk
from genkernel.diffusion.schedule import NoiseSchedule
from genkernel.errors import InputError
from genkernel.monitor.unwrapped import unwrapped
from tests.diffusion.tiny import TinyDenoiser, tiny_images
from tests.monitor.toy import Always, ToyWatch

pytestmark = pytest.mark.usefixtures("one_thread")
STEPS = 6


def network(seed: int = 0) -> TinyDenoiser:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TinyDenoiser()


def monitor(net: nn.Module, **options: Any) -> gk.Monitor:
    options = {"every": 2, "max_overhead": None, "levels": 2, "images_per_level": 3, **options}
    return gk.Monitor(
        net, schedule=NoiseSchedule.vp(timesteps=1000), sample_shape=(1, 4, 4), data=tiny_images(4), **options
    )


def loss_of(net: nn.Module, x: Tensor, t: Tensor) -> Tensor:
    return (net(x, t) - x).square().mean()


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def numbers(reading: Any) -> dict[str, Any]:
    left_out = ("monitor/overhead",)
    return {name: value for name, value in reading.scalars.items() if name not in left_out and value == value}


def train(net: nn.Module, step: Callable[[int], Any] = lambda step: None, autocast: bool = False) -> None:
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    draw = torch.Generator().manual_seed(0)
    for number in range(STEPS):
        x, t = torch.rand(4, 1, 4, 4, generator=draw), torch.randint(0, 1000, (4,), generator=draw)
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = loss_of(net, x, t)
        loss.backward()
        optimizer.step()
        step(number)


# ------------------------------------------------------------------------ plain PyTorch


@pytest.mark.parametrize("autocast", [False, True])
def test_a_plain_loop(autocast: bool) -> None:
    bare, watched = network(), network()
    train(bare, autocast=autocast)
    mon = monitor(watched)

    def step(number: int) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            mon.step(number)

    train(watched, step, autocast=autocast)
    assert same(bare, watched) and mon.trace.steps.tolist() == [0, 2, 4]
    # what is read is read in the precision of the weights, whatever surrounds it
    assert numbers(monitor(watched).read(0)) == numbers(monitor(watched).read(0))
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        inside = monitor(watched).read(0)
    assert numbers(inside) == numbers(monitor(watched).read(0))


def test_gradient_scaler() -> None:
    net = network()
    mon, optimizer = monitor(net), torch.optim.SGD(net.parameters(), lr=1e-2)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
    for number in range(STEPS):
        loss = loss_of(net, torch.rand(2, 1, 4, 4), torch.tensor([1, 2]))
        scaler.scale(loss).backward()
        gradients = [p.grad.clone() for p in net.parameters()]
        before = scaler.state_dict()
        mon.step(number)  # in the middle of a step
        assert before == scaler.state_dict()
        assert all(torch.equal(p.grad, g) for p, g in zip(net.parameters(), gradients, strict=True))
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    assert len(mon.trace) == 3 and not any(reading.problems for reading in mon.trace.readings)


def eager_counting(calls: list[int]) -> Callable[..., Any]:
    def backend(graph: Any, inputs: Any) -> Any:
        def run(*given: Any) -> Any:
            calls.append(1)
            return graph.forward(*given)

        return run

    return backend


@pytest.mark.parametrize("way", ["compiled", "in place", "a part"])
def test_compiled(way: str) -> None:
    torch._dynamo.reset()
    calls: list[int] = []
    backend = eager_counting(calls)
    net, expected = network(), numbers(monitor(network()).read(0))
    if way == "compiled":
        model = torch.compile(net, backend=backend)
    else:
        model = net
        (net if way == "in place" else net.time_mlp).compile(backend=backend)
    loss_of(model, torch.rand(2, 1, 4, 4), torch.tensor([1, 2])).backward()
    trained, before = len(calls), {id(m): dict(vars(m)) for m in net.modules()}
    assert trained
    mon = monitor(model)
    reading = mon.read(0)
    assert numbers(reading) == expected and not reading.problems
    assert len(calls) == trained  # what is read is the function as it was written
    assert all(vars(m).keys() == before[id(m)].keys() for m in net.modules())
    model(torch.rand(2, 1, 4, 4), torch.tensor([1, 2]))
    assert len(calls) > trained  # and it is compiled as before


# ------------------------------------------------------------------------ Accelerate


def test_accelerate_in_mixed_precision() -> None:
    accelerate = pytest.importorskip("accelerate")

    def trained(watch: bool) -> tuple[nn.Module, gk.Monitor | None]:
        accelerator = accelerate.Accelerator(cpu=True, mixed_precision="bf16", gradient_accumulation_steps=2)
        net = network()
        model, optimizer = accelerator.prepare(net, torch.optim.AdamW(net.parameters(), lr=1e-2))
        mon = monitor(model) if watch else None
        draw, steps = torch.Generator().manual_seed(0), 0
        own = dict(vars(model))
        for _ in range(2 * STEPS):
            with accelerator.accumulate(model):
                x, t = torch.rand(4, 1, 4, 4, generator=draw), torch.randint(0, 1000, (4,), generator=draw)
                accelerator.backward(loss_of(model, x, t))
                optimizer.step()
                optimizer.zero_grad()
            if accelerator.sync_gradients:
                steps += 1
                if mon is not None:
                    mon.step(steps)
        assert vars(model) == own and "_original_forward" in own
        return model, mon

    bare, _ = trained(watch=False)
    watched, mon = trained(watch=True)
    assert same(bare, watched) and mon is not None and mon.trace.steps.tolist() == [1, 3, 5]
    plain = network(1)
    plain.load_state_dict(watched.state_dict())
    assert numbers(monitor(watched).read(0)) == numbers(monitor(plain).read(0))
    rounded = watched(tiny_images(2), torch.tensor([1, 2])) - plain(tiny_images(2), torch.tensor([1, 2]))
    assert rounded.abs().max() > 0  # the training itself is in bf16


def test_fabric() -> None:
    pytest.importorskip("lightning")
    from lightning.fabric import Fabric

    net = network()
    fabric = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    model, _ = fabric.setup(net, torch.optim.SGD(net.parameters(), lr=1e-2))
    assert unwrapped(model) is net
    assert numbers(monitor(model).read(0)) == numbers(monitor(network()).read(0))


# ------------------------------------------------------------------------ Lightning


@pytest.fixture(params=["lightning.pytorch", "pytorch_lightning"])
def lightning(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    package = pytest.importorskip(request.param)
    from genkernel.monitor import lightning as ours

    vars(ours).pop("MonitorCallback", None)  # its base class is looked for anew
    monkeypatch.chdir(tmp_path)
    logging.getLogger(request.param).setLevel(logging.ERROR)
    yield package
    vars(ours).pop("MonitorCallback", None)


def gan_module(package: Any) -> Any:
    """Two optimizers by hand, so that ``global_step`` is twice the number of batches."""

    class GAN(package.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.generator, self.discriminator = network(), nn.Linear(16, 1)

        def training_step(self, batch: Any, index: int) -> None:
            (x,) = batch
            for optimizer in self.optimizers():
                t = torch.full((len(x),), 5)
                loss = self.discriminator(self.generator(x, t).flatten(1)).square().mean()
                optimizer.zero_grad()
                self.manual_backward(loss)
                optimizer.step()

        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD(part.parameters(), lr=1e-2) for part in (self.generator, self.discriminator)]

        def train_dataloader(self) -> Any:
            data = torch.utils.data.TensorDataset(tiny_images(STEPS))
            return torch.utils.data.DataLoader(data, batch_size=1)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return GAN()


def trainer(package: Any, **options: Any) -> Any:
    given = {"logger": False, "enable_checkpointing": False, "max_epochs": 1, **options}
    return package.Trainer(accelerator="cpu", devices=1, enable_progress_bar=False, enable_model_summary=False, **given)


def callback(given: Any, *rest: Any, **options: Any) -> Any:
    from genkernel.monitor.lightning import MonitorCallback

    return MonitorCallback(given, *rest, **options)


@pytest.mark.filterwarnings("ignore")
def test_lightning_counts_batches(lightning: Any) -> None:
    bare, watched = gan_module(lightning), gan_module(lightning)
    trainer(lightning).fit(bare)
    said: list[Any] = []
    watch = callback(lambda module: monitor(module.generator, rules=[Always()]), said.append)
    assert watch.monitor is None and isinstance(watch, lightning.Callback)
    trainer(lightning, callbacks=[watch]).fit(watched)
    assert same(bare, watched)
    assert watch.monitor.trace.steps.tolist() == [1, 3, 5]
    assert [alert.message for alert in said] == ["it is 1", "it is 3", "it is 5"]


@pytest.mark.filterwarnings("ignore")
def test_lightning_counts_steps_of_the_weights_where_gradients_are_accumulated(lightning: Any) -> None:
    class Denoiser(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def training_step(self, batch: Any, index: int) -> Any:
            return self.net(batch[0], torch.full((len(batch[0]),), 5)).square().mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=1e-2)

        def train_dataloader(self) -> Any:
            return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(tiny_images(5)))

    watch = callback(lambda module: monitor(module.net, every=1))
    trainer(lightning, callbacks=[watch], max_epochs=2, accumulate_grad_batches=2).fit(Denoiser())
    assert watch.monitor.trace.steps.tolist() == [1, 2, 3, 4, 5, 6]  # 5 batches in an epoch: the last stands alone
    assert (watch.monitor.trace.array("weights/moved")[1:] > 0).any(1).all()


@pytest.mark.filterwarnings("ignore")
def test_a_message_that_cannot_be_sent_stops_no_training(lightning: Any, caplog: pytest.LogCaptureFixture) -> None:
    def send(alert: Any) -> None:
        raise ConnectionError("no route")

    watch = callback(lambda module: monitor(module.generator, rules=[Always()]), send)
    trainer(lightning, callbacks=[watch]).fit(gan_module(lightning))
    assert watch.monitor.trace.steps.tolist() == [1, 3, 5]
    assert "on_alert= failed; the alert was: it is 1" in caplog.text


@pytest.mark.filterwarnings("ignore")
def test_lightning_resumes(lightning: Any, tmp_path: Path) -> None:
    def run(epochs: int, path: Path | None) -> list[int]:
        watch = callback(lambda module: monitor(module.generator, every=4, sink=tmp_path / "log.jsonl"))
        one = trainer(lightning, callbacks=[watch], max_epochs=epochs)
        one.fit(gan_module(lightning), ckpt_path=path)
        one.save_checkpoint(tmp_path / "last.ckpt")
        return watch.monitor.trace.steps.tolist()

    assert run(1, None) == [1, 5]
    assert run(3, tmp_path / "last.ckpt") == [1, 5, 7, 11, 15]  # what is in the log belongs to the run
    assert gk.monitor.read_log(tmp_path / "log.jsonl").steps.tolist() == [1, 5, 7, 11, 15]


@pytest.mark.filterwarnings("ignore")
def test_lightning_logs_and_warns(lightning: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    loggers = __import__(f"{lightning.__name__}.loggers", fromlist=["CSVLogger"])
    found = []
    for log in (True, False):
        logger = loggers.CSVLogger(tmp_path / str(log))
        made = gk.Monitor(ToyWatch(), every=2, max_overhead=None, rules=[Always()])  # instead of what makes one
        trainer(lightning, callbacks=[callback(made, log=log)], logger=logger).fit(gan_module(lightning))
        found.append(Path(logger.log_dir) / "metrics.csv")
    rows = found[0].read_text().splitlines()
    names = rows[0].split(",")
    assert {"genkernel/loss/mean", "genkernel/loss/level/t=0", "genkernel/alerts/always"} <= set(names)
    assert [row.split(",")[names.index("step")] for row in rows[1:]] == ["1", "3", "5"]
    assert not found[1].exists()
    assert [r.getMessage() for r in caplog.records if r.name == "genkernel"][:3] == ["it is 1", "it is 3", "it is 5"]


def test_lightning_on_other_ranks_builds_nothing(lightning: Any) -> None:
    class Elsewhere:
        is_global_zero = False
        loggers: tuple[Any, ...] = ()
        accumulate_grad_batches = 1

    watch = callback(lambda module: pytest.fail("not on this rank"))
    watch.on_fit_start(Elsewhere(), gan_module(lightning))
    watch.on_train_batch_end(Elsewhere(), None, None, None, 0)
    assert watch.monitor is None


def test_lightning_callbacks_by_name(lightning: Any) -> None:
    made = gk.Monitor(ToyWatch())
    one, two = callback(made), callback(made, name="second")
    trainer(lightning, callbacks=[one, two])
    assert one.state_key != two.state_key
    again = pickle.loads(pickle.dumps(type(one)))  # found where it says it is
    assert again is type(one)


@pytest.mark.parametrize("given", [nn.Linear(2, 2), "monitor", 3])
def test_what_a_callback_takes(lightning: Any, given: Any) -> None:
    with pytest.raises(InputError, match="takes a Monitor, or a function that makes one"):
        callback(given)


def test_what_a_function_returns(lightning: Any) -> None:
    class Here:
        is_global_zero = True

    with pytest.raises(InputError, match="returns a Monitor, not NoneType"):
        callback(lambda module: None).on_fit_start(Here(), gan_module(lightning))
    with pytest.raises(InputError, match="on_alert= is called with every alert"):
        callback(gk.Monitor(ToyWatch()), "print")


# ------------------------------------------------------------------------ Hugging Face


class Scored(nn.Module):
    """What Trainer trains: an output with a loss."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": (self.net(x, t) - labels).square().mean()}


@pytest.mark.parametrize("bf16", [False, True])
def test_hugging_face_trainer(tmp_path: Path, bf16: bool) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from genkernel.monitor.transformers import MonitorCallback

    data = [{"x": x, "t": torch.tensor(i), "labels": x} for i, x in enumerate(tiny_images(2 * STEPS))]
    said: list[Any] = []

    def trained(resume: bool = False, epochs: int = 1, watched: bool = True) -> tuple[nn.Module, Any]:
        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path), num_train_epochs=epochs, per_device_train_batch_size=1, use_cpu=True, bf16=bf16,
            gradient_accumulation_steps=2, report_to=[], disable_tqdm=True, save_steps=STEPS, seed=0,
            logging_steps=1000,
        )  # fmt: skip
        watch = MonitorCallback(lambda model: monitor(model.net, rules=[Always()]), said.append)
        model = Scored()
        run = transformers.Trainer(model, arguments, train_dataset=data, callbacks=[watch] if watched else [])
        run.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{STEPS}") if resume else None)
        return model, watch.monitor

    bare, nothing = trained(watched=False)
    watched, mon = trained()
    assert nothing is None and same(bare, watched)
    assert mon.trace.steps.tolist() == [1, 3, 5] and [alert.step for alert in said] == [1, 3, 5]
    if bf16:
        return
    _, mon = trained(resume=True, epochs=2)
    assert mon.trace.steps.tolist() == [7, 9, 11]


def test_unknown_names() -> None:
    from genkernel.monitor import lightning, transformers

    for module in (lightning, transformers):
        with pytest.raises(AttributeError, match="has no attribute 'Nonsense'"):
            _ = module.Nonsense


def test_what_is_no_module() -> None:
    with pytest.raises(InputError, match=r"a monitor watches a torch\.nn\.Module, not dict"):
        unwrapped({})
