"""Programs that made what harness/demo ships; nothing here is needed at run time."""
