"""The page of settings says what the types say."""

from tools.configuration_table import TARGET, table


def test_the_page_is_what_the_types_give():
    assert TARGET.read_text(encoding="utf-8") == table(), "run python -m tools.configuration_table"
