"""Work side by side: calls in isolated processes, on the workers of a Dask cluster or on this machine."""
