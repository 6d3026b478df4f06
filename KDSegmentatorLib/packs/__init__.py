"""Student packs: what they say about themselves, how they are packed, checked, and where they live."""
