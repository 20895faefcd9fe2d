"""``genkernel bench``: the engine beside what a user would pick instead, and beside the machine's limits."""

from __future__ import annotations

from genkernel.bench.contenders import Contender, Outcome
from genkernel.bench.roster import contenders
from genkernel.bench.workloads import WORKLOADS, Problem, Workload

__all__ = ["WORKLOADS", "Contender", "Outcome", "Problem", "Workload", "contenders"]
