"""The source of the dashboards beside this folder: `make docs` writes them."""
