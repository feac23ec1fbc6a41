"""Judgements: from facts to findings. Nothing is asked here."""
