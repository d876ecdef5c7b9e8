"""Many hauls, at once and in a row, and what they leave behind."""
