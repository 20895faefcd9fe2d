"""gk.load: every layout a diffusion model is kept in, and every way it can be wrong."""

from __future__ import annotations

import json
import socket

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

import genkernel as gk
from genkernel.errors import InputError, MissingError, NonFiniteError, UnsafeCheckpointError

UNET = dict(
    sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
    down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    attention_head_dim=8,
)  # fmt: skip
STEM = "diffusion_pytorch_model"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A DDPM pipeline as diffusers saves it, and its weights."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("saved") / "ddpm"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = diffusers.UNet2DModel(**UNET)
    diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler()).save_pretrained(folder)
    return folder, unet.state_dict()


@pytest.fixture
def ddpm(saved, tmp_path):
    """A copy that a test may break."""
    import shutil

    return shutil.copytree(saved[0], tmp_path / "ddpm")


@pytest.fixture
def offline(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def assert_weights(den, state):
    own = den.module.state_dict()
    assert own.keys() == state.keys() and all(torch.equal(own[k], state[k]) for k in state)


@pytest.mark.parametrize("part", ["", "unet"])
def test_pipeline_and_model_folders(saved, part, offline):
    folder, state = saved
    den = gk.load(folder / part if part else folder)
    assert_weights(den, state)
    assert den.schedule.name == "DDPMScheduler" and den.sample_shape == (1, 8, 8) and not den.module.training
    assert den.notes == [] and len(den.checkpoint["sha256"]) == 64
    assert den.name == (part or "ddpm") and isinstance(den, gk.Denoiser)


def test_the_old_layout_with_everything_in_one_folder(ddpm):
    for file in (ddpm / "unet").iterdir():
        file.rename(ddpm / file.name)
    (ddpm / "unet").rmdir()
    (ddpm / "scheduler" / "scheduler_config.json").rename(ddpm / "scheduler_config.json")
    assert gk.load(ddpm).parameters > 0


def test_half_precision_is_run_in_float32_with_a_note(saved, ddpm):
    folder, state = saved
    diffusers.UNet2DModel.from_pretrained(folder / "unet").half().save_pretrained(ddpm / "unet", variant="fp16")
    (ddpm / "unet" / f"{STEM}.safetensors").unlink()
    den = gk.load(ddpm, device="cpu")
    assert den.dtype == torch.float32
    assert "weights stored in float16, run in float32" in den.notes and any("fp16 variant" in n for n in den.notes)
    assert_weights(den, {k: v.half().float() for k, v in state.items()})


def test_sharded_weights(saved, ddpm):
    folder, state = saved
    unet = diffusers.UNet2DModel.from_pretrained(folder / "unet")
    (ddpm / "unet" / f"{STEM}.safetensors").unlink()
    unet.save_pretrained(ddpm / "unet", max_shard_size="100KB")
    assert len(list((ddpm / "unet").glob("*-of-*.safetensors"))) > 1
    assert_weights(gk.load(ddpm), state)


def test_a_pickle_of_tensors_is_read_with_a_note(saved, ddpm):
    _, state = saved
    (ddpm / "unet" / f"{STEM}.safetensors").unlink()
    torch.save(state, ddpm / "unet" / f"{STEM}.bin")
    den = gk.load(ddpm)
    assert_weights(den, state)
    assert any(f"pickle {STEM}.bin" in note for note in den.notes)
    assert not list((ddpm / "unet").glob("*.safetensors"))


def test_a_pickle_with_code_is_refused(saved, ddpm):
    _, state = saved
    (ddpm / "unet" / f"{STEM}.safetensors").unlink()
    torch.save({"state_dict": state, "args": InputError("x")}, ddpm / "unet" / f"{STEM}.bin")
    with pytest.raises(UnsafeCheckpointError, match=r"genkernel\.errors\.InputError.*--trust-pickle"):
        gk.load(ddpm)
    assert_weights(gk.load(ddpm, trust_pickle=True), state)


def test_transformers_with_flow_matching(tmp_path):
    transformer = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=4, num_layers=1, sample_size=8,
        num_embeds_ada_norm=10,
    )  # fmt: skip
    transformer.save_pretrained(tmp_path / "transformer")
    diffusers.FlowMatchEulerDiscreteScheduler().save_pretrained(tmp_path / "scheduler")
    with pytest.raises(InputError, match=r"conditioned on class_labels \[n\] integers below 10.*conditioning='zeros'"):
        gk.load(tmp_path)
    den = gk.load(tmp_path, conditioning={"class_labels": torch.tensor([2])})
    assert den.schedule.prediction_type == "flow" and den.sample_shape == (4, 8, 8)


def test_latent_models_encode_images_with_the_pipelines_vae(tmp_path):
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(**(UNET | dict(in_channels=2, out_channels=2)))
    vae = diffusers.AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=2, block_out_channels=(4, 8), norm_num_groups=2,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, scaling_factor=0.5,
    )  # fmt: skip
    unet.save_pretrained(tmp_path / "unet")
    vae.save_pretrained(tmp_path / "vae")
    diffusers.DDIMScheduler().save_pretrained(tmp_path / "scheduler")
    den = gk.load(tmp_path)
    assert den.sample_shape == (2, 8, 8) and den.image_shape == (3, 16, 16)
    assert any("latents" in note for note in den.notes)
    images = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        expected = vae.eval().encode(images * 2 - 1).latent_dist.mode() * 0.5
    torch.testing.assert_close(den.prepare(images), expected)
    with pytest.raises(InputError, match="images are 2×8×8, the model takes 3×16×16"):
        den.prepare(torch.rand(1, 2, 8, 8))


def test_another_schedule_may_be_given(saved, tmp_path):
    folder, _ = saved
    assert gk.load(folder, schedule=gk.NoiseSchedule.vp(100)).schedule.time_range == (0, 99)
    assert (
        gk.load(folder, scheduler=diffusers.DDIMScheduler(), prediction_type="sample").schedule.prediction_type
        == "sample"
    )
    diffusers.DDIMScheduler(num_train_timesteps=7).save_pretrained(tmp_path)
    assert gk.load(folder, scheduler=tmp_path).schedule.span == 7
    assert gk.load(folder, scheduler=str(tmp_path / "scheduler_config.json")).schedule.span == 7


def test_a_file_of_weights_with_its_factory(tmp_path, monkeypatch):
    (tmp_path / "mymodels.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self, channels=1):\n"
        "        super().__init__()\n"
        "        self.conv = torch.nn.Conv2d(channels, channels, 3, padding=1)\n"
        "    def forward(self, x, t):\n"
        "        return self.conv(x) + 0.001 * t.view(-1, 1, 1, 1)\n"
        "class Other(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.net = torch.nn.Linear(2, 2)\n"
        "def nothing():\n"
        "    return 3\n"
        "def boom():\n"
        "    raise RuntimeError('no such GPU\\n  at all')\n"
        "def leave():\n"
        "    raise SystemExit(2)\n"
    )
    (tmp_path / "mybroken.py").write_text("raise RuntimeError('boom')\n")
    (tmp_path / "mysyntax.py").write_text("x = 1\ndef f(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    weights = {"conv.weight": torch.ones(2, 2, 3, 3), "conv.bias": torch.zeros(2)}
    save_file(weights, tmp_path / "w.safetensors")
    options = dict(schedule=gk.NoiseSchedule.vp(), sample_shape=(2, 4, 4))
    den = gk.load(tmp_path / "w.safetensors", factory="mymodels:Net", factory_args={"channels": 2}, **options)
    assert_weights(den, weights)
    for factory, arguments, sentence in [
        ("mymodels:Net", {}, r"do not fit 'mymodels:Net': size mismatch"),
        ("mymodels:Net", {"width": 2}, "cannot be called with"),
        ("mymodels:Missing", {}, "cannot be imported"),
        ("nowhere:Net", {}, "cannot be imported"),
        ("mymodels", {}, r"factory is 'package\.module:Name'"),
        ("mymodels:nothing", {}, "built an int, not"),
        ("mymodels:boom", {}, "fails when it is called with {}: RuntimeError: no such GPU"),
        ("mymodels:leave", {}, "ends the program"),
        ("mybroken:Net", {}, "cannot be imported: RuntimeError: boom"),
        ("mysyntax:Net", {}, r"cannot be imported: SyntaxError: .* \(mysyntax.py, line 2\)"),
        ("mymodels:Other", {}, "the file lacks net.weight, net.bias, and it has conv.bias, conv.weight that"),
    ]:
        with pytest.raises(InputError, match=sentence) as caught:
            gk.load(tmp_path / "w.safetensors", factory=factory, factory_args=arguments, **options)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="does not say what network"):
        gk.load(tmp_path / "w.safetensors", **options)
    with pytest.raises(InputError, match="comes without a noise schedule"):
        gk.load(
            tmp_path / "w.safetensors", factory="mymodels:Net", factory_args={"channels": 2}, sample_shape=(2, 4, 4)
        )


# ------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize("path", ["no-such-folder", "runs/ddpm-mnits", "/no/where"])
def test_missing_paths_fail_at_once(path, offline):
    with pytest.raises(MissingError, match="no checkpoint at"):
        gk.load(path)


def test_broken_weights(saved, ddpm):
    file = ddpm / "unet" / f"{STEM}.safetensors"
    state = load_file(file)
    state["conv_in.weight"][0, 0, 0, 0] = float("inf")
    save_file(state, file)
    with pytest.raises(NonFiniteError, match=r"'conv_in\.weight'"):
        gk.load(ddpm)
    del state["conv_in.weight"]
    save_file(state, file)
    with pytest.raises(InputError, match=r"lacks 1 weights of UNet2DModel, such as 'conv_in\.weight'"):
        gk.load(ddpm)
    file.write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match="cannot be loaded as UNet2DModel") as caught:
        gk.load(ddpm)
    assert "\n" not in str(caught.value)


def test_configurations_that_do_not_fit(saved, ddpm):
    config = json.loads((ddpm / "unet" / "config.json").read_text())
    (ddpm / "unet" / "config.json").write_text(json.dumps(config | {"in_channels": 3}))
    with pytest.raises(InputError, match=r"cannot be loaded as UNet2DModel|other shapes"):
        gk.load(ddpm)
    (ddpm / "unet" / "config.json").write_text(json.dumps(config | {"_class_name": "NoSuchModel"}))
    with pytest.raises(InputError, match="NoSuchModel"):
        gk.load(ddpm)
    (ddpm / "unet" / "config.json").write_text(json.dumps(config))
    path = ddpm / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({"_class_name": "NoSuchScheduler"}))
    with pytest.raises(InputError, match="NoSuchScheduler"):
        gk.load(ddpm)
    path.unlink()
    with pytest.raises(InputError, match=r"no scheduler_config\.json.*NoiseSchedule\.vp"):
        gk.load(ddpm)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"kind": "gan"}, "does not say what network it belongs to"),
        ({"kind": "classifier"}, "does not say what network it belongs to"),
        ({"kind": "vae"}, "kind is 'diffusion' or 'gan'"),
        ({"device": "toaster"}, "device 'toaster' cannot be used"),
        ({"prediction_type": "noise"}, "prediction_type is"),
        ({"conditioning": {"class_labels": 3, "text": 1}}, "takes no 'text'"),
        ({"params": "nothing.*"}, "matches none"),
    ],
)
def test_options_that_make_no_sense(saved, options, sentence):
    with pytest.raises(InputError, match=sentence) as caught:
        gk.load(saved[0], **options)
    assert "\n" not in str(caught.value)
