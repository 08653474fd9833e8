"""Languages that policies read in what an agent is told to do: shell, SQL, patterns."""
