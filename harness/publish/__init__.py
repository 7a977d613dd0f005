"""The winner of a study in the forms that others load, each decoded again before it is called done."""

FORMS = ("adapter", "merged", "openai", "ctranslate2")
