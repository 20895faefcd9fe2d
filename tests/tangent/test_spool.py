"""What waits in files comes back as it was."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch

from genkernel.tangent.spool import Spool


@pytest.mark.parametrize("most", [0, 100, 10**6])
def test_tensors_come_back_once_and_leave_nothing(most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    given = {f"task-{i}": {"totals": torch.randn(2, 3, dtype=torch.float64).mT, "n": torch.ones(1)} for i in range(4)}
    with Spool(most) as spool:
        for name, result in given.items():
            spool.put(name, result)
        assert bool(list(tmp_path.iterdir())) == (most < 10**6)
        for name, result in given.items():
            found = spool.take(name)
            assert found.keys() == result.keys() and all(torch.equal(found[k], result[k]) for k in result)
        with pytest.raises(KeyError):
            spool.take("task-0")
    assert not list(tmp_path.iterdir())
