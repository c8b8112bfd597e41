from benchmarks.profile import REST, group_of, table


def test_operations_are_put_into_groups_by_name():
    assert group_of("aten::addmm") == "matrix products"
    assert group_of("aten::add") == "sums and products of elements"
    assert group_of("AddmmBackward0") == REST


def test_the_table_sums_each_group_and_gives_shares():
    lines = table([("aten::mm", 2.0), ("aten::bmm", 1.0), ("aten::gelu", 0.5), ("other", 0.5)])
    assert lines[2:] == [
        "| matrix products | 3.000 | 75.0% |",
        "| GELU | 0.500 | 12.5% |",
        "| everything else | 0.500 | 12.5% |",
    ]
