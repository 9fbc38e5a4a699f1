"""The life of a tenant's adapters, from upload to shredding."""
