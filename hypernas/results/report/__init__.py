"""One search as one HTML file that needs nothing else: no network, no server, no script to be read."""

from hypernas.results.report.report import check_report_path, render_report, write_report

__all__ = ["check_report_path", "render_report", "write_report"]
