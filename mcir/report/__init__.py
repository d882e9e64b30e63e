"""Self-contained HTML pages, figures, and side-by-side images."""
