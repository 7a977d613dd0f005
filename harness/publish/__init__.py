"""Export the best run in the formats of other programs, and decode a sample with each of them to check it.

Each format has a writer (`forms`, `openai`) and a decoder (`decoders`); model cards and uploads are here too. Choosing
what is best does not belong here, nor training.
"""

FORMS = ("adapter", "merged", "openai", "ctranslate2")
