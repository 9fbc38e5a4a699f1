"""TSSP, the TenSafe Secure Package: one file with a signed manifest and an encrypted adapter."""
