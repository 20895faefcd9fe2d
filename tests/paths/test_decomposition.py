"""What a decomposition says of its sources."""

from __future__ import annotations

import pytest
import torch

from genkernel.errors import InputError
from tests.paths.fake_parts import fake_parts


def test_sources_are_found_by_their_labels() -> None:
    parts = fake_parts(groups=4, layers=3)
    for number, source in enumerate(parts.sources):
        torch.testing.assert_close(parts[source], parts.values[number])
    torch.testing.assert_close(sum(parts[source] for source in parts.sources), parts.values.sum(0))
    with pytest.raises(InputError, match=r"no source 'nobody'; there are .*'weight decay'"):
        parts["nobody"]
    with pytest.raises(TypeError, match="not iterable"):
        list(parts)  # type: ignore[call-overload]
