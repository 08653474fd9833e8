"""Wire-neutral model of a response: chunks, events, blocks."""
