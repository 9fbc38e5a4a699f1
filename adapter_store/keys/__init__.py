"""Where keys live: the provider that wraps and unwraps data keys, and the files behind it."""
