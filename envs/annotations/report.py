"""What is wrong with annotations: one error per bad record, and a count of them by reason."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from envs.scene import WorldError


class BadRecord(WorldError):
    """A record that cannot be used; ``reason`` is the kind of fault in a few words, for the counts."""

    def __init__(self, file: Path, record: str, name: str, problem: str, *, reason: str, fix: str):
        """Args: the annotation ``file``, ``record`` ("annotation 7"), the field's ``name``, the rest in words."""
        shown = f'"{name}" ' if name else ""
        super().__init__(f"{file}: {record}: {shown}{problem}; {fix}")
        self.reason = reason


@dataclass(kw_only=True)
class Report:
    """How many records were used, and why others were not.

    Counts are those of the current pass, or of the last one if it is over, and of the files that were parsed before.
    ``str(report)`` is one line, such as
    ``"120 records used; 3 skipped (2 unknown image, 1 empty text); 4 left out (4 crowd)"``.
    """

    skip_bad: bool = False
    """False: the first bad record raises its error. True: bad records are counted and passed over."""
    used: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    """Bad records by reason."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Records that are right but of no use here, by reason."""
    _parsed: tuple[Counter[str], Counter[str]] | None = field(default=None, repr=False)

    def begin_pass(self) -> None:
        """Forget the last pass, but not what was counted before the first one."""
        if self._parsed is None:
            self._parsed = self.skipped, self.left_out
        self.used = 0
        self.skipped, self.left_out = (counts.copy() for counts in self._parsed)

    def note(self, error: BadRecord, records: int = 1) -> None:
        """Count a fault that costs so many ``records``, or raise it."""
        if not self.skip_bad:
            raise error
        self.skipped[error.reason] += records

    def leave_out(self, reason: str, records: int = 1) -> None:
        """Count ``records`` that are left out."""
        if records:
            self.left_out[reason] += records

    def __str__(self) -> str:
        """One line."""
        parts = [f"{self.used} record{'s' * (self.used != 1)} used"]
        for name, counts in (("skipped", self.skipped), ("left out", self.left_out)):
            if counts:
                reasons = ", ".join(
                    f"{n} {reason}" for reason, n in sorted(counts.items(), key=lambda c: (-c[1], c[0]))
                )
                parts.append(f"{counts.total()} {name} ({reasons})")
        return "; ".join(parts)
