"""Tables for people and for MLflow keep their types whatever is missing."""

from __future__ import annotations

import pytest
from tracking_records import make_candidates

from hypernas.tracking.tables import candidate_table, short


@pytest.mark.parametrize("n", [0, 1])
def test_table_has_the_same_types_whatever_is_missing(n: int) -> None:
    candidates = make_candidates(40, 6)[0]
    full, few = candidate_table(candidates), candidate_table(candidates[:n])
    assert list(few.columns) == list(full.columns)
    assert few.dtypes.tolist() == full.dtypes.tolist()


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0"), (950, "950"), (17_610, "17.6 k"), (3_310_000, "3.31 M"), (1_200_000_000, "1.20 G")]
)
def test_short_counts(count: int, text: str) -> None:
    assert short(count) == text
