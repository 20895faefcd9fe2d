"""Memory that contractions use again: lent to one at a time, and let go of at the end."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from genkernel.tangent import workspace
from genkernel.tangent.workspace import SMALL, kept, room

LIKE = torch.empty(0)
MANY = SMALL // 4


@pytest.fixture(autouse=True)
def nothing_waits() -> Iterator[None]:
    workspace._waiting.clear()
    yield
    workspace._waiting.clear()


def test_the_next_room_lies_where_the_last_one_did() -> None:
    with kept():
        with room(LIKE, 2, MANY) as first:
            assert (first.shape, first.dtype) == ((2, MANY), torch.float32)
            first.fill_(1.0)
            where = first.data_ptr()
        with room(LIKE.double(), MANY) as second:
            assert second.dtype == torch.float64 and second.data_ptr() == where
            second.fill_(2.0)
        with room(LIKE, 5 * MANY) as larger:
            assert float(larger.fill_(3.0).sum()) == 15 * MANY


def test_forgetting() -> None:
    with kept():
        with room(LIKE, MANY) as tensor:
            tensor.fill_(1.0)
            workspace.forget()  # not what is in use
            assert bool((tensor == 1).all())
            assert workspace._here.stores[0].bytes is not None
        workspace.forget()
        assert workspace._here.stores[0].bytes is None
    workspace.forget()


def test_what_waits_can_be_given_back() -> None:
    with kept(), room(LIKE, MANY):
        workspace.give_back()  # not what is in use
        assert workspace._here.stores[0].bytes is not None
    assert len(workspace._waiting) == 1
    workspace.give_back()
    assert not workspace._waiting


def test_the_next_call_takes_what_waits() -> None:
    with kept(), room(LIKE, MANY) as tensor:
        where = tensor.data_ptr()
    with kept(), room(LIKE, MANY) as tensor:
        assert tensor.data_ptr() == where
    scope = kept()
    scope.__enter__()
    held = room(LIKE, MANY)
    tensor = held.__enter__()
    scope.__exit__(None, None, None)  # left by an exception while someone still looks at it
    with kept(), room(LIKE, MANY) as other:
        assert other.data_ptr() != tensor.data_ptr()
    held.__exit__(None, None, None)


def test_two_at_a_time_do_not_share() -> None:
    with kept(), room(LIKE, MANY) as one, room(LIKE, MANY) as other:
        one.fill_(1.0)
        other.fill_(2.0)
        assert bool((one == 1).all())
        seen: list[int] = []

        def elsewhere() -> None:
            with room(LIKE, MANY) as third:
                third.fill_(3.0)
                seen.append(third.data_ptr())

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert seen and seen[0] not in (one.data_ptr(), other.data_ptr())
        assert bool((one == 1).all())


def test_an_inner_room_has_its_own_memory_each_time() -> None:
    where = set()
    with kept():
        for _ in range(3):
            with room(LIKE, MANY) as outer, room(LIKE, MANY, dtype=torch.float64) as inner:
                assert inner.dtype == torch.float64
                outer.fill_(1.0)
                inner.fill_(2.0)
                assert bool((outer == 1).all()) and bool((inner == 2).all())
                where.add((outer.data_ptr(), inner.data_ptr()))
    assert len(where) == 1
    assert sum(map(len, workspace._waiting)) == 4 * MANY + 8 * MANY


def test_a_room_is_free_again_after_an_error() -> None:
    with kept():
        with pytest.raises(ValueError, match="stop"), room(LIKE, MANY) as first:
            where = first.data_ptr()
            raise ValueError("stop")
        with room(LIKE, MANY) as second:
            assert second.data_ptr() == where


def test_nothing_stays() -> None:
    with kept():
        with kept(), room(LIKE, MANY):  # an inner run uses the outer one's
            pass
        assert workspace._here.stores is not None
    assert workspace._here.stores is None
    with room(LIKE, MANY) as tensor:  # outside of a run: ordinary memory
        assert tensor.numel() == MANY


def test_without_large_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(workspace.mmap, "MADV_HUGEPAGE", raising=False)
    with kept(), room(LIKE, MANY) as tensor:
        assert workspace._here.stores[0].memory is None
        assert float(tensor.fill_(1.0).sum()) == MANY


def test_what_is_too_large_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "WAITING", 6 * MANY)
    for rooms, waiting in ((2, 0), (1, 1)):
        with kept(), room(LIKE, rooms, MANY):
            pass
        assert len(workspace._waiting) == waiting
