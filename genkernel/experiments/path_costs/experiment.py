"""What it costs to know where outputs came from: memory and time of recording, of tapes, of their replay.

Every figure is of a process of its own (:mod:`genkernel.experiments.path_costs.cases`), times are medians of blocks
that alternate with the bare loop, and what cannot be run here (36 million parameters, 100 000 steps) is extrapolated
from the bytes that the files of small runs really have.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from genkernel.experiments.outcome import Claim, Outcome, Table, verdict
from genkernel.experiments.path_costs.cases import Case, measured

PARAMETERS, STEPS = 36_000_000, 100_000  # the claim on storage
STATED = (14.0, 0.14)  # TB, of all iterates and with √N copies
EVERY = math.ceil(math.sqrt(STEPS))  # steps between two of them
GOAL = 0.03  # of a tape's overhead
WORD = 4  # bytes of a float32

# What measurements may differ by from what they are compared with.
DIGITS = 0.05  # a size that is stated with two digits, or by a formula that leaves out headers of files
HELD, NEARLY = 1.2, 2.0  # a peak over what a formula counts: the network's own tensors are not in it; twice is another
GROWN = 1.15  # peaks of two runs of the same shape differ by what the allocator keeps
DEARER = 4.0  # a recorded step: one more backward pass makes 1.7 of it, and the queries' products come on top


@dataclass(frozen=True)
class Setting:
    """Which cases are run.

    Attributes:
        base: of the recordings.
        groups, widths, queries: one axis at a time around it.
        lengths: steps at which memory is compared.
        replays: N of tapes that are replayed.
        tapes: cases of tapes beside bare loops, by name.
        optimizers: whose copies are weighed.
    """

    base: Case
    groups: tuple[int, ...]
    widths: tuple[int, ...]
    queries: tuple[int, ...]
    lengths: tuple[int, ...]
    replays: tuple[int, ...]
    replayed: Case
    tapes: tuple[tuple[str, Case], ...]
    optimizers: tuple[str, ...] = ("SGD", "AdamW")


FULL = Setting(
    base=Case("record", width=600, groups=4, queries=4, steps=4, blocks=2),
    groups=(1, 4, 16, 64),
    widths=(200, 600, 1200),
    queries=(1, 4, 16, 64),
    lengths=(4, 16, 64),
    replays=(16, 64, 256),
    replayed=Case("replay", width=300, batch=32),
    tapes=(
        ("MLP, 0.4 M parameters, batch 64", Case("tape", width=600, steps=49, blocks=5)),
        ("MLP, 1.5 M, batch 512", Case("tape", width=1200, batch=512, steps=16, blocks=5)),
        ("UNet, 0.07 M, batch 32", Case("tape", network="unet", batch=32, steps=25, blocks=5)),
        (
            "UNet, 1.1 M (our recipe), batch 32",
            Case("tape", network="unet", widths=(32, 64, 64), size=16, batch=32, steps=9, blocks=5),
        ),
    ),
    optimizers=("SGD", "RMSprop", "AdamW"),
)
QUICK = Setting(
    base=Case("record", width=150, groups=2, queries=2, steps=3, blocks=1, batch=16),
    groups=(2, 8),
    widths=(150,),
    queries=(2,),
    lengths=(3,),
    replays=(9, 16),
    replayed=Case("replay", width=100, batch=8, queries=2),
    tapes=(("MLP, batch 256", Case("tape", width=300, batch=256, steps=16, blocks=1)),),
    optimizers=("AdamW",),
)


def run(
    *, quick: bool = False, seed: int = 0, progress: bool = True, setting: Setting | None = None, isolated: bool = True
) -> Outcome:
    """The cost table.

    Args:
        seed: changes nothing: times and sizes do not depend on numbers.
        setting: which cases; those of ``quick`` or the full ones by default.
        isolated: a process for every case; within this one otherwise, where peaks of memory mean little.
    """
    from tqdm import tqdm

    from genkernel.experiments.path_costs.cases import answer
    from genkernel.plots.prediction import path_costs

    setting = setting or (QUICK if quick else FULL)
    work = measured if isolated else answer
    cases = _cases(setting)
    found: dict[str, list[tuple[Case, dict[str, Any]]]] = {}
    with tqdm(total=sum(map(len, cases.values())), disable=not progress, desc="path-costs") as bar:
        for name, rows in cases.items():
            for case in rows:
                found.setdefault(name, []).append((case, work(case)))
                bar.update()
    stored = storage(found)
    names = [name for name, _ in setting.tapes]
    overheads = [_overhead(case, row) for case, row in found["tape"]]
    numbers = {
        name: [{"case": asdict(case)} | row for case, row in rows] for name, rows in found.items()
    } | {"storage": stored, "overheads": dict(zip(names, overheads, strict=True))}  # fmt: skip
    return Outcome(
        name="path-costs",
        settings={"setting": asdict(setting), "seed": seed, "quick": quick, "goal": GOAL},
        claims=_claims(found, stored, dict(zip(names, overheads, strict=True))),
        tables=_tables(found, stored, names, overheads),
        figures={
            "path_costs": path_costs(
                [(case.groups, case.queries, row["parameters"], row) for case, row in found["record"]],
                [(case.groups, case.queries, row["parameters"], row) for case, row in found["record memory"]],
                (setting.base.groups, setting.base.queries),
                dict(zip(names, overheads, strict=True)),
                {title: stored[key] for key, title in STORED.items()},
                GOAL,
                (PARAMETERS, STEPS, EVERY),
                {"dtype": "float32"},
                "one process per case, medians of alternating blocks",
            )
        },
        numbers=numbers,
    )


def _cases(setting: Setting) -> dict[str, list[Case]]:
    base = setting.base
    record = [replace(base, groups=g) for g in setting.groups]
    record += [replace(base, width=w) for w in setting.widths]
    record += [replace(base, queries=m) for m in setting.queries]
    record = list(dict.fromkeys(record))
    memory = [replace(case, kind="record memory", steps=setting.lengths[0]) for case in record]
    memory = [case for case in memory if case.queries == base.queries]
    memory += [replace(base, kind="record memory", steps=n) for n in setting.lengths[1:]]
    return {
        "record": record,
        "record memory": memory,
        "replay": [replace(setting.replayed, steps=n) for n in setting.replays],
        "copies": [replace(setting.replayed, kind="copies", steps=4, optimizer=name) for name in setting.optimizers],
        "tape": [case for _, case in setting.tapes],
    }


def _overhead(case: Case, row: dict[str, Any]) -> dict[str, float]:
    """Relative extra time as measured, and with a copy every √N steps of a long run."""
    return {
        "measured": row["ratio"] - 1,
        "hooks": row["hooks"],
        "error": row["hooks_error"],
        "long": row["hooks"] + row["copy_s"] / EVERY / row["bare_s"],
        "every": row["every"],
        "spread": row["spread"],
    }


STORED = {
    "all_weights": "weights of every step",
    "all_states": "weights and AdamW state of every step",
    "tape_weights": "√N copies of the weights",
    "tape": "tape: √N copies of weights and state, and the steps",
    "waiting": "files that wait during its replay",
}


def storage(found: dict[str, list[tuple[Case, dict[str, Any]]]]) -> dict[str, float]:
    """Bytes of a run of 36 million parameters over 100 000 steps, from those of small files."""
    adam = next(row for case, row in found["copies"] if case.optimizer == "AdamW")
    per_parameter = adam["copy_bytes"] / adam["parameters"]
    longest, row = max(found["replay"], key=lambda one: one[0].steps)
    # looked at from within the last step of a stretch, when all others wait
    per_waiting = row["spool_bytes"] / ((math.ceil(math.sqrt(longest.steps)) - 1) * row["parameters"])
    copies = math.ceil(STEPS / EVERY) + 1
    return {
        "copies": copies,
        "bytes_per_parameter": per_parameter,
        "bytes_per_step": row["steps_bytes"] / longest.steps,
        "waiting_per_parameter_and_step": per_waiting,
        "all_weights": float(STEPS * PARAMETERS * WORD),
        "all_states": STEPS * PARAMETERS * per_parameter,
        "tape_weights": float(copies * PARAMETERS * WORD),
        "tape": copies * PARAMETERS * per_parameter + STEPS * row["steps_bytes"] / longest.steps,
        "waiting": (EVERY * per_waiting + WORD) * PARAMETERS,  # and the weights at its end
    }


# ---------------------------------------------------------------------------------- results


def _tables(
    found: dict[str, list[tuple[Case, dict[str, Any]]]],
    stored: dict[str, float],
    names: list[str],
    overheads: list[dict[str, float]],
) -> list[Table]:
    record = Table(
        "Recording: seconds of a step, bare and recorded",
        ("P", "G", "m", "batch", "bare (ms)", "recorded (ms)", "factor"),
        [
            (
                row["parameters"],
                case.groups,
                case.queries,
                case.batch,
                1e3 * row["bare_s"],
                1e3 * row["recorded_s"],
                row["factor"],
            )
            for case, row in found["record"]
        ],
    )
    memory = Table(
        "Recording: peak of memory above the loop's own, against (2G + 2) P",
        ("P", "G", "m", "steps", "measured (MB)", "(2G + 2) P (MB)", "ratio", "copies of P"),
        [
            (
                row["parameters"],
                case.groups,
                case.queries,
                case.steps,
                _mega(row["extra_bytes"]),
                _mega(row["formula_bytes"]),
                _ratio(row["extra_bytes"], row["formula_bytes"]),
                _ratio(row["extra_bytes"], WORD * row["parameters"]),
            )
            for case, row in found["record memory"]
        ],
    )
    replayed = Table(
        "Tape and replay against N (copies every √N steps)",
        (
            "P",
            "N",
            "copies",
            "copies (MB)",
            "all iterates with state (MB)",
            "steps (kB per step)",
            "replay (ms per step)",
            "of the bare step",
            "peak of the replay (MB)",
            "waiting files (MB)",
            "gap",
        ),
        [
            (
                row["parameters"],
                case.steps,
                row["copies"],
                _mega(row["weights_bytes"]),
                _mega(row["copy_bytes"] * (case.steps + 1)),
                row["steps_bytes"] / case.steps / 1e3,
                1e3 * row["replay_s"],
                row["factor"],
                _mega(row["peak_bytes"]),
                _mega(row["spool_bytes"]),
                row["gap"],
            )
            for case, row in found["replay"]
        ],
    )
    copies = Table(
        "One copy, by optimizer",
        ("optimizer", "P", "bytes", "bytes per parameter"),
        [
            (case.optimizer, row["parameters"], row["copy_bytes"], row["copy_bytes"] / row["parameters"])
            for case, row in found["copies"]
        ],
    )
    tapes = Table(
        f"Taping: extra time relative to the bare loop; hooks by the tape's own clock; 'N = {_thousands(STEPS)}' with "
        f"a copy every {EVERY} steps",
        (
            "network",
            "bare step (ms)",
            "steps per copy",
            "measured",
            "hooks alone",
            f"N = {_thousands(STEPS)}",
            "a copy (ms)",
            "spread of bare blocks",
        ),
        [
            (
                name,
                1e3 * row["bare_s"],
                row["every"],
                f"{one['measured']:.1%}",
                f"{one['hooks']:.2%} ± {one['error']:.2%}",
                f"{one['long']:.1%}",
                1e3 * row["copy_s"],
                f"{row['spread']:.0%}",
            )
            for name, one, (_, row) in zip(names, overheads, found["tape"], strict=True)
        ],
    )
    large = Table(
        f"Extrapolated to {PARAMETERS / 1e6:g} million parameters and {_thousands(STEPS)} steps with AdamW",
        ("what is stored", "TB"),
        [(title, stored[key] / 1e12) for key, title in STORED.items()],
    )
    return [record, memory, replayed, copies, tapes, large]


def _thousands(value: int) -> str:
    return f"{value:,}".replace(",", " ")


def _mega(value: float | None) -> float | None:
    return None if value is None else value / 1e6


def _ratio(a: float | None, b: float) -> float | None:
    return None if a is None else a / b


def _claims(
    found: dict[str, list[tuple[Case, dict[str, Any]]]],
    stored: dict[str, float],
    overheads: dict[str, dict[str, float]],
) -> list[Claim]:
    memory = [(case, row) for case, row in found["record memory"] if row["extra_bytes"] is not None]
    ratios = [row["extra_bytes"] / row["formula_bytes"] for _, row in memory]
    base = memory[0][0] if memory else None
    same = [
        row["extra_bytes"]
        for case, row in memory
        if base and (case.groups, case.width, case.queries) == _middle(memory)
    ]
    factors = [(case, row["factor"]) for case, row in found["record"]]
    cheapest, dearest = (pick(factors, key=lambda one: one[1]) for pick in (min, max))
    off = [
        abs(
            row["weights_bytes"] / (((row["copies"] - 1) * stored["bytes_per_parameter"] + WORD) * row["parameters"])
            - 1
        )
        for _, row in found["replay"]
    ]
    within = [one["long"] + 2 * one["error"] <= GOAL for one in overheads.values()]
    beyond = [one["long"] - 2 * one["error"] > GOAL for one in overheads.values()]
    return [
        _storage_claim(stored),
        Claim(
            "the files of small runs have the sizes of the formula (the first copy is of weights alone)",
            f"at most {max(off):.1%} off for N = {', '.join(str(case.steps) for case, _ in found['replay'])}; "
            f"{stored['bytes_per_step'] / 1e3:.2f} kB per step beside the copies",
            verdict(one < DIGITS for one in off),
        ),
        Claim(
            f"a tape costs at most {GOAL:.0%} of the training's time",
            "; ".join(
                f"{name}: {one['measured']:.1%} with a copy every {one['every']:.0f} steps, "
                f"{one['long']:.1%} ± {one['error']:.1%} with one every {EVERY}"
                for name, one in overheads.items()
            ),
            "yes" if all(within) else "partly" if any(within) else "no" if all(beyond) else "undecided",
        ),
        Claim(
            "recording holds (2G + 2) P numbers (THEORY §3.2)",
            f"{min(ratios):.1f} to {max(ratios):.1f} times that at the peak{_fitted(memory)}"
            if ratios
            else "not measured",
            "undecided" if not ratios else "yes" if max(ratios) < HELD else "partly" if max(ratios) < NEARLY else "no",
        ),
        Claim(
            "its memory does not grow with the steps",
            f"{', '.join(f'{value / 1e6:.0f} MB' for value in same)} at {len(same)} lengths"
            if same
            else "not measured",
            "undecided" if len(same) < 2 else "yes" if max(same) < GROWN * min(same) else "no",
        ),
        Claim(
            "recording costs about one more backward pass, and the queries' products (THEORY §3.2, in operations)",
            f"the loop takes {cheapest[1]:.1f}× (G = {cheapest[0].groups}, m = {cheapest[0].queries}) to "
            f"{dearest[1]:.1f}× (G = {dearest[0].groups}, m = {dearest[0].queries}) its own time on these small "
            "networks",
            verdict(factor < DEARER for _, factor in factors),
        ),
    ]


def _storage_claim(stored: dict[str, float]) -> Claim:
    """Both stated sizes of the same content: yes; of different contents, or one of them alone: partly."""
    copies = f"{stored['copies']:.0f} copies"
    contents = {
        "weights alone": ("all_weights", "tape_weights"),
        f"with AdamW's state ({stored['bytes_per_parameter']:.1f} bytes per parameter in our files)": (
            "all_states",
            "tape",
        ),
    }
    said, fits = [], []
    for content, keys in contents.items():
        sizes = [stored[key] / 1e12 for key in keys]
        near = [abs(size / stated - 1) <= DIGITS for size, stated in zip(sizes, STATED, strict=True)]
        words = [f"{size:.3g} TB{' (as stated)' if ok else ''}" for size, ok in zip(sizes, near, strict=True)]
        said.append(f"{content}: {words[0]} for all iterates, {words[1]} with {copies}")
        fits.append(near)
    return Claim(
        f"{PARAMETERS / 1e6:g} million parameters over {_thousands(STEPS)} steps: {STATED[0]:g} TB for all iterates, "
        f"{STATED[1]:g} TB with √N copies (THEORY §3.2)",
        "; ".join(said) + "; a replay needs the weights and coefficients of one stretch besides, "
        f"{stored['waiting'] / 1e12:.2g} TB in files for a while",
        "yes" if any(map(all, fits)) else "partly" if any(map(any, fits)) else "no",
    )


def _fitted(memory: list[tuple[Case, dict[str, Any]]]) -> str:
    """The peak as a line over the number of groups."""
    import numpy as np

    _, width, queries = _middle(memory)
    rows = [
        (case.groups, row["extra_bytes"] / WORD / row["parameters"])
        for case, row in memory
        if (case.width, case.queries, case.steps) == (width, queries, memory[0][0].steps)
    ]
    if len({G for G, _ in rows}) < 3:
        return ""
    slope, start = np.polyfit([G for G, _ in rows], [copies for _, copies in rows], 1).tolist()
    return f"; about ({slope:.1f} G + {start:.0f}) P, with {rows[0][0]} to {rows[-1][0]} groups"


def _middle(memory: list[tuple[Case, dict[str, Any]]]) -> tuple[int, int, int]:
    """The shape of which there are several lengths."""
    shapes = [(case.groups, case.width, case.queries) for case, _ in memory]
    return max(shapes, key=shapes.count)
