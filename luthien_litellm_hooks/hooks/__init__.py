"""LiteLLM's edge: what LiteLLM calls, and what it must be given. No policy logic."""
