"""Figures, the HTML report, captions and the reproducibility checklist."""
