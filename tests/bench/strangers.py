"""Contenders that go wrong in known ways, by their import path."""

from __future__ import annotations

import os
import time

import torch

from genkernel.bench import Contender, Outcome, Problem
from genkernel.bench.contenders import Run, Setting, UnsupportedError
from genkernel.bench.roster import find


def _wrong(problem: Problem, setting: Setting) -> Run:
    right = find("loop").prepare(problem, setting)

    def run() -> Outcome:
        values = right().values
        assert values is not None
        return Outcome(values * 1.01)

    return run


def _fails(problem: Problem, setting: Setting) -> Run:
    raise ValueError("this network\nis beyond it")


def _refuses(problem: Problem, setting: Setting) -> Run:
    raise UnsupportedError("knows no convolutions")


def _dies(problem: Problem, setting: Setting) -> Run:
    def run() -> Outcome:
        os._exit(3)

    return run


def _never_ends(problem: Problem, setting: Setting) -> Run:
    def run() -> Outcome:
        time.sleep(600)
        return Outcome(None)

    return run


def _wants_everything(problem: Problem, setting: Setting) -> Run:
    return lambda: Outcome(torch.empty(1 << 46))


def _holds(problem: Problem, setting: Setting) -> Run:
    def run() -> Outcome:
        torch.ones(setting["mebibytes"] << 18)  # float32
        return find("loop").prepare(problem, {})()

    return run


wrong = Contender("wrong", "one percent too large", _wrong)
fails = Contender("fails", "raises", _fails)
refuses = Contender("refuses", "says that it cannot", _refuses)
dies = Contender("dies", "ends its process", _dies)
never_ends = Contender("never_ends", "sleeps", _never_ends)
wants_everything = Contender("wants_everything", "asks for 256 TiB", _wants_everything)
holds = Contender("holds", "holds memory that is known", _holds, lambda problem: [{"mebibytes": 100}])
absent = Contender("absent", "is not installed", _fails, package="no-such-distribution-anywhere")
