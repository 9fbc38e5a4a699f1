"""The whole stack as it ships: real commands, a real engine, real SDKs; nothing is faked."""
