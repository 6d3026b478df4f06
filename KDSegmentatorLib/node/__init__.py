"""The inference node: scans come in, are segmented by rule, and go out, each once, whatever is killed in between."""
