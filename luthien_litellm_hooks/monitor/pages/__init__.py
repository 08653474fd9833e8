"""Pages of the monitor, one file each: its routes, and the view that both its template and its JSON show."""
