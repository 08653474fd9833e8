"""`luthien-hooks show`, `list` and `diff`: what LiteLLM's spend logs keep of a transaction, for people to read."""
