"""Errors, argument checks and the optional-dependency gate. No mathematics lives here."""
