"""The table of architectures: rows that are right, rows that say what is wrong, and a file that is taken up again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from genkernel.bench.architecture_table import describe, fill, markdown, read
from genkernel.bench.architectures import (
    SOURCES,
    Architecture,
    Built,
    Double,
    architectures,
    blocks,
    check,
    move_off_constants,
    ranks,
)
from genkernel.bench.zoo.classifiers import family
from genkernel.bench.zoo.tiny import joined
from genkernel.errors import InputError
from scripts import check_architectures
from tests.zoo import CASES, traps

SMALL = [
    "squeezenet1_1", "UNet2DConditionModel", "StableCascadeUNet", "FluxTransformer2DModel", "HunyuanDiT2DModel",
    "CogVideoXTransformer3DModel", "AutoencoderOobleck",
]  # fmt: skip
EVERY = architectures(SOURCES)
#: one row of its time embedding, that of t = 0, is shared by all samples
SHARED_ROW = "QwenImage21Transformer2DModel"


def small(module: nn.Module, **options: object) -> Architecture:
    return Architecture(
        "net", "test", lambda: Built(module, lambda n: torch.randn(n, 3, dtype=torch.float64)), **options
    )  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in SMALL else pytest.mark.slow) for name, a in EVERY.items() if a.build],
)
def test_agrees_with_the_reference(name: str) -> None:
    row = check(EVERY[name])
    if name == "ControlNetUnionModel":  # its attention reads (n, conditions, channels) as (tokens, n, channels)
        assert row.status == "refused"
        return
    assert row.status == "ok", row.note
    assert row.error is not None and row.error < 1e-12
    assert row.worst is not None and row.worst < 1e-10
    assert row.by_rule > 0
    assert row.generic == [] or name == SHARED_ROW


@pytest.mark.parametrize("trap", traps.architectures(), ids=lambda a: a.name)
def test_traps(trap: Architecture) -> None:
    row = check(trap)
    assert row.status == "ok", row.note
    assert row.generic == []


def test_traps_are_cases_of_the_zoo() -> None:
    assert set(traps.TRAPS.values()) <= {case.name for case in CASES}


def test_at_least_thirty_denoisers() -> None:
    denoisers = {
        name.split()[0]
        for name, a in EVERY.items()
        if a.group == "diffusers" and a.build and not name.startswith(("Autoencoder", "Asymmetric", "VQModel"))
    }
    assert len(denoisers) >= 30


def test_every_network_of_torchvision_and_of_diffusers_is_named() -> None:
    import torchvision

    from genkernel.bench.zoo.others import networks

    names = {name.split()[0] for name in EVERY}
    assert set(torchvision.models.list_models(module=torchvision.models)) <= names
    assert set(networks()) <= names
    assert all(a.reason for a in EVERY.values() if a.build is None)


def test_a_wrong_kernel_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from genkernel.bench import architectures as home

    true = home._reference
    monkeypatch.setattr(home, "_reference", lambda *args: {k: v * (1 + 1e-8) for k, v in true(*args).items()})
    row = check(small(nn.Linear(3, 2)))
    assert row.status == "wrong"
    assert row.error == pytest.approx(1e-8, rel=1e-3)
    assert "**`net`**" in markdown([row], row.engine)


def test_what_raises_is_a_row() -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(3))

        def forward(self, x: Tensor) -> Tensor:
            raise ValueError("no such luck")

    row = check(small(Broken()))
    assert row.status == "failed" and "ValueError: no such luck" in row.note
    assert "no such luck" in describe(row)

    class Coupled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).softmax(0)

    row = check(small(Coupled(3, 2)))
    assert row.status == "refused"
    assert "Refused" in markdown([row], row.engine)


def test_constants_are_moved_and_statistics_drawn() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    nn.init.zeros_(net[0].weight)
    bias = net[0].bias.clone()
    move_off_constants(net)
    assert 0 < net[0].weight.abs().max() < 0.2
    assert torch.equal(net[0].bias, bias)
    assert (net[1].weight != 1).all()
    assert (net[1].running_var != 1).all()


def test_casts_stay_in_double() -> None:
    x, few = torch.randn(3, 3, dtype=torch.float64), torch.randn(3, 3)
    with Double():
        assert x.float() is x
        assert x.to(torch.float16).dtype == torch.float64
        assert x.to(few).dtype == torch.float64
        assert x.softmax(0, dtype=torch.float32).dtype == torch.float64
        assert torch.arange(3).float().dtype == torch.float64
        assert torch.einsum("ij,jk->ik", x, few).dtype == torch.float64
        assert few.to(torch.float32).dtype == torch.float32
        assert x.to(torch.int64).dtype == torch.int64


def test_blocks_of_parameters() -> None:
    assert blocks({"a": 3, "b": 4, "c": 9, "d": 1}, limit=8) == [["a", "b"], ["c"], ["d"]]
    assert blocks({}, limit=8) == []


def test_ranks() -> None:
    assert ranks(torch.diag(torch.tensor([1.0, 1e-7, 1e-10, 1e-14], dtype=torch.float64)), (1e-12, 1e-9, 1e-6)) == [
        3,
        2,
        1,
    ]


def test_families() -> None:
    names = ("vgg11_bn", "regnet_y_128gf", "swin_v2_b", "swin_b", "wide_resnet101_2", "resnext101_64x4d", "vit_h_14")
    assert [family(name) for name in names] == ["vgg", "regnet_y", "swin_v2", "swin", "wide_resnet", "resnext", "vit"]


def test_several_outputs_are_joined() -> None:
    parts = (torch.ones(2, 3), [torch.zeros(2, 1, 2)])
    assert joined(parts).shape == (2, 5)
    assert joined(parts[0]) is parts[0]


# ------------------------------------------------------------------------------ the file


def test_rows_are_kept_and_gaps_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from genkernel.bench import architecture_table as home

    store, computed = tmp_path / "rows.json", []

    def counted(architecture: Architecture):  # type: ignore[no-untyped-def]
        computed.append(architecture.name)
        return check(architecture)

    monkeypatch.setattr(home, "check", counted)
    sources = ["tests.zoo.traps"]
    rows = fill(store, sources, ["bare*"], isolated=False)
    assert [row.status for row in rows] == ["ok"]
    assert read(store)["bare parameters"] == rows[0]
    fill(store, sources, ["bare*", "tied*"], isolated=False)
    assert computed == ["bare parameters", "tied weights"]
    fill(store, sources, ["bare*"], isolated=False, again=True)
    assert len(computed) == 3
    entries = json.loads(store.read_text())
    entries[0]["versions"] = {"torch": "1.0"}
    entries[1]["status"] = "failed"
    store.write_text(json.dumps(entries))
    fill(store, sources, ["bare*", "tied*"], isolated=False)
    assert len(computed) == 5
    with pytest.raises(InputError, match="nothing like that"):
        fill(store, sources, ["nothing like that"], isolated=False)
    store.write_text("{")
    with pytest.raises(InputError, match="no file of rows"):
        read(store)


def test_the_page_says_what_is_old_and_what_is_left_out(tmp_path: Path) -> None:
    rows = fill(
        tmp_path / "rows.json", ["tests.zoo.traps", "genkernel.bench.zoo.unets"], ["bare*", "Multi*"], isolated=False
    )
    page = markdown(rows, rows[0].engine)
    assert "| `bare parameters` |" in page
    assert "- `MultiControlNetModel`: " in page
    assert "earlier state" not in page
    assert "1 of the rows" in markdown(rows, "another")


@pytest.mark.slow
def test_a_process_of_its_own_that_dies_is_a_row(tmp_path: Path) -> None:
    rows = fill(tmp_path / "rows.json", ["tests.bench.dying"], progress=True)
    assert [row.status for row in rows] == ["ok", "failed", "ok"]
    assert "died" in rows[1].note


def test_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    options = ["--only", "bare parameters", "--rows", str(tmp_path / "rows.json"), "--inline"]
    assert check_architectures.main([*options, "--out", str(page)]) == 0
    assert "| `bare parameters` |" in page.read_text()
    assert check_architectures.main([*options, "--out", str(tmp_path / "rows2.json")]) == 0
    assert json.loads((tmp_path / "rows2.json").read_text())[0]["name"] == "bare parameters"
    assert "1 agree, 0 do not" in capsys.readouterr().out
    check_architectures.main(["--list"])
    assert "resnet18" in capsys.readouterr().out.split()
