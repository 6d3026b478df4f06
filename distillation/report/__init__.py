"""The report of a recipe in the form of the paper: tables, figures and provenance, as HTML and Markdown."""
