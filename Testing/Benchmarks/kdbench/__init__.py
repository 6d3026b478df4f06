"""The benchmark behind ``make bench``: what is measured, how, and the page that shows it."""
