"""What a rule is, and who asks them: rules are functions of a trace, so that logs of old runs can be judged as well."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, runtime_checkable

from genkernel.errors import InputError
from genkernel.monitor.trace import Alert, Trace

EVERYWHERE = ""
TOLD = 0.8  # share of its places that were told, from which a finding is no news: the edge of a range may waver
QUIET = 3  # readings without it, after which the same finding is news again


@runtime_checkable
class Rule(Protocol):
    """Looks at a trace up to its last reading.

    Attributes:
        name: ``"loss/spike"``, …; alerts carry it.
    """

    @property
    def name(self) -> str: ...

    def check(self, trace: Trace) -> list[Alert]:
        """What the last reading shows, in the light of those before it; the same for the same trace."""
        ...


class Judge:
    """Asks rules after every reading, and passes on what is new.

    A finding is not repeated while its rule keeps finding it at the same places, or everywhere (findings without
    places), up to :data:`QUIET` readings apart; with more than a fifth of new places it is news.

    Args:
        failed: is told of a rule that raises; the others are asked all the same. None lets the exception pass.

    Raises:
        InputError: something else than rules, or two of one name.
    """

    def __init__(self, rules: Iterable[Rule], failed: Callable[[Rule, Exception], None] | None = None):
        self.rules = list(rules)
        self._failed = failed
        for rule in self.rules:
            if not isinstance(rule, Rule):
                raise InputError(f"a rule has a name and a check(trace), which {type(rule).__name__} has not")
        names = [rule.name for rule in self.rules]
        if twice := [name for name in names if names.count(name) > 1]:
            raise InputError(f"two rules are called {twice[0]!r}: give each its own name")
        self.forget()

    def judge(self, trace: Trace) -> list[Alert]:
        """New alerts of the last reading."""
        reading = len(trace)
        news = []
        for rule in self.rules:
            for alert in self._asked(rule, trace):
                places = alert.where or [EVERYWHERE]
                known = self._known.setdefault(rule.name, {})
                told = {place for place in (*places, EVERYWHERE) if reading - known.get(place, -QUIET - 1) <= QUIET}
                if EVERYWHERE not in told and len(told) < TOLD * len(places):
                    news.append(alert)
                known.update(dict.fromkeys(places, reading))
        return news

    def _asked(self, rule: Rule, trace: Trace) -> list[Alert]:
        try:
            return rule.check(trace)
        except Exception as error:  # a rule of the user's own may fail
            if self._failed is None:
                raise
            self._failed(rule, error)
            return []

    def forget(self) -> None:
        """Everything is news again."""
        self._known: dict[str, dict[str, int]] = {}


def replay(trace: Trace, rules: Iterable[Rule]) -> list[Alert]:
    """The alerts that rules raise over a trace, reading by reading, as they would have while it trained."""
    judge = Judge(rules)
    return [alert for count in range(1, len(trace) + 1) for alert in judge.judge(trace.up_to(count))]
