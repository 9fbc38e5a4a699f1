"""Tenants, their API keys and publisher keys, and who a caller is."""
