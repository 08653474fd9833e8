"""Stored transactions for people: found, opened and compared, for the command and for the pages."""
