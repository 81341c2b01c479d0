"""Tables as text."""

from puretransforms.reporting.tables import aligned, markdown


def test_columns_are_aligned_and_lines_end_without_spaces():
    assert aligned([("a", "bb", "c"), ("ddd", "e", "")]) == "a   bb c\nddd e"
    assert aligned([("a", "b")], widths=(3,)) == "a   b" and aligned([]) == ""


def test_markdown():
    assert markdown(["a", "b"], [["1", "2"]]) == "| a | b |\n|---|---|\n| 1 | 2 |"
