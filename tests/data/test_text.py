from isthmus.data.text import normalise


def test_white_space_is_collapsed_and_case_kept():
    assert normalise("  A\tRed\n\n boat\u2028at\u00a0sea \x85") == "A Red boat at sea"
    assert normalise(" \n\t") == ""
