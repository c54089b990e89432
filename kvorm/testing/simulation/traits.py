"""What is special about the bucket of one history, and about those who use it."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True)
class Traits:
    """What one history has beside its calls and faults; by default nothing.

    Attributes:
        lifetime: seconds until an entry expires; None: it lives until it is deleted.
        made_anew: seconds that the bucket is gone when an administrator deletes it and makes it again; None: it stays.
        nearest: whether any replica answers single reads.
        loads: whether clients load objects, too.
        batches: whether the bucket takes batches.
    """

    lifetime: float | None = None
    made_anew: float | None = None
    nearest: bool = False
    loads: bool = False
    batches: bool = True

    @classmethod
    def drawn(cls, seed: int) -> Traits:
        """Return those of a seed; what else the seed decides does not depend on them."""
        random = Random(f"traits {seed}")
        return cls(
            lifetime=random.choice([None, None, None, 0.2, 1.0, 3.0]),
            made_anew=random.choice([None, None, None, None, 0.0, 0.3]),
            nearest=random.random() < 0.25,
            loads=random.random() < 0.25,
            batches=random.random() < 0.75,
        )
