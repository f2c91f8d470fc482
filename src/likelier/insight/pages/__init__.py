"""Pages of HTML: templates, charts as SVG, heat maps."""
