"""Quality of a cohort's slides: tissue, focus, ink, resolution, and who they come from, on one page and in one file."""
