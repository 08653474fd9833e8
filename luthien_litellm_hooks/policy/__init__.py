"""What authors of policies write against; all of it is also in the package's root."""
