"""Records: accepted values, and one error line for each other value."""

from collections.abc import Mapping
from math import inf, nan
from pathlib import Path
from typing import Annotated, Literal, Self

import pytest
from pydantic import Field, StrictBool, StrictInt, StrictStr, model_validator
from pydantic.dataclasses import dataclass

from vbp_lightning.records import RECORD, Count, Number, Positive, made


@dataclass(frozen=True, config=RECORD)
class Inner:
    depth: Count = 0
    share: Annotated[Number, Field(ge=0, lt=1)] = 0.5


@dataclass(frozen=True, config=RECORD)
class Outer:
    count: StrictInt
    bands: tuple[StrictInt | StrictStr, ...] | StrictInt | StrictStr | None = None
    folder: Path | None = None
    widths: Mapping[StrictStr | StrictInt, Positive] | None = None
    mode: Literal["scene", "block"] = "scene"
    inner: Inner | Literal[False] | None = Inner()
    ends: tuple[Number, ...] | None = None
    switch: StrictBool = True
    scale: Number = 1

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.mode == "block" and self.count == 0:
            raise ValueError("count=0: must be above 0 with outer.mode=block\nmode=block: or this")
        return self


def lines_of(**values: object) -> list[str]:
    return made(Outer, "outer", values)[1]


def test_numbers_text_lists_and_mappings_become_a_record():
    record, lines = made(
        Outer,
        "outer",
        {
            "count": 1,
            "bands": [1, "red"],
            "folder": "x/y",
            "widths": {"a": 1, 2: 0.5},
            "inner": {"depth": 3},
            "ends": [2, 98],
        },
    )
    assert not lines
    assert record == Outer(
        1, (1, "red"), Path("x/y"), {"a": 1.0, 2: 0.5}, "scene", Inner(3), (2.0, 98.0)
    )


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({}, "outer.count: is not set; add outer.count=… to the command"),
        ({"count": "1"}, "outer.count=1: must be a whole number"),
        ({"count": True}, "outer.count=true: must be a whole number"),
        ({"count": 1.0}, "outer.count=1.0: must be a whole number"),
        (
            {"count": 1, "bands": [1.5, "a"]},
            "outer.bands=[1.5, 'a']: must be a list in square brackets or a whole number or text "
            "or null",
        ),
        ({"count": 1, "folder": 5}, "outer.folder=5: must be a path or null"),
        (
            {"count": 1, "widths": 3},
            "outer.widths=3: must be a mapping, as {name: value} or null",
        ),
        ({"count": 1, "widths": {2: 0}}, "outer.widths.2=0: must be above 0"),
        ({"count": 1, "mode": "town"}, "outer.mode=town: must be scene or block"),
        (
            {"count": 1, "inner": 5},
            "outer.inner=5: must be false or null or given part by part, as outer.inner.depth=…",
        ),
        ({"count": 1, "inner": {"depth": -1}}, "outer.inner.depth=-1: must be at least 0"),
        ({"count": 1, "inner": {"share": 1}}, "outer.inner.share=1: must be below 1"),
        (
            {"count": 1, "inner": {"deep": 1}},
            "outer.inner.deep: is no setting; choose among depth, share",
        ),
        ({"count": 1, "ends": 5}, "outer.ends=5: must be a list in square brackets or null"),
        ({"count": 1, "switch": 1}, "outer.switch=1: must be true or false"),
        ({"count": 1, "scale": nan}, "outer.scale=nan: must be a finite number"),
        ({"count": 1, "scale": inf}, "outer.scale=inf: must be a finite number"),
    ],
)
def test_a_wrong_value_is_one_line(values, line):
    assert lines_of(**values) == [line]


def test_all_errors_come_together_in_the_order_of_the_settings():
    lines = lines_of(count="a", inner={"depth": "far", "share": 2}, switch=None, colour="red")
    assert [line.split("=")[0].split(":")[0] for line in lines] == [
        "outer.count",
        "outer.inner.depth",
        "outer.inner.share",
        "outer.switch",
        "outer.colour",
    ]


def test_rules_over_several_settings_give_a_line_each():
    assert lines_of(count=0, mode="block") == [
        "outer.count=0: must be above 0 with outer.mode=block",
        "outer.mode=block: or this",
    ]
