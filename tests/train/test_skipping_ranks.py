"""What is not finite on one rank is left out by all, told with the rows of all, and ends the run on all."""

import json

import torch
from torch import multiprocessing

import skipping_ranks
import trained_ranks


def test_all_ranks_skip_together(tmp_path):
    multiprocessing.spawn(skipping_ranks.check, (str(tmp_path),), nprocs=skipping_ranks.WORLD)
    one, two = (torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2))
    for name, parameter in one["parameters"].items():
        assert torch.isfinite(parameter).all() and torch.equal(parameter, two["parameters"][name]), name
    assert one["ended"] == two["ended"] and "the last 3 steps up to step 8 were skipped" in one["ended"]
    assert one["saved"] == two["saved"] == [], "nothing is written over what was good"
    lines = [json.loads(line) for line in (tmp_path / "log0.jsonl").read_text().splitlines()]
    skipped = [line for line in lines if "skipped_rows" in line]
    assert [line["step"] for line in skipped] == [3, 6, 7, 8]
    whole = trained_ranks.whole(trained_ranks.Case(), skipping_ranks.WORLD, 2, 0)
    assert skipped[0]["skipped_rows"] == whole.index.tolist(), "those of both ranks"
    assert [line["itc"] == line["itc"] for line in lines if "itc" in line] == [
        step not in (3, 6, 7, 8) for step in range(1, 9)
    ]
