"""Finding the first op call of a model run whose output differs, and why."""
