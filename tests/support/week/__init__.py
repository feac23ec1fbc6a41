"""A week of a fleet's ordinary life in virtual time: its script, its servers, its workers, and who judges it."""
