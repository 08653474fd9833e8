"""`luthien-hooks doctor`: asks a running proxy, route by route, whether a policy governs its answers."""
