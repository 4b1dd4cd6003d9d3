"""Rate limits and quotas as an HTTP check service."""
