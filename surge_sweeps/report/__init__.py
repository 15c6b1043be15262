"""The report: a fit becomes the page, its Markdown twin and the tables beside them."""

from surge_sweeps.report.write import safe_name, write_report

__all__ = ["safe_name", "write_report"]
