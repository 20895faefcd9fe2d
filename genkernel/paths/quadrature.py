"""Rules for J̄ = ∫₀¹ J(θ + s Δθ) ds along one step.

The change of the outputs in one step is J̄ Δθ exactly, whatever the step; a rule on [0, 1] approximates J̄ by
Σ_q w_q J(θ + s_q Δθ). Global errors at a fixed horizon (step size × steps), for networks that are smooth:

==============  =====  ==================================  =========
rule            nodes  evaluations per step                order
==============  =====  ==================================  =========
``left``        1      1                                   1
``trapezoid``   2      1, shared between neighbours        2
``midpoint``    1      1, between the recorded weights     2
``gauss<m>``    m      m, between the recorded weights     2 m
``adaptive``    1-4    as many, as the step needs          2 to 8
``adaptive<m>`` 1-m    likewise                            2 to 2 m
==============  =====  ==================================  =========

``adaptive`` takes for every step the fewest nodes at which J̄ Δθ is what the outputs did, to half a percent of their
change. That is asked of the whole Δθ, one derivative per node, before any source is evaluated. Where kinks (of ReLU)
are crossed, errors fall with the number of nodes alone, and ``adaptive32`` takes up to 32.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np

from genkernel.errors import InputError

MISSED = 5e-3  # of a step's change, above which the adaptive rule takes more nodes
_MOST = 4  # nodes of the adaptive rule, unless its name says how many


@dataclass(frozen=True)
class Rule:
    """Nodes and weights on [0, 1].

    Attributes:
        name: as it was asked for.
        nodes, weights: of equal length.
        telescopes: the end of one step and the start of the next are evaluated together.
        finer: what a step is evaluated with when this one misses it by more than :data:`MISSED`.
    """

    name: str
    nodes: tuple[float, ...]
    weights: tuple[float, ...]
    telescopes: bool = False
    finer: Rule | None = None


def parse_rule(name: str) -> Rule:
    """A rule by its name.

    Raises:
        InputError: there is none of that name.
    """
    if name == "left":
        return Rule(name, (0.0,), (1.0,))
    if name == "trapezoid":
        return Rule(name, (0.0, 1.0), (0.5, 0.5), telescopes=True)
    if name == "midpoint":
        return Rule(name, (0.5,), (1.0,))
    if name == "adaptive":
        return _adaptive(name, _MOST)
    match = re.fullmatch(r"(gauss|adaptive)(\d{1,2})", name) if isinstance(name, str) else None
    if match and int(match[2]) >= 1:
        return _gauss(int(match[2])) if match[1] == "gauss" else _adaptive(name, int(match[2]))
    raise InputError(
        "rule is 'left', 'trapezoid', 'midpoint', 'gauss2', 'gauss4', …, 'adaptive' or 'adaptive32' and the like, "
        f"not {name!r}"
    )


def _adaptive(name: str, most: int) -> Rule:
    """Rules with 1, 2, 3, 4, 8, 16, … nodes, as far as the most allowed, each finer than the one before."""
    counts = sorted({*(count for count in (1, 2, 3, 4, 8, 16, 32, 64) if count < most), most})
    rule: Rule | None = None
    for count in reversed(counts):
        rule = replace(_gauss(count), finer=rule)
    assert rule is not None
    return replace(rule, name=name)


def _gauss(count: int) -> Rule:
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return Rule(f"gauss{count}", tuple(((nodes + 1) / 2).tolist()), tuple((weights / 2).tolist()))
