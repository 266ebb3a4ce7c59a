"""Papers' tables filled with our runs."""

import pytest

from petlbench.config.files import load_suite
from petlbench.errors import TableError
from petlbench.published.numbers import published
from petlbench.records.schema import Record
from petlbench.report.paper_runs import Choice
from petlbench.report.paper_shape import load_table, table_names
from petlbench.report.paper_table import Cell, FilledRow, FilledTable, fill
from tests.report.paper_records import CLIP, RN50, VIT, filled, grid, run


def row(table: FilledTable, label: str, shots: str | None = None) -> FilledRow:
    return next(row for row in table.rows if row.label == label and shots in (None, row.shots))


def cell(table: FilledTable, label: str, column: str, shots: str | None = None) -> Cell:
    return row(table, label, shots).cells[column]


@pytest.mark.parametrize(
    ("table", "panel", "datasets", "averages"),
    [
        ("blackvip", "transfer", 14, ["mean_14"]),
        ("craft", "few_shot", 11, ["mean_11"]),
        ("craft", "shifts", 5, ["mean_4_shifts"]),
        ("pgn", "pgn12", 12, ["mean_12"]),
        ("spt", "fgvc", 5, ["mean_5"]),
        ("vpt", "vtab", 19, ["mean_natural", "mean_specialized", "mean_structured", "mean_of_group_means", "mean_19"]),
    ],
)
def test_a_table_has_the_columns_of_the_paper(table: str, panel: str, datasets: int, averages: list[str]) -> None:
    columns = [column.name for column in filled(table, panel, []).columns]
    assert [name for name in columns if name.startswith("mean")] == averages
    assert len(columns) == datasets + len(averages)


def test_all_tables_load_and_their_rows_have_a_line_in_methods_csv() -> None:
    assert [load_table(name).title for name in table_names()]


def test_an_unknown_table_is_refused() -> None:
    with pytest.raises(TableError, match=r"no table 'craf'\. Did you mean 'craft'\?"):
        load_table("craf")


def test_rows_by_shots_begin_with_what_is_not_trained() -> None:
    lines = [(row.label, row.shots) for row in filled("craft", "few_shot", []).rows]
    assert lines[:3] == [("Zero-shot CLIP", "0"), ("BBT", "1"), ("CraFT", "1")]
    assert len(lines) == 11


def test_a_cell_has_mean_deviation_published_number_and_difference() -> None:
    got = cell(filled("vpt", "fgvc", grid("fgvc", "vpt", 89.0)), "VPT-Deep", "cub200_2011")
    assert got.ours is not None and got.printed is not None and got.difference is not None
    assert (got.ours.mean, got.ours.std, got.ours.repetitions) == (90.0, 1.0, 3)
    assert (str(got.printed.value), got.printed.kind) == ("88.5", "reprint")
    assert got.difference == pytest.approx(1.5)


def test_one_seed_has_no_deviation() -> None:
    ours = cell(filled("vpt", "fgvc", grid("fgvc", "vpt", seeds=(0,))), "VPT-Deep", "nabirds").ours
    assert ours is not None and (ours.std, ours.repetitions) == (None, 1)


def test_an_average_has_the_deviation_of_each_seeds_average() -> None:
    ours = cell(filled("vpt", "fgvc", grid("fgvc", "vpt", 89.0)), "VPT-Deep", "mean_5").ours
    assert ours is not None and (ours.mean, ours.std, ours.repetitions) == (pytest.approx(90.0), pytest.approx(1.0), 3)


def test_an_average_of_uneven_seeds_has_no_deviation() -> None:
    records = [record for record in grid("fgvc", "vpt") if (record.task, record.seed) != ("fgvc/nabirds", 2)]
    ours = cell(filled("vpt", "fgvc", records), "VPT-Deep", "mean_5").ours
    assert ours is not None and (ours.std, ours.repetitions) == (None, 2)


def missing_one() -> list[Record]:
    return [record for record in grid("fgvc", "vpt", 89.0) if record.task != "fgvc/nabirds"] + grid("fgvc", "linear", 70.0)


def test_an_average_is_withheld_while_a_cell_is_missing() -> None:
    table = filled("vpt", "fgvc", missing_one())
    assert cell(table, "VPT-Deep", "mean_5").ours is None
    assert cell(table, "Linear", "mean_5").ours is not None


def test_partial_averages_are_over_the_common_columns_and_the_caption_names_them() -> None:
    table = filled("vpt", "fgvc", missing_one(), is_partial=True)
    got = cell(table, "VPT-Deep", "mean_5")
    assert got.ours is not None and got.printed is not None
    assert (got.ours.mean, str(got.printed.value), got.printed.kind) == (90.0, "90.33", "derived")
    assert "over the 4 columns that all rows with runs have: cub200_2011, oxford_flowers" in table.caption
    assert table.columns[-1].heading == "mean of 4 of 5"


def test_nothing_is_cut_from_a_partial_table_that_is_whole() -> None:
    whole = grid("fgvc", "vpt")
    assert filled("vpt", "fgvc", whole, is_partial=True) == filled("vpt", "fgvc", whole)


def test_seeds_can_be_chosen() -> None:
    ours = cell(filled("vpt", "fgvc", grid("fgvc", "vpt", 89.0), seeds=(0, 1)), "VPT-Deep", "nabirds").ours
    assert ours is not None and (ours.mean, ours.repetitions) == (89.5, 2)


def test_methods_that_the_paper_lacks_follow_its_own() -> None:
    table = filled("vpt", "fgvc", [*grid("fgvc", "vpt"), *grid("fgvc", "lora"), *grid("fgvc", "ssf")])
    assert [(row.label, row.is_in_paper) for row in table.rows[-3:]] == [("VPT-Deep", True), ("lora", False), ("ssf", False)]


def test_a_protocol_that_is_not_the_papers_is_marked_and_named() -> None:
    papers = {"resize": 256, "resize_mode": "short", "interpolation": "bilinear", "normalise": "imagenet", "augment": "crop + flip"}
    as_paper = filled("vpt", "fgvc", grid("fgvc", "vpt", **papers))
    other = filled("vpt", "fgvc", grid("fgvc", "vpt", **papers | {"interpolation": "bicubic"}))
    marks = [cell(table, "VPT-Deep", "nabirds").ours for table in (as_paper, other)]
    assert [ours.is_off_protocol for ours in marks if ours] == [False, True]
    assert "not as in the paper: interpolation bicubic (paper: bilinear)." in other.caption
    assert "not as in the paper" not in as_paper.caption


def test_runs_of_two_protocols_do_not_share_a_column() -> None:
    both = [*grid("fgvc", "vpt"), *grid("fgvc", "linear", augment="none", normalise="half")]
    with pytest.raises(TableError, match="several protocols cannot share a column; choose one with protocol=NAME"):
        filled("vpt", "fgvc", both)


def test_protocols_of_two_names_do_not_share_a_table_even_in_other_columns() -> None:
    records = [run("vpt", "fgvc/nabirds"), run("vpt", "fgvc/stanford_cars", name="noah")]
    with pytest.raises(TableError, match=r"several protocols .*1 runs of fgvc-.*, 1 runs of noah-"):
        filled("vpt", "fgvc", records)


def test_revisions_of_a_dataset_do_not_share_a_column() -> None:
    older = run("linear", "fgvc/nabirds").model_copy(update={"task_revision": "r0", "created": "2025-01-01T00:00:00Z"})
    with pytest.raises(TableError, match=r"several protocols .*\(data r0\)"):
        filled("vpt", "fgvc", [run("vpt", "fgvc/nabirds"), older])


def test_the_papers_protocol_is_the_suites_with_what_its_dataset_and_the_papers_recipe_change() -> None:
    assert [load_table(name).protocol("vtab", "dtd")["interpolation"] for name in ("spt", "vpt")] == ["bicubic", "bilinear_aliased"]
    augment = [load_table("blackvip").protocol("blackvip16", dataset)["augment"] for dataset in ("dtd", "loc_mnist_1_1")]
    assert augment == ["random_resized_crop + flip", "none"]


def test_a_protocol_can_be_chosen_by_name() -> None:
    noah = [record.model_copy(update={"run_id": f"{i:016x}"}) for i, record in enumerate(_renamed(grid("fgvc", "vpt", 50.0), "noah"))]
    ours = cell(filled("vpt", "fgvc", [*grid("fgvc", "vpt", 89.0), *noah], protocol="noah"), "VPT-Deep", "nabirds").ours
    assert ours is not None and ours.mean == 51.0


def _renamed(records: list[Record], name: str) -> list[Record]:
    return [
        record.model_copy(update={"protocol": record.protocol.model_copy(update={"id": f"{name}-1", "settings": {"name": name}})})
        for record in records
    ]


def test_shots_are_rows_and_other_shots_are_left_out() -> None:
    records = [run("craft", "craft15/dtd", 1, 40.0 + shots, RN50, "craft15", shots=shots, split_seed=None) for shots in (1, 3, 16)]
    table = filled("craft", "few_shot", records)
    found = {row.shots: row.cells["dtd"].ours.mean for row in table.rows if row.label == "CraFT" and row.cells["dtd"].ours}
    assert found == {"1": 41.0, "16": 56.0}


def test_zero_shot_stands_once_whatever_its_shots() -> None:
    records = [run("zero_shot", "craft15/dtd", 1, 42.0, RN50, "craft15", shots=shots) for shots in (1, 16)]
    table = filled("craft", "few_shot", records)
    ours = cell(table, "Zero-shot CLIP", "dtd").ours
    assert ours is not None and (ours.mean, ours.repetitions) == (42.0, 1)
    assert not [row for row in table.rows if not row.is_in_paper]


def test_epochs_chosen_on_the_test_set_are_compared_with_nothing() -> None:
    table = filled("vpt", "fgvc", grid("fgvc", "vpt", selection="oracle_test"))
    assert all(cell.difference is None for row in table.rows for cell in row.cells.values())
    assert row(table, "vpt (oracle)").is_in_paper is False
    assert "the epoch was chosen on the test set" in table.caption


@pytest.mark.parametrize("selection", ["last", "oracle_test"])
def test_epochs_chosen_on_the_test_set_are_marked_even_under_the_papers_protocol(selection: str) -> None:
    papers = load_table("blackvip").protocol("blackvip16", "dtd")
    records = [run("blackvip", "blackvip16/dtd", 1, 45.0, CLIP, "blackvip16", shots=16, selection=selection, **papers)]
    (ours,) = (row.cells["dtd"].ours for row in filled("blackvip", "transfer", records).rows if row.cells["dtd"].ours)
    assert ours.is_off_protocol == (selection == "oracle_test")


def test_other_backbones_are_compared_with_nothing() -> None:
    table = filled("vpt", "fgvc", grid("fgvc", "vpt", backbone="mini_clip"), backbone="mini_clip")
    got = cell(table, "VPT-Deep", "nabirds")
    assert got.ours is not None and got.ours.is_off_protocol and got.printed is not None and got.difference is None


def test_a_backbone_of_the_paper_brings_its_own_numbers() -> None:
    got = cell(
        filled("craft", "shifts", [run("craft", "craft15/imagenet", 1, 68.0, CLIP, "craft15", shots=16)], backbone=CLIP),
        "CraFT",
        "imagenet",
    )
    assert str(got.printed and got.printed.value) == next(
        str(number.value)
        for number in published()
        if (number.paper, number.method, number.backbone, number.dataset) == ("CraFT", "CraFT", "CLIP ViT-B/16", "imagenet")
        and number.table == "robustness to distribution shift"
    )


def test_what_is_not_there_is_named_when_it_is_asked_for() -> None:
    with pytest.raises(TableError, match=f"no run of backbone resnet; there are {VIT} under fgvc-"):
        fill(load_table("vpt"), grid("fgvc", "vpt"), published(), Choice(backbone="resnet"))


def test_seeds_that_nobody_ran_are_named_with_those_that_were() -> None:
    with pytest.raises(TableError, match=r"no run of seeds 7,8; there are .* \(seeds 0,1,2\)"):
        fill(load_table("vpt"), grid("fgvc", "vpt"), published(), Choice(seeds=(7, 8)))


def test_the_caption_says_what_differs_in_a_published_row_beside_ours() -> None:
    assert "Of the published rows: SPT-LoRA: budget chosen per task." in filled("spt", "fgvc", grid("fgvc", "spt")).caption
    assert "budget" not in filled("spt", "fgvc", grid("fgvc", "full")).caption


def test_two_weights_of_one_backbone_do_not_share_a_table() -> None:
    other = [r.model_copy(update={"run_id": f"{i:016x}"}) for i, r in enumerate(grid("fgvc", "linear", weights="bad0cafe" * 8))]
    with pytest.raises(TableError, match="other weights of one backbone"):
        filled("vpt", "fgvc", [*grid("fgvc", "vpt"), *other])


def test_numbers_of_third_parties_are_not_shown() -> None:
    tables = [table for name in table_names() for table in fill(load_table(name), [], published(), Choice()).values()]
    shown = {cell.printed.kind for table in tables for row in table.rows for cell in row.cells.values() if cell.printed}
    assert shown == {"primary", "reprint", "derived"}


def test_the_caption_says_where_numbers_come_from() -> None:
    caption = filled("vpt", "fgvc", grid("fgvc", "vpt")).caption
    for part in (
        "Protocol fgvc-",
        f"backbone {VIT}",
        "selection last",
        "petlbench 0.1.0 (0123456)",
        "VPT on ViT-B/16 (supervised IN-21k)",
        "r: reprint",
    ):
        assert part in caption


def test_tasks_of_the_suites_are_the_columns() -> None:
    for name in table_names():
        for panel in load_table(name).panels.values():
            assert {f"{panel.suite}/{dataset}" for dataset in panel.datasets} <= set(load_suite(panel.suite).tasks)
