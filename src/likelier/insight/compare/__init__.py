"""What is compared, by which figures, with which cautions, and how it is shown: at the terminal, as JSON, as a page."""
