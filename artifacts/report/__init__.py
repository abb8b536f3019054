"""Reports: tables, figures, checks, comparisons, model cards and the page."""
