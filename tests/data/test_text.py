from isthmus.data.text import caption_identity, normalise


def test_white_space_is_collapsed_and_case_kept():
    assert normalise("  A\tRed\n\n boat\u2028at\u00a0sea \x85") == "A Red boat at sea"
    assert normalise(" \n\t") == ""


def test_identity_ignores_case_and_white_space_only():
    assert caption_identity(" A  red Boat\n") == caption_identity("a red boat")
    assert caption_identity("a red boat") != caption_identity("a red boat.")
    assert -(2**63) <= caption_identity("a") < 2**63
