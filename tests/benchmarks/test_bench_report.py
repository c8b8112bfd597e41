"""What is made of results: ratios over clean pairs, tables between marks."""

import pytest

from benchmarks.pair import summary
from benchmarks.report import filled, table
from benchmarks.rows.contrastive import ROW as CONTRASTIVE
from benchmarks.rows.stage1 import ROW

MACHINE = {"processor": "A B", "bf16": "amx", "cores": 2}


def pair(ours, peer, *, clean=True):
    return {"ours": {"seconds": ours}, "peer": {"seconds": peer}, "probe_gflops": 100.0, "clean": clean}


def test_ratios_are_taken_within_a_pair_and_unclean_pairs_left_out():
    found = summary([pair(1.0, 4.0), pair(2.0, 6.0), pair(1.0, 5.0), pair(9.0, 9.0, clean=False)])
    assert found["times_as_fast"] == {"median": 4.0, "min": 3.0, "max": 5.0}
    assert (found["clean"], found["counted"]) == (3, 3)


def test_where_no_pair_was_clean_all_count_and_it_is_said():
    found = summary([pair(1.0, 2.0, clean=False), pair(1.0, 4.0, clean=False)])
    assert found["times_as_fast"]["median"] == 3.0
    assert (found["clean"], found["counted"]) == (0, 2)


def test_one_side_alone_has_no_ratio():
    found = summary([{"ours": {"seconds": 1.0}, "probe_gflops": 1.0, "clean": True}])
    assert "times_as_fast" not in found


def test_a_case_that_was_run_nowhere_says_so():
    memory = {side: {"total": 2**31, "above": 2**30} for side in ("ours", "peer")}
    pairs = [pair(1.0, 4.0)]
    measured = {"threads": 2, "pairs": pairs, "memory": memory, "commit": "c", "date": "d", **summary(pairs)}
    entry = {"case": ROW.cases[0], **measured, "mfu": {"ours": 0.3, "peer": 0.1}, "differences_at_start": {"itc": 1e-7}}
    lines = table(ROW, [{"machine": MACHINE, "cases": [entry]}]).splitlines()
    assert "**4.00** (4.00 to 4.00)" in lines[2] and "30% / 10%" in lines[2] and "1e-07" in lines[2]
    assert all("not run" in line for line in lines[3:]) and len(lines) == 2 + len(ROW.cases)
    assert {line.count("|") for line in lines} == {lines[0].count("|")}


def test_a_row_may_have_columns_of_its_own():
    pairs = [pair(1.0, 4.0)]
    measured = {"threads": 2, "pairs": pairs, "commit": "c", "date": "d", **summary(pairs)}
    entry = {"case": CONTRASTIVE.cases[0], **measured, "ms_a_pair": {"ours": 15.625, "peer": 12.0}}
    lines = table(CONTRASTIVE, [{"machine": MACHINE, "cases": [entry]}]).splitlines()
    assert "ms a pair, two passes / one" in lines[0] and "15.6 / 12" in lines[2]
    assert {line.count("|") for line in lines} == {lines[0].count("|")}


def test_only_what_stands_between_the_marks_changes():
    text = "a\n<!-- x: begin (made by `make bench-report`) -->\nold\n<!-- x: end -->\nb"
    assert filled(text, "x", r"new \1").split("\n\n")[1] == r"new \1"
    assert filled(text, "x", "new").startswith("a\n") and filled(text, "x", "new").endswith("\nb")
    with pytest.raises(ValueError, match="no marks for y"):
        filled(text, "y", "new")
