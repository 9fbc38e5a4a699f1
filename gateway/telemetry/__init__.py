"""What operators see: metrics and logs, without content and without names."""
