"""What the commands do that need no proxy: each module has one. They return exit codes."""
