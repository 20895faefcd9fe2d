"""Weights from files: tensors come out, code never runs, and mistakes get one sentence."""

from __future__ import annotations

import pickle

import pytest
import torch
from safetensors.torch import save_file

from genkernel.checkpoints import read_state_dict, sha256, stored_dtypes, unsafe_globals
from genkernel.errors import InputError, MissingError, UnsafeCheckpointError

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.zeros(2)}


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


def assert_state(found):
    assert found.keys() == STATE.keys()
    assert all(torch.equal(found[k], STATE[k]) for k in STATE)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "w.bin", "w.ckpt"])
def test_tensors_come_back(tmp_path, name):
    path = tmp_path / name
    save_file(STATE, path) if name.endswith("safetensors") else torch.save(STATE, path)
    assert_state(read_state_dict(path))


def test_the_old_torch_format_is_read_too(tmp_path):
    torch.save(STATE, tmp_path / "w.pt", _use_new_zipfile_serialization=False)
    assert unsafe_globals(tmp_path / "w.pt") == []
    assert_state(read_state_dict(tmp_path / "w.pt"))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_is_refused_by_name_and_does_not_run(tmp_path, zipped):
    path, trap = tmp_path / "w.pt", tmp_path / "sprung"
    torch.save({**STATE, "extra": Trap(trap)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UnsafeCheckpointError, match=r"(io|builtins)\.open.*--trust-pickle") as caught:
        read_state_dict(path)
    assert "\n" not in str(caught.value) and not trap.exists()
    assert any(name.endswith("open") for name in unsafe_globals(path)) and not trap.exists()
    assert_state(read_state_dict(path, trust_pickle=True))
    assert trap.exists()


def test_a_whole_pickled_module_needs_trust(tmp_path):
    path = tmp_path / "w.pt"
    torch.save(torch.nn.Linear(3, 2), path)
    with pytest.raises(UnsafeCheckpointError, match=r"torch\.nn\.modules\.linear\.Linear"):
        read_state_dict(path)
    assert read_state_dict(path, trust_pickle=True).keys() == {"weight", "bias"}


def test_a_bare_pickle_is_refused(tmp_path):
    path, trap = tmp_path / "w.pkl", tmp_path / "sprung"
    path.write_bytes(pickle.dumps(Trap(trap)))
    with pytest.warns(UserWarning, match="protocol"), pytest.raises((UnsafeCheckpointError, InputError)) as caught:
        read_state_dict(path)
    assert "\n" not in str(caught.value)
    assert not trap.exists()


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "_orig_mod.module.module."]
)
def test_wrappers_leave_no_prefix(tmp_path, prefix):
    save_file({prefix + k: v for k, v in STATE.items()}, tmp_path / "w.safetensors")
    assert_state(read_state_dict(tmp_path / "w.safetensors"))


def test_nested_checkpoints(tmp_path):
    other = {k: v + 1 for k, v in STATE.items()}
    path = tmp_path / "w.pt"
    torch.save({"state_dict": other, "ema": STATE, "step": 7}, path)
    assert_state(read_state_dict(path))  # averages are what is sampled with
    assert torch.equal(read_state_dict(path, key="state_dict")["a.bias"], torch.ones(2))
    with pytest.raises(InputError, match=r"no entry 'best'; it has state_dict, ema, step"):
        read_state_dict(path, key="best")
    torch.save({"weights": STATE, "epoch": 3}, path)
    assert_state(read_state_dict(path))
    torch.save({"G": STATE, "D": other}, path)
    with pytest.raises(InputError, match=r"several sets of weights \(G, D\).*key="):
        read_state_dict(path)
    torch.save({"epoch": 3}, path)
    with pytest.raises(InputError, match="holds no tensors"):
        read_state_dict(path)
    torch.save([1, 2], path)
    with pytest.raises(InputError, match="holds a list"):
        read_state_dict(path)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_broken_files(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(MissingError, match="does not exist"):
        read_state_dict(path)
    path.write_bytes(b"not a checkpoint at all")
    with pytest.raises(InputError, match=r"readable safetensors|torch checkpoint") as caught:
        read_state_dict(path)
    assert "\n" not in str(caught.value)


def test_stored_dtypes_are_counted_from_the_header(tmp_path):
    save_file({"a": torch.zeros(2, 3, dtype=torch.float16), "b": torch.zeros(5)}, tmp_path / "w.safetensors")
    assert stored_dtypes([tmp_path / "w.safetensors"]) == {"float16": 6, "float32": 5}


def test_digest(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    save_file(STATE, folder / "w.safetensors")
    (folder / "config.json").write_text("{}")
    first = sha256(folder)
    (folder / "samples.png").write_bytes(b"...")
    (folder / "training.pt").write_bytes(b"...")
    assert sha256(folder) == first and len(first) == 64
    (folder / "config.json").write_text("{ }")
    assert sha256(folder) != first
    assert sha256(folder / "w.safetensors") != first
    (folder / "model_index.json").write_text("{}")
    pipeline = sha256(folder)
    (folder / "text_encoder").mkdir()
    save_file(STATE, folder / "text_encoder" / "model.safetensors")  # not read, so not counted
    assert sha256(folder) == pipeline
    with pytest.raises(MissingError):
        sha256(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingError, match="no weights"):
        sha256(tmp_path / "empty")


@pytest.mark.parametrize(("content", "words"), [(b"e1 garbage", "not a file that torch.save wrote"), (b"", "is empty")])
def test_what_is_no_file_of_torch_is_said(tmp_path, content, words):
    path = tmp_path / "garbage.pt"
    path.write_bytes(content)
    for read in (read_state_dict, unsafe_globals):
        with pytest.raises(InputError, match=rf"cannot be read as a torch checkpoint, because .*{words}"):
            read(path)
