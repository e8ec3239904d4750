"""`--over` read: where values end, what a combination is called, and everything that is wrong at once."""

from __future__ import annotations

import pytest

from mlx_distill.recipe.grid import LONGEST, Grid, split_values


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("8", ["8"]),
        ("1e-4,2e-4", ["1e-4", "2e-4"]),
        ("[q_proj],[q_proj,v_proj]", ["[q_proj]", "[q_proj,v_proj]"]),
        ("[q_proj, v_proj], all-linear", ["[q_proj, v_proj]", "all-linear"]),
        ("{kind: sqrt, most: 3},none", ["{kind: sqrt, most: 3}", "none"]),
        ("{a: [1, 2], b: 3},{a: []}", ["{a: [1, 2], b: 3}", "{a: []}"]),
        ("'a, b',\"c, d\",e", ["'a, b'", '"c, d"', "e"]),
        ("['a]', \"b, c\"],d", ["['a]', \"b, c\"]", "d"]),
        ("don't,won't", ["don't", "won't"]),
        ("1,,2", ["1", "", "2"]),
        ("", [""]),
    ],
)
def test_values_are_parted_by_commas_outside_of_brackets_and_quotes(text: str, values: list[str]) -> None:
    assert list(split_values(text)) == values


def test_points_are_every_combination_with_a_name_and_what_set_takes() -> None:
    grid, problems = Grid.of(["train.learning_rate=1e-4,2e-4", "lora.targets=[q_proj],[q_proj, v_proj]"])
    assert problems == []
    points = grid.points()
    assert [point.name for point in points] == [
        "learning_rate=0.0001,targets=q_proj",
        "learning_rate=0.0001,targets=q_proj+v_proj",
        "learning_rate=0.0002,targets=q_proj",
        "learning_rate=0.0002,targets=q_proj+v_proj",
    ]
    assert points[1].sets == ("train.learning_rate=1e-4", "lora.targets=[q_proj, v_proj]")
    assert points[1].settings == {"train.learning_rate": 1e-4, "lora.targets": ["q_proj", "v_proj"]}


def test_one_number_in_two_spellings_has_one_name() -> None:
    names = [[point.name for point in Grid.of([f"train.learning_rate={value}"])[0].points()] for value in ("1e-4", "0.0001")]
    assert names[0] == names[1]


def test_keys_of_one_last_part_are_named_whole() -> None:
    (point,) = Grid.of(["train.seed=1", "data.split.seed=2"])[0].points()
    assert point.name == "train.seed=1,data.split.seed=2"


def test_no_value_gives_a_name_that_is_no_folder() -> None:
    points = Grid.of(["task.instructions=/etc/passwd,..\\x,'a: b',none,true"])[0].points()
    assert [point.name for point in points] == [
        "instructions=_etc_passwd",
        "instructions=.._x",
        "instructions=a_b",
        "instructions=none",
        "instructions=true",
    ]


def test_values_that_would_be_one_folder_are_told_apart() -> None:
    points = Grid.of(["task.instructions=How high?,How high!,HOW HIGH."])[0].points()
    assert len({point.name.casefold() for point in points}) == 3
    long = Grid.of([f"task.instructions={'x' * 300},{'x' * 299}"])[0].points()
    assert len({point.name for point in long}) == 2
    assert all(len(point.name) <= LONGEST for point in long)


def test_everything_wrong_is_said_at_once() -> None:
    _, problems = Grid.of(["a=1,,2", "b=1,1.0", "a=3", "lora.rank", "=1", "c=[1,2", "d=1,1"])
    assert [(problem.file, problem.message) for problem in problems] == [
        ("--over a=1,,2", "a value is empty"),
        ("--over a=3", "stands twice"),
        ("--over lora.rank", "is not of the form section.key=value,value"),
        ("--over =1", "is not of the form section.key=value,value"),
        ("--over c=[1,2", "[1,2 is not YAML"),
        ("--over d=1,1", "1 stands 2 times"),
    ]
