"""For tests and demos: a scripted provider that needs no key and no network."""
