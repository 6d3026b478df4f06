"""How good a family is: held-out cases through the library's own pipeline, and honest statistics on the result."""
