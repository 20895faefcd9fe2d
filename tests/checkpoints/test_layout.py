"""What lies at a path, from file names and JSON alone; and where a name leads without a network."""

from __future__ import annotations

import json
import socket

import pytest
import torch
from safetensors.torch import save_file

from genkernel.checkpoints import detect, resolve
from genkernel.errors import InputError, MissingError

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def offline(monkeypatch):
    """Any attempt to open a connection fails the test."""

    def refuse(*args, **kwargs):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def model(folder, name="UNet2DModel", weights=WEIGHTS):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"_class_name": name}))
    (folder / weights).write_bytes(b"1234")
    return folder


def scheduler(folder, name="scheduler_config.json"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps({"_class_name": "DDPMScheduler"}))


@pytest.mark.parametrize("part", ["unet", "transformer"])
def test_pipelines(tmp_path, part):
    index = {"_class_name": "APipeline", part: ["diffusers", "X"], "vae": ["diffusers", "AutoencoderKL"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    model(tmp_path / part, "X")
    model(tmp_path / "vae", "AutoencoderKL")
    scheduler(tmp_path / "scheduler")
    layout = detect(tmp_path)
    assert (layout.kind, layout.model_class, layout.pipeline_class) == ("pipeline", "X", "APipeline")
    assert layout.model == tmp_path / part and layout.encoder == tmp_path / "vae"
    assert layout.scheduler == tmp_path / "scheduler" / "scheduler_config.json"
    assert layout.weights.format == "safetensors" and layout.weights.bytes == 4
    # the folder of the model alone finds the scheduler beside it
    assert detect(tmp_path / part).scheduler == layout.scheduler


def test_old_pipelines_keep_everything_in_one_folder(tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "DDPMPipeline"}))
    model(tmp_path)
    scheduler(tmp_path)
    layout = detect(tmp_path)
    assert layout.kind == "pipeline" and layout.model == tmp_path and layout.scheduler is not None


def test_pipelines_with_two_denoisers_say_which_is_used(tmp_path):
    index = {"_class_name": "P", "transformer": ["diffusers", "X"], "transformer_2": ["diffusers", "X"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    model(tmp_path / "transformer")
    model(tmp_path / "transformer_2")
    assert detect(tmp_path).notes == ("the pipeline also has transformer_2; transformer is used",)


def test_models_without_a_scheduler_and_with_one_inside(tmp_path):
    model(tmp_path / "m")
    assert detect(tmp_path / "m").scheduler is None and detect(tmp_path / "m").kind == "model"
    scheduler(tmp_path / "m" / "scheduler", "config.json")
    assert detect(tmp_path / "m").scheduler is not None


def test_weights_in_order_of_preference(tmp_path):
    folder = model(tmp_path / "m", weights="diffusion_pytorch_model.bin")
    assert detect(folder).weights.format == "pickle"
    (folder / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"1")
    weights = detect(folder).weights
    assert (weights.format, weights.variant) == ("safetensors", "fp16")
    (folder / "diffusion_pytorch_model.non_ema.safetensors").write_bytes(b"1")
    assert detect(folder).weights.variant == "fp16"
    (folder / WEIGHTS).write_bytes(b"1")
    assert detect(folder).weights.variant is None


@pytest.mark.parametrize(
    ("index", "variant"),
    [
        ("diffusion_pytorch_model.safetensors.index.json", None),
        ("diffusion_pytorch_model.safetensors.index.fp16.json", "fp16"),
    ],
)
def test_sharded_weights(tmp_path, index, variant):
    folder = model(tmp_path / "m")
    (folder / WEIGHTS).unlink()
    shards = [f"diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    (folder / index).write_text(json.dumps({"weight_map": {"a": shards[0], "b": shards[1], "c": shards[0]}}))
    (folder / shards[0]).write_bytes(b"12")
    with pytest.raises(MissingError, match="00002-of-00002"):
        detect(folder)
    (folder / shards[1]).write_bytes(b"345")
    weights = detect(folder).weights
    assert [f.name for f in weights.files] == shards and weights.bytes == 5 and weights.variant == variant


@pytest.mark.parametrize(
    "shards",
    [
        ["a.safetensors"],
        *(
            {"a": name}
            for name in (
                "../other.safetensors", "/etc/x.safetensors", "sub/x.safetensors", "sub\\x.safetensors", "..",
                "x.bin", "x.txt", 3,
            )
        ),
    ],
)  # fmt: skip
def test_an_index_names_only_weights_beside_it(tmp_path, shards):
    folder = model(tmp_path / "m")
    (folder / WEIGHTS).unlink()
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    (tmp_path / "other.safetensors").write_bytes(b"1")
    with pytest.raises(InputError, match=r"weight_map has to map|in the same folder"):
        detect(folder)


def test_single_files(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "w.safetensors")
    assert detect(tmp_path / "w.safetensors").kind == "file"
    (tmp_path / "w.pt").write_bytes(b"")
    assert detect(tmp_path / "w.pt").weights.format == "pickle"
    (tmp_path / "w.txt").write_text("")
    with pytest.raises(InputError, match="not a checkpoint"):
        detect(tmp_path / "w.txt")


def test_folders_that_are_no_checkpoints(tmp_path):
    with pytest.raises(InputError, match=r"neither model_index\.json nor unet/config\.json"):
        detect(tmp_path)
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "P"}))
    with pytest.raises(MissingError, match="is the pipeline P but has no denoiser"):
        detect(tmp_path)
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(InputError, match="not readable JSON"):
        detect(tmp_path)
    folder = model(tmp_path / "m")
    (folder / WEIGHTS).unlink()
    with pytest.raises(MissingError, match="a configuration but no weights"):
        detect(folder)
    (folder / "config.json").write_text("{}")
    with pytest.raises(InputError, match="names no model class"):
        detect(folder)


# --------------------------------------------------------------------------- resolving


def test_paths_are_paths(tmp_path, offline):
    assert resolve(tmp_path) == tmp_path and resolve(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("name", ["nothing", "./a/b", "/no/where/at/all", "runs/ddpm-mnits", "a/b/c", "w.safetensors"])
def test_a_mistyped_path_fails_at_once_without_the_network(name, tmp_path, monkeypatch, offline):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingError, match=r"^no checkpoint at ") as caught:
        resolve(name)
    assert "\n" not in str(caught.value)


def test_a_near_miss_is_suggested(tmp_path, monkeypatch, offline):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "ddpm-mnist").mkdir(parents=True)
    with pytest.raises(MissingError, match=r"did you mean 'runs/ddpm-mnist'\?.*--download"):
        resolve("runs/ddpm-mnits")


def test_what_is_shipped_is_suggested(tmp_path, monkeypatch, offline):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingError, match="did you mean 'ddpm-mnist'"):
        resolve("ddpm-minst")
    with pytest.raises(MissingError) as found:
        resolve(tmp_path / "ddpm-minst")  # a place of the user's own
    assert "did you mean" not in str(found.value)


def test_a_cached_hub_model_needs_no_network(tmp_path, monkeypatch, offline):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repo = tmp_path / "models--someone--ddpm"
    snapshot = repo / "snapshots" / ("0" * 40)
    model(snapshot)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("0" * 40)
    found = resolve("someone/ddpm")
    assert found.resolve() == snapshot.resolve() and detect(found).model_class == "UNet2DModel"


def test_the_network_is_used_only_when_asked(monkeypatch, tmp_path):
    import huggingface_hub

    asked = []

    def snapshot_download(repo, *, local_files_only=False, allow_patterns=None):
        asked.append(local_files_only)
        if local_files_only:
            raise huggingface_hub.errors.LocalEntryNotFoundError("not cached")
        assert not any(p.endswith((".py", ".bin", ".pkl")) for p in allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(MissingError, match="--download"):
        resolve("someone/else")
    assert asked == [True]
    assert resolve("someone/else", download=True) == tmp_path
    assert asked == [True, True, False]
    with pytest.raises(InputError, match="neither a path nor a hub id"):
        resolve("something", download=True)
