"""Settings, the policies named in them, and the check of a whole LiteLLM config."""
