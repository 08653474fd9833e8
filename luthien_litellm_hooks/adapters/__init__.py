"""Wire formats, one adapter each; all that is known of a format is known here."""
