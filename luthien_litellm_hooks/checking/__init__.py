"""What is wrong with a LiteLLM config, as far as the plugin goes: each finding with its key and its line."""
