"""What the embedding cache of this process did, in inputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from cachepolicy_runtime.caching import Tally

#: Callers name models: those beyond are counted together.
MAX_NAMES = 64
OTHER = "other"
UNNAMED = "unnamed"


@dataclass(slots=True)
class EmbeddingCounts:
    """Everything since this process started. Words are short reasons, never anything of an input.

    Attributes:
        renewed: entries whose time to live began anew because they were used.
        not_stored: vectors that were returned and not kept, by reason.
        would_lookups, would_hits: lookups in mode Shadow, and those of them that Enforce would have served.
    """

    models: dict[str, dict[str, Tally]] = field(default_factory=dict)
    stored: int = 0
    renewed: int = 0
    bypassed: Counter[str] = field(default_factory=Counter)
    not_stored: Counter[str] = field(default_factory=Counter)
    store_failures: int = 0
    would_lookups: int = 0
    would_hits: int = 0

    def of(self, provider: str | None, model: str) -> Tally:
        """The tally of one model; bounded, the rest is counted together."""
        models = self.models.setdefault(_bounded(provider or UNNAMED, self.models), {})
        return models.setdefault(_bounded(model, models), Tally())

    def as_dict(self) -> dict[str, object]:
        """Plain values, as ``/cache/stats`` shows them. A ratio is None before the first lookup."""
        return {
            **_total(tally for models in self.models.values() for tally in models.values()).as_dict(),
            "stored": self.stored,
            "renewed": self.renewed,
            "bypassed": dict(self.bypassed),
            "notStored": dict(self.not_stored),
            "storeFailures": self.store_failures,
            "wouldHits": self.would_hits,
            "wouldRatio": round(self.would_hits / self.would_lookups, 4) if self.would_lookups else None,
            "providers": {
                provider: {
                    **_total(models.values()).as_dict(),
                    "models": {name: tally.as_dict() for name, tally in sorted(models.items())},
                }
                for provider, models in sorted(self.models.items())
            },
        }


def _bounded(name: str, known: Collection[str]) -> str:
    return name if name in known or len(known) < MAX_NAMES else OTHER


def _total(tallies: Iterable[Tally]) -> Tally:
    items = list(tallies)
    return Tally(sum(tally.hits for tally in items), sum(tally.misses for tally in items))
