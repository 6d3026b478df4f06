"""The page that shows what was measured; every figure on it is computed from the results."""
