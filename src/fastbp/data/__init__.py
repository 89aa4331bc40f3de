"""Data that ship with fastbp; `fastbp.demo.load_digits` reads them. See README.md here for their source and licence."""
