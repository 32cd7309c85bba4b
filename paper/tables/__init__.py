"""One module a table: rows of ``paper/results`` in, rows of the table out; nothing is computed but differences."""
