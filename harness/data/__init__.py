"""Sources -> utterances -> decoded 16 kHz mono -> cached log-mel -> batches."""
