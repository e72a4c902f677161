"""The paper's figures and tables from tracked runs, as one HTML page."""
