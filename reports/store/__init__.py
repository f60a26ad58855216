"""The report of a sweep's store: tables, figures, and one page that shows them."""
