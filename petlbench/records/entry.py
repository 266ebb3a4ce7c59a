"""What a plan needs of a record."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from petlbench.records.schema import RESULTS, Predictions, Status


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, from_attributes=True)


class _Method(_Part):
    name: str


class _Backbone(_Part):
    name: str
    sha256: str


class _Cost(_Part):
    total_seconds: float


class Entry(_Part):
    """A record without most of its fields: those that are here have the names and values that they have in the record."""

    run_id: str
    status: Status
    created: str
    task: str
    task_revision: str
    seed: int
    method: _Method
    backbone: _Backbone
    cost: _Cost
    predictions: Predictions | None
    token_usage: str | None
    checkpoint: str | None

    @property
    def has_result(self) -> bool:
        """True if it counts in tables."""
        return self.status in RESULTS
